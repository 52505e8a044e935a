//! IO: asks forges about the commits that brought bindings, beside the passes that need to know: one conversation for
//! all bindings of a commit, few at a time, each again after a back-off. Nothing here decides.
//!
//! A forge that is down or wants to be left alone holds what isn't proven yet; what was sealed needs no forge, and a
//! revocation neither.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::CredentialBinding;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::prove::{Answer, Ask, Asked};
use super::review::{Answered, small};
use super::signers::Signers;
use crate::context::Context;
use crate::forge::client::{Asking, ForgeError};
use crate::forge::config::{Forge, Forges, Place};
use crate::git::wire::Inspect;
use crate::grant::permit::host_covers;
use crate::telemetry::chain;
use crate::watch::Name;

/// What forges have said while this process leads.
pub struct Evidence {
    forges: Forges,
    signers: Option<PathBuf>,
    commits: Mutex<BTreeMap<Asked, Entry>>,
    repositories: Mutex<HashMap<Place, Repository>>,
    /// Until when a forge wants to be left alone.
    limits: Mutex<HashMap<String, Instant>>,
    read: Mutex<(Vec<u8>, Arc<Signers>)>,
    asking: Semaphore,
}

/// A commit that was asked about.
#[derive(Default)]
struct Entry {
    names: BTreeSet<String>,
    teams: BTreeSet<String>,
    answer: Option<Answer>,
    running: bool,
    asked: u32,
    next: Option<Instant>,
}

/// A repository's id.
#[derive(Default)]
struct Repository {
    id: Option<i64>,
    running: bool,
    asked: u32,
    next: Option<Instant>,
}

/// What wants to be asked, all bindings of a commit together.
struct Group {
    asked: Asked,
    line: Vec<String>,
    names: BTreeSet<String>,
    teams: BTreeSet<String>,
    /// Whether one of them isn't proven by what was said.
    open: bool,
}

/// What a pass wants to know of one binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What is asked.
    pub ask: Ask,
    /// Whether what was said doesn't prove it.
    pub open: bool,
}

impl Evidence {
    /// Of these forges; people's keys are read from a file as it is when they are needed.
    pub fn new(forges: Forges, signers: Option<PathBuf>) -> Self {
        Self {
            forges,
            signers,
            commits: Mutex::default(),
            repositories: Mutex::default(),
            limits: Mutex::default(),
            read: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
        }
    }

    /// The forges of the install.
    pub fn forges(&self) -> &Forges {
        &self.forges
    }

    /// The keys of people, as the file says now.
    pub async fn signers(&self) -> Arc<Signers> {
        let Some(file) = &self.signers else {
            return Arc::default();
        };
        let text = match tokio::fs::read(file).await {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(%error, "the signing keys can't be read: no commit counts as signed");
                Vec::new()
            }
        };
        let mut read = self.read.lock();
        if read.0 != text {
            let (signers, errors) = Signers::parse(&String::from_utf8_lossy(&text), &self.forges.machine_keys());
            for error in errors {
                tracing::warn!(error, "a signing key is left out");
            }
            *read = (text, Arc::new(signers));
        }
        Arc::clone(&read.1)
    }

    /// What was said of the commits of a namespace.
    pub fn answers(&self, namespace: &str) -> BTreeMap<Asked, Answer> {
        let commits = self.commits.lock();
        let ours = commits.iter().filter(|(asked, _)| asked.namespace == namespace);
        ours.filter_map(|(asked, entry)| Some((asked.clone(), entry.answer.clone()?)))
            .collect()
    }

    /// Where a clone URL's repository is, and its id once the forge has said it.
    pub fn place(&self, url: &str) -> Option<(Place, Option<i64>)> {
        let place = self.forges.place(url)?;
        let id = self.repositories.lock().get(&place).and_then(|known| known.id);
        Some((place, id))
    }

    /// Users, by forge, whose credentials sessions may use: those that are configured, and those that bindings name for
    /// pushes to the forge.
    pub fn agents(&self, bindings: &[Arc<CredentialBinding>]) -> BTreeMap<String, BTreeSet<String>> {
        let mut agents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (forge, host) in self.forges.hosts() {
            let routes = bindings.iter().flat_map(|binding| &binding.spec.routes);
            let theirs = routes.filter(|route| host_covers(&route.host, host));
            let named = theirs.filter_map(|route| Some(small(route.inject.basic.as_ref()?.username.as_ref()?)));
            let all = agents
                .entry(forge.to_owned())
                .or_insert_with(|| self.forges.agents(forge));
            all.extend(named);
        }
        agents
    }

    fn left_alone(&self, forge: &str) -> Option<Instant> {
        let limits = self.limits.lock();
        limits.get(forge).copied().filter(|until| *until > Instant::now())
    }

    fn limited(&self, forge: &str, error: &ForgeError) {
        if let ForgeError::Limited { wait, .. } = error {
            self.limits.lock().insert(forge.to_owned(), Instant::now() + *wait);
        }
    }
}

