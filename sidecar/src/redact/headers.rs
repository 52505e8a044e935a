//! Pure: header fields and trailers of a response, with their secrets replaced. The same for 1xx responses.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HeaderValue};

use super::pattern::{Patterns, Width};
use crate::exchange::headers::drop_those;

/// What a route lets through beside what every route does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// `Set-Cookie`: a cookie from a login is a credential that nobody granted.
    pub set_cookie: bool,
}

/// Replaces secrets in values; drops fields that a credentialed route doesn't pass, that have a secret in their name,
/// or whose value isn't valid any more. Returns how many secrets there were.
pub fn redact(headers: &mut HeaderMap, patterns: &Patterns, policy: Policy) -> u64 {
    drop_those(headers, |name| {
        DROPPED.contains(&name) || (!policy.set_cookie && COOKIES.contains(&name))
    });
    redact_names(headers, patterns) + redact_values(headers, patterns)
}

/// Removes what says how long the body is, since a stub may have another length than its secret.
pub fn unframe(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
}

fn redact_names(headers: &mut HeaderMap, patterns: &Patterns) -> u64 {
    let telling: Vec<_> = headers
        .keys()
        .filter(|name| patterns.occur_in(name.as_str().as_bytes()))
        .cloned()
        .collect();
    let mut count = 0;
    for name in telling {
        headers.remove(name);
        count += 1;
    }
    count
}

fn redact_values(headers: &mut HeaderMap, patterns: &Patterns) -> u64 {
    let mut count = 0;
    let mut invalid = Vec::new();
    for (name, value) in headers.iter_mut() {
        let Some((text, found)) = patterns.redact(value.as_bytes(), Width::Free) else {
            continue;
        };
        count += found;
        match HeaderValue::from_maybe_shared(text.freeze()) {
            Ok(redacted) => *value = redacted,
            Err(_invalid) => invalid.push(name.clone()),
        }
    }
    for name in invalid {
        headers.remove(name);
    }
    count
}

/// `Alt-Svc` leads around the proxy; ranges are never asked for.
const DROPPED: [&str; 2] = ["alt-svc", "accept-ranges"];
const COOKIES: [&str; 2] = ["set-cookie", "set-cookie2"];

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "fake-token-0123456789";

    fn patterns(stub: &str) -> Patterns {
        Patterns::new([("fake", SECRET.as_bytes(), stub)]).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn values_are_redacted_in_place_and_the_rest_is_left() {
        let mut found = headers(&[
            ("www-authenticate", "Bearer realm=\"fake-token-0123456789\""),
            ("location", "/?a=fake-token-0123456789&b=ZmFrZS10b2tlbi0wMTIzNDU2Nzg5"),
            ("x-other", "as it was"),
            ("x-other", "twice fake-token-0123456789"),
        ]);
        assert_eq!(redact(&mut found, &patterns("stub-1"), Policy::default()), 4);
        let expected = headers(&[
            ("www-authenticate", "Bearer realm=\"stub-1\""),
            ("location", "/?a=stub-1&b=REDACTEDREDACTEDREDACTEDREDA"),
            ("x-other", "as it was"),
            ("x-other", "twice stub-1"),
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn names_that_tell_and_values_that_break_are_dropped() {
        let mut found = headers(&[("x-fake-token-0123456789", "here"), ("x-kept", "yes")]);
        assert_eq!(redact(&mut found, &patterns("stub-1"), Policy::default()), 1);
        assert_eq!(found, headers(&[("x-kept", "yes")]));

        let mut found = headers(&[("x-echo", "fake-token-0123456789"), ("x-kept", "yes")]);
        assert_eq!(redact(&mut found, &patterns("stub\n1"), Policy::default()), 1);
        assert_eq!(found, headers(&[("x-kept", "yes")]));
    }

    #[test]
    fn ways_around_are_dropped_and_cookies_need_leave() {
        let all = [
            ("alt-svc", "h3=\":443\""),
            ("set-cookie", "a=b"),
            ("accept-ranges", "bytes"),
        ];
        let mut found = headers(&all);
        redact(&mut found, &patterns("stub-1"), Policy::default());
        assert!(found.is_empty());
        let mut found = headers(&all);
        redact(&mut found, &patterns("stub-1"), Policy { set_cookie: true });
        assert_eq!(found, headers(&[("set-cookie", "a=b")]));
    }
}
