//! Decisions: each row of research/vault-proxy.md §2.1 that is decided here, and what every grant guarantees.

use std::sync::LazyLock;

use berth_egress::authority::Authority;
use berth_egress::decide::{Allowed, Denial, Exchanges, GitStep, Place, Request, Surface, Upgrade};
use berth_egress::path::Target;
use berth_egress::policy::{Policy, Tls};
use berth_egress::rules::Rules;
use berth_egress::tokens;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

const GITHUB: &str = "stub_fake_github_0123456789";
const NPM: &str = "stub_fake_npm_9876543210abcd";
const MAPS: &str = "stub_fake_maps_5555555555555";

const POLICY: &str = r#"
revision: 7
credentials:
  - {name: GITHUB_TOKEN, stub: stub_fake_github_0123456789}
  - {name: NPM_TOKEN, stub: stub_fake_npm_9876543210abcd}
  - {name: MAPS_KEY, stub: stub_fake_maps_5555555555555}
routes:
  - name: api
    host: api.github.com
    methods: [GET, POST]
    paths: ["/repos/o/r/issues/**", "/user"]
    credential: GITHUB_TOKEN
    inject: {header: {name: Authorization, forms: ["Bearer {}", "token {}"]}}
  - name: git
    host: github.com
    credential: GITHUB_TOKEN
    inject: {basic: {username: x-access-token}}
    git: {repos: [o/r], access: Write, refPrefixes: [refs/heads/agent/]}
  - name: git-read
    host: github.com
    git: {repos: [o/lib]}
  - name: npm
    host: "*.npm.example.com"
    ports: [443, 8443]
    methods: ["*"]
    credential: NPM_TOKEN
    inject: {header: {name: x-npm-token}}
  - name: npm-socket
    host: "*.npm.example.com"
    paths: [/socket]
    websocket: true
  - name: maps
    host: maps.example.com
    methods: [GET]
    credential: MAPS_KEY
    inject: {query: {name: key}}
  - name: llm
    host: llm.example.com
    headers: {dropPrefixes: [x-litellm-], set: {x-litellm-session-id: uid}}
  - name: llm-messages
    host: llm.example.com
    paths: [/v1/messages]
    headers: {dropPrefixes: [x-litellm-], set: {x-litellm-session-id: narrow}}
  - {name: pages, host: pages.example.com}
  - {name: plain, host: plain.example.com, tls: Plain}
  - {name: pinned, host: pinned.example.com, tls: Passthrough, addresses: [10.1.0.0/16]}
"#;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let policy: Policy = serde_saphyr::from_str(POLICY).expect("a policy");
    Rules::strict(policy).expect("no findings")
});

struct Asked {
    authority: Authority,
    tls: bool,
    method: Method,
    target: Target,
    headers: HeaderMap,
    upgrade: Option<Upgrade>,
}

fn ask(method: &str, url: &str) -> Asked {
    let (scheme, rest) = url.split_once("://").expect("a scheme");
    let at = rest.find('/').expect("a path");
    let tls = scheme == "https";
    Asked {
        authority: Authority::from_host_header(&rest[..at], if tls { 443 } else { 80 }).expect("an authority"),
        tls,
        method: method.parse().expect("a method"),
        target: Target::parse(&rest[at..]).expect("a target"),
        headers: HeaderMap::new(),
        upgrade: None,
    }
}

impl Asked {
    fn with(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a name");
        self.headers
            .append(name, HeaderValue::from_str(value).expect("a value"));
        self
    }

    fn basic(self, user: &str, password: &str) -> Self {
        let encoded = base64(format!("{user}:{password}").as_bytes());
        self.with("authorization", &format!("Basic {encoded}"))
    }

    fn upgrade(mut self) -> Self {
        self.upgrade = Some(Upgrade::WebSocket);
        self
    }

