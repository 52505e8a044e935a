//! Where in a request stubs stand, and whether a surface holds one as its whole value.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::{Request, Surface, aws};
use crate::path::Query;
use crate::rules::route::SurfaceRule;
use crate::stubs::{StubId, Stubs, decode_base64};
use crate::tokens;

/// A part of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A header's value.
    Header(HeaderName),
    /// A header's name.
    HeaderName,
    /// The path.
    Path,
    /// The query.
    Query,
    /// A query parameter that a route exchanges.
    Parameter(Arc<str>),
}

/// A stub, seen somewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Sighting {
    pub(super) stub: StubId,
    pub(super) place: Place,
    /// Which value of a header, or where in the query.
    pub(super) at: usize,
}

/// A surface that holds its stub, or needs none.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) surface: Surface,
    /// Where its stub is: none for a body and a certificate, two for a key of AWS that comes with a token.
    pub(super) sightings: Vec<Sighting>,
    /// The stub of a token, where it is one.
    pub(super) token: Option<Arc<str>>,
}

/// Everything in the request that holds a stub in any spelling.
pub(super) fn sightings(stubs: &Stubs, request: &Request<'_>) -> Vec<Sighting> {
    let mut sightings = Vec::new();
    let mut look = |text: &[u8], place: Place, at: usize| {
        let seen = stubs.within(text).into_iter();
        sightings.extend(seen.map(|stub| Sighting {
            stub,
            place: place.clone(),
            at,
        }));
    };
    look(request.path.as_str().as_bytes(), Place::Path, 0);
    for name in request.headers.keys() {
        look(name.as_str().as_bytes(), Place::HeaderName, 0);
        for (at, value) in request.headers.get_all(name).iter().enumerate() {
            look(value.as_bytes(), Place::Header(name.clone()), at);
        }
    }
    let mut start = 0;
    for pair in request
        .query
        .map(Query::as_str)
        .into_iter()
        .flat_map(|query| query.split('&'))
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        look(key.as_bytes(), Place::Query, start);
        look(value.as_bytes(), Place::Query, start + pair.len() - value.len());
        start += pair.len() + 1;
    }
    sightings
}

/// What a surface must hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought<'a> {
    pub(super) id: StubId,
    /// Of the credential.
    pub(super) stub: &'a str,
    /// Not the credential's own, but one of a token that was minted for it.
    pub(super) minted: bool,
}

impl Sought<'_> {
    fn is(&self, text: &str) -> bool {
        if self.minted {
            tokens::is_stub_of(text, self.stub)
        } else {
            text == self.stub
        }
    }
}

/// The stub on the surface, if it is the whole value in one of the forms.
pub(super) fn find(rule: &SurfaceRule, sought: &Sought<'_>, request: &Request<'_>) -> Option<Held> {
    match rule {
        SurfaceRule::Header { name, forms } => {
            let value = request.headers.get(name)?.to_str().ok()?;
            let whole = |(before, after): &(String, String)| {
                let inner = value.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
                sought.is(inner).then(|| (before.clone(), after.clone(), inner))
            };
            let (before, after, inner) = forms.iter().find_map(whole)?;
            let surface = Surface::Header {
                name: name.clone(),
                before,
                after,
            };
            Some(seen(surface, (sought, inner), Place::Header(name.clone()), 0))
        }
        SurfaceRule::Basic { username } => {
            let (actual, password) = basic(request)?;
            let named = username.as_ref().is_none_or(|username| *username == actual);
            let surface = Surface::Basic { username: actual };
            let held = (sought, password.as_str());
            (named && sought.is(&password)).then(|| seen(surface, held, Place::Header(AUTHORIZATION), 0))
        }
        SurfaceRule::Query { name } => {
            let query = request.query?;
            let range = query.values(name).next()?;
            let at = range.start;
            let surface = Surface::Query { name: Arc::clone(name) };
            let value = query.as_str().get(range)?;
            sought
                .is(value)
                .then(|| seen(surface, (sought, value), Place::Query, at))
        }
        SurfaceRule::Body { name } => Some(unseen(Surface::Body { name: Arc::clone(name) })),
        SurfaceRule::ClientCertificate => Some(unseen(Surface::ClientCertificate)),
        SurfaceRule::AwsSigV4(rule) => aws::find(rule, sought, request),
    }
}

/// The part of the request that may have one value only.
pub(super) fn of(rule: &SurfaceRule) -> Option<Place> {
    match rule {
        SurfaceRule::Header { name, .. } => Some(Place::Header(name.clone())),
        SurfaceRule::Basic { .. } | SurfaceRule::AwsSigV4(_) => Some(Place::Header(AUTHORIZATION)),
        SurfaceRule::Query { name } => Some(Place::Parameter(Arc::clone(name))),
        SurfaceRule::Body { .. } | SurfaceRule::ClientCertificate => None,
    }
}

/// How many values there are.
pub(super) fn count(place: &Place, request: &Request<'_>) -> usize {
    match place {
        Place::Header(name) => request.headers.get_all(name).iter().count(),
        Place::Parameter(name) => request.query.map_or(0, |query| query.values(name).count()),
        Place::HeaderName | Place::Path | Place::Query => 0,
    }
}

fn seen(surface: Surface, (sought, text): (&Sought<'_>, &str), place: Place, at: usize) -> Held {
    let stub = sought.id;
    Held {
        surface,
        sightings: vec![Sighting { stub, place, at }],
        token: sought.minted.then(|| Arc::from(text)),
    }
}

fn unseen(surface: Surface) -> Held {
    Held {
        surface,
        sightings: Vec::new(),
        token: None,
    }
}

/// User name and password of HTTP Basic (RFC 7617).
fn basic(request: &Request<'_>) -> Option<(String, String)> {
    let value = request.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(decode_base64(token.as_bytes())?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(formatter, "header {name}"),
            Self::HeaderName => formatter.write_str("the name of a header"),
            Self::Path => formatter.write_str("the path"),
            Self::Query => formatter.write_str("the query"),
            Self::Parameter(name) => write!(formatter, "query parameter {name}"),
        }
    }
}
