//! IO: carries out a plan's steps, writes the status, tells the record. Every write is preceded by a look at the
//! Lease's clock, and every status write names the version it was planned from, so that a leader that was stopped and
//! wakes up changes nothing (DESIGN §2).

use std::collections::BTreeMap;

use berth_crds::{
    AgentSession, AgentSessionStatus, CredentialBinding, LaunchType, OnInterrupt, Phase, Reason, TaskMode,
};
use berth_protocol::control::{self, to_sidecar::Message};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};

use super::claim::claim;
use super::observe::claim_facts;
use super::plan::{Plan, State, Step};
use super::snapshot::{CheckpointFacts, ClaimFacts, Snapshot};
use crate::answer;
use crate::context::{Context, NotLeading};
use crate::control::identity::{Expected, IdentityError};
use crate::control::registry::PushError;
use crate::control::session_link::Link;
use crate::grant::offer;
use crate::sandbox::{ClaimPhase, SandboxClaim};
use crate::store::StoreError;
use crate::store::checkpoint::Which;
use crate::telemetry::chain;
use crate::watch::Name;

/// A step that failed. Waiting is none: those are states.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// Another replica leads.
    #[error("this replica doesn't lead")]
    NotLeading(#[from] NotLeading),
    /// The claim couldn't be made.
    #[error("failed to create claim {name}")]
    CreateClaim {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A claim of that name stands and is somebody else's, or is still going away.
    #[error("claim {name} exists and isn't this session's; waiting for it to go")]
    ClaimTaken {
        /// Its name.
        name: String,
    },
    /// Another claim tries whether the pool's sandboxes attach again.
    #[error("the pool's breaker lets one claim try at a time")]
    HeldBack,
    /// The claim couldn't be given back.
    #[error("failed to delete claim {name}")]
    DeleteClaim {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The identity chain couldn't be read.
    #[error("failed to prove the pod's identity")]
    Prove(#[source] IdentityError),
    /// The session goes on from a checkpoint that can't be read now.
    #[error("the checkpoint that the session goes on from can't be read")]
    NoCheckpoint,
    /// It couldn't be said that the session goes on elsewhere.
    #[error("failed to begin the restore")]
    BeginRestore(#[source] StoreError),
    /// The status couldn't be written.
    #[error("failed to write the status")]
    WriteStatus(#[source] Box<kube::Error>),
}

impl ActError {
    /// Whether something else came first: nothing failed, the next pass sees it.
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Self::WriteStatus(source) if answer::is_overtaken(source))
    }

    /// Whether the session's namespace is being deleted, and the session with it.
    pub fn is_terminating(&self) -> bool {
        matches!(self, Self::CreateClaim { source, .. } if answer::is_terminating(source))
    }
}

/// Carries out the steps in order; the first failure ends the pass.
pub async fn act(context: &Context, name: &Name, snapshot: &Snapshot, plan: &Plan) -> Result<(), ActError> {
    for step in &plan.steps {
        context.check_leading()?;
        match step {
            Step::CreateClaim { incarnation, pair } => {
                let pool = name.beside(&snapshot.session.spec.pool_ref.name);
                if !context.pools.admits(&pool, snapshot.now) {
                    return Err(ActError::HeldBack);
                }
                create_claim(context, snapshot, *incarnation, pair).await?;
            }
            Step::DeleteClaim { name: claim, uid } => {
                delete_claim(context, &name.beside(claim), uid).await?;
                context.own_claims.given_back(name, uid);
            }
            Step::CountFailedBind => {
                let pool = name.beside(&snapshot.session.spec.pool_ref.name);
                context.pools.failed_bind(&pool, snapshot.now);
                context.queues.pools.poke(pool);
            }
            Step::Assign {
                incarnation,
                claim_uid,
                pod_uid,
            } => {
                assign(context, name, snapshot, (*incarnation, claim_uid, pod_uid)).await?;
            }
            Step::Start { incarnation, pod_uid } => {
                let start = control::Start {
                    incarnation: unsigned(*incarnation),
                };
                if pushed(context.registry.push(pod_uid, Message::Start(start))) {
                    context
                        .registry
                        .update(pod_uid, |facts| facts.started = Some(*incarnation));
                }
            }
            Step::Stop { incarnation, pod_uid } => {
                let stop = control::Suspend {
                    incarnation: unsigned(*incarnation),
                    reason: "suspended".to_owned(),
                };
                pushed(context.registry.push(pod_uid, Message::Suspend(stop)));
            }
        }
    }
    Ok(())
}

async fn create_claim(context: &Context, snapshot: &Snapshot, incarnation: i64, pair: &str) -> Result<(), ActError> {
    let session = &snapshot.session;
    let wanted = claim(
        session,
        incarnation,
        pair,
        snapshot.now,
        context.settings.deadlines.shutdown_grace,
    );
    let name = wanted.name_any();
    let api: Api<SandboxClaim> = Api::namespaced(context.client.clone(), &session.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &wanted).await {
        Ok(made) => {
            if let Some(made) = claim_facts(&made) {
                let uid = session.uid().unwrap_or_default();
                context.own_claims.made(&Name::of(session), uid, made);
            }
            tracing::info!(
                session.namespace = session.namespace(),
                session.name = session.name_any(),
                incarnation,
                pair,
                "claimed a sandbox"
            );
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => is_ours(&api, &name, session).await,
        Err(source) => Err(ActError::CreateClaim {
            name,
            source: Box::new(source),
        }),
    }
}

/// A claim of the name exists: it is ours if the session controls it and it isn't going away.
async fn is_ours(api: &Api<SandboxClaim>, name: &str, session: &AgentSession) -> Result<(), ActError> {
    let found = api.get_opt(name).await;
    let found = found.map_err(|source| ActError::CreateClaim {
        name: name.to_owned(),
        source: Box::new(source),
    })?;
    let owner = found
        .as_ref()
        .and_then(|claim| crate::sandbox::kind::controller_uid(claim.meta(), "AgentSession"));
    let stays = found
        .as_ref()
        .is_some_and(|claim| claim.meta().deletion_timestamp.is_none());
    let ours = stays && owner == session.uid().as_deref();
    if ours {
        Ok(())
    } else {
        Err(ActError::ClaimTaken { name: name.to_owned() })
    }
}

async fn delete_claim(context: &Context, claim: &Name, uid: &str) -> Result<(), ActError> {
    let api: Api<SandboxClaim> = Api::namespaced(context.client.clone(), &claim.namespace);
    let only = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    match api
        .delete(
            &claim.name,
            &DeleteParams {
                preconditions: Some(only),
                ..DeleteParams::background()
            },
        )
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if ["NotFound", "Conflict"].contains(&status.reason.as_str()) => Ok(()),
        Err(source) => Err(ActError::DeleteClaim {
            name: claim.name.clone(),
            source: Box::new(source),
        }),
    }
}

/// Proves who the pod is, then pushes the assignment. A refusal is a fact about the stream, not a failure.
async fn assign(
    context: &Context,
    name: &Name,
    snapshot: &Snapshot,
    (incarnation, claim_uid, pod_uid): (i64, &str, &str),
) -> Result<(), ActError> {
    let claim = snapshot.claim().filter(|claim| claim.uid == claim_uid);
    let (Some(claim), Some(pod), Some(expected)) = (
        claim,
        context.registry.pod(pod_uid),
        claim.and_then(|claim| expected(snapshot, claim)),
    ) else {
        return Ok(());
    };
    let session = match context.prover.prove(&pod, &expected).await {
        Ok(session) => session,
        Err(IdentityError::Refused(why)) => {
            tracing::warn!(
                session.namespace = name.namespace,
                session.name = name.name,
                pod = pod.name,
                why,
                "pod refused"
            );
            context.registry.refuse(pod_uid, &why);
            context.queues.sessions.poke(name.clone());
            return Ok(());
        }
        Err(error) => return Err(ActError::Prove(error)),
    };
    context.check_leading()?;
    context
        .sessions_on_pods
        .set(pod_uid, name.clone(), &expected.session_uid, claim.incarnation);
    let bindings = context.caches.bindings_of(&name.namespace);
    let bindings: Vec<&CredentialBinding> = bindings.iter().map(|binding| &**binding).collect();
    let shapes = offer::Shapes::of(bindings.iter().copied());
    let stubs = offer::stubs(&context.install_key, &session, &shapes);
    let restore = restore(context, snapshot, incarnation).await?;
    let mut assignment = control::Assignment {
        restore,
        ..assignment(&session, incarnation, stubs)
    };
    if let Some(repository) = &mut assignment.repository {
        let credential = offer::git_credential(&session, &bindings, &repository.url);
        repository.credential = credential.unwrap_or_default();
        repository.pull_request = pull_request(&session, snapshot);
    }
    let message = Message::Assignment(assignment);
    // Before the push: the acknowledgement may be back before this task goes on.
    let assigned = |incarnation| {
        context.registry.update(pod_uid, |facts| facts.assigned = incarnation);
    };
    assigned(Some(incarnation));
    if pushed(context.registry.push(pod_uid, message)) {
        context.queues.grants.poke(name.namespace.clone());
    } else {
        assigned(None);
    }
    Ok(())
}

fn pull_request(session: &AgentSession, snapshot: &Snapshot) -> Option<control::PullRequest> {
    let wanted = session.spec.repository.as_ref()?.pull_request.as_ref();
    let (wanted, pulls) = wanted.filter(|wanted| wanted.open).zip(snapshot.pulls.as_ref())?;
    Some(control::PullRequest {
        api: pulls.api.clone(),
        base: wanted.base.clone().unwrap_or_default(),
    })
}

/// What the pod is to restore, if the session goes on in it. From here on no earlier pod takes a checkpoint.
async fn restore(
    context: &Context,
    snapshot: &Snapshot,
    incarnation: i64,
) -> Result<Option<control::Restore>, ActError> {
    let status = snapshot.status();
    let goes_on = status.resume.is_some_and(|resume| resume.incarnation == incarnation);
    let kept = match &snapshot.checkpoint {
        CheckpointFacts::Kept(kept) => kept,
        _ if goes_on => return Err(ActError::NoCheckpoint),
        _ => return Ok(None),
    };
    let from = Which {
        incarnation: kept.incarnation,
        number: kept.number,
    };
    let uid = snapshot.session.uid().unwrap_or_default();
    let begun = context.checkpoints.begin_restore(&uid, incarnation, from).await;
    begun.map_err(ActError::BeginRestore)?;
    Ok(Some(control::Restore {
        incarnation: unsigned(kept.incarnation),
        number: unsigned(kept.number),
        chunks: u32::try_from(kept.chunks).unwrap_or(0),
        bytes: unsigned(kept.bytes),
        digest: kept.digest.clone(),
        conversation: kept.about.conversation.clone(),
        missing: kept.about.missing.clone(),
        input: kept.about.input,
        working: kept.about.working,
    }))
}

fn expected(snapshot: &Snapshot, claim: &ClaimFacts) -> Option<Expected> {
    let ClaimPhase::Ready { sandbox } = &claim.phase else {
        return None;
    };
    Some(Expected {
        session: snapshot.session.name_any(),
        session_uid: snapshot.session.uid()?,
        claim: claim.name.clone(),
        claim_uid: claim.uid.clone(),
        sandbox: sandbox.clone(),
        pair: claim.pair.clone(),
        pool: snapshot.session.spec.pool_ref.name.clone(),
    })
}

fn assignment(session: &AgentSession, incarnation: i64, stubs: BTreeMap<String, String>) -> control::Assignment {
    let spec = &session.spec;
    control::Assignment {
        session_uid: session.uid().unwrap_or_default(),
        namespace: session.namespace().unwrap_or_default(),
        name: session.name_any(),
        incarnation: unsigned(incarnation),
        task: Some(control::Task {
            prompt: spec.task.prompt.clone(),
            interactive: spec.task.mode == Some(TaskMode::Interactive),
            run_id: spec.task.run_id.clone().unwrap_or_default(),
        }),
        env: spec
            .env
            .iter()
            .map(|variable| (variable.name.clone(), variable.value.clone()))
            .collect(),
        model: spec.model.clone().unwrap_or_default(),
        repository: spec.repository.as_ref().map(|repository| control::Repository {
            url: repository.url.clone(),
            r#ref: repository.reference.clone().unwrap_or_default(),
            branch: repository.branch.clone().unwrap_or_default(),
            credential: String::new(),
            pull_request: None,
        }),
        command: vec![],
        stubs: stubs.into_iter().collect(),
        restore: None,
        checkpoints: spec.task.on_interrupt == Some(OnInterrupt::Resume),
    }
}

/// Ends whatever a pod runs, because its session is no more.
pub fn stop(context: &Context, pod_uid: &str, reason: &str) {
    let stop = control::Suspend {
        incarnation: 0,
        reason: reason.to_owned(),
    };
    pushed(context.registry.push(pod_uid, Message::Suspend(stop)));
}

/// A push that found no stream, or a sidecar that doesn't read, is tried again when the stream says something.
fn pushed(result: Result<u64, PushError>) -> bool {
    result
        .inspect_err(|error| tracing::debug!(error = chain(error), "not pushed"))
        .is_ok()
}

fn unsigned(incarnation: i64) -> u64 {
    u64::try_from(incarnation).unwrap_or(0)
}

/// Writes the status, on the version that the snapshot was taken of.
pub async fn write_status(
    context: &Context,
    snapshot: &Snapshot,
    status: AgentSessionStatus,
) -> Result<AgentSession, ActError> {
    context.check_leading()?;
    let session = &snapshot.session;
    let api: Api<AgentSession> = Api::namespaced(context.client.clone(), &session.namespace().unwrap_or_default());
    // A replace on the planned version: a field that stands no more goes, and a newer object refuses the write.
    let wanted = AgentSession {
        status: Some(status),
        ..session.clone()
    };
    let params = PostParams {
        field_manager: Some(berth_crds::label::MANAGER.to_owned()),
        ..PostParams::default()
    };
    let written = api.replace_status(&session.name_any(), &params, &wanted).await;
    let written = written.map_err(|source| ActError::WriteStatus(Box::new(source)))?;
    context.written.remember(session.resource_version(), written.clone());
    // A start or an exit that the status now says may be forgotten by the sidecar.
    context.event_writer.announce();
    Ok(written)
}

/// Tells Postgres, the metrics and the log what a pass has changed.
pub fn record(context: &Context, snapshot: &Snapshot, plan: &Plan, session: &AgentSession) {
    let status = session.status.clone().unwrap_or_default();
    context.record_session(session);
    let pool = Name::of(session).beside(&session.spec.pool_ref.name);
    if let State::Bound(sandbox) = &plan.state {
        if context.pools.bound(&pool) {
            context.queues.pools.poke(pool);
        }
        let took = snapshot
            .session
            .creation_timestamp()
            .and_then(|created| std::time::Duration::try_from(snapshot.now.duration_since(created.0)).ok());
        let launch = sandbox.launch_type.unwrap_or(LaunchType::Cold);
        context.metrics.session.observe_bind(launch, took.unwrap_or_default());
    }
    let phase = status.phase.unwrap_or_default();
    if phase != snapshot.status().phase.unwrap_or_default()
        && matches!(plan.state, State::Ended(Reason::Interrupted, _))
    {
        miss(context, snapshot);
    }
    if phase != snapshot.status().phase.unwrap_or_default() || matches!(plan.state, State::GaveUp(..)) {
        announce(context, session, plan, phase);
    }
}

/// A pod that was lost tells no more of what it used credentials for; one that is merely told to end does.
fn miss(context: &Context, snapshot: &Snapshot) {
    let status = snapshot.status();
    let Some(pod_uid) = status.sandbox.as_ref().and_then(|sandbox| sandbox.pod_uid.as_deref()) else {
        return;
    };
    let link = Link {
        session: Name::of(&snapshot.session),
        session_uid: snapshot.session.uid().unwrap_or_default(),
        incarnation: status.incarnation,
    };
    if !snapshot.session.spec.credentials.is_empty() {
        context.uses.lost(&link, pod_uid);
    }
}

/// One line in the log, and an Event where a person would look for one.
fn announce(context: &Context, session: &AgentSession, plan: &Plan, phase: Phase) {
    let status = session.status.clone().unwrap_or_default();
    let commit = status
        .source
        .as_ref()
        .and_then(|source| source.commit.as_deref())
        .unwrap_or_default();
    tracing::info!(
        session.namespace = session.namespace(),
        session.name = session.name_any(),
        session.uid = session.uid(),
        git.commit = commit,
        incarnation = status.incarnation,
        phase = phase.as_str(),
        "session moved"
    );
    let (reason, message, warning) = match &plan.state {
        State::Bound(sandbox) => {
            let pod = sandbox.pod_name.as_deref().unwrap_or_default();
            (
                Reason::Bound,
                format!("incarnation {} is bound to pod {pod}", status.incarnation),
                false,
            )
        }
        State::Finished(exited) if exited.code != 0 || !exited.error.is_empty() => (
            Reason::HarnessFailed,
            format!("exit status {} {}", exited.code, exited.error),
            true,
        ),
        State::Stalled(reason, message) | State::Ended(reason, message) | State::GaveUp(reason, message) => {
            (*reason, message.clone(), true)
        }
        _ => return,
    };
    context.events.publish(session, reason, &message, warning);
}
