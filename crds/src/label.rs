//! Every label, annotation and field manager that Berth writes or reads, once.
//!
//! They say where to look; they prove nothing (DESIGN §1.8).

/// Prefix reserved for Berth: a committed file may not set keys under it, but for [`USER_KEYS`].
pub const PREFIX: &str = "berth.dev/";

/// Prefixes of the labels that Berth's own engine and Flux add to what they apply.
const APPLIERS: [&str; 3] = [PREFIX, "kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/"];

/// Whether an applier adds this label to an object, whatever its document says.
#[must_use]
pub fn is_an_appliers(label: &str) -> bool {
    APPLIERS.iter().any(|prefix| label.starts_with(prefix))
}

/// Keys under [`PREFIX`] that people may set in a committed file.
pub const USER_KEYS: [&str; 1] = [REVOKE];

/// Annotation of a claim's pod: UID of the session it serves.
pub const SESSION_UID: &str = "berth.dev/session-uid";

/// Annotation of a claim's pod: the session's incarnation.
pub const INCARNATION: &str = "berth.dev/incarnation";

/// Label of what a pool rendered, and of the claims on it: the pool's name.
pub const POOL: &str = "berth.dev/pool";

/// Label of what a pool rendered: hash of the pod-shaping fields.
pub const POOL_HASH: &str = "berth.dev/pool-hash";

/// Label of a claim: name of its session.
pub const SESSION: &str = "berth.dev/session";

/// Annotation of a SandboxTemplate: SHA-256 of the pod spec as rendered, to compare the live pod with.
pub const RENDERED: &str = "berth.dev/rendered-sha256";

/// Label of objects that a GitSource applied: UID of that GitSource.
pub const SOURCE_UID: &str = "berth.dev/source-uid";

/// Annotation of an applied object: `<namespace>/<name>` of its GitSource.
pub const SOURCE: &str = "berth.dev/source";

/// Annotation of an applied object: URL of the repository, without credentials.
pub const REPOSITORY: &str = "berth.dev/repository";

/// Annotation of an applied object: path of its file.
pub const PATH: &str = "berth.dev/path";

/// Annotation of an applied object: the last commit that changed its document.
pub const COMMIT: &str = "berth.dev/commit";

/// Annotation of an applied object: author of that commit, as the commit says.
pub const AUTHOR: &str = "berth.dev/author";

/// Annotation of an applied object: SHA-256 of the document as applied, so that an unchanged one costs no request.
pub const APPLIED: &str = "berth.dev/applied-sha256";

/// Annotation of a GitSource: the commit whose deletions a person has approved.
pub const APPROVE_PRUNE: &str = "berth.dev/approve-prune";

/// Annotation of a CredentialBinding: `now` refuses it at once (break-glass).
pub const REVOKE: &str = "berth.dev/revoke";

/// Label of a Secret: `true` where its owner offers it to sessions.
pub const OFFERED: &str = "berth.dev/credential";

/// Annotation of a Secret: hosts that its values may be sent to, with commas between them.
pub const HOSTS: &str = "berth.dev/hosts";

/// ServiceAccount, in a binding's namespace, that Secrets are read as.
pub const CREDENTIALS_ACCOUNT: &str = "berth-credentials";

/// Annotation of any of our objects, as Flux's: any new value asks for a reconcile now.
pub const RECONCILE: &str = "reconcile.fluxcd.io/requestedAt";

/// Label of the controller pod that holds the Lease; the Service selects it.
pub const ACTIVE: &str = "berth.dev/active";

/// Field manager of the controller's own writes.
pub const MANAGER: &str = "berth-controller";

/// Field manager of objects applied from git.
pub const SOURCE_MANAGER: &str = "berth-gitsource";

/// ServiceAccount, in the source's namespace, that objects are applied as.
pub const SYNC_ACCOUNT: &str = "berth-sync";

/// Impersonation extra that marks the engine's own applies; only the controller may use it.
pub const ENGINE_EXTRA: &str = "berth.dev/engine";

/// agent-sandbox: annotation of a Sandbox with the name of its pod.
pub const SANDBOX_POD_NAME: &str = "agents.x-k8s.io/pod-name";

/// agent-sandbox: annotation of a claim with the time its client asked for it.
pub const FIRST_REQUESTED: &str = "agents.x-k8s.io/client-first-requested-at";

/// agent-sandbox: label of a Sandbox, `warm` or `cold`.
pub const LAUNCH_TYPE: &str = "agents.x-k8s.io/launch-type";
