//! Signatures against AWS's test suite, and what isn't exchanged.

use berth_egress::aws::Problem;
use berth_egress::path::Target;
use http::HeaderMap;
use secrecy::SecretString;

use self::suite::{HOST, ID, SECRET, SUITE, TIME, Vector};
use super::*;

mod suite;

/// A request of the suite, with the headers that its signature covers.
fn headers(vector: &Vector, form: Form) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in vector.headers {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    if form == Form::Header {
        headers.insert(DATE, HeaderValue::from_static(TIME));
        if !vector.body.is_empty() {
            headers.insert(CONTENT_SHA256, hash(vector.body.as_bytes()).parse().unwrap());
        }
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<String> {
    let mut names: Vec<String> = headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.push("host".to_owned());
    names.sort_unstable();
    names
}

fn claim(form: Form, signed_headers: Vec<String>, signature: &str) -> Claim {
    Claim {
        form,
        access_key: ID.to_owned(),
        day: TIME[..8].to_owned(),
        region: "us-east-1".to_owned(),
        service: "service".to_owned(),
        signed_headers,
        signature: signature.to_owned(),
        token: None,
    }
}

fn split(target: &str) -> (&str, Option<&str>) {
    target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)))
}

#[test]
fn signatures_of_the_suite_are_verified_in_both_forms() {
    let secret = SecretString::from(SECRET);
    for vector in SUITE {
        let (path, query) = split(vector.target);
        for (form, signature) in [(Form::Header, vector.header), (Form::Query, vector.query)] {
            let headers = headers(vector, form);
            let claim = claim(form, names(&headers), signature);
            let presigned = format!(
                "{}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ID}%2F20150830%2Fus-east-1%2Fservice%2F\
                 aws4_request&X-Amz-Date={TIME}&X-Amz-SignedHeaders={}&X-Amz-Expires=3600&X-Amz-Signature={signature}",
                query.unwrap_or_default(),
                claim.signed_headers.join("%3B"),
            );
            let message = Message {
                method: vector.method,
                path,
                query: if form == Form::Query { Some(&presigned) } else { query },
                headers: &headers,
                host: HOST,
            };
            let payload = hash(vector.body.as_bytes());
            assert_eq!(
                verify(&claim, &message, &payload, &secret),
                Ok(()),
                "{} {form:?}",
                vector.name
            );
            let wrong = SecretString::from("another-secret");
            assert_eq!(verify(&claim, &message, &payload, &wrong), Err(SigV4Error::Mismatch));
            let changed = Message {
                method: "PUT",
                ..message
            };
            assert_eq!(verify(&claim, &changed, &payload, &secret), Err(SigV4Error::Mismatch));
        }
    }
}

#[test]
fn signatures_of_the_suite_are_made() {
    let secret = SecretString::from(SECRET);
    let now = Stamp::parse(TIME).unwrap().seconds;
    for vector in SUITE.iter().filter(|vector| !vector.name.ends_with("unnormalized")) {
        let headers = headers(vector, Form::Header);
        let (path, query) = split(vector.target);
        let message = Message {
            method: vector.method,
            path,
            query,
            headers: &headers,
            host: HOST,
        };
        let key = Key {
            id: ID,
            secret: &secret,
            token: None,
        };
        let claim = claim(Form::Header, names(&headers), "");
        let signed = sign(&claim, &message, &hash(vector.body.as_bytes()), key, now).unwrap();
        let mut sent = headers.clone();
        assert_eq!(signed.write(&mut sent).as_deref(), query);
        let expected = format!("Signature={}", vector.header);
        let value = sent[AUTHORIZATION].to_str().unwrap();
        assert!(value.ends_with(&expected), "{}: {value}", vector.name);
        assert!(sent[AUTHORIZATION].is_sensitive());
    }
}

