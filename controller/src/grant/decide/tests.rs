//! A namespace in which one binding is in force for one session; each test changes one thing of it.

use berth_crds::{AgentSessionSpec, CredentialBindingSpec, GrantPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::git::introduced::Introduced;
use crate::grant::evidence::prove::{Answer, Asked};
use crate::grant::evidence::signers::Signers;
use crate::grant::offer::InstallKey;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A namespace in which one binding is in force for one session; a test changes one thing.
struct World {
    bindings: Vec<CredentialBinding>,
    policies: Vec<GrantPolicy>,
    tips: BTreeMap<String, Tip>,
    secrets: BTreeMap<String, Result<Offered, Refused>>,
    session: AgentSession,
    confinement: Confinement,
    from_git: bool,
    gateways: Gateways,
    now: i64,
}

impl World {
    fn new() -> Self {
        let mut session = AgentSession::new("s", AgentSessionSpec::default());
        session.metadata.uid = Some("session-uid".to_owned());
        session.spec.credentials = serde_json::from_value(json!([{"name": "TOKEN"}])).unwrap();
        let mut world = Self {
            bindings: Vec::new(),
            policies: Vec::new(),
            tips: BTreeMap::new(),
            secrets: BTreeMap::new(),
            session,
            confinement: Confinement::Fence,
            from_git: false,
            gateways: Gateways::default(),
            now: 1_000,
        };
        world.bind("b", "forge", 10);
        world.policy(json!({"allow": [{"name": "a", "hosts": ["api.example.com"]}]}));
        world
            .secrets
            .insert("forge/token".to_owned(), Ok(offered(&["*.example.com"])));
        world
    }

    fn bind(&mut self, name: &str, secret: &str, created: i64) {
        let spec: CredentialBindingSpec = serde_json::from_value(json!({
            "credential": {"name": "TOKEN", "source": {"secretRef": {"name": secret, "key": "token"}}},
            "subjects": {"allSessions": true},
            "routes": [{"name": "r", "host": "api.example.com", "inject": {"header": {"name": "authorization"}}}],
            "reason": "tests",
        }))
        .unwrap();
        let mut binding = CredentialBinding::new(name, spec);
        binding.metadata.namespace = Some("team-a".to_owned());
        binding.metadata.creation_timestamp = Some(Time(at(created)));
        self.bindings.push(binding);
        let standing = Standing {
            commit: "c0ffee".to_owned(),
            author: "A".to_owned(),
            ..Standing::default()
        };
        self.tips.insert(name.to_owned(), Tip::Stands(Box::new(standing)));
    }

    fn policy(&mut self, spec: Value) {
        let spec: GrantPolicySpec = serde_json::from_value(spec).unwrap();
        self.policies.push(GrantPolicy::new("p", spec));
    }

    fn decide(&self) -> Decisions {
        let bindings: Vec<Arc<CredentialBinding>> = self.bindings.iter().cloned().map(Arc::new).collect();
        let policies: Vec<Arc<GrantPolicy>> = self.policies.iter().cloned().map(Arc::new).collect();
        let (answers, agents): (BTreeMap<Asked, Answer>, _) = (BTreeMap::new(), BTreeMap::new());
        let known = Known {
            now: at(self.now),
            key: &InstallKey::new(vec![7; 32]),
            signers: &Signers::default(),
            answers: &answers,
            agents: &agents,
        };
        decide(&Facts {
            now: at(self.now),
            labels: None,
            known: &known,
            namespace: "team-a",
            default: DefaultPolicy::Deny,
            github_host: "api.github.example.com",
            gateways: &self.gateways,
            bindings: &bindings,
            policies: &policies,
            tips: &self.tips,
            secrets: &self.secrets,
            sessions: &[SessionFacts {
                session: Arc::new(self.session.clone()),
                confinement: self.confinement,
                image: "registry.example.com/agents/base:1".to_owned(),
                from_git: self.from_git,
            }],
        })
    }

    /// The bindings that the session holds.
    fn held(&self) -> Vec<String> {
        let grants = self.decide().sessions.remove("session-uid").unwrap();
        grants.into_iter().map(|grant| grant.binding).collect()
    }
}

fn offered(hosts: &[&str]) -> Offered {
    Offered {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        version: "1".to_owned(),
    }
}

fn changed(change: impl FnOnce(&mut World)) -> World {
    let mut world = World::new();
    change(&mut world);
    world
}

#[test]
fn everything_in_place_grants() {
    let world = World::new();
    assert_eq!(world.held(), ["b"]);
    let Verdict::Active(active) = &world.decide().bindings["b"] else {
        panic!("not active")
    };
    assert_eq!(active.grant.commit.as_deref(), Some("c0ffee"));
    assert!(active.permitted.narrowed.is_empty());
}

fn spec(change: fn(&mut CredentialBindingSpec)) -> World {
    changed(|world| change(&mut world.bindings[0].spec))
}

fn tip(tip: Option<Tip>) -> World {
    changed(|world| {
        world.tips.remove("b");
        world.tips.extend(tip.map(|tip| ("b".to_owned(), tip)));
    })
}

fn secret(state: Option<Result<Offered, Refused>>) -> World {
    changed(|world| {
        world.secrets.clear();
        world
            .secrets
            .extend(state.map(|state| ("forge/token".to_owned(), state)));
    })
}

fn policy(policy: Value) -> World {
    changed(|world| world.policy(policy))
}

fn denies(cases: Vec<(&str, World, Reason)>) {
    for (what, world, expected) in cases {
        assert!(world.held().is_empty(), "{what}");
        let Verdict::Inactive { reason, .. } = &world.decide().bindings["b"] else {
            panic!("{what}: still active")
        };
        assert_eq!(*reason, expected, "{what}");
    }
}

#[test]
fn an_object_that_says_no_denies() {
    let revoked = changed(|world| {
        let annotations = world.bindings[0].annotations_mut();
        annotations.insert(label::REVOKE.to_owned(), "now".to_owned());
    });
    let deleted = changed(|world| world.bindings[0].metadata.deletion_timestamp = Some(Time(at(999))));
    denies(vec![
        ("suspended", spec(|spec| spec.suspend = true), Reason::Suspended),
        (
            "too early",
            spec(|spec| spec.not_before = Some(Time(at(1_001)))),
            Reason::NotYet,
        ),
        (
            "too late",
            spec(|spec| spec.expires_at = Some(Time(at(1_000)))),
            Reason::Expired,
        ),
        ("break-glass", revoked, Reason::Revoked),
        (
            "certificates that are none",
            spec(|spec| spec.routes[0].ca = Some("-----BEGIN CERTIFICATE-----".to_owned())),
            Reason::InvalidSpec,
        ),
        ("being deleted", deleted, Reason::Revoked),
    ]);
}

#[test]
fn git_and_the_owner_of_the_secret_have_to_say_yes() {
    let refusal = Refused {
        reason: Reason::SecretNotOffered,
        message: "Secret forge isn't offered".to_owned(),
    };
    let elsewhere = offered(&["other.example.com"]);
    denies(vec![
        ("left git", tip(Some(Tip::Gone("gone".to_owned()))), Reason::NotInSource),
        ("by hand", tip(Some(Tip::Direct)), Reason::NotInSource),
        ("git not read yet", tip(None), Reason::Progressing),
        ("Secret not read yet", secret(None), Reason::Progressing),
        (
            "Secret not offered",
            secret(Some(Err(refusal))),
            Reason::SecretNotOffered,
        ),
        (
            "other host offered",
            secret(Some(Ok(elsewhere))),
            Reason::HostNotOffered,
        ),
    ]);
}

#[test]
fn policies_have_to_permit_it_and_what_they_require_to_be_proven() {
    let silent = changed(|world| world.policies.clear());
    let review = json!({"require": {"review": {"minApprovals": 1}}});
    let signed = json!({"require": {"signedCommits": true}});
    denies(vec![
        ("no policy", silent, Reason::NotPermitted),
        ("denied", policy(json!({"deny": [{"name": "d"}]})), Reason::NotPermitted),
        ("a review wanted", policy(review), Reason::EvidenceUnverifiable),
        ("signatures wanted", policy(signed), Reason::EvidenceUnverifiable),
        (
            "no end",
            policy(json!({"require": {"maxDuration": "1h"}})),
            Reason::NotPermitted,
        ),
    ]);
}

#[test]
fn a_requirement_that_is_added_never_widens() {
    let requirements = [
        json!({"signedCommits": true}),
        json!({"review": {"minApprovals": 1}}),
        json!({"maxDuration": "1h"}),
        json!({"sessionDelivery": "Git"}),
        json!({"minConfined": "Fence"}),
        json!({"images": ["registry.example.com/agents/"]}),
    ];
    for first in &requirements {
        for second in &requirements {
            let one = policy(json!({"require": first}));
            let both = changed(|world| {
                world.policy(json!({"require": first}));
                world.policy(json!({"require": second}));
            });
            let before = one.held();
            assert!(both.held().iter().all(|held| before.contains(held)), "{first} {second}");
        }
    }
}

#[test]
fn a_policy_may_want_things_of_the_session_itself() {
    let cases = [
        (json!({"sessionDelivery": "Git"}), false),
        (json!({"minConfined": "Fence"}), true),
        (json!({"images": ["registry.example.com/agents/"]}), true),
        (json!({"images": ["registry.example.com/agents/base"]}), true),
        (json!({"images": ["registry.example.com/agents/bas"]}), false),
        (json!({"images": ["sha256:00"]}), false),
    ];
    for (require, held) in cases {
        let world = changed(|world| world.policy(json!({"require": require.clone()})));
        assert_eq!(!world.held().is_empty(), held, "{require}");
    }
    let loose = changed(|world| {
        world.policy(json!({"require": {"minConfined": "Fence"}}));
        world.confinement = Confinement::NetworkPolicy;
    });
    assert!(loose.held().is_empty());
}

#[test]
fn where_policy_wants_sessions_from_git_a_label_proves_nothing() {
    let mut world = changed(|world| world.policy(json!({"require": {"sessionDelivery": "Git"}})));
    world
        .session
        .labels_mut()
        .insert(label::SOURCE_UID.to_owned(), "copied".to_owned());
    assert!(world.held().is_empty());
    world.from_git = true;
    assert_eq!(world.held(), ["b"]);
}

#[test]
fn a_label_that_an_applier_adds_selects_nothing() {
    for (label, held) in [
        ("team", true),
        ("kustomize.toolkit.fluxcd.io/name", false),
        (label::SOURCE_UID, false),
    ] {
        let mut world = World::new();
        world.session.labels_mut().insert(label.to_owned(), "a".to_owned());
        world.bindings[0].spec.subjects =
            serde_json::from_value(json!({"sessionSelector": {"matchLabels": {label: "a"}}})).unwrap();
        assert_eq!(!world.held().is_empty(), held, "{label}");
    }
}

#[test]
fn what_cannot_be_judged_yet_is_told_from_what_is_refused() {
    let undetermined = |world: &World| world.decide().undetermined.len();
    assert_eq!(undetermined(&World::new()), 0);
    assert_eq!(undetermined(&tip(None)), 1);
    assert_eq!(undetermined(&secret(None)), 1);
    assert_eq!(undetermined(&tip(Some(Tip::Gone("gone".to_owned())))), 0);
    let mut unlisted = tip(None);
    unlisted.session.spec.credentials.clear();
    assert_eq!(undetermined(&unlisted), 0, "it isn't this session's");
}

/// The strictest policy says how long; time alone ends the grant, and a fetch brings it back with what was proven.
#[test]
fn a_source_out_of_reach_ends_grants_where_a_policy_says_so() {
    let fetched = |second: i64| {
        let standing = Standing {
            commit: "c0ffee".to_owned(),
            source: "team".to_owned(),
            verified_at: Some(at(second)),
            ..Standing::default()
        };
        Tip::Stands(Box::new(standing))
    };
    let policies = |world: &mut World| {
        world.policy(json!({"require": {"onStale": {"after": "10m", "action": "Deny"}}}));
        world.policy(json!({"require": {"onStale": {"after": "5m", "action": "Deny"}}}));
        world.policy(json!({"require": {"onStale": {"after": "1m", "action": "Keep"}}}));
    };
    let mut world = changed(|world| {
        policies(world);
        world.tips.insert("b".to_owned(), fetched(1_000));
    });
    assert_eq!(world.held(), ["b"]);
    assert_eq!(world.decide().next, Some(at(1_300)), "nothing else would wake it");
    world.now = 1_299;
    assert_eq!(world.held(), ["b"]);
    world.now = 1_300;
    let decisions = world.decide();
    let Verdict::Inactive { reason, message, .. } = &decisions.bindings["b"] else {
        panic!("active")
    };
    assert_eq!(*reason, Reason::SourceStale);
    assert!(
        message.starts_with("GitSource team was last fetched at 1970-01-01T00:16:40Z"),
        "{message}"
    );
    assert!(
        matches!(decisions.grants["b"], ToldGrant::Proven(_)),
        "what is proven stays"
    );
    assert!(world.held().is_empty());
    world.tips.insert("b".to_owned(), fetched(1_300));
    assert_eq!(world.held(), ["b"]);
    let kept = changed(|world| {
        world.policy(json!({"require": {"onStale": {"after": "1m", "action": "Keep"}}}));
        world.tips.insert("b".to_owned(), fetched(0));
    });
    assert_eq!(kept.held(), ["b"]);
}

/// A forge that is slow to answer holds the binding that it is asked about, and no other credential of the session.
#[test]
fn a_binding_that_the_forge_is_asked_about_leaves_no_session_undetermined() {
    let world = changed(|world| {
        world.policy(json!({"require": {"review": {"minApprovals": 1}}}));
        let standing = Standing {
            introduced: Some(Introduced::default()),
            place: Some((Place::default(), None)),
            ..Standing::default()
        };
        world.tips.insert("b".to_owned(), Tip::Stands(Box::new(standing)));
    });
    let decisions = world.decide();
    let Verdict::Inactive { reason, .. } = &decisions.bindings["b"] else {
        panic!("active")
    };
    assert_eq!(*reason, Reason::Progressing);
    assert!(decisions.questions.iter().any(|question| question.open));
    assert!(decisions.undetermined.is_empty());
}

#[test]
fn a_session_gets_only_what_it_lists_and_what_selects_it() {
    let unlisted = changed(|world| world.session.spec.credentials.clear());
    assert!(unlisted.held().is_empty());
    let selector = json!({"sessionSelector": {"matchLabels": {"team": "a"}}});
    let mut selected = changed(|world| world.bindings[0].spec.subjects = serde_json::from_value(selector).unwrap());
    assert!(selected.held().is_empty());
    selected.session.labels_mut().insert("team".to_owned(), "a".to_owned());
    assert_eq!(selected.held(), ["b"]);
    let named = json!({"sessionNames": ["other"]});
    let named = changed(|world| world.bindings[0].spec.subjects = serde_json::from_value(named).unwrap());
    assert!(named.held().is_empty());
}

#[test]
fn of_two_values_for_one_name_the_older_binding_wins() {
    let world = changed(|world| {
        world.bind("a", "other", 20);
        world
            .secrets
            .insert("other/token".to_owned(), Ok(offered(&["*.example.com"])));
    });
    assert_eq!(world.held(), ["b"]);
    let Verdict::Inactive { reason, message, .. } = &world.decide().bindings["a"] else {
        panic!("both active")
    };
    assert_eq!(*reason, Reason::ConflictsWith);
    assert!(message.contains("ConflictsWith b"), "{message}");
}

#[test]
fn bindings_of_different_sessions_give_one_name_different_values() {
    let subjects = |subjects: Value| serde_json::from_value::<berth_crds::Subjects>(subjects).unwrap();
    let world = |one: Value, other: Value| {
        changed(|world| {
            world.bind("a", "other", 20);
            let offer = Ok(offered(&["*.example.com"]));
            world.secrets.insert("other/token".to_owned(), offer);
            world.bindings[0].spec.subjects = subjects(one);
            world.bindings[1].spec.subjects = subjects(other);
        })
    };
    let label = |value: &str| json!({"sessionSelector": {"matchLabels": {"team": value}}});
    let both = |world: World| {
        world
            .decide()
            .bindings
            .values()
            .all(|it| matches!(it, Verdict::Active(_)))
    };
    assert!(both(world(
        json!({"sessionNames": ["s"]}),
        json!({"sessionNames": ["t"]})
    )));
    assert!(both(world(label("a"), label("b"))));
    assert!(!both(world(
        json!({"sessionNames": ["s", "t"]}),
        json!({"sessionNames": ["t"]})
    )));
    assert!(!both(world(label("a"), label("a"))));
    assert!(!both(world(label("a"), json!({"sessionNames": ["t"]}))));
}

#[test]
fn what_begins_or_ends_by_itself_is_looked_at_again() {
    let world = changed(|world| world.bindings[0].spec.expires_at = Some(Time(at(5_000))));
    assert_eq!(world.decide().next, Some(at(5_000)));
    assert_eq!(World::new().decide().next, None);
}

#[test]
fn while_git_is_being_read_the_status_keeps_what_was_sealed() {
    let told = |world: &World| world.decide().grants.remove("b").unwrap();
    assert_eq!(told(&tip(None)), ToldGrant::AsBefore);
    let differs = tip(Some(Tip::Differs("an apply is under way".to_owned())));
    assert!(differs.held().is_empty());
    assert_eq!(told(&differs), ToldGrant::AsBefore, "a narrowing keeps its seal");
    assert_eq!(told(&tip(Some(Tip::Gone("gone".to_owned())))), ToldGrant::Nothing);
    assert!(
        matches!(told(&spec(|spec| spec.suspend = true)), ToldGrant::Proven(_)),
        "approved, although it is suspended"
    );
}

/// A client whose secret and refresh token stand in two Secrets.
fn oauth(secret: &[&str], refresh: &[&str]) -> World {
    changed(|world| {
        let source = json!({"oauth2": {
            "tokenURL": "https://login.example.org/token",
            "revocationURL": "https://logout.example.org/revoke",
            "clientID": "berth",
            "clientSecretRef": {"name": "client", "key": "secret"},
            "refreshTokenRef": {"name": "refresh", "key": "token"},
        }});
        world.bindings[0].spec.credential.source = serde_json::from_value(source).unwrap();
        world.policies.clear();
        world.policy(json!({"allow": [
            {"name": "a", "hosts": ["api.example.com"], "sources": {"clientIDs": ["berth"]}},
        ]}));
        for (name, hosts) in [("client/secret", secret), ("refresh/token", refresh)] {
            if !hosts.is_empty() {
                world.secrets.insert(name.to_owned(), Ok(offered(hosts)));
            }
        }
    })
}

#[test]
fn every_secret_of_a_client_is_offered_wherever_it_and_its_token_go() {
    const ALL: [&str; 3] = ["api.example.com", "login.example.org", "logout.example.org"];
    assert_eq!(oauth(&ALL, &ALL).held(), ["b"]);
    let Verdict::Active(active) = &oauth(&ALL, &ALL).decide().bindings["b"] else {
        panic!("not active")
    };
    assert_eq!(active.version, "1,1");
    let mut other_url = oauth(&ALL, &ALL);
    if let Some(client) = &mut other_url.bindings[0].spec.credential.source.oauth2 {
        client.token_url = "https://login.example.org@evil.example.net/token".to_owned();
    }
    let other_client = changed_policy(oauth(&ALL, &ALL), &json!({"clientIDs": ["another"]}));
    denies(vec![
        ("one not read yet", oauth(&ALL, &[]), Reason::Progressing),
        ("not to the API", oauth(&ALL[1..], &ALL), Reason::HostNotOffered),
        (
            "not to the endpoint",
            oauth(&ALL, &["api.example.com", "logout.example.org"]),
            Reason::HostNotOffered,
        ),
        ("not to the revocation", oauth(&ALL[..2], &ALL), Reason::HostNotOffered),
        ("a URL in disguise", other_url, Reason::InvalidSpec),
        ("another client", other_client, Reason::NotPermitted),
    ]);
}

fn changed_policy(mut world: World, sources: &Value) -> World {
    world.policies.clear();
    world.policy(json!({"allow": [{"name": "a", "hosts": ["api.example.com"], "sources": sources}]}));
    world
}

/// The binding's value is a key of gateway `main`, at `api.example.com`.
fn gateway(change: impl FnOnce(&mut World)) -> World {
    changed(|world| {
        let main = json!({"name": "main", "url": "https://api.example.com:4000/", "adminKeyFile": "/nowhere"});
        world.gateways = Gateways::new(vec![serde_json::from_value(main).unwrap()]).unwrap();
        let spec = &mut world.bindings[0].spec;
        spec.credential.source = serde_json::from_value(json!({"liteLLMKey": {"gateway": "main"}})).unwrap();
        spec.routes[0].ports = vec![4000];
        world.secrets.clear();
        change(world);
    })
}

#[test]
fn a_key_of_a_gateway_goes_to_that_gateway_alone() {
    assert_eq!(gateway(|_| ()).held(), ["b"]);
    let by = |sources: Value| changed_policy(gateway(|_| ()), &sources);
    assert_eq!(by(json!({"gateways": ["main"]})).held(), ["b"]);
    let port = |port| gateway(|world| world.bindings[0].spec.routes[0].ports = vec![port]);
    denies(vec![
        (
            "another host",
            gateway(|world| world.bindings[0].spec.routes[0].host = "llm.example.com".to_owned()),
            Reason::NotPermitted,
        ),
        (
            "a host beside it",
            gateway(|world| {
                world.policy(json!({"allow": [{"name": "a", "hosts": ["*.example.com"]}]}));
                world.bindings[0].spec.routes[0].host = "llm.example.com".to_owned();
            }),
            Reason::HostNotOffered,
        ),
        ("another port", port(443), Reason::HostNotOffered),
        (
            "an unknown gateway",
            gateway(|world| world.gateways = Gateways::default()),
            Reason::GatewayUnknown,
        ),
        (
            "a policy of others",
            by(json!({"gateways": ["other"]})),
            Reason::NotPermitted,
        ),
        (
            "a policy of Secrets",
            by(json!({"secrets": ["forge/token"]})),
            Reason::NotPermitted,
        ),
    ]);
}

/// The binding signs for AWS, with a key of which the id is in another Secret.
fn aws(change: impl FnOnce(&mut World)) -> World {
    changed(|world| {
        let source = json!({"awsSigV4": {
            "accessKeyRef": {"name": "ids", "key": "id"}, "secretKeyRef": {"name": "forge", "key": "token"},
            "region": "eu-west-1", "services": ["s3"],
        }});
        let spec = &mut world.bindings[0].spec;
        spec.credential.source = serde_json::from_value(source).unwrap();
        spec.routes[0].inject = serde_json::from_value(json!({"awsSigV4": {}})).unwrap();
        let ids = Ok(offered(&["api.example.com"]));
        world.secrets.insert("ids/id".to_owned(), ids);
        change(world);
    })
}

#[test]
fn an_aws_key_needs_both_of_its_secrets_offered() {
    let world = aws(|_| {});
    assert_eq!(world.held(), ["b"]);
    let Verdict::Active(active) = &world.decide().bindings["b"] else {
        panic!("not active")
    };
    assert_eq!(active.version, "1,1");
    let refusal = Refused {
        reason: Reason::SecretInvalid,
        message: "Secret ids holds something else than one word of text at id".to_owned(),
    };
    let with = |state: Result<Offered, Refused>| {
        aws(|world| {
            world.secrets.insert("ids/id".to_owned(), state);
        })
    };
    let sources =
        json!({"allow": [{"name": "a", "hosts": ["api.example.com"], "sources": {"secrets": ["forge/token"]}}]});
    let half = aws(|world| {
        world.policies.clear();
        world.policy(sources);
    });
    let minting = aws(|world| {
        let aws = world.bindings[0].spec.credential.source.aws_sig_v4.as_mut().unwrap();
        aws.services = vec!["sts".to_owned()];
    });
    denies(vec![
        (
            "one isn't read yet",
            aws(|world| drop(world.secrets.remove("ids/id"))),
            Reason::Progressing,
        ),
        ("one can't be used", with(Err(refusal)), Reason::SecretInvalid),
        (
            "one is offered elsewhere",
            with(Ok(offered(&["other.example.com"]))),
            Reason::HostNotOffered,
        ),
        ("a policy permits one", half, Reason::NotPermitted),
        ("a service that mints", minting, Reason::InvalidRoute),
    ]);
}
