//! Pure: what a pull request proves of a binding. In: what the configured forge says of it, and what Berth's own clone
//! holds at its heads. Out: whose approvals count, or why none does. What a policy asks for beyond that is judged apart
//! ([`satisfies`]), so that a sealed verdict can be held against a policy that came later.

use std::collections::{BTreeMap, BTreeSet};

use berth_crds::{Approval, Reason, Review as Wanted};
use jiff::Timestamp;

use crate::forge::{Judgement, Pull, User};
use crate::git::introduced::Introduced;
use crate::git::wire::Inspected;
use crate::grant::decide::Refused;
use crate::grant::fingerprint::Fingerprint;

/// What is known of the commit that brought a binding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    /// The bindings that were asked about.
    pub names: BTreeSet<String>,
    /// The forge's id of the repository.
    pub repository: i64,
    /// The pull request; `None` where the forge knows none.
    pub pull: Option<Pull>,
    /// Teams that policies name, and those of the approvers who belong to them, in small letters.
    pub teams: BTreeMap<String, BTreeSet<String>>,
    /// What the clone holds at its heads.
    pub inspected: Inspected,
}

/// What is asked of it.
pub struct Question<'a> {
    /// Name of the binding.
    pub name: &'a str,
    /// What it says now.
    pub fingerprint: &'a Fingerprint,
    /// The commit that brought it.
    pub introduced: &'a Introduced,
    /// Branch of the source.
    pub branch: &'a str,
    /// When the branch was last rewound.
    pub rewound_at: Option<Timestamp>,
    /// Users whose credentials sessions may use, in small letters.
    pub agents: &'a BTreeSet<String>,
}

/// A pull request that brought the binding, and what its approvals are worth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reviewed {
    /// Its URL.
    pub pull_request: String,
    /// Who asked.
    pub author: String,
    /// Approvals of what was merged, those of people who had a part in it marked.
    pub approvals: Vec<Approval>,
    /// Approvals that count for nothing, and why.
    pub refused: Vec<Refused>,
}

fn refuse<T>(reason: Reason, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        reason,
        message: message.into(),
    })
}

/// Judges a pull request.
pub fn judge(answered: &Answered, question: &Question<'_>) -> Result<Reviewed, Refused> {
    let commit = short(&question.introduced.commit);
    let Some(pull) = &answered.pull else {
        return refuse(
            Reason::NoPullRequest,
            format!("commit {commit} came without a pull request: take it back and open one"),
        );
    };
    let merged_at = check_merge(answered, pull, question)?;
    if let Some(rewound) = question.rewound_at.filter(|rewound| merged_at <= *rewound) {
        return refuse(
            Reason::Rewound,
            format!(
                "{} was merged before the branch was rewound at {rewound}: open a new pull request",
                pull.url
            ),
        );
    }
    let agent = pull.merger.as_ref().filter(|merger| is_in(question.agents, merger));
    if let Some(agent) = agent {
        let message = format!(
            "{} merged {}, and a session may use that user's credential",
            agent.login, pull.url
        );
        return refuse(Reason::ApproverIsAgent, message);
    }
    check_commits(answered, pull)?;
    let reviewed = weigh(answered, pull, question);
    let shown = seen(answered, pull, (&pull.head, question)) == Some(Seen::Brought);
    if reviewed.approvals.is_empty() && !shown && pull.merge_commit.as_ref() != Some(&question.introduced.commit) {
        // Pushed to the branch, and the request that was merged after it brought other things.
        return refuse(
            Reason::NoPullRequest,
            format!("commit {commit} came without a pull request: take it back and open one"),
        );
    }
    Ok(reviewed)
}

/// Merged, into the branch that is followed, as a commit that stands on its line of first parents.
fn check_merge(answered: &Answered, pull: &Pull, question: &Question<'_>) -> Result<Timestamp, Refused> {
    let Some(merged_at) = pull.merged_at else {
        return refuse(Reason::NoPullRequest, format!("{} isn't merged", pull.url));
    };
    if pull.base_repository != answered.repository || pull.base != question.branch {
        let message = format!(
            "{} was merged into {}, not into {}",
            pull.url, pull.base, question.branch
        );
        return refuse(Reason::WrongBase, message);
    }
    let merge = pull.merge_commit.as_ref();
    if merge.is_some_and(|merge| question.introduced.line.contains(merge)) {
        return Ok(merged_at);
    }
    let commit = short(&question.introduced.commit);
    refuse(
        Reason::WrongBase,
        format!("{} was merged as another commit than {commit}", pull.url),
    )
}

/// What was merged is what the forge lists: it learns of a push beside the push, and a request that is merged before
/// that joins commits whose authors it doesn't name.
fn check_commits(answered: &Answered, pull: &Pull) -> Result<(), Refused> {
    let forwarded = pull.merge_commit.as_ref().is_some_and(|it| pull.commits.contains(it));
    let joined = &answered.inspected.joined;
    match joined.iter().find(|commit| !pull.commits.contains(*commit)) {
        Some(commit) if !forwarded => refuse(
            Reason::EvidenceUnverifiable,
            format!(
                "{} joined commit {}, which the forge doesn't list",
                pull.url,
                short(commit)
            ),
        ),
        _ => Ok(()),
    }
}

/// What a reviewer of a head was shown of the binding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    /// That it is brought, with at least what it grants now.
    Brought,
    /// Something else.
    Other,
    /// Nothing: it was there before.
    Before,
}

