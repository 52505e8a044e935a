//! One look at one source: fetch when it is due, read, plan, apply, status. Writes nothing when nothing changed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{GitSource, Reason, SourceMode, label};
use http::HeaderMap;
use kube::api::{Api, PostParams};
use kube::config::Config;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::Serialize;

use super::apply::{self, Applied};
use super::credentials::{self, CredentialsError};
use super::declared::{Declarations, Key, Kind};
use super::fetch::{self, FetchError};
use super::plan::{Live, Owner, Prune, plan};
use super::status::{Handled, State, status};
use super::wire::Request;
use super::{manifest, webhook};
use crate::context::{Context, NotLeading};
use crate::store::revision::RevisionRow;
use crate::watch::Name;
use crate::work::Outcome;

/// What is remembered of sources while this process leads.
pub struct Sources {
    config: Config,
    cache: PathBuf,
    inner: Mutex<HashMap<Name, Memory>>,
}

#[derive(Clone, Default)]
struct Memory {
    uid: String,
    generation: i64,
    /// The handled value of the annotation that asks for a reconcile.
    requested: Option<String>,
    fetched: Option<Instant>,
    /// A webhook came.
    asked: bool,
    tip: Option<Arc<Held>>,
    /// The tip whose errors were published as Events.
    announced: Option<String>,
}

/// A tip that was read.
struct Held {
    commit: String,
    declared: Declarations,
}

impl Sources {
    /// Sources whose clones are kept under `cache`; clients act as ServiceAccounts by way of `config`.
    pub fn new(config: Config, cache: &Path) -> Self {
        Self {
            config,
            cache: cache.to_owned(),
            inner: Mutex::default(),
        }
    }

    fn memory(&self, name: &Name, source: &GitSource) -> Memory {
        let mut inner = self.inner.lock();
        let memory = inner.entry(name.clone()).or_default();
        if memory.uid != source.uid().unwrap_or_default() {
            *memory = Memory {
                uid: source.uid().unwrap_or_default(),
                ..Memory::default()
            };
        }
        memory.clone()
    }

    fn update(&self, name: &Name, change: impl FnOnce(&mut Memory)) {
        if let Some(memory) = self.inner.lock().get_mut(name) {
            change(memory);
        }
    }

    /// A webhook of this source came: the next look fetches.
    pub fn ask(&self, name: &Name) {
        self.update(name, |memory| memory.asked = true);
    }
}

