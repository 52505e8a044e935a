//! IO of a pool: observe → plan → act → status. Writes nothing when nothing changed; counts in the status follow at
//! most every half minute (DESIGN §1.9).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{AgentPool, Reason, label};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::breaker::Breaker;
use super::objects;
use super::pair::{Rendering, render};
use super::plan::{PairFacts, Plan, Snapshot, State, Step, plan};
use super::status::{differs, status};
use crate::answer;
use crate::context::{Context, NotLeading};
use crate::sandbox::{SandboxTemplate, SandboxWarmPool};
use crate::telemetry::chain;
use crate::watch::Name;
use crate::work::Outcome;

/// What is remembered of pools while this process leads.
#[derive(Clone, Default)]
pub struct Pools {
    inner: Arc<Mutex<HashMap<Name, Memory>>>,
}

#[derive(Default)]
struct Memory {
    breaker: Breaker,
    /// What admission said of a pair's pod, and when.
    admission: Option<(String, Option<String>, Instant)>,
    /// CA bundle and account were applied for this bundle.
    base: Option<String>,
    /// The template as it was applied: UID and generation.
    template: Option<(String, i64)>,
    counted: Option<Instant>,
}

impl Pools {
    /// Counts a bind that failed.
    pub fn failed_bind(&self, pool: &Name, now: Timestamp) {
        self.inner.lock().entry(pool.clone()).or_default().breaker.fail(now);
    }

    /// A bind succeeded. Whether claims were held back until then.
    pub fn bound(&self, pool: &Name) -> bool {
        self.inner.lock().entry(pool.clone()).or_default().breaker.reset()
    }

    /// Whether a claim on this pool may be made now; the answer counts as its being made.
    pub fn admits(&self, pool: &Name, now: Timestamp) -> bool {
        self.inner.lock().entry(pool.clone()).or_default().breaker.admits(now)
    }

    /// Until when claims on this pool are held back.
    pub fn open_until(&self, pool: &Name, now: Timestamp) -> Option<Timestamp> {
        self.inner.lock().get(pool)?.breaker.open_until(now)
    }

