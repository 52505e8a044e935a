//! The linter: each rule refuses its case, drops the offender only, and leaves a good policy alone.

use berth_egress::authority::Authority;
use berth_egress::lint::{Culprit, Finding, Rule, SecretProblem, check_secret, lint};
use berth_egress::policy::{Credential, Policy};
use berth_egress::rules::Rules;

const A: &str = "{name: A, stub: stub_fake_aaaaaaaaaaaaaaaaaaa}";
const B: &str = "{name: B, stub: stub_fake_bbbbbbbbbbbbbbbbbbb}";

fn policy(credentials: &[&str], routes: &[&str]) -> Policy {
    let text = format!(
        "credentials: [{}]\nroutes:\n  - {}\n",
        credentials.join(", "),
        routes.join("\n  - ")
    );
    serde_saphyr::from_str(&text).expect(&text)
}

/// A route with credential A in a header; `rest` adds to it.
fn with_a(name: &str, rest: &str) -> String {
    let host = if rest.contains("host:") {
        ""
    } else {
        "host: a.example.com, "
    };
    let methods = if rest.contains("methods:") || rest.contains("git:") {
        ""
    } else {
        "methods: [GET], "
    };
    let inject = if rest.contains("inject:") {
        ""
    } else {
        "inject: {header: {name: authorization}}, "
    };
    format!("{{name: {name}, credential: A, {host}{methods}{inject}{rest}}}")
}

