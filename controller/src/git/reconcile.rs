//! One look at one source: fetch when it is due, read, plan, apply, status. Writes nothing when nothing changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{GitSource, Reason, SourceMode, label};
use http::HeaderMap;
use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::config::Config;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use super::announce::{Told, announce};
use super::apply::{self, Applied};
use super::credentials::{Accounts, CredentialsError};
use super::declared::{Declarations, Kind};
use super::fetch::{self, FetchError};
use super::live::live;
use super::plan::{Prune, plan};
use super::status::{Handled, State, status};
use super::webhook;
use super::wire::{Inspect, Inspected, Preview, Request};
use crate::check::Report;
use crate::context::{Context, NotLeading};
use crate::grant::evidence::ask::Evidence;
use crate::grant::tip::{SourceTip, TipObjects};
use crate::session::plan::time;
use crate::telemetry::chain;
use crate::watch::{Caches, Name};
use crate::work::Outcome;

/// What is remembered of sources while this process leads.
pub struct Sources {
    accounts: Accounts,
    program: PathBuf,
    cache: PathBuf,
    inner: Mutex<HashMap<Name, Memory>>,
    /// One at a time looks into pull requests, so that fetches of branches keep their memory and cores.
    inspecting: tokio::sync::Mutex<()>,
    /// The same for what is said on pull requests: no grant waits for that.
    previewing: tokio::sync::Mutex<()>,
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
    /// Fetches that were asked for lately: a few may follow each other at once.
    burst: Burst,
    /// A pass is applying what it has read: meanwhile [`fetch_beside`] fetches.
    applying: bool,
    /// One fetch at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    tip: Option<Arc<Held>>,
    /// When the branch was last fetched.
    verified_at: Option<Timestamp>,
    /// When this process saw the branch rewound.
    rewound_at: Option<Timestamp>,
    /// What was published as Events and recorded.
    told: Option<Told>,
}

/// A tip that was read.
struct Held {
    commit: String,
    declared: Declarations,
    /// The bindings and sessions among them, for the grants.
    granting: Arc<TipObjects>,
}

impl Held {
    fn new(commit: String, declared: Declarations) -> Self {
        let objects = declared.objects.iter().filter(|object| object.key.kind != Kind::Pool);
        let granting = TipObjects::new(objects.cloned(), declared.withheld.clone());
        Self {
            commit,
            declared,
            granting: Arc::new(granting),
        }
    }
}

impl Memory {
    /// From one fetch to the next: however often a forge or a person asks, one a second, after a few at once.
    fn wait(&self, source: &GitSource, interval: Duration) -> Duration {
        let asked = self.asked || self.requested != requested(source);
        match (asked, self.burst.is_used_up(Instant::now())) {
            (false, _) => interval,
            (true, true) => SPACING,
            (true, false) => SOON,
        }
    }
}

/// A bucket of fetches: a branch that is pushed, reviewed and merged tells of itself three times in a second.
#[derive(Clone, Copy, Default)]
struct Burst {
    used: f64,
    at: Option<Instant>,
}

impl Burst {
    fn used(self, now: Instant) -> f64 {
        let since = self
            .at
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        (self.used - since / SPACING.as_secs_f64()).max(0.0)
    }

    fn is_used_up(self, now: Instant) -> bool {
        self.used(now) > BURST - 1.0
    }

    fn uses(&mut self, now: Instant) {
        (self.used, self.at) = (self.used(now) + 1.0, Some(now));
    }
}

fn requested(source: &GitSource) -> Option<String> {
    source.annotations().get(label::RECONCILE).cloned()
}