/// Asks what is due for a namespace, each in a task of its own; what nobody asks for any more is forgotten. Gives the
/// time until something else is due.
pub fn ask(context: &Arc<Context>, namespace: &str, asks: Vec<Wanted>) -> Option<Duration> {
    let groups = grouped(asks);
    let mut due = Vec::new();
    let mut waits = Vec::new();
    {
        let mut commits = context.evidence.commits.lock();
        commits.retain(|asked, entry| {
            asked.namespace != namespace || entry.running || groups.iter().any(|group| group.asked == *asked)
        });
        for group in groups {
            let entry = commits.entry(group.asked.clone()).or_default();
            let more = !group.names.is_subset(&entry.names) || !group.teams.is_subset(&entry.teams);
            if more && !entry.running {
                (entry.next, entry.asked) = (None, 0);
            }
            if !group.open {
                continue; // it is kept until the seal is written
            }
            let limit = context.evidence.left_alone(&group.asked.place.forge);
            match entry.next.max(limit).filter(|next| *next > Instant::now()) {
                _ if entry.running => {}
                Some(next) => waits.push(next.saturating_duration_since(Instant::now())),
                None => {
                    entry.running = true;
                    entry.names.extend(group.names.iter().cloned());
                    entry.teams.extend(group.teams.iter().cloned());
                    due.push((group.asked, group.line, entry.names.clone(), entry.teams.clone()));
                }
            }
        }
    }
    for (asked, line, names, teams) in due {
        let context = Arc::clone(context);
        tokio::spawn(async move { one(&context, asked, &line, (names, teams)).await });
    }
    waits.into_iter().min().map(|wait| wait.max(SOON))
}

fn grouped(asks: Vec<Wanted>) -> Vec<Group> {
    let mut groups: BTreeMap<Asked, Group> = BTreeMap::new();
    for Wanted { ask, open } in asks {
        let group = groups.entry(ask.asked.clone()).or_insert_with(|| Group {
            asked: ask.asked,
            line: ask.line,
            names: BTreeSet::new(),
            teams: BTreeSet::new(),
            open: false,
        });
        group.open |= open;
        group.names.insert(ask.name);
        group.teams.extend(ask.teams);
    }
    groups.into_values().collect()
}

async fn one(
    context: &Arc<Context>,
    asked: Asked,
    line: &[String],
    (names, teams): (BTreeSet<String>, BTreeSet<String>),
) {
    let evidence = &context.evidence;
    let answer = match evidence.asking.acquire().await {
        Ok(_permit) => facts(context, &asked, line, (names, teams)).await,
        Err(_closed) => return, // never: nobody closes it
    };
    let mut known = evidence.commits.lock();
    let entry = known.entry(asked.clone()).or_default();
    entry.running = false;
    entry.asked += 1;
    let wait = match &answer {
        Answer::Facts(_) => back_off(AGAIN_MIN, AGAIN_MAX, entry.asked),
        Answer::Failed(why) => {
            tracing::warn!(
                source.namespace = asked.namespace,
                source.name = asked.source,
                git.commit = asked.commit,
                error = why,
                "evidence can't be looked at"
            );
            back_off(FAILED_MIN, FAILED_MAX, entry.asked)
        }
    };
    // One that was refused may be approved yet; a webhook or a change looks at once, nobody else has to.
    entry.next = Some(Instant::now() + wait);
    entry.answer = Some(answer);
    drop(known);
    context.queues.grants.poke(asked.namespace);
}

