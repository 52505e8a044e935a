//! What policies leave of a binding's routes.

use berth_crds::{CredentialBindingSpec, GrantPolicySpec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

use super::*;

fn binding(routes: &serde_json::Value) -> CredentialBinding {
    let spec: CredentialBindingSpec = serde_json::from_value(json!({
        "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
        "subjects": {"allSessions": true},
        "routes": routes,
        "reason": "tests",
    }))
    .unwrap();
    CredentialBinding::new("b", spec)
}

fn policies(specs: &[serde_json::Value]) -> Vec<Arc<GrantPolicy>> {
    let specs = specs
        .iter()
        .map(|spec| serde_json::from_value::<GrantPolicySpec>(spec.clone()).unwrap());
    specs.map(|spec| Arc::new(GrantPolicy::new("p", spec))).collect()
}

/// What is left, as `host METHODS PATHS`.
fn left(routes: &serde_json::Value, specs: &[serde_json::Value], default: DefaultPolicy) -> Vec<String> {
    let policies = policies(specs);
    let permitted = Matching::of("team-a", None, None, &policies).permit(&binding(routes), default);
    let text = |route: &Route| format!("{} {} {}", route.host, route.methods.join(","), route.paths.join(","));
    permitted.routes.iter().map(text).collect()
}

fn route(host: &str, methods: &[&str], paths: &[&str]) -> serde_json::Value {
    json!([{"name": "r", "host": host, "methods": methods, "paths": paths, "inject": {"header": {"name": "authorization"}}}])
}

#[test]
fn permitted_is_the_union_of_allow_without_deny() {
    let api = |methods: &[&str], paths: &[&str]| route("api.example.com", methods, paths);
    let allow = |rule: serde_json::Value| json!({"allow": [rule]});
    let hosts = json!({"name": "a", "hosts": ["*.example.com"]});
    let reads = json!({"name": "a", "hosts": ["api.example.com"], "methods": ["GET"], "paths": ["/repos/**"]});
    let cases: [(serde_json::Value, Vec<serde_json::Value>, &[&str]); 12] = [
        (api(&["GET"], &["/x"]), vec![], &[]),
        (
            api(&["GET"], &["/x"]),
            vec![allow(hosts.clone())],
            &["api.example.com GET /x"],
        ),
        (
            api(&["GET", "POST"], &["/repos/a/**", "/user"]),
            vec![allow(reads.clone())],
            &["api.example.com GET /repos/a/**"],
        ),
        (api(&["POST"], &["/repos/a"]), vec![allow(reads.clone())], &[]),
        (
            api(&[], &[]),
            vec![allow(reads.clone())],
            &["api.example.com GET /repos/**"],
        ),
        (route("example.com", &["GET"], &["/x"]), vec![allow(hosts.clone())], &[]),
        (
            route("a.b.example.com", &["GET"], &["/x"]),
            vec![allow(hosts.clone())],
            &[],
        ),
        (
            api(&["GET", "DELETE"], &["/x"]),
            vec![
                allow(hosts.clone()),
                json!({"deny": [{"name": "d", "methods": ["DELETE"]}]}),
            ],
            &["api.example.com GET /x"],
        ),
        (
            api(&["GET"], &["/x", "/admin/**"]),
            vec![
                allow(hosts.clone()),
                json!({"deny": [{"name": "d", "paths": ["/admin/*"]}]}),
            ],
            &["api.example.com GET /x"],
        ),
        (
            api(&["GET"], &["/x"]),
            vec![
                allow(hosts.clone()),
                json!({"deny": [{"name": "d", "hosts": ["api.example.com"]}]}),
            ],
            &[],
        ),
        (
            api(&["GET"], &["/x"]),
            vec![
                json!({"allow": [{"name": "a", "hosts": ["*.example.com"], "sources": {"secrets": ["other/token"]}}]}),
            ],
            &[],
        ),
        (
            api(&["GET"], &["/x"]),
            vec![json!({"match": {"namespaces": ["team-b"]}, "allow": [hosts.clone()]})],
            &[],
        ),
    ];
    for (routes, specs, expected) in cases {
        assert_eq!(
            left(&routes, &specs, DefaultPolicy::Deny),
            expected,
            "{routes} {specs:?}"
        );
    }
}

#[test]
fn the_default_holds_only_where_no_policy_says_allow() {
    let routes = route("api.example.com", &["GET"], &["/x"]);
    let kept = ["api.example.com GET /x"];
    assert_eq!(left(&routes, &[], DefaultPolicy::Allow), kept);
    let other = json!({"allow": [{"name": "a", "hosts": ["other.example.com"]}]});
    assert!(left(&routes, std::slice::from_ref(&other), DefaultPolicy::Allow).is_empty());
    let deny = json!({"deny": [{"name": "d"}]});
    assert!(left(&routes, &[deny], DefaultPolicy::Allow).is_empty());
}

/// Whether a policy of this `match` allows, and whether it restricts.
fn speaks(matches: &serde_json::Value, labels: Option<&[(&str, &str)]>, document: Option<&Where<'_>>) -> (bool, bool) {
    let policies = policies(&[json!({"match": matches, "require": {"direct": true}})]);
    let labels = labels.map(|labels| {
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    });
    let matching = Matching::of("team-a", labels.as_ref(), document, &policies);
    (matching.accepts_direct(), matching.requirements().next().is_some())
}

const YES: (bool, bool) = (true, true);
const NO: (bool, bool) = (false, false);
const UNKNOWN: (bool, bool) = (false, true);

#[test]
fn a_policy_speaks_of_namespaces_by_their_labels() {
    let selector = json!({"namespaceSelector": {"matchLabels": {"tier": "prod"}}});
    assert_eq!(speaks(&selector, Some(&[("tier", "prod")]), None), YES);
    assert_eq!(speaks(&selector, Some(&[("tier", "test")]), None), NO);
    assert_eq!(
        speaks(&selector, None, None),
        UNKNOWN,
        "unknown labels restrict and never allow"
    );
    let both = json!({"namespaces": ["team-b"], "namespaceSelector": {"matchLabels": {"tier": "prod"}}});
    assert_eq!(speaks(&both, Some(&[("tier", "prod")]), None), NO);
}

#[test]
fn a_policy_speaks_of_repositories_by_the_forges_id() {
    let repository = json!({"name": "r", "forge": "main", "repositoryID": 12, "branch": "main", "path": "agents/prod"});
    let matches = json!({"repositories": [repository]});
    let at = |forge, repository, branch, path| Where {
        forge,
        repository,
        branch,
        path,
    };
    let (main, path) = (Some("main"), "agents/prod/b.yaml");
    let cases = [
        (at(main, Some(12), "main", path), YES),
        (at(main, Some(13), "main", path), NO),
        (at(main, None, "main", path), UNKNOWN),
        (at(Some("other"), Some(12), "main", path), NO),
        (at(None, None, "main", path), UNKNOWN),
        (at(main, Some(12), "other", path), NO),
        (at(main, Some(12), "main", "agents/production/b.yaml"), NO),
        (at(main, Some(12), "main", "agents/prod"), NO),
    ];
    for (number, (document, expected)) in cases.iter().enumerate() {
        assert_eq!(speaks(&matches, Some(&[]), Some(document)), *expected, "{number}");
    }
    assert_eq!(
        speaks(&matches, Some(&[]), None),
        NO,
        "what stands in no git stands in none of these"
    );
    let wide = json!({"repositories": [{"name": "r", "forge": "main", "repositoryID": 12, "branch": "main"}]});
    assert_eq!(speaks(&wide, Some(&[]), Some(&at(main, Some(12), "main", path))), YES);
}

/// The requests, of a few, that are left to a binding.
fn open(routes: &serde_json::Value, specs: &[serde_json::Value], default: DefaultPolicy) -> Vec<String> {
    let policies = policies(specs);
    let permitted = Matching::of("team-a", None, None, &policies).permit(&binding(routes), default);
    let hosts = ["api.example.com", "git.example.com", "a.b.example.com"];
    let mut left = Vec::new();
    for (host, method, path) in requests(&hosts, &["GET", "POST"], &["/a", "/a/x", "/b"]) {
        let takes = |route: &Route| {
            host_covers(&route.host, host)
                && (route.methods.is_empty() || route.methods.iter().any(|one| one == method))
                && (route.paths.is_empty() || route.paths.iter().any(|one| path_covers(one, path)))
        };
        if permitted.routes.iter().any(takes) {
            left.push(format!("{method} {host}{path}"));
        }
    }
    left
}

fn requests<'a>(hosts: &[&'a str], methods: &[&'a str], paths: &[&'a str]) -> Vec<(&'a str, &'a str, &'a str)> {
    let each = |host: &'a str| {
        methods
            .iter()
            .flat_map(move |method| paths.iter().map(move |path| (host, *method, *path)))
    };
    hosts.iter().flat_map(|host| each(host)).collect()
}