    fn request(&self) -> Request<'_> {
        Request {
            authority: &self.authority,
            tls: self.tls,
            method: &self.method,
            path: &self.target.path,
            query: self.target.query.as_ref(),
            headers: &self.headers,
            upgrade: self.upgrade,
        }
    }

    fn decide(&self) -> Result<Allowed, Denial> {
        RULES.decide(&self.request())
    }

    fn allowed(&self) -> Allowed {
        self.decide().expect("allowed")
    }

    fn denied(&self) -> Denial {
        self.decide().expect_err("denied")
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * index) & 63) as usize]));
        }
        out.push_str(&"=".repeat(3 - chunk.len()));
    }
    out
}

fn is_misdirected(denial: &Denial, name: &str) -> bool {
    matches!(denial, Denial::Misdirected { credential, .. } if credential.as_ref() == name)
}

#[test]
fn a_stub_in_its_form_is_granted_for_that_host() {
    let allowed = ask("GET", "https://api.github.com/user")
        .with("authorization", &format!("Bearer {GITHUB}"))
        .allowed();
    let [grant] = allowed.grants.as_slice() else {
        panic!("one grant: {allowed:?}")
    };
    assert_eq!((grant.credential(), grant.route()), ("GITHUB_TOKEN", "api"));
    assert_eq!(grant.authority().to_string(), "api.github.com:443");
    let Surface::Header { name, before, after } = grant.surface() else {
        panic!("a header: {grant:?}")
    };
    assert_eq!(
        (name.as_str(), before.as_str(), after.as_str()),
        ("authorization", "Bearer ", "")
    );
    assert!(allowed.credentialed && !allowed.set_cookie && !allowed.range);
    assert_eq!(
        allowed.redact.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["GITHUB_TOKEN"]
    );
}

#[test]
fn headers_of_the_sidecars_own_are_those_of_the_matching_routes() {
    let own = |path: &str| {
        let headers = ask("POST", &format!("https://llm.example.com{path}")).allowed().headers;
        let set = headers
            .set
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().expect("text")));
        (headers.drop_prefixes.len(), set.collect::<Vec<String>>())
    };
    assert_eq!(own("/v1/models"), (1, vec!["x-litellm-session-id=uid".to_owned()]));
    assert_eq!(
        own("/v1/messages"),
        (1, vec!["x-litellm-session-id=narrow".to_owned()]),
        "the more specific route's word counts"
    );
    let headers = ask("GET", "https://pages.example.com/a").allowed().headers;
    assert!(headers.drop_prefixes.is_empty() && headers.set.is_empty());
}

#[test]
fn without_a_stub_nothing_is_granted() {
    let allowed = ask("GET", "https://api.github.com/user")
        .with("authorization", "Bearer other")
        .allowed();
    assert!(allowed.grants.is_empty() && allowed.is_redacted());
    let allowed = ask("GET", "https://pages.example.com/a").allowed();
    assert!(!allowed.is_redacted() && !allowed.credentialed && allowed.set_cookie && allowed.range);
}

#[test]
fn row_1_and_2_a_stub_on_another_host_is_refused() {
    let hosts = [
        "api.github.com/user",
        "a.npm.example.com/",
        "maps.example.com/",
        "pages.example.com/",
        "unknown.example.org/",
    ];
    let stubs = [
        ("GITHUB_TOKEN", GITHUB, 0),
        ("NPM_TOKEN", NPM, 1),
        ("MAPS_KEY", MAPS, 2),
    ];
    for (at, host) in hosts.iter().enumerate() {
        for (name, stub, home) in stubs {
            let url = format!("https://{host}");
            let asked = [
                ask("GET", &url).with("authorization", &format!("Bearer {stub}")),
                ask("GET", &url).with("x-npm-token", stub),
                ask("GET", &format!("{url}?key={stub}")),
            ];
            let granted = asked.iter().filter(|asked| match asked.decide() {
                Ok(allowed) => allowed.grants.len() == 1,
                Err(denial) => !is_misdirected(&denial, name),
            });
            assert_eq!(granted.count(), usize::from(at == home), "{name} at {host}");
        }
    }
}

