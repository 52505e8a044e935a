//! What policies leave of a binding's routes.

use berth_crds::{CredentialBindingSpec, GrantPolicySpec};
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
    let permitted = Matching::of("team-a", &policies).permit(&binding(routes), default);
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

#[test]
fn a_match_that_this_release_cannot_judge_restricts_and_never_allows() {
    let routes = route("api.example.com", &["GET"], &["/x"]);
    let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let allows = json!({"match": selector.clone(), "allow": [{"name": "a", "hosts": ["api.example.com"]}]});
    assert!(left(&routes, &[allows], DefaultPolicy::Deny).is_empty());
    let denies = json!({"match": selector, "deny": [{"name": "d"}]});
    assert!(left(&routes, &[denies], DefaultPolicy::Allow).is_empty());
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
