//! IO: one pass over one namespace: observe → decide → push → status. Writes and pushes nothing when nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{AgentPool, CredentialBinding, CredentialBindingStatus, GitHubApp, Reason, label};
use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};
use secrecy::SecretString;

use super::decide::{Decisions, Facts, Refused, SessionFacts, Verdict, decide};
use super::github::{AHEAD, Token};
use super::kind::keys_of;
use super::permit::Matching;
use super::push::Values;
use super::tip::SourceTip;
use super::{offer, push, secrets, status, tip};
use crate::answer;
use crate::context::{Context, NotLeading};
use crate::control::session_link::Link;
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
    context.metrics.reconcile.observe("grants", outcome, began.elapsed());
    outcome
}

async fn pass(context: &Arc<Context>, namespace: &str) -> Result<Option<Duration>, GrantFailure> {
    let bindings = context.caches.bindings_of(namespace);
    let sources = context.sources.tips(&context.caches, namespace);
    let bound = bound(context, namespace, &sources);
    if bindings.is_empty() && bound.is_empty() {
        context.secrets.forget(namespace);
        return Ok(None);
    }
    let client = context.sources.client(namespace, label::CREDENTIALS_ACCOUNT);
    let client = client.map_err(|error| GrantFailure::Client(Box::new(error)))?;
    let decisions = decided(context, namespace, &client, &bindings, (&bound, &sources));
    let (tokens, wanted) = tokens(context, &bindings, &decisions);
    let policies = context.caches.policies.state();
    let lease = lease(&Matching::of(namespace, &policies));
    let mut values = Values::new(&client, namespace, &tokens);
    let mut again = Vec::new();
    for session in &bound {
        again.extend(push_one(context, &bindings, session, (&decisions, &mut values, lease)).await);
    }
    again.extend(write_statuses(context, namespace, &bindings, &decisions).await?);
    // Providers are slow: no pass waits for them, and least of all a revocation.
    retire(context, namespace, &tokens);
    for (name, version, app) in wanted {
        if context.github.begins(&name) {
            tokio::spawn(mint(Arc::clone(context), client.clone(), (name, version), app.clone()));
        }
    }
    let now = context.clock.now();
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
    again.extend(decisions.next.map(until));
    again.extend(tokens.values().map(|token| until(token.expires).saturating_sub(AHEAD)));
    Ok(again.into_iter().min())
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
    (bound, sources): (&[Bound], &[SourceTip]),
) -> Decisions {
    let references = bindings
        .iter()
        .flat_map(|binding| keys_of(&binding.spec.credential.source));
    let names: BTreeSet<String> = references.map(|key| key.name.clone()).collect();
    context.secrets.watch(namespace, &names, client, &context.queues.grants);
    let state = |secret: &String| {
        let name = Name {
            namespace: namespace.to_owned(),
            name: secret.clone(),
        };
        Some((secret.clone(), context.secrets.state(&name)?))
    };
    let secrets: BTreeMap<String, Result<_, Refused>> = names.iter().filter_map(state).collect();
    let policies = context.caches.policies.state();
    let sessions: Vec<SessionFacts> = bound.iter().map(|bound| bound.facts.clone()).collect();
    decide(&Facts {
        now: context.clock.now(),
        namespace,
        default: context.settings.default_policy,
        bindings,
        policies: &policies,
        tips: &tip::tips(bindings, sources),
        secrets: &secrets,
        broken: &context.secrets.broken_in(namespace),
        sessions: &sessions,
        github_host: context.github.host(),
    })
}

async fn push_one(
    context: &Context,
    bindings: &[Arc<CredentialBinding>],
    bound: &Bound,
    (decisions, values, lease): (&Decisions, &mut Values<'_>, Duration),
) -> Option<Duration> {
    let bindings: Vec<&CredentialBinding> = bindings.iter().map(|binding| &**binding).collect();
    let grants = decisions
        .sessions
        .get(&bound.link.session_uid)
        .map_or(&[][..], Vec::as_slice);
    let egress = bound.pool.as_ref().and_then(|pool| pool.spec.egress.as_ref());
    let egress = egress.map_or(&[][..], |egress| egress.routes.as_slice());
    let stubs = offer::stubs(&context.install_key, &bound.facts.session, &bindings);
    let ends = values
        .tokens()
        .iter()
        .map(|(binding, token)| (binding.clone(), token.expires))
        .collect();
    let offer = offer::offer(grants, &bindings, egress, &stubs, &ends);
    if decisions.undetermined.contains(&bound.link.session_uid) && push::holds_earlier_grants(context, &bound.pod_uid) {
        // A former leader's grants stand until this one knows better, or until their lease ends.
        return None;
    }
    let pushed = push::push(context, (&bound.pod_uid, &bound.link), (&offer, values), lease).await;
    for (binding, (version, error)) in pushed.failed {
        let refused = Refused {
            reason: error.reason(),
            message: chain(&error),
        };
        let binding = bound.link.session.beside(&binding);
        context.secrets.broken(binding, version, refused, None);
        context.queues.grants.poke(bound.link.session.namespace.clone());
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
        let refused = Refused {
            reason: Reason::SecretNotFound,
            message: why,
        };
        context
            .secrets
            .broken(binding.clone(), version.clone(), refused, Some(MINT_AGAIN));
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
    decisions: &Decisions,
) -> Result<Option<Duration>, GrantFailure> {
    let mut again = None;
    for binding in bindings
        .iter()
        .filter(|binding| binding.meta().deletion_timestamp.is_none())
    {
        let name = binding.name_any();
        let holders = decisions
            .sessions
            .values()
            .filter(|grants| grants.iter().any(|grant| grant.binding == name));
        let holders = i64::try_from(holders.count()).unwrap_or(i64::MAX);
        let Some(verdict) = decisions.bindings.get(&name) else {
            continue;
        };
        let Some(status) = status::status(binding, verdict, holders, context.clock.now()) else {
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
    api.replace_status(&binding.name_any(), &params, &wanted)
        .await
        .map(drop)
}

/// DESIGN §7: 60 s, from 10 s to 15 min by policy.
const LEASE: Duration = Duration::from_mins(1);
const LEASE_MIN: Duration = Duration::from_secs(10);
const LEASE_MAX: Duration = Duration::from_mins(15);
/// A provider that refuses or can't be reached is asked again.
const MINT_AGAIN: Duration = Duration::from_secs(30);
/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