async fn facts(
    context: &Arc<Context>,
    asked: &Asked,
    line: &[String],
    (names, teams): (BTreeSet<String>, BTreeSet<String>),
) -> Answer {
    let evidence = &context.evidence;
    let Some(forge) = evidence.forges.named(&asked.place.forge) else {
        return Answer::Failed(format!("forge {} isn't configured", asked.place.forge));
    };
    let told = async { Asking::begin(forge).await?.about(&asked.place.path, line, &teams).await };
    let told = match told.await {
        Ok(told) => told,
        Err(error) => {
            evidence.limited(&asked.place.forge, &error);
            return Answer::Failed(chain(&error));
        }
    };
    let mut answered = Answered {
        repository: told.repository,
        pull: told.pull,
        teams: told.teams,
        ..Answered::default()
    };
    if let Some(pull) = &answered.pull {
        let reviewed = pull.reviews.iter().rev().map(|review| review.commit.clone());
        let mut commits: Vec<String> = std::iter::once(pull.head.clone()).chain(reviewed).collect();
        commits.truncate(HEADS_MAX);
        let wanted = Inspect {
            pull: pull.number,
            merge: pull.merge_commit.clone().unwrap_or_default(),
            commits,
            names,
        };
        let source = Name {
            namespace: asked.namespace.clone(),
            name: asked.source.clone(),
        };
        match context.sources.inspect(context, &source, wanted).await {
            Ok(inspected) => answered.inspected = inspected,
            Err(why) => return Answer::Failed(why),
        }
    }
    Answer::Facts(Arc::new(answered))
}

/// Asks for the ids of repositories that policies match by and that aren't known, or not lately. Gives the time until
/// something is due.
pub fn identify(context: &Arc<Context>, namespace: &str, places: BTreeSet<Place>) -> Option<Duration> {
    let mut waits = Vec::new();
    for place in places {
        let mut known = context.evidence.repositories.lock();
        let repository = known.entry(place.clone()).or_default();
        let limit = context.evidence.left_alone(&place.forge);
        if let Some(next) = repository.next.max(limit).filter(|next| *next > Instant::now()) {
            waits.push(next.saturating_duration_since(Instant::now()));
        } else if !repository.running {
            repository.running = true;
            let (context, namespace) = (Arc::clone(context), namespace.to_owned());
            tokio::spawn(async move { identify_one(&context, namespace, place).await });
        }
    }
    waits.into_iter().min().map(|wait| wait.max(SOON))
}

async fn identify_one(context: &Context, namespace: String, place: Place) {
    let evidence = &context.evidence;
    let Some(forge) = evidence.forges.named(&place.forge) else {
        return;
    };
    let answer = async {
        let _permit = evidence.asking.acquire().await;
        id(forge, &place.path).await
    };
    let answer = answer.await;
    let mut known = evidence.repositories.lock();
    let repository = known.entry(place.clone()).or_default();
    repository.running = false;
    let wait = match answer {
        Ok(id) => {
            repository.asked = 0;
            repository.id = Some(id);
            IDENTIFIED
        }
        Err(error) => {
            evidence.limited(&place.forge, &error);
            tracing::warn!(error = chain(&error), "a repository's id isn't known");
            repository.asked += 1;
            back_off(FAILED_MIN, FAILED_MAX, repository.asked)
        }
    };
    repository.next = Some(Instant::now() + wait);
    drop(known);
    context.queues.grants.poke(namespace);
}

async fn id(forge: &Forge, path: &str) -> Result<i64, ForgeError> {
    Asking::begin(forge).await?.repository(path).await
}

/// Doubles from the first wait to the last, and up to a tenth more.
fn back_off(first: Duration, last: Duration, asked: u32) -> Duration {
    let doubled = first.saturating_mul(1_u32 << asked.saturating_sub(1).min(16)).min(last);
    doubled + doubled.mul_f64(rand::random::<f64>() / 10.0)
}

/// Conversations with forges at once, each a dozen requests one after the other.
const AT_ONCE: usize = 4;
/// Heads of one pull request whose documents are read.
const HEADS_MAX: usize = 8;
/// What a forge has said is asked again, as an approval may have come, from this often …
const AGAIN_MIN: Duration = Duration::from_secs(10);
/// … to this.
const AGAIN_MAX: Duration = Duration::from_mins(10);
/// A forge that said nothing.
const FAILED_MIN: Duration = Duration::from_secs(2);
const FAILED_MAX: Duration = Duration::from_mins(2);
/// A repository that changes its id was deleted and made anew.
const IDENTIFIED: Duration = Duration::from_mins(10);
const SOON: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_off_doubles_and_has_an_end() {
        let waits: Vec<u64> = [1, 2, 3, 40]
            .map(|asked| back_off(FAILED_MIN, FAILED_MAX, asked).as_secs())
            .to_vec();
        let expected = [2, 4, 8, 120];
        for (wait, least) in waits.iter().zip(expected) {
            assert!((least..=least + least / 10 + 1).contains(wait), "{waits:?}");
        }
    }
}
