//! AGENT → REPOSITORY. git's smart HTTP, where a route names repositories: a push is held until it's all there and
//! judged, and only then sent.
//!
//! What a repository says beforehand is rewritten so that packs can be looked into ([`advertisement`]). The push is
//! spooled ([`spool`]); its refs are held against the route ([`command`]); every object of its pack is made ([`pack`])
//! and scanned ([`secret`]), and what it changes is held against the [`protected`] paths ([`trees`]). The verdict
//! ([`inspect`]) is a refusal that git prints ([`report`]), or the bytes that were judged are sent.
//!
//! Not found, and expected to leak: a secret that is split, encrypted, compressed (archives, images, office files), in
//! UTF-16 or encoded beyond what [`crate::redact::Patterns`] knows; the value of a credential with `redact: false`; a
//! token shape in any encoding; large files, which go by LFS and not through a pack. Of protected paths: one that is
//! deleted, and a file whose content the repository holds already elsewhere, unless its directory is protected as a
//! whole. And whatever is pushed where no route says `git`.

use std::path::PathBuf;
use std::sync::Arc;

use berth_egress::decide::{Allowed, GitStep, GitUse};
use berth_egress::path::{Query, Target};
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName,
    HeaderValue, TRANSFER_ENCODING,
};
use http::{Extensions, Request, Response};
use http_body::Body as HttpBody;
use tokio::sync::Semaphore;

use self::inspect::{InspectError, Judge};
use self::protected::Protected;
use self::report::Objection;
use self::secret::Scanner;
use self::spool::{Held, SpoolError, Spooled};
use crate::body::{Body, Fault, full};
use crate::refusal::Refusal;
use crate::vault::Snapshot;

pub mod advertisement;
pub mod packet;

pub mod spool;

pub mod command;
pub mod oid;

pub mod pack;
pub mod protected;
pub mod secret;
pub mod trees;

pub mod inspect;

pub mod report;

#[cfg(test)]
mod tests;

/// Where pushes are held, one at a time.
pub struct Pushes {
    directory: PathBuf,
    max: u64,
    room: Arc<Semaphore>,
}

/// A push after its verdict.
pub enum Verdict {
    /// It may go on. It carries a mark without which [`check`] lets none pass.
    Passed(Request<Held>),
    /// It may not; git prints the answer.
    Refused {
        /// For the audit trail.
        reason: String,
        /// For the agent.
        response: Response<Body>,
    },
}

/// The mark of a push that has passed: by which limits.
#[derive(Clone)]
struct Vetted(GitUse);