impl Sources {
    /// Sources whose clones are kept under `cache`; clients act as ServiceAccounts by way of `config`.
    pub fn new(config: Config, cache: &Path) -> Self {
        Self {
            accounts: Accounts::new(config),
            // Without it each fetch says that it can't be started.
            program: std::env::current_exe().unwrap_or_default(),
            cache: cache.to_owned(),
            inner: Mutex::default(),
            inspecting: tokio::sync::Mutex::default(),
            previewing: tokio::sync::Mutex::default(),
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

    /// A client that acts as a ServiceAccount of a namespace.
    pub fn client(&self, namespace: &str, account: &'static str) -> Result<kube::Client, kube::Error> {
        self.accounts.client(namespace, account)
    }

    /// What the sources of a namespace say of bindings and sessions, by their newest tips.
    pub fn tips(&self, caches: &Caches, namespace: &str, evidence: &Evidence) -> Vec<SourceTip> {
        let inner = self.inner.lock();
        let sources = caches
            .sources
            .state()
            .into_iter()
            .filter(|source| source.namespace().as_deref() == Some(namespace));
        let tips = sources.map(|source| {
            let memory = inner.get(&Name::of(&*source));
            let same = memory.filter(|memory| Some(&memory.uid) == source.uid().as_ref());
            let written = source
                .status
                .as_ref()
                .and_then(|status| Some(status.rewound_at.as_ref()?.0));
            SourceTip {
                declared: same.and_then(|memory| Some(Arc::clone(&memory.tip.as_ref()?.granting))),
                verified_at: same.and_then(|memory| memory.verified_at),
                rewound_at: same.and_then(|memory| memory.rewound_at).max(written),
                place: evidence.place(&source.spec.url),
                source,
            }
        });
        tips.collect()
    }

    /// What commits of a pull request say, by a clone beside the source's own.
    pub async fn inspect(&self, context: &Context, name: &Name, wanted: Inspect) -> Result<Inspected, String> {
        let Some(source) = context.caches.source(name) else {
            return Err(format!("GitSource {} is gone", name.name));
        };
        let request = Request {
            inspect: Some(wanted),
            ..request(context, &source).await?
        };
        let _one = self.inspecting.lock().await;
        let inspected = fetch::inspect(&self.program, &request).await;
        inspected.map_err(|error| error.to_string())
    }

    /// What a pull request changes, by the same clone.
    pub async fn preview(&self, context: &Context, source: &GitSource, wanted: Preview) -> Result<Report, String> {
        let request = Request {
            preview: Some(wanted),
            ..request(context, source).await?
        };
        let _one = self.previewing.lock().await;
        let previewed = fetch::preview(&self.program, &request).await;
        previewed.map_err(|error| error.to_string())
    }

    /// The commit that is held of a source.
    pub fn tip(&self, name: &Name) -> Option<String> {
        let inner = self.inner.lock();
        Some(inner.get(name)?.tip.as_ref()?.commit.clone())
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
    let secret = context.sources.accounts.webhook(&source).await?;
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
            let error = chain(&error);
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
    let told = context.sources.memory(name, source).told;
    let interval = interval(source);
    let held = match held(context, name, source, interval).await {
        Ok(held) => held,
        Err(why) => return Ok((State::Failed(Reason::FetchFailed, why), Some(jittered(interval)))),
    };
    let handled = carry_out(context, source, &held).await?;
    let told = announce(context, name, source, &handled, told);
    context.sources.update(name, |memory| memory.told = Some(told));
    let memory = context.sources.memory(name, source);
    let wait = memory.wait(source, interval);
    let left = memory.fetched.map_or(wait, |at| wait.saturating_sub(at.elapsed()));
    Ok((State::Handled(Box::new(handled)), Some(jittered(left.max(SOON)))))
}

fn interval(source: &GitSource) -> Duration {
    source.spec.interval.map_or(INTERVAL, Duration::from).max(INTERVAL_MIN)
}

/// Fetches a source while its pass applies what it has read: two thousand objects take their time, and a revert that comes
/// meanwhile doesn't wait for them. The pass that follows applies what is found.
pub async fn fetch_beside(context: Arc<Context>, name: Name) -> Outcome {
    let Some(source) = context.caches.source(&name) else {
        return Outcome::Done;
    };
    let memory = context.sources.memory(&name, &source);
    let same = memory.generation == source.metadata.generation.unwrap_or(0);
    if !memory.applying || !same || source.spec.suspend || source.spec.verify.is_some() {
        return Outcome::Done;
    }
    let (interval, before) = (interval(&source), context.sources.tip(&name));
    if let Err(why) = held(&context, &name, &source, interval).await {
        tracing::debug!(
            source.namespace = name.namespace,
            source.name = name.name,
            why,
            "not fetched; the pass tries again"
        );
    }
    if context.sources.tip(&name) != before {
        context.queues.sources.poke(name.clone());
    }
    let memory = context.sources.memory(&name, &source);
    let wait = memory.wait(&source, interval);
    let left = memory.fetched.map_or(wait, |at| wait.saturating_sub(at.elapsed()));
    Outcome::Again(left.max(SOON))
}

/// Up to a tenth more, so that sources made together don't fetch together for ever.
fn jittered(wait: Duration) -> Duration {
    wait + wait.mul_f64(rand::random::<f64>() / 10.0)
}

/// The tip: fetched when it is due or asked for, else as it is held.
async fn held(context: &Context, name: &Name, source: &GitSource, interval: Duration) -> Result<Arc<Held>, String> {
    let turn = context.sources.memory(name, source).turn;
    let _turn = turn.lock().await;
    let memory = context.sources.memory(name, source); // as another fetch may have left it
    let generation = source.metadata.generation.unwrap_or(0);
    let due = memory
        .fetched
        .is_none_or(|at| at.elapsed() >= memory.wait(source, interval));
    let wanted = due || memory.generation != generation;
    if let Some(tip) = memory.tip.clone().filter(|_| !wanted) {
        return Ok(tip);
    }
    context.sources.update(name, |memory| {
        if memory.asked || memory.requested != requested(source) {
            memory.burst.uses(Instant::now());
        }
        memory.asked = false;
        memory.fetched = Some(Instant::now());
        memory.requested = requested(source);
        // What was read for another spec may be of another repository or other paths.
        if std::mem::replace(&mut memory.generation, generation) != generation {
            memory.tip = None;
        }
    });
    let kept = memory.tip.clone().filter(|_| memory.generation == generation);
    let held = fetch_tip(context, source, kept.as_ref()).await?;
    context.sources.update(name, |memory| {
        memory.tip = Some(Arc::clone(&held));
        memory.verified_at = Some(context.clock.now());
    });
    // Revocations don't wait for the applies that follow.
    context.queues.grants.poke(name.namespace.clone());
    context.queues.feedback.poke_after(name.clone(), AFTERWARDS);
    Ok(held)
}

/// What a child is told of a source.
async fn request(context: &Context, source: &GitSource) -> Result<Request, String> {
    let login = context.sources.accounts.login(source).await;
    let (login, ca) = login.map_err(|error| error.to_string())?;
    Ok(Request {
        url: source.spec.url.clone(),
        branch: source.spec.reference.branch.clone(),
        folder: fetch::folder(&context.sources.cache, &source.uid().unwrap_or_default()),
        namespace: source.namespace().unwrap_or_default(),
        include: source.spec.include.clone(),
        exclude: source.spec.exclude.clone(),
        login,
        networks: context.settings.git_networks.clone(),
        ca,
        ..Request::default()
    })
}

async fn fetch_tip(context: &Context, source: &GitSource, held: Option<&Arc<Held>>) -> Result<Arc<Held>, String> {
    let attempted = source
        .status
        .as_ref()
        .and_then(|status| status.last_attempted_revision.as_deref());
    let before = attempted.and_then(|attempted| attempted.split_once("@sha1:"));
    let request = Request {
        held: held.map(|held| held.commit.clone()),
        before: before
            .filter(|(branch, _)| *branch == source.spec.reference.branch)
            .map(|(_, commit)| commit.to_owned()),
        ..request(context, source).await?
    };
    let tip = fetch::fetch(&context.sources.program, &request)
        .await
        .map_err(|error: FetchError| error.to_string())?;
    if tip.rewound {
        let note = format!(
            "branch {} was rewound: commit {} isn't a descendant of the tip before it",
            request.branch, tip.commit
        );
        context.events.publish(source, Reason::Rewound, &note, true);
        let now = context.clock.now();
        let name = Name::of(source);
        context.sources.update(&name, |memory| memory.rewound_at = Some(now));
    }
    match (tip.declarations, held) {
        (None, Some(held)) => Ok(Arc::clone(held)),
        (declared, held) => {
            let mut declared = declared.unwrap_or_default();
            declared.inherit(held.map(|held| &held.declared), &tip.commit);
            Ok(Arc::new(Held::new(tip.commit, declared)))
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
        let client = context.sources.accounts.client(&namespace, label::SYNC_ACCOUNT);
        let client = client.map_err(|error| SourceFailure::Client(Box::new(error)))?;
        let name = Name::of(source);
        context.sources.update(&name, |memory| memory.applying = true);
        context.queues.fetches.poke(name.clone());
        done = apply::apply(&client, source, &planned.steps).await;
        context.sources.update(&name, |memory| memory.applying = false);
    }
    handled.standing = planned.unchanged + done.applied;
    handled.errors.extend(planned.conflicts);
    handled.errors.extend(done.errors);
    handled.errors.sort_by(|one, other| one.at.cmp(&other.at));
    handled.guarded = planned.guarded;
    handled.forbidden = done.forbidden;
    Ok(handled)
}

async fn write_status(context: &Context, name: &Name, source: &GitSource, state: &State) -> Result<(), SourceFailure> {
    let mut new = status(source, state, context.clock.now());
    let rewound = context.sources.memory(name, source).rewound_at;
    if let Some(rewound) = rewound.filter(|_| matches!(state, State::Handled(_))) {
        new.rewound_at = Some(time(rewound));
    }
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
const SPACING: Duration = Duration::from_secs(1);
/// What is said on pull requests comes after what a fetch changes.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Fetches that may follow each other at once.
const BURST: f64 = 5.0;
const SOON: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_fetches_follow_each_other_at_once_and_then_one_a_second() {
        let (mut burst, now) = (Burst::default(), Instant::now());
        for _ in 0..5 {
            assert!(!burst.is_used_up(now));
            burst.uses(now);
        }
        assert!(burst.is_used_up(now) && burst.is_used_up(now + SPACING / 2));
        let later = now + SPACING;
        assert!(!burst.is_used_up(later));
        burst.uses(later);
        assert!(burst.is_used_up(later));
        assert!(!burst.is_used_up(now + Duration::from_mins(1)));
    }
}
