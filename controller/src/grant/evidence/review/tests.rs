//! A pull request that one person opened and another approved; each test changes one thing of it.

use super::*;
use crate::forge::{Judgement, Review};
use crate::git::wire::Head;

const HEAD: &str = "headheadheadhead";
const MERGE: &str = "mergemergemergemerge";

fn fingerprint(name: &str, methods: &[&str]) -> Fingerprint {
    let spec = serde_json::from_value(serde_json::json!({
        "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
        "subjects": {"allSessions": true}, "reason": "tests",
        "routes": [{"name": "r", "host": "api.example.com", "methods": methods, "inject": {"header": {"name": "authorization"}}}],
    }));
    Fingerprint::of("team-a", name, &spec.unwrap())
}

fn documents(methods: &[&str]) -> BTreeMap<String, Fingerprint> {
    BTreeMap::from([("b".to_owned(), fingerprint("b", methods))])
}

fn head(methods: &[&str]) -> Head {
    Head {
        here: documents(methods),
        ..Head::default()
    }
}

fn user(login: &str) -> User {
    User {
        login: login.to_owned(),
        machine: false,
    }
}

fn says(login: &str, judgement: Judgement, commit: &str) -> Review {
    Review {
        user: user(login),
        judgement,
        commit: commit.to_owned(),
        may_write: true,
    }
}

struct World {
    answered: Answered,
    introduced: Introduced,
    rewound_at: Option<Timestamp>,
    agents: BTreeSet<String>,
    wanted: Wanted,
}

impl World {
    fn new() -> Self {
        let pull = Pull {
            number: 7,
            url: "https://git.example.com/a/b/pulls/7".to_owned(),
            merged_at: Some(Timestamp::from_second(1_000).unwrap()),
            merge_commit: Some(MERGE.to_owned()),
            head: HEAD.to_owned(),
            base: "main".to_owned(),
            base_repository: 12,
            author: user("Alice"),
            merger: Some(user("Carol")),
            commits: BTreeSet::from([HEAD.to_owned(), "older".to_owned()]),
            committers: BTreeSet::from(["alice".to_owned(), "dave".to_owned()]),
            reviews: vec![says("Bob", Judgement::Approved, HEAD)],
        };
        let inspected = Inspected {
            heads: BTreeMap::from([(HEAD.to_owned(), head(&["GET", "PUT"]))]),
            joined: vec![HEAD.to_owned()],
        };
        Self {
            answered: Answered {
                repository: 12,
                pull: Some(pull),
                inspected,
                ..Answered::default()
            },
            introduced: Introduced {
                commit: MERGE.to_owned(),
                line: vec![MERGE.to_owned()],
                ..Introduced::default()
            },
            rewound_at: None,
            agents: BTreeSet::from(["agent".to_owned()]),
            wanted: Wanted {
                min_approvals: 1,
                ..Wanted::default()
            },
        }
    }

    fn pull(&mut self) -> &mut Pull {
        self.answered.pull.as_mut().unwrap()
    }

    fn judge(&self) -> Result<Reviewed, Refused> {
        let reviewed = judge(
            &self.answered,
            &Question {
                name: "b",
                fingerprint: &fingerprint("b", &["GET"]),
                introduced: &self.introduced,
                branch: "main",
                rewound_at: self.rewound_at,
                agents: &self.agents,
            },
        )?;
        satisfies(&reviewed, &self.wanted).map(|()| reviewed)
    }
}

fn refused(expected: Reason, change: impl FnOnce(&mut World)) -> String {
    let mut world = World::new();
    change(&mut world);
    let refused = world.judge().unwrap_err();
    assert_eq!(refused.reason, expected, "{}", refused.message);
    refused.message
}

#[test]
fn an_approval_by_somebody_else_of_what_was_merged_counts() {
    let reviewed = World::new().judge().unwrap();
    assert_eq!(reviewed.author, "Alice");
    let approval = Approval {
        user: "Bob".to_owned(),
        commit: HEAD.to_owned(),
        ..Approval::default()
    };
    assert_eq!(reviewed.approvals, [approval]);
}

