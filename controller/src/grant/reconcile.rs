//! IO: one pass over one namespace: observe → decide → push → status. Writes and pushes nothing when nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{AgentPool, CredentialBinding, CredentialBindingStatus, label};
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};

use super::decide::{Decisions, Facts, Refused, SessionFacts, decide};
use super::permit::Matching;
use super::{offer, push, status, tip};
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

async fn pass(context: &Context, namespace: &str) -> Result<Option<Duration>, GrantFailure> {
    let bindings = context.caches.bindings_of(namespace);
    let bound = bound(context, namespace);
    if bindings.is_empty() && bound.is_empty() {
        context.secrets.forget(namespace);
        return Ok(None);
    }
    let client = context.sources.client(namespace, label::CREDENTIALS_ACCOUNT);
    let client = client.map_err(|error| GrantFailure::Client(Box::new(error)))?;
    let decisions = decided(context, namespace, &client, &bindings, &bound);
    let policies = context.caches.policies.state();
    let lease = lease(&Matching::of(namespace, &policies));
    let mut again = None;
    for session in &bound {
        again = [
            again,
            push_one(context, &client, &bindings, session, (&decisions, lease)).await,
        ]
        .into_iter()
        .flatten()
        .min();
    }
    let late = write_statuses(context, namespace, &bindings, &decisions).await?;
    let next = decisions
        .next
        .map(|at| Duration::try_from(at.duration_since(context.clock.now())).unwrap_or_default());
    Ok([again, next, late].into_iter().flatten().min())
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

fn bound(context: &Context, namespace: &str) -> Vec<Bound> {
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
    bound: &[Bound],
) -> Decisions {
    let references = bindings
        .iter()
        .filter_map(|binding| binding.spec.credential.source.secret_ref.as_ref());
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
    let sources = context.sources.tips(&context.caches, namespace);
    let sessions: Vec<SessionFacts> = bound.iter().map(|bound| bound.facts.clone()).collect();
    decide(&Facts {
        now: context.clock.now(),
        namespace,
        default: context.settings.default_policy,
        bindings,
        policies: &policies,
        tips: &tip::tips(bindings, &sources),
        secrets: &secrets,
        sessions: &sessions,
    })
}

async fn push_one(
    context: &Context,
    client: &Client,
    bindings: &[Arc<CredentialBinding>],
    bound: &Bound,
    (decisions, lease): (&Decisions, Duration),
) -> Option<Duration> {
    let bindings: Vec<&CredentialBinding> = bindings.iter().map(|binding| &**binding).collect();
    let grants = decisions
        .sessions
        .get(&bound.link.session_uid)
        .map_or(&[][..], Vec::as_slice);
    let egress = bound.pool.as_ref().and_then(|pool| pool.spec.egress.as_ref());
    let egress = egress.map_or(&[][..], |egress| egress.routes.as_slice());
    let stubs = offer::stubs(&context.install_key, &bound.facts.session, &bindings);
    let offer = offer::offer(grants, &bindings, egress, &stubs);
    let pushed = push::push(context, client, (&bound.pod_uid, &bound.link), &offer, lease).await;
    for (key, error) in pushed.failed {
        context
            .secrets
            .broken(&bound.link.session.namespace, &key, chain(&error));
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
    Some(pushed.again)
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
            Err(kube::Error::Api(status)) if ["Conflict", "NotFound"].contains(&status.reason.as_str()) => {
                again = Some(OVERTAKEN);
            }
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
/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