fn rules_of(findings: &[Finding]) -> Vec<Rule> {
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn one_route_that_is_wrong_is_named_and_dropped_alone() {
    for (rest, rule, field) in ROUTES_REFUSED {
        let host = if rest.contains("host:") {
            ""
        } else {
            "host: b.example.com, "
        };
        let (good, bad) = (with_a("good", ""), with_a("bad", &format!("{host}{rest}")));
        let (rules, findings) = Rules::compile(policy(&[A], &[&good, &bad]));
        let found = findings.iter().find(|finding| finding.rule == *rule);
        let field = format!("routes[1].{field}");
        assert_eq!(
            found.map(|finding| &finding.field),
            Some(&field),
            "{rest}: {findings:?}"
        );
        let only_it = findings.iter().all(|finding| finding.culprit == Culprit::Route(1));
        assert!(only_it, "{rest}: {findings:?}");
        let reach = rules.connect(&Authority::from_connect("a.example.com:443").expect("an authority"));
        assert_eq!(reach.expect("the other route stays").routes, ["good".into()], "{rest}");
    }
}

#[test]
fn headers_that_carry_no_credential_are_refused() {
    for name in [
        "Connection",
        "Host",
        "Content-Length",
        "Content-Type",
        "Cookie",
        "TE",
        "Proxy-Authorization",
        "Transfer-Encoding",
        "X-Forwarded-For",
        "X-HTTP-Method-Override",
        "x-amz-meta-a",
        "Sec-WebSocket-Key",
        "Range",
        "User-Agent",
        "a b",
    ] {
        let route = with_a("r", &format!("inject: {{header: {{name: '{name}'}}}}"));
        assert_eq!(rules_of(&lint(&policy(&[A], &[&route]))), [Rule::Header], "{name}");
    }
    for name in [
        "Authorization",
        "x-api-key",
        "PRIVATE-TOKEN",
        "X-Goog-Api-Key",
        "x-amz-security-token",
    ] {
        let route = with_a("r", &format!("inject: {{header: {{name: '{name}'}}}}"));
        assert_eq!(lint(&policy(&[A], &[&route])), [], "{name}");
    }
}

#[test]
fn credentials_must_be_told_apart_and_used() {
    let route = with_a("r", "");
    let table: &[(&[&str], Rule, &[usize])] = &[
        (&["{name: A, stub: short}"], Rule::Stub, &[0]),
        (&["{name: A, stub: 'stub fake aaaaaaaaaaaaaaaaaaa'}"], Rule::Stub, &[0]),
        (
            &[A, "{name: A, stub: stub_fake_ccccccccccccccccccc}"],
            Rule::DuplicateName,
            &[1],
        ),
        (&[A, B], Rule::Unused, &[1]),
        (
            &[A, "{name: B, stub: stub_fake_aaaaaaaaaaaaaaaaaaa}"],
            Rule::StubOverlap,
            &[0, 1],
        ),
        (
            &[A, "{name: B, stub: x_STUB_fake_aaaaaaaaaaaaaaaaaaa_x}"],
            Rule::StubOverlap,
            &[0, 1],
        ),
    ];
    for (credentials, rule, culprits) in table {
        let findings = lint(&policy(credentials, &[&route]));
        let found = findings
            .iter()
            .filter(|finding| finding.rule == *rule)
            .map(|finding| finding.culprit);
        let expected: Vec<Culprit> = culprits.iter().map(|index| Culprit::Credential(*index)).collect();
        assert_eq!(found.collect::<Vec<_>>(), expected, "{credentials:?}: {findings:?}");
    }
}

#[test]
fn a_credential_and_its_surface_come_together() {
    let unknown = "{name: r, host: a.example.com, methods: [GET], credential: X, inject: {basic: {}}}";
    assert_eq!(rules_of(&lint(&policy(&[], &[unknown]))), [Rule::UnknownCredential]);
    let without_inject = "{name: r, host: a.example.com, methods: [GET], credential: A}";
    assert_eq!(rules_of(&lint(&policy(&[A], &[without_inject]))), [Rule::Inject]);
    let without_credential = "{name: r, host: a.example.com, inject: {basic: {}}}";
    assert_eq!(rules_of(&lint(&policy(&[], &[without_credential]))), [Rule::Inject]);
}

#[test]
fn a_dropped_credential_takes_its_routes_along_and_its_stub_stays_known() {
    let other = "{name: other, host: b.example.com}";
    let same_stub = "{name: B, stub: stub_fake_aaaaaaaaaaaaaaaaaaa}";
    let (rules, findings) = Rules::compile(policy(&[A, same_stub], &[&with_a("r", ""), other]));
    assert!(rules_of(&findings).contains(&Rule::UnknownCredential));
    assert!(rules.credentials().is_empty());
    assert!(Rules::strict(policy(&[A, same_stub], &[other])).is_err());
}

#[test]
fn routes_that_contradict_each_other_are_refused() {
    let table: &[(&str, &str, &[Rule])] = &[
        ("paths: ['/a/*']", "paths: ['/*/b']", &[]),
        ("paths: ['/a/*']", "paths: ['/*/b'], setCookie: true", &[Rule::Overlap]),
        ("paths: ['/a/*']", "paths: ['/a/**'], setCookie: true", &[]),
        (
            "paths: ['/a/*']",
            "paths: ['/*/b'], setCookie: true, methods: [POST]",
            &[],
        ),
        (
            "paths: ['/a/*']",
            "paths: ['/*/b'], setCookie: true, ports: [8443]",
            &[],
        ),
        ("websocket: true", "host: b.example.com", &[]),
        (
            "inject: {header: {name: authorization, forms: ['Bearer {}']}}",
            "inject: {basic: {}}",
            &[],
        ),
        (
            "inject: {header: {name: x-a, forms: ['Bearer {}']}}",
            "inject: {header: {name: X-A}}",
            &[Rule::Overlap],
        ),
    ];
    for (one, two, expected) in table {
        let findings = lint(&policy(&[A], &[&with_a("one", one), &with_a("two", two)]));
        assert_eq!(rules_of(&findings), *expected, "{one} and {two}");
        assert!(findings.iter().all(|finding| finding.culprit == Culprit::Route(1)));
    }
}

#[test]
fn connections_of_one_port_are_of_one_kind() {
    let open = |name: &str, tls: &str| format!("{{name: {name}, host: a.example.com, ports: [443], tls: {tls}}}");
    let findings = lint(&policy(
        &[],
        &[
            &open("one", "Passthrough"),
            &open("two", "Terminate"),
            &open("three", "Plain"),
        ],
    ));
    assert_eq!(rules_of(&findings), [Rule::MixedTls, Rule::MixedTls]);
    assert_eq!(
        findings.iter().map(|finding| finding.culprit).collect::<Vec<_>>(),
        [Culprit::Route(0), Culprit::Route(2)]
    );
    let unseen = "{name: r, host: a.example.com, tls: Passthrough, paths: [/a]}";
    assert_eq!(rules_of(&lint(&policy(&[], &[unseen]))), [Rule::Unseen]);
    let certificate = |name: &str| {
        format!(
            "{{name: r{name}, host: a.example.com, methods: [GET], credential: {name}, inject: {{clientCertificate: {{}}}}}}"
        )
    };
    let findings = lint(&policy(&[A, B], &[&certificate("A"), &certificate("B")]));
    assert_eq!(rules_of(&findings), [Rule::Certificates]);
}

#[test]
fn endpoints_that_mint_or_approve_must_be_meant() {
    let table: &[(&str, &[Rule])] = &[
        ("host: api.github.com, methods: ['*']", &[Rule::Minting]),
        ("host: api.github.com, methods: ['*'], minting: true", &[]),
        ("host: api.github.com, methods: [GET]", &[]),
        (
            "host: api.github.com, methods: [GET, POST], paths: ['/repos/o/r/issues/**', /repos/o/r/pulls]",
            &[],
        ),
        (
            "host: api.github.com, methods: [POST], paths: ['/repos/o/r/pulls/**']",
            &[Rule::Minting],
        ),
        (
            "host: api.github.com, methods: [PUT], paths: [/repos/o/r/pulls/1/merge]",
            &[Rule::Minting],
        ),
        (
            "host: api.github.com, methods: [POST], paths: [/graphql]",
            &[Rule::Minting],
        ),
        ("host: '**.github.com', methods: [POST]", &[Rule::Minting]),
        ("host: sts.eu-west-1.amazonaws.com, methods: [POST]", &[Rule::Minting]),
        (
            "host: oauth2.googleapis.com, methods: [POST], paths: [/token]",
            &[Rule::Minting],
        ),
        (
            "host: gitlab.com, methods: [POST], paths: ['/api/v4/projects/o%2Fr/**']",
            &[Rule::Path],
        ),
        (
            "host: gitlab.com, methods: [POST], paths: ['/api/v4/projects/*/merge_requests/**']",
            &[Rule::Minting],
        ),
        (
            "host: gitlab.com, methods: [POST], paths: [/oauth/token], tokens: Endpoint",
            &[],
        ),
        (
            "host: gitlab.com, methods: [POST], paths: [/oauth/token, /api/graphql], tokens: Endpoint",
            &[Rule::Minting],
        ),
        ("host: api.example.com, methods: ['*']", &[]),
    ];
    for (rest, expected) in table {
        assert_eq!(
            rules_of(&lint(&policy(&[A], &[&with_a("r", rest)]))),
            *expected,
            "{rest}"
        );
    }
}

#[test]
fn limits_on_refs_are_not_evaded_by_other_routes() {
    let git = with_a(
        "git",
        "host: github.com, inject: {basic: {}}, git: {repos: [o/r], access: Write, refPrefixes: [refs/heads/agent/]}",
    );
    let table: &[(&str, &[Rule])] = &[
        ("host: api.github.com, methods: [GET]", &[]),
        ("host: api.github.com, methods: [POST], paths: [/repos/o/r/pulls]", &[]),
        (
            "host: api.github.com, methods: [PATCH], paths: ['/repos/o/r/**']",
            &[Rule::RefBypass],
        ),
        (
            "host: api.github.com, methods: [PUT], paths: ['/repos/o/r/contents/**']",
            &[Rule::RefBypass],
        ),
        (
            "host: api.github.com, methods: [POST], paths: [/graphql], minting: true",
            &[Rule::RefBypass],
        ),
        (
            "host: github.com, methods: [POST], paths: ['/o/r/info/lfs/**']",
            &[Rule::RefBypass],
        ),
        (
            "host: git.example.com, methods: [POST], paths: ['/api/**']",
            &[Rule::RefBypass],
        ),
        ("host: git.example.com, methods: [GET]", &[]),
        (
            "host: git.example.com, methods: [GET, POST], paths: [/api/v1/repos/o/r/pulls]",
            &[],
        ),
        (
            "host: git.example.com, methods: [POST], paths: ['/api/v1/repos/*/*/pulls', /api/v1/repos/o/r/contents/a]",
            &[Rule::RefBypass],
        ),
        (
            "host: git.example.com, methods: [POST], paths: ['/api/v1/repos/o/r/*']",
            &[Rule::RefBypass],
        ),
        (
            "host: git.example.com, methods: [POST, PUT], paths: [/api/v1/repos/o/r/pulls]",
            &[Rule::RefBypass],
        ),
    ];
    for (rest, expected) in table {
        let findings = lint(&policy(&[A], &[&git, &with_a("other", rest)]));
        assert_eq!(rules_of(&findings), *expected, "{rest}: {findings:?}");
        assert!(
            findings.iter().all(|finding| finding.culprit == Culprit::Route(1)),
            "{rest}"
        );
    }
}

#[test]
fn values_must_fit_their_use() {
    let check = |rest: &str, value: &[u8]| {
        let policy = policy(&[A, B], &[&with_a("r", rest)]);
        check_secret(&policy, &policy.credentials[0], value)
    };
    assert_eq!(check("", b"fake-value-0123456789"), Ok(()));
    assert_eq!(check("", b""), Err(SecretProblem::Empty));
    assert_eq!(check("", b"fake-value"), Err(SecretProblem::Short));
    assert_eq!(check("redact: false", b"fake-value"), Ok(()));
    for value in ["fake-value-0123\r\nx: y", "fake-value-0123\n", "fake-value-0123\0"] {
        assert_eq!(check("", value.as_bytes()), Err(SecretProblem::Control), "{value:?}");
    }
    assert_eq!(check("inject: {clientCertificate: {}}", b"fake\nvalue\r\n0123"), Ok(()));
    for stub in [
        "stub_fake_aaaaaaaaaaaaaaaaaaa",
        "x stub_fake_bbbbbbbbbbbbbbbbbbb",
        "STUB_fake_aaaaaaaaaaaaaaaaaaa",
    ] {
        assert_eq!(check("", stub.as_bytes()), Err(SecretProblem::Stub), "{stub}");
    }
}

#[test]
fn the_grammar_is_closed() {
    for text in [
        "credential: []",
        "credentials: [{name: A, stub: s, value: v}]",
        "routes: [{name: r, host: a.example.com, path: [/a]}]",
        "routes: [{name: r, host: a.example.com, inject: {cookie: {}}}]",
        "routes: [{name: r, host: a.example.com, inject: {basic: {}, query: {name: a}}}]",
        "routes: [{name: r, host: a.example.com, inject: {clientCertificate: {a: b}}}]",
        "routes: [{name: r, host: a.example.com, tls: Off}]",
        "routes: [{name: r, host: a.example.com, git: {repos: [], force: true}}]",
        "routes: [{name: r, host: a.example.com, addresses: [10.0.0.0/33]}]",
        "routes: [{name: r, host: a.example.com, ports: [65536]}]",
    ] {
        assert!(serde_saphyr::from_str::<Policy>(text).is_err(), "{text}");
    }
}

#[test]
fn a_policy_reads_as_it_is_written() {
    let credential: &str = "{name: A, stub: stub_fake_aaaaaaaaaaaaaaaaaaa, source: {file: /secrets/a}, redact: false}";
    let route = with_a(
        "r",
        "inject: {clientCertificate: {}}, addresses: [10.0.0.0/8], websocket: true, redact: true",
    );
    let before = policy(&[credential], &[&route]);
    let json = serde_json::to_string(&before).expect("json");
    let after: Policy = serde_json::from_str(&json).expect("a policy");
    assert_eq!(before, after);
    let Credential { redact, .. } = &after.credentials[0];
    assert!(!redact);
}

/// What is added to a route, the rule that it breaks, the field that is named.
const ROUTES_REFUSED: &[(&str, Rule, &str)] = &[
    ("host: '*.github.io'", Rule::Wildcard, "host"),
    ("host: 'a.*.com'", Rule::Wildcard, "host"),
    ("host: 'a_b.example.com'", Rule::Host, "host"),
    ("host: metadata.google.internal", Rule::Host, "host"),
    ("host: 169.254.169.254", Rule::Host, "host"),
    ("host: '[::]'", Rule::Host, "host"),
    ("tls: Passthrough, methods: []", Rule::Methods, "methods"),
    ("tls: Plain", Rule::CredentialTls, "tls"),
    ("methods: []", Rule::Methods, "methods"),
    ("methods: [TRACE]", Rule::Method, "methods"),
    ("methods: [get]", Rule::Method, "methods"),
    ("paths: ['/a**']", Rule::Path, "paths[0]"),
    ("paths: [/b, /a/../b]", Rule::Path, "paths[1]"),
    ("ports: [0]", Rule::Port, "ports"),
    ("addresses: [0.0.0.0/0]", Rule::Addresses, "addresses"),
    ("addresses: [10.0.0.0/8], ports: [10250]", Rule::Addresses, "addresses"),
    ("inject: {query: {name: key}}, redact: false", Rule::Redaction, "redact"),
    ("inject: {body: {name: /key}}, redact: false", Rule::Redaction, "redact"),
    ("range: true", Rule::Range, "range"),
    (
        "inject: {header: {name: authorization, forms: [Bearer]}}",
        Rule::Form,
        "inject.header.forms",
    ),
    (
        "inject: {header: {name: authorization, forms: ['{}{}']}}",
        Rule::Form,
        "inject.header.forms",
    ),
    (
        "inject: {header: {name: authorization, forms: [' {}']}}",
        Rule::Form,
        "inject.header.forms",
    ),
    (
        "inject: {basic: {username: 'a:b'}}",
        Rule::Name,
        "inject.basic.username",
    ),
    ("git: {repos: []}", Rule::Git, "git.repos"),
    ("git: {repos: [o/r.git]}", Rule::Git, "git.repos"),
    ("git: {repos: [o/..]}", Rule::Git, "git.repos"),
    (
        "git: {repos: [o/r], access: Write, refPrefixes: [main]}",
        Rule::Git,
        "git.refPrefixes",
    ),
];

#[test]
fn tokens_are_minted_by_one_route_and_used_on_another() {
    let endpoint = with_a(
        "token",
        "host: login.example.com, inject: {basic: {}}, tokens: Endpoint",
    );
    let table: &[(&str, &[Rule])] = &[
        ("tokens: Minted", &[]),
        ("inject: {basic: {}}, tokens: Minted", &[]),
        ("inject: {query: {name: token}}, tokens: Minted", &[]),
        ("inject: {body: {name: token}}, tokens: Minted", &[Rule::Tokens]),
        ("inject: {clientCertificate: {}}, tokens: Minted", &[Rule::Tokens]),
        ("redact: false, tokens: Minted", &[Rule::Tokens]),
        ("websocket: true, tokens: Minted", &[Rule::Tokens]),
        ("redact: false, tokens: Endpoint", &[Rule::Tokens]),
    ];
    for (rest, expected) in table {
        let findings = lint(&policy(&[A], &[&endpoint, &with_a("r", rest)]));
        assert_eq!(rules_of(&findings), *expected, "{rest}: {findings:?}");
    }
    let alone = lint(&policy(&[A], &[&with_a("r", "tokens: Minted")]));
    assert_eq!(rules_of(&alone), [Rule::Tokens]);
    let open = lint(&policy(&[], &["{name: r, host: a.example.com, tokens: Endpoint}"]));
    assert_eq!(rules_of(&open), [Rule::Tokens]);
}

#[test]
fn headers_are_kept_for_the_sidecar_where_they_are_nobody_elses() {
    let table: &[(&str, &[Rule])] = &[
        (
            "headers: {dropPrefixes: [x-litellm-], set: {x-litellm-session-id: uid}}",
            &[],
        ),
        ("headers: {dropPrefixes: [x-]}", &[Rule::Headers]),
        ("headers: {dropPrefixes: [X-Litellm-]}", &[Rule::Headers]),
        ("headers: {dropPrefixes: [x-litellm]}", &[Rule::Headers]),
        ("headers: {dropPrefixes: [content-type-]}", &[Rule::Headers]),
        ("headers: {set: {Host: other.example.com}}", &[Rule::Headers]),
        ("headers: {set: {'a b': c}}", &[Rule::Headers]),
        ("headers: {set: {Authorization: mine}}", &[Rule::Headers]),
        ("headers: {set: {x-a: 'b c'}}", &[Rule::Headers]),
        ("headers: {set: {x-a: ''}}", &[Rule::Headers]),
    ];
    for (rest, expected) in table {
        let findings = lint(&policy(&[A], &[&with_a("r", rest)]));
        assert_eq!(rules_of(&findings), *expected, "{rest}: {findings:?}");
    }
    let unseen = "{name: r, host: a.example.com, tls: Passthrough, headers: {set: {x-a: b}}}";
    assert_eq!(rules_of(&lint(&policy(&[], &[unseen]))), [Rule::Headers]);
    let differ = ["headers: {set: {x-a: b}}", "headers: {set: {x-a: c}}"];
    let [one, two] = [with_a("one", differ[0]), with_a("two", differ[1])];
    assert_eq!(rules_of(&lint(&policy(&[A], &[&one, &two]))), [Rule::Overlap]);
}

#[test]
fn a_routes_own_certificates_are_certificates() {
    let pem = "-----BEGIN CERTIFICATE-----";
    let table: &[(String, &[Rule])] = &[
        (format!("ca: {pem}"), &[]),
        ("ca: MIIB".to_owned(), &[Rule::Ca]),
        (format!("ca: '{pem}{}'", "A".repeat(64 << 10)), &[Rule::Ca]),
    ];
    for (rest, expected) in table {
        assert_eq!(rules_of(&lint(&policy(&[A], &[&with_a("r", rest)]))), *expected);
    }
    let unseen = format!("{{name: r, host: a.example.com, tls: Passthrough, ca: {pem}}}");
    assert_eq!(rules_of(&lint(&policy(&[], &[&unseen]))), [Rule::Ca]);
}
