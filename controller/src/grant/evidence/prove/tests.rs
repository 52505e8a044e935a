//! A binding that was reviewed, with the forge's answer or with its seal; each test takes something away.

use std::collections::BTreeMap;

use berth_crds::{Approval, CredentialBindingStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::forge::{Judgement, Pull, Review as Said, User};
use crate::git::wire::{Head, Inspected};

const HEAD: &str = "head";
const MERGE: &str = "merge";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct World {
    binding: CredentialBinding,
    standing: Standing,
    answers: BTreeMap<Asked, Answer>,
    require: Require,
    key: InstallKey,
}

fn binding(methods: &[&str]) -> CredentialBinding {
    let spec = serde_json::from_value(json!({
        "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
        "subjects": {"allSessions": true}, "reason": "tests",
        "routes": [{"name": "r", "host": "api.example.com", "methods": methods, "inject": {"header": {"name": "authorization"}}}],
    }));
    let mut binding = CredentialBinding::new("b", spec.unwrap());
    binding.metadata.namespace = Some("team-a".to_owned());
    binding.metadata.uid = Some("binding-uid".to_owned());
    binding
}

fn user(login: &str) -> User {
    User {
        login: login.to_owned(),
        machine: false,
    }
}

/// Merged as [`MERGE`]; bob has approved its head.
fn pull() -> Pull {
    Pull {
        number: 7,
        url: "https://git.example.com/a/b/pulls/7".to_owned(),
        merged_at: Some(at(500)),
        merge_commit: Some(MERGE.to_owned()),
        head: HEAD.to_owned(),
        base: "main".to_owned(),
        base_repository: 12,
        author: user("alice"),
        commits: BTreeSet::from([HEAD.to_owned()]),
        reviews: vec![Said {
            user: user("bob"),
            judgement: Judgement::Approved,
            commit: HEAD.to_owned(),
            may_write: true,
        }],
        ..Pull::default()
    }
}

impl World {
    /// Reviewed and answered, and not sealed yet.
    fn new() -> Self {
        let binding = binding(&["GET", "PUT"]);
        let standing = Standing {
            commit: MERGE.to_owned(),
            author: "Alice <alice@example.com>".to_owned(),
            path: "b.yaml".to_owned(),
            introduced: Some(Introduced {
                commit: MERGE.to_owned(),
                line: vec![MERGE.to_owned()],
                ..Introduced::default()
            }),
            source: "source".to_owned(),
            url: "https://git.example.com/a/b.git".to_owned(),
            branch: "main".to_owned(),
            verified_at: None,
            rewound_at: None,
            place: Some((
                Place {
                    forge: "main".to_owned(),
                    path: "a/b".to_owned(),
                },
                Some(12),
            )),
        };
        let fingerprint = Fingerprint::of("team-a", "b", &binding.spec);
        let head = Head {
            here: BTreeMap::from([("b".to_owned(), fingerprint)]),
            ..Head::default()
        };
        let inspected = Inspected {
            heads: BTreeMap::from([(HEAD.to_owned(), head)]),
            ..Inspected::default()
        };
        let answered = Answered {
            names: BTreeSet::from(["b".to_owned()]),
            repository: 12,
            pull: Some(pull()),
            inspected,
            ..Answered::default()
        };
        let mut world = Self {
            binding,
            standing,
            answers: BTreeMap::new(),
            require: Require {
                review: Some(Review {
                    min_approvals: 1,
                    ..Review::default()
                }),
                ..Require::default()
            },
            key: InstallKey::new(vec![7; 32]),
        };
        world.answers.insert(world.asked(), Answer::Facts(Arc::new(answered)));
        world
    }

    /// Reviewed, sealed in the status, and the forge is down.
    fn sealed() -> Self {
        let mut world = Self::new();
        let mut grant = world.prove().result.unwrap().grant;
        grant.granted_at = Some(Time(at(600)));
        world.seal(grant);
        world.down();
        world
    }

    fn seal(&mut self, mut grant: Grant) {
        grant.seal = Some(seal::seal(&self.key, "binding-uid", &grant));
        self.binding.status = Some(CredentialBindingStatus {
            grant: Some(grant),
            ..CredentialBindingStatus::default()
        });
    }

    fn grant(&mut self) -> &mut Grant {
        self.binding.status.as_mut().unwrap().grant.as_mut().unwrap()
    }

    fn down(&mut self) {
        self.answers
            .insert(self.asked(), Answer::Failed("the forge can't be reached".to_owned()));
    }

    fn asked(&self) -> Asked {
        Asked {
            namespace: "team-a".to_owned(),
            source: "source".to_owned(),
            place: self.standing.place.clone().unwrap().0,
            commit: self.standing.introduced.clone().unwrap().commit,
        }
    }

    fn prove(&self) -> Proven {
        let agents = BTreeMap::new();
        let signers = Signers::default();
        let known = Known {
            now: at(1_000),
            key: &self.key,
            signers: &signers,
            answers: &self.answers,
            agents: &agents,
        };
        Case::new(&self.binding, &self.standing, &known).prove(&[&self.require])
    }

    fn reason(&self) -> Reason {
        match self.prove().result {
            Err(Unproven::Refused(refused)) => refused.reason,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_review_is_proven_by_what_the_forge_says() {
    let Proof { grant, sealed } = World::new().prove().result.unwrap();
    assert_eq!(grant.evidence, [Evidence::Branch, Evidence::Reviewed]);
    assert_eq!(
        grant.pull_request.as_deref(),
        Some("https://git.example.com/a/b/pulls/7")
    );
    assert_eq!(
        (grant.author.as_deref(), grant.commit.as_deref()),
        (Some("alice"), Some(MERGE))
    );
    assert_eq!(grant.approvers[0].user, "bob");
    assert_eq!(grant.repository.unwrap().repository_id, Some(12));
    assert_eq!(sealed, None);
}

#[test]
fn before_the_forge_has_answered_nothing_is_granted_and_it_is_asked() {
    let mut world = World::new();
    world.answers.clear();
    let proven = world.prove();
    assert_eq!(proven.result, Err(Unproven::Waits));
    let question = proven.question.unwrap();
    assert_eq!(
        (question.asked, question.line, question.name),
        (world.asked(), vec![MERGE.to_owned()], "b".to_owned())
    );
}

#[test]
fn an_answer_about_others_or_without_a_team_that_is_wanted_is_none() {
    let mut other = World::new();
    other.binding.metadata.name = Some("c".to_owned());
    assert_eq!(other.prove().result, Err(Unproven::Waits));
    let mut team = World::new();
    team.require.review.as_mut().unwrap().teams = vec!["org/security".to_owned()];
    assert_eq!(team.prove().result, Err(Unproven::Waits));
}

#[test]
fn a_forge_that_is_down_holds_what_is_new_and_keeps_what_was_sealed() {
    let mut new = World::new();
    new.down();
    assert_eq!(new.reason(), Reason::EvidenceUnverifiable);
    let sealed = World::sealed();
    let proven = sealed.prove();
    assert_eq!(proven.question, None, "it isn't even asked");
    let proof = proven.result.unwrap();
    assert_eq!(proof.grant.approvers[0].user, "bob");
    assert_eq!(proof.sealed.unwrap().granted_at, Some(Time(at(600))));
}

#[test]
fn a_status_that_somebody_else_wrote_grants_nothing() {
    let changes: [fn(&mut World); 5] = [
        |world| world.grant().seal = None,
        |world| world.grant().seal = Some("00".to_owned()),
        |world| {
            world.grant().approvers.push(Approval {
                user: "eve".to_owned(),
                ..Approval::default()
            });
        },
        |world| world.binding.metadata.uid = Some("made again".to_owned()),
        |world| world.key = InstallKey::new(vec![8; 32]),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut world = World::sealed();
        change(&mut world);
        assert_eq!(world.reason(), Reason::EvidenceUnverifiable, "{number}");
    }
}

#[test]
fn evidence_is_spent_when_its_fingerprint_left_the_tip() {
    let mut again = World::sealed();
    again.standing.introduced.as_mut().unwrap().commit = "pushed again".to_owned();
    again.down();
    assert_eq!(
        again.reason(),
        Reason::EvidenceUnverifiable,
        "the same document, from another commit"
    );
    let mut unknown = World::sealed();
    unknown.standing.introduced = None;
    assert_eq!(unknown.reason(), Reason::EvidenceUnverifiable);
    let mut elsewhere = World::sealed();
    elsewhere.standing.url = "https://git.example.com/eve/b.git".to_owned();
    assert_eq!(elsewhere.reason(), Reason::EvidenceUnverifiable);
    let mut branch = World::sealed();
    branch.standing.branch = "other".to_owned();
    assert_eq!(branch.reason(), Reason::EvidenceUnverifiable);
}

#[test]
fn a_narrowing_keeps_its_seal_and_loses_the_rest_of_it() {
    let mut world = World::sealed();
    let status = world.binding.status.take();
    world.binding = CredentialBinding {
        status,
        ..binding(&["GET"])
    };
    let proof = world.prove().result.unwrap();
    let before = world.grant().elements.len();
    assert_eq!(proof.grant.elements.len(), before - 1);
    world.seal(proof.grant);
    let status = world.binding.status.take();
    world.binding = CredentialBinding {
        status,
        ..binding(&["GET", "PUT"])
    };
    assert_eq!(
        world.reason(),
        Reason::EvidenceUnverifiable,
        "what was given up needs evidence again"
    );
}

#[test]
fn a_policy_that_wants_more_than_was_sealed_asks_again() {
    let mut world = World::sealed();
    world.require.review.as_mut().unwrap().min_approvals = 2;
    assert_eq!(world.reason(), Reason::EvidenceUnverifiable);
    assert!(world.prove().sealed.is_some(), "what was sealed isn't lost by it");
    let mut team = World::sealed();
    team.require.review.as_mut().unwrap().teams = vec!["org/security".to_owned()];
    assert_eq!(team.reason(), Reason::EvidenceUnverifiable);
    assert_eq!(
        team.prove().question.unwrap().teams,
        BTreeSet::from(["org/security".to_owned()])
    );
    let mut signed = World::sealed();
    signed.require.signed_commits = true;
    assert_eq!(signed.reason(), Reason::Unsigned);
}

#[test]
fn a_repository_on_no_forge_of_the_install_has_no_reviews() {
    let mut world = World::new();
    world.standing.place = None;
    assert_eq!(world.reason(), Reason::EvidenceUnverifiable);
    let mut sealed = World::sealed();
    sealed.standing.place = None;
    assert!(sealed.prove().result.is_ok(), "that it was on one is sealed");
}

#[test]
fn a_rewound_branch_holds_what_was_merged_before_and_keeps_what_was_sealed() {
    let mut world = World::new();
    world.standing.rewound_at = Some(at(501));
    assert_eq!(world.reason(), Reason::Rewound);
    let mut sealed = World::sealed();
    sealed.standing.rewound_at = Some(at(700));
    assert!(sealed.prove().result.is_ok());
}
