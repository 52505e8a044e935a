//! One request, from the agent to its answer: read ([`judge`]), decided, written down, exchanged, sent, and the answer
//! taken clean ([`answer`]) and watched to its end ([`watch`]).
//!
//! Every early way out is a refusal: nothing is passed on that wasn't decided, and an answer that can't be cleaned is
//! dropped.

use std::borrow::Cow;
use std::sync::Arc;

use berth_egress::decide::{Allowed, GitStep, Grant, Surface};
use berth_outbound::dial::Target;
use berth_outbound::identity::Roots;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use self::judge::Judged;
use self::metered::Counted;
use self::watch::{Cuts, GrantEnded, Sent};
use crate::audit::{Ticket, Use};
use crate::body::{Body, Fault, full};
use crate::git;
use crate::meter::Reservation;
use crate::proxy::Proxy;
use crate::redact::Patterns;
use crate::refusal::Refusal;
use crate::substitute;
use crate::tunnel::Tunnel;
use crate::upstream::pool::Key;
use crate::upstream::{Answer, SendError};
use crate::vault::Snapshot;

pub mod judge;

pub mod metered;

pub mod headers;

pub mod aws;

pub mod expect;

pub mod watch;

pub mod clean;

mod tokens;

pub mod upgrade;

/// Answers a request; every way of not passing it on is an answer too.
pub async fn answer(proxy: &Arc<Proxy>, tunnel: &Tunnel, request: Request<Incoming>) -> Response<Body> {
    let passed = if git::may_be_push(&request) {
        Box::pin(push(proxy, tunnel, request)).await // rare, and large
    } else if proxy.meter.is_on() {
        Box::pin(count(proxy, tunnel, request)).await
    } else {
        pass(proxy, tunnel, request, None).await
    };
    match passed {
        Ok(response) => response,
        Err(refusal) => {
            proxy.audit.denied(&tunnel.authority, refusal.reason());
            if let Some(wanted) = refusal.wanted() {
                proxy.audit.wanted(&tunnel.authority, wanted);
            }
            refusal.response()
        }
    }
}

/// A session with a budget: what a request may cost is reserved before it is sent.
async fn count(proxy: &Arc<Proxy>, tunnel: &Tunnel, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    match metered::begin(proxy, tunnel, request).await? {
        Counted::No(request) => pass(proxy, tunnel, request, None).await,
        Counted::Yes(request, reserved) => pass(proxy, tunnel, request, reserved).await,
    }
}

/// A push of git is held and judged before anything else; nothing of it is sent until then.
async fn push(proxy: &Arc<Proxy>, tunnel: &Tunnel, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let snapshot = proxy.vault.snapshot_full();
    let allowed = judge::judge(&snapshot.rules, tunnel, &request)?.allowed;
    let Some(limits) = allowed.git.as_ref().filter(|git| git.step == GitStep::Push) else {
        return pass(proxy, tunnel, request, None).await;
    };
    let cuts = Standing::of(&snapshot, &allowed)?.cuts;
    let verdict = tokio::select! {
        verdict = proxy.pushes.hold(limits, &snapshot, request) => verdict?,
        () = cuts.cut() => return Err(Refusal::denied(GrantEnded.to_string())),
    };
    match verdict {
        git::Verdict::Passed(request) => pass(proxy, tunnel, request, None).await,
        git::Verdict::Refused { reason, response } => {
            proxy.audit.denied(&tunnel.authority, &reason);
            Ok(response)
        }
    }
}

