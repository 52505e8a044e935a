//! A team: a namespace with a warm pool, and waits for what happens in it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use berth_crds::{AgentPool, AgentSession, GitSource};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{Cluster, diagnosis};

/// A team's namespace.
pub struct Team {
    /// The cluster it lives on.
    pub cluster: Cluster,
    /// Its name.
    pub namespace: String,
}

/// A RunToCompletion session of pool `pool`.
pub fn session_yaml(name: &str, prompt: &str) -> String {
    let spec = json!({ "poolRef": { "name": "pool" }, "task": { "prompt": prompt } });
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

impl Team {
    /// Makes a namespace of its own for a test, with the account that sources apply as.
    pub async fn create(cluster: &Cluster, purpose: &str) -> Result<Self> {
        let millis = jiff::Timestamp::now().as_millisecond();
        let namespace = format!("e2e-{purpose}-{:x}", millis & 0x00ff_ffff);
        let team = Self {
            cluster: cluster.clone(),
            namespace,
        };
        let labels = json!({ "berth.dev/e2e": "true" });
        let object = json!({ "metadata": { "name": team.namespace, "labels": labels } });
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        team.apply_typed(&json!({ "metadata": { "name": "berth-sync" } }), |object| {
            serde_json::from_value::<ServiceAccount>(object).ok()
        })
        .await?;
        let subject = json!({ "kind": "ServiceAccount", "name": "berth-sync", "namespace": team.namespace });
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "berth-sync" });
        let binding = json!({ "metadata": { "name": "berth-sync" }, "roleRef": role, "subjects": [subject] });
        team.apply_typed(&binding, |object| serde_json::from_value::<RoleBinding>(object).ok())
            .await?;
        Ok(team)
    }

    /// A namespace by its name, which stays: the install's configuration says it.
    pub async fn lasting(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let apply = PatchParams::apply("e2e").force();
        namespaces.patch(namespace, &apply, &Patch::Apply(&object)).await?;
        Ok(Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
        })
    }

    /// A namespace whose pool `pool` of this size is warm. The harness is a shell that runs the prompt.
    pub async fn with_pool(cluster: &Cluster, purpose: &str, replicas: i32) -> Result<Self> {
        let team = Self::create(cluster, purpose).await?;
        team.warm(&team.pool(replicas)).await?;
        Ok(team)
    }

    /// Applies a pool and waits until its sandboxes are warm.
    pub async fn warm(&self, pool: &serde_json::Value) -> Result<AgentPool> {
        self.apply(pool).await?;
        let replicas = pool["spec"]["replicas"].as_i64().context("the pool has replicas")?;
        let wanted = format!("{replicas}/{replicas}");
        let name = pool["metadata"]["name"].as_str().context("the pool has a name")?;
        self.wait::<AgentPool>(name, "a warm pool", POOL_WARM, |pool| {
            pool.status
                .as_ref()
                .is_some_and(|status| status.warm.as_ref() == Some(&wanted))
        })
        .await
    }

    /// The manifest of pool `pool`.
    pub fn pool(&self, replicas: i32) -> serde_json::Value {
        self.pool_named("pool", replicas)
    }

    /// The manifest of a pool. Its harness is a shell that runs the prompt.
    pub fn pool_named(&self, name: &str, replicas: i32) -> serde_json::Value {
        let harness = json!({ "kind": "Custom", "image": "localhost/berth-agent-base:dev", "command": ["sh", "-s"] });
        json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "AgentPool", "metadata": { "name": name },
            "spec": { "harness": harness, "replicas": replicas },
        })
    }

    async fn apply_typed<K>(&self, object: &serde_json::Value, read: fn(serde_json::Value) -> Option<K>) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K: serde::Serialize,
    {
        let object = read(object.clone()).context("the object is written down wrong")?;
        self.api::<K>().create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// An API of this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Applies a manifest of one of Berth's kinds as `kubectl apply --server-side` does.
    pub async fn apply(&self, manifest: &serde_json::Value) -> Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(manifest.clone())?;
        let TypeMeta { kind, .. } = object.types.clone().context("a manifest has a kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("berth.dev", "v1alpha1", &kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.cluster.client.clone(), &self.namespace, &resource);
        let params = PatchParams::apply("kubectl").force();
        Ok(api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await?)
    }

    /// Applies a session whose prompt is a shell script.
    pub async fn session(&self, name: &str, prompt: &str) -> Result<()> {
        self.apply(&serde_json::from_str(&session_yaml(name, prompt))?)
            .await
            .map(drop)
    }

    /// Applies a session of a pool by name, with more fields in its spec.
    pub async fn session_of(&self, pool: &str, name: &str, prompt: &str, lifecycle: &serde_json::Value) -> Result<()> {
        let mut session: serde_json::Value = serde_json::from_str(&session_yaml(name, prompt))?;
        session["spec"]["poolRef"]["name"] = pool.into();
        session["spec"]["lifecycle"] = lifecycle.clone();
        self.apply(&session).await.map(drop)
    }

    /// The SandboxClaims of this namespace.
    pub fn claims(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("extensions.agents.x-k8s.io", "v1beta1", "SandboxClaim");
        Api::namespaced_with(
            self.cluster.client.clone(),
            &self.namespace,
            &ApiResource::from_gvk(&kind),
        )
    }

    /// All that a session's program printed, once the record says that it ended: the record follows the status.
    pub async fn output(&self, session_uid: &str) -> Result<String> {
        self.recorded(session_uid, "its end", |ended, _| ended).await
    }

    /// What a session has printed so far, once the record holds `text`.
    pub async fn output_with(&self, session_uid: &str, text: &str) -> Result<String> {
        self.output_that(session_uid, text, |output| output.contains(text))
            .await
    }

    /// The same once it is as wanted.
    pub async fn output_that(&self, session_uid: &str, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        self.recorded(session_uid, what, |_, output| wanted(output)).await
    }

    /// Postgres tells nobody of a row: this looks every so often.
    async fn recorded(&self, session_uid: &str, what: &str, wanted: impl Fn(bool, &str) -> bool) -> Result<String> {
        let select = "select coalesce(bool_or(kind = 'exited'), false), \
            coalesce(string_agg(convert_from(output, 'UTF8'), '' order by incarnation, client_seq) \
                filter (where kind = 'output'), '') \
            from session_event where session_uid = $1";
        let mut last = String::new();
        let look = async {
            loop {
                let query = sqlx::query_as(select).bind(session_uid);
                let (ended, output): (bool, String) = query.fetch_one(&self.cluster.database).await?;
                if wanted(ended, &output) {
                    return Ok(output);
                }
                last = output;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(found) => found,
            Err(_) => bail!("{what} isn't in the record of {session_uid}, which holds: {last}"),
        }
    }

    /// Waits until no claim is left.
    pub async fn claims_gone(&self) -> Result<()> {
        let mut left = BTreeSet::new();
        let mut events = std::pin::pin!(watcher(self.claims(), watcher::Config::default()).default_backoff());
        let watch = async {
            while let Some(event) = events.try_next().await? {
                let whole = !matches!(event, watcher::Event::Init);
                match event {
                    watcher::Event::Init => left.clear(),
                    watcher::Event::InitApply(claim) | watcher::Event::Apply(claim) => {
                        left.insert(claim.name_any());
                    }
                    watcher::Event::Delete(claim) => {
                        left.remove(&claim.name_any());
                    }
                    watcher::Event::InitDone => {}
                }
                if whole && left.is_empty() {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        };
        let done = tokio::time::timeout(PATIENCE, watch).await;
        done.with_context(|| format!("claims are left in {}", self.namespace))?
    }

    /// Applies a GitSource that follows `main` of a repository.
    pub async fn source(&self, name: &str, url: &str) -> Result<()> {
        self.source_in_mode("Apply", name, url).await
    }

    /// The same in this mode: `Apply` or `Observe`.
    pub async fn source_in_mode(&self, mode: &str, name: &str, url: &str) -> Result<()> {
        let spec = json!({ "url": url, "ref": { "branch": "main" }, "interval": "5s", "prune": true, "mode": mode });
        let source = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "GitSource", "metadata": { "name": name }, "spec": spec,
        });
        self.apply(&source).await.map(drop)
    }

    /// Watches one object until it is as wanted; the error shows it as it was last seen.
    pub async fn wait<K>(&self, name: &str, what: &str, most: Duration, wanted: impl Fn(&K) -> bool) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K: Send + serde::Serialize + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut changes = std::pin::pin!(watcher(self.api::<K>(), config).default_backoff().applied_objects());
        let mut last = None;
        let watch = async {
            while let Some(object) = changes.try_next().await? {
                if wanted(&object) {
                    return Ok(object);
                }
                last = Some(object);
            }
            bail!("the watch ended")
        };
        let Ok(found) = tokio::time::timeout(most, watch).await else {
            let seen = last.map(serde_json::to_value).transpose()?.unwrap_or_default();
            let (namespace, most) = (&self.namespace, most.as_secs());
            let (says, around) = (diagnosis::says(&seen), diagnosis::describe(&self.cluster, namespace));
            bail!("no {what} of {name} in {namespace} within {most}s; it says {says}\nlast seen: {seen}{around}");
        };
        found
    }

    /// Waits until a session's phase is this one.
    pub async fn phase(&self, name: &str, phase: berth_crds::Phase) -> Result<AgentSession> {
        self.wait::<AgentSession>(name, phase.as_str(), PATIENCE, |session| {
            session
                .status
                .as_ref()
                .is_some_and(|status| status.phase == Some(phase))
        })
        .await
    }

    /// Waits until a session's condition has this status and reason.
    pub async fn condition(&self, name: &str, type_: &str, status: &str, reason: &str) -> Result<AgentSession> {
        self.wait::<AgentSession>(name, &format!("{type_}={status}/{reason}"), PATIENCE, |session| {
            let conditions = session
                .status
                .as_ref()
                .map(|status| status.conditions.as_slice())
                .unwrap_or_default();
            let is = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                condition.type_ == type_ && condition.status == status && condition.reason == reason
            };
            conditions.iter().any(is)
        })
        .await
    }

    /// Waits until a source says something of its status.
    pub async fn source_says(&self, name: &str, what: &str, wanted: impl Fn(&GitSource) -> bool) -> Result<GitSource> {
        self.wait::<GitSource>(name, what, PATIENCE, wanted).await
    }

    /// The pod that a bound session runs in.
    pub async fn pod_of(&self, session: &AgentSession) -> Result<Pod> {
        let sandbox = session
            .status
            .clone()
            .and_then(|status| status.sandbox)
            .context("the session has no sandbox")?;
        let name = sandbox.pod_name.context("the sandbox has no pod")?;
        Ok(self.api::<Pod>().get(&name).await?)
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster
            .run("kubectl", &[&["--namespace", &self.namespace], arguments].concat())
    }

    /// Deletes the namespace; what is in it goes in the background.
    pub async fn end(self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background()).await?;
        Ok(())
    }
}

/// A pod starts in seconds; two cores start a dozen of them at once in a minute.
const POOL_WARM: Duration = Duration::from_mins(2);
/// How long a wait that claims no speed has: any step of a session or a grant, with a leader change in between, on a
/// machine that others keep busy.
pub const PATIENCE: Duration = Duration::from_mins(2);
