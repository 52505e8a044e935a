//! Pure: which sessions of a namespace may use which credentials now, and what each binding's state is. In: bindings,
//! policies, what git's tips say, what Secrets' owners offer, sessions. Out: one verdict a binding, one list of grants a
//! session. A doubt denies (DESIGN §1.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{
    AgentSession, Confinement, CredentialBinding, Grant, GrantPolicy, KeyRef, Reason, Require, StaleAction, label,
};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::approve::{Approval, ToldGrant, approve};
use super::evidence::ask::Wanted;
use super::evidence::prove::Known;
use super::permit::{DefaultPolicy, Matching, Permitted};
use super::select::{Index, may_meet, session_may};
use super::tip::Standing;
use super::vet::vet;
use crate::forge::config::Place;
use crate::gateway::config::Gateways;

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
    /// What owners offer, by `name/key` of their Secret.
    pub secrets: &'a BTreeMap<String, Result<Offered, Refused>>,
    /// Sessions that hold a pod.
    pub sessions: &'a [SessionFacts],
    /// Host of the GitHub API.
    pub github_host: &'a str,
    /// The install's model gateways.
    pub gateways: &'a Gateways,
    /// Labels of the namespace; `None` while they aren't known.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// What evidence is judged by.
    pub known: &'a Known<'a>,
}

/// Where a binding's document stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Tip {
    /// In the newest tip of a source, with the live spec.
    Stands(Box<Standing>),
    /// In no source of the namespace; git never delivered it.
    Direct,
    /// In the newest tip, which says something else of it: one of the two is about to follow the other.
    Differs(String),
    /// In no source that was read, and this process hasn't read all of them yet: who they are.
    Unread(String),
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
    /// What is proven of it.
    pub grant: Grant,
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
    /// By session UID, bindings whose new grant isn't written down yet: it keeps the one before for a moment.
    pub kept: BTreeMap<String, BTreeSet<String>>,
    /// What each binding's status says of its grant.
    pub grants: BTreeMap<String, ToldGrant>,
    /// What forges are asked, and which of it is open.
    pub questions: Vec<Wanted>,
    /// Repositories whose ids policies match by.
    pub places: BTreeSet<Place>,
    /// The next moment at which something begins or ends by itself.
    pub next: Option<Timestamp>,
}

/// Decides for a namespace.
pub fn decide(facts: &Facts<'_>) -> Decisions {
    let mut bindings: Vec<&Arc<CredentialBinding>> = facts.bindings.iter().collect();
    bindings.sort_by_key(|binding| (binding.creation_timestamp(), binding.name_any()));
    let mut decisions = Decisions::default();
    let (mut policies, mut asking) = (BTreeMap::new(), BTreeSet::new());
    for binding in &bindings {
        let mut approval = approve(facts, binding);
        let name = binding.name_any();
        decisions
            .bindings
            .insert(name.clone(), verdict(facts, &approval, binding));
        decisions.grants.insert(name.clone(), approval.told());
        decisions.questions.extend(approval.question.take());
        decisions.places.extend(approval.identified.take());
        decisions.next = [decisions.next, stale_at(&approval).filter(|at| *at > facts.now)]
            .into_iter()
            .flatten()
            .min();
        if approval.asking {
            asking.insert(name.clone());
        }
        policies.insert(name, approval.matching);
    }
    resolve_conflicts(&bindings, &mut decisions.bindings);
    let index = Index::of(bindings.iter().copied());
    for session in facts.sessions {
        let uid = session.session.uid().unwrap_or_default();
        let theirs = index.listed(&session.session);
        if theirs
            .iter()
            .any(|binding| !asking.contains(&binding.name_any()) && is_undetermined(&decisions.bindings, binding))
        {
            decisions.undetermined.insert(uid.clone());
        }
        let grants = grants(&policies, &theirs, &decisions.bindings, session);
        decisions.sessions.insert(uid, grants);
    }
    decisions.next = [decisions.next, next(&bindings, facts.now)].into_iter().flatten().min();
    decisions
}

fn verdict(facts: &Facts<'_>, approval: &Approval<'_>, binding: &CredentialBinding) -> Verdict {
    match active(facts, approval, binding) {
        Ok(active) => Verdict::Active(Box::new(active)),
        Err(inactive) => inactive,
    }
}

pub(super) fn refused(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::Inactive {
        reason,
        message: message.into(),
        stalled: true,
    }
}

pub(super) fn waits(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::Inactive {
        reason,
        message: message.into(),
        stalled: false,
    }
}