#[test]
fn row_3_a_host_header_for_another_place_is_refused() {
    let table = [
        ("api.github.com", true),
        ("API.github.com.", true),
        ("api.github.com:443", true),
        ("api.github.com:8443", false),
        ("github.com", false),
        ("api.github.com.evil.com", false),
    ];
    for (host, expected) in table {
        let decided = ask("GET", "https://api.github.com/user").with("host", host).decide();
        assert_eq!(decided.is_ok(), expected, "{host}");
        if let Err(denial) = decided {
            assert_eq!(denial.status(), 421, "{host}");
        }
    }
    let odd = ask("GET", "https://api.github.com/user")
        .with("host", "api.github.com\\@evil.com")
        .denied();
    assert_eq!(odd.status(), 400);
    let two = ask("GET", "https://api.github.com/user")
        .with("host", "api.github.com")
        .with("host", "evil.com")
        .denied();
    assert_eq!(two.status(), 400);
}

#[test]
fn row_21_two_values_of_an_auth_header_are_refused() {
    let bearer = format!("Bearer {GITHUB}");
    let two = ask("GET", "https://api.github.com/user")
        .with("authorization", "Bearer x")
        .with("authorization", &bearer);
    assert_eq!(two.denied().status(), 400);
    let twice = ask("GET", &format!("https://maps.example.com/?key={MAPS}&k%65y=x"));
    assert_eq!(twice.denied().status(), 400);
    let basic = ask("GET", "https://a.npm.example.com/")
        .with("authorization", "a")
        .with("authorization", "b");
    assert_eq!(basic.denied().status(), 400);
}

#[test]
fn row_24_paths_that_leave_their_pattern_are_refused() {
    for path in [
        "/repos/o/r/issues/../contents/x",
        "/repos/o/r/issues/%2e%2e/contents/x",
        "/repos/o/r%2Fissues/1",
        "/repos/o%2Fr/issues/1",
        "//user",
        "/user/",
        "/repos/o/r/issues",
        "/repos/o/other/issues/1",
        "/repos/o/r//issues/1",
        "/USER",
    ] {
        if let Ok(target) = Target::parse(path) {
            let asked = Asked {
                target,
                ..ask("GET", "https://api.github.com/user")
            };
            assert_eq!(asked.denied(), Denial::Path, "{path}");
        }
    }
}

#[test]
fn row_25_a_query_is_no_surface_unless_named() {
    let denial = ask("GET", &format!("https://api.github.com/user?access_token={GITHUB}")).denied();
    assert_eq!(
        denial,
        Denial::Misdirected {
            credential: "GITHUB_TOKEN".into(),
            place: Place::Query
        }
    );
    let allowed = ask("GET", &format!("https://maps.example.com/a?x=1&key={MAPS}")).allowed();
    assert_eq!(allowed.grants[0].surface(), &Surface::Query { name: "key".into() });
    for query in [
        format!("KEY={MAPS}"),
        format!("key=x{MAPS}"),
        format!("other={MAPS}"),
        format!("{MAPS}=1"),
        format!("key={}", MAPS.replace('m', "%6d")),
    ] {
        assert!(
            is_misdirected(
                &ask("GET", &format!("https://maps.example.com/a?{query}")).denied(),
                "MAPS_KEY"
            ),
            "{query}"
        );
    }
}

