//! Conditions and reasons, and the one way to put them into a status.
//!
//! kstatus reads `Reconciling` and `Stalled` first and `Ready` last, so those two are present only while they are
//! `True` (research/gitops.md §2). Transition times move only when the status of a condition does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

macro_rules! named {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $name:ident),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $type { $($(#[$doc])* $name),+ }

        impl $type {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

named! {
    /// Types of conditions on our kinds.
    ConditionType {
        /// A credential's grant is in force (CredentialBinding).
        Active,
        /// A binding has the evidence that policy asks for.
        Approved,
        /// The session's process runs.
        Available,
        /// The session has spent its budget.
        BudgetExhausted,
        /// Which guarantees hold about what leaves the pool's pods.
        Confined,
        /// Every required credential of the session is granted.
        CredentialsReady,
        /// The world matches the spec.
        Ready,
        /// Work is under way. Present only while `True`.
        Reconciling,
        /// A refresh token that was rotated stands in its Secret. Present only while it doesn't, as `False`.
        RefreshTokenStored,
        /// The session continued from a checkpoint.
        Resumed,
        /// A sidecar acknowledged the session's assignment.
        SandboxBound,
        /// An edit of the spec waits for a new `task.runID`.
        SpecPinned,
        /// A person has to act. Present only while `True`.
        Stalled,
        /// The task ended, and how.
        Succeeded,
        /// The harness asks for input.
        WaitingForInput,
    }
}

named! {
    /// Reasons of conditions and Events.
    Reason {
        /// Admission refused the rendered pod; the message quotes it.
        AdmissionRefused,
        /// All objects of the revision are applied.
        Applied,
        /// Some objects could not be applied; `status.errors` lists them.
        AppliedWithErrors,
        /// A sidecar acknowledged the assignment.
        Bound,
        /// No acknowledgement within the deadline; the next incarnation follows.
        BindDeadlineExceeded,
        /// The task ended with exit status 0.
        Completed,
        /// The git server could not be reached or refused.
        FetchFailed,
        /// The rendered pod's fence and policies hold.
        Fenced,
        /// The harness ended with an error.
        HarnessFailed,
        /// The pod was lost after the harness started; it is not run again without a checkpoint.
        Interrupted,
        /// Everything that was kept is restored.
        Complete,
        /// Something of the session's state was left out or isn't as it was; the message names it.
        Incomplete,
        /// The program's own files are restored, and nothing of the workspace.
        TranscriptOnly,
        /// The pod was lost; the session goes on in another one.
        Resuming,
        /// The session has spent its budget.
        BudgetExhausted,
        /// It has waited for input for long; the next input continues it.
        Idle,
        /// A field's value can't be used, though the schema admits it.
        InvalidSpec,
        /// No fence was asked for.
        Unconfined,
        /// A field whose feature this release doesn't have.
        NotImplemented,
        /// The newest tip is fetched; nothing is applied in this mode.
        Observed,
        /// The live pod differs from what the pool rendered.
        PodNotAsRendered,
        /// The named AgentPool doesn't exist.
        PoolNotFound,
        /// The pool has as many sessions as it may.
        PoolFull,
        /// Warm pods are there.
        PoolReady,
        /// The pool's first warm pods are starting.
        PoolWarming,
        /// Work is under way.
        Progressing,
        /// More than half of a source's sessions and pools would be deleted.
        PruneGuard,
        /// The session's process runs.
        Running,
        /// The harness has done what it was asked and waits for more.
        WaitingForInput,
        /// The sandbox has ended by itself.
        SandboxEnded,
        /// A claim waits for its sandbox.
        SandboxPending,
        /// Five binds failed within two minutes; claims wait.
        SandboxesDoNotAttach,
        /// The edit takes effect with a new `task.runID`.
        SpecEdited,
        /// The harness is being started.
        Starting,
        /// Postgres is not there.
        StoreUnavailable,
        /// `spec.suspend` is set.
        Suspended,
        /// `lifecycle.maxDuration` has passed.
        TimedOut,
        /// The object's finished work was released.
        Released,
        /// The ServiceAccount berth-sync is missing or may not apply.
        SyncForbidden,
        /// The branch's new tip isn't a descendant of the old one.
        Rewound,
        /// Another binding gives the credential's name another value, and is older.
        ConflictsWith,
        /// Policy asks for evidence that can't be verified.
        EvidenceUnverifiable,
        /// `spec.expiresAt` has passed.
        Expired,
        /// The grant is in force.
        Granted,
        /// A certificate or its key can't be used.
        CertificateUnusable,
        /// Every required credential of the session is granted.
        CredentialsGranted,
        /// A required credential of the session isn't granted.
        CredentialsMissing,
        /// The Secret's owner doesn't offer it to the route's host.
        HostNotOffered,
        /// The binding's document doesn't stand in a source's newest tip.
        NotInSource,
        /// Every route breaks a rule of the sidecar's grammar.
        InvalidRoute,
        /// No policy permits it.
        NotPermitted,
        /// `spec.notBefore` is still to come.
        NotYet,
        /// The policy is in force.
        PolicyReady,
        /// A token endpoint gives no token; the message says why.
        TokenRefused,
        /// A model gateway gives the session no key; the message says why.
        GatewayRefused,
        /// The repository is on no forge of the install's configuration.
        ForgeUnknown,
        /// The install's configuration has no model gateway of this name.
        GatewayUnknown,
        /// The session's budget doesn't fit into what is left of its namespace's.
        NamespaceBudget,
        /// A model gateway can't be asked for the session's key; the message says why.
        GatewayUnreachable,
        /// A refresh token that was rotated couldn't be written back.
        WriteBackFailed,
        /// It was revoked by annotation, or is being deleted.
        Revoked,
        /// What the Secret holds can't be used as the binding says.
        SecretInvalid,
        /// The Secret or its key isn't there, or may not be read.
        SecretNotFound,
        /// The Secret's owner doesn't offer it to sessions.
        SecretNotOffered,
        /// The commit came without a pull request that was merged.
        NoPullRequest,
        /// Only people who had a part in the change have approved it.
        SelfApproval,
        /// An approval was withdrawn, or is of a head that can't be looked at any more.
        StaleApproval,
        /// What was approved isn't what was merged.
        ChangedAfterReview,
        /// An identity whose credential a session may use has approved or merged.
        ApproverIsAgent,
        /// The pull request was merged elsewhere.
        WrongBase,
        /// Fewer people have approved than a policy wants.
        NotEnoughApprovals,
        /// An approver isn't in a team that a policy names.
        WrongTeam,
        /// The author's commit isn't signed by a person's key.
        Unsigned,
        /// The source couldn't be fetched for longer than a policy accepts.
        SourceStale,
    }
}

/// One condition as wanted, before it is merged into a status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Its type.
    pub type_: ConditionType,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
}

impl Wanted {
    /// A condition that is `True`.
    pub fn yes(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: "True",
            reason,
            message: message.into(),
        }
    }

    /// A condition that is `False`.
    pub fn no(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: "False",
            reason,
            message: message.into(),
        }
    }

    /// The condition as it stands, so that it is wanted again; `None` for a type or reason of another release.
    pub fn from_condition(condition: &Condition) -> Option<Self> {
        let status = ["True", "False", "Unknown"]
            .into_iter()
            .find(|status| *status == condition.status)?;
        Some(Self {
            type_: ConditionType::ALL
                .iter()
                .copied()
                .find(|type_| type_.as_str() == condition.type_)?,
            status,
            reason: Reason::ALL
                .iter()
                .copied()
                .find(|reason| reason.as_str() == condition.reason)?,
            message: condition.message.clone(),
        })
    }

    /// A condition that is not known yet.
    pub fn unknown(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: "Unknown",
            reason,
            message: message.into(),
        }
    }
}

/// The conditions that `wanted` makes of `old`: exactly the wanted ones, in their order, each with the old transition
/// time where its status is the same.
pub fn merge(old: &[Condition], wanted: &[Wanted], generation: i64, now: &Time) -> Vec<Condition> {
    wanted
        .iter()
        .map(|want| {
            let before = old
                .iter()
                .find(|c| c.type_ == want.type_.as_str() && c.status == want.status);
            Condition {
                type_: want.type_.as_str().to_owned(),
                status: want.status.to_owned(),
                reason: want.reason.as_str().to_owned(),
                message: cut(&want.message, MESSAGE_MAX),
                observed_generation: Some(generation),
                last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The condition of that type, if the status has it.
pub fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

/// Longest message of a condition: a screenful; the API allows 32 KiB.
const MESSAGE_MAX: usize = 1024;

/// The text, cut at a character's boundary with an ellipsis when it is longer than `max` bytes.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
