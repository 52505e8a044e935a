//! Pure: a request → what may be done with it. It must name its tunnel's host and no other, by every name that it
//! carries; its path is made canonical once, and what was judged is what is sent.

use berth_egress::authority::Authority;
use berth_egress::decide::{Allowed, Denial, Request as Asked, Upgrade};
use berth_egress::path::Target;
use berth_egress::rules::Rules;
use http::header::{CONNECTION, HOST, HeaderMap, UPGRADE};
use http::{Method, Request, Uri, Version};

use crate::refusal::{Refusal, Wanted};
use crate::tunnel::Tunnel;

/// A request that may be passed on.
pub struct Judged {
    /// By which routes, and with which credentials.
    pub allowed: Allowed,
    /// Path and query as they are sent.
    pub target: Target,
    /// Whether it asks for WebSocket, and may.
    pub upgrade: bool,
}

/// Decides about a request.
pub fn judge<B>(rules: &Rules, tunnel: &Tunnel, request: &Request<B>) -> Result<Judged, Refusal> {
    named(tunnel, request.uri(), request.headers(), request.version())?;
    if request.method() == Method::CONNECT {
        return Err(Refusal::bad("CONNECT inside a tunnel"));
    }
    let raw = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let target = Target::parse(raw).map_err(|error| Refusal::malformed(&error))?;
    let upgrade = upgrade(request.headers(), request.version())?;
    let asked = Asked {
        authority: &tunnel.authority,
        tls: tunnel.tls,
        method: request.method(),
        path: &target.path,
        query: target.query.as_ref(),
        headers: request.headers(),
        upgrade,
    };
    let allowed = rules.decide(&asked).map_err(|denial| refused(rules, &denial, &asked))?;
    Ok(Judged {
        allowed,
        target,
        upgrade: upgrade.is_some(),
    })
}

/// What lacks a route that says so might get one; what is malformed can't.
fn refused(rules: &Rules, denial: &Denial, asked: &Asked<'_>) -> Refusal {
    let refusal = Refusal::from(denial);
    let unmet = matches!(denial, Denial::Method | Denial::Path | Denial::Misdirected { .. });
    let Some(credential) = rules.wanted(asked).filter(|_| unmet) else {
        return refusal;
    };
    refusal.wanting(Wanted {
        credential: credential.to_owned(),
        method: asked.method.to_string(),
        path: asked.path.as_str().to_owned(),
    })
}

/// `:authority` and an absolute target must be the tunnel's; `Host` is judged with the rules.
fn named(tunnel: &Tunnel, uri: &Uri, headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    if let Some(authority) = uri.authority() {
        let named = Authority::from_host_header(authority.as_str(), tunnel.default_port());
        if named.map_err(|error| Refusal::malformed(&error))? != tunnel.authority {
            return Err(Refusal::misdirected(&tunnel.authority));
        }
    } else if !headers.contains_key(HOST) && version != Version::HTTP_10 {
        return Err(Refusal::bad("the request names no host"));
    }
    let scheme = if tunnel.tls { "https" } else { "http" };
    if uri.scheme_str().is_some_and(|named| named != scheme) {
        return Err(Refusal::misdirected(&tunnel.authority));
    }
    Ok(())
}

/// WebSocket alone; anything else is passed on without the upgrade only when it isn't insisted on, which nobody can see,
/// so it is refused.
fn upgrade(headers: &HeaderMap, version: Version) -> Result<Option<Upgrade>, Refusal> {
    let Some(protocol) = headers.get(UPGRADE) else {
        return Ok(None);
    };
    let wanted = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    if !wanted
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    {
        return Ok(None);
    }
    if version == Version::HTTP_11 && protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return Ok(Some(Upgrade::WebSocket));
    }
    // curl offers h2c on plain connections and goes on without it.
    if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return Ok(None);
    }
    Err(Refusal::bad("an upgrade to another protocol than websocket"))
}