#[test]
fn row_26_git_passes_for_named_repositories_only() {
    let git = |method: &str, path: &str| ask(method, &format!("https://github.com{path}"));
    let write = |method: &str, path: &str| git(method, path).basic("x-access-token", GITHUB);
    for path in [
        "/o/r/info/refs?service=git-receive-pack",
        "/o/r.git/info/refs?service=git-upload-pack",
    ] {
        let allowed = write("GET", path).allowed();
        assert_eq!(allowed.grants.len(), 1, "{path}");
        assert_eq!(allowed.git.expect("git").step, GitStep::Discovery);
        assert!(
            git("GET", path).allowed().grants.is_empty(),
            "the first request has no credential"
        );
    }
    let push = write("POST", "/o/r.git/git-receive-pack").allowed().git.expect("git");
    assert_eq!((push.step, push.repository.as_str()), (GitStep::Push, "o/r"));
    assert!(push.allows_ref("refs/heads/agent/x"));
    assert!(!push.allows_ref("refs/heads/main") && !push.allows_ref("refs/heads/agent/../main"));
    assert_eq!(
        git("GET", "/o/lib/info/refs?service=git-upload-pack").allowed().routes,
        ["git-read".into()]
    );
    assert_eq!(git("POST", "/o/lib/git-receive-pack").denied(), Denial::ReadOnly);
    assert_eq!(
        git("GET", "/o/lib/info/refs?service=git-receive-pack").denied(),
        Denial::ReadOnly
    );
    assert_eq!(git("POST", "/o/evil/git-upload-pack").denied(), Denial::Repository);
    for (method, path) in [
        ("GET", "/o/r"),
        ("GET", "/o/r/info/refs"),
        ("GET", "/o/r/info/refs?service=git-receive-pack&x=1"),
        ("GET", "/o/r/info/refs?x=1&service=git-upload-pack"),
        ("POST", "/o/r/info/refs?service=git-upload-pack"),
        ("GET", "/o/r/git-upload-pack"),
        ("POST", "/o/r/git-receive-pack?x"),
        ("POST", "/o/r/info/lfs/objects/batch"),
        ("GET", "/o/r/HEAD"),
        ("GET", "/o/r/objects/info/packs"),
    ] {
        assert_eq!(git(method, path).denied(), Denial::Path, "{method} {path}");
    }
    for path in [
        "/o/r.git.git/git-upload-pack",
        "/o/r/x/git-upload-pack",
        "/o%2Fr/git-upload-pack",
        "/O/r/git-upload-pack",
    ] {
        assert_eq!(git("POST", path).denied(), Denial::Repository, "{path}");
    }
}

#[test]
fn row_26_the_limits_of_basic_hold() {
    let path = "https://github.com/o/r/git-upload-pack";
    let upper = GITHUB.to_ascii_uppercase();
    for (user, password) in [
        ("other", GITHUB),
        (GITHUB, "x"),
        (GITHUB, ""),
        ("x-access-token", upper.as_str()),
        ("x-access-token", &format!("{GITHUB}:")),
    ] {
        assert!(
            is_misdirected(&ask("POST", path).basic(user, password).denied(), "GITHUB_TOKEN"),
            "{user}"
        );
    }
    let bearer = ask("POST", path).with("authorization", &format!("Bearer {GITHUB}"));
    assert!(is_misdirected(&bearer.denied(), "GITHUB_TOKEN"));
    let other = ask("POST", "https://github.com/o/lib/git-upload-pack").basic("x-access-token", GITHUB);
    assert!(
        is_misdirected(&other.denied(), "GITHUB_TOKEN"),
        "a credential of one repository for another"
    );
}

