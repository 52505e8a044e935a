//! Pure: AWS Signature Version 4. The agent's signature is verified with the stub that it signs with; the request is
//! then signed anew with the real key. Nothing of the agent's signature is sent.
//!
//! Written by AWS's public description ("AWS Signature Version 4 for API requests", IAM User Guide; "Authenticating
//! Requests", Amazon S3 API Reference), and not the `aws-sigv4` crate: that signs only, and brings eleven crates of
//! AWS's runtime. The tests hold it to AWS's own test suite, and the gallery to that crate and to botocore.

use berth_egress::aws::{self, Claim, Form};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use percent_encoding::percent_encode;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use self::canonical::{
    UNRESERVED, canonical, canonical_headers, decoded, encoded_path, encoded_query, is_s3, parameter, paths, queries,
};
use self::time::Stamp;

mod canonical;

mod time;

/// A key to sign with.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    /// Its id.
    pub id: &'a str,
    /// The secret access key.
    pub secret: &'a SecretString,
    /// The session token that goes with a temporary key.
    pub token: Option<&'a SecretString>,
}

/// What is signed of a request, but for its body.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, as it is on the wire.
    pub path: &'a str,
    /// Its query, as it is on the wire.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What `Host` says, or `:authority`.
    pub host: &'a str,
}

/// What a signature says of the body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Payload {
    /// This, instead of a hash that would have to be computed: the upstream holds it against the body.
    Stated(String),
    /// The hash of the body, which isn't said anywhere.
    Hashed,
}

/// A signature that isn't exchanged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SigV4Error {
    /// Chunk signatures would have to be made anew, one by one.
    #[error(
        "a body with signed chunks (x-amz-content-sha256: STREAMING-AWS4-…) can't be signed anew: let the client sign \
         the whole payload, or send it unsigned with a trailer"
    )]
    Chunked,
    /// Neither a hash nor a known word.
    #[error("x-amz-content-sha256 is neither a SHA-256 in hexadecimal, UNSIGNED-PAYLOAD nor a known form of streaming")]
    Payload,
    /// The time isn't there, or not as it is written.
    #[error(
        "the AWS signature has no time: x-amz-date or X-Amz-Date, as YYYYMMDDTHHMMSSZ, of the same day as its scope"
    )]
    NoTime,
    /// Too far from this machine's time.
    #[error("the AWS signature is of a time that is more than 15 minutes from now, or has expired")]
    Time,
    /// A header that AWS wants signed isn't.
    #[error("host and all x-amz- headers have to be signed, and one isn't")]
    Unsigned,
    /// A header of AWS that only Signature Version 4A knows.
    #[error("x-amz-region-set belongs to Signature Version 4A, which can't be exchanged")]
    RegionSet,
    /// A `+` in the query: AWS reads it in two ways.
    #[error("a '+' in the query of a signed request: write %20 or %2B")]
    Plus,
    /// The path that is sent names another object than the one that was signed.
    #[error("the path has dot segments, which S3 takes for a part of the key: they can't be sent")]
    Dots,
    /// A signed header isn't text.
    #[error("a signed header isn't visible ASCII")]
    Header,
    /// It isn't by the stub's key over this request.
    #[error(
        "the AWS signature doesn't fit the request: it was changed after it was signed, or signed with another key"
    )]
    Mismatch,
}

/// What the claim says of the body (S3's reference: "x-amz-content-sha256").
pub fn payload(claim: &Claim, message: &Message<'_>) -> Result<Payload, SigV4Error> {
    let header = message.headers.get(CONTENT_SHA256);
    let said = match (header, claim.form) {
        (Some(value), _) => Some(value.to_str().map_err(|_not_text| SigV4Error::Payload)?.to_owned()),
        (None, Form::Query) => {
            let parameter = message
                .query
                .and_then(|query| parameter(query, CONTENT_SHA256_PARAMETER));
            parameter.or_else(|| is_s3(&claim.service).then(|| UNSIGNED.to_owned()))
        }
        (None, Form::Header) => None,
    };
    let Some(said) = said else { return Ok(Payload::Hashed) };
    let is_hash = said.len() == 64 && said.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash || said == UNSIGNED || said == STREAMING_UNSIGNED {
        Ok(Payload::Stated(said))
    } else if said.starts_with("STREAMING-") {
        Err(SigV4Error::Chunked)
    } else {
        Err(SigV4Error::Payload)
    }
}

