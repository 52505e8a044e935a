//! A request that the agent signed for AWS: its signature is verified before anything is sent, and the request is signed
//! anew as it goes out. What is signed is what is sent: signing comes last.

use std::sync::Arc;

use berth_egress::aws::Claim;
use berth_egress::decide::{Grant, Surface};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, RANGE};
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Limited};
use tokio::sync::Semaphore;

use super::Plan;
use super::judge::Judged;
use super::watch::{self, GrantEnded, Sent};
use crate::body::{Body, Fault, full};
use crate::clock::unix_seconds;
use crate::refusal::Refusal;
use crate::substitute::sigv4::{self, Message, Payload, SigV4Error};
use crate::tunnel::Tunnel;
use crate::vault::Snapshot;

/// A request as the agent signed it.
pub struct Exchange {
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    host: String,
    payload: Payload,
}

impl Exchange {
    /// Of a request with such a grant, before anything is taken off it. A signature that can be verified without the
    /// body is.
    pub fn begin<B>(
        snapshot: &Snapshot,
        judged: &Judged,
        tunnel: &Tunnel,
        request: &Request<B>,
    ) -> Result<Option<Self>, Refusal> {
        let Some((grant, claim)) = signed(&judged.allowed.grants) else {
            return Ok(None);
        };
        if request.headers().contains_key(RANGE) && !judged.allowed.range {
            // Taken off silently, the client would take the whole for a part and write it in the middle of a file.
            let message = "parts of objects may not be asked for here: a route says range: true for them";
            return Err(Refusal::denied(message));
        }
        let uri = request.uri();
        let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let named = named.or_else(|| uri.authority().map(http::uri::Authority::as_str));
        let exchange = Self {
            method: request.method().clone(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            headers: request.headers().clone(),
            host: named.unwrap_or_else(|| tunnel.host_text()).to_owned(),
            payload: Payload::Hashed,
        };
        let message = exchange.message();
        sigv4::check(claim, &message, unix_seconds()).map_err(refused)?;
        sigv4::check_path(claim, &exchange.path, judged.target.path.as_str()).map_err(refused)?;
        let payload = sigv4::payload(claim, &message).map_err(refused)?;
        if let Payload::Stated(payload) = &payload {
            exchange.verify(snapshot, (grant, claim), payload)?;
        }
        Ok(Some(Self { payload, ..exchange }))
    }

    fn verify(&self, snapshot: &Snapshot, (grant, claim): (&Grant, &Claim), payload: &str) -> Result<(), Refusal> {
        let stub = snapshot.secret_stub(grant.credential());
        let stub = stub.ok_or_else(|| Refusal::denied("the credential isn't an AWS key"))?;
        sigv4::verify(claim, &self.message(), payload, stub).map_err(refused)
    }

    /// Puts the real signature in the place of the agent's, once that is verified. Gives the body, and the query to be
    /// sent.
    pub async fn finish<B>(
        self,
        plan: &Plan<'_>,
        sent: &Sent,
        (head, query): (&mut Parts, Option<String>),
        body: B,
    ) -> Result<(Body, Option<String>), Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Fault>,
    {
        let Some((grant, claim)) = signed(&plan.judged.allowed.grants) else {
            return Err(Refusal::denied("the grant isn't for a signature"));
        };
        let (payload, body) = match &self.payload {
            Payload::Stated(payload) => (payload.clone(), watch::upload(body, sent, &plan.standing.cuts)),
            Payload::Hashed => {
                let (payload, body) = tokio::select! {
                    whole = hold(&plan.proxy.held, &self.headers, body) => whole?,
                    () = plan.standing.cuts.cut() => return Err(Refusal::denied(GrantEnded.to_string())),
                };
                self.verify(plan.snapshot, (grant, claim), &payload)?;
                (payload, watch::upload(body, sent, &plan.standing.cuts))
            }
        };
        let key = plan.snapshot.exchange_aws(grant);
        let key = key.map_err(|lapsed| Refusal::denied(lapsed.to_string()))?;
        let host = plan.tunnel.host_text();
        let message = Message {
            method: head.method.as_str(),
            path: plan.judged.target.path.as_str(),
            query: query.as_deref(),
            headers: &head.headers,
            host,
        };
        let signed = sigv4::sign(claim, &message, &payload, key, unix_seconds()).map_err(refused)?;
        let query = signed.write(&mut head.headers);
        Ok((body, query))
    }

    fn message(&self) -> Message<'_> {
        Message {
            method: self.method.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            host: &self.host,
        }
    }
}

/// A body whose hash is said nowhere: it is read whole. Others wait while as much as may be is held.
async fn hold<B>(room: &Arc<Semaphore>, headers: &HeaderMap, body: B) -> Result<(String, Body), Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Fault>,
{
    if body.is_end_stream() {
        return Ok((sigv4::hash(b""), full(Bytes::new())));
    }
    let too_large = || {
        Refusal::too_large(
            "a body that isn't hashed in x-amz-content-sha256 may have 10 MiB, as it is held to be signed: let the \
             client send the hash",
        )
    };
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(BODY_MAX);
    if length > BODY_MAX {
        return Err(too_large());
    }
    let share = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let permit = Arc::clone(room).acquire_many_owned(share).await;
    let permit = permit.map_err(|_closed| Refusal::unavailable("the sidecar is ending"))?;
    let body = Limited::new(body, BODY_MAX).collect().await;
    let body = body.map_err(|_too_large| too_large())?.to_bytes();
    let hash = sigv4::hash(&body);
    let held = full(body).map_frame(move |frame| {
        let _held = &permit; // until it is sent
        frame
    });
    Ok((hash, held.boxed_unsync()))
}

fn signed(grants: &[Grant]) -> Option<(&Grant, &Claim)> {
    grants.iter().find_map(|grant| match grant.surface() {
        Surface::AwsSigV4(claim) => Some((grant, &**claim)),
        _ => None,
    })
}

fn refused(error: SigV4Error) -> Refusal {
    Refusal::denied(error.to_string())
}

/// research/vault-proxy.md §5.3. DynamoDB and Lambda take less.
const BODY_MAX: usize = 10 << 20;