async fn pass<B>(
    proxy: &Arc<Proxy>,
    tunnel: &Tunnel,
    mut request: Request<B>,
    reserved: Option<Reservation>,
) -> Result<Response<Body>, Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Fault>,
{
    let snapshot = proxy.vault.snapshot_full();
    let judged = judge::judge(&snapshot.rules, tunnel, &request)?;
    git::check(&judged.allowed, request.extensions())?;
    let standing = Standing::of(&snapshot, &judged.allowed)?;
    let aws = aws::Exchange::begin(&snapshot, &judged, tunnel, &request)?;
    let upgrade = judged.upgrade.then(|| hyper::upgrade::on(&mut request));
    let mut plan = Plan {
        proxy,
        tunnel,
        snapshot: &snapshot,
        judged,
        standing,
        aws,
    };
    let mut ticket = plan.write_down(request.method().as_str())?;
    if let Some(ticket) = &mut ticket {
        ticket.reserved = reserved;
    }
    let (request, sent) = plan.prepare(request).await?;
    let key = plan.key()?;
    sends(&mut ticket, true);
    let answer = plan.send(&key, request).await;
    let answer = answer.map_err(|error| {
        sends(&mut ticket, !error.is_unsent());
        Refusal::upstream(crate::chain(&error))
    })?;
    if let (Some(upstream), Some(agent)) = (answer.upgrade, upgrade) {
        let (patterns, cuts) = (plan.patterns(), plan.standing.cuts);
        return Ok(upgrade::relay(
            answer.response,
            upstream,
            agent,
            patterns,
            (ticket, cuts),
        ));
    }
    let response = git::for_agent(&plan.judged.allowed, &plan.judged.target, answer.response)?;
    let response = tokens::for_agent(&plan, response).await?;
    clean::clean(response, &plan, ticket, sent)
}

/// What was reserved for a request is due from when that leaves.
fn sends(ticket: &mut Option<Ticket>, sent: bool) {
    if let Some(reserved) = ticket.as_mut().and_then(|ticket| ticket.reserved.as_mut()) {
        reserved.sends(sent);
    }
}

/// What a request's grants stand on at this moment.
pub struct Standing {
    cuts: Cuts,
    credentialed: bool,
}

/// A request on its way.
pub struct Plan<'a> {
    proxy: &'a Arc<Proxy>,
    tunnel: &'a Tunnel,
    snapshot: &'a Snapshot,
    judged: Judged,
    standing: Standing,
    aws: Option<aws::Exchange>,
}

impl Standing {
    /// A route whose grant is over allows nothing any more; a request needs one that isn't.
    fn of(snapshot: &Snapshot, allowed: &Allowed) -> Result<Self, Refusal> {
        let mut lapsed = None;
        let mut open = None;
        for route in &allowed.routes {
            match snapshot
                .credential_of(route)
                .map(|credential| snapshot.value(credential))
            {
                Some(Err(why)) => lapsed = lapsed.or(Some(why)),
                Some(Ok(_)) | None => open = Some(route),
            }
        }
        match (open, lapsed) {
            (None, Some(why)) => Err(Refusal::denied(why.to_string())),
            (open, _) => Ok(Self::new(allowed, snapshot, open)),
        }
    }

    /// What cuts it: the routes of the values that it carries, or a route that allows it when it carries none.
    fn new(allowed: &Allowed, snapshot: &Snapshot, open: Option<&Arc<str>>) -> Self {
        let granted = allowed.grants.iter().filter_map(|grant| snapshot.cut(grant.route()));
        let mut tokens: Vec<CancellationToken> = granted.collect();
        if tokens.is_empty() && allowed.credentialed {
            tokens.extend(open.and_then(|route| snapshot.cut(route)));
        }
        Self {
            cuts: Cuts::new(tokens),
            credentialed: allowed.credentialed,
        }
    }
}

