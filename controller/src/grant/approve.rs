//! Pure: the second key (DESIGN §1.7) and the evidence of one binding, by the policies that speak of it.

use berth_crds::{CredentialBinding, Grant, Reason, Require};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::decide::{Facts, Refused, Tip, Verdict, refused, waits};
use super::evidence::ask::Wanted;
use super::evidence::prove::{self, Case, Proof, Proven, Unproven};
use super::permit::{Matching, Where};
use super::tip::Standing;
use crate::forge::config::Place;

/// How a binding is approved.
pub struct Approval<'a> {
    /// The policies that speak of it.
    pub matching: Matching<'a>,
    /// What is proven, or why not.
    pub result: Result<Proof, Verdict>,
    /// What was sealed before, and still speaks of what stands.
    sealed: Option<Grant>,
    /// Whether git is still being read, or being applied.
    unsettled: bool,
    /// What a forge is asked about it.
    pub question: Option<Wanted>,
    /// Its repository, where a policy matches by the forge's id.
    pub identified: Option<Place>,
    /// Whether the forge hasn't answered yet.
    pub asking: bool,
    /// The source that it stands in, and when that was last fetched.
    pub source: Option<(String, Timestamp)>,
}

/// What a status says of a grant.
#[derive(Clone, Debug, PartialEq)]
pub enum ToldGrant {
    /// What it says already: whether that still holds isn't known yet, and nothing is granted by it.
    AsBefore,
    /// Nothing.
    Nothing,
    /// What was sealed, although a policy wants more now.
    Sealed(Box<Grant>),
    /// What is proven.
    Proven(Box<Proof>),
}

impl Approval<'_> {
    /// What the status is to say.
    pub fn told(&self) -> ToldGrant {
        match (&self.result, &self.sealed) {
            (Ok(proof), _) => ToldGrant::Proven(Box::new(proof.clone())),
            (Err(_), _) if self.unsettled => ToldGrant::AsBefore,
            (Err(_), Some(sealed)) => ToldGrant::Sealed(Box::new(sealed.clone())),
            (Err(_), None) => ToldGrant::Nothing,
        }
    }
}

/// Approves a binding, or says why not.
pub fn approve<'a>(facts: &'a Facts<'a>, binding: &'a CredentialBinding) -> Approval<'a> {
    let of =
        |document: Option<Where<'_>>| Matching::of(facts.namespace, facts.labels, document.as_ref(), facts.policies);
    match facts.tips.get(&binding.name_any()) {
        Some(Tip::Stands(standing)) => stands(facts, binding, standing),
        Some(Tip::Direct) => {
            let matching = of(None);
            let result = direct(facts, &matching, binding);
            without(matching, result)
        }
        Some(Tip::Gone(message)) => without(of(None), Err(refused(Reason::NotInSource, message.clone()))),
        // What was sealed may speak of what stands in a moment.
        Some(Tip::Differs(message)) => Approval {
            unsettled: true,
            ..without(of(None), Err(refused(Reason::NotInSource, message.clone())))
        },
        Some(Tip::Unread(message)) => unread(of(None), message),
        None => unread(of(None), "the namespace's sources are being read"),
    }
}

/// What a former leader granted stands, until this one knows better or the lease ends.
fn unread<'a>(matching: Matching<'a>, message: &str) -> Approval<'a> {
    Approval {
        unsettled: true,
        ..without(matching, Err(waits(Reason::Progressing, message)))
    }
}

fn without(matching: Matching<'_>, result: Result<Proof, Verdict>) -> Approval<'_> {
    Approval {
        matching,
        result,
        sealed: None,
        unsettled: false,
        question: None,
        identified: None,
        asking: false,
        source: None,
    }
}

fn stands<'a>(facts: &'a Facts<'a>, binding: &'a CredentialBinding, standing: &'a Standing) -> Approval<'a> {
    let case = Case::new(binding, standing, facts.known);
    let place = standing.place.as_ref().map(|(place, _)| place);
    let document = Where {
        forge: place.map(|place| place.forge.as_str()),
        repository: case.repository(),
        branch: &standing.branch,
        path: &standing.path,
    };
    let matching = Matching::of(facts.namespace, facts.labels, Some(&document), facts.policies);
    let wanted: Vec<&Require> = matching.requirements().collect();
    let Proven {
        result,
        sealed,
        question,
    } = case.prove(&wanted);
    let (open, asking) = (result.is_err(), result == Err(Unproven::Waits));
    let result = result.map_err(|unproven| match unproven {
        Unproven::Refused(Refused { reason, message }) => refused(reason, message),
        Unproven::Waits => waits(Reason::Progressing, "the forge is being asked for the review"),
    });
    // What ends by itself is asked about no more.
    let over = binding.meta().deletion_timestamp.is_some()
        || binding.spec.expires_at.as_ref().is_some_and(|time| time.0 <= facts.now);
    Approval {
        identified: place.filter(|_| matching.wants_id()).cloned(),
        asking,
        source: standing.verified_at.map(|at| (standing.source.clone(), at)),
        question: question.filter(|_| !over).map(|ask| Wanted { ask, open }),
        matching,
        result,
        sealed,
        unsettled: false,
    }
}

fn direct(facts: &Facts<'_>, matching: &Matching<'_>, binding: &CredentialBinding) -> Result<Proof, Verdict> {
    if !matching.accepts_direct() {
        return Err(refused(
            Reason::NotInSource,
            "no GitSource of the namespace declares it, and no GrantPolicy accepts bindings made directly \
             (spec.require.direct)",
        ));
    }
    if matching
        .requirements()
        .any(|require| require.signed_commits || require.review.is_some())
    {
        return Err(refused(
            Reason::NotInSource,
            "a GrantPolicy requires a signature or a review, and no GitSource of the namespace declares it",
        ));
    }
    Ok(prove::direct(binding, facts.known))
}
