//! Pure: which sessions of a namespace may use which credentials now, and what each binding's state is. In: bindings,
//! policies, what git's tips say, what Secrets' owners offer, sessions. Out: one verdict a binding, one list of grants a
//! session. A doubt denies (DESIGN §1.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{
    AgentSession, Confinement, CredentialBinding, GrantPolicy, Reason, Require, SessionDelivery, Subjects, label,
};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use super::kind::keys_of;
use super::permit::{DefaultPolicy, Matching, Permitted, host_covers};

/// Everything that a namespace's grants depend on.
pub struct Facts<'a> {
    /// The time.
    pub now: Timestamp,
    /// The namespace.
    pub namespace: &'a str,
    /// What holds where no policy says `allow`.
    pub default: DefaultPolicy,
    /// Its bindings.
    pub bindings: &'a [Arc<CredentialBinding>],
    /// All policies.
    pub policies: &'a [Arc<GrantPolicy>],
    /// Where each binding stands in git, by name.
    pub tips: &'a BTreeMap<String, Tip>,
    /// What owners offer, by the names of their Secrets.
    pub secrets: &'a BTreeMap<String, Result<Offered, Refused>>,
    /// Bindings whose value couldn't be had, with the version of the Secrets for which that holds.
    pub broken: &'a BTreeMap<String, (String, Refused)>,
    /// Sessions that hold a pod.
    pub sessions: &'a [SessionFacts],
    /// Host of the GitHub API.
    pub github_host: &'a str,
}

/// Where a binding's document stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tip {
    /// In the newest tip of a source, with the live spec.
    Stands {
        /// The last commit that changed it.
        commit: String,
        /// Author of that commit, as git says.
        author: String,
    },
    /// In no source of the namespace; git never delivered it.
    Direct,
    /// Git delivered it, or a source speaks of it, and the newest tip doesn't say the same.
    Gone(String),
}

/// What a Secret's owner offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offered {
    /// Hosts that its values may be sent to.
    pub hosts: Vec<String>,
    /// Changes with the Secret.
    pub version: String,
}

/// A Secret that can't be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// A session that holds a pod.
#[derive(Clone, Debug)]
pub struct SessionFacts {
    /// The session.
    pub session: Arc<AgentSession>,
    /// Confinement of its pool.
    pub confinement: Confinement,
    /// Image of its pool.
    pub image: String,
    /// Whether the newest tip of a source declares it as it is.
    pub from_git: bool,
}

/// What became of a binding.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Sessions may use it.
    Active(Box<Active>),
    /// Nobody may, for now.
    Inactive {
        /// For programs.
        reason: Reason,
        /// For people.
        message: String,
        /// Whether a person has to act; else time or the spec itself says so.
        stalled: bool,
    },
}

/// A binding in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// Its routes, as permitted.
    pub permitted: Permitted,
    /// Of everything that matters to security.
    pub fingerprint: String,
    /// The commit that it stands in; none for one that no git holds.
    pub commit: Option<String>,
    /// Of that commit.
    pub author: Option<String>,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// Version of the Secret that its value comes from.
    pub version: String,
}

/// One credential of one session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionGrant {
    /// The binding.
    pub binding: String,
    /// The binding in force.
    pub active: Active,
}

/// What holds in a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// By binding.
    pub bindings: BTreeMap<String, Verdict>,
    /// By session UID; sessions without a grant have an empty list.
    pub sessions: BTreeMap<String, Vec<SessionGrant>>,
    /// Sessions, by UID, of which a binding can't be judged yet: git or a Secret is still being read.
    pub undetermined: BTreeSet<String>,
    /// The next moment at which something begins or ends by itself.
    pub next: Option<Timestamp>,
}

