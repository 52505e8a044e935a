//! What a request says of its AWS signature (Signature Version 4): whose key, for which region and service, over which
//! headers. No cryptography is here: whether the signature holds is seen where the request is signed anew.
//!
//! Written by AWS's public description: "AWS Signature Version 4 for API requests" (IAM User Guide) for the header,
//! "Authenticating Requests: Using Query Parameters" (Amazon S3 API Reference) for presigned URLs.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use crate::path::Query;

/// A signature, as the request claims it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Claim {
    /// Where it stands.
    pub form: Form,
    /// Id of the access key.
    pub access_key: String,
    /// Day of the scope, `YYYYMMDD`.
    pub day: String,
    /// Region of the scope.
    pub region: String,
    /// Service of the scope, such as `s3`.
    pub service: String,
    /// Names of the headers that it covers, in lower case and sorted.
    pub signed_headers: Vec<String>,
    /// 64 hexadecimal digits in lower case.
    pub signature: String,
    /// The session token that comes with it.
    pub token: Option<String>,
}

/// Where a signature stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Form {
    /// In `Authorization`.
    Header,
    /// In the query: a presigned URL.
    Query,
}

/// Why a signature isn't exchanged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// Signature Version 4A, or another algorithm.
    Algorithm,
    /// It can't be read, or its parts don't agree.
    Malformed,
    /// It stands in two places, or a part of it does.
    Twice,
    /// A presigned URL, where the route takes none.
    Presigned,
    /// For another region than the route's.
    Region,
    /// For a service that the route doesn't name.
    Service,
    /// With a session token that isn't the stub.
    Token,
}

impl Claim {
    /// The signature of a request; `None` for one that has none.
    pub fn of(headers: &HeaderMap, query: Option<&Query>) -> Option<Result<Self, Problem>> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let header = header.filter(|value| value.starts_with(FAMILY));
        let presigned = query.filter(|query| PRESIGNED.iter().any(|name| query.values(name).next().is_some()));
        match (header, presigned) {
            (None, None) => None,
            (Some(_), Some(_)) => Some(Err(Problem::Twice)),
            (Some(value), None) => Some(Self::from_header(value, headers)),
            (None, Some(query)) => Some(Self::from_query(query)),
        }
    }

    fn from_header(value: &str, headers: &HeaderMap) -> Result<Self, Problem> {
        let (algorithm, rest) = value.split_once(' ').ok_or(Problem::Malformed)?;
        check_algorithm(algorithm)?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or(Problem::Malformed)?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return Err(Problem::Malformed),
            };
            if place.replace(value).is_some() {
                return Err(Problem::Twice);
            }
        }
        let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
            return Err(Problem::Malformed);
        };
        let mut tokens = headers.get_all(TOKEN_HEADER).iter();
        let token = tokens.next().map(|token| token.to_str().map(str::to_owned));
        let token = token.transpose().map_err(|_not_ascii| Problem::Malformed)?;
        if tokens.next().is_some() {
            return Err(Problem::Twice);
        }
        Self::read(Form::Header, (credential, signed, signature), token)
    }

    fn from_query(query: &Query) -> Result<Self, Problem> {
        let single = |name: &str| -> Result<Option<String>, Problem> {
            let mut values = query.values(name);
            let Some(range) = values.next() else { return Ok(None) };
            if values.next().is_some() {
                return Err(Problem::Twice);
            }
            let raw = query.as_str().get(range).unwrap_or_default();
            let decoded = percent_decode_str(raw).decode_utf8();
            let decoded = decoded.map_err(|_not_text| Problem::Malformed)?;
            Ok(Some(decoded.into_owned()))
        };
        let needed = |name: &str| single(name)?.ok_or(Problem::Malformed);
        check_algorithm(&needed(ALGORITHM)?)?;
        let (credential, signed) = (needed(CREDENTIAL)?, needed(SIGNED_HEADERS)?);
        let signature = needed(SIGNATURE)?;
        let token = single(TOKEN)?;
        Self::read(Form::Query, (&credential, &signed, &signature), token)
    }

    fn read(
        form: Form,
        (credential, signed, signature): (&str, &str, &str),
        token: Option<String>,
    ) -> Result<Self, Problem> {
        let mut parts = credential.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(Problem::Malformed);
        let (access_key, day, region, service, end) = (part()?, part()?, part()?, part()?, part()?);
        let is_day = day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
        let is_signature =
            signature.len() == 64 && signature.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if end != END || parts.next().is_some() || !is_day || !is_signature {
            return Err(Problem::Malformed);
        }
        let signed_headers: Vec<String> = signed.split(';').map(str::to_owned).collect();
        let is_name = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok_and(|known| known.as_str() == name);
        // Sorted and each once, as the description says: a second reading of the list isn't possible.
        if !signed_headers.iter().all(is_name) || !signed_headers.is_sorted_by(|one, two| one < two) {
            return Err(Problem::Malformed);
        }
        Ok(Self {
            form,
            access_key: access_key.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers,
            signature: signature.to_owned(),
            token,
        })
    }
}

fn check_algorithm(algorithm: &str) -> Result<(), Problem> {
    if algorithm == HMAC {
        Ok(())
    } else {
        Err(Problem::Algorithm)
    }
}

/// The region that a host of AWS names, such as `eu-west-1` of `s3.eu-west-1.amazonaws.com`. Global services name none.
pub fn region_of(host: &str) -> Option<&str> {
    let inner = SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix))?;
    inner.rsplit('.').find(|label| is_region(label))
}

