//! One route: its parts parsed, and what it says by itself checked.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;

use super::{RouteReport, Rule, aws, headers, is_redacted};
use crate::address::classify;
use crate::pattern::{HostPattern, Methods, PathPattern, PatternError};
use crate::policy::{BasicInjection, Credential, GitRoute, HeaderInjection, Injection, Route, Tls};
use crate::rules::route::{CompiledRoute, Inject, SurfaceRule};
use crate::stubs::StubId;

/// Compiles a route. None when a part can't be parsed; other findings drop it too, later.
pub(super) fn route(
    report: &mut RouteReport<'_>,
    route: &Route,
    credentials: &HashMap<&str, &Credential>,
) -> Option<CompiledRoute> {
    let host = host(report, route);
    let methods = methods(report, route);
    let paths = paths(report, route);
    let inject = inject(report, route, credentials);
    check_addresses(report, route);
    check_tls(report, route);
    check_ca(report, route);
    let headers = headers::compile(report, route);
    if let Some(git) = &route.git {
        check_git(report, git);
    }
    let credential = route.credential.as_deref().and_then(|name| credentials.get(name));
    Some(CompiledRoute {
        name: Arc::from(route.name.as_str()),
        host: host?,
        ports: route.effective_ports(),
        methods: methods?,
        paths: paths?,
        inject: inject.ok()?,
        git: route.git.clone(),
        protected_paths: route.protected_paths,
        tls: route.tls,
        websocket: route.websocket,
        addresses: route.addresses.clone(),
        redact: credential.is_some_and(|credential| is_redacted(route, credential)),
        set_cookie: route.set_cookie,
        range: route.range,
        tokens: route.tokens,
        headers: headers?,
    })
}

fn host(report: &mut RouteReport<'_>, route: &Route) -> Option<HostPattern> {
    let pattern = match HostPattern::parse(&route.host) {
        Ok(pattern) => pattern,
        Err(error @ (PatternError::Wildcard | PatternError::PublicSuffix(_))) => {
            report.add("host", Rule::Wildcard, error.to_string());
            return None;
        }
        Err(error) => {
            report.add("host", Rule::Host, error.to_string());
            return None;
        }
    };
    if let HostPattern::Exact(host) = &pattern
        && (host.is_metadata() || host.address().is_some_and(|address| classify(address).is_final()))
    {
        let message = "no route opens a metadata service, multicast or the unspecified address";
        report.add("host", Rule::Host, message);
    }
    Some(pattern)
}

fn methods(report: &mut RouteReport<'_>, route: &Route) -> Option<Methods> {
    if route.methods.is_empty() {
        if route.credential.is_some() && route.git.is_none() {
            let message = "a route with a credential names its methods; write [\"*\"] to mean all";
            report.add("methods", Rule::Methods, message);
        }
        return Some(Methods::All);
    }
    let parsed = Methods::parse(&route.methods);
    parsed
        .map_err(|error| report.add("methods", Rule::Method, error.to_string()))
        .ok()
}

fn paths(report: &mut RouteReport<'_>, route: &Route) -> Option<Vec<PathPattern>> {
    let everything = ["/**".to_owned()];
    let paths = if route.paths.is_empty() {
        everything.as_slice()
    } else {
        &route.paths
    };
    let parsed = paths.iter().enumerate().map(|(index, path)| {
        PathPattern::parse(path)
            .map_err(|error| report.add(&format!("paths[{index}]"), Rule::Path, error.to_string()))
            .ok()
    });
    // Each pattern is looked at, so that all findings are told at once.
    parsed.collect::<Vec<_>>().into_iter().collect()
}

/// What is wrong was reported.
struct Reported;

