//! What the API server says, kept warm: one reflector per kind, on every replica.
//!
//! An event pokes the queues with the key it belongs to, and nothing of its content goes further; plans are made from
//! the stores alone. A malformed object is logged and left out; it stops nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use berth_crds::{AgentPool, AgentSession, CredentialBinding, GitSource, GrantPolicy, Phase, label};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, ObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sandbox::kind::controller;
use crate::sandbox::{Sandbox, SandboxClaim, SandboxTemplate, SandboxWarmPool};
use crate::work::Pokes;

/// Namespace, empty for a cluster-wide object, and name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Name {
    /// The name of an object.
    pub fn of(object: &impl ResourceExt) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }

    /// Another object of the same namespace.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    /// The object's key in a store; a cluster-wide object has no namespace there.
    fn reference<K: Resource<DynamicType = ()>>(&self) -> ObjectRef<K> {
        let reference = ObjectRef::new(&self.name);
        if self.namespace.is_empty() {
            reference
        } else {
            reference.within(&self.namespace)
        }
    }
}

/// The stores.
pub struct Caches {
    /// Sessions.
    pub sessions: Store<AgentSession>,
    /// Pools.
    pub pools: Store<AgentPool>,
    /// Claims of ours.
    pub claims: Store<SandboxClaim>,
    /// Sandboxes.
    pub sandboxes: Store<Sandbox>,
    /// Pods of our pools, without their specs.
    pub pods: Store<Pod>,
    /// Warm pools of ours.
    pub warm_pools: Store<SandboxWarmPool>,
    /// Templates of ours, without their specs.
    pub templates: Store<SandboxTemplate>,
    /// Sources.
    pub sources: Store<GitSource>,
    /// Bindings.
    pub bindings: Store<CredentialBinding>,
    /// Policies.
    pub policies: Store<GrantPolicy>,
    /// Namespaces, for their labels.
    pub namespaces: Store<Namespace>,
    claims_of: RwLock<HashMap<String, BTreeSet<Name>>>,
    /// Of each session, by its UID, what grants depend on.
    granting: RwLock<HashMap<String, u64>>,
}

/// The queues that events poke.
#[derive(Clone, Default)]
pub struct Queues {
    /// Sessions to look at.
    pub sessions: Pokes<Name>,
    /// Pools to look at.
    pub pools: Pokes<Name>,
    /// Sources to look at.
    pub sources: Pokes<Name>,
    /// Namespaces whose grants to look at.
    pub grants: Pokes<String>,
    /// Policies to look at.
    pub policies: Pokes<Name>,
    /// Sources to fetch while they are being applied.
    pub fetches: Pokes<Name>,
    /// Sources whose pull requests to speak about.
    pub feedback: Pokes<Name>,
    /// Sessions that were deleted, by UID.
    pub deleted: Pokes<String>,
}

impl Caches {
    /// Starts the reflectors on the tracker. The stores fill while they run.
    pub fn start(client: &Client, queues: &Queues, tracker: &TaskTracker, cancel: &CancellationToken) -> Arc<Self> {
        let (sessions, session_writer) = reflector::store();
        let (pools, pool_writer) = reflector::store();
        let (claims, claim_writer) = reflector::store();
        let (sandboxes, sandbox_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let (warm_pools, warm_pool_writer) = reflector::store();
        let (templates, template_writer) = reflector::store();
        let (sources, source_writer) = reflector::store();
        let (bindings, binding_writer) = reflector::store();
        let (policies, policy_writer) = reflector::store();
        let (namespaces, namespace_writer) = reflector::store();
        let caches = Arc::new(Self {
            sessions,
            pools,
            claims,
            sandboxes,
            pods,
            warm_pools,
            templates,
            sources,
            bindings,
            policies,
            namespaces,
            claims_of: RwLock::default(),
            granting: RwLock::default(),
        });
        let all = watcher::Config::default();
        let ours = all.clone().labels(label::POOL);
        let watch = Watch {
            client,
            caches: &caches,
            queues,
            tracker,
            cancel,
        };
        watch.start(session_writer, &all, Self::on_session);
        watch.start(pool_writer, &all, Self::on_pool);
        watch.start(claim_writer, &ours, Self::on_claim);
        watch.start(sandbox_writer, &all, Self::on_sandbox);
        watch.start(pod_writer, &ours, Self::on_pod);
        watch.start(warm_pool_writer, &ours, Self::on_warm_pool);
        watch.start(template_writer, &ours, Self::on_template);
        watch.start(source_writer, &all, Self::on_source);
        watch.start(binding_writer, &all, Self::on_binding);
        watch.start(policy_writer, &all, Self::on_policy);
        watch.start(namespace_writer, &all, Self::on_namespace);
        caches
    }

    /// Waits until every store has been filled once.
    pub async fn ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.sessions.wait_until_ready().await?;
        self.pools.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.sandboxes.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.warm_pools.wait_until_ready().await?;
        self.templates.wait_until_ready().await?;
        self.sources.wait_until_ready().await?;
        self.bindings.wait_until_ready().await?;
        self.policies.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await
    }