/// Decides for a namespace.
pub fn decide(facts: &Facts<'_>) -> Decisions {
    let matching = Matching::of(facts.namespace, facts.policies);
    let mut bindings: Vec<&Arc<CredentialBinding>> = facts.bindings.iter().collect();
    bindings.sort_by_key(|binding| (binding.creation_timestamp(), binding.name_any()));
    let mut decisions = Decisions::default();
    for binding in &bindings {
        decisions
            .bindings
            .insert(binding.name_any(), verdict(facts, &matching, binding));
    }
    resolve_conflicts(&bindings, &mut decisions.bindings);
    for session in facts.sessions {
        let uid = session.session.uid().unwrap_or_default();
        let theirs = listed(&bindings, &session.session);
        if theirs
            .iter()
            .any(|binding| is_undetermined(&decisions.bindings, binding))
        {
            decisions.undetermined.insert(uid.clone());
        }
        let grants = grants(&matching, &theirs, &decisions.bindings, session);
        decisions.sessions.insert(uid, grants);
    }
    decisions.next = next(&bindings, facts.now);
    decisions
}

fn verdict(facts: &Facts<'_>, matching: &Matching<'_>, binding: &CredentialBinding) -> Verdict {
    match active(facts, matching, binding) {
        Ok(active) => Verdict::Active(Box::new(active)),
        Err(inactive) => inactive,
    }
}

fn refused(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::Inactive {
        reason,
        message: message.into(),
        stalled: true,
    }
}

fn waits(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::Inactive {
        reason,
        message: message.into(),
        stalled: false,
    }
}

fn active(facts: &Facts<'_>, matching: &Matching<'_>, binding: &CredentialBinding) -> Result<Active, Verdict> {
    check_state(facts, binding)?;
    let (commit, author) = check_delivery(facts, matching, binding)?;
    for require in matching.requirements() {
        check_evidence(facts, require, binding)?;
    }
    let offered = offered(facts, binding)?;
    check_minting_host(facts, binding, &offered)?;
    let mut permitted = matching.permit(binding, facts.default);
    let refusal = if permitted.routes.is_empty() {
        Reason::NotPermitted
    } else {
        Reason::HostNotOffered
    };
    permitted.routes.retain(|route| {
        let keeps = offered
            .iter()
            .find(|(_, offered)| !offered.hosts.iter().any(|host| host_covers(host, &route.host)));
        if let Some((name, _)) = keeps {
            let message = format!("Secret {name} isn't offered to {}", route.host);
            permitted.narrowed.push(message);
        }
        keeps.is_none()
    });
    if permitted.routes.is_empty() {
        return Err(refused(refusal, permitted.narrowed.join("; ")));
    }
    Ok(Active {
        fingerprint: fingerprint(binding),
        permitted,
        commit,
        author,
        expires: binding.spec.expires_at.as_ref().map(|time| time.0),
        version: version(&offered),
    })
}

/// The Secrets of a binding, each offered by its owner.
fn offered<'a>(facts: &Facts<'a>, binding: &'a CredentialBinding) -> Result<BTreeMap<&'a str, &'a Offered>, Verdict> {
    let mut all = BTreeMap::new();
    for key in keys_of(&binding.spec.credential.source) {
        let name = key.name.as_str();
        match facts.secrets.get(name) {
            Some(Ok(offered)) => drop(all.insert(name, offered)),
            Some(Err(Refused { reason, message })) => return Err(refused(*reason, message.clone())),
            None => return Err(waits(Reason::Progressing, format!("Secret {name} is being read"))),
        }
    }
    if all.is_empty() {
        return Err(refused(
            Reason::NotImplemented,
            "spec.credential.source: only secretRef, githubApp and awsSigV4 are implemented in this release",
        ));
    }
    match facts.broken.get(&binding.name_any()) {
        Some((at, Refused { reason, message })) if *at == version(&all) => Err(refused(*reason, message.clone())),
        _ => Ok(all),
    }
}

/// Changes with any of the Secrets.
fn version(offered: &BTreeMap<&str, &Offered>) -> String {
    let versions: Vec<&str> = offered.values().map(|offered| offered.version.as_str()).collect();
    versions.join(" ")
}

