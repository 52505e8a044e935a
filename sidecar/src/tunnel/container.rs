//! The proxy's port, asked for AWS credentials: it answers as the agent of a container service does, with stubs. They
//! are the agent's own already; the token keeps out what isn't the agent but can make it send a request, such as a web
//! page ("Container credential provider", AWS SDKs and Tools Reference Guide).

use berth_protocol::environment::AWS_PATH;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use secrecy::ExposeSecret;
use time::OffsetDateTime;

use crate::body::{Body, full};
use crate::clock::unix_seconds;
use crate::vault::Snapshot;

/// The answer; `None` for a request that is about something else.
pub fn answer<B>(snapshot: &Snapshot, request: &Request<B>) -> Option<Response<Body>> {
    let name = request.uri().path().strip_prefix(AWS_PATH)?;
    if request.uri().authority().is_some() {
        return None;
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if request.method() != Method::GET || !header(HOST).is_some_and(is_loopback) {
        return Some(refused(StatusCode::BAD_REQUEST, "GET, of a loopback address"));
    }
    let (stub, secret) = match snapshot.secret_stub(name) {
        Some(secret) if header(AUTHORIZATION) == Some(snapshot.stub(name)) => (snapshot.stub(name), secret),
        _ => {
            let message = "no AWS key of this name is granted to the session, or the token isn't its placeholder";
            return Some(refused(StatusCode::FORBIDDEN, message));
        }
    };
    let body = serde_json::json!({
        "Code": "Success",
        "AccessKeyId": stub,
        "SecretAccessKey": secret.expose_secret(),
        "Token": stub,
        "Expiration": text(unix_seconds() + LASTS),
    });
    Some(json(StatusCode::OK, &body))
}

/// A name that leads here by DNS alone is somebody else's.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

fn refused(status: StatusCode, message: &str) -> Response<Body> {
    json(
        status,
        &serde_json::json!({ "code": "AccessDenied", "message": message }),
    )
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// RFC 3339.
fn text(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// SDKs ask again before; stubs don't end by themselves.
const LASTS: i64 = 60 * 60;
