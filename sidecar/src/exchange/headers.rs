//! Pure: headers that concern one leg are taken off before the other.

use berth_egress::decide::OwnHeaders;
use http::header::{ALT_SVC, CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, UPGRADE};

/// Of a request. Stripped first, exchanged afterwards: a `Connection` header can't take a credential off.
pub fn for_upstream(headers: &mut HeaderMap, upgrade: bool, credentialed: bool) {
    let trailers = headers
        .get(TE)
        .and_then(|te| te.to_str().ok())
        .is_some_and(|te| te.split(',').any(is_trailers));
    strip(headers, upgrade);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if credentialed {
        drop_those(headers, |name| OVERRIDES.contains(&name));
        crate::redact::request::prepare(headers);
    }
}

/// Headers that the agent has no say in are taken off, then set.
pub fn own(headers: &mut HeaderMap, own: &OwnHeaders) {
    if !own.drop_prefixes.is_empty() {
        drop_those(headers, |name| {
            own.drop_prefixes.iter().any(|prefix| name.starts_with(&**prefix))
        });
    }
    for (name, value) in &own.set {
        headers.insert(name.clone(), value.clone());
    }
}

/// Of an answer.
pub fn for_agent(headers: &mut HeaderMap) {
    strip(headers, false);
    headers.remove(ALT_SVC); // offers a way round the proxy
}

/// Of an answer that agrees to WebSocket.
pub fn for_agent_upgraded(headers: &mut HeaderMap) {
    strip(headers, true);
    headers.remove(ALT_SVC);
}

/// RFC 9110 §7.6.1: what `Connection` names, and what is known to be for one leg. `Trailer` stays: trailers are passed on.
fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let nominated = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != UPGRADE && *name != TRAILER);
    let nominated: Vec<HeaderName> = nominated.collect();
    for name in nominated {
        headers.remove(name);
    }
    let protocol = headers.get(UPGRADE).cloned();
    drop_those(headers, |name| ONE_LEG.contains(&name));
    if let (true, Some(protocol)) = (upgrade, protocol) {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Drops headers by their names. A message has few of them: one look at each costs less than a look-up for every name
/// that could be there.
pub(crate) fn drop_those(headers: &mut HeaderMap, is_dropped: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| is_dropped(name.as_str())).cloned() {
        headers.remove(name);
    }
}

fn is_trailers(coding: &str) -> bool {
    coding.trim().eq_ignore_ascii_case("trailers")
}

/// What is for one leg whether `Connection` names it or not.
const ONE_LEG: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// They would let a request be another one behind the upstream's door (research/vault-proxy.md §2.1, row 22).
const OVERRIDES: [&str; 8] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "forwarded",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn what_connection_names_goes_and_trailers_stay() {
        let mut found = headers(&[
            ("connection", "close, x-secret-door, te"),
            ("x-secret-door", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("proxy-authorization", "Basic Zm9v"),
            ("x-http-method-override", "DELETE"),
            ("accept", "*/*"),
        ]);
        for_upstream(&mut found, false, false);
        assert_eq!(
            found,
            headers(&[
                ("x-http-method-override", "DELETE"),
                ("accept", "*/*"),
                ("te", "trailers")
            ])
        );
        for_upstream(&mut found, false, true);
        assert!(!found.contains_key("x-http-method-override"));
    }

    #[test]
    fn what_is_the_sidecars_own_is_never_the_agents() {
        let mut found = headers(&[
            ("x-litellm-session-id", "another"),
            ("x-litellm-tags", "free"),
            ("x-litellm", "1"),
            ("accept", "*/*"),
        ]);
        let session = (
            HeaderName::from_static("x-litellm-session-id"),
            HeaderValue::from_static("uid"),
        );
        own(
            &mut found,
            &OwnHeaders {
                drop_prefixes: vec!["x-litellm-".into()],
                set: vec![session],
            },
        );
        assert_eq!(
            found,
            headers(&[("x-litellm", "1"), ("accept", "*/*"), ("x-litellm-session-id", "uid")])
        );
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut found = headers(&[("connection", "Upgrade, keep-alive"), ("upgrade", "websocket")]);
        for_upstream(&mut found, true, false);
        assert_eq!(found, headers(&[("upgrade", "websocket"), ("connection", "upgrade")]));
        let mut found = headers(&[("connection", "Upgrade"), ("upgrade", "h2c")]);
        for_upstream(&mut found, false, false);
        assert!(found.is_empty());
    }
}