/// "Examples: Signature Calculations in AWS Signature Version 4" of the Amazon S3 API Reference: PUT Object.
#[test]
fn the_path_is_encoded_once_for_s3_and_twice_for_others() {
    assert_eq!(paths("s3", "/test%24file.text").pop().unwrap(), "/test%24file.text");
    assert_eq!(paths("s3", "/a//b/../(c)").pop().unwrap(), "/a//b/../%28c%29");
    let lambda = "/2015-03-31/functions/arn%3Aaws/invocations";
    assert_eq!(
        paths("lambda", lambda).pop().unwrap(),
        "/2015-03-31/functions/arn%253Aaws/invocations"
    );
    assert_eq!(paths("lambda", "//a/./b/../c//").pop().unwrap(), "/a/c/");
    let mut claim = claim(Form::Header, Vec::new(), "");
    assert_eq!(check_path(&claim, "/a/../b%2D", "/b-"), Ok(()));
    claim.service = "s3".to_owned();
    assert_eq!(check_path(&claim, "/a/b%2D", "/a/b-"), Ok(()));
    assert_eq!(check_path(&claim, "/a/../b", "/b"), Err(SigV4Error::Dots));
}

/// What an agent may send: signed by its stub at this time.
struct Sent {
    headers: HeaderMap,
    query: Option<String>,
    claim: Claim,
}

const NOW: i64 = 1_767_323_045; // 2026-01-02T03:04:05Z
const STUB: &str = "stub_fake_secret_access_key_1";

