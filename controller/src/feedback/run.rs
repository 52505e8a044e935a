//! IO: asks a forge for the pull requests of a source, and says there what is to be said, once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{GitSource, Require};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use super::say::{self, Facts, Matches};
use crate::check::{How, Report};
use crate::context::Context;
use crate::forge::client::ForgeError;
use crate::forge::config::Place;
use crate::forge::desk::{Desk, Listed};
use crate::git::wire::Preview;
use crate::grant::permit::Matching;
use crate::grant::select::selects;
use crate::telemetry::chain;
use crate::watch::Name;
use crate::work::Outcome;

/// What was said while this process leads, so that nothing is asked or said twice.
#[derive(Default)]
pub struct Said {
    /// By the forge: whose its token is.
    me: Mutex<HashMap<String, String>>,
    /// Of each source those that its last look has seen, at most two pages.
    pulls: Mutex<HashMap<(Name, u64), Spoken>>,
    /// Until when a forge wants to be left alone: with the token that speaks, so that evidence waits for none of it.
    limits: Mutex<HashMap<String, Instant>>,
}

/// What was said on one pull request.
#[derive(Clone, Default)]
struct Spoken {
    /// Head, and the tip or the merge that it was compared with.
    of: (String, String),
    report: Arc<Report>,
    may_write: bool,
    /// Hash of the comment, and of the status with its commit.
    comment: Option<u64>,
    status: Option<u64>,
}

/// Speaks about the pull requests of one source.
pub async fn reconcile(context: Arc<Context>, name: Name) -> Outcome {
    let Some(source) = context.caches.source(&name) else {
        context.feedback.pulls.lock().retain(|(of, _), _| *of != name);
        return Outcome::Done;
    };
    let Some(place) = context.evidence.forges().place(&source.spec.url) else {
        return Outcome::Done;
    };
    if source.spec.suspend || source.meta().deletion_timestamp.is_some() || context.check_leading().is_err() {
        return Outcome::Done;
    }
    let until = context.feedback.limits.lock().get(&place.forge).copied();
    if let Some(until) = until.filter(|until| *until > Instant::now()) {
        return Outcome::Again(until.saturating_duration_since(Instant::now()));
    }
    match look(&context, &name, &source, &place).await {
        Ok(pending) => pending.map_or(Outcome::Done, Outcome::Again),
        Err(error) => {
            if let ForgeError::Limited { wait, .. } = &error {
                context
                    .feedback
                    .limits
                    .lock()
                    .insert(place.forge.clone(), Instant::now() + *wait);
                return Outcome::Again(*wait);
            }
            let error = chain(&error);
            tracing::warn!(
                source.namespace = name.namespace,
                source.name = name.name,
                error,
                "no feedback on pull requests"
            );
            Outcome::Failed
        }
    }
}

async fn look(
    context: &Context,
    name: &Name,
    source: &GitSource,
    place: &Place,
) -> Result<Option<Duration>, ForgeError> {
    let Some(forge) = context.evidence.forges().named(&place.forge) else {
        return Ok(None);
    };
    let Some(desk) = Desk::begin(forge).await? else {
        return Ok(None);
    };
    let known = context.feedback.me.lock().get(&place.forge).cloned();
    let me = match known {
        Some(me) => me,
        None => desk.me().await?,
    };
    context.feedback.me.lock().insert(place.forge.clone(), me.clone());
    let table = Table {
        context,
        name,
        source,
        path: &place.path,
        desk,
        me,
    };
    let branch = &source.spec.reference.branch;
    let open = table.desk.pulls(&place.path, branch, true).await?;
    let closed = table.desk.pulls(&place.path, branch, false).await?;
    context.feedback.pulls.lock().retain(|(of, number), _| {
        let mut listed = open.iter().chain(&closed);
        of != name || listed.any(|pull| pull.number == *number)
    });
    let mut pending = None;
    for pull in open {
        table.about(&pull, None).await?;
    }
    let now = context.clock.now();
    for pull in closed {
        let Some(merged) = pull.merged_at.filter(|merged| now.duration_since(*merged) < FOLLOWED) else {
            continue;
        };
        if table.about(&pull, Some(merged)).await? {
            pending = Some(UNTIL_IN_FORCE);
        }
    }
    Ok(pending)
}

/// One look at one source.
struct Table<'a> {
    context: &'a Context,
    name: &'a Name,
    source: &'a GitSource,
    path: &'a str,
    desk: Desk<'a>,
    me: String,
}

