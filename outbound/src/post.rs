//! IO: one request to one endpoint, and its answer read within bounds. No redirect is followed, no connection kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::dial::{DialError, Dialer, Target};
use crate::endpoint::Endpoint;
use crate::identity::Roots;

/// Sends Secrets to endpoints.
pub struct Caller {
    dialer: Dialer,
    networks: Vec<IpNet>,
}

/// A request.
pub struct Ask<'a> {
    /// Its method.
    pub method: Method,
    /// Where to.
    pub endpoint: &'a Endpoint,
    /// Who asks.
    pub authorization: Option<HeaderValue>,
    /// Media type and content.
    pub content: Option<(&'static str, String)>,
    /// Networks that the endpoint may be in although they aren't public.
    pub networks: &'a [IpNet],
    /// What the endpoint is verified with, in place of everything else.
    pub roots: Option<Arc<Roots>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Of the status line.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// At most [`BODY_MAX`] bytes.
    pub body: Bytes,
}

/// There is no answer. Nothing that was sent or received is in it.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It took too long.
    #[error("{host} didn't answer within {} s", TIME.as_secs())]
    Slow {
        /// Which.
        host: String,
    },
    /// The connection broke.
    #[error("the connection to {host} broke")]
    Broke {
        /// Which.
        host: String,
        /// Why.
        source: hyper::Error,
    },
    /// More than anything that is asked for.
    #[error("{host} answers with more than {} KiB", BODY_MAX >> 10)]
    Large {
        /// Which.
        host: String,
    },
    /// The request can't be written.
    #[error("a request to {host} can't be written")]
    Request {
        /// Which.
        host: String,
        /// Why.
        source: http::Error,
    },
}

impl Caller {
    /// Through this dialer; `networks` are those that endpoints may be in although they aren't public.
    pub fn new(dialer: Dialer, networks: Vec<IpNet>) -> Self {
        Self { dialer, networks }
    }

    /// Posts a form, and reads what is answered.
    pub async fn post(
        &self,
        endpoint: &Endpoint,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<Answer, PostError> {
        self.ask(Ask {
            method: Method::POST,
            endpoint,
            authorization,
            content: Some(("application/x-www-form-urlencoded", form)),
            networks: &self.networks,
            roots: None,
        })
        .await
    }

    /// Asks, and reads what is answered.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, PostError> {
        let host = ask.endpoint.host();
        let slow = |_elapsed| PostError::Slow { host };
        timeout(TIME, self.exchange(ask)).await.map_err(slow)?
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Answer, PostError> {
        let endpoint = ask.endpoint;
        let target = Target {
            roots: ask.roots.clone(),
            ..Target::new(endpoint.authority.clone(), true, ask.networks.to_vec())
        };
        let request = request(ask).map_err(|source| PostError::Request {
            host: endpoint.host(),
            source,
        })?;
        let broke = |source| PostError::Broke {
            host: endpoint.host(),
            source,
        };
        let leg = Box::pin(self.dialer.dial(&target)).await?.leg;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(leg))
            .await
            .map_err(broke)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let (head, body) = sender.send_request(request).await.map_err(broke)?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broke(*error),
            Err(_limit) => PostError::Large { host: endpoint.host() },
        })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }
}

fn request(ask: Ask<'_>) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.endpoint.target())
        .header(HOST, ask.endpoint.host_header())
        .header(USER_AGENT, "berth")
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity");
    if let Some(authorization) = ask.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let Some((media, content)) = ask.content else {
        return request.body(Full::default());
    };
    request
        .header(CONTENT_TYPE, media)
        .header(CONTENT_LENGTH, content.len())
        .body(Full::new(Bytes::from(content)))
}

/// Of one request, from the name server to the last byte.
pub const TIME: Duration = Duration::from_secs(20);
/// Answers of token endpoints have a few KiB, a page of a gateway's hundred aliases 16.
pub const BODY_MAX: usize = 64 << 10;
/// Of a response's head; hyper's least is 8 KiB.
const HEAD_MAX: usize = 32 << 10;