/// An App's key signs what is sent to GitHub: its owner has to offer it to that host as well.
fn check_minting_host(
    facts: &Facts<'_>,
    binding: &CredentialBinding,
    offered: &BTreeMap<&str, &Offered>,
) -> Result<(), Verdict> {
    let minted = binding.spec.credential.source.github_app.is_some();
    let mut hosts = offered.values().flat_map(|offered| &offered.hosts);
    if !minted || hosts.any(|host| host_covers(host, facts.github_host)) {
        return Ok(());
    }
    let message = format!("the Secret with the App's key isn't offered to {}", facts.github_host);
    Err(refused(Reason::HostNotOffered, message))
}

/// What the object itself says: deleted, revoked, suspended, too early, too late.
fn check_state(facts: &Facts<'_>, binding: &CredentialBinding) -> Result<(), Verdict> {
    let spec = &binding.spec;
    if binding.meta().deletion_timestamp.is_some() {
        return Err(waits(Reason::Revoked, "the binding is being deleted"));
    }
    if binding
        .annotations()
        .get(label::REVOKE)
        .is_some_and(|value| value == "now")
    {
        return Err(waits(
            Reason::Revoked,
            format!("annotation {} revokes it", label::REVOKE),
        ));
    }
    if spec.suspend {
        return Err(waits(Reason::Suspended, "spec.suspend is set"));
    }
    if let Some(time) = spec.not_before.as_ref().filter(|time| time.0 > facts.now) {
        return Err(waits(Reason::NotYet, format!("spec.notBefore is {}", time.0)));
    }
    if let Some(time) = spec.expires_at.as_ref().filter(|time| time.0 <= facts.now) {
        return Err(waits(Reason::Expired, format!("spec.expiresAt was {}", time.0)));
    }
    Ok(())
}

/// Two keys turn the lock (DESIGN §1.7): the object, and its document in the newest tip; or a policy that accepts an
/// object alone.
fn check_delivery(
    facts: &Facts<'_>,
    matching: &Matching<'_>,
    binding: &CredentialBinding,
) -> Result<(Option<String>, Option<String>), Verdict> {
    match facts.tips.get(&binding.name_any()) {
        Some(Tip::Stands { commit, author }) => Ok((Some(commit.clone()), Some(author.clone()))),
        Some(Tip::Direct) if matching.accepts_direct() => Ok((None, None)),
        Some(Tip::Direct) => Err(refused(
            Reason::NotInSource,
            "no GitSource of the namespace declares it, and no GrantPolicy accepts bindings made directly \
             (spec.require.direct)",
        )),
        Some(Tip::Gone(message)) => Err(refused(Reason::NotInSource, message.clone())),
        None => Err(waits(Reason::Progressing, "the namespace's sources are being read")),
    }
}

/// What a policy wants proven of a binding. What this release can't prove isn't.
fn check_evidence(facts: &Facts<'_>, require: &Require, binding: &CredentialBinding) -> Result<(), Verdict> {
    if require.signed_commits || require.review.is_some() {
        return Err(refused(
            Reason::EvidenceUnverifiable,
            "a GrantPolicy requires signed commits or a review, which this release can't verify yet",
        ));
    }
    let Some(longest) = require.max_duration.map(std::time::Duration::from) else {
        return Ok(());
    };
    let begins = binding.spec.not_before.as_ref().map(|time| time.0);
    let begins = begins
        .or_else(|| binding.creation_timestamp().map(|time| time.0))
        .unwrap_or(facts.now);
    let allowed = binding.spec.expires_at.as_ref().is_some_and(|time| {
        std::time::Duration::try_from(time.0.duration_since(begins)).is_ok_and(|lasts| lasts <= longest)
    });
    if allowed {
        return Ok(());
    }
    let seconds = longest.as_secs();
    Err(refused(
        Reason::NotPermitted,
        format!("a GrantPolicy limits grants to {seconds} s: set spec.expiresAt to at most that after its beginning"),
    ))
}

/// Of two bindings that give one name to different values the older one wins.
fn resolve_conflicts(bindings: &[&Arc<CredentialBinding>], verdicts: &mut BTreeMap<String, Verdict>) {
    let mut first: BTreeMap<&str, &Arc<CredentialBinding>> = BTreeMap::new();
    for binding in bindings {
        let name = binding.name_any();
        if !matches!(verdicts.get(&name), Some(Verdict::Active(_))) {
            continue;
        }
        let credential = &binding.spec.credential;
        let winner = first.entry(credential.name.as_str()).or_insert(binding);
        if winner.spec.credential.source != credential.source {
            let message = format!(
                "ConflictsWith {}: it is older and gives {} another value",
                winner.name_any(),
                credential.name
            );
            verdicts.insert(name, refused(Reason::ConflictsWith, message));
        }
    }
}

