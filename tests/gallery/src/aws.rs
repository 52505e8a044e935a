//! Both ends of an AWS signature, by AWS's own crate: the client that signs with what the agent has, and the service that
//! computes what the signature must be. It shares no code with the sidecar.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    self, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningInstructions, SigningSettings,
    UriPathNormalizationMode,
};
use aws_sigv4::sign::v4;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::origin::Seen;

/// A key.
#[derive(Clone, Debug)]
pub struct Key<'a> {
    /// Its id.
    pub id: &'a str,
    /// The secret access key.
    pub secret: &'a str,
    /// The session token.
    pub token: Option<&'a str>,
}

/// What is signed for, and how.
#[derive(Clone, Debug)]
pub struct Signing<'a> {
    /// Region of the scope.
    pub region: &'a str,
    /// Service of the scope.
    pub service: &'a str,
    /// When.
    pub at: SystemTime,
    /// For how long, for a presigned URL.
    pub presigned: Option<Duration>,
}

/// A request before it is signed.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Host and port.
    pub place: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Headers that are signed, but for `Host` and those of the signature.
    pub headers: Vec<(&'a str, &'a str)>,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Signing<'a> {
    /// Of this moment, in a header.
    pub fn now(region: &'a str, service: &'a str) -> Self {
        Self {
            region,
            service,
            at: Timestamp::now().into(),
            presigned: None,
        }
    }
}

impl Request<'_> {
    /// The whole request as HTTP/1.1, signed.
    pub fn signed(&self, key: &Key<'_>, signing: &Signing<'_>) -> Result<String> {
        let stated = self.headers.iter().find(|(name, _)| *name == CONTENT_SHA256);
        let body = match stated.map(|(_, value)| *value) {
            Some(value) if value.starts_with("STREAMING-") => SignableBody::Precomputed(value.to_owned()),
            Some("UNSIGNED-PAYLOAD") => SignableBody::UnsignedPayload,
            Some(hash) => SignableBody::Precomputed(hash.to_owned()),
            None if signing.presigned.is_some() && signing.service == "s3" => SignableBody::UnsignedPayload,
            None => SignableBody::Bytes(self.body),
        };
        let headers = self.headers.iter().copied();
        let (instructions, _) = sign(key, signing, (self.method, self.place, self.target), headers, body)?;
        let mut target = self.target.to_owned();
        for (name, value) in instructions.params() {
            let join = if target.contains('?') { '&' } else { '?' };
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            target = format!("{target}{join}{name}={value}");
        }
        let mut text = format!("{} {target} HTTP/1.1\r\nHost: {}\r\n", self.method, self.place);
        for (name, value) in self.headers.iter().copied().chain(instructions.headers()) {
            text = format!("{text}{name}: {value}\r\n");
        }
        let body = String::from_utf8_lossy(self.body);
        Ok(format!("{text}Content-Length: {}\r\n\r\n{body}", self.body.len()))
    }
}

/// A signature, as it stands in a request.
struct Found {
    credential: String,
    date: String,
    token: Option<String>,
    names: String,
    signature: String,
    presigned: Option<Duration>,
}

impl Found {
    fn in_header(seen: &Seen, authorization: &str) -> Option<Self> {
        let part = |name: &str| {
            let from = authorization.split_once(&format!("{name}="))?.1;
            from.split(',').next().map(|value| value.trim().to_owned())
        };
        Some(Self {
            credential: part("Credential")?,
            date: seen.header("x-amz-date")?,
            token: seen.header("x-amz-security-token"),
            names: part("SignedHeaders")?,
            signature: part("Signature")?,
            presigned: None,
        })
    }

    fn in_query(query: &str) -> Option<Self> {
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value)?;
            let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
            decoded.ok().map(Cow::into_owned)
        };
        Some(Self {
            credential: parameter("X-Amz-Credential")?,
            date: parameter("X-Amz-Date")?,
            token: parameter("X-Amz-Security-Token"),
            names: parameter("X-Amz-SignedHeaders")?,
            signature: parameter("X-Amz-Signature")?,
            presigned: Some(Duration::from_secs(parameter("X-Amz-Expires")?.parse().ok()?)),
        })
    }
}

/// As AWS does it: whether the signature of a request is by this key, for this region and service.
pub fn verify(seen: &Seen, key: &Key<'_>, region: &str, service: &str) -> Result<()> {
    let target = seen.target();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let found = match seen.header("authorization") {
        Some(authorization) => Found::in_header(seen, &authorization),
        None => Found::in_query(query),
    };
    let found = found.context("no signature")?;
    let scope = format!("{}/{}/{region}/{service}/aws4_request", key.id, &found.date[..8]);
    ensure!(found.credential == scope, "{} isn't {scope}", found.credential);
    ensure!(found.token.as_deref() == key.token, "another token");
    let own = ["host", "x-amz-date", "x-amz-security-token"];
    let names = found.names.split(';').filter(|name| !own.contains(name));
    let headers: Vec<(String, String)> = names
        .map(|name| {
            Ok((
                name.to_owned(),
                seen.header(name).context("a signed header is missing")?,
            ))
        })
        .collect::<Result<_>>()?;
    let is_own = |pair: &&str| OWN.iter().any(|own| pair.starts_with(own));
    let left: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !is_own(pair))
        .collect();
    let target = if left.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", left.join("&"))
    };
    let body = match seen.header(CONTENT_SHA256) {
        Some(value) => SignableBody::Precomputed(value),
        None if found.presigned.is_some() && service == "s3" => SignableBody::UnsignedPayload,
        None => SignableBody::Bytes(&seen.body),
    };
    let at = DateTime::strptime("%Y%m%dT%H%M%SZ", &found.date)?.to_zoned(TimeZone::UTC)?;
    let signing = Signing {
        region,
        service,
        at: at.timestamp().into(),
        presigned: found.presigned,
    };
    let method = seen.head.split(' ').next().unwrap_or_default();
    let place = seen.header("host").context("no host")?;
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let (_, expected) = sign(key, &signing, (method, &place, &target), headers, body)?;
    ensure!(found.signature == expected, "the signature doesn't fit: {}", seen.head);
    Ok(())
}

fn sign<'a>(
    key: &Key<'_>,
    signing: &Signing<'_>,
    (method, place, target): (&'a str, &str, &str),
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: SignableBody<'a>,
) -> Result<(SigningInstructions, String)> {
    let credentials = Credentials::new(key.id, key.secret, key.token.map(str::to_owned), None, "gallery");
    let mut settings = SigningSettings::default();
    if signing.service == "s3" {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    if signing.presigned.is_some() {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = signing.presigned;
    }
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(signing.region)
        .name(signing.service)
        .time(signing.at)
        .settings(settings)
        .build()?;
    let request = SignableRequest::new(method, format!("https://{place}{target}"), headers, body)?;
    Ok(http_request::sign(request, &parameters.into())?.into_parts())
}

const CONTENT_SHA256: &str = "x-amz-content-sha256";
/// Parameters of a presigned URL that the signer writes itself.
const OWN: [&str; 7] = [
    "X-Amz-Algorithm=",
    "X-Amz-Credential=",
    "X-Amz-Date=",
    "X-Amz-Expires=",
    "X-Amz-SignedHeaders=",
    "X-Amz-Signature=",
    "X-Amz-Security-Token=",
];