fn some(words: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(words, least..=words.len())
}

const HOSTS: &[&str] = &["api.example.com", "git.example.com", "*.example.com", "*.b.example.com"];
const METHODS: &[&str] = &["GET", "POST"];
const PATHS: &[&str] = &["/a", "/a/**", "/b", "/*"];

prop_compose! {
    fn routes()(host in select(HOSTS), methods in some(METHODS, 0), paths in some(PATHS, 0)) -> serde_json::Value {
        route(host, &methods, &paths)
    }
}

prop_compose! {
    fn rule()(
        key in select(&["allow", "deny"][..]), hosts in some(HOSTS, 1), methods in some(METHODS, 0), paths in some(PATHS, 0),
    ) -> serde_json::Value {
        json!({key: [{"name": "r", "hosts": hosts, "methods": methods, "paths": paths}]})
    }
}

proptest! {
    #[test]
    fn what_is_added_by_deny_or_taken_from_allow_never_widens(
        routes in routes(), rules in prop::collection::vec(rule(), 0..4), more in rule(), allows: bool,
    ) {
        let default = if allows { DefaultPolicy::Allow } else { DefaultPolicy::Deny };
        let before = open(&routes, &rules, default);
        let within = |after: &[String]| after.iter().all(|request| before.contains(request));
        if more.get("deny").is_some() {
            let after = open(&routes, &[&rules[..], &[more]].concat(), default);
            prop_assert!(within(&after), "{routes} {rules:?}: {before:?} {after:?}");
        }
        if default == DefaultPolicy::Deny {
            for left_out in (0..rules.len()).filter(|number| rules[*number].get("allow").is_some()) {
                let mut fewer = rules.clone();
                fewer.remove(left_out);
                let after = open(&routes, &fewer, default);
                prop_assert!(within(&after), "{routes} {rules:?} without {left_out}: {before:?} {after:?}");
            }
        }
    }

    #[test]
    fn a_narrower_route_is_permitted_no_more(routes in routes(), rules in prop::collection::vec(rule(), 0..4)) {
        let before = open(&routes, &rules, DefaultPolicy::Deny);
        for list in ["methods", "paths"] {
            let mut narrower = routes.clone();
            let items = narrower[0][list].as_array_mut().unwrap();
            if items.len() > 1 {
                items.pop();
            }
            let after = open(&narrower, &rules, DefaultPolicy::Deny);
            prop_assert!(after.iter().all(|request| before.contains(request)), "{routes} {narrower} {rules:?}");
        }
    }
}

#[test]
fn one_pattern_within_another() {
    let cases = [
        ("/**", "/a/b", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/a/**", true),
        ("/a/**", "/b", false),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a/**", false),
        ("/a/*/c", "/a/*/c", true),
        ("/a/b", "/a/*", false),
        ("/a", "/a/b", false),
        ("/a/b", "/a", false),
    ];
    for (larger, pattern, expected) in cases {
        assert_eq!(path_covers(larger, pattern), expected, "{larger} {pattern}");
    }
}