#[test]
fn row_27_variants_of_a_stub_are_neither_exchanged_nor_let_through() {
    let upper = GITHUB.to_ascii_uppercase();
    let percent = GITHUB.replace('_', "%5f");
    let twice = GITHUB.replace('_', "%255F");
    let in_basic = base64(format!("x:{GITHUB}").as_bytes());
    let unpadded = in_basic.trim_end_matches('=');
    let in_basic_percent = base64(format!("x:{percent}").as_bytes());
    let values = [
        GITHUB.to_owned(),
        upper.clone(),
        percent.clone(),
        twice.clone(),
        format!("bearer {GITHUB}"),
        format!("Bearer  {GITHUB}"),
        format!("Bearer {GITHUB}x"),
        format!("Bearer {upper}"),
        format!("Bearer {percent}"),
        format!("Bearer {GITHUB}, Bearer x"),
        format!("Basic {in_basic}"),
        format!("bAsIc   {unpadded}"),
        format!("Basic {in_basic_percent}"),
        format!("Digest x, Basic {in_basic}"),
    ];
    for value in &values {
        for host in ["api.github.com/user", "pages.example.com/", "unknown.example.org/"] {
            for header in ["authorization", "x-custom", "cookie", "user-agent"] {
                let asked = ask("GET", &format!("https://{host}")).with(header, value);
                assert!(
                    is_misdirected(&asked.denied(), "GITHUB_TOKEN"),
                    "{header}: {value} to {host}"
                );
            }
        }
    }
    for text in [GITHUB, &upper, &percent] {
        let path = ask("GET", &format!("https://pages.example.com/a/x{text}x"));
        assert!(is_misdirected(&path.denied(), "GITHUB_TOKEN"), "path {text}");
        let query = ask("GET", &format!("https://pages.example.com/a?b=x{text}x"));
        assert!(is_misdirected(&query.denied(), "GITHUB_TOKEN"), "query {text}");
    }
    let name = ask("GET", "https://pages.example.com/").with(&GITHUB.to_ascii_lowercase(), "x");
    assert!(is_misdirected(&name.denied(), "GITHUB_TOKEN"));
}

#[test]
fn row_27_a_second_stub_elsewhere_spoils_the_request() {
    let bearer = format!("Bearer {GITHUB}");
    let same = ask("GET", "https://api.github.com/user")
        .with("authorization", &bearer)
        .with("x-copy", GITHUB);
    assert!(is_misdirected(&same.denied(), "GITHUB_TOKEN"));
    let other = ask("GET", "https://api.github.com/user")
        .with("authorization", &bearer)
        .with("x-copy", NPM);
    assert!(is_misdirected(&other.denied(), "NPM_TOKEN"));
}

#[test]
fn row_28_methods_that_echo_are_refused_everywhere() {
    for method in ["TRACE", "TRACK", "DEBUG", "CONNECT", "trace"] {
        assert_eq!(
            ask(method, "https://a.npm.example.com/").denied(),
            Denial::Method,
            "{method}"
        );
        assert_eq!(
            ask(method, "https://unknown.example.org/").denied(),
            Denial::Method,
            "{method}"
        );
    }
}

#[test]
fn row_37_websocket_needs_a_route_that_says_so() {
    assert_eq!(
        ask("GET", "https://pages.example.com/").upgrade().denied(),
        Denial::Websocket
    );
    let allowed = ask("GET", "https://a.npm.example.com/socket").upgrade().allowed();
    assert_eq!(allowed.routes, ["npm-socket".into()]);
    let stub = ask("GET", "https://a.npm.example.com/socket")
        .upgrade()
        .with("x-npm-token", NPM);
    assert!(
        is_misdirected(&stub.denied(), "NPM_TOKEN"),
        "the route with the credential has no websocket"
    );
}

#[test]
fn a_denial_for_a_well_placed_stub_says_what_is_wrong() {
    let bearer = format!("Bearer {GITHUB}");
    assert_eq!(
        ask("GET", "https://api.github.com/orgs")
            .with("authorization", &bearer)
            .denied(),
        Denial::Path
    );
    assert_eq!(
        ask("PUT", "https://api.github.com/user")
            .with("authorization", &bearer)
            .denied(),
        Denial::Method
    );
}

