//! Routes that contradict each other.

use std::collections::BTreeMap;

use super::{Report, Rule, is_certificate};
use crate::policy::{Injection, Route, Tls};
use crate::rules::route::CompiledRoute;

type Item<'a> = (usize, &'a Route, &'a CompiledRoute);

/// Routes are compared within the same host pattern only: two patterns are never equally specific and overlapping.
pub(super) fn check(routes: &[Item<'_>], report: &mut Report) {
    let mut groups: BTreeMap<String, Vec<Item<'_>>> = BTreeMap::new();
    for item in routes {
        groups.entry(item.2.host.to_string()).or_default().push(*item);
    }
    for group in groups.values() {
        check_tls(group, report);
        check_certificates(group, report);
        let mut credentials: BTreeMap<&str, Vec<Item<'_>>> = BTreeMap::new();
        for item in group {
            if let Some(credential) = &item.1.credential {
                credentials.entry(credential).or_default().push(*item);
            }
        }
        for routes in credentials.values() {
            check_ambiguity(routes, report);
        }
    }
}

/// The older of two wins, as the controller has it (DESIGN §7).
fn check_ambiguity(routes: &[Item<'_>], report: &mut Report) {
    for (later, item) in routes.iter().enumerate() {
        let earlier = routes.iter().take(later);
        if let Some((_, other, _)) = earlier.into_iter().find(|other| is_ambiguous(item, other)) {
            let message = format!(
                "overlaps route {} of the same credential, is as specific, and differs in what it allows",
                other.name
            );
            report.route(item.0).add("paths", Rule::Overlap, message);
        }
    }
}

/// Different surfaces don't contradict each other: the request shows which is meant.
fn is_ambiguous((_, one, left): &Item<'_>, (_, two, right): &Item<'_>) -> bool {
    let limits = |route: &Route| {
        (
            route.redact,
            route.set_cookie,
            route.range,
            route.websocket,
            route.addresses.clone(),
            route.tokens,
            route.ca.clone(),
            route.headers.clone(),
        )
    };
    let differ = limits(one) != limits(two) || left.git != right.git || surfaces_differ(one, two);
    differ && share_port(left, right) && left.methods.overlaps(&right.methods) && equal_paths_overlap(left, right)
}

/// The same place, read in two ways.
fn surfaces_differ(one: &Route, two: &Route) -> bool {
    match (&one.inject, &two.inject) {
        (Some(Injection::Header(left)), Some(Injection::Header(right))) => {
            left.name.eq_ignore_ascii_case(&right.name) && left.forms != right.forms
        }
        (Some(Injection::Basic(left)), Some(Injection::Basic(right))) => left != right,
        _ => false,
    }
}

fn equal_paths_overlap(left: &CompiledRoute, right: &CompiledRoute) -> bool {
    left.paths.iter().any(|one| {
        let mut others = right.paths.iter();
        others.any(|two| one.specificity() == two.specificity() && one.overlaps(two))
    })
}

fn share_port(left: &CompiledRoute, right: &CompiledRoute) -> bool {
    left.ports.iter().any(|port| right.ports.contains(port))
}

/// Of two kinds of connection on one port the terminated one stays, else the first.
fn check_tls(group: &[Item<'_>], report: &mut Report) {
    let mut kinds: BTreeMap<u16, Tls> = BTreeMap::new();
    let terminated = group.iter().filter(|(_, route, _)| route.tls == Tls::Terminate);
    for (_, route, compiled) in terminated.chain(group) {
        for port in &compiled.ports {
            kinds.entry(*port).or_insert(route.tls);
        }
    }
    for (index, route, compiled) in group {
        let conflict = compiled
            .ports
            .iter()
            .find(|port| kinds.get(port).is_some_and(|kind| *kind != route.tls));
        if let Some(port) = conflict {
            let message = format!("another route treats TLS to {} port {port} otherwise", compiled.host);
            report.route(*index).add("tls", Rule::MixedTls, message);
        }
    }
}

/// A connection shows one certificate.
fn check_certificates(group: &[Item<'_>], report: &mut Report) {
    let certificates: Vec<&Item<'_>> = group.iter().filter(|(_, route, _)| is_certificate(route)).collect();
    for (later, (index, route, compiled)) in certificates.iter().enumerate() {
        let mut earlier = certificates.iter().take(later);
        let other =
            earlier.find(|(_, other, shared)| other.credential != route.credential && share_port(shared, compiled));
        if let Some((_, other, _)) = other {
            let message = format!("route {} shows another certificate to the same host", other.name);
            report.route(*index).add("inject", Rule::Certificates, message);
        }
    }
}
