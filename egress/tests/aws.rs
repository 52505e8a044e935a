//! AWS signatures: which are held, which are refused, and which routes may ask for them (row 67).
#![cfg(test)]

use std::sync::LazyLock;

use berth_egress::authority::Authority;
use berth_egress::aws::{Form, Problem};
use berth_egress::decide::{Allowed, Denial, Place, Request, Surface};
use berth_egress::lint::{Finding, Rule, lint};
use berth_egress::path::Target;
use berth_egress::policy::Policy;
use berth_egress::rules::Rules;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const KEY: &str = "stub_fake_aws_key_0123456789";
const SECRET: &str = "stub_fake_aws_secret_9876543";
const OTHER: &str = "stub_fake_other_key_55555555";
const SIGNATURE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const POLICY: &str = r"
credentials:
  - {name: AWS, stub: stub_fake_aws_key_0123456789, secretStub: stub_fake_aws_secret_9876543}
  - {name: OTHER, stub: stub_fake_other_key_55555555, secretStub: stub_fake_other_secret_66666}
routes:
  - name: objects
    host: s3.eu-west-1.amazonaws.com
    methods: [GET, PUT]
    paths: [/bucket/**]
    credential: AWS
    inject: {awsSigV4: {services: [s3]}}
  - name: shared
    host: s3.eu-west-1.amazonaws.com
    methods: [GET]
    paths: [/shared/**]
    credential: AWS
    inject: {awsSigV4: {services: [s3], presigned: true}}
  - name: other
    host: other.example.com
    methods: [GET]
    credential: OTHER
    inject: {awsSigV4: {region: eu-west-1, services: [s3]}}
";

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let policy: Policy = serde_saphyr::from_str(POLICY).expect("a policy");
    Rules::strict(policy).expect("no findings")
});

fn authorization(key: &str, region: &str, service: &str) -> String {
    let headers = "SignedHeaders=host;x-amz-date";
    format!(
        "AWS4-HMAC-SHA256 Credential={key}/20260102/{region}/{service}/aws4_request, {headers}, Signature={SIGNATURE}"
    )
}

fn decide(target: &str, headers: &[(&str, &str)]) -> Result<Allowed, Denial> {
    let authority = Authority::from_connect("s3.eu-west-1.amazonaws.com:443").unwrap();
    let target = Target::parse(target).unwrap();
    let headers = headers.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    let headers: HeaderMap = headers.collect();
    RULES.decide(&Request {
        authority: &authority,
        tls: true,
        method: &Method::GET,
        path: &target.path,
        query: target.query.as_ref(),
        headers: &headers,
        upgrade: None,
    })
}

fn presigned(path: &str, key: &str) -> String {
    format!(
        "{path}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={key}%2F20260102%2Feu-west-1%2Fs3%2Faws4_request\
         &X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}"
    )
}

#[test]
fn a_signature_with_the_stub_is_held() {
    let signed = authorization(KEY, "eu-west-1", "s3");
    for headers in [
        &[("authorization", signed.as_str())][..],
        &[("authorization", &signed), ("x-amz-security-token", KEY)],
    ] {
        let allowed = decide("/bucket/key", headers).unwrap();
        let Surface::AwsSigV4(claim) = allowed.grants[0].surface() else {
            panic!("{allowed:?}")
        };
        assert_eq!((claim.form, claim.access_key.as_str()), (Form::Header, KEY));
        assert_eq!(allowed.grants.len(), 1);
    }
    let allowed = decide(&presigned("/shared/key", KEY), &[]).unwrap();
    let Surface::AwsSigV4(claim) = allowed.grants[0].surface() else {
        panic!("{allowed:?}")
    };
    assert_eq!(claim.form, Form::Query);
}

#[test]
fn a_signature_for_anything_else_is_refused() {
    let good = authorization(KEY, "eu-west-1", "s3");
    let sigv4a = good.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256");
    let table = [
        (authorization(KEY, "us-east-1", "s3"), Problem::Region),
        (authorization(KEY, "eu-west-1", "iam"), Problem::Service),
        (sigv4a, Problem::Algorithm),
        (good.replace(", Signature", ", More=1, Signature"), Problem::Malformed),
    ];
    for (value, problem) in table {
        let refused = decide("/bucket/key", &[("authorization", &value)]).unwrap_err();
        assert_eq!(refused, Denial::Signature(problem), "{value}");
    }
    let token = [
        ("authorization", good.as_str()),
        ("x-amz-security-token", "real-looking"),
    ];
    let refused = decide("/bucket/key", &token).unwrap_err();
    assert_eq!(refused, Denial::Signature(Problem::Token));
    let refused = decide(&presigned("/bucket/key", KEY), &[]).unwrap_err();
    assert_eq!(refused, Denial::Signature(Problem::Presigned));
    let twice = decide(&presigned("/shared/key", KEY), &[("authorization", &good)]).unwrap_err();
    assert_eq!(twice, Denial::Signature(Problem::Twice));
    let other = decide("/elsewhere", &[("authorization", &good)]).unwrap_err();
    assert_eq!(other, Denial::Path);
}

#[test]
fn the_stub_of_another_key_and_the_secrets_stub_go_nowhere() {
    let foreign = authorization(OTHER, "eu-west-1", "s3");
    let refused = decide("/bucket/key", &[("authorization", &foreign)]).unwrap_err();
    let expected = Denial::Misdirected {
        credential: "OTHER".into(),
        place: Place::Header(AUTHORIZATION),
    };
    assert_eq!(refused, expected);
    let good = authorization(KEY, "eu-west-1", "s3");
    let refused = decide("/bucket/key", &[("authorization", &good), ("x-note", SECRET)]).unwrap_err();
    assert!(matches!(refused, Denial::Misdirected { .. }), "{refused}");
    let refused = decide("/bucket/key", &[("authorization", &good), ("x-note", KEY)]).unwrap_err();
    assert!(matches!(refused, Denial::Misdirected { .. }), "{refused}");
}

#[test]
fn a_signature_of_the_agents_own_is_its_own() {
    let own = authorization("AKIDEXAMPLE", "us-east-1", "iam");
    let allowed = decide("/bucket/key", &[("authorization", &own)]).unwrap();
    assert!(allowed.grants.is_empty());
}

fn findings(credential: &str, route: &str) -> Vec<Finding> {
    let text = format!(
        "credentials: [{{name: A, {credential}}}]\nroutes: [{{name: r, credential: A, methods: [GET], {route}}}]"
    );
    lint(&serde_saphyr::from_str(&text).expect(&text))
}

#[test]
fn a_route_says_what_is_signed_for() {
    let key = "stub: stub_fake_aws_key_0123456789, secretStub: stub_fake_aws_secret_9876543";
    let bare = "stub: stub_fake_aws_key_0123456789";
    let same = "stub: stub_fake_aws_key_0123456789, secretStub: stub_fake_aws_key_0123456789";
    let good = "host: s3.eu-west-1.amazonaws.com, inject: {awsSigV4: {services: [s3]}}";
    assert_eq!(findings(key, good), []);
    let table = [
        (bare, good, Rule::Signature),
        (same, good, Rule::StubOverlap),
        (
            key,
            "host: a.example.com, inject: {header: {name: authorization}}",
            Rule::Signature,
        ),
        (
            key,
            "host: a.example.com, inject: {awsSigV4: {services: [s3]}}",
            Rule::Signature,
        ),
        (
            key,
            "host: a.example.com, inject: {awsSigV4: {region: R, services: [s3]}}",
            Rule::Signature,
        ),
        (
            key,
            "host: a.example.com, inject: {awsSigV4: {region: r, services: []}}",
            Rule::Signature,
        ),
        (
            key,
            "host: s3.eu-west-1.amazonaws.com, inject: {awsSigV4: {region: us-east-1, services: [s3]}}",
            Rule::Signature,
        ),
        (
            key,
            "host: a.example.com, inject: {awsSigV4: {region: r, services: [s3, sts]}}",
            Rule::Minting,
        ),
    ];
    for (credential, route, rule) in table {
        let found: Vec<Rule> = findings(credential, route).iter().map(|finding| finding.rule).collect();
        assert!(
            !found.is_empty() && found.iter().all(|found| *found == rule),
            "{route}: {found:?}"
        );
    }
    let opted = "host: a.example.com, minting: true, inject: {awsSigV4: {region: r, services: [sts]}}";
    assert_eq!(findings(key, opted), []);
}