    /// The session of that name.
    pub fn session(&self, name: &Name) -> Option<Arc<AgentSession>> {
        self.sessions.get(&name.reference())
    }

    /// The pool of that name.
    pub fn pool(&self, name: &Name) -> Option<Arc<AgentPool>> {
        self.pools.get(&name.reference())
    }

    /// The source of that name.
    pub fn source(&self, name: &Name) -> Option<Arc<GitSource>> {
        self.sources.get(&name.reference())
    }

    /// The binding of that name.
    pub fn binding(&self, name: &Name) -> Option<Arc<CredentialBinding>> {
        self.bindings.get(&name.reference())
    }

    /// The policy of that name.
    pub fn policy(&self, name: &Name) -> Option<Arc<GrantPolicy>> {
        self.policies.get(&name.reference())
    }

    /// The sandbox of that name.
    pub fn sandbox(&self, name: &Name) -> Option<Arc<Sandbox>> {
        self.sandboxes.get(&name.reference())
    }

    /// The template of that name.
    pub fn template(&self, name: &Name) -> Option<Arc<SandboxTemplate>> {
        self.templates.get(&name.reference())
    }

    /// The pod of that name.
    pub fn pod(&self, name: &Name) -> Option<Arc<Pod>> {
        self.pods.get(&name.reference())
    }

    /// The claims that this session controls.
    pub fn claims_of(&self, session_uid: &str) -> Vec<Arc<SandboxClaim>> {
        let names = self.claims_of.read().get(session_uid).cloned().unwrap_or_default();
        names
            .iter()
            .filter_map(|name| self.claims.get(&name.reference()))
            .collect()
    }

    /// The bindings of a namespace.
    pub fn bindings_of(&self, namespace: &str) -> Vec<Arc<CredentialBinding>> {
        let mut bindings = self.bindings.state();
        bindings.retain(|binding| binding.namespace().as_deref() == Some(namespace));
        bindings
    }

    /// The sessions of a namespace.
    pub fn sessions_of(&self, namespace: &str) -> Vec<Arc<AgentSession>> {
        let mut sessions = self.sessions.state();
        sessions.retain(|session| session.namespace().as_deref() == Some(namespace));
        sessions
    }

    /// The labels of a namespace, once they are known.
    pub fn labels_of(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        let found = self.namespaces.get(&ObjectRef::new(namespace));
        found.map(|namespace| namespace.labels().clone())
    }

    /// The session that a pod serves, by the chain of owners as cached.
    pub fn session_of_pod(&self, pod: &Name) -> Option<Name> {
        let owner = self
            .pod(pod)
            .and_then(|pod| controller(pod.meta()).map(|owner| owner.name.clone()))?;
        self.session_of_sandbox(&pod.beside(&owner))
    }

    fn session_of_sandbox(&self, sandbox: &Name) -> Option<Name> {
        let sandbox = self.sandbox(sandbox)?;
        let claim = controller(sandbox.meta()).filter(|owner| owner.kind == "SandboxClaim")?;
        let claim = self.claims.get(&Name::of(&*sandbox).beside(&claim.name).reference())?;
        session_of(&claim)
    }

    fn on_source(_: &Self, event: &Change<'_, GitSource>, queues: &Queues) {
        queues.sources.poke(Name::of(event.object()));
        poke_grants_of(event.object(), queues);
    }

    fn on_binding(_: &Self, event: &Change<'_, CredentialBinding>, queues: &Queues) {
        poke_source_of(event, queues);
        poke_grants_of(event.object(), queues);
    }

    fn on_policy(&self, event: &Change<'_, GrantPolicy>, queues: &Queues) {
        queues.policies.poke(Name::of(event.object()));
        for binding in self.bindings.state() {
            poke_grants_of(&*binding, queues);
        }
    }

    fn on_namespace(_: &Self, event: &Change<'_, Namespace>, queues: &Queues) {
        queues.grants.poke(event.object().name_any());
    }

    fn on_session(&self, event: &Change<'_, AgentSession>, queues: &Queues) {
        let session = event.object();
        poke_source_of(event, queues);
        queues.sessions.poke(Name::of(session));
        let uid = session.uid().unwrap_or_default();
        match event {
            // A grant for hundreds of sessions changes hundreds of statuses, and by those no grant.
            Change::Applied(_) => {
                let now = granting(session);
                if self.granting.write().insert(uid, now) != Some(now) {
                    poke_grants_of(session, queues);
                }
            }
            Change::Deleted(_) => {
                self.granting.write().remove(&uid);
                poke_grants_of(session, queues);
                queues.deleted.poke(uid);
            }
        }
    }

