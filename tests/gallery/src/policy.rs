//! Policies: JSON, which is YAML too.

use serde_json::{Map, Value, json};

/// The host that an agent may reach with a credential.
pub const HOST: &str = "api.example.com";
/// What the agent holds.
pub const STUB: &str = "stub_fake_token_0123456789abcdef";
/// What only the upstream may see.
pub const SECRET: &str = "fake-secret-value-0123456789";

/// One credential, and a route for [`HOST`] on this port that exchanges it as a bearer token; `change` overrides fields
/// of the route, `null` takes one out.
pub fn bearer(port: u16, change: &Value) -> Value {
    of(&[credential("TOKEN", STUB)], &[route("api", HOST, port, change)])
}

/// These credentials and routes.
pub fn of(credentials: &[Value], routes: &[Value]) -> Value {
    json!({ "credentials": credentials, "routes": routes })
}

/// Its value is in the file `NAME`, in lower case.
pub fn credential(name: &str, stub: &str) -> Value {
    json!({ "name": name, "stub": stub, "source": { "file": name.to_lowercase() } })
}

/// Everything at this host and port, with the credential `TOKEN` as a bearer token.
pub fn route(name: &str, host: &str, port: u16, change: &Value) -> Value {
    let route = json!({
        "name": name,
        "host": host,
        "ports": [port],
        "methods": ["*"],
        "paths": ["/**"],
        "credential": "TOKEN",
        "inject": { "header": { "name": "authorization", "forms": ["Bearer {}"] } },
        "addresses": ["127.0.0.0/8"],
    });
    changed(&route, change)
}

/// The same without a credential.
pub fn open(name: &str, host: &str, port: u16, change: &Value) -> Value {
    changed(
        &route(name, host, port, &json!({ "credential": null, "inject": null })),
        change,
    )
}

fn changed(route: &Value, change: &Value) -> Value {
    let mut fields: Map<String, Value> = route.as_object().cloned().unwrap_or_default();
    for (name, value) in change.as_object().into_iter().flatten() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    Value::Object(fields)
}