    /// Admission's words when it refused the pool's pod.
    pub fn refused(&self, pool: &Name) -> Option<String> {
        self.inner.lock().get(pool)?.admission.as_ref()?.1.clone()
    }
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Another replica leads.
    #[error("this replica doesn't lead")]
    NotLeading(#[from] NotLeading),
    /// An object couldn't be applied.
    #[error("failed to apply {kind} {name}")]
    Apply {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A pair couldn't be deleted.
    #[error("failed to delete pair {name}")]
    DeletePair {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The rendered pod couldn't be tried.
    #[error("failed to try the pod in its namespace")]
    DryRun(#[source] Box<kube::Error>),
    /// The status couldn't be written.
    #[error("failed to write the status")]
    WriteStatus(#[source] Box<kube::Error>),
}

impl PoolError {
    fn is_overtaken(&self) -> bool {
        matches!(self, Self::WriteStatus(source) if answer::is_overtaken(source))
    }

    fn is_terminating(&self) -> bool {
        matches!(self, Self::Apply { source, .. } | Self::DryRun(source) if answer::is_terminating(source))
    }
}

/// Looks at one pool.
pub async fn reconcile(context: Arc<Context>, name: Name) -> Outcome {
    let began = Instant::now();
    let outcome = match pass(&context, &name).await {
        Ok(None) => Outcome::Done,
        Ok(Some(wait)) => Outcome::Again(wait),
        Err(error) if error.is_overtaken() => Outcome::Again(OVERTAKEN),
        Err(error) if error.is_terminating() => Outcome::Done,
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                pool.namespace = name.namespace,
                pool.name = name.name,
                error,
                "pool pass failed"
            );
            Outcome::Failed
        }
    };
    context.metrics.reconcile.observe("pool", outcome, began.elapsed());
    outcome
}

async fn pass(context: &Context, name: &Name) -> Result<Option<Duration>, PoolError> {
    let Some(pool) = context.caches.pool(name) else {
        context.pools.inner.lock().remove(name);
        context.written_pools.forget(name);
        return Ok(None);
    };
    let pool = context.written_pools.newest(pool);
    let snapshot = observe(context, name, &pool).await?;
    let plan = plan(&snapshot);
    act(context, name, &snapshot, &plan).await?;
    let later = write_status(context, name, &snapshot, &plan.state).await?;
    Ok([plan.requeue, later].into_iter().flatten().min())
}

async fn observe(context: &Context, name: &Name, pool: &AgentPool) -> Result<Snapshot, PoolError> {
    let rendering = render(pool, &context.settings);
    let mut pairs = pairs(context, name);
    for pair in pairs.iter_mut().filter(|pair| pair.name == rendering.pair) {
        pair.stray = !is_as_applied(context, name, &rendering);
    }
    let refused = if pairs.iter().any(|pair| pair.name == rendering.pair) {
        None
    } else {
        admission(context, name, &rendering).await?
    };
    let now = context.clock.now();
    Ok(Snapshot {
        now,
        pool: pool.clone(),
        rendering,
        pairs,
        refused,
        other_rolling: other_rolling(context, name),
        sessions: sessions_with_claim(context, name),
        breaker_open_until: context.pools.open_until(name, now),
    })
}

/// The pool's pairs, newest first.
pub fn pairs(context: &Context, name: &Name) -> Vec<PairFacts> {
    let ours = |object: &SandboxWarmPool| {
        object.namespace().as_deref() == Some(&name.namespace) && object.labels().get(label::POOL) == Some(&name.name)
    };
    let mut found: Vec<Arc<SandboxWarmPool>> = context.caches.warm_pools.state();
    found.retain(|pair| ours(pair) && pair.meta().deletion_timestamp.is_none());
    found.sort_by_key(|pair| std::cmp::Reverse((pair.creation_timestamp().map(|time| time.0), pair.name_any())));
    let claims = claims_by_pair(context, name);
    found
        .iter()
        .map(|pair| PairFacts {
            name: pair.name_any(),
            replicas: pair.spec.replicas,
            ready: pair.status.as_ref().map_or(0, |status| status.ready_replicas),
            claims: claims.get(&pair.name_any()).copied().unwrap_or(0),
            stray: false,
        })
        .collect()
}

/// Whether the template is as this leader applied it. A watch that is behind costs an apply that changes nothing.
fn is_as_applied(context: &Context, name: &Name, rendering: &Rendering) -> bool {
    let memories = context.pools.inner.lock();
    let applied = memories.get(name).and_then(|memory| memory.template.as_ref());
    let template = context.caches.template(&name.beside(&rendering.pair));
    template.is_some_and(|template| {
        applied == version(template.meta()).as_ref()
            && template.annotations().get(label::RENDERED) == Some(&rendering.json)
    })
}

fn version(metadata: &ObjectMeta) -> Option<(String, i64)> {
    metadata.uid.clone().zip(metadata.generation)
}

fn claims_by_pair(context: &Context, name: &Name) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for claim in context.caches.claims.state() {
        if claim.namespace().as_deref() == Some(&name.namespace) && claim.labels().get(label::POOL) == Some(&name.name)
        {
            *counts.entry(claim.spec.warm_pool_ref.name.clone()).or_default() += 1;
        }
    }
    counts
}

/// Sessions that hold a sandbox of the pool.
pub fn sessions_with_claim(context: &Context, name: &Name) -> i64 {
    let claims = claims_by_pair(context, name).values().sum::<usize>();
    i64::try_from(claims).unwrap_or(i64::MAX)
}

/// Another pool of the namespace whose wanted pair isn't the one that serves.
fn other_rolling(context: &Context, name: &Name) -> Option<String> {
    let rolls = |pool: &AgentPool| {
        let other = Name::of(pool);
        let wanted = render(pool, &context.settings).pair;
        let pairs = pairs(context, &other);
        let begun = pairs.len() > 1 && pairs.iter().any(|pair| pair.name == wanted);
        begun && super::plan::serving(&pairs, &wanted).is_some_and(|pair| pair.name != wanted)
    };
    let pools = context.caches.pools.state();
    let mut others = pools.iter().filter(|pool| {
        pool.namespace().as_deref() == Some(&name.namespace) && pool.name_any() != name.name && rolls(pool)
    });
    others.next().map(|pool| pool.name_any())
}

/// What admission says of the rendered pod, tried without being made; remembered for a minute.
async fn admission(context: &Context, name: &Name, rendering: &Rendering) -> Result<Option<String>, PoolError> {
    if let Some((pair, said, at)) = context
        .pools
        .inner
        .lock()
        .get(name)
        .and_then(|memory| memory.admission.clone())
        && pair == rendering.pair
        && at.elapsed() < ADMISSION_KEPT
    {
        return Ok(said);
    }
    apply_base(context, name).await?;
    let pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-try-", name.name)),
            namespace: Some(name.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: serde_json::from_str(&rendering.json).ok(),
        status: None,
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &name.namespace);
    let said = match api
        .create(
            &PostParams {
                dry_run: true,
                ..PostParams::default()
            },
            &pod,
        )
        .await
    {
        Ok(_) => None,
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
            Some(status.message.clone())
        }
        Err(error) => return Err(PoolError::DryRun(Box::new(error))),
    };
    let mut memories = context.pools.inner.lock();
    memories.entry(name.clone()).or_default().admission = Some((rendering.pair.clone(), said.clone(), Instant::now()));
    Ok(said)
}

/// The account and the CA that every pod of the namespace needs; once for a bundle.
async fn apply_base(context: &Context, name: &Name) -> Result<(), PoolError> {
    let applied = context
        .pools
        .inner
        .lock()
        .get(name)
        .and_then(|memory| memory.base.clone());
    let bundle = context.ca_bundle();
    if applied.as_ref() == Some(&bundle) {
        return Ok(());
    }
    apply(context, name, &objects::service_account(&name.namespace)).await?;
    apply(context, name, &objects::ca_config_map(&name.namespace, &bundle)).await?;
    context.pools.inner.lock().entry(name.clone()).or_default().base = Some(bundle);
    Ok(())
}

async fn act(context: &Context, name: &Name, snapshot: &Snapshot, plan: &Plan) -> Result<(), PoolError> {
    for step in &plan.steps {
        context.check_leading()?;
        match step {
            Step::ApplyPair(replicas) => apply_pair(context, name, snapshot, *replicas).await?,
            Step::Scale(pair, replicas) => scale(context, &name.beside(pair), *replicas).await?,
            Step::DeletePair(pair) => delete_pair(context, &name.beside(pair)).await?,
        }
    }
    Ok(())
}

/// The hash of a rendering stands in the status before a pod of it can be bound: see `control::identity`.
async fn apply_pair(context: &Context, name: &Name, snapshot: &Snapshot, replicas: i32) -> Result<(), PoolError> {
    apply_base(context, name).await?;
    let Snapshot { pool, rendering, .. } = snapshot;
    let template = objects::template(pool, rendering, &context.settings);
    let mut applied = apply(context, name, &template).await?;
    if snapshot.pairs.iter().any(|pair| pair.name == rendering.pair) {
        // An apply leaves what somebody else has added.
        applied = replace_spec(context, name, &template).await?;
    }
    context.pools.inner.lock().entry(name.clone()).or_default().template = version(applied.meta());
    let warm_pool = objects::warm_pool(pool, rendering, replicas);
    apply(context, name, &warm_pool).await.map(drop)
}

async fn replace_spec(
    context: &Context,
    name: &Name,
    template: &SandboxTemplate,
) -> Result<SandboxTemplate, PoolError> {
    let api: Api<SandboxTemplate> = Api::namespaced(context.client.clone(), &name.namespace);
    let spec = serde_json::json!([{ "op": "replace", "path": "/spec", "value": template.spec }]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(spec).unwrap_or_default());
    let params = PatchParams {
        field_manager: Some(label::MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let answer = api.patch(&template.name_any(), &params, &patch).await;
    answer.map_err(|source| refused(template, source))
}

fn refused<K: Resource<DynamicType = ()>>(object: &K, source: kube::Error) -> PoolError {
    PoolError::Apply {
        kind: kind_of::<K>(),
        name: object.meta().name.clone().unwrap_or_default(),
        source: Box::new(source),
    }
}

async fn apply<K>(context: &Context, name: &Name, object: &K) -> Result<K, PoolError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &name.namespace);
    let applied = with_type(object);
    let params = PatchParams::apply(label::MANAGER).force();
    let answer = api.patch(&object.name_any(), &params, &Patch::Apply(&applied)).await;
    answer.map_err(|source| refused(object, source))
}

/// Server-side apply needs `apiVersion` and `kind`, which Kubernetes' own types leave out.
fn with_type<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> serde_json::Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), K::api_version(&()).into());
        fields.insert("kind".to_owned(), K::kind(&()).into());
    }
    value
}