impl Plan<'_> {
    /// Before anything else happens.
    fn write_down(&self, method: &str) -> Result<Option<Ticket>, Refusal> {
        let mut grants: Vec<&Grant> = self.judged.allowed.grants.iter().collect();
        if grants.is_empty() {
            return Ok(None);
        }
        if grants.len() > 1 {
            grants.retain(|grant| !tokens::is_of(grant)); // its credential is named already
        }
        let used = Use {
            credentials: grants.iter().map(|grant| grant.credential().to_owned()).collect(),
            routes: grants.iter().map(|grant| grant.route().to_owned()).collect(),
            grants: grants
                .iter()
                .map(|grant| self.snapshot.fingerprint(grant.credential()).to_string())
                .collect(),
            method: method.to_owned(),
            authority: self.tunnel.authority.to_string(),
            path: self.judged.target.path.as_str().to_owned(),
            ..Use::default()
        };
        let ticket = self.proxy.audit.begin(used);
        ticket
            .map(Some)
            .map_err(|error| Refusal::unavailable(crate::chain(&error)))
    }

    /// The request as the upstream gets it.
    async fn prepare<B>(&mut self, request: Request<B>) -> Result<(Request<Body>, Sent), Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Fault>,
    {
        let (mut head, body) = request.into_parts();
        let expect = expect::asked(&head.headers);
        headers::for_upstream(&mut head.headers, self.judged.upgrade, self.standing.credentialed);
        headers::own(&mut head.headers, &self.judged.allowed.headers);
        git::for_upstream(&self.judged.allowed, &self.judged.target, &mut head.headers);
        let mut query = self.judged.target.query.as_ref().map(|query| Cow::from(query.as_str()));
        for grant in self.judged.allowed.grants.iter().filter(|grant| !tokens::is_of(grant)) {
            let value = self.snapshot.exchange(grant);
            let value = value.map_err(|lapsed| Refusal::denied(lapsed.to_string()))?;
            let value = (self.snapshot.user(grant), value);
            let written = substitute::into_head(grant, value, &mut head.headers, self.judged.target.query.as_ref());
            if let Some(new) = written.map_err(|error| Refusal::denied(error.to_string()))? {
                query = Some(new.into());
            }
        }
        let sent = Sent::default();
        let body = if let Some(aws) = self.aws.take() {
            let unsigned = query.map(Cow::into_owned);
            let (body, signed) = Box::pin(aws.finish(self, &sent, (&mut head, unsigned), body)).await?;
            query = signed.map(Cow::from);
            body
        } else if self.judged.allowed.grants.iter().any(is_body) {
            Box::pin(self.exchange_body(&mut head.headers, body)).await?
        } else {
            watch::upload(body, &sent, &self.standing.cuts)
        };
        if !self.is_sent_as_is(&head.uri, query.as_deref()) {
            head.uri = self.uri(query.as_deref())?;
        }
        head.extensions.clear();
        let (gate, body) = expect::gate(expect, body);
        let mut request = Request::from_parts(head, body);
        expect::open_at_continue(gate, &mut request);
        Ok((request, sent))
    }

    /// Whether the agent's target is byte for byte what was judged, and in the form that this leg needs.
    fn is_sent_as_is(&self, uri: &Uri, query: Option<&str>) -> bool {
        !self.tunnel.target.http2
            && uri.authority().is_none()
            && uri.path() == self.judged.target.path.as_str()
            && uri.query() == query
    }

    /// The canonical path, which was judged, is what is sent.
    fn uri(&self, query: Option<&str>) -> Result<Uri, Refusal> {
        let path = self.judged.target.path.as_str();
        let path_and_query = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let built = if self.tunnel.target.http2 {
            let builder = Uri::builder().scheme("https").authority(self.tunnel.host.as_bytes());
            builder.path_and_query(path_and_query).build()
        } else {
            path_and_query.parse().map_err(http::Error::from)
        };
        built.map_err(|error| Refusal::malformed(&error))
    }

    /// The whole body is held: a value's length differs from its stub's.
    async fn exchange_body<B>(&self, headers: &mut http::HeaderMap, body: B) -> Result<Body, Refusal>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Fault>,
    {
        let body = Limited::new(body, BODY_MAX).collect().await;
        let body = body.map_err(|_too_large| Refusal::too_large("a body with a credential may have 1 MiB"))?;
        let mut body: Bytes = body.to_bytes();
        for grant in &self.judged.allowed.grants {
            if tokens::is_of(grant) {
                body = tokens::into_body(self.snapshot, grant, headers, body)?;
            } else if let Surface::Body { name } = grant.surface() {
                body = self.exchange_field(grant, name, headers, body)?;
            }
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        Ok(full(body))
    }

    fn exchange_field(
        &self,
        grant: &Grant,
        name: &str,
        headers: &http::HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Refusal> {
        let stub = self.snapshot.stub(grant.credential());
        if stub.is_empty() || !body.windows(stub.len()).any(|window| window == stub.as_bytes()) {
            return Ok(body);
        }
        let value = self.snapshot.exchange(grant);
        let value = value.map_err(|lapsed| Refusal::denied(lapsed.to_string()))?;
        let body = substitute::into_body(name, stub, value, media(headers), &body);
        body.map_err(|error| Refusal::denied(error.to_string()))
    }

    /// What may not come back on this route; on a token endpoint what it has just given as well.
    fn patterns(&self) -> Option<Arc<Patterns>> {
        if self.judged.allowed.mints_for.is_some() {
            return self.proxy.vault.snapshot().patterns.clone();
        }
        let patterns = self.snapshot.patterns.as_ref()?;
        self.judged.allowed.is_redacted().then(|| Arc::clone(patterns))
    }

    fn key(&self) -> Result<Key, Refusal> {
        let mut routes: Vec<String> = Vec::new();
        routes.extend(self.judged.allowed.grants.iter().map(|grant| grant.route().to_owned()));
        routes.sort_unstable();
        routes.dedup();
        Ok(Key {
            target: self.target()?,
            routes: Some(routes.into()),
        })
    }

    /// The tunnel's, with the certificate that is shown and the roots that the routes ask for.
    fn target(&self) -> Result<Arc<Target>, Refusal> {
        let allowed = &self.judged.allowed;
        let mut identity = None;
        for grant in &allowed.grants {
            let shown = self.snapshot.identity(grant);
            identity = identity.or(shown.map_err(|lapsed| Refusal::denied(lapsed.to_string()))?);
        }
        let roots = self.roots()?;
        if identity.is_none() && roots.is_none() {
            return Ok(Arc::clone(&self.tunnel.target));
        }
        Ok(Arc::new(Target {
            identity,
            roots,
            ..Target::clone(&self.tunnel.target)
        }))
    }

    /// Those of the routes that grant, else of the most specific one.
    fn roots(&self) -> Result<Option<Arc<Roots>>, Refusal> {
        let allowed = &self.judged.allowed;
        let granting = allowed.grants.iter().map(Grant::route);
        let first = allowed
            .routes
            .first()
            .map(|route| &**route)
            .filter(|_| allowed.grants.is_empty());
        let mut roots = granting.chain(first).map(|route| self.snapshot.roots(route));
        let wanted = roots.next().flatten();
        if roots.any(|other| other != wanted) {
            let reason = "the routes that this request stands on verify the host with different certificates";
            return Err(Refusal::denied(reason));
        }
        Ok(wanted.map(Arc::clone))
    }

    async fn send(&self, key: &Key, mut request: Request<Body>) -> Result<Answer, SendError> {
        let upstream = &self.proxy.upstream;
        if self.tunnel.target.http2 {
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
            let response = self.unless_cut(upstream.send_http2(key, request)).await?;
            return Ok(Answer {
                response,
                upgrade: None,
            });
        }
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(HOST, self.tunnel.host.clone());
        self.unless_cut(upstream.send_http1(key, request)).await
    }

    async fn unless_cut<T>(&self, sending: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
        tokio::select! {
            answer = sending => answer,
            () = self.standing.cuts.cut() => Err(SendError::Cut),
        }
    }
}

fn media(headers: &http::HeaderMap) -> &str {
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok());
    media.unwrap_or_default()
}

fn is_body(grant: &Grant) -> bool {
    matches!(grant.surface(), Surface::Body { .. })
}

/// What is held of a body to exchange a credential in it.
const BODY_MAX: usize = 1 << 20;