/// SHA-256 of a body, in hexadecimal.
pub fn hash(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// Whether a claim can be exchanged at all at this time; cheap, and before the body is read.
pub fn check(claim: &Claim, message: &Message<'_>, now: i64) -> Result<(), SigV4Error> {
    if message.headers.contains_key(REGION_SET) {
        return Err(SigV4Error::RegionSet);
    }
    if message.query.is_some_and(|query| query.contains('+')) {
        return Err(SigV4Error::Plus);
    }
    let signs = |name: &str| claim.signed_headers.iter().any(|signed| signed == name);
    let mut amazons = message.headers.keys().filter(|name| name.as_str().starts_with(AMAZON));
    if !signs(HOST.as_str()) || !amazons.all(|name| signs(name.as_str())) {
        return Err(SigV4Error::Unsigned);
    }
    let stamp = stamp(claim, message)?;
    let age = now - stamp.seconds;
    let lasts = match claim.form {
        Form::Header => SKEW_MAX,
        Form::Query => time::expires(message.query).ok_or(SigV4Error::NoTime)?,
    };
    if age < -SKEW_MAX || age > lasts {
        return Err(SigV4Error::Time);
    }
    Ok(())
}

/// Whether the path that is sent is the one that was signed, as its service reads paths.
pub fn check_path(claim: &Claim, signed: &str, sent: &str) -> Result<(), SigV4Error> {
    // What is encoded needlessly is sent plain, and names the same.
    let read = |path: &str| paths(&claim.service, &encoded_path(path)).pop();
    if read(signed) == read(sent) {
        Ok(())
    } else {
        Err(SigV4Error::Dots)
    }
}

/// Whether the claim's signature is by this secret over this request. `payload` is what stands for the body.
pub fn verify(claim: &Claim, message: &Message<'_>, payload: &str, secret: &SecretString) -> Result<(), SigV4Error> {
    let stamp = stamp(claim, message)?;
    let headers = canonical_headers(&claim.signed_headers, message)?;
    let scope = Scope {
        day: &claim.day,
        region: &claim.region,
        service: &claim.service,
    };
    // A client may have signed what it sends, or what AWS makes of it; both are this request.
    for path in paths(&claim.service, message.path) {
        for query in queries(message.query) {
            let canonical = canonical(message.method, (&path, &query), &headers, payload);
            if is_equal(&signature(secret, &stamp.text, scope, &canonical), &claim.signature) {
                return Ok(());
            }
        }
    }
    Err(SigV4Error::Mismatch)
}

/// A signature by the real key.
pub struct Signed {
    headers: Vec<(HeaderName, HeaderValue)>,
    query: Option<String>,
}

impl Signed {
    /// Takes the agent's signature off and puts this one on; gives the query to be sent.
    pub fn write(self, headers: &mut HeaderMap) -> Option<String> {
        for name in [AUTHORIZATION, aws::TOKEN_HEADER, DATE] {
            headers.remove(name);
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        self.query
    }
}

/// Signs a request as it is to be sent, in the form and for the scope of the claim. Headers of the claim that were taken
/// off on the way aren't covered; those that AWS wants covered are.
pub fn sign(claim: &Claim, message: &Message<'_>, payload: &str, key: Key<'_>, now: i64) -> Result<Signed, SigV4Error> {
    let stamp = Stamp::of(now);
    let mut headers = message.headers.clone();
    headers.remove(AUTHORIZATION);
    headers.remove(aws::TOKEN_HEADER);
    headers.remove(DATE);
    let mut set = Vec::new();
    if claim.form == Form::Header {
        set.push((DATE, sensitive(&stamp.text)?));
        if let Some(token) = key.token {
            set.push((aws::TOKEN_HEADER, sensitive(token.expose_secret())?));
        }
        if is_s3(&claim.service) && !headers.contains_key(CONTENT_SHA256) {
            set.push((CONTENT_SHA256, sensitive(payload)?));
        }
    }
    headers.extend(set.iter().cloned());
    let names = signed_names(claim, &headers);
    let scope = Scope {
        day: stamp.day(),
        region: &claim.region,
        service: &claim.service,
    };
    let credential = format!("{}/{}", key.id, scope.text());
    let query = match claim.form {
        Form::Header => message.query.map(str::to_owned),
        Form::Query => Some(presigned(
            message.query,
            &[
                (aws::CREDENTIAL, Some(credential.as_str())),
                (time::DATE, Some(&stamp.text)),
                (
                    time::EXPIRES,
                    Some(&time::expires(message.query).unwrap_or(EXPIRES).min(EXPIRES).to_string()),
                ),
                (aws::SIGNED_HEADERS, Some(&names.join(";"))),
                (aws::TOKEN, key.token.map(ExposeSecret::expose_secret)),
            ],
        )),
    };
    let message = Message {
        headers: &headers,
        query: query.as_deref(),
        ..*message
    };
    let path = paths(&claim.service, message.path).pop().unwrap_or_default();
    let canonical_query = encoded_query(message.query.unwrap_or_default());
    let canonical = canonical(
        message.method,
        (&path, &canonical_query),
        &canonical_headers(&names, &message)?,
        payload,
    );
    let signature = signature(key.secret, &stamp.text, scope, &canonical);
    Ok(match claim.form {
        Form::Header => {
            let value = format!(
                "{} Credential={credential}, SignedHeaders={}, Signature={signature}",
                aws::HMAC,
                names.join(";")
            );
            set.push((AUTHORIZATION, sensitive(&value)?));
            Signed { headers: set, query }
        }
        Form::Query => Signed {
            headers: set,
            query: query.map(|query| format!("{query}&{}={signature}", aws::SIGNATURE)),
        },
    })
}

/// Headers that the agent signed and that are still there, and those that AWS wants signed.
fn signed_names(claim: &Claim, headers: &HeaderMap) -> Vec<String> {
    let wanted = |name: &str| {
        let asked = claim.signed_headers.iter().any(|signed| signed == name) && !OF_ONE_LEG.contains(&name);
        asked || name.starts_with(AMAZON) || name == "content-type" || name == "content-md5"
    };
    let names = headers.keys().map(HeaderName::as_str).filter(|name| wanted(name));
    let mut names: Vec<String> = names.chain([HOST.as_str()]).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The query with these parameters set or taken out, and without the agent's signature. Whatever else it says stays.
fn presigned(query: Option<&str>, parameters: &[(&str, Option<&str>)]) -> String {
    let own = |pair: &&str| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        let name = decoded(name);
        name == aws::SIGNATURE || parameters.iter().any(|(known, _)| *known == name)
    };
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let kept = pairs.filter(|pair| !own(pair)).map(str::to_owned);
    let set = parameters.iter().filter_map(|(name, value)| {
        let value = percent_encode(value.as_ref()?.as_bytes(), UNRESERVED);
        Some(format!("{name}={value}"))
    });
    kept.chain(set).collect::<Vec<_>>().join("&")
}

fn stamp(claim: &Claim, message: &Message<'_>) -> Result<Stamp, SigV4Error> {
    let text = match claim.form {
        Form::Header => {
            let mut values = message.headers.get_all(DATE).iter();
            let value = values.next().filter(|_| values.next().is_none());
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        }
        Form::Query => message.query.and_then(|query| parameter(query, time::DATE)),
    };
    let stamp = text.and_then(|text| Stamp::parse(&text)).ok_or(SigV4Error::NoTime)?;
    if stamp.day() == claim.day {
        Ok(stamp)
    } else {
        Err(SigV4Error::NoTime)
    }
}

#[derive(Clone, Copy)]
struct Scope<'a> {
    day: &'a str,
    region: &'a str,
    service: &'a str,
}

impl Scope<'_> {
    fn text(self) -> String {
        [self.day, self.region, self.service, aws::END].join("/")
    }
}

