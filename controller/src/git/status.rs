//! Pure: the status of a source. Nothing in it ticks: an unchanged tip writes nothing.

use berth_crds::condition::{self, Wanted};
use berth_crds::{ConditionType, GitSource, GitSourceStatus, Reason, SourceError, label};
use jiff::Timestamp;
use kube::ResourceExt;

use crate::session::plan::time;

/// How a pass ended.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// A person has to act.
    Stalled(Reason, String),
    /// The tip couldn't be had; what stands stays.
    Failed(Reason, String),
    /// `spec.suspend` is set.
    Suspended,
    /// The tip was handled.
    Handled(Box<Handled>),
}

/// What became of a tip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Handled {
    /// The commit.
    pub commit: String,
    /// Objects that stand as declared.
    pub standing: usize,
    /// Everything that is wrong, in order.
    pub errors: Vec<SourceError>,
    /// Documents of foreign kinds.
    pub skipped: usize,
    /// Whether the source only looks.
    pub observed: bool,
    /// Why deletions wait for a person.
    pub guarded: Option<String>,
    /// `berth-sync` is missing or lacks a right.
    pub forbidden: Option<String>,
}

/// The status that a pass leaves.
pub fn status(source: &GitSource, state: &State, now: Timestamp) -> GitSourceStatus {
    let old = source.status.clone().unwrap_or_default();
    let generation = source.metadata.generation.unwrap_or(0);
    let mut new = GitSourceStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, &conditions(state), generation, &time(now)),
        webhook_path: source.spec.webhook.as_ref().map(|_| webhook_path(source)),
        last_handled_reconcile_at: source.annotations().get(label::RECONCILE).cloned(),
        ..old
    };
    if let State::Handled(handled) = state {
        handled_tip(&mut new, source, handled, now);
    }
    new
}

fn handled_tip(new: &mut GitSourceStatus, source: &GitSource, handled: &Handled, now: Timestamp) {
    let revision = format!("{}@sha1:{}", source.spec.reference.branch, handled.commit);
    if new.last_attempted_revision.as_ref() != Some(&revision) {
        new.last_changed_at = Some(time(now));
    }
    if handled.errors.is_empty() && handled.guarded.is_none() {
        new.last_applied_revision = Some(revision.clone());
    }
    new.last_attempted_revision = Some(revision);
    let count = |count: usize| Some(i64::try_from(count).unwrap_or(i64::MAX));
    new.applied_objects = count(handled.standing);
    new.failed_objects = count(handled.errors.len());
    new.skipped_documents = count(handled.skipped);
    new.errors = handled.errors.iter().take(ERRORS_MAX).cloned().collect();
}

fn webhook_path(source: &GitSource) -> String {
    format!(
        "/webhooks/{}/{}",
        source.namespace().unwrap_or_default(),
        source.name_any()
    )
}

fn conditions(state: &State) -> Vec<Wanted> {
    match state {
        State::Stalled(reason, message) => stalled(*reason, message),
        State::Failed(reason, message) => vec![
            Wanted::no(ConditionType::Ready, *reason, message.clone()),
            Wanted::yes(
                ConditionType::Reconciling,
                Reason::Progressing,
                "the fetch is tried again",
            ),
        ],
        State::Suspended => vec![Wanted::yes(
            ConditionType::Ready,
            Reason::Suspended,
            "spec.suspend is set",
        )],
        State::Handled(handled) => tip(handled),
    }
}

fn tip(handled: &Handled) -> Vec<Wanted> {
    let commit = handled.commit.get(..12).unwrap_or(&handled.commit);
    if let Some(why) = &handled.forbidden {
        return stalled(Reason::SyncForbidden, why);
    }
    if let Some(guarded) = &handled.guarded {
        let message = format!(
            "{guarded}; to approve, annotate this GitSource with {}={}",
            label::APPROVE_PRUNE,
            handled.commit
        );
        return stalled(Reason::PruneGuard, &message);
    }
    if let Some(first) = handled.errors.first() {
        let message = format!(
            "{} of commit {commit} can't be applied; first {}: {}",
            things(handled),
            first.at,
            first.message
        );
        return stalled(Reason::AppliedWithErrors, &condition::cut(&message, MESSAGE_MAX));
    }
    if handled.observed {
        let message = format!("commit {commit} is fetched; another applier applies it");
        return vec![Wanted::yes(ConditionType::Ready, Reason::Observed, message)];
    }
    vec![Wanted::yes(
        ConditionType::Ready,
        Reason::Applied,
        format!("{} objects of commit {commit} stand", handled.standing),
    )]
}

fn things(handled: &Handled) -> String {
    let total = handled.standing + handled.errors.len();
    format!("{} of {total} documents", handled.errors.len())
}

fn stalled(reason: Reason, message: &str) -> Vec<Wanted> {
    vec![
        Wanted::no(ConditionType::Ready, reason, message),
        Wanted::yes(ConditionType::Stalled, reason, message),
    ]
}

/// As the schema bounds it.
const ERRORS_MAX: usize = 20;
/// A screenful.
const MESSAGE_MAX: usize = 1024;
