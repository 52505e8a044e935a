//! Pod → Sandbox → SandboxClaim → AgentSession, each link by UID on live reads, once per bind (DESIGN §5.3).
//!
//! [`verdict`] is pure: it takes what was read and says why the pod may not serve the session. Any doubt is a refusal.

use std::sync::Arc;

use berth_crds::{AgentPool, AgentSession, label};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ObjectMeta};
use kube::{Client, ResourceExt};
use tokio::sync::Semaphore;

use super::token::PodIdentity;
use crate::pool::{pair, rendered};
use crate::sandbox::kind::controller_uid;
use crate::sandbox::{Sandbox, SandboxClaim, SandboxTemplate};

/// What a bind expects to find.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Name of the session, in the pod's namespace.
    pub session: String,
    /// UID of the session.
    pub session_uid: String,
    /// Name of the claim.
    pub claim: String,
    /// UID of the claim.
    pub claim_uid: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// Name of the pair that the claim names, as far as is known before it is read.
    pub pair: String,
    /// Name of the pool that the session names, the same.
    pub pool: String,
}

/// Everything that was read, live.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The pod that the token names.
    pub pod: Pod,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The claim.
    pub claim: SandboxClaim,
    /// The session.
    pub session: AgentSession,
    /// The pool.
    pub pool: AgentPool,
    /// The template of the pair that the claim names.
    pub template: SandboxTemplate,
}

/// Why a pod isn't bound.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A link couldn't be read.
    #[error("failed to read the identity chain")]
    Read(#[source] Box<kube::Error>),
    /// A link doesn't hold.
    #[error("{0}")]
    Refused(String),
}

/// Reads identity chains, at most [`IN_FLIGHT`] at a time.
#[derive(Clone)]
pub struct Prover {
    client: Client,
    permits: Arc<Semaphore>,
}

impl Prover {
    /// A prover that reads with this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    /// Proves that the pod serves the session; gives the session as it is live.
    pub async fn prove(&self, pod: &PodIdentity, expected: &Expected) -> Result<AgentSession, IdentityError> {
        let _permit = self.permits.acquire().await;
        let chain = self.read(pod, expected).await?;
        verdict(pod, expected, &chain).map_err(IdentityError::Refused)?;
        Ok(chain.session)
    }

    async fn read(&self, pod: &PodIdentity, expected: &Expected) -> Result<Chain, IdentityError> {
        let namespace = &pod.namespace;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let sandboxes: Api<Sandbox> = Api::namespaced(self.client.clone(), namespace);
        let claims: Api<SandboxClaim> = Api::namespaced(self.client.clone(), namespace);
        let sessions: Api<AgentSession> = Api::namespaced(self.client.clone(), namespace);
        let pools: Api<AgentPool> = Api::namespaced(self.client.clone(), namespace);
        let templates: Api<SandboxTemplate> = Api::namespaced(self.client.clone(), namespace);
        let read = |error| IdentityError::Read(Box::new(error));
        let (pod, sandbox, claim, session, mut template, mut pool) = tokio::try_join!(
            pods.get(&pod.name),
            sandboxes.get(&expected.sandbox),
            claims.get(&expected.claim),
            sessions.get(&expected.session),
            templates.get(&expected.pair),
            pools.get(&expected.pool),
        )
        .map_err(read)?;
        // Live, they may name others.
        let (pair_name, pool_name) = (&claim.spec.warm_pool_ref.name, &session.spec.pool_ref.name);
        if *pair_name != expected.pair || *pool_name != expected.pool {
            (template, pool) = tokio::try_join!(templates.get(pair_name), pools.get(pool_name)).map_err(read)?;
        }
        Ok(Chain {
            pod,
            sandbox,
            claim,
            session,
            pool,
            template,
        })
    }
}

/// Why the pod may not serve the session, link by link from the pod up.
pub fn verdict(token: &PodIdentity, expected: &Expected, chain: &Chain) -> Result<(), String> {
    let Chain {
        pod,
        sandbox,
        claim,
        session,
        pool,
        template,
    } = chain;
    let sandbox_uid = sandbox.uid().unwrap_or_default();
    let pod_name = sandbox
        .annotations()
        .get(label::SANDBOX_POD_NAME)
        .cloned()
        .unwrap_or_else(|| sandbox.name_any());
    let named = claim
        .status
        .as_ref()
        .and_then(|status| status.sandbox.as_ref())
        .and_then(|at| at.name.as_deref());
    let checks: [(bool, String); 10] = [
        (
            is(&pod.metadata, &token.uid),
            "the pod isn't the one that the token was minted for".to_owned(),
        ),
        (
            pod.metadata.deletion_timestamp.is_none(),
            "the pod is being deleted".to_owned(),
        ),
        (
            controller_uid(&pod.metadata, "Sandbox") == Some(sandbox_uid.as_str()),
            format!("the pod isn't controlled by sandbox {}", sandbox.name_any()),
        ),
        (
            pod_name == token.name,
            format!("sandbox {} runs pod {pod_name}, not {}", sandbox.name_any(), token.name),
        ),
        (
            controller_uid(&sandbox.metadata, "SandboxClaim") == Some(expected.claim_uid.as_str()),
            format!("the sandbox isn't controlled by claim {}", expected.claim),
        ),
        (
            is(&claim.metadata, &expected.claim_uid),
            format!("claim {} is another one now", expected.claim),
        ),
        (
            claim.metadata.deletion_timestamp.is_none(),
            format!("claim {} is being deleted", expected.claim),
        ),
        (
            named == Some(sandbox.name_any().as_str()),
            format!("claim {} names another sandbox", expected.claim),
        ),
        (
            controller_uid(&claim.metadata, "AgentSession") == Some(expected.session_uid.as_str()),
            format!("claim {} isn't controlled by the session", expected.claim),
        ),
        (
            is(&session.metadata, &expected.session_uid) && session.metadata.deletion_timestamp.is_none(),
            format!("session {} is another one now, or going", expected.session),
        ),
    ];
    if let Some((_, why)) = checks.into_iter().find(|(holds, _)| !holds) {
        return Err(why);
    }
    rendered::check(pod, trusted_rendering(pool, template)?)
}

/// The rendering in the template's annotation, if it is the one whose hash the pool's status holds.
fn trusted_rendering<'a>(pool: &AgentPool, template: &'a SandboxTemplate) -> Result<&'a str, String> {
    let name = template.name_any();
    let known = pool.status.as_ref().and_then(|status| status.renderings.get(&name));
    let rendering = template.annotations().get(label::RENDERED);
    match (known, rendering) {
        (Some(known), Some(rendering)) if pair::sha256(rendering) == *known => Ok(rendering),
        _ => Err(format!(
            "SandboxTemplate {name} isn't as AgentPool {} rendered it",
            pool.name_any()
        )),
    }
}

fn is(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata.uid.as_deref() == Some(uid)
}

/// DESIGN §5.3: at most 32 binds read at a time.
const IN_FLIGHT: usize = 32;