#[test]
fn unknown_and_forbidden_hosts_look_the_same() {
    let unknown = ask("GET", "https://unknown.example.org/").denied();
    let port = ask("GET", "https://api.github.com:22/").denied();
    let plain = ask("GET", "http://api.github.com/user").denied();
    let unseen = ask("GET", "https://pinned.example.com/").denied();
    let apex = ask("GET", "https://npm.example.com/").denied();
    for denial in [unknown, port, plain, unseen, apex] {
        assert_eq!(
            (denial.status().as_u16(), denial.public_reason()),
            (403, "no route allows this host and port")
        );
        assert_eq!(denial, Denial::NotCovered);
    }
}

#[test]
fn connect_knows_host_port_and_kind() {
    let reach = |text: &str| RULES.connect(&Authority::from_connect(text).expect("an authority"));
    let npm = reach("A.npm.example.com.:8443").expect("covered");
    assert_eq!(
        (npm.tls, npm.credentialed, npm.host.to_string().as_str()),
        (Tls::Terminate, true, "*.npm.example.com")
    );
    let pinned = reach("pinned.example.com:443").expect("covered");
    assert_eq!((pinned.tls, pinned.addresses.len()), (Tls::Passthrough, 1));
    assert_eq!(reach("plain.example.com:80").expect("covered").tls, Tls::Plain);
    for text in [
        "plain.example.com:443",
        "api.github.com:22",
        "npm.example.com:443",
        "a.b.npm.example.com:443",
        "10.0.0.1:443",
    ] {
        assert_eq!(reach(text), None, "{text}");
    }
    assert!(ask("GET", "http://plain.example.com/a").decide().is_ok());
}

#[test]
fn the_narrowest_host_says_what_becomes_of_the_connection() {
    let policy = "
routes:
  - {name: all, host: '**.example.com'}
  - {name: pinned, host: pinned.example.com, tls: Passthrough}
  - {name: deep, host: '*.deep.example.com', tls: Passthrough}
  - {name: seen, host: a.deep.example.com}
";
    let rules = Rules::strict(serde_saphyr::from_str(policy).expect("a policy")).expect("no findings");
    let reach = |text: &str| {
        rules
            .connect(&Authority::from_connect(text).expect("an authority"))
            .expect("covered")
    };
    let pinned = reach("pinned.example.com:443");
    assert_eq!(
        (pinned.tls, pinned.routes.as_slice()),
        (Tls::Passthrough, ["pinned".into()].as_slice())
    );
    assert_eq!(reach("b.deep.example.com:443").tls, Tls::Passthrough);
    let seen = reach("a.deep.example.com:443");
    assert_eq!(
        (seen.tls, seen.routes.as_slice()),
        (Tls::Terminate, ["seen".into(), "all".into()].as_slice())
    );
}

#[test]
fn a_client_certificate_and_a_body_are_granted_by_the_route_alone() {
    let policy = "
credentials: [{name: A, stub: stub_fake_aaaaaaaaaaaaaaaaaaa}, {name: B, stub: stub_fake_bbbbbbbbbbbbbbbbbbb}]
routes:
  - {name: tls, host: a.example.com, methods: ['*'], credential: A, inject: {clientCertificate: {}}}
  - {name: body, host: a.example.com, methods: [POST], paths: [/token], credential: B, inject: {body: {name: /key}}}
";
    let rules = Rules::strict(serde_saphyr::from_str(policy).expect("a policy")).expect("no findings");
    let surfaces = |asked: &Asked| {
        let allowed = rules.decide(&asked.request()).expect("allowed");
        let surfaces = allowed
            .grants
            .iter()
            .map(|grant| (grant.credential().to_owned(), grant.surface().clone()));
        surfaces.collect::<Vec<_>>()
    };
    let certificate = ("A".to_owned(), Surface::ClientCertificate);
    let body = ("B".to_owned(), Surface::Body { name: "/key".into() });
    assert_eq!(
        surfaces(&ask("GET", "https://a.example.com/token")),
        std::slice::from_ref(&certificate)
    );
    assert_eq!(
        surfaces(&ask("POST", "https://a.example.com/token")),
        [body, certificate]
    );
    let asked = ask("POST", "https://a.example.com/token").with("x-key", "stub_fake_bbbbbbbbbbbbbbbbbbb");
    let denial = rules.decide(&asked.request()).expect_err("denied");
    assert!(is_misdirected(&denial, "B"));
}

