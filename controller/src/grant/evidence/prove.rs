//! Pure: what is proven of one binding that stands in git, by its history, the keys of people, the forge and what was
//! sealed before; and what the forge has to be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{CredentialBinding, Evidence, Grant, GrantRepository, Reason, Require, Review};
use jiff::Timestamp;
use kube::ResourceExt;

use super::review::{self, Answered, Question, Reviewed};
use super::signers::Signers;
use super::{seal, signed};
use crate::forge::config::Place;
use crate::git::introduced::Introduced;
use crate::grant::decide::Refused;
use crate::grant::fingerprint::Fingerprint;
use crate::grant::offer::InstallKey;
use crate::grant::tip::Standing;

/// What bindings are judged by beside git.
pub struct Known<'a> {
    /// The time.
    pub now: Timestamp,
    /// Key of this install.
    pub key: &'a InstallKey,
    /// Keys of people.
    pub signers: &'a Signers,
    /// What forges have said.
    pub answers: &'a BTreeMap<Asked, Answer>,
    /// Users, by forge and in small letters, whose credentials sessions may use.
    pub agents: &'a BTreeMap<String, BTreeSet<String>>,
}

/// The commit that a forge is asked about, of one source.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Asked {
    /// Namespace of the source.
    pub namespace: String,
    /// The source.
    pub source: String,
    /// Its repository.
    pub place: Place,
    /// The commit that brought something.
    pub commit: String,
}

/// What a forge has said of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// This.
    Facts(Arc<Answered>),
    /// Nothing, and why.
    Failed(String),
}

/// What a forge has to be asked for one binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// About which commit.
    pub asked: Asked,
    /// That commit and those that follow it.
    pub line: Vec<String>,
    /// The binding.
    pub name: String,
    /// Teams that policies name.
    pub teams: BTreeSet<String>,
}

/// What is proven of a binding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proof {
    /// Commit, people and evidence; nothing of times and no seal.
    pub grant: Grant,
    /// The grant that was sealed before, where it still speaks of what stands.
    pub sealed: Option<Grant>,
}

/// It isn't proven.
#[derive(Clone, Debug, PartialEq)]
pub enum Unproven {
    /// Somebody has to do something.
    Refused(Refused),
    /// The forge is being asked for the first time.
    Waits,
}

/// How a binding stands.
pub struct Proven {
    /// What is proven.
    pub result: Result<Proof, Unproven>,
    /// What was sealed before, and still speaks of what stands.
    pub sealed: Option<Grant>,
    /// What a forge is asked about it; `None` where nothing has to be.
    pub question: Option<Ask>,
}

/// What is proven of a binding that no git holds: what it says.
pub fn direct(binding: &CredentialBinding, known: &Known<'_>) -> Proof {
    let fingerprint = Fingerprint::of(
        &binding.namespace().unwrap_or_default(),
        &binding.name_any(),
        &binding.spec,
    );
    let grant = Grant {
        fingerprint: fingerprint.digest(),
        elements: fingerprint.kept().iter().cloned().collect(),
        expires_at: binding.spec.expires_at.clone(),
        ..Grant::default()
    };
    let before = binding.status.as_ref().and_then(|status| status.grant.clone());
    let uid = binding.uid().unwrap_or_default();
    let same = before.filter(|before| before.fingerprint == grant.fingerprint && before.repository.is_none());
    Proof {
        sealed: same.filter(|before| seal::holds(known.key, &uid, before)),
        grant,
    }
}

/// One binding, and where it stands.
pub struct Case<'a> {
    binding: &'a CredentialBinding,
    standing: &'a Standing,
    known: &'a Known<'a>,
    fingerprint: Fingerprint,
    sealed: Option<Grant>,
}

impl<'a> Case<'a> {
    /// Of a binding, with what was sealed of this very one and speaks of what stands now.
    pub fn new(binding: &'a CredentialBinding, standing: &'a Standing, known: &'a Known<'a>) -> Self {
        let namespace = binding.namespace().unwrap_or_default();
        let fingerprint = Fingerprint::of(&namespace, &binding.name_any(), &binding.spec);
        let grant = binding.status.as_ref().and_then(|status| status.grant.as_ref());
        let uid = binding.uid().unwrap_or_default();
        let ours =
            |grant: &&Grant| seal::holds(known.key, &uid, grant) && seal::speaks_of(grant, standing, &fingerprint);
        Self {
            sealed: grant.filter(ours).cloned(),
            binding,
            standing,
            known,
            fingerprint,
        }
    }

    /// Proves it as far as these requirements ask for it.
    pub fn prove(self, wanted: &[&Require]) -> Proven {
        let reviews: Vec<&Review> = wanted.iter().filter_map(|require| require.review.as_ref()).collect();
        let mut question = None;
        let result = self.proof(
            &reviews,
            wanted.iter().any(|require| require.signed_commits),
            &mut question,
        );
        Proven {
            result,
            sealed: self.sealed,
            question,
        }
    }

    /// The forge's id of the repository: as it says now, or as it was sealed.
    pub fn repository(&self) -> Option<i64> {
        let now = self.standing.place.as_ref().and_then(|(_, id)| *id);
        let sealed = self
            .sealed
            .as_ref()
            .and_then(|grant| grant.repository.as_ref()?.repository_id);
        now.or(sealed)
    }

