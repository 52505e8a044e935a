//! Certificates of a policy: those that upstreams are shown, and those that the hosts of a route are verified with.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_egress::policy::{Injection, Policy, Route};
use berth_outbound::identity::{Identity, Roots};
use secrecy::ExposeSecret;

use super::{Problem, Value};
use crate::clock::{Boottime, unix_seconds};

/// The certificates that credentials are, by their names. A value that is none is dropped; one that ends does so with
/// its certificate.
pub(super) fn identities(
    policy: &Policy,
    values: &mut HashMap<String, Value>,
    problems: &mut Vec<Problem>,
) -> HashMap<String, Arc<Identity>> {
    let mut identities = HashMap::new();
    for name in shown(policy) {
        let Some(value) = values.get_mut(name) else { continue };
        let now = unix_seconds();
        match Identity::parse(value.secret.expose_secret().as_bytes(), now) {
            Ok(identity) => {
                let left = u64::try_from(identity.ends().saturating_sub(now)).unwrap_or_default();
                let ends = Boottime::now().after(Duration::from_secs(left));
                value.until = Some(value.until.map_or(ends, |until| until.min(ends)));
                identities.insert(name.to_owned(), Arc::new(identity));
            }
            Err(error) => {
                values.remove(name);
                problems.push(Problem {
                    at: name.to_owned(),
                    message: format!("the value {error}"),
                });
            }
        }
    }
    identities
}

/// The roots of routes that have their own, by their names. A route whose certificates can't be read is dropped.
pub(super) fn roots(policy: &mut Policy, problems: &mut Vec<Problem>) -> HashMap<String, Arc<Roots>> {
    let mut roots = HashMap::new();
    policy.routes.retain(|route| {
        let Some(ca) = &route.ca else { return true };
        match Roots::parse(ca.as_bytes()) {
            Ok(read) => drop(roots.insert(route.name.clone(), Arc::new(read))),
            Err(error) => problems.push(Problem {
                at: format!("route {}: ca", route.name),
                message: error.to_string(),
            }),
        }
        roots.contains_key(&route.name)
    });
    roots
}

/// Names of the credentials that some route shows as a certificate.
fn shown(policy: &Policy) -> HashSet<&str> {
    let routes = policy.routes.iter().filter(|route| is_shown(route));
    routes.filter_map(|route| route.credential.as_deref()).collect()
}

/// Whether a credential stands in no request: it is only shown as a certificate, so no answer can hold it.
pub(super) fn is_only_shown(policy: &Policy, credential: &str) -> bool {
    let of = |route: &&Route| route.credential.as_deref() == Some(credential);
    let mut routes = policy.routes.iter().filter(of).peekable();
    routes.peek().is_some() && routes.all(is_shown)
}

fn is_shown(route: &Route) -> bool {
    matches!(route.inject, Some(Injection::ClientCertificate(_)))
}