#[test]
fn redaction_covers_what_another_route_of_the_host_may_have_stored() {
    let policy = r"
credentials: [{name: A, stub: stub_fake_aaaaaaaaaaaaaaaaaaa}, {name: B, stub: stub_fake_bbbbbbbbbbbbbbbbbbb, redact: false}]
routes:
  - {name: post, host: a.example.com, methods: [POST], paths: [/a], credential: A, inject: {header: {name: authorization}}}
  - {name: quiet, host: a.example.com, methods: [GET], paths: [/b], credential: A, redact: false, inject: {header: {name: authorization}}}
  - {name: other, host: a.example.com, methods: [GET], paths: [/b], credential: B, inject: {header: {name: x-b}}}
  - {name: open, host: a.example.com, methods: [GET], paths: [/c]}
  - {name: ranges, host: a.example.com, methods: [GET], paths: [/d], range: true}
";
    let rules = Rules::strict(serde_saphyr::from_str(policy).expect("a policy")).expect("no findings");
    let allowed = |method: &str, path: &str| {
        rules
            .decide(&ask(method, &format!("https://a.example.com{path}")).request())
            .expect("allowed")
    };
    assert_eq!(allowed("POST", "/a").redact, ["A".into()]);
    assert!(
        !allowed("GET", "/b").is_redacted(),
        "a matching route's own word counts first"
    );
    assert!(allowed("GET", "/c").is_redacted() && !allowed("GET", "/c").range);
    assert!(allowed("GET", "/d").is_redacted() && allowed("GET", "/d").range);
}

