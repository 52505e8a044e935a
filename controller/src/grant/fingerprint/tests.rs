//! What keeps an approval, and what needs a new one.

use berth_crds::{HeaderInjection, Injection, Revocation, SessionSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

fn of(spec: &CredentialBindingSpec) -> Fingerprint {
    Fingerprint::of("team-a", "b", spec)
}

fn time(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    subsequence(words, 0..=words.len()).prop_map(|some| some.iter().map(|word| (*word).to_owned()).collect())
}

prop_compose! {
    fn git()(repos in some(&["a/x", "a/y"]), write: bool, prefixes in some(&["refs/heads/agent/", "refs/tags/"])) -> GitRoute {
        GitRoute {
            repos,
            access: if write { GitAccess::Write } else { GitAccess::Read },
            ref_prefixes: prefixes,
            protected_paths: write.then_some(ProtectedPaths::Allow),
        }
    }
}

prop_compose! {
    fn route(name: String)(
        host in select(&["api.example.com", "git.example.com"][..]),
        ports in subsequence(&[443, 8443][..], 0..=2),
        methods in some(&["GET", "POST", "PUT"]),
        paths in some(&["/a", "/a/**", "/b"]),
        addresses in some(&["10.0.0.0/8", "192.0.2.0/24"]),
        websocket: bool,
        git in prop::option::of(git()),
    ) -> Route {
        let header = HeaderInjection { name: "authorization".to_owned(), forms: vec!["Bearer {}".to_owned(), "token {}".to_owned()] };
        let inject = Injection { header: Some(header), ..Injection::default() };
        Route { name: name.clone(), host: host.to_owned(), ports, methods, paths, addresses, websocket, inject, git, ..Route::default() }
    }
}

prop_compose! {
    fn spec()(
        first in route("first".to_owned()),
        second in route("second".to_owned()),
        names in some(&["s", "t", "u"]),
        expires in prop::option::of(1_000_i64..2_000),
        drains: bool,
    ) -> CredentialBindingSpec {
        let mut spec: CredentialBindingSpec = serde_json::from_value(json!({
            "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
            "subjects": {"sessionNames": names}, "reason": "tests", "routes": [],
        })).unwrap();
        spec.routes = vec![first, second];
        spec.expires_at = expires.map(time);
        spec.revoke = drains.then(|| Revocation { drain: Some("10s".parse().unwrap()), ..Revocation::default() });
        spec
    }
}

/// Lists that mean "all" when they are empty keep their last item.
fn shorten(list: &mut Vec<String>, keep_one: bool) {
    if list.len() > usize::from(keep_one) {
        list.pop();
    }
}

/// One way to narrow a binding.
fn narrow(spec: &mut CredentialBindingSpec, how: usize) {
    let earlier = spec.expires_at.as_ref().map_or(1_000, |time| time.0.as_second() - 1);
    let Some(route) = spec.routes.first_mut() else { return };
    match how {
        0 => shorten(&mut route.methods, true),
        1 => shorten(&mut route.paths, true),
        2 => shorten(&mut route.addresses, false),
        3 => route.websocket = false,
        4 => drop(spec.routes.pop()),
        5 => spec.expires_at = Some(time(earlier)),
        6 => shorten(&mut spec.subjects.session_names, false),
        7 => spec.revoke = None,
        8 => spec.suspend = true,
        9 => route.git.iter_mut().for_each(|git| git.access = GitAccess::Read),
        10 => route
            .git
            .iter_mut()
            .for_each(|git| shorten(&mut git.ref_prefixes, false)),
        11 => route.git.iter_mut().for_each(|git| git.protected_paths = None),
        12 if route.ports.len() > 1 => drop(route.ports.pop()),
        _ => spec.routes.rotate_left(1),
    }
}

/// One way to widen a binding, or to make another one of it.
fn widen(spec: &mut CredentialBindingSpec, how: usize) {
    let later = spec.expires_at.as_ref().map(|time| time.0.as_second() + 1);
    match how {
        0 => spec.expires_at = later.map(time).or_else(|| Some(time(0))).filter(|_| later.is_some()),
        1 => spec.subjects.all_sessions = Some(true),
        2 => spec.subjects.session_names.push("v".to_owned()),
        3 => spec.subjects.session_selector = Some(SessionSelector::default()),
        4 => spec.not_before = Some(time(1)),
        5 => spec.credential.source.secret_ref.as_mut().unwrap().key = "other".to_owned(),
        6 => spec.credential.name = "OTHER".to_owned(),
        7 => {
            spec.revoke = Some(Revocation {
                drain: Some("60s".parse().unwrap()),
                ..Revocation::default()
            });
        }
        _ => widen_route(spec.routes.first_mut().unwrap(), how),
    }
}

fn widen_route(route: &mut Route, how: usize) {
    match how {
        8 => route.host = "other.example.com".to_owned(),
        9 => route.methods.push("DELETE".to_owned()),
        10 => route.paths.push("/**".to_owned()),
        11 => route.addresses.push("0.0.0.0/0".to_owned()),
        12 => route.ports.push(8080),
        13 => route.inject.header.as_mut().unwrap().forms.push("{}".to_owned()),
        14 => {
            route.inject = Injection {
                basic: Some(berth_crds::BasicInjection::default()),
                ..Injection::default()
            }
        }
        15 => route.git = route.git.is_none().then(GitRoute::default),
        16 => route.name = "third".to_owned(),
        _ => {
            route.paths = if route.paths.is_empty() {
                vec!["/c".to_owned()]
            } else {
                vec![]
            }
        }
    }
}

proptest! {
    #[test]
    fn narrowing_keeps_what_was_approved(approved in spec(), steps in prop::collection::vec(0_usize..14, 0..6)) {
        let mut narrowed = approved.clone();
        for step in steps {
            narrow(&mut narrowed, step);
            prop_assert!(of(&approved).covers(&of(&narrowed)), "{approved:?} {narrowed:?}");
        }
    }

    #[test]
    fn widening_needs_new_evidence(approved in spec(), narrowed in prop::option::of(0_usize..14), how in 1_usize..18) {
        let mut wider = approved.clone();
        if let Some(how) = narrowed {
            narrow(&mut wider, how);
        }
        widen(&mut wider, how);
        prop_assert!(!of(&approved).covers(&of(&wider)), "{approved:?} {wider:?}");
    }

    #[test]
    fn what_was_narrowed_is_not_widened_again_by_what_was_approved_before(approved in spec(), how in 0_usize..13) {
        let mut narrowed = approved.clone();
        narrow(&mut narrowed, how);
        let (before, after) = (of(&approved), of(&narrowed));
        prop_assert_eq!(after.covers(&before), before == after, "{:?} {:?}", approved, narrowed);
    }
}

fn example() -> CredentialBindingSpec {
    serde_json::from_value(json!({
        "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
        "subjects": {"allSessions": true}, "reason": "tests", "expiresAt": "2030-01-01T00:00:00Z",
        "routes": [
            {"name": "r", "host": "api.example.com", "methods": ["GET", "PUT"], "inject": {"header": {"name": "authorization"}}},
            {"name": "w", "host": "api.example.com", "methods": ["POST"], "paths": ["/x"], "inject": {"basic": {}}},
        ],
    }))
    .unwrap()
}

#[test]
fn order_and_words_are_in_no_element() {
    let mut other = example();
    other.routes.reverse();
    other.routes[1].methods.reverse();
    other.routes[1].ports = vec![443];
    other.reason = "other words".to_owned();
    assert_eq!(of(&other).digest(), of(&example()).digest());
}

#[test]
fn an_end_that_is_later_or_gone_is_wider() {
    let later = CredentialBindingSpec {
        expires_at: Some(time(4_000_000_000)),
        ..example()
    };
    let never = CredentialBindingSpec {
        expires_at: None,
        ..example()
    };
    for wider in [&later, &never] {
        assert!(!of(&example()).covers(&of(wider)));
        assert!(of(wider).covers(&of(&example())));
    }
}

#[test]
fn another_namespace_or_name_is_another_binding() {
    for (namespace, name) in [("team-b", "b"), ("team-a", "c")] {
        assert!(!of(&example()).covers(&Fingerprint::of(namespace, name, &example())));
    }
}

#[test]
fn what_was_suspended_when_it_was_approved_is_not_approved_live() {
    let suspended = CredentialBindingSpec {
        suspend: true,
        ..example()
    };
    assert!(of(&example()).covers(&of(&suspended)));
    assert!(!of(&suspended).covers(&of(&example())));
}

#[test]
fn routes_of_one_name_lend_each_other_nothing() {
    let mut twice = example();
    twice.routes[1].name = "r".to_owned();
    let mut mixed = twice.clone();
    mixed.routes[0].methods = vec!["POST".to_owned()];
    mixed.routes.truncate(1);
    assert!(!of(&twice).covers(&of(&mixed)));
}

#[test]
fn a_binding_of_very_many_elements_narrows_by_whole_routes() {
    let mut large = example();
    large.routes[0].paths = (0..300).map(|number| format!("/{number}")).collect();
    let fingerprint = of(&large);
    assert!(fingerprint.kept().len() <= 256);
    let mut fewer = large.clone();
    fewer.routes.truncate(1);
    assert!(fingerprint.covers(&of(&fewer)));
    fewer.routes[0].paths.pop();
    assert!(
        !fingerprint.covers(&of(&fewer)),
        "its elements weren't kept: it needs evidence"
    );
}