/// None for a route without a credential.
fn inject(
    report: &mut RouteReport<'_>,
    route: &Route,
    credentials: &HashMap<&str, &Credential>,
) -> Result<Option<Inject>, Reported> {
    let (name, injection) = match (&route.credential, &route.inject) {
        (None, None) => return Ok(None),
        (Some(name), Some(injection)) => (name, injection),
        (Some(_), None) => {
            report.add("inject", Rule::Inject, "say where in the request the credential goes");
            return Err(Reported);
        }
        (None, Some(_)) => {
            report.add("credential", Rule::Inject, "say which credential is injected");
            return Err(Reported);
        }
    };
    let surface = surface(report, route, injection);
    let Some(credential) = credentials.get(name.as_str()) else {
        report.add(
            "credential",
            Rule::UnknownCredential,
            format!("there is no credential {name}"),
        );
        return Err(Reported);
    };
    check_redaction(report, route, injection, credential);
    aws::check_credential(report, injection, credential);
    Ok(Some(Inject {
        credential: Arc::from(name.as_str()),
        stub: StubId(usize::MAX),
        surface: surface.ok_or(Reported)?,
    }))
}

fn check_redaction(report: &mut RouteReport<'_>, route: &Route, injection: &Injection, credential: &Credential) {
    let redacted = is_redacted(route, credential);
    if matches!(injection, Injection::Query(_) | Injection::Body(_)) && !redacted {
        let message = "a credential in the query or body comes back in errors and logs; it needs redaction";
        report.add("redact", Rule::Redaction, message);
    }
    if route.range && redacted {
        let message = "ranges split a value so that it can't be redacted; drop range or set redact: false";
        report.add("range", Rule::Range, message);
    }
}

fn surface(report: &mut RouteReport<'_>, route: &Route, injection: &Injection) -> Option<SurfaceRule> {
    match injection {
        Injection::Header(header) => header_surface(report, header),
        Injection::Basic(basic) => basic_surface(report, basic),
        Injection::Query(value) | Injection::Body(value) if value.name.is_empty() => {
            report.add("inject", Rule::Name, "the parameter, field or pointer needs a name");
            None
        }
        Injection::Query(value) => Some(SurfaceRule::Query {
            name: Arc::from(value.name.as_str()),
        }),
        Injection::Body(value) => Some(SurfaceRule::Body {
            name: Arc::from(value.name.as_str()),
        }),
        Injection::ClientCertificate(_) => Some(SurfaceRule::ClientCertificate),
        Injection::AwsSigV4(injection) => aws::surface(report, route, injection),
    }
}

fn basic_surface(report: &mut RouteReport<'_>, basic: &BasicInjection) -> Option<SurfaceRule> {
    let odd = |username: &String| username.contains(|c: char| c == ':' || c.is_control());
    if basic.username.as_ref().is_some_and(odd) {
        let message = "a user name of HTTP Basic has no ':' and no control characters (RFC 7617)";
        report.add("inject.basic.username", Rule::Name, message);
        return None;
    }
    Some(SurfaceRule::Basic {
        username: basic.username.clone(),
    })
}

fn header_surface(report: &mut RouteReport<'_>, header: &HeaderInjection) -> Option<SurfaceRule> {
    let Ok(name) = HeaderName::try_from(header.name.as_str()) else {
        report.add("inject.header.name", Rule::Header, "not the name of a header");
        return None;
    };
    if !may_carry(name.as_str()) {
        let message = format!(
            "{name} is hop-by-hop, frames or routes the message, or is read by others; it carries no credential"
        );
        report.add("inject.header.name", Rule::Header, message);
        return None;
    }
    let bare = ["{}".to_owned()];
    let forms = if header.forms.is_empty() {
        bare.as_slice()
    } else {
        &header.forms
    };
    let parsed: Option<Vec<_>> = forms.iter().map(|form| split_form(form)).collect();
    if parsed.is_none() {
        let message = "a form has '{}' once, visible ASCII and single spaces around it, such as 'Bearer {}'";
        report.add("inject.header.forms", Rule::Form, message);
    }
    parsed.map(|forms| SurfaceRule::Header { name, forms })
}