#[test]
fn no_pull_request() {
    let told = refused(Reason::NoPullRequest, |world| world.answered.pull = None);
    assert!(told.contains("mergemergeme came without a pull request"), "{told}");
    refused(Reason::NoPullRequest, |world| world.pull().merged_at = None);
    refused(Reason::NoPullRequest, |world| {
        // Pushed to the branch, and then some other pull request was squashed onto it.
        world.introduced.commit = "pushed".to_owned();
        world.introduced.line.insert(0, "pushed".to_owned());
        world.answered.inspected.heads.insert(HEAD.to_owned(), Head::default());
    });
    refused(Reason::NoPullRequest, |world| {
        // The same, and the request began from what had been pushed: its reviewers were shown nothing of it.
        world.introduced.commit = "pushed".to_owned();
        world.introduced.line.insert(0, "pushed".to_owned());
        world.answered.inspected.heads.get_mut(HEAD).unwrap().before = documents(&["GET"]);
    });
}

#[test]
fn a_rebase_that_ends_in_another_commit_counts() {
    let mut world = World::new();
    world.introduced.commit = "first".to_owned();
    world.introduced.line = vec!["first".to_owned(), MERGE.to_owned()];
    assert!(world.judge().is_ok());
}

#[test]
fn a_rebase_that_left_the_commits_as_they_were_counts() {
    let mut world = World::new();
    world.introduced.commit = "first".to_owned();
    world.introduced.line = vec!["first".to_owned(), MERGE.to_owned()];
    world.answered.inspected.heads.get_mut(HEAD).unwrap().before = documents(&["GET"]);
    assert_eq!(world.judge().unwrap_err().reason, Reason::NoPullRequest);
    world.pull().commits.insert("first".to_owned());
    assert!(
        world.judge().is_ok(),
        "the forge lists the commit as one of the request's"
    );
}

#[test]
fn wrong_base() {
    refused(Reason::WrongBase, |world| world.pull().base = "release".to_owned());
    refused(Reason::WrongBase, |world| world.pull().base_repository = 13);
    refused(Reason::WrongBase, |world| {
        world.pull().merge_commit = Some("elsewhere".to_owned());
    });
    refused(Reason::WrongBase, |world| world.pull().merge_commit = None);
}

#[test]
fn changed_after_review() {
    let told = refused(Reason::ChangedAfterReview, |world| {
        world.pull().reviews = vec![says("Bob", Judgement::Approved, "older")];
        world
            .answered
            .inspected
            .heads
            .insert("older".to_owned(), head(&["POST"]));
    });
    assert!(told.contains("Bob approved older, which says something else"), "{told}");
    refused(Reason::ChangedAfterReview, |world| {
        // The merge itself has brought it.
        world.answered.inspected.heads.insert(HEAD.to_owned(), head(&["POST"]));
    });
    refused(Reason::ChangedAfterReview, |world| {
        world.answered.inspected.heads.get_mut(HEAD).unwrap().before = documents(&["GET"]);
    });
}

#[test]
fn an_older_head_that_said_the_same_or_more_counts() {
    let mut world = World::new();
    world.pull().reviews = vec![says("Bob", Judgement::Approved, "older")];
    world
        .answered
        .inspected
        .heads
        .insert("older".to_owned(), head(&["GET", "POST"]));
    assert!(world.judge().is_ok());
}

#[test]
fn stale_approval() {
    refused(Reason::StaleApproval, |world| {
        world.pull().reviews = vec![says("Bob", Judgement::Withdrawn, HEAD)];
    });
    let told = refused(Reason::StaleApproval, |world| {
        world.pull().reviews = vec![says("Bob", Judgement::Approved, "forced away")];
    });
    assert!(told.contains("isn't part of the pull request any more"), "{told}");
}

