//! IO: one pass over one namespace: observe → decide → push → status. Writes and pushes nothing when nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{AgentPool, AgentSession, CredentialBinding, CredentialBindingStatus, GitHubApp, label};
use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};
use secrecy::SecretString;

use super::decide::{Decisions, Facts, Refused, SessionFacts, Verdict, decide, keys_of};
use super::evidence::ask;
use super::evidence::prove::Known;
use super::evidence::signers::Signers;
use super::github::Token;
use super::permit::Matching;
use super::push::Values;
use super::select::Index;
use super::tip::SourceTip;
use super::{allot, budget, oauth2, offer, push, secrets, status, tip};
use crate::answer;
use crate::context::{Context, NotLeading};
use crate::control::session_link::Link;
use crate::gateway;
use crate::telemetry::chain;
use crate::watch::Name;
use crate::work::Outcome;

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
pub enum GrantFailure {
    /// Another replica leads.
    #[error("this replica doesn't lead")]
    NotLeading(#[from] NotLeading),
    /// The client that acts as `berth-credentials` couldn't be made.
    #[error("failed to make a client for {}", label::CREDENTIALS_ACCOUNT)]
    Client(#[source] Box<kube::Error>),
    /// A status couldn't be written.
    #[error("failed to write the status of CredentialBinding {name}")]
    WriteStatus {
        /// Of which.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// A session that this leader has pushed an assignment to.
struct Bound {
    pod_uid: String,
    link: Link,
    facts: SessionFacts,
    pool: Option<Arc<AgentPool>>,
}

impl Bound {
    fn named(&self) -> (&AgentSession, &Link) {
        (&self.facts.session, &self.link)
    }
}

/// The bindings of a namespace, and what is found of them once for all sessions.
struct Bindings<'a> {
    all: &'a [Arc<CredentialBinding>],
    index: Index<'a>,
    shapes: offer::Shapes<'a>,
    /// Those whose streams are cut at once.
    cut: Vec<String>,
}

/// Looks at one namespace.
pub async fn reconcile(context: Arc<Context>, namespace: String) -> Outcome {
    let began = Instant::now();
    let outcome = match pass(&context, &namespace).await {
        Ok(None) => Outcome::Done,
        Ok(Some(wait)) => Outcome::Again(wait),
        Err(error) => {
            tracing::warn!(namespace, error = chain(&error), "grants pass failed");
            Outcome::Failed
        }
    };
    let took = began.elapsed();
    context.metrics.reconcile.observe("grants", outcome, took);
    // With a thousand bindings and hundreds of sessions a look takes long, and each change of theirs asks for one: as much
    // time is left to what it brought about, and what asks meanwhile is one look.
    tokio::time::sleep(took.saturating_sub(CHEAP).min(REST_MAX)).await;
    outcome
}

async fn pass(context: &Arc<Context>, namespace: &str) -> Result<Option<Duration>, GrantFailure> {
    let bindings = bindings(context, namespace);
    let sources = context.sources.tips(&context.caches, namespace, &context.evidence);
    let bound = bound(context, namespace, &sources);
    let client = context.sources.client(namespace, label::CREDENTIALS_ACCOUNT);
    let client = client.map_err(|error| GrantFailure::Client(Box::new(error)))?;
    if bindings.is_empty() && bound.is_empty() {
        let mut nothing = Decisions::default();
        context
            .recorder
            .look(context, namespace, &[], &mut nothing, context.clock.now());
        retire(context, namespace, &BTreeMap::new());
        oauth2::run::retire(context, (namespace, &client), &[], &oauth2::run::Found::default());
        context.secrets.forget(namespace);
        context.evidence.forget(namespace);
        return Ok(gateway_keys(context, namespace, (&[], &bound), &Decisions::default()).1);
    }
    let signers = context.evidence.signers().await;
    let mut decisions = decided(context, namespace, &client, &bindings, (&bound, &sources, &signers));
    context
        .recorder
        .look(context, namespace, &bindings, &mut decisions, context.clock.now());
    let (mut tokens, wanted) = tokens(context, &bindings, &decisions);
    let flows = oauth2::run::look(context, &bindings, &mut decisions, &mut tokens);
    let (keys, wait) = gateway_keys(context, namespace, (&bindings, &bound), &decisions);
    let policies = context.caches.policies.state();
    let labels = context.caches.labels_of(namespace);
    let lease = lease(&Matching::of_namespace(namespace, labels.as_ref(), &policies));
    let mut values = Values::new((&client, namespace), (&tokens, &keys), context.clock.now());
    let mut again: Vec<Duration> = flows.wait.into_iter().chain(wait).collect();
    let known = Bindings {
        index: Index::of(&bindings),
        shapes: offer::Shapes::of(bindings.iter().map(|binding| &**binding)),
        cut: offer::at_once(&bindings, &decisions.bindings),
        all: &bindings,
    };
    for session in &bound {
        again.extend(push_one(context, &known, session, (&decisions, &mut values, lease)).await);
    }
    again.extend(write_statuses(context, namespace, &bindings, (&decisions, &flows.unsaved)).await?);
    // Providers and forges are slow: no pass waits for them, and least of all a revocation.
    again.extend(ask::ask(context, namespace, std::mem::take(&mut decisions.questions)));
    again.extend(ask::identify(context, namespace, std::mem::take(&mut decisions.places)));
    retire(context, namespace, &tokens);
    oauth2::run::retire(context, (namespace, &client), &bindings, &flows);
    flows.begin(context, &client);
    for (name, version, app) in wanted {
        if context.github.begins(&name) {
            tokio::spawn(mint(Arc::clone(context), client.clone(), (name, version), app.clone()));
        }
    }
    let now = context.clock.now();
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
    again.extend(decisions.next.map(until));
    let renewed = tokens.values().map(|token| until(token.renew));
    again.extend(renewed.filter(|wait| !wait.is_zero())); // one that is due has its own back-off
    Ok(again.into_iter().min())
}

/// The keys of gateways that sessions may use now, and how long until the next thing is due about them. What is due now
/// begins: no pass waits for a gateway.
fn gateway_keys(
    context: &Arc<Context>,
    namespace: &str,
    (bindings, bound): (&[Arc<CredentialBinding>], &[Bound]),
    decisions: &Decisions,
) -> (gateway::run::Held, Option<Duration>) {
    let sessions = bound.iter().map(|bound| gateway::run::OnPod {
        session: &bound.facts.session,
        taken_over: push::holds_earlier_grants(context, &bound.pod_uid),
    });
    let keys = (&context.gateway_keys, &context.install_key);
    let bindings: Vec<&CredentialBinding> = bindings
        .iter()
        .map(|binding| &**binding)
        .filter(|binding| binding.spec.credential.source.lite_llm_key.is_some())
        .collect();
    let mut found = gateway::run::look(keys, sessions, &bindings, decisions, context.clock.now());
    let judged = bound.iter().map(|bound| bound.link.session_uid.as_str());
    let judged = judged.filter(|uid| !decisions.undetermined.contains(*uid)).collect();
    found.end(context, namespace, &judged);
    let (mut held, mut wait) = (std::mem::take(&mut found.held), found.wait);
    let caps = allot::caps(context, namespace);
    for bound in bound {
        let again = budget::hold(context, bound.named(), &bindings, &caps);
        wait = wait.into_iter().chain(again).min();
        if !budget::is_known(context, bound.named(), &bindings) {
            held.remove(&bound.link.session_uid); // nobody could count
            budget::begin(context, &bound.link);
        }
    }
    found.begin(context);
    (held, wait)
}

/// The bindings of a namespace: as this process has written them, while the watch is behind.
fn bindings(context: &Context, namespace: &str) -> Vec<Arc<CredentialBinding>> {
    let cached = context.caches.bindings_of(namespace);
    let written = &context.written_bindings;
    written.retain(|name| name.namespace != namespace || cached.iter().any(|it| it.name_any() == name.name));
    cached.into_iter().map(|binding| written.newest(binding)).collect()
}

/// The strictest lease that a policy asks for.
fn lease(matching: &Matching<'_>) -> Duration {
    let wanted = matching.requirements().filter_map(|require| require.max_lease);
    wanted
        .map(Duration::from)
        .min()
        .unwrap_or(LEASE)
        .clamp(LEASE_MIN, LEASE_MAX)
}

fn bound(context: &Context, namespace: &str, sources: &[SourceTip]) -> Vec<Bound> {
    let links = context.sessions_on_pods.of_namespace(namespace);
    let sessions = links.into_iter().filter_map(|(pod_uid, link)| {
        let session = context.caches.session(&link.session)?;
        if session.uid().as_ref() != Some(&link.session_uid) {
            return None;
        }
        let pool = context.caches.pool(&link.session.beside(&session.spec.pool_ref.name));
        let spec = pool.as_ref().map(|pool| &pool.spec);
        let facts = SessionFacts {
            confinement: spec.and_then(|spec| spec.confinement).unwrap_or_default(),
            image: spec.map(|spec| spec.harness.image.clone()).unwrap_or_default(),
            from_git: tip::declares_session(&session, sources),
            session,
        };
        Some(Bound {
            pod_uid,
            link,
            facts,
            pool,
        })
    });
    sessions.collect()
}

fn decided(
    context: &Context,
    namespace: &str,
    client: &Client,
    bindings: &[Arc<CredentialBinding>],
    (bound, sources, signers): (&[Bound], &[SourceTip], &Signers),
) -> Decisions {
    let references = bindings
        .iter()
        .flat_map(|binding| keys_of(&binding.spec.credential.source));
    let names: BTreeSet<String> = references.clone().map(|key| key.name.clone()).collect();
    context.secrets.watch(namespace, &names, client, &context.queues.grants);
    let state = |key: &berth_crds::KeyRef| {
        let name = Name {
            namespace: namespace.to_owned(),
            name: key.name.clone(),
        };
        Some((
            format!("{}/{}", key.name, key.key),
            context.secrets.state(&name, &key.key)?,
        ))
    };
    let secrets: BTreeMap<String, Result<_, Refused>> = references.filter_map(state).collect();
    let policies = context.caches.policies.state();
    let sessions: Vec<SessionFacts> = bound.iter().map(|bound| bound.facts.clone()).collect();
    let now = context.clock.now();
    decide(&Facts {
        now,
        namespace,
        default: context.settings.default_policy,
        bindings,
        policies: &policies,
        tips: &tip::tips(bindings, sources),
        secrets: &secrets,
        sessions: &sessions,
        github_host: context.github.host(),
        gateways: &context.gateway_keys.gateways,
        labels: context.caches.labels_of(namespace).as_ref(),
        known: &Known {
            now,
            key: &context.install_key,
            signers,
            answers: &context.evidence.answers(namespace),
            agents: &context.evidence.agents(bindings),
        },
    })
}

/// What a session's sidecar is to hold.
fn offered(
    context: &Context,
    known: &Bindings<'_>,
    (bound, bindings): (&Bound, &[&CredentialBinding]),
    (decisions, values): (&Decisions, &Values<'_>),
) -> offer::Offer {
    let uid = &bound.link.session_uid;
    let grants = decisions.sessions.get(uid).map_or(&[][..], Vec::as_slice);
    let egress = bound.pool.as_ref().and_then(|pool| pool.spec.egress.as_ref());
    let egress = egress.map_or(&[][..], |egress| egress.routes.as_slice());
    let stubs = offer::stubs(&context.install_key, &bound.facts.session, &known.shapes);
    let (ends, sources) = (values.minted(uid), context.caches.sources.state());
    let mut offer = offer::offer(grants, bindings, egress, (uid, &stubs), &ends, &sources);
    offer.cut.clone_from(&known.cut);
    offer.budget = budget::of(context, bound.named(), bindings, &offer);
    offer
}

async fn push_one(
    context: &Context,
    known: &Bindings<'_>,
    bound: &Bound,
    (decisions, values, lease): (&Decisions, &mut Values<'_>, Duration),
) -> Option<Duration> {
    let theirs = known.index.listed(&bound.facts.session);
    let bindings: Vec<&CredentialBinding> = theirs.into_iter().map(|binding| &**binding).collect();
    let offer = offered(context, known, (bound, &bindings), (decisions, values));
    if !budget::is_known(context, bound.named(), &bindings) && push::holds_earlier_grants(context, &bound.pod_uid) {
        return Some(KEEP); // a former leader's grants count on, by what it told the sidecar
    }
    if decisions.undetermined.contains(&bound.link.session_uid) && push::holds_earlier_grants(context, &bound.pod_uid) {
        // A former leader's grants stand until this one knows better, or until their lease ends.
        return None;
    }
    if let Some(kept) = decisions.kept.get(&bound.link.session_uid) {
        let kept = known.all.iter().filter(|binding| kept.contains(&binding.name_any()));
        let kept = kept.map(|binding| binding.spec.credential.name.as_str());
        let held: BTreeSet<&str> = offer
            .credentials
            .iter()
            .map(|credential| credential.name.as_str())
            .chain(kept)
            .collect();
        if push::holds_within(context, &bound.pod_uid, &held) {
            return Some(KEEP); // nothing else is taken away; the row's commit brings the next pass
        }
    }
    let pushed = push::push(context, (&bound.pod_uid, &bound.link), (&offer, values), lease).await;
    let namespace = &bound.link.session.namespace;
    for (key, error) in pushed.failed {
        context.secrets.unusable(namespace, &key, &error);
        context.queues.grants.poke(namespace.clone());
    }
    for (key, left) in pushed.ends {
        context.secrets.ends(namespace, &key, left);
        context.queues.grants.poke_after(namespace.clone(), left);
    }
    if pushed.changed {
        tracing::info!(
            session.namespace = bound.link.session.namespace,
            session.name = bound.link.session.name,
            credentials = offer.credentials.len(),
            "grants pushed"
        );
    }
    pushed.again
}

/// A binding that needs a token: its name, the version of its App's key, the App.
type Wanted<'a> = (Name, String, &'a GitHubApp);

/// Tokens of the bindings that grant one, as they are held; and those that are to be minted.
fn tokens<'a>(
    context: &Context,
    bindings: &'a [Arc<CredentialBinding>],
    decisions: &Decisions,
) -> (BTreeMap<String, Token>, Vec<Wanted<'a>>) {
    let (mut tokens, mut wanted) = (BTreeMap::new(), Vec::new());
    for binding in bindings {
        let name = Name::of(&**binding);
        let Some(app) = &binding.spec.credential.source.github_app else {
            continue;
        };
        let Some(Verdict::Active(active)) = decisions.bindings.get(&name.name) else {
            continue;
        };
        let used = decisions
            .sessions
            .values()
            .flatten()
            .any(|grant| grant.binding == name.name);
        match context.github.held(&name, app, &active.version, context.clock.now()) {
            Some(token) => drop(tokens.insert(name.name, token)),
            None if used => wanted.push((name, active.version.clone(), app)),
            None => {}
        }
    }
    (tokens, wanted)
}

/// Tokens of bindings that grant no more are revoked at their provider.
fn retire(context: &Arc<Context>, namespace: &str, tokens: &BTreeMap<String, Token>) {
    for token in context.github.retire(namespace, |name| tokens.contains_key(&name.name)) {
        let context = Arc::clone(context);
        tokio::spawn(async move {
            if let Err(error) = context.github.revoke(&token).await {
                tracing::warn!(error = chain(&error), "a token isn't revoked; it ends by itself");
            }
        });
    }
}

/// Mints, and looks again.
async fn mint(context: Arc<Context>, client: Client, (binding, version): (Name, String), app: GitHubApp) {
    let key = &app.private_key_ref;
    let minted = match secrets::value(&client, &binding.namespace, &key.name, &key.key).await {
        Ok(value) => {
            let key = SecretString::from(String::from_utf8_lossy(&value).into_owned());
            let minted = context
                .github
                .mint((&binding, &version), &app, &key, context.clock.now())
                .await;
            minted.map(drop).map_err(|error| chain(&error))
        }
        Err(error) => Err(chain(&error)),
    };
    if let Err(why) = minted {
        tracing::warn!(
            binding.namespace = binding.namespace,
            binding.name = binding.name,
            error = why,
            "no token"
        );
        let at = format!("{}/{}", key.name, key.key);
        context.secrets.broken(&binding.namespace, &at, why, Some(MINT_AGAIN));
        context.queues.grants.poke_after(binding.namespace.clone(), MINT_AGAIN);
    }
    context.github.ends(&binding);
    context.queues.grants.poke(binding.namespace);
}

/// Gives the time until a status that somebody else overtook is looked at again.
async fn write_statuses(
    context: &Context,
    namespace: &str,
    bindings: &[Arc<CredentialBinding>],
    (decisions, unsaved): (&Decisions, &BTreeMap<String, String>),
) -> Result<Option<Duration>, GrantFailure> {
    let mut again = None;
    let mut holders: BTreeMap<&str, i64> = BTreeMap::new();
    for grant in decisions.sessions.values().flatten() {
        *holders.entry(&grant.binding).or_default() += 1;
    }
    for binding in bindings
        .iter()
        .filter(|binding| binding.meta().deletion_timestamp.is_none())
    {
        let name = binding.name_any();
        let holders = holders.get(name.as_str()).copied().unwrap_or_default();
        let Some(told) = decisions.bindings.get(&name).zip(decisions.grants.get(&name)) else {
            continue;
        };
        let sealing = (&context.install_key, context.clock.now());
        let Some(status) = status::status(binding, told, unsaved.get(&name), holders, sealing) else {
            continue;
        };
        context.check_leading()?;
        match write_status(context, namespace, binding, status).await {
            Err(error) if answer::is_overtaken(&error) => again = Some(OVERTAKEN),
            Err(source) => {
                return Err(GrantFailure::WriteStatus {
                    name,
                    source: Box::new(source),
                });
            }
            Ok(()) => {}
        }
    }
    Ok(again)
}

async fn write_status(
    context: &Context,
    namespace: &str,
    binding: &CredentialBinding,
    status: CredentialBindingStatus,
) -> Result<(), kube::Error> {
    let api: Api<CredentialBinding> = Api::namespaced(context.client.clone(), namespace);
    let wanted = CredentialBinding {
        status: Some(status),
        ..binding.clone()
    };
    let params = PostParams {
        field_manager: Some(label::MANAGER.to_owned()),
        ..PostParams::default()
    };
    let written = api.replace_status(&binding.name_any(), &params, &wanted).await?;
    context.written_bindings.remember(binding.resource_version(), written);
    Ok(())
}

/// A look that is noticed by nobody.
const CHEAP: Duration = Duration::from_millis(50);
/// A revocation is never later than this for the sake of others.
const REST_MAX: Duration = Duration::from_millis(200);
/// A commit takes milliseconds.
const KEEP: Duration = Duration::from_millis(500);
/// DESIGN §7: 60 s, from 10 s to 15 min by policy.
const LEASE: Duration = Duration::from_mins(1);
const LEASE_MIN: Duration = Duration::from_secs(10);
const LEASE_MAX: Duration = Duration::from_mins(15);
/// A provider that refuses or can't be reached is asked again.
const MINT_AGAIN: Duration = Duration::from_secs(30);
/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