/// `us-east-1`, `us-gov-west-1`.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let begins = parts.next().is_some_and(|part| part.len() == 2 && letters(part));
    let ends = parts
        .next_back()
        .is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let between: Vec<&str> = parts.collect();
    begins && ends && !between.is_empty() && between.into_iter().all(letters)
}

impl Problem {
    /// What the agent is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Algorithm => "the request isn't signed by AWS4-HMAC-SHA256; Signature Version 4A can't be exchanged",
            Self::Malformed => "the AWS signature can't be read in one way only",
            Self::Twice => "the AWS signature, or a part of it, stands in the request twice",
            Self::Presigned => "no route takes presigned URLs here; a route says presigned: true for them",
            Self::Region => "the request is signed for another AWS region than the grant's",
            Self::Service => "the request is signed for an AWS service that the grant doesn't name",
            Self::Token => "the session token of the request isn't the placeholder",
        }
    }
}

/// Algorithm of Signature Version 4.
pub const HMAC: &str = "AWS4-HMAC-SHA256";
/// Last part of a scope.
pub const END: &str = "aws4_request";
/// Header with the session token.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-amz-security-token");
/// Query parameter with the algorithm.
pub const ALGORITHM: &str = "X-Amz-Algorithm";
/// Query parameter with the key's id and the scope.
pub const CREDENTIAL: &str = "X-Amz-Credential";
/// Query parameter with the names of the signed headers.
pub const SIGNED_HEADERS: &str = "X-Amz-SignedHeaders";
/// Query parameter with the signature.
pub const SIGNATURE: &str = "X-Amz-Signature";
/// Query parameter with the session token.
pub const TOKEN: &str = "X-Amz-Security-Token";

/// What all algorithms of AWS begin with, 4A among them.
const FAMILY: &str = "AWS4-";
/// One of them makes a presigned URL.
const PRESIGNED: [&str; 3] = [ALGORITHM, CREDENTIAL, SIGNATURE];
/// Public endpoints.
const SUFFIXES: [&str; 3] = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Target;

    const SIGNED: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn header(value: &str) -> Option<Result<Claim, Problem>> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        Claim::of(&headers, None)
    }

    #[test]
    fn a_header_says_key_scope_and_headers() {
        let value = format!(
            "AWS4-HMAC-SHA256 Credential=KEY/20260102/eu-west-1/s3/aws4_request,SignedHeaders=host;x-amz-date, \
             Signature={SIGNED}"
        );
        let claim = header(&value).unwrap().unwrap();
        let scope = [&claim.access_key, &claim.day, &claim.region, &claim.service];
        assert_eq!(scope, ["KEY", "20260102", "eu-west-1", "s3"]);
        assert_eq!(
            (claim.form, claim.signed_headers),
            (Form::Header, vec!["host".to_owned(), "x-amz-date".to_owned()])
        );
    }

    #[test]
    fn a_presigned_url_says_the_same() {
        let target = format!(
            "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=KEY%2F20260102%2Feu-west-1%2Fs3%2Faws4_request\
             &X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNED}&X-Amz-Security-Token=a%2Bb"
        );
        let query = Target::parse(&target).unwrap().query;
        let claim = Claim::of(&HeaderMap::new(), query.as_ref()).unwrap().unwrap();
        assert_eq!((claim.form, claim.token.as_deref()), (Form::Query, Some("a+b")));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_a_problem() {
        let rest = format!("SignedHeaders=host, Signature={SIGNED}");
        let key = "Credential=KEY/20260102/eu-west-1/s3/aws4_request";
        let table = [
            (format!("AWS4-ECDSA-P256-SHA256 {key}, {rest}"), Problem::Algorithm),
            (format!("AWS4-HMAC-SHA256 {key}, {key}, {rest}"), Problem::Twice),
            (format!("AWS4-HMAC-SHA256 {key}, {rest}, More=1"), Problem::Malformed),
            (format!("AWS4-HMAC-SHA256 {key}/more, {rest}"), Problem::Malformed),
            (
                format!("AWS4-HMAC-SHA256 Credential=KEY/2026/r/s3/aws4_request, {rest}"),
                Problem::Malformed,
            ),
            (
                format!("AWS4-HMAC-SHA256 Credential=KEY/20260102//s3/aws4_request, {rest}"),
                Problem::Malformed,
            ),
            (
                format!("AWS4-HMAC-SHA256 {key}, SignedHeaders=host;date, Signature={SIGNED}"),
                Problem::Malformed,
            ),
            (
                format!("AWS4-HMAC-SHA256 {key}, SignedHeaders=Host, Signature={SIGNED}"),
                Problem::Malformed,
            ),
            (
                format!("AWS4-HMAC-SHA256 {key}, SignedHeaders=host, Signature=00"),
                Problem::Malformed,
            ),
        ];
        for (value, problem) in table {
            assert_eq!(header(&value), Some(Err(problem)), "{value}");
        }
        assert_eq!(header("Bearer AWS4-HMAC-SHA256"), None);
    }

    #[test]
    fn a_host_names_its_region() {
        let table = [
            ("s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("us-east-1.s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("s3.dualstack.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("dynamodb.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("iam.amazonaws.com", None),
            ("s3.amazonaws.com", None),
            ("s3.eu-west-1.example.com", None),
        ];
        for (host, region) in table {
            assert_eq!(region_of(host), region, "{host}");
        }
    }
}
