//! Whether a credential's value can be used as the policy says.

use super::{is_certificate, is_redacted, is_stub};
use crate::policy::{Credential, Policy, Route};
use crate::stubs;

/// What is wrong with a value. It never holds a part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretProblem {
    /// A line end, NUL or other control character (row 23).
    #[error("the value has a control character; headers can't carry it")]
    Control,
    /// Nothing.
    #[error("the value is empty")]
    Empty,
    /// Too short to be told from other text of a response (§5.2).
    #[error(
        "the value is shorter than {SECRET_MIN} bytes, too short for redaction; use a longer one or set redact: false"
    )]
    Short,
    /// A stub within the value: it would be taken for that stub on its way back (§5.2).
    #[error("the value contains a stub; is it the placeholder instead of the secret?")]
    Stub,
}

/// Checks a credential's value against the policy that it is used by. The PEM of a client's certificate has lines.
pub fn check_secret(policy: &Policy, credential: &Credential, value: &[u8]) -> Result<(), SecretProblem> {
    let name = Some(credential.name.as_str());
    let routes: Vec<&Route> = policy
        .routes
        .iter()
        .filter(|route| route.credential.as_deref() == name)
        .collect();
    if value.is_empty() {
        return Err(SecretProblem::Empty);
    }
    let in_text = routes.is_empty() || routes.iter().any(|route| !is_certificate(route));
    let control = |byte: u8| byte.is_ascii_control() && (in_text || !matches!(byte, b'\n' | b'\r' | b'\t'));
    if value.iter().copied().any(control) {
        return Err(SecretProblem::Control);
    }
    let redacted = if routes.is_empty() {
        credential.redact
    } else {
        routes.iter().any(|route| is_redacted(route, credential))
    };
    if redacted && value.len() < SECRET_MIN {
        return Err(SecretProblem::Short);
    }
    let stubs = policy.credentials.iter().flat_map(Credential::stubs);
    let stubs = stubs.chain(credential.stubs()).filter(|stub| is_stub(stub));
    if stubs::automaton(stubs).is_none_or(|automaton| automaton.is_match(value)) {
        return Err(SecretProblem::Stub);
    }
    Ok(())
}

/// §5.2.
const SECRET_MIN: usize = 12;