    fn on_pool(&self, event: &Change<'_, AgentPool>, queues: &Queues) {
        let pool = Name::of(event.object());
        poke_source_of(event, queues);
        self.poke_sessions_of(&pool, queues);
        poke_grants_of(event.object(), queues);
        queues.pools.poke(pool);
    }

    fn on_claim(&self, event: &Change<'_, SandboxClaim>, queues: &Queues) {
        let claim = event.object();
        let name = Name::of(claim);
        if let Some(owner) = controller(claim.meta()) {
            let mut index = self.claims_of.write();
            let names = index.entry(owner.uid.clone()).or_default();
            let changed = match event {
                Change::Applied(_) => names.insert(name.clone()),
                Change::Deleted(_) => names.remove(&name),
            };
            if names.is_empty() {
                index.remove(&owner.uid);
            }
            let pool = claim.labels().get(label::POOL).filter(|_| changed);
            if let Some(pool) = pool {
                queues.pools.poke(name.beside(pool));
            }
        }
        if let Some(session) = session_of(claim) {
            queues.sessions.poke(session);
        }
    }

    fn on_sandbox(&self, event: &Change<'_, Sandbox>, queues: &Queues) {
        let session = self.session_of_sandbox(&Name::of(event.object()));
        if let Some(session) = session {
            queues.sessions.poke(session);
        }
    }

    fn on_pod(&self, event: &Change<'_, Pod>, queues: &Queues) {
        let pod = event.object();
        let Some(owner) = controller(pod.meta()) else { return };
        let session = self.session_of_sandbox(&Name::of(pod).beside(&owner.name));
        if let Some(session) = session {
            queues.sessions.poke(session);
        }
    }

    fn on_warm_pool(&self, event: &Change<'_, SandboxWarmPool>, queues: &Queues) {
        let warm_pool = event.object();
        let Some(pool) = warm_pool.labels().get(label::POOL) else {
            return;
        };
        let pool = Name::of(warm_pool).beside(pool);
        self.poke_sessions_of(&pool, queues);
        queues.pools.poke(pool);
    }

    fn on_template(_: &Self, event: &Change<'_, SandboxTemplate>, queues: &Queues) {
        let template = event.object();
        if let Some(pool) = template.labels().get(label::POOL) {
            queues.pools.poke(Name::of(template).beside(pool));
        }
    }

    /// Sessions that wait for this pool: those without a sandbox that are not over.
    fn poke_sessions_of(&self, pool: &Name, queues: &Queues) {
        let waits = |session: &AgentSession| {
            let status = session.status.clone().unwrap_or_default();
            session.spec.pool_ref.name == pool.name
                && session.namespace().as_deref() == Some(&pool.namespace)
                && status.sandbox.is_none()
                && !crate::session::plan::has_ended(&status)
        };
        let all = self.sessions.state();
        all.iter()
            .filter(|session| waits(session))
            .for_each(|session| queues.sessions.poke(Name::of(&**session)));
    }
}

/// What grants depend on of a session: what it asks for, its labels and annotations, and whether and where it runs.
fn granting(session: &AgentSession) -> u64 {
    let status = session.status.as_ref();
    let pod = status.and_then(|status| status.sandbox.as_ref()?.pod_uid.as_ref());
    let mut hasher = DefaultHasher::new();
    (
        session.metadata.generation,
        session.metadata.deletion_timestamp.is_some(),
    )
        .hash(&mut hasher);
    (session.labels(), session.annotations()).hash(&mut hasher);
    let phase = status.and_then(|status| status.phase).map(Phase::as_str);
    (phase, status.map(|status| status.incarnation), pod).hash(&mut hasher);
    hasher.finish()
}

/// Something that grants depend on has changed.
fn poke_grants_of(object: &impl ResourceExt, queues: &Queues) {
    queues.grants.poke(object.namespace().unwrap_or_default());
}

/// An object that a source applied has changed or gone: the source looks for drift.
fn poke_source_of<K: ResourceExt>(event: &Change<'_, K>, queues: &Queues) {
    let object = event.object();
    let Some((namespace, name)) = object
        .annotations()
        .get(label::SOURCE)
        .and_then(|source| source.split_once('/'))
    else {
        return;
    };
    let source = Name {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    queues.sources.poke_after(source, DRIFT_WAIT);
}

/// A source's own applies and status writes come in bursts; one look per burst is enough.
const DRIFT_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The session that controls a claim.
fn session_of(claim: &SandboxClaim) -> Option<Name> {
    let owner = controller(claim.meta()).filter(|owner| owner.kind == "AgentSession")?;
    Some(Name::of(claim).beside(&owner.name))
}

/// An object came, changed or went.
enum Change<'a, K> {
    Applied(&'a K),
    Deleted(&'a K),
}

impl<K> Change<'_, K> {
    fn object(&self) -> &K {
        match self {
            Self::Applied(object) | Self::Deleted(object) => object,
        }
    }
}

struct Watch<'a> {
    client: &'a Client,
    caches: &'a Arc<Caches>,
    queues: &'a Queues,
    tracker: &'a TaskTracker,
    cancel: &'a CancellationToken,
}