/// The bindings that select a session and whose credential it lists.
fn listed<'a>(bindings: &[&'a Arc<CredentialBinding>], session: &AgentSession) -> Vec<&'a Arc<CredentialBinding>> {
    let names: BTreeSet<&str> = session
        .spec
        .credentials
        .iter()
        .map(|credential| credential.name.as_str())
        .collect();
    let theirs = bindings.iter().filter(|binding| {
        names.contains(binding.spec.credential.name.as_str()) && selects(&binding.spec.subjects, session)
    });
    theirs.copied().collect()
}

fn is_undetermined(verdicts: &BTreeMap<String, Verdict>, binding: &CredentialBinding) -> bool {
    let verdict = verdicts.get(&binding.name_any());
    matches!(
        verdict,
        Some(Verdict::Inactive {
            reason: Reason::Progressing,
            ..
        })
    )
}

fn grants(
    matching: &Matching<'_>,
    theirs: &[&Arc<CredentialBinding>],
    verdicts: &BTreeMap<String, Verdict>,
    session: &SessionFacts,
) -> Vec<SessionGrant> {
    if !matching.requirements().all(|require| session_may(require, session)) {
        return Vec::new();
    }
    let active = theirs
        .iter()
        .filter_map(|binding| match verdicts.get(&binding.name_any())? {
            Verdict::Active(active) => Some(SessionGrant {
                binding: binding.name_any(),
                active: Active::clone(active),
            }),
            Verdict::Inactive { .. } => None,
        });
    active.collect()
}

/// What a policy wants of the session itself: a reviewed grant isn't inherited by whatever somebody makes by hand.
fn session_may(require: &Require, session: &SessionFacts) -> bool {
    let delivered = require.session_delivery != Some(SessionDelivery::Git) || session.from_git;
    let confined = require
        .min_confined
        .is_none_or(|least| strength(session.confinement) >= strength(least));
    let image = require.images.is_empty() || require.images.iter().any(|image| image_matches(image, &session.image));
    delivered && confined && image
}

fn strength(confinement: Confinement) -> u8 {
    match confinement {
        Confinement::None => 0,
        Confinement::NetworkPolicy => 1,
        Confinement::Fence => 2,
    }
}

/// A digest, or a prefix that ends where a part of the name does.
fn image_matches(allowed: &str, image: &str) -> bool {
    let rest = if allowed.starts_with("sha256:") {
        return image.ends_with(&format!("@{allowed}"));
    } else {
        image.strip_prefix(allowed)
    };
    rest.is_some_and(|rest| rest.is_empty() || allowed.ends_with('/') || rest.starts_with(['/', ':', '@']))
}

fn selects(subjects: &Subjects, session: &AgentSession) -> bool {
    if subjects.all_sessions == Some(true) {
        return true;
    }
    if let Some(selector) = &subjects.session_selector {
        return selector.matches(session.labels());
    }
    subjects.session_names.contains(&session.name_any())
}

/// Of namespace, name and spec but for the words: moving or re-indenting the document changes nothing.
fn fingerprint(binding: &CredentialBinding) -> String {
    let mut spec = serde_json::to_value(&binding.spec).unwrap_or_default();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("reason");
    }
    let of = serde_json::json!([binding.namespace(), binding.name_any(), spec]);
    hex::encode(Sha256::digest(of.to_string()))
}

fn next(bindings: &[&Arc<CredentialBinding>], now: Timestamp) -> Option<Timestamp> {
    let times = bindings
        .iter()
        .flat_map(|binding| [&binding.spec.not_before, &binding.spec.expires_at]);
    times.flatten().map(|time| time.0).filter(|time| *time > now).min()
}

#[cfg(test)]
mod tests;