/// What stands before and after `{}`.
fn split_form(form: &str) -> Option<(String, String)> {
    let (before, after) = form.split_once("{}")?;
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let plain = form.bytes().all(visible) && form.trim() == form && !after.contains("{}");
    plain.then(|| (before.to_owned(), after.to_owned()))
}

/// Whether a header can carry a credential.
pub(super) fn may_carry(name: &str) -> bool {
    let prefixes = [
        "access-control-",
        "content-",
        "if-",
        "proxy-",
        "sec-",
        "x-amz-meta-",
        "x-forwarded-",
        "x-original-",
        "x-rewrite-",
    ];
    !HEADERS_REFUSED.contains(&name) && !prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn check_addresses(report: &mut RouteReport<'_>, route: &Route) {
    if route.ports.contains(&0) {
        report.add("ports", Rule::Port, "a port is from 1 to 65535");
    }
    if route.addresses.iter().any(|net| net.prefix_len() == 0) {
        report.add(
            "addresses",
            Rule::Addresses,
            "name the networks; /0 opens all of the cluster",
        );
    }
    if let Some(port) = route.ports.iter().find(|port| CONTROL_PLANE_PORTS.contains(port))
        && !route.addresses.is_empty()
    {
        let message = format!("port {port} is one of the cluster's control plane or of the sidecar");
        report.add("addresses", Rule::Addresses, message);
    }
}

fn check_tls(report: &mut RouteReport<'_>, route: &Route) {
    if route.tls != Tls::Terminate && (route.credential.is_some() || route.git.is_some()) {
        let message = "a credential, and git limits, need TLS that ends at the sidecar";
        report.add("tls", Rule::CredentialTls, message);
    }
    let limited = !route.methods.is_empty() || !route.paths.is_empty() || route.websocket;
    if route.tls == Tls::Passthrough && limited {
        let message = "with passthrough no request is seen; methods, paths and websocket say nothing";
        report.add("tls", Rule::Unseen, message);
    }
}

/// Whether they can be read is for those who read certificates.
fn check_ca(report: &mut RouteReport<'_>, route: &Route) {
    let Some(ca) = &route.ca else { return };
    if route.tls != Tls::Terminate {
        report.add("ca", Rule::Ca, "certificates are for TLS that ends at the sidecar");
    }
    if ca.len() > CA_MAX || !ca.contains("-----BEGIN CERTIFICATE-----") {
        let message = "write certificates in PEM, of at most 64 KiB; no key belongs there";
        report.add("ca", Rule::Ca, message);
    }
}

fn check_git(report: &mut RouteReport<'_>, git: &GitRoute) {
    if git.repos.is_empty() || !git.repos.iter().all(|repository| is_repository(repository)) {
        let message = "name repositories as owner/name, without .git, of letters, digits and _ . -";
        report.add("git.repos", Rule::Git, message);
    }
    let valid = |prefix: &String| prefix.starts_with("refs/") && !prefix.contains("..");
    if !git.ref_prefixes.iter().all(valid) {
        report.add(
            "git.refPrefixes",
            Rule::Git,
            "a ref prefix begins with refs/, such as refs/heads/agent/",
        );
    }
}

fn is_repository(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    text.contains('/') && text.split('/').all(segment) && !text.to_ascii_lowercase().ends_with(".git")
}

/// Hop-by-hop (RFC 9110 §7.6.1), framing, routing, overrides (row 22), cookies, and what servers log or
/// store (row 33).
const HEADERS_REFUSED: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "cookie",
    "cookie2",
    "date",
    "expect",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// A bundle of an organisation; public roots have four times as much.
const CA_MAX: usize = 64 << 10;
/// etcd, kubelet, controller manager, scheduler (row 13), and the sidecar's own two (`sidecar/src/listen.rs`).
const CONTROL_PLANE_PORTS: &[u16] = &[2379, 2380, 10250, 10255, 10256, 10257, 10259, 14322, 14323];