type Handler<K> = fn(&Caches, &Change<'_, K>, &Queues);

impl Watch<'_> {
    fn start<K>(&self, writer: reflector::store::Writer<K>, config: &watcher::Config, handle: Handler<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + Slim + 'static,
    {
        let api: Api<DeserializeGuard<K>> = Api::all(self.client.clone());
        let events = watcher(api, config.clone())
            .default_backoff()
            .try_filter_map(|event| async { Ok(readable(event)) });
        let stream = reflector::reflector(writer, events);
        let (caches, queues) = (Arc::clone(self.caches), self.queues.clone());
        let stopped = self.cancel.clone().cancelled_owned();
        self.tracker.spawn(async move {
            stream
                .take_until(stopped)
                .for_each(|event| {
                    match event {
                        Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                            handle(&caches, &Change::Applied(&object), &queues);
                        }
                        Ok(watcher::Event::Delete(object)) => handle(&caches, &Change::Deleted(&object), &queues),
                        Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                        Err(error) => tracing::warn!(kind = %K::kind(&()), error = %error, "watch interrupted"),
                    }
                    futures::future::ready(())
                })
                .await;
        });
    }
}

/// The event without objects that can't be read, which are said once here, and without what no plan reads.
fn readable<K: Resource<DynamicType = ()> + Slim>(
    event: watcher::Event<DeserializeGuard<K>>,
) -> Option<watcher::Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            object.slim();
            Some(object)
        }
        Err(invalid) => {
            let ObjectMeta { namespace, name, .. } = invalid.metadata;
            let (kind, error) = (K::kind(&()), invalid.error);
            tracing::warn!(%kind, ?namespace, ?name, %error, "object can't be read and is left out");
            None
        }
    };
    Some(match event {
        watcher::Event::Apply(guard) => watcher::Event::Apply(read(guard)?),
        watcher::Event::InitApply(guard) => watcher::Event::InitApply(read(guard)?),
        watcher::Event::Delete(guard) => watcher::Event::Delete(read(guard)?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

/// Drops from a cached object what no plan reads.
trait Slim {
    fn slim(&mut self) {}
}

impl Slim for AgentSession {}
impl Slim for AgentPool {}
impl Slim for SandboxClaim {}
impl Slim for Sandbox {}
impl Slim for SandboxWarmPool {}
impl Slim for SandboxTemplate {
    fn slim(&mut self) {
        self.spec = crate::sandbox::kind::SandboxTemplateSpec::default();
    }
}
impl Slim for GitSource {}
impl Slim for CredentialBinding {}
impl Slim for GrantPolicy {}
impl Slim for Namespace {}
impl Slim for Pod {
    fn slim(&mut self) {
        self.spec = None;
        let phase = self.status.take().and_then(|status| status.phase);
        self.status = Some(k8s_openapi::api::core::v1::PodStatus {
            phase,
            ..Default::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spending, conditions and proposals change a session's status, and no grant.
    #[test]
    fn a_session_asks_for_grants_by_what_they_depend_on() {
        let spec = serde_json::json!({ "poolRef": { "name": "pool" }, "task": { "prompt": "true" } });
        let mut session = AgentSession::new("s", serde_json::from_value(spec).unwrap());
        session.status.get_or_insert_default().phase = Some(Phase::Running);
        let before = granting(&session);
        let differs = |change: fn(&mut AgentSession)| {
            let mut changed = session.clone();
            change(&mut changed);
            granting(&changed) != before
        };
        assert!(!differs(
            |it| it.status.get_or_insert_default().result = Some(berth_crds::SessionResult::default())
        ));
        assert!(differs(
            |it| it.status.get_or_insert_default().phase = Some(Phase::Succeeded)
        ));
        assert!(differs(|it| it.status.get_or_insert_default().incarnation = 2));
        assert!(differs(|it| it.metadata.generation = Some(2)));
        assert!(differs(|it| drop(
            it.labels_mut().insert("team".to_owned(), "a".to_owned())
        )));
        assert!(differs(|it| drop(
            it.annotations_mut().insert("a".to_owned(), "b".to_owned())
        )));
    }
}
