//! Whether a request is signed with the stub of a route's credential, and for what the route grants (row 67).

use http::header::AUTHORIZATION;

use super::place::{Held, Place, Sighting, Sought};
use super::{Request, Surface};
use crate::aws::{CREDENTIAL, Claim, Form, Problem, TOKEN, TOKEN_HEADER};
use crate::rules::route::{AwsRule, CompiledRoute, SurfaceRule};
use crate::stubs::{StubId, Stubs};

/// The signature, if it is by the stub's key, in the route's region, for one of its services.
pub(super) fn find(rule: &AwsRule, sought: &Sought<'_>, request: &Request<'_>) -> Option<Held> {
    let claim = Claim::of(request.headers, request.query)?.ok()?;
    if sought.minted || check(rule, sought.stub, &claim).is_err() {
        return None;
    }
    let seen = |place: Place, at: usize| Sighting {
        stub: sought.id,
        place,
        at,
    };
    let in_query = |name: &str| {
        let at = request.query.and_then(|query| query.values(name).next());
        at.map(|range| seen(Place::Query, range.start))
    };
    let (key, token) = match claim.form {
        Form::Header => (
            Some(seen(Place::Header(AUTHORIZATION), 0)),
            Some(seen(Place::Header(TOKEN_HEADER), 0)),
        ),
        Form::Query => (in_query(CREDENTIAL), in_query(TOKEN)),
    };
    let token = token.filter(|_| claim.token.is_some());
    Some(Held {
        surface: Surface::AwsSigV4(Box::new(claim)),
        sightings: key.into_iter().chain(token).collect(),
        token: None,
    })
}

/// Why a signature with the stub of one of these routes isn't held by any of them; none when it is, or there is none.
pub(super) fn problem(
    routes: &[&CompiledRoute],
    held: &[(&CompiledRoute, Held)],
    (stubs, sightings): (&Stubs, &[Sighting]),
    request: &Request<'_>,
) -> Option<Problem> {
    let is_held = |id: StubId| {
        let mut ids = held.iter().filter_map(|(route, _)| route.inject.as_ref());
        ids.any(|inject| inject.stub == id)
    };
    routes.iter().find_map(|route| {
        let inject = route.inject.as_ref()?;
        let SurfaceRule::AwsSigV4(rule) = &inject.surface else {
            return None;
        };
        if is_held(inject.stub) || !sightings.iter().any(|sighting| sighting.stub == inject.stub) {
            return None;
        }
        match Claim::of(request.headers, request.query)? {
            Err(problem) => Some(problem),
            Ok(claim) => check(rule, &stubs.entry(inject.stub)?.stub, &claim).err()?,
        }
    })
}

/// An error without a problem is for others to tell: another key.
fn check(rule: &AwsRule, stub: &str, claim: &Claim) -> Result<(), Option<Problem>> {
    if claim.access_key != stub {
        return Err(None);
    }
    let problem = if claim.form == Form::Query && !rule.presigned {
        Problem::Presigned
    } else if *claim.region != *rule.region {
        Problem::Region
    } else if !rule.services.contains(&claim.service) {
        Problem::Service
    } else if claim.token.as_deref().is_some_and(|token| token != stub) {
        Problem::Token
    } else {
        return Ok(());
    };
    Err(Some(problem))
}
