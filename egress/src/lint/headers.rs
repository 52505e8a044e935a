//! Headers that a route keeps for the sidecar.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::compile::may_carry;
use super::{RouteReport, Rule};
use crate::policy::{Headers, Injection, Route, Tls};
use crate::rules::route::HeaderRules;

/// Parses them; none when one can't be.
pub(super) fn compile(report: &mut RouteReport<'_>, route: &Route) -> Option<HeaderRules> {
    if route.headers == Headers::default() {
        return Some(HeaderRules::default());
    }
    if route.tls == Tls::Passthrough {
        report.add("headers", Rule::Headers, "with passthrough no header is seen");
    }
    if route.headers.drop_prefixes.len().max(route.headers.set.len()) > HEADERS_MAX {
        report.add("headers", Rule::Headers, "at most 16 prefixes and 16 headers");
    }
    let prefixes = drop_prefixes(report, &route.headers.drop_prefixes);
    let set = set(report, route);
    Some(HeaderRules {
        drop_prefixes: prefixes?,
        set: set?,
    })
}

fn drop_prefixes(report: &mut RouteReport<'_>, prefixes: &[String]) -> Option<Vec<Arc<str>>> {
    // A prefix of two words leaves everything alone that HTTP itself needs.
    let is_narrow = |prefix: &str| {
        let words = prefix.strip_suffix('-').and_then(|words| words.split_once('-'));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        words.is_some_and(|(first, second)| !first.is_empty() && !second.is_empty())
            && prefix.bytes().all(plain)
            && may_carry(prefix)
    };
    if prefixes.iter().all(|prefix| is_narrow(prefix)) {
        return Some(prefixes.iter().map(|prefix| Arc::from(prefix.as_str())).collect());
    }
    let message = "a prefix has two words in small letters, such as x-litellm-, and isn't one of HTTP's own headers";
    report.add("headers.dropPrefixes", Rule::Headers, message);
    None
}

fn set(report: &mut RouteReport<'_>, route: &Route) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let carrier = match &route.inject {
        Some(Injection::Header(header)) => header.name.as_str(),
        Some(Injection::Basic(_) | Injection::AwsSigV4(_)) => "authorization",
        _ => "",
    };
    let mut parsed = Vec::new();
    for (name, value) in &route.headers.set {
        let field = format!("headers.set.{name}");
        let found = HeaderName::try_from(name.as_str()).ok();
        let Some(found) = found.filter(|found| may_carry(found.as_str()) && !carrier.eq_ignore_ascii_case(name)) else {
            let message = "not a header that the sidecar can set: HTTP's own and the credential's stay as they are";
            report.add(&field, Rule::Headers, message);
            return None;
        };
        let visible =
            !value.is_empty() && value.len() <= VALUE_MAX && value.bytes().all(|byte| byte.is_ascii_graphic());
        let Some(value) = HeaderValue::try_from(value.as_str()).ok().filter(|_| visible) else {
            report.add(&field, Rule::Headers, "a value is 1 to 256 visible ASCII characters");
            return None;
        };
        parsed.push((found, value));
    }
    Some(parsed)
}

/// A gateway needs one of each.
const HEADERS_MAX: usize = 16;
/// A UID has 36.
const VALUE_MAX: usize = 256;
