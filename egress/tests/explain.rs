//! What `explain` says, word for word.

use berth_egress::authority::Authority;
use berth_egress::decide::Request;
use berth_egress::path::Target;
use berth_egress::policy::Policy;
use berth_egress::rules::Rules;
use http::{HeaderMap, HeaderValue, Method};

const POLICY: &str = r#"
credentials: [{name: GITHUB_TOKEN, stub: stub_fake_github_0123456789}]
routes:
  - name: issues
    host: api.github.com
    methods: [GET]
    paths: ["/repos/o/r/issues/**"]
    credential: GITHUB_TOKEN
    inject: {header: {name: Authorization, forms: ["Bearer {}", "token {}"]}}
  - {name: read, host: api.github.com, methods: [GET], paths: ["/repos/o/r/**"]}
  - {name: git, host: github.com, git: {repos: [o/r]}}
  - {name: admin, host: api.github.com, ports: [8443]}
  - {name: sites, host: "*.example.com"}
  - {name: llm, host: llm.example.org, headers: {dropPrefixes: [x-litellm-], set: {x-litellm-session-id: uid}}}
"#;

fn explain(method: &str, authority: &str, target: &str, authorization: Option<&str>) -> String {
    let policy: Policy = serde_saphyr::from_str(POLICY).expect("a policy");
    let rules = Rules::strict(policy).expect("no findings");
    let target = Target::parse(target).expect("a target");
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization {
        headers.insert("authorization", HeaderValue::from_str(value).expect("a value"));
    }
    let request = Request {
        authority: &Authority::from_connect(authority).expect("an authority"),
        tls: true,
        method: &method.parse::<Method>().expect("a method"),
        path: &target.path,
        query: target.query.as_ref(),
        headers: &headers,
        upgrade: None,
    };
    rules.explain(&request).to_string()
}

#[test]
fn an_allowed_request_names_the_route_that_decides() {
    let text = explain(
        "GET",
        "api.github.com:443",
        "/repos/o/r/issues/1?q=x",
        Some("Bearer stub_fake_github_0123456789"),
    );
    insta::assert_snapshot!(text, @r"
    GET api.github.com:443/repos/o/r/issues/1
    allowed by issues, read
      with GITHUB_TOKEN by issues
    - issues: decides
    - read: matches
    - git: fails on host, wants github.com
    - admin: fails on port, wants 8443
    - sites: fails on host, wants *.example.com
    - llm: fails on host, wants llm.example.org
    ");
}

#[test]
fn an_allowed_request_names_the_headers_that_are_not_the_agents() {
    let text = explain("POST", "llm.example.org:443", "/v1/messages", None);
    let head: Vec<&str> = text.lines().take(4).collect();
    insta::assert_snapshot!(head.join("\n"), @r"
    POST llm.example.org:443/v1/messages
    allowed by llm
      without the agent's x-litellm-*
      with the sidecar's own x-litellm-session-id
    ");
}

#[test]
fn a_denied_request_names_the_first_test_of_each_route() {
    insta::assert_snapshot!(explain("POST", "api.github.com:443", "/repos/o/r/issues/1", None), @r"
    POST api.github.com:443/repos/o/r/issues/1
    denied, 403 (method): no route allows this method here
    - issues: fails on method, wants GET
    - read: fails on method, wants GET
    - git: fails on host, wants github.com
    - admin: fails on port, wants 8443
    - sites: fails on host, wants *.example.com
    - llm: fails on host, wants llm.example.org
    ");
    insta::assert_snapshot!(explain("POST", "github.com:443", "/o/r/git-receive-pack", None), @r"
    POST github.com:443/o/r/git-receive-pack
    denied, 403 (read-only): pushes to this repository are not allowed
    - issues: fails on host, wants api.github.com
    - read: fails on host, wants api.github.com
    - git: fails on git, wants Read
    - admin: fails on host, wants api.github.com
    - sites: fails on host, wants *.example.com
    - llm: fails on host, wants llm.example.org
    ");
}

#[test]
fn a_misplaced_stub_is_named_without_the_stub() {
    let text = explain(
        "GET",
        "api.github.com:443",
        "/repos/o/r/issues/1",
        Some("stub_fake_github_0123456789"),
    );
    insta::assert_snapshot!(text, @r"
    GET api.github.com:443/repos/o/r/issues/1
    denied, 403 (misdirected): the stub of GITHUB_TOKEN in header authorization, where no matching route takes it
    - issues: fails on stub, wants that of GITHUB_TOKEN as header authorization: Bearer {} or token {}, and no other
    - read: fails on stub, wants none
    - git: fails on host, wants github.com
    - admin: fails on port, wants 8443
    - sites: fails on host, wants *.example.com
    - llm: fails on host, wants llm.example.org
    ");
}
