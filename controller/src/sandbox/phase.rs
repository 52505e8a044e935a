//! Pure: what a claim's conditions mean for its session.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::SandboxClaim;

/// Where a claim stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimPhase {
    /// No sandbox is ready yet; the reason and message of the claim.
    Pending {
        /// The claim's `Ready` reason, empty before its first status.
        reason: String,
        /// The claim's `Ready` message.
        message: String,
    },
    /// This sandbox serves it.
    Ready {
        /// Name of the Sandbox.
        sandbox: String,
    },
    /// It will never serve again.
    Ended(Ended),
}

/// Why a claim will never serve again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// The claim's reason.
    pub reason: String,
    /// The claim's message.
    pub message: String,
}

/// Reasons that agent-sandbox's own client treats as terminal (research/agent-sandbox.md §1.5).
const TERMINAL: [&str; 8] = [
    "InvalidMetadata",
    "EnvVarsInjectionRejected",
    "VolumeClaimTemplatesError",
    "ClaimExpired",
    "SandboxExpired",
    "InvalidConfiguration",
    "PodFailed",
    "PodSucceeded",
];

/// Reasons that a bound claim shows although its pod runs on: its pool or template is gone (ibid. §2.3).
const BOUND_ANYWAY: [&str; 2] = ["WarmPoolNotFound", "TemplateNotFound"];

/// Reads a claim's phase.
pub fn claim_phase(claim: &SandboxClaim) -> ClaimPhase {
    let status = claim.status.clone().unwrap_or_default();
    let sandbox = status
        .sandbox
        .and_then(|sandbox| sandbox.name)
        .filter(|name| !name.is_empty());
    let Some(ready) = status.conditions.iter().find(|condition| condition.type_ == "Ready") else {
        return ClaimPhase::Pending {
            reason: String::new(),
            message: String::new(),
        };
    };
    match (sandbox, ready.status.as_str()) {
        (Some(sandbox), "True") => ClaimPhase::Ready { sandbox },
        (Some(sandbox), _) if BOUND_ANYWAY.contains(&ready.reason.as_str()) => ClaimPhase::Ready { sandbox },
        _ if TERMINAL.contains(&ready.reason.as_str()) => ClaimPhase::Ended(ended(ready)),
        _ => ClaimPhase::Pending {
            reason: ready.reason.clone(),
            message: ready.message.clone(),
        },
    }
}

fn ended(ready: &Condition) -> Ended {
    Ended {
        reason: ready.reason.clone(),
        message: ready.message.clone(),
    }
}