impl Table<'_> {
    /// Says what there is to say on one pull request; whether something is still to come.
    async fn about(&self, pull: &Listed, merged: Option<Timestamp>) -> Result<bool, ForgeError> {
        let key = (self.name.clone(), pull.number);
        let mut spoken = self
            .context
            .feedback
            .pulls
            .lock()
            .get(&key)
            .cloned()
            .unwrap_or_default();
        let merge = pull.merge_commit_sha.clone().filter(|_| merged.is_some());
        let tip = self.context.sources.tip(self.name).unwrap_or_default();
        let of = (pull.head.sha.clone(), merge.clone().unwrap_or(tip));
        if spoken.of != of {
            let wanted = Preview {
                pull: pull.number,
                head: pull.head.sha.clone(),
                merge,
            };
            match self.context.sources.preview(self.context, self.source, wanted).await {
                Ok(report) => spoken.report = Arc::new(report),
                Err(why) => {
                    tracing::info!(
                        source.namespace = self.name.namespace,
                        source.name = self.name.name,
                        pull = pull.number,
                        why,
                        "a pull request can't be read"
                    );
                    return Ok(false);
                }
            }
            spoken.may_write = self.desk.may_write(self.path, &pull.user.login).await?;
            spoken.of = of;
        }
        let facts = self.facts(&spoken, merged).await;
        let pending = facts
            .merged
            .as_ref()
            .is_some_and(|outcomes| outcomes.iter().any(|one| one.said.is_none()));
        self.speak(pull, &mut spoken, &facts, merged.is_none()).await?;
        self.context.feedback.pulls.lock().insert(key, spoken);
        Ok(pending)
    }

    async fn speak(&self, pull: &Listed, spoken: &mut Spoken, facts: &Facts, open: bool) -> Result<(), ForgeError> {
        let context = self.context;
        let report = Arc::clone(&spoken.report);
        let text = say::comment(&report, facts);
        if spoken.comment != Some(hash(&text)) {
            let marker = say::marker(&facts.source);
            let comments = self.desk.comments(self.path, pull.number).await?;
            let ours = comments
                .into_iter()
                .find(|comment| comment.user.login == self.me && comment.body.starts_with(&marker));
            // Where nothing was said, nothing has to be said about nothing.
            let is_worth_it = ours.is_some() || !report.changes.is_empty() || !report.errors.is_empty();
            let same = ours
                .as_ref()
                .is_some_and(|ours| ours.body.trim_end() == text.trim_end());
            if is_worth_it && !same && context.check_leading().is_ok() {
                let before = ours.map(|ours| ours.id);
                self.desk.say(self.path, pull.number, before, &text).await?;
            }
            spoken.comment = Some(hash(&text));
        }
        let status = say::status(&report, &facts.source);
        let said = hash(&(&pull.head.sha, &status));
        if open && spoken.status != Some(said) && context.check_leading().is_ok() {
            self.desk.status(self.path, &pull.head.sha, &status).await?;
            spoken.status = Some(said);
        }
        Ok(())
    }

    async fn facts(&self, spoken: &Spoken, merged: Option<Timestamp>) -> Facts {
        let Name { namespace, name } = self.name;
        let sessions = self.context.caches.sessions_of(namespace);
        let changes = &spoken.report.changes;
        let matches = changes.iter().filter(|_| merged.is_none()).map(|change| {
            let theirs = sessions.iter().filter(|session| {
                let mut listed = session.spec.credentials.iter();
                listed.any(|credential| credential.name == change.credential) && selects(&change.subjects, session)
            });
            let mut names: Vec<String> = theirs.map(|session| session.name_any()).collect();
            names.sort_unstable();
            let count = names.len();
            names.truncate(if spoken.may_write { NAMES_MAX } else { 0 });
            (change.binding.clone(), Matches { count, names })
        });
        let outcomes = match merged {
            None => None,
            Some(merged) => {
                let entries = self.context.recorder.since(namespace, merged).await;
                let followed = changes.iter().filter(|change| change.how != How::Narrowed);
                Some(followed.map(|change| say::outcome(change, merged, &entries)).collect())
            }
        };
        Facts {
            source: format!("{namespace}/{name}"),
            matches: matches.collect(),
            wanted: self.wanted(),
            merged: outcomes,
        }
    }

    fn wanted(&self) -> Vec<String> {
        let policies = self.context.caches.policies.state();
        let labels = self.context.caches.labels_of(&self.name.namespace);
        let matching = Matching::of_namespace(&self.name.namespace, labels.as_ref(), &policies);
        let requirements: Vec<&Require> = matching.requirements().collect();
        say::wanted(&requirements)
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A merge is spoken about this long; a grant that isn't in force by then is a matter for its status.
const FOLLOWED: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
const UNTIL_IN_FORCE: Duration = Duration::from_secs(2);
/// More names than this are a number.
const NAMES_MAX: usize = 10;
