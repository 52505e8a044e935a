//! Pure: what the sidecar's linter says of a binding's routes. The sidecar drops a route that breaks a rule; here its
//! author is told, and it isn't pushed in the first place.

use berth_crds::CredentialBinding;
use berth_egress::lint::{Culprit, Finding, lint};
use berth_egress::policy::{Credential, Policy};
use kube::ResourceExt;

use super::offer::granted;
use super::permit::Permitted;

/// Takes routes away that break a rule, and says which and why. They are judged together: two may be at odds.
pub fn vet(binding: &CredentialBinding, permitted: &mut Permitted) {
    let credential = &binding.spec.credential;
    let routes = permitted.routes.iter();
    let policy = Policy {
        credentials: vec![Credential {
            name: credential.name.clone(),
            stub: stub_like(binding),
            secret_stub: credential
                .source
                .aws_sig_v4
                .as_ref()
                .map(|_| format!("stub_secret_{LETTERS}")),
            source: None,
            redact: true,
        }],
        routes: routes
            .map(|route| granted(&binding.name_any(), credential, route, &[]))
            .collect(),
        ..Policy::default()
    };
    let findings = lint(&policy);
    for finding in &findings {
        let place = place(binding, permitted, finding);
        permitted.narrowed.push(format!("{place}: {}", finding.message));
    }
    let mut index = 0;
    permitted.routes.retain(|_| {
        let mut culprits = findings.iter().map(|finding| finding.culprit);
        let kept = !culprits.any(|culprit| !matches!(culprit, Culprit::Route(other) if other != index));
        index += 1;
        kept
    });
}

/// A stub of the shape that the binding asks for.
fn stub_like(binding: &CredentialBinding) -> String {
    let shape = binding.spec.credential.stub.as_ref();
    let prefix = shape.and_then(|shape| shape.prefix.as_deref()).unwrap_or("stub_");
    format!("{prefix}{LETTERS}")
}

/// The finding's field as the author wrote it. A permitted route has the name of its own, or that and a number.
fn place(binding: &CredentialBinding, permitted: &Permitted, finding: &Finding) -> String {
    let Culprit::Route(index) = finding.culprit else {
        return "spec.credential".to_owned();
    };
    let field = finding.field.split_once("].").map_or("", |(_, field)| field);
    let name = permitted.routes.get(index).map_or("", |route| route.name.as_str());
    let is_it = |own: &str| {
        name.strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match binding.spec.routes.iter().position(|route| is_it(&route.name)) {
        Some(index) => format!("spec.routes[{index}].{field}"),
        None => format!("spec.routes.{field}"),
    }
}

/// As long as what [`super::offer::stubs`] draws.
const LETTERS: &str = "abcdefghijkmnpqrstuvwxyz23456789";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn binding(routes: &Value) -> CredentialBinding {
        let spec = json!({
            "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
            "subjects": {"allSessions": true}, "routes": routes, "reason": "tests",
        });
        CredentialBinding::new("b", serde_json::from_value(spec).unwrap())
    }

    fn route(name: &str, change: &Value) -> Value {
        let mut route = json!({
            "name": name, "host": "api.example.com", "methods": ["GET"],
            "inject": {"header": {"name": "authorization"}},
        });
        for (field, value) in change.as_object().unwrap() {
            route[field] = value.clone();
        }
        route
    }

    fn vetted(routes: &Value) -> Permitted {
        let binding = binding(routes);
        let mut permitted = Permitted {
            routes: binding.spec.routes.clone(),
            narrowed: Vec::new(),
        };
        vet(&binding, &mut permitted);
        permitted
    }

    #[test]
    fn a_route_that_breaks_a_rule_goes_and_its_author_is_told_where() {
        let none = vetted(&json!([route("a", &json!({}))]));
        assert_eq!((none.routes.len(), none.narrowed), (1, Vec::new()));
        let cases = [
            (json!({"host": "*.github.io"}), "spec.routes[1].host"),
            (
                json!({"host": "api.github.com", "methods": ["POST"]}),
                "spec.routes[1].paths",
            ),
            (json!({"inject": {"header": {"name": "host"}}}), "spec.routes[1].inject"),
        ];
        for (change, place) in cases {
            let vetted = vetted(&json!([route("a", &json!({})), route("b", &change)]));
            let left: Vec<&str> = vetted.routes.iter().map(|route| route.name.as_str()).collect();
            assert_eq!(left, ["a"], "{change}");
            assert!(
                vetted.narrowed.iter().all(|told| told.starts_with(place)),
                "{:?}",
                vetted.narrowed
            );
        }
    }
}