fn sent(more: &[(&'static str, &str)]) -> Sent {
    let mut headers = HeaderMap::from_iter([(DATE, HeaderValue::from_static("20260102T030405Z"))]);
    headers.insert(CONTENT_SHA256, HeaderValue::from_static(UNSIGNED));
    for (name, value) in more {
        headers.insert(*name, value.parse().unwrap());
    }
    let mut claim = claim(Form::Header, names(&headers), "");
    claim.day = "20260102".to_owned();
    claim.service = "s3".to_owned();
    Sent {
        headers,
        query: None,
        claim,
    }
}

impl Sent {
    fn message(&self) -> Message<'_> {
        Message {
            method: "PUT",
            path: "/bucket/key",
            query: self.query.as_deref(),
            headers: &self.headers,
            host: "s3.example.com",
        }
    }

    fn checked(&self, now: i64) -> Result<(), SigV4Error> {
        check(&self.claim, &self.message(), now)
    }
}

#[test]
fn a_signature_is_good_for_a_quarter_of_an_hour() {
    let sent = sent(&[]);
    for (now, expected) in [
        (NOW, Ok(())),
        (NOW + SKEW_MAX, Ok(())),
        (NOW - SKEW_MAX, Ok(())),
        (NOW + SKEW_MAX + 1, Err(SigV4Error::Time)),
        (NOW - SKEW_MAX - 1, Err(SigV4Error::Time)),
    ] {
        assert_eq!(sent.checked(now), expected, "{now}");
    }
    let mut other = self::sent(&[]);
    other.claim.day = "20260101".to_owned();
    assert_eq!(other.checked(NOW), Err(SigV4Error::NoTime));
    other.headers.remove(DATE);
    assert_eq!(other.checked(NOW), Err(SigV4Error::NoTime));
}

#[test]
fn a_presigned_url_is_good_as_long_as_it_says() {
    let mut sent = sent(&[]);
    sent.headers.clear();
    sent.claim.form = Form::Query;
    for (expires, now, expected) in [
        ("60", NOW + 60, Ok(())),
        ("60", NOW + 61, Err(SigV4Error::Time)),
        ("604800", NOW + 604_800, Ok(())),
        ("604801", NOW, Err(SigV4Error::NoTime)),
        ("0", NOW, Err(SigV4Error::NoTime)),
    ] {
        sent.query = Some(format!("X-Amz-Date=20260102T030405Z&X-Amz-Expires={expires}"));
        assert_eq!(sent.checked(now), expected, "{expires}");
    }
}

#[test]
fn what_aws_wants_signed_has_to_be() {
    let mut sent = sent(&[("x-amz-acl", "public-read")]);
    assert_eq!(sent.checked(NOW), Ok(()));
    sent.claim.signed_headers.retain(|name| name != "x-amz-acl");
    assert_eq!(sent.checked(NOW), Err(SigV4Error::Unsigned));
    let mut sent = self::sent(&[]);
    sent.claim.signed_headers.retain(|name| name != "host");
    assert_eq!(sent.checked(NOW), Err(SigV4Error::Unsigned));
    let sent = self::sent(&[("x-amz-region-set", "*")]);
    assert_eq!(sent.checked(NOW), Err(SigV4Error::RegionSet));
    let mut sent = self::sent(&[]);
    sent.query = Some("prefix=a+b".to_owned());
    assert_eq!(sent.checked(NOW), Err(SigV4Error::Plus));
}

#[test]
fn the_body_is_stated_hashed_or_refused() {
    let stated = |value: &str| {
        let sent = sent(&[("x-amz-content-sha256", value)]);
        payload(&sent.claim, &sent.message())
    };
    let known = hash(b"body");
    for value in [known.as_str(), UNSIGNED, STREAMING_UNSIGNED] {
        assert_eq!(stated(value), Ok(Payload::Stated(value.to_owned())));
    }
    for value in [
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
    ] {
        assert_eq!(stated(value), Err(SigV4Error::Chunked), "{value}");
    }
    for value in ["", "unsigned", &known.to_uppercase()] {
        assert_eq!(stated(value), Err(SigV4Error::Payload), "{value}");
    }
    let mut none = sent(&[]);
    none.headers.remove(CONTENT_SHA256);
    assert_eq!(payload(&none.claim, &none.message()), Ok(Payload::Hashed));
}

#[test]
fn the_agents_signature_token_and_time_are_replaced() {
    let (stub, real) = (SecretString::from(STUB), SecretString::from("fake-real-secret-key"));
    let token = SecretString::from("fake-real-token");
    for token in [None, Some(&token)] {
        let sent = sent(&[
            ("x-amz-security-token", "stub_fake_key"),
            ("range", "bytes=0-1"),
            ("accept", "*/*"),
        ]);
        let key = Key {
            id: "stub_fake_key",
            secret: &stub,
            token: None,
        };
        let signed = sign(&sent.claim, &sent.message(), UNSIGNED, key, NOW).unwrap();
        let mut headers = sent.headers.clone();
        signed.write(&mut headers);
        let key = Key {
            id: "FAKEREALKEYID0000000",
            secret: &real,
            token,
        };
        headers.remove("range"); // as if it had been taken off
        let message = Message {
            headers: &headers,
            ..sent.message()
        };
        let signed = sign(&sent.claim, &message, UNSIGNED, key, NOW + 100).unwrap();
        let mut out = headers.clone();
        signed.write(&mut out);
        let claim = Claim::of(&out, None).unwrap().unwrap();
        assert_eq!(claim.access_key, "FAKEREALKEYID0000000");
        assert_eq!(claim.token.as_deref(), token.map(ExposeSecret::expose_secret));
        assert_eq!(out[DATE], "20260102T030545Z");
        assert!(!claim.signed_headers.contains(&"range".to_owned()));
        let message = Message {
            headers: &out,
            ..sent.message()
        };
        assert_eq!(check(&claim, &message, NOW + 100), Ok(()));
        assert_eq!(verify(&claim, &message, UNSIGNED, &real), Ok(()));
        assert_eq!(verify(&claim, &message, UNSIGNED, &stub), Err(SigV4Error::Mismatch));
    }
}

#[test]
fn a_presigned_url_is_signed_anew_for_a_minute() {
    let real = SecretString::from("fake-real-secret-key");
    let mut sent = sent(&[]);
    sent.headers.clear();
    sent.claim.form = Form::Query;
    sent.claim.signed_headers = vec!["host".to_owned()];
    sent.query = Some(
        "x-id=GetObject&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=stub_fake_key%2F20260102%2Fus-east-1%2Fs3%2F\
         aws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=00\
         &X-Amz-Security-Token=stub_fake_key"
            .to_owned(),
    );
    let key = Key {
        id: "FAKEREALKEYID0000000",
        secret: &real,
        token: None,
    };
    let signed = sign(&sent.claim, &sent.message(), UNSIGNED, key, NOW + 30).unwrap();
    let query = signed.write(&mut sent.headers).unwrap();
    assert!(
        !query.contains("stub_fake_key") && query.starts_with("x-id=GetObject&"),
        "{query}"
    );
    assert!(
        query.contains("X-Amz-Expires=60&") && query.contains("X-Amz-Date=20260102T030435Z"),
        "{query}"
    );
    let parsed = Target::parse(&format!("/bucket/key?{query}")).unwrap().query;
    let claim = Claim::of(&HeaderMap::new(), parsed.as_ref()).unwrap();
    assert_ne!(claim, Err(Problem::Malformed));
    let claim = claim.unwrap();
    let message = Message {
        query: Some(&query),
        ..sent.message()
    };
    assert_eq!(check(&claim, &message, NOW + 30), Ok(()));
    assert_eq!(verify(&claim, &message, UNSIGNED, &real), Ok(()));
}