fn kind_of<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "object",
    }
}

async fn scale(context: &Context, pair: &Name, replicas: i32) -> Result<(), PoolError> {
    let api: Api<SandboxWarmPool> = Api::namespaced(context.client.clone(), &pair.namespace);
    let patch = serde_json::json!({"spec": {"replicas": replicas}});
    let answer = api
        .patch(&pair.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    let kind = kind_of::<SandboxWarmPool>();
    answer.map(drop).map_err(|source| PoolError::Apply {
        kind,
        name: pair.name.clone(),
        source: Box::new(source),
    })
}

async fn delete_pair(context: &Context, pair: &Name) -> Result<(), PoolError> {
    let warm_pools: Api<SandboxWarmPool> = Api::namespaced(context.client.clone(), &pair.namespace);
    let templates: Api<SandboxTemplate> = Api::namespaced(context.client.clone(), &pair.namespace);
    let params = DeleteParams::background();
    for answer in [
        warm_pools.delete(&pair.name, &params).await.map(drop),
        templates.delete(&pair.name, &params).await.map(drop),
    ] {
        match answer {
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => {}
            Err(source) => {
                return Err(PoolError::DeletePair {
                    name: pair.name.clone(),
                    source: Box::new(source),
                });
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Writes the status when it says something new; the counts alone wait. Gives the time until they may be written.
async fn write_status(
    context: &Context,
    name: &Name,
    snapshot: &Snapshot,
    state: &State,
) -> Result<Option<Duration>, PoolError> {
    let new = status(snapshot, state);
    let old = snapshot.pool.status.as_ref();
    if old == Some(&new) {
        return Ok(None);
    }
    let counted = context.pools.inner.lock().get(name).and_then(|memory| memory.counted);
    let wait = counted
        .and_then(|at| COUNTS_EVERY.checked_sub(at.elapsed()))
        .filter(|wait| !wait.is_zero());
    if let Some(wait) = wait.filter(|_| !differs(old, &new)) {
        return Ok(Some(wait));
    }
    context.check_leading()?;
    if let State::Stalled(Reason::AdmissionRefused, message) = state {
        context
            .events
            .publish(&snapshot.pool, Reason::AdmissionRefused, message, true);
    }
    let api: Api<AgentPool> = Api::namespaced(context.client.clone(), &name.namespace);
    let wanted = AgentPool {
        status: Some(new),
        ..snapshot.pool.clone()
    };
    let params = PostParams {
        field_manager: Some(label::MANAGER.to_owned()),
        ..PostParams::default()
    };
    let answer = api.replace_status(&name.name, &params, &wanted).await;
    let written = answer.map_err(|source| PoolError::WriteStatus(Box::new(source)))?;
    context
        .written_pools
        .remember(snapshot.pool.resource_version(), written);
    context.pools.inner.lock().entry(name.clone()).or_default().counted = Some(Instant::now());
    Ok(None)
}

/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
const ADMISSION_KEPT: Duration = Duration::from_secs(55);
const COUNTS_EVERY: Duration = Duration::from_secs(30);