/// A forge learns of a push beside the push, and a merge doesn't wait for it.
#[test]
fn what_the_forge_does_not_list_is_not_reviewed() {
    let told = refused(Reason::EvidenceUnverifiable, |world| {
        world.answered.inspected.joined = vec!["unseenunseenunseen".to_owned()];
    });
    assert!(told.contains("joined commit unseenunseen"), "{told}");
    let mut forwarded = World::new();
    forwarded.pull().commits.insert(MERGE.to_owned());
    forwarded.answered.inspected.joined = vec!["an older tip of main".to_owned()];
    assert!(
        forwarded.judge().is_ok(),
        "its last commit had itself merged the branch"
    );
    refused(Reason::StaleApproval, |world| {
        // Squashed with a commit of Bob's, which he approved himself.
        world.answered.inspected.joined.clear();
        world.pull().reviews = vec![says("Bob", Judgement::Approved, "unseen")];
        world
            .answered
            .inspected
            .heads
            .insert("unseen".to_owned(), head(&["GET"]));
    });
}

#[test]
fn what_somebody_says_last_is_what_they_say() {
    refused(Reason::NotEnoughApprovals, |world| {
        world.pull().reviews.push(says("bob", Judgement::Refused, HEAD));
    });
    let mut world = World::new();
    world.pull().reviews.insert(0, says("bob", Judgement::Refused, HEAD));
    assert!(world.judge().is_ok());
}

#[test]
fn self_approval() {
    for own in ["Alice", "alice", "Dave"] {
        let told = refused(Reason::SelfApproval, |world| {
            world.pull().reviews = vec![says(own, Judgement::Approved, HEAD)];
        });
        assert!(told.contains(&format!("{own} had a part in the change")), "{told}");
    }
    let mut allowed = World::new();
    allowed.pull().reviews = vec![says("Alice", Judgement::Approved, HEAD)];
    allowed.wanted.forbid_self_approval = Some(false);
    let reviewed = allowed.judge().unwrap();
    assert!(reviewed.approvals[0].own, "a stricter policy that comes later sees it");
}

#[test]
fn approver_is_agent() {
    refused(Reason::ApproverIsAgent, |world| {
        world.pull().reviews = vec![says("Agent", Judgement::Approved, HEAD)];
    });
    refused(Reason::ApproverIsAgent, |world| {
        world.pull().reviews[0].user.machine = true;
    });
    let told = refused(Reason::ApproverIsAgent, |world| {
        world.pull().merger = Some(user("AGENT"));
    });
    assert!(told.contains("AGENT merged"), "{told}");
    let mut other = World::new();
    other.pull().reviews.push(says("agent", Judgement::Approved, HEAD));
    assert_eq!(
        other.judge().unwrap().approvals.len(),
        1,
        "a person's approval beside it counts"
    );
}

#[test]
fn not_enough_approvals() {
    refused(Reason::NotEnoughApprovals, |world| world.pull().reviews.clear());
    refused(Reason::NotEnoughApprovals, |world| world.wanted.min_approvals = 2);
    let told = refused(Reason::NotEnoughApprovals, |world| {
        world.pull().reviews[0].may_write = false;
    });
    assert!(told.contains("Bob may not write"), "{told}");
    let mut two = World::new();
    two.wanted.min_approvals = 2;
    two.pull().reviews.push(says("eve", Judgement::Approved, HEAD));
    assert!(two.judge().is_ok());
    two.pull().reviews.pop();
    two.pull().reviews.push(says("BOB", Judgement::Approved, HEAD));
    assert!(two.judge().is_err(), "one person twice is one");
}

#[test]
fn wrong_team() {
    let team = |world: &mut World, member: &str| {
        world.wanted.teams = vec!["org/security".to_owned(), "org/platform".to_owned()];
        world
            .answered
            .teams
            .insert("org/platform".to_owned(), BTreeSet::from([member.to_owned()]));
    };
    let told = refused(Reason::WrongTeam, |world| team(world, "eve"));
    assert!(told.contains("Bob isn't in org/security or org/platform"), "{told}");
    let mut world = World::new();
    team(&mut world, "bob");
    assert_eq!(world.judge().unwrap().approvals[0].teams, ["org/platform"]);
}

#[test]
fn rewound() {
    refused(Reason::Rewound, |world| {
        world.rewound_at = Some(Timestamp::from_second(1_000).unwrap());
    });
    let mut before = World::new();
    before.rewound_at = Some(Timestamp::from_second(999).unwrap());
    assert!(before.judge().is_ok(), "what was merged since counts");
}
