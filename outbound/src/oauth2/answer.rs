//! Pure: what a token endpoint answers (RFC 6749 §5).

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::Issued;

/// An answer that holds no token that can be used. Nothing of it is in here, but for the name of a scope.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// It isn't JSON, or has no access token.
    #[error("something else than a token in JSON")]
    NotAToken,
    /// A token that headers can't hold, or that can't be told from other text when it comes back.
    #[error("a token that isn't {TOKEN_MIN} to {TOKEN_MAX} visible ASCII characters")]
    Odd,
    /// A token that proves something else than that its bearer holds it.
    #[error("a token of another type than Bearer")]
    Type,
    /// A token that may do more than was asked for.
    #[error("a token with a scope that wasn't asked for{0}: name it in scopes, or take it from the client")]
    Wider(String),
}

#[derive(Deserialize)]
struct Said {
    access_token: SecretString,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: Value,
    refresh_token: Option<SecretString>,
    #[serde(default)]
    scope: Option<String>,
}

/// Reads a successful answer to a request for these scopes.
pub(super) fn issued(body: &[u8], asked: &[String]) -> Result<Issued, Unusable> {
    let said: Said = serde_json::from_slice(body).map_err(|_other| Unusable::NotAToken)?;
    if !said.token_type.eq_ignore_ascii_case("bearer") {
        return Err(Unusable::Type);
    }
    let refresh = said.refresh_token.filter(|token| !token.expose_secret().is_empty());
    if !is_sendable(&said.access_token) || refresh.as_ref().is_some_and(|token| !is_sendable(token)) {
        return Err(Unusable::Odd);
    }
    if let Some(scope) = said.scope.as_deref().and_then(|given| wider(given, asked)) {
        return Err(Unusable::Wider(named(
            scope,
            [Some(&said.access_token), refresh.as_ref()],
        )));
    }
    Ok(Issued {
        lasts: seconds(&said.expires_in).map(Duration::from_secs),
        access: said.access_token,
        refresh,
    })
}

/// Whether the answer is an error whatever its status says: some servers send those with 200.
pub(super) fn is_error(body: &[u8]) -> bool {
    matches!(serde_json::from_slice::<Value>(body), Ok(Value::Object(said)) if said.contains_key("error"))
}

/// The code of RFC 6749 §5.2, RFC 7009 §2.2.1, RFC 8628 §3.5 or RFC 8707 §2. Any other text could be an echo.
pub(super) fn error_code(body: &[u8]) -> Option<&'static str> {
    let said: Value = serde_json::from_slice(body).ok()?;
    let code = said.get("error")?.as_str()?;
    CODES.iter().find(|known| **known == code).copied()
}

/// The first scope that wasn't asked for. Who asks for none takes what the server gives.
fn wider<'a>(given: &'a str, asked: &[String]) -> Option<&'a str> {
    let mut given = given.split_ascii_whitespace();
    given.find(|scope| !asked.is_empty() && !asked.iter().any(|asked| asked == scope))
}

/// A scope's name, unless it is a part of what must not be shown.
fn named<'a>(scope: &str, secrets: impl IntoIterator<Item = Option<&'a SecretString>>) -> String {
    let mut secrets = secrets.into_iter().flatten().map(ExposeSecret::expose_secret);
    let plain = scope.len() <= SCOPE_MAX && scope.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && !secrets.any(|secret| secret.contains(scope) || scope.contains(secret)) {
        format!(" ({scope})")
    } else {
        String::new()
    }
}

fn is_sendable(token: &SecretString) -> bool {
    let token = token.expose_secret();
    (TOKEN_MIN..=TOKEN_MAX).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A number, or one in a string as some servers have it.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What redaction can tell from other text, and what it can look for (research/vault-proxy.md §5.2).
const TOKEN_MIN: usize = 12;
const TOKEN_MAX: usize = 8192;
const SCOPE_MAX: usize = 128;
const CODES: [&str; 11] = [
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "server_error",
    "slow_down",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_token_type",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOKEN: &str = "fake-access-token-0123456789";

    fn read(change: &Value, asked: &[&str]) -> Result<Issued, Unusable> {
        let mut said = json!({ "access_token": TOKEN, "token_type": "bearer", "expires_in": 60 });
        for (name, value) in change.as_object().unwrap() {
            said[name] = value.clone();
        }
        let asked: Vec<String> = asked.iter().map(|scope| (*scope).to_owned()).collect();
        issued(said.to_string().as_bytes(), &asked)
    }

    #[test]
    fn tokens_are_read_as_servers_write_them() {
        for (change, lasts) in [
            (json!({}), Some(60)),
            (json!({ "expires_in": "120", "token_type": "Bearer" }), Some(120)),
            (json!({ "expires_in": null }), None),
            (json!({ "expires_in": -1 }), None),
        ] {
            let issued = read(&change, &[]).unwrap();
            assert_eq!(issued.lasts, lasts.map(Duration::from_secs), "{change}");
            assert_eq!(issued.access.expose_secret(), TOKEN);
        }
        let issued = read(
            &json!({ "refresh_token": "fake-refresh-token-1", "scope": "a b" }),
            &["b", "a", "c"],
        )
        .unwrap();
        assert_eq!(issued.refresh.unwrap().expose_secret(), "fake-refresh-token-1");
    }

    #[test]
    fn what_is_no_bearer_token_of_what_was_asked_for_is_refused() {
        for (change, asked, expected) in [
            (json!({ "access_token": null }), &[][..], Unusable::NotAToken),
            (json!({ "access_token": "short" }), &[], Unusable::Odd),
            (json!({ "access_token": "fake token with spaces" }), &[], Unusable::Odd),
            (
                json!({ "access_token": "fake-token-\r\nx-injected: 1" }),
                &[],
                Unusable::Odd,
            ),
            (json!({ "token_type": "mac" }), &[], Unusable::Type),
            (
                json!({ "scope": "a admin" }),
                &["a"],
                Unusable::Wider(" (admin)".to_owned()),
            ),
            (json!({ "scope": TOKEN }), &["a"], Unusable::Wider(String::new())),
        ] {
            assert_eq!(read(&change, asked).err(), Some(expected), "{change}");
        }
        assert_eq!(issued(b"<html>", &[]).err(), Some(Unusable::NotAToken));
    }

    #[test]
    fn only_a_code_that_is_defined_is_shown() {
        assert_eq!(error_code(br#"{"error":"invalid_grant"}"#), Some("invalid_grant"));
        assert_eq!(error_code(br#"{"error":"fake-secret-value"}"#), None);
        assert_eq!(error_code(b"not JSON"), None);
        assert!(is_error(br#"{"error":"anything"}"#) && !is_error(b"{}"));
    }
}