    fn proof(&self, reviews: &[&Review], to_be_signed: bool, question: &mut Option<Ask>) -> Result<Proof, Unproven> {
        let standing = self.standing;
        let mut grant = Grant {
            fingerprint: self.fingerprint.digest(),
            elements: self.fingerprint.kept().iter().cloned().collect(),
            repository: Some(GrantRepository {
                url: standing.url.clone(),
                branch: standing.branch.clone(),
                repository_id: self.repository(),
            }),
            commit: Some(
                standing
                    .introduced
                    .as_ref()
                    .map_or_else(|| standing.commit.clone(), |it| it.commit.clone()),
            ),
            author: Some(standing.author.clone()).filter(|author| !author.is_empty()),
            evidence: vec![Evidence::Branch],
            expires_at: self.binding.spec.expires_at.clone(),
            ..Grant::default()
        };
        match self.signer() {
            Ok(who) => {
                grant.signer = Some(who);
                grant.evidence.push(Evidence::Signed);
            }
            Err(refused) if to_be_signed => return Err(Unproven::Refused(refused)),
            Err(_) => {}
        }
        if let Some(reviewed) = self.reviewed(reviews, question)? {
            grant.pull_request = Some(reviewed.pull_request);
            grant.author = Some(reviewed.author);
            grant.approvers = reviewed.approvals;
            grant.evidence.push(Evidence::Reviewed);
        }
        Ok(Proof {
            grant,
            sealed: self.sealed.clone(),
        })
    }

    fn introduced(&self) -> Result<&Introduced, Refused> {
        self.standing.introduced.as_ref().ok_or_else(|| Refused {
            reason: Reason::EvidenceUnverifiable,
            message: format!(
                "the commit that brought it can't be found in the history of GitSource {}",
                self.standing.source
            ),
        })
    }

    /// Whose key signed the author's commit. That is looked at every time; a key that has ended since goes on counting
    /// for what was sealed, one that was taken out doesn't.
    fn signer(&self) -> Result<String, Refused> {
        let authored = &self.introduced()?.authored;
        let before = self
            .sealed
            .as_ref()
            .filter(|grant| grant.evidence.contains(&Evidence::Signed));
        let first = before.and_then(|grant| Some(grant.granted_at.as_ref()?.0));
        let who = signed::signer(authored, self.known.signers, first.unwrap_or(self.known.now))?;
        let at = Timestamp::from_second(authored.at).unwrap_or(Timestamp::MIN);
        match self.standing.rewound_at {
            Some(rewound) if before.is_none() && at <= rewound => Err(Refused {
                reason: Reason::Rewound,
                message: format!("it was signed before the branch was rewound at {rewound}: sign and merge it anew"),
            }),
            _ => Ok(who),
        }
    }

    /// The pull request, where one is wanted or was sealed.
    fn reviewed(&self, wanted: &[&Review], question: &mut Option<Ask>) -> Result<Option<Reviewed>, Unproven> {
        let sealed = self.sealed.as_ref().and_then(reviewed);
        if let Some(reviewed) = sealed
            && wanted.iter().all(|wanted| review::satisfies(&reviewed, wanted).is_ok())
        {
            return Ok(Some(reviewed));
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let introduced = self.introduced().map_err(Unproven::Refused)?;
        let Some((place, _)) = &self.standing.place else {
            let url = &self.standing.url;
            return Err(Unproven::Refused(Refused {
                reason: Reason::EvidenceUnverifiable,
                message: format!(
                    "a GrantPolicy requires a review, and {url} is on no forge of the install's configuration"
                ),
            }));
        };
        let ask = Ask {
            asked: Asked {
                namespace: self.binding.namespace().unwrap_or_default(),
                source: self.standing.source.clone(),
                place: place.clone(),
                commit: introduced.commit.clone(),
            },
            line: introduced.line.clone(),
            name: self.binding.name_any(),
            teams: wanted.iter().flat_map(|wanted| wanted.teams.iter().cloned()).collect(),
        };
        let result = self.judged(&ask, introduced, wanted);
        *question = Some(ask);
        result.map(Some)
    }

    fn judged(&self, ask: &Ask, introduced: &Introduced, wanted: &[&Review]) -> Result<Reviewed, Unproven> {
        let answered = match self.known.answers.get(&ask.asked) {
            None => return Err(Unproven::Waits),
            Some(Answer::Failed(why)) => {
                return Err(Unproven::Refused(Refused {
                    reason: Reason::EvidenceUnverifiable,
                    message: format!(
                        "a GrantPolicy requires a review, and it can't be looked at: {why}; it is tried again"
                    ),
                }));
            }
            Some(Answer::Facts(answered)) => answered,
        };
        let nobody = BTreeSet::new();
        let question = Question {
            name: &ask.name,
            fingerprint: &self.fingerprint,
            introduced,
            branch: &self.standing.branch,
            rewound_at: self.standing.rewound_at,
            agents: self.known.agents.get(&ask.asked.place.forge).unwrap_or(&nobody),
        };
        let reviewed = review::judge(answered, &question).map_err(Unproven::Refused)?;
        for wanted in wanted {
            review::satisfies(&reviewed, wanted).map_err(Unproven::Refused)?;
        }
        Ok(reviewed)
    }
}

/// What was sealed of a review.
fn reviewed(grant: &Grant) -> Option<Reviewed> {
    grant.evidence.contains(&Evidence::Reviewed).then(|| Reviewed {
        pull_request: grant.pull_request.clone().unwrap_or_default(),
        author: grant.author.clone().unwrap_or_default(),
        approvals: grant.approvers.clone(),
        refused: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
