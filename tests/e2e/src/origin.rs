//! A host outside of a team's pods that its agents want to use: TLS by an authority of its own on the node, behind a
//! Service, so that pods find it by name as they find any other.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use berth_gallery::origin::{Authority, Origin, echo};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{Cluster, Team};

/// The host; it answers every request with the request itself, the worst that an allowed host may do.
pub struct Outside {
    /// Its name, as agents write it.
    pub host: String,
    /// What it got.
    pub origin: Origin,
    _exposed: JoinSet<()>,
}

impl Outside {
    /// Makes the host known in the team's namespace, and its certificate's authority to a pool that names ConfigMap
    /// `upstream-ca`.
    pub async fn create(team: &Team) -> Result<Self> {
        let authority = Authority::new()?;
        trust(team, &authority).await?;
        let host = name(team, "outside");
        let origin = Origin::http1(&authority, &[&host], echo()).await?;
        Self::of(team, "outside", origin).await
    }

    /// Makes another host known by its short name.
    pub async fn of(team: &Team, short: &str, origin: Origin) -> Result<Self> {
        Ok(Self {
            host: name(team, short),
            _exposed: expose(team, short, origin.address).await?,
            origin,
        })
    }
}

/// The whole name of a host outside.
pub fn name(team: &Team, short: &str) -> String {
    format!("{short}.{}.svc.cluster.local", team.namespace)
}

/// The cluster's own authority, which the controller trusts with token endpoints and the tests' gateway.
pub fn clusters_own(cluster: &Cluster) -> Result<Authority> {
    let pki = cluster.folder.join("pki");
    Authority::of(
        "berth-cluster",
        std::fs::read_to_string(pki.join("ca.crt"))?,
        &std::fs::read_to_string(pki.join("ca.key"))?,
    )
}

/// Makes an authority known to pools that name ConfigMap `upstream-ca`.
pub async fn trust(team: &Team, authority: &Authority) -> Result<()> {
    let ca = json!({ "metadata": { "name": "upstream-ca" }, "data": { "ca.crt": authority.pem } });
    team.create_typed::<ConfigMap>(&ca).await
}

/// Makes what listens on loopback a Service of the team's, port 443, for as long as the answer lives. A Service of an
/// earlier run stays, and leads here from now on.
pub async fn expose(team: &Team, short: &str, to: SocketAddr) -> Result<JoinSet<()>> {
    let (relay, address) = relay(team, to).await?;
    let ports = json!([{ "name": "https", "port": 443, "targetPort": address.port() }]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": short }, "spec": { "ports": ports },
    });
    let apply = PatchParams::apply("e2e").force();
    let services = team.api::<Service>();
    services.patch(short, &apply, &Patch::Apply(&service)).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": short, "labels": { "kubernetes.io/service-name": short } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address.ip().to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": address.port(), "protocol": "TCP" }],
    });
    let slices = team.api::<EndpointSlice>();
    slices.patch(short, &apply, &Patch::Apply(&slice)).await?;
    Ok(relay)
}

/// From the node's address that pods reach, which is the forge's, to loopback.
async fn relay(team: &Team, to: SocketAddr) -> Result<(JoinSet<()>, SocketAddr)> {
    let forge = team
        .cluster
        .forge
        .split("://")
        .nth(1)
        .and_then(|rest| rest.split(':').next());
    let listener = TcpListener::bind((forge.context("the forge's URL has no host")?, 0)).await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut running = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            running.spawn(async move {
                if let Ok(mut to) = TcpStream::connect(to).await {
                    // Either side may break off at any time.
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                }
            });
        }
    });
    Ok((tasks, address))
}

impl Team {
    /// Makes a Secret with key `token`, offered to `hosts`, and lets `berth-credentials` read it by its name alone.
    pub async fn offer(&self, name: &str, token: &str, hosts: &str) -> Result<()> {
        self.offer_as(name, hosts, json!({ "stringData": { "token": token } }))
            .await
    }

    /// The same for a Secret with this type and data.
    pub async fn offer_as(&self, name: &str, hosts: &str, mut secret: serde_json::Value) -> Result<()> {
        secret["metadata"] = json!({
            "name": name, "labels": { "berth.dev/credential": "true" }, "annotations": { "berth.dev/hosts": hosts },
        });
        self.create_typed::<Secret>(&secret).await?;
        let account = json!({ "metadata": { "name": "berth-credentials" } });
        match self.create_typed::<ServiceAccount>(&account).await {
            Err(error) if !is_conflict(&error) => return Err(error), // else an earlier Secret's
            _ => {}
        }
        let rules = json!([{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "list", "watch"] }]);
        self.create_typed::<Role>(&json!({ "metadata": { "name": format!("offer-{name}") }, "rules": rules }))
            .await?;
        let subject = json!({ "kind": "ServiceAccount", "name": "berth-credentials", "namespace": self.namespace });
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": format!("offer-{name}") });
        let binding =
            json!({ "metadata": { "name": format!("offer-{name}") }, "roleRef": role, "subjects": [subject] });
        self.create_typed::<RoleBinding>(&binding).await
    }

    /// Makes an object of a kind of Kubernetes' own.
    pub async fn create_typed<K>(&self, object: &serde_json::Value) -> Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(object.clone())?;
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .map(drop)?;
        Ok(())
    }

    /// Makes a GrantPolicy of the namespace's name that speaks of it alone.
    pub async fn policy(&self, spec: serde_json::Value) -> Result<()> {
        let mut spec = spec;
        if let Some(fields) = spec.as_object_mut() {
            fields.insert("match".to_owned(), json!({ "namespaces": [self.namespace] }));
        }
        let policy = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "GrantPolicy", "metadata": { "name": self.namespace }, "spec": spec,
        });
        let policy: DynamicObject = serde_json::from_value(policy)?;
        self.policies()
            .create(&PostParams::default(), &policy)
            .await
            .map(drop)?;
        Ok(())
    }

    /// Deletes it.
    pub async fn end_policy(&self) -> Result<()> {
        self.policies()
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .map(drop)?;
        Ok(())
    }

    fn policies(&self) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("berth.dev", "v1alpha1", "GrantPolicy"),
            "grantpolicies",
        );
        Api::all_with(self.cluster.client.clone(), &resource)
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409)
}