fn active(facts: &Facts<'_>, approval: &Approval<'_>, binding: &CredentialBinding) -> Result<Active, Verdict> {
    check_state(facts, binding)?;
    let matching = &approval.matching;
    let grant = approval.result.clone()?.grant;
    for require in matching.requirements() {
        check_duration(facts, require, binding)?;
    }
    check_stale(facts, approval)?;
    let keys = keys_of(&binding.spec.credential.source);
    let gateway = offered::gateway(facts, binding)?;
    let offers: Vec<(&KeyRef, &Offered)> = keys
        .into_iter()
        .map(|key| Ok((key, offered::offered(facts, key)?)))
        .collect::<Result<_, Verdict>>()?;
    offered::check_minting_hosts(facts, binding, &offers)?;
    offered::check_certificates(binding)?;
    let mut permitted = matching.permit(binding, facts.default);
    let mut refusal = Reason::NotPermitted;
    if !permitted.routes.is_empty() {
        vet(binding, &mut permitted);
        refusal = if permitted.routes.is_empty() {
            Reason::InvalidRoute
        } else {
            Reason::HostNotOffered
        };
    }
    permitted.routes.retain(|route| {
        let refusal = offered::not_offered(&offers, &route.host);
        let refusal = refusal.or_else(|| offered::not_the_gateway(gateway?, route));
        let is_offered = refusal.is_none();
        permitted.narrowed.extend(refusal);
        is_offered
    });
    if permitted.routes.is_empty() {
        return Err(refused(refusal, permitted.narrowed.join("; ")));
    }
    Ok(Active {
        grant,
        permitted,
        expires: binding.spec.expires_at.as_ref().map(|time| time.0),
        version: offers
            .iter()
            .map(|(_, offered)| offered.version.as_str())
            .collect::<Vec<_>>()
            .join(","),
    })
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

/// Of two bindings that give one name to different values, for a session that may be both's, the older one wins.
fn resolve_conflicts(bindings: &[&Arc<CredentialBinding>], verdicts: &mut BTreeMap<String, Verdict>) {
    let mut older: BTreeMap<&str, Vec<&Arc<CredentialBinding>>> = BTreeMap::new();
    for binding in bindings {
        let name = binding.name_any();
        if !matches!(verdicts.get(&name), Some(Verdict::Active(_))) {
            continue;
        }
        let credential = &binding.spec.credential;
        let older = older.entry(credential.name.as_str()).or_default();
        let winner = older.iter().find(|other| {
            other.spec.credential.source != credential.source && may_meet(&other.spec.subjects, &binding.spec.subjects)
        });
        if let Some(winner) = winner {
            let message = format!(
                "ConflictsWith {}: it is older and gives {} another value",
                winner.name_any(),
                credential.name
            );
            verdicts.insert(name, refused(Reason::ConflictsWith, message));
        } else {
            older.push(binding);
        }
    }
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
    policies: &BTreeMap<String, Matching<'_>>,
    theirs: &[&Arc<CredentialBinding>],
    verdicts: &BTreeMap<String, Verdict>,
    session: &SessionFacts,
) -> Vec<SessionGrant> {
    let may = |name: &String| {
        let mut wanted = policies.get(name)?.requirements();
        wanted.all(|require| session_may(require, session)).then_some(())
    };
    let active = theirs.iter().filter_map(|binding| {
        let name = binding.name_any();
        may(&name)?;
        match verdicts.get(&name)? {
            Verdict::Active(active) => Some(SessionGrant {
                binding: name,
                active: Active::clone(active),
            }),
            Verdict::Inactive { .. } => None,
        }
    });
    active.collect()
}

/// When a binding's source will have been out of reach for longer than a policy accepts.
fn stale_at(approval: &Approval<'_>) -> Option<Timestamp> {
    let (_, verified_at) = approval.source.as_ref()?;
    let denying = approval.matching.requirements().filter_map(|require| {
        let on_stale = require.on_stale.as_ref()?;
        (on_stale.action == StaleAction::Deny).then(|| std::time::Duration::from(on_stale.after))
    });
    let after = jiff::SignedDuration::try_from(denying.min()?).ok()?;
    verified_at.saturating_add(after).ok()
}

fn check_stale(facts: &Facts<'_>, approval: &Approval<'_>) -> Result<(), Verdict> {
    match (&approval.source, stale_at(approval)) {
        (Some((source, verified_at)), Some(stale_at)) if stale_at <= facts.now => Err(refused(
            Reason::SourceStale,
            format!(
                "GitSource {source} was last fetched at {verified_at}, longer ago than a GrantPolicy accepts \
                 (spec.require.onStale): see what its status says"
            ),
        )),
        _ => Ok(()),
    }
}

/// How long a policy lets a grant last.
fn check_duration(facts: &Facts<'_>, require: &Require, binding: &CredentialBinding) -> Result<(), Verdict> {
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

fn next(bindings: &[&Arc<CredentialBinding>], now: Timestamp) -> Option<Timestamp> {
    let times = bindings
        .iter()
        .flat_map(|binding| [&binding.spec.not_before, &binding.spec.expires_at]);
    times.flatten().map(|time| time.0).filter(|time| *time > now).min()
}

mod offered;

pub use self::offered::keys_of;

#[cfg(test)]
mod tests;
