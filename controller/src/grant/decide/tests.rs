//! A namespace in which one binding is in force for one session; each test changes one thing of it.

use berth_crds::{AgentSessionSpec, CredentialBindingSpec, GrantPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::fingerprint as fingerprint_of;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A namespace in which one binding is in force for one session; a test changes one thing.
struct World {
    bindings: Vec<CredentialBinding>,
    policies: Vec<GrantPolicy>,
    tips: BTreeMap<String, Tip>,
    secrets: BTreeMap<String, Result<Offered, Refused>>,
    broken: BTreeMap<String, (String, Refused)>,
    session: AgentSession,
    confinement: Confinement,
    from_git: bool,
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
            broken: BTreeMap::new(),
            session,
            confinement: Confinement::Fence,
            from_git: false,
            now: 1_000,
        };
        world.bind("b", "forge", 10);
        world.policy(json!({"allow": [{"name": "a", "hosts": ["api.example.com"]}]}));
        world
            .secrets
            .insert("forge".to_owned(), Ok(offered(&["*.example.com"])));
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
        let stands = Tip::Stands {
            commit: "c0ffee".to_owned(),
            author: "A".to_owned(),
        };
        self.tips.insert(name.to_owned(), stands);
    }

    fn policy(&mut self, spec: Value) {
        let spec: GrantPolicySpec = serde_json::from_value(spec).unwrap();
        self.policies.push(GrantPolicy::new("p", spec));
    }

    fn decide(&self) -> Decisions {
        let bindings: Vec<Arc<CredentialBinding>> = self.bindings.iter().cloned().map(Arc::new).collect();
        let policies: Vec<Arc<GrantPolicy>> = self.policies.iter().cloned().map(Arc::new).collect();
        decide(&Facts {
            now: at(self.now),
            namespace: "team-a",
            default: DefaultPolicy::Deny,
            github_host: "api.github.example.com",
            bindings: &bindings,
            policies: &policies,
            tips: &self.tips,
            secrets: &self.secrets,
            broken: &self.broken,
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
    assert_eq!(active.commit.as_deref(), Some("c0ffee"));
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
        world.secrets.extend(state.map(|state| ("forge".to_owned(), state)));
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
            .insert("other".to_owned(), Ok(offered(&["*.example.com"])));
    });
    assert_eq!(world.held(), ["b"]);
    let Verdict::Inactive { reason, message, .. } = &world.decide().bindings["a"] else {
        panic!("both active")
    };
    assert_eq!(*reason, Reason::ConflictsWith);
    assert!(message.contains("ConflictsWith b"), "{message}");
}

#[test]
fn what_begins_or_ends_by_itself_is_looked_at_again() {
    let world = changed(|world| world.bindings[0].spec.expires_at = Some(Time(at(5_000))));
    assert_eq!(world.decide().next, Some(at(5_000)));
    assert_eq!(World::new().decide().next, None);
}

#[test]
fn words_change_no_fingerprint_and_everything_else_does() {
    let fingerprint = |change: fn(&mut CredentialBinding)| {
        let world = changed(move |world| change(&mut world.bindings[0]));
        fingerprint_of(&world.bindings[0])
    };
    let base = fingerprint(|_| {});
    assert_eq!(
        fingerprint(|binding| binding.spec.reason = "other words".to_owned()),
        base
    );
    assert_ne!(
        fingerprint(|binding| binding.spec.routes[0].host = "x.example.com".to_owned()),
        base
    );
    assert_ne!(fingerprint(|binding| binding.spec.subjects.all_sessions = None), base);
    assert_ne!(fingerprint(|binding| binding.spec.expires_at = Some(Time(at(1)))), base);
    assert_ne!(
        fingerprint(|binding| binding.metadata.namespace = Some("team-b".to_owned())),
        base
    );
}

/// The binding signs for AWS, with a key of which the id is in another Secret.
fn aws(change: impl FnOnce(&mut World)) -> World {
    changed(|world| {
        let source = json!({"awsSigV4": {
            "accessKeyRef": {"name": "ids", "key": "id"}, "secretKeyRef": {"name": "forge", "key": "token"},
            "region": "eu-west-1", "services": ["s3"],
        }});
        world.bindings[0].spec.credential.source = serde_json::from_value(source).unwrap();
        world
            .secrets
            .insert("ids".to_owned(), Ok(offered(&["api.example.com"])));
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
    assert_eq!(active.version, "1 1");
    let refusal = Refused {
        reason: Reason::SecretNotOffered,
        message: "Secret ids isn't offered".to_owned(),
    };
    let with = |state: Result<Offered, Refused>| {
        aws(|world| {
            world.secrets.insert("ids".to_owned(), state);
        })
    };
    let sources =
        json!({"allow": [{"name": "a", "hosts": ["api.example.com"], "sources": {"secrets": ["forge/token"]}}]});
    let half = aws(|world| {
        world.policies.clear();
        world.policy(sources);
    });
    denies(vec![
        (
            "one isn't read yet",
            aws(|world| drop(world.secrets.remove("ids"))),
            Reason::Progressing,
        ),
        ("one isn't offered", with(Err(refusal)), Reason::SecretNotOffered),
        (
            "one is offered elsewhere",
            with(Ok(offered(&["other.example.com"]))),
            Reason::HostNotOffered,
        ),
        ("a policy permits one", half, Reason::NotPermitted),
    ]);
}

#[test]
fn a_value_that_cannot_be_had_is_told_until_its_secret_changes() {
    let broken = |version: &str| {
        let refused = Refused {
            reason: Reason::SecretInvalid,
            message: "Secret forge isn't a docker configuration".to_owned(),
        };
        changed(|world| drop(world.broken.insert("b".to_owned(), (version.to_owned(), refused))))
    };
    denies(vec![("the same Secret", broken("1"), Reason::SecretInvalid)]);
    assert_eq!(broken("0").held(), ["b"], "the Secret has changed since");
    let other = changed(|world| {
        let (_, refused) = broken("1").broken.remove("b").unwrap();
        world.broken.insert("another".to_owned(), ("1".to_owned(), refused));
    });
    assert_eq!(other.held(), ["b"], "another binding's trouble");
}
