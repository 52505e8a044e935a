//! A caller of Berth's API, as one who has a kubeconfig and nothing more.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::Api;
use reqwest::{Certificate, Client, RequestBuilder};
use serde_json::json;

use crate::Team;

/// A caller with a token.
pub struct Caller {
    client: Client,
    token: String,
}

impl Caller {
    /// ServiceAccount `name` of the team, whom a RoleBinding of its name gives this ClusterRole.
    pub async fn create(team: &Team, name: &str, role: &str) -> Result<Self> {
        let account = json!({ "metadata": { "name": name } });
        team.create_typed::<ServiceAccount>(&account).await?;
        let subject = json!({ "kind": "ServiceAccount", "name": name, "namespace": team.namespace });
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
        let binding = json!({ "metadata": { "name": name }, "roleRef": role, "subjects": [subject] });
        team.create_typed::<RoleBinding>(&binding).await?;
        Self::with(team, name, "berth-api").await
    }

    /// An account's token of this audience.
    pub async fn with(team: &Team, account: &str, audience: &str) -> Result<Self> {
        let token = team.kubectl(&["create", "token", account, "--audience", audience])?;
        let client = client(team).await?;
        let token = token.trim().to_owned();
        Ok(Self { client, token })
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A GET below `/v1/sessions/NAMESPACE/`.
    pub fn get(&self, team: &Team, path: &str) -> RequestBuilder {
        let url = format!("{URL}/v1/sessions/{}/{path}", team.namespace);
        self.client.get(url).bearer_auth(&self.token)
    }

    /// A POST below `/v1/sessions/NAMESPACE/`.
    pub fn post(&self, team: &Team, path: &str) -> RequestBuilder {
        let url = format!("{URL}/v1/sessions/{}/{path}", team.namespace);
        self.client.post(url).bearer_auth(&self.token)
    }

    /// Says something to a session; gives its number.
    pub async fn say(&self, team: &Team, session: &str, text: &str) -> Result<i64> {
        let request = self
            .post(team, &format!("{session}/messages"))
            .json(&json!({ "text": text }));
        let answer: serde_json::Value = request.send().await?.error_for_status()?.json().await?;
        answer["number"].as_i64().context("a number")
    }
}

/// A client that trusts Berth's certificate and reaches its Service from the node.
pub async fn client(team: &Team) -> Result<Client> {
    let client = team.cluster.client.clone();
    let secrets: Api<Secret> = Api::namespaced(client, SYSTEM);
    let data = secrets.get("berth-control-tls").await?.data.unwrap_or_default();
    let authority = Certificate::from_pem(&data.get("ca.crt").context("a CA")?.0)?;
    let address = SocketAddr::new(address(team).await?, 0);
    let client = Client::builder()
        .tls_certs_only([authority])
        .resolve("berth-controller.berth-system.svc", address);
    Ok(client.build()?)
}

/// Address of Berth's Service.
pub async fn address(team: &Team) -> Result<IpAddr> {
    let services: Api<Service> = Api::namespaced(team.cluster.client.clone(), SYSTEM);
    let address = services
        .get("berth-controller")
        .await?
        .spec
        .and_then(|spec| spec.cluster_ip);
    Ok(address.context("an address")?.parse()?)
}

/// The API's Service.
pub const URL: &str = "https://berth-controller.berth-system.svc:8444";
const SYSTEM: &str = "berth-system";
