//! Berth's API, group `berth.dev/v1alpha1`: five kinds, their conditions, the keys we put on objects.
//!
//! Types only: no client, no clock, no IO. [`all`] gives the CustomResourceDefinitions; `charts/berth-crds` is
//! generated from it and a test fails when the two differ. Field documentation here is what `kubectl explain` prints.
#![expect(
    clippy::duplicated_attributes,
    reason = "each selectable field and printer column is one of the same name"
)]

mod binding;
pub mod condition;
mod harness;
pub mod label;
mod policy;
mod pool;
mod schema;
mod session;
mod source;

pub use binding::{
    Approval, AwsInjection, AwsSigV4, BasicInjection, ClientAuthentication, Credential, CredentialBinding,
    CredentialBindingSpec, CredentialBindingStatus, CredentialSource, Empty, GitAccess, GitHubApp, GitRoute, Grant,
    GrantRepository, HeaderInjection, Injection, KeyRef, LiteLLMKey, OAuth2, Operator, ProtectedPaths, Revocation,
    Route, SelectorRequirement, SessionSelector, Stub, Subjects, Tokens, ValueInjection,
};
pub use condition::{ConditionType, Reason};
pub use harness::{Harness, HarnessKind};
pub use policy::{
    AllowRule, DenyRule, Evidence, GrantPolicy, GrantPolicySpec, GrantPolicyStatus, Match, NamespaceBudget, OnStale,
    Period, Repositories, Require, Review, SessionDelivery, SourceSet, StaleAction,
};
pub use pool::{
    AgentPool, AgentPoolSpec, AgentPoolStatus, ColdStart, Confinement, EgressRoute, EgressTls, Gateway, PoolEgress,
    SecretName, Workspace,
};
pub use schema::all;
pub use session::{
    AgentSession, AgentSessionSpec, AgentSessionStatus, Budget, CredentialUse, EnvVar, LaunchType, Lifecycle,
    OnInterrupt, PauseReason, Paused, Phase, PoolRef, Proposal, PullRequest, Repository, Resume, SandboxStatus,
    SessionResult, SourceStatus, Spend, Task, TaskMode,
};
pub use source::{
    GitRef, GitSource, GitSourceSpec, GitSourceStatus, LocalSecretRef, SourceError, SourceMode, Verify, Webhook,
};

/// API group of every kind here.
pub const GROUP: &str = "berth.dev";

/// The one version served.
pub const VERSION: &str = "v1alpha1";

/// Longest name of our objects: a claim `<session>-<incarnation>` must stay a DNS label (63).
pub const NAME_MAX: usize = 52;
