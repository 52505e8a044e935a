//! Whatever headers an agent sends, a request that is allowed leaves without its stub: exchanged, or not there.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_egress::authority::Authority;
use berth_egress::decide::Request;
use berth_egress::path::Target;
use berth_egress::rules::Rules;
use berth_sidecar::{standalone, substitute};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const STUB: &str = "stub_forge_0123456789abcdef0123";

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let policy = format!(
        "credentials: [{{name: FORGE, stub: {STUB}}}]
routes:
  - {{name: header, host: api.example.com, methods: [GET], paths: [/header/**], credential: FORGE,
      inject: {{header: {{name: authorization, forms: [\"Bearer {{}}\", \"token {{}}\", \"{{}}\"]}}}}}}
  - {{name: basic, host: api.example.com, methods: [GET], paths: [/basic/**], credential: FORGE, inject: {{basic: {{}}}}}}
"
    );
    let policy = standalone::parse(Path::new("policy.yaml"), &policy).expect("the policy parses");
    Rules::strict(policy).unwrap_or_else(|findings| panic!("{findings:?}"))
});

/// A piece of a header's value: bytes, or the stub in some form.
#[derive(Arbitrary, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Stub,
    Pair(String),
}

#[derive(Arbitrary, Debug)]
struct Input {
    basic: bool,
    path: String,
    headers: Vec<(Option<String>, Vec<Piece>)>,
}

fn value(pieces: &[Piece]) -> Vec<u8> {
    let mut value = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => value.extend_from_slice(bytes),
            Piece::Stub => value.extend_from_slice(STUB.as_bytes()),
            Piece::Pair(user) => value.extend_from_slice(BASE64_STANDARD.encode(format!("{user}:{STUB}")).as_bytes()),
        }
    }
    value
}

fuzz_target!(|input: Input| {
    let raw = format!("/{}/{}", if input.basic { "basic" } else { "header" }, input.path);
    let Ok(target) = Target::parse(&raw) else { return };
    let mut headers = HeaderMap::new();
    for (name, pieces) in &input.headers {
        let name = HeaderName::try_from(name.as_deref().unwrap_or("authorization"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value(pieces))) {
            headers.append(name, value);
        }
    }
    let authority = Authority::from_connect("api.example.com:443").expect("an authority");
    let request = Request {
        authority: &authority,
        tls: true,
        method: &Method::GET,
        path: &target.path,
        query: target.query.as_ref(),
        headers: &headers,
        upgrade: None,
    };
    let Ok(allowed) = RULES.decide(&request) else { return };
    let secret = SecretString::from("fake-value-of-the-credential");
    for grant in &allowed.grants {
        let query = substitute::into_head(grant, (None, &secret), &mut headers, target.query.as_ref());
        assert_eq!(query, Ok(None), "no route puts it in the query");
    }
    let holds = |text: &[u8]| text.windows(STUB.len()).any(|window| window == STUB.as_bytes());
    for (name, value) in &headers {
        assert!(
            !holds(name.as_str().as_bytes()) && !holds(value.as_bytes()),
            "{name} leaves with the stub"
        );
        let pair = value
            .as_bytes()
            .strip_prefix(b"Basic ")
            .and_then(|pair| BASE64_STANDARD.decode(pair).ok());
        assert!(
            !pair.is_some_and(|pair| holds(&pair)),
            "{name} leaves with the stub encoded"
        );
    }
    assert!(!holds(target.path.as_str().as_bytes()), "the path leaves with the stub");
});