fn signature(secret: &SecretString, stamp: &str, scope: Scope<'_>, canonical: &str) -> String {
    let text = [aws::HMAC, stamp, &scope.text(), &hash(canonical.as_bytes())].join("\n");
    let first = SecretString::from(format!("AWS4{}", secret.expose_secret()));
    let parts = [scope.day, scope.region, scope.service, aws::END];
    let key = parts
        .iter()
        .fold(first.expose_secret().as_bytes().to_vec(), |key, part| hmac(&key, part));
    hex::encode(hmac(&key, &text))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new(); // HMAC takes keys of any length
    };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn is_equal(one: &str, two: &str) -> bool {
    let differ = one
        .bytes()
        .zip(two.bytes())
        .fold(0, |differ, (one, two)| differ | (one ^ two));
    one.len() == two.len() && differ == 0
}

fn sensitive(text: &str) -> Result<HeaderValue, SigV4Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_unsendable| SigV4Error::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

const AMAZON: &str = "x-amz-";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const REGION_SET: HeaderName = HeaderName::from_static("x-amz-region-set");
const CONTENT_SHA256_PARAMETER: &str = "X-Amz-Content-Sha256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Chunks without signatures and a checksum behind them: what SDKs send to S3 over TLS since 2025.
const STREAMING_UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
/// Never signed: they are another hop's.
const OF_ONE_LEG: [&str; 9] = [
    "authorization",
    "connection",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
/// What AWS allows clocks to differ (S3: RequestTimeTooSkewed).
const SKEW_MAX: i64 = 15 * 60;
/// Of a presigned request that is on its way: it is used at once, and no longer than a lease.
const EXPIRES: i64 = 60;

#[cfg(test)]
mod tests;