impl Pushes {
    /// Held in this directory, which only the sidecar reads; up to [`PUSH_MAX`] bytes.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            max: PUSH_MAX,
            room: Arc::new(Semaphore::new(1)),
        }
    }

    /// With another bound than [`PUSH_MAX`].
    #[must_use]
    pub fn with_max(self, max: u64) -> Self {
        Self { max, ..self }
    }

    /// Takes a push in, and judges it.
    pub async fn hold<B>(&self, allowed: &GitUse, known: &Snapshot, request: Request<B>) -> Result<Verdict, Refusal>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<Fault>,
    {
        let (mut head, body) = request.into_parts();
        let permit = Arc::clone(&self.room).acquire_owned().await;
        let permit = permit.map_err(|error| Refusal::unavailable(crate::chain(&error)))?;
        let spooled = spool::spool(&self.directory, self.max, &head.headers, body, permit).await;
        let spooled = spooled.map_err(|error| unspooled(&error))?;
        if let Some((reason, response)) = self.judge(allowed, known, &spooled).await? {
            return Ok(Verdict::Refused { reason, response });
        }
        // The body is decoded, has a known length and is here: nobody has to ask for it.
        for name in [CONTENT_ENCODING, TRANSFER_ENCODING, EXPECT] {
            head.headers.remove(name);
        }
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(spooled.length));
        head.extensions.insert(Vetted(allowed.clone()));
        let body = spooled.into_body().await.map_err(|error| unspooled(&error))?;
        Ok(Verdict::Passed(Request::from_parts(head, body)))
    }

    /// Why it may not go on, and the answer.
    async fn judge(
        &self,
        allowed: &GitUse,
        known: &Snapshot,
        spooled: &Spooled,
    ) -> Result<Option<(String, Response<Body>)>, Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::unavailable(crate::chain(error));
        let stubs = known.stubs().values().map(String::as_str);
        let scanner = Scanner::new(known.patterns.clone(), stubs).map_err(|error| failed(&error))?;
        let protected = Protected::with(allowed.protect.iter().map(String::as_str)).map_err(|error| failed(&error))?;
        let file = spooled.reader().await.map_err(|error| unspooled(&error))?;
        let repository = allowed.repository.clone();
        let (allowed, length, too_large) = (allowed.clone(), spooled.length, spooled.too_large);
        let room = spooled.room();
        let judged = tokio::task::spawn_blocking(move || {
            let _room = room; // it goes on although the agent may hang up
            let judge = Judge {
                allowed: &allowed,
                scanner: &scanner,
                protected: &protected,
            };
            if too_large {
                return inspect::commands(&file, length).map(|(commands, _)| (commands, None));
            }
            judge.judge(&file, length)
        });
        let judged = judged.await.map_err(|error| failed(&error))?;
        let (commands, objection) = judged.map_err(|error| match &error {
            InspectError::Read(_) => failed(&error),
            InspectError::Commands(_) => Refusal::bad(crate::chain(&error)),
        })?;
        let objection = if too_large { Some(self.too_large()) } else { objection };
        let Some(objection) = objection else { return Ok(None) };
        let reason = format!("a push to {repository}: {}", objection.reason);
        let report = report::refuse(&commands, &objection).ok_or_else(|| Refusal::denied(reason.clone()))?;
        Ok(Some((reason, answer(report))))
    }

    fn too_large(&self) -> Objection {
        Objection {
            reason: format!(
                "a push may have {} MiB: push in smaller steps, or large files by other means",
                self.max >> 20
            ),
            details: Vec::new(),
            refs: Vec::new(),
        }
    }
}

/// Lets no push pass that wasn't judged by the very limits that hold now.
pub fn check(allowed: &Allowed, extensions: &Extensions) -> Result<(), Refusal> {
    match &allowed.git {
        Some(git) if git.step == GitStep::Push => match extensions.get::<Vetted>() {
            Some(Vetted(vetted)) if vetted == git => Ok(()),
            Some(_) => Err(Refusal::denied(
                "the policy has changed while the push was looked at: push again",
            )),
            None => Err(Refusal::denied("a push comes to git-receive-pack, spelled so")),
        },
        Some(_) | None => Ok(()),
    }
}

/// Whether a request may be a push; one that is and isn't seen here is refused by [`check`].
pub fn may_be_push<B>(request: &Request<B>) -> bool {
    request.uri().path().ends_with("/git-receive-pack")
}

/// Asks for what [`for_agent`] can read: `receive-pack` has no version 2, and 1 says no more than 0.
pub fn for_upstream(allowed: &Allowed, target: &Target, headers: &mut HeaderMap) {
    let Some(git) = &allowed.git else { return };
    if git.step == GitStep::Push || is_advertisement(git, target) {
        headers.remove(PROTOCOL);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Rewrites what a repository says before a push.
pub fn for_agent(allowed: &Allowed, target: &Target, response: Response<Body>) -> Result<Response<Body>, Refusal> {
    match &allowed.git {
        Some(git) if is_advertisement(git, target) => advertisement::rewrite(response),
        Some(_) | None => Ok(response),
    }
}

fn is_advertisement(git: &GitUse, target: &Target) -> bool {
    let service = target.query.as_ref().map(Query::as_str);
    git.step == GitStep::Discovery && service == Some("service=git-receive-pack")
}

fn answer(report: Bytes) -> Response<Body> {
    let mut response = Response::new(full(report));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(RESULT));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn unspooled(error: &SpoolError) -> Refusal {
    let reason = crate::chain(error);
    match error {
        SpoolError::File(_) => Refusal::unavailable(reason),
        SpoolError::Endless(_) => Refusal::too_large(reason),
        SpoolError::Body(_) | SpoolError::Coding(_) | SpoolError::Unknown => Refusal::bad(reason),
    }
}

/// Of one push: a few hundred MiB is what forges take, and it's held on the node.
pub const PUSH_MAX: u64 = 512 << 20;
const PROTOCOL: HeaderName = HeaderName::from_static("git-protocol");
const RESULT: &str = "application/x-git-receive-pack-result";