/// A write that failed, or the loss of the Lease.
#[derive(Debug, thiserror::Error)]
pub enum SourceFailure {
    /// Another replica leads.
    #[error("this replica doesn't lead")]
    NotLeading(#[from] NotLeading),
    /// The client that acts as `berth-sync` couldn't be made.
    #[error("failed to make a client for berth-sync")]
    Client(#[source] Box<kube::Error>),
    /// The status couldn't be written.
    #[error("failed to write the status")]
    WriteStatus(#[source] Box<kube::Error>),
}

/// Whether a webhook knows the source's shared secret. One that does asks for a fetch.
pub async fn webhook_is_authentic(
    context: &Context,
    name: &Name,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<bool, CredentialsError> {
    let Some(source) = context.caches.source(name) else {
        return Ok(false);
    };
    let secret = credentials::webhook(&context.sources.config, &source).await?;
    let authentic = secret.is_some_and(|secret| webhook::is_authentic(headers, body, &secret));
    if authentic {
        context.sources.ask(name);
    }
    Ok(authentic)
}

/// Looks at one source.
pub async fn reconcile(context: Arc<Context>, name: Name) -> Outcome {
    let began = Instant::now();
    let outcome = match pass(&context, &name).await {
        Ok(None) => Outcome::Done,
        Ok(Some(wait)) => Outcome::Again(wait),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                source.namespace = name.namespace,
                source.name = name.name,
                error,
                "source pass failed"
            );
            Outcome::Failed
        }
    };
    context.metrics.reconcile.observe("source", outcome, began.elapsed());
    outcome
}

async fn pass(context: &Context, name: &Name) -> Result<Option<Duration>, SourceFailure> {
    let Some(source) = context.caches.source(name) else {
        forget(context, name).await;
        return Ok(None);
    };
    if source.meta().deletion_timestamp.is_some() {
        return Ok(None);
    }
    let (state, again) = if source.spec.suspend {
        (State::Suspended, None)
    } else if source.spec.verify.is_some() {
        let message = "spec.verify is not implemented in this release; remove it".to_owned();
        (State::Stalled(Reason::NotImplemented, message), None)
    } else {
        handle(context, name, &source).await?
    };
    write_status(context, name, &source, &state).await?;
    Ok(again)
}

/// The source is gone: its clone goes too.
async fn forget(context: &Context, name: &Name) {
    let memory = context.sources.inner.lock().remove(name);
    if let Some(memory) = memory {
        let folder = fetch::folder(&context.sources.cache, &memory.uid);
        // One that isn't there or can't be removed is made anew, or found again, with the next source of its UID.
        drop(tokio::fs::remove_dir_all(folder).await);
    }
}

async fn handle(
    context: &Context,
    name: &Name,
    source: &GitSource,
) -> Result<(State, Option<Duration>), SourceFailure> {
    let memory = context.sources.memory(name, source);
    let interval = source.spec.interval.map_or(INTERVAL, Duration::from).max(INTERVAL_MIN);
    let held = match held(context, name, source, (&memory, interval)).await {
        Ok(held) => held,
        Err(why) => return Ok((State::Failed(Reason::FetchFailed, why), Some(jittered(interval)))),
    };
    let handled = carry_out(context, source, &held).await?;
    announce(context, name, source, &handled);
    let left = context
        .sources
        .memory(name, source)
        .fetched
        .map_or(interval, |at| interval.saturating_sub(at.elapsed()));
    Ok((State::Handled(Box::new(handled)), Some(jittered(left.max(SOON)))))
}

/// Up to a tenth more, so that sources made together don't fetch together for ever.
fn jittered(wait: Duration) -> Duration {
    wait + wait.mul_f64(rand::random::<f64>() / 10.0)
}

/// The tip: fetched when it is due or asked for, else as it is held.
async fn held(
    context: &Context,
    name: &Name,
    source: &GitSource,
    (memory, interval): (&Memory, Duration),
) -> Result<Arc<Held>, String> {
    let requested = source.annotations().get(label::RECONCILE).cloned();
    let generation = source.metadata.generation.unwrap_or(0);
    let due = memory.fetched.is_none_or(|at| at.elapsed() >= interval);
    let wanted = due || memory.asked || memory.requested != requested || memory.generation != generation;
    if let Some(tip) = memory.tip.clone().filter(|_| !wanted) {
        return Ok(tip);
    }
    context.sources.update(name, |memory| {
        memory.asked = false;
        memory.fetched = Some(Instant::now());
        memory.requested = requested;
        memory.generation = generation;
    });
    let kept = memory.tip.clone().filter(|_| memory.generation == generation);
    let held = fetch_tip(context, source, kept.as_ref()).await?;
    context
        .sources
        .update(name, |memory| memory.tip = Some(Arc::clone(&held)));
    Ok(held)
}

async fn fetch_tip(context: &Context, source: &GitSource, held: Option<&Arc<Held>>) -> Result<Arc<Held>, String> {
    let (login, ca) = credentials::login(&context.sources.config, source)
        .await
        .map_err(|error| error.to_string())?;
    let before = source
        .status
        .as_ref()
        .and_then(|status| status.last_attempted_revision.as_deref());
    let request = Request {
        url: source.spec.url.clone(),
        branch: source.spec.reference.branch.clone(),
        folder: fetch::folder(&context.sources.cache, &source.uid().unwrap_or_default()),
        include: source.spec.include.clone(),
        exclude: source.spec.exclude.clone(),
        login,
        ca,
        held: held.map(|held| held.commit.clone()),
        before: before
            .and_then(|before| before.split_once("@sha1:"))
            .map(|(_, commit)| commit.to_owned()),
    };
    let tip = fetch::fetch(&request)
        .await
        .map_err(|error: FetchError| error.to_string())?;
    if tip.rewound {
        let note = format!(
            "branch {} was rewound: commit {} isn't a descendant of the tip before it",
            request.branch, tip.commit
        );
        context.events.publish(source, Reason::Rewound, &note, true);
    }
    match (tip.files, held) {
        (None, Some(held)) => Ok(Arc::clone(held)),
        (files, _) => {
            let declared = manifest::read(&files.unwrap_or_default(), &source.namespace().unwrap_or_default());
            Ok(Arc::new(Held {
                commit: tip.commit,
                declared,
            }))
        }
    }
}

async fn carry_out(context: &Context, source: &GitSource, held: &Held) -> Result<Handled, SourceFailure> {
    let declared = &held.declared;
    let mut handled = Handled {
        commit: held.commit.clone(),
        standing: declared.objects.len(),
        errors: declared.errors.clone(),
        skipped: declared.skipped,
        observed: source.spec.mode == Some(SourceMode::Observe),
        ..Handled::default()
    };
    if handled.observed {
        return Ok(handled);
    }
    let approved = source.annotations().get(label::APPROVE_PRUNE) == Some(&held.commit);
    let prune = Prune {
        enabled: source.spec.prune,
        approved,
    };
    let planned = plan(declared, &live(context, source), &prune);
    let mut done = Applied::default();
    if !planned.steps.is_empty() {
        context.check_leading()?;
        let namespace = source.namespace().unwrap_or_default();
        let client = credentials::impersonate(&context.sources.config, &namespace, label::SYNC_ACCOUNT, true);
        let client = client.map_err(|error| SourceFailure::Client(Box::new(error)))?;
        done = apply::apply(&client, source, &planned.steps).await;
    }
    handled.standing = planned.unchanged + done.applied;
    handled.errors.extend(planned.conflicts);
    handled.errors.extend(done.errors);
    handled.errors.sort_by(|one, other| one.at.cmp(&other.at));
    handled.guarded = planned.guarded;
    handled.forbidden = done.forbidden;
    Ok(handled)
}

/// Every object of the three kinds in the source's namespace, as cached.
fn live(context: &Context, source: &GitSource) -> BTreeMap<Key, Live> {
    let caches = &context.caches;
    let mut all = BTreeMap::new();
    collect(&mut all, Kind::Session, &caches.sessions.state(), context, source);
    collect(&mut all, Kind::Pool, &caches.pools.state(), context, source);
    collect(&mut all, Kind::Binding, &caches.bindings.state(), context, source);
    all
}

fn collect<K: ResourceExt + Serialize>(
    all: &mut BTreeMap<Key, Live>,
    kind: Kind,
    objects: &[Arc<K>],
    context: &Context,
    source: &GitSource,
) {
    for object in objects.iter().filter(|object| object.namespace() == source.namespace()) {
        let annotation = |key: &str| object.annotations().get(key).cloned();
        let live = Live {
            uid: object.uid().unwrap_or_default(),
            owner: owner(&**object, context, source),
            applied: annotation(label::APPLIED),
            path: annotation(label::PATH),
            deleting: object.meta().deletion_timestamp.is_some(),
            object: serde_json::to_value(&**object).unwrap_or_default(),
        };
        all.insert(
            Key {
                kind,
                name: object.name_any(),
            },
            live,
        );
    }
}

fn owner(object: &impl ResourceExt, context: &Context, source: &GitSource) -> Owner {
    let name = format!("{}/{}", source.namespace().unwrap_or_default(), source.name_any());
    if let Some(uid) = object.labels().get(label::SOURCE_UID) {
        let exists = || {
            context
                .caches
                .sources
                .state()
                .iter()
                .any(|other| other.uid().as_ref() == Some(uid))
        };
        let said = object.annotations().get(label::SOURCE);
        // A source that was deleted and made again under its name goes on with what it applied.
        return if source.uid().as_ref() == Some(uid) || (said == Some(&name) && !exists()) {
            Owner::This
        } else {
            Owner::Other(format!("GitSource {}", said.map_or(uid.as_str(), String::as_str)))
        };
    }
    let marks = [
        (
            object.labels().get("kustomize.toolkit.fluxcd.io/name"),
            "Flux Kustomization",
        ),
        (object.labels().get("helm.toolkit.fluxcd.io/name"), "Flux HelmRelease"),
        (
            object.annotations().get("argocd.argoproj.io/tracking-id"),
            "Argo CD Application",
        ),
        (object.annotations().get("meta.helm.sh/release-name"), "Helm release"),
    ];
    let found = marks
        .into_iter()
        .find_map(|(name, what)| Some(format!("{what} {}", name?)));
    found.map_or(Owner::Nobody, Owner::Other)
}

/// Events and the record: once for each tip.
fn announce(context: &Context, name: &Name, source: &GitSource, handled: &Handled) {
    let memory = context.sources.memory(name, source);
    let told = format!("{} {}", handled.commit, handled.errors.len());
    if memory.announced.as_ref() == Some(&told) {
        return;
    }
    context.sources.update(name, |memory| memory.announced = Some(told));
    for error in handled.errors.iter().take(EVENTS_MAX) {
        let object = error
            .object
            .as_ref()
            .map(|object| format!("{object}: "))
            .unwrap_or_default();
        let note = format!("{}: {object}{}", error.at, error.message);
        context.events.publish(source, Reason::AppliedWithErrors, &note, true);
    }
    tracing::info!(
        source.namespace = name.namespace,
        source.name = name.name,
        git.commit = handled.commit,
        standing = handled.standing,
        errors = handled.errors.len(),
        "source handled"
    );
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    context.record_revision(RevisionRow {
        source_uid: source.uid().unwrap_or_default(),
        commit: handled.commit.clone(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        repository: source.spec.url.clone(),
        branch: source.spec.reference.branch.clone(),
        applied: count(handled.standing),
        failed: count(handled.errors.len()),
        skipped: count(handled.skipped),
        at: context.clock.now().to_string(),
    });
}

async fn write_status(context: &Context, name: &Name, source: &GitSource, state: &State) -> Result<(), SourceFailure> {
    let new = status(source, state, context.clock.now());
    if source.status.as_ref() == Some(&new) {
        return Ok(());
    }
    context.check_leading()?;
    let api: Api<GitSource> = Api::namespaced(context.client.clone(), &name.namespace);
    let wanted = GitSource {
        status: Some(new),
        ..source.clone()
    };
    let params = PostParams {
        field_manager: Some(label::MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.replace_status(&name.name, &params, &wanted).await {
        // Somebody wrote the object meanwhile: the watch brings it, and the next pass says the rest.
        Err(kube::Error::Api(status)) if ["Conflict", "NotFound"].contains(&status.reason.as_str()) => Ok(()),
        Err(error) => Err(SourceFailure::WriteStatus(Box::new(error))),
        Ok(_) => Ok(()),
    }
}

const INTERVAL: Duration = Duration::from_secs(30);
const INTERVAL_MIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_millis(200);
/// A file with a hundred mistakes needs no hundred Events; the status counts them.
const EVENTS_MAX: usize = 20;