#[test]
fn metadata_names_are_never_reached() {
    let policy = "routes: [{name: all, host: '**.google.internal', ports: [80], tls: Plain}]";
    let policy: Policy = serde_saphyr::from_str(policy).expect("a policy");
    let (rules, _) = Rules::compile(policy);
    assert_eq!(
        rules.connect(&Authority::from_connect("metadata.google.internal:80").expect("an authority")),
        None
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_grant_is_only_ever_for_the_named_host(
        host in "(api\\.|evil-|A\\.|x\\.y\\.)?(github\\.com|npm\\.example\\.com|maps\\.example\\.com|pages\\.example\\.com)(\\.evil\\.com)?\\.?",
        port in prop::sample::select(vec![443_u16, 443, 443, 8443, 22]),
        tls in prop::bool::weighted(0.8),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        path in prop::sample::select(vec!["/user", "/", "/o/r/git-upload-pack", "/o/lib/git-upload-pack", "/repos/o/r/issues/1"]),
        stub in prop::sample::select(vec![GITHUB, NPM, MAPS]),
        place in 0_usize..5,
    ) {
        let authority = Authority::from_host_header(&host, port).expect("an authority");
        let query = if place == 0 { format!("?key={stub}") } else { String::new() };
        let mut asked = Asked {
            authority: Authority { port, ..authority },
            tls,
            ..ask(method, &format!("https://example.com{path}{query}"))
        };
        asked = match place {
            1 => asked.with("authorization", &format!("Bearer {stub}")),
            2 => asked.basic("x-access-token", stub),
            3 => asked.with("x-npm-token", stub),
            4 => asked.with("x-other", stub),
            _ => asked,
        };
        let Ok(allowed) = asked.decide() else { return Ok(()) };
        prop_assert_eq!(allowed.grants.len(), 1, "a request that keeps a stub is refused");
        let grant = &allowed.grants[0];
        let name = asked.authority.to_string();
        prop_assert!(tls);
        let expected = match grant.credential() {
            "GITHUB_TOKEN" if place == 1 => name == "api.github.com:443" && stub == GITHUB,
            "GITHUB_TOKEN" => name == "github.com:443" && stub == GITHUB && path == "/o/r/git-upload-pack",
            "NPM_TOKEN" => {
                let one_label = ["a", "api"].map(|label| format!("{label}.npm.example.com"));
                one_label.contains(&asked.authority.host.to_string()) && [443, 8443].contains(&port) && stub == NPM
            }
            _ => name == "maps.example.com:443" && stub == MAPS,
        };
        prop_assert!(expected, "{} for {}", grant.credential(), name);
    }
}

/// A client's secret, its token endpoint and the API that its tokens are for; and a second client at the same API.
const OAUTH: &str = r#"
credentials:
  - {name: CLIENT, stub: stub_fake_client_1111111111111}
  - {name: OTHER, stub: stub_fake_other_22222222222222}
routes:
  - name: token
    host: login.example.com
    methods: [POST]
    paths: [/token]
    credential: CLIENT
    inject: {basic: {}}
    tokens: Endpoint
  - name: other-token
    host: login.example.com
    methods: [POST]
    paths: [/token]
    credential: OTHER
    inject: {basic: {}}
    tokens: Endpoint
  - name: api
    host: api.example.com
    methods: [GET]
    credential: CLIENT
    inject: {header: {name: authorization, forms: ["Bearer {}"]}}
    tokens: Minted
"#;
const CLIENT: &str = "stub_fake_client_1111111111111";
const OTHER: &str = "stub_fake_other_22222222222222";

fn oauth(asked: &Asked) -> Result<Allowed, Denial> {
    let rules = Rules::strict(serde_saphyr::from_str(OAUTH).expect("a policy")).expect("no findings");
    rules.decide(&asked.request())
}

/// THREAT: rows 1, 2 and 36
#[test]
fn a_minted_token_is_exchanged_where_its_credential_says_and_nowhere_else() {
    let token = tokens::stub(CLIENT, &"a".repeat(tokens::LETTERS));
    let foreign = tokens::stub(OTHER, &"a".repeat(tokens::LETTERS));
    let api = || ask("GET", "https://api.example.com/me");
    let allowed = oauth(&api().with("authorization", &format!("Bearer {token}"))).expect("allowed");
    let [grant] = &allowed.grants[..] else {
        panic!("{:?}", allowed.grants)
    };
    assert_eq!((grant.credential(), grant.route()), ("CLIENT", "api"));
    assert_eq!(*grant.exchanges(), Exchanges::Token(token.as_str().into()));
    assert_eq!(allowed.mints_for, None);
    let login = || ask("POST", "https://login.example.com/token");
    let misdirected = [
        api().with("authorization", &format!("Bearer {CLIENT}")),
        api().with("authorization", &format!("Bearer {foreign}")),
        api().with("authorization", &format!("Bearer {token}x")),
        api().with("x-token", &token),
        login().basic("id", &token),
        login().with("authorization", &format!("Bearer {token}")),
    ];
    for asked in misdirected {
        let decided = oauth(&asked);
        assert!(matches!(decided, Err(Denial::Misdirected { .. })), "{decided:?}");
    }
}

/// THREAT: row 36
#[test]
fn a_token_endpoint_mints_for_the_client_that_asks() {
    for (stub, client) in [(CLIENT, "CLIENT"), (OTHER, "OTHER")] {
        let asked = ask("POST", "https://login.example.com/token").basic("id", stub);
        let allowed = oauth(&asked).expect("allowed");
        assert_eq!(allowed.mints_for.as_deref(), Some(client));
        let exchanged: Vec<_> = (allowed.grants.iter())
            .map(|grant| (grant.credential(), grant.exchanges().clone()))
            .collect();
        assert_eq!(exchanged, [(client, Exchanges::Value), (client, Exchanges::Tokens)]);
    }
}
