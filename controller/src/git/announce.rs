//! Tells of a tip: Events of what is newly wrong, a line in the log, a row of the record.

use berth_crds::{GitSource, Reason, SourceError};
use kube::ResourceExt;

use super::status::Handled;
use crate::context::Context;
use crate::store::revision::RevisionRow;
use crate::watch::Name;

/// A tip as it was told of.
#[derive(Clone, PartialEq)]
pub struct Told {
    commit: String,
    count: usize,
    errors: Vec<SourceError>,
}

impl Told {
    fn of(handled: &Handled) -> Self {
        let errors = handled.errors.iter().take(EVENTS_MAX).cloned().collect();
        Self {
            commit: handled.commit.clone(),
            count: handled.errors.len(),
            errors,
        }
    }

    /// What the status says was told before this process led.
    fn before(source: &GitSource) -> Option<Self> {
        let status = source.status.as_ref()?;
        let (_, commit) = status.last_attempted_revision.as_ref()?.split_once("@sha1:")?;
        let count = usize::try_from(status.failed_objects?).ok()?;
        Some(Self {
            commit: commit.to_owned(),
            count,
            errors: status.errors.clone(),
        })
    }
}

/// Events of what is newly wrong, and the record: when a tip or its errors change.
pub fn announce(context: &Context, name: &Name, source: &GitSource, handled: &Handled, before: Option<Told>) -> Told {
    let told = Told::of(handled);
    if before.as_ref() == Some(&told) {
        return told;
    }
    let known = before
        .or_else(|| Told::before(source))
        .map(|before| before.errors)
        .unwrap_or_default();
    for error in told.errors.iter().filter(|error| !known.contains(error)) {
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
    told
}

/// A file with a hundred mistakes needs no hundred Events; the status counts them.
const EVENTS_MAX: usize = 20;