/// `None` for a head that isn't to be had.
fn seen(answered: &Answered, pull: &Pull, (head, question): (&str, &Question<'_>)) -> Option<Seen> {
    let head = answered.inspected.heads.get(head)?;
    let holds = |documents: &BTreeMap<String, Fingerprint>| {
        let document = documents.get(question.name);
        document.is_some_and(|document| document.covers(question.fingerprint))
    };
    Some(if !holds(&head.here) {
        Seen::Other
    } else if holds(&head.before) && !pull.commits.contains(&question.introduced.commit) {
        Seen::Before
    } else {
        Seen::Brought
    })
}

fn weigh(answered: &Answered, pull: &Pull, question: &Question<'_>) -> Reviewed {
    let mut reviewed = Reviewed {
        pull_request: pull.url.clone(),
        author: pull.author.login.clone(),
        ..Reviewed::default()
    };
    // What somebody said last is what they say.
    let mut last: BTreeMap<String, &crate::forge::Review> = BTreeMap::new();
    for review in &pull.reviews {
        last.insert(small(&review.user.login), review);
    }
    for (user, review) in last {
        let login = &review.user.login;
        let refused = match review.judgement {
            Judgement::Refused => continue,
            Judgement::Withdrawn => Some((Reason::StaleApproval, format!("{login}'s approval was withdrawn"))),
            Judgement::Approved if review.user.machine || question.agents.contains(&user) => Some((
                Reason::ApproverIsAgent,
                format!("{login} is no person, or a session may use that user's credential"),
            )),
            Judgement::Approved if !review.may_write => Some((
                Reason::NotEnoughApprovals,
                format!("{login} may not write to the repository"),
            )),
            Judgement::Approved => not_of_this(answered, pull, (review, question)),
        };
        match refused {
            Some((reason, message)) => reviewed.refused.push(Refused { reason, message }),
            None => reviewed.approvals.push(Approval {
                user: login.clone(),
                commit: review.commit.clone(),
                teams: teams(answered, &user),
                own: had_a_part(pull, &user),
            }),
        }
    }
    reviewed.approvals.truncate(APPROVALS_MAX);
    reviewed
}

/// Why an approval isn't one of what was merged.
fn not_of_this(
    answered: &Answered,
    pull: &Pull,
    (review, question): (&crate::forge::Review, &Question<'_>),
) -> Option<(Reason, String)> {
    let (login, commit) = (&review.user.login, short(&review.commit));
    let replaced = || {
        Some((
            Reason::StaleApproval,
            format!("{login} approved {commit}, which isn't part of the pull request any more"),
        ))
    };
    if !pull.commits.contains(&review.commit) {
        return replaced();
    }
    match seen(answered, pull, (&review.commit, question)) {
        Some(Seen::Brought) => None,
        Some(Seen::Other) => Some((
            Reason::ChangedAfterReview,
            format!("{login} approved {commit}, which says something else"),
        )),
        Some(Seen::Before) => Some((
            Reason::ChangedAfterReview,
            format!("{login} approved {commit}, which had the binding from before and didn't bring it"),
        )),
        None => replaced(),
    }
}

fn teams(answered: &Answered, user: &str) -> Vec<String> {
    let theirs = answered.teams.iter().filter(|(_, members)| members.contains(user));
    theirs.map(|(team, _)| team.clone()).collect()
}

fn had_a_part(pull: &Pull, user: &str) -> bool {
    small(&pull.author.login) == user || pull.committers.iter().any(|committer| small(committer) == user)
}

/// Whether the approvals are as one policy wants them.
pub fn satisfies(reviewed: &Reviewed, wanted: &Wanted) -> Result<(), Refused> {
    let needed = usize::try_from(wanted.min_approvals).unwrap_or(1).max(1);
    let others = wanted.forbid_self_approval != Some(false);
    let mut why: Vec<Refused> = reviewed.refused.clone();
    let mut counted = 0;
    for approval in &reviewed.approvals {
        let user = &approval.user;
        if others && approval.own {
            let message = format!("{user} had a part in the change");
            why.push(Refused {
                reason: Reason::SelfApproval,
                message,
            });
        } else if !wanted.teams.is_empty() && !wanted.teams.iter().any(|team| approval.teams.contains(team)) {
            let message = format!("{user} isn't in {}", wanted.teams.join(" or "));
            why.push(Refused {
                reason: Reason::WrongTeam,
                message,
            });
        } else {
            counted += 1;
        }
    }
    if counted >= needed {
        return Ok(());
    }
    why.sort_by_key(|refused| ORDER.iter().position(|reason| *reason == refused.reason));
    let reason = why.first().map_or(Reason::NotEnoughApprovals, |refused| refused.reason);
    let whys: Vec<&str> = why
        .iter()
        .take(WHYS_MAX)
        .map(|refused| refused.message.as_str())
        .collect();
    let because = if whys.is_empty() {
        String::new()
    } else {
        format!(": {}", whys.join("; "))
    };
    let url = &reviewed.pull_request;
    refuse(
        reason,
        format!("{url} has {counted} approvals that count, a GrantPolicy wants {needed}{because}"),
    )
}

fn is_in(users: &BTreeSet<String>, user: &User) -> bool {
    users.contains(&small(&user.login))
}

/// As forges compare user names.
pub fn small(login: &str) -> String {
    login.to_lowercase()
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Which of several reasons is said: first what no further approval of the same people would change.
const ORDER: [Reason; 6] = [
    Reason::ApproverIsAgent,
    Reason::ChangedAfterReview,
    Reason::StaleApproval,
    Reason::SelfApproval,
    Reason::WrongTeam,
    Reason::NotEnoughApprovals,
];
/// As many as the status may hold.
const APPROVALS_MAX: usize = 32;
/// A message is read by a person.
const WHYS_MAX: usize = 4;

#[cfg(test)]
mod tests;
