//! Pure: whether a webhook was sent by somebody who knows the shared secret. Nothing else of it is looked at.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;

/// Headers that carry an HMAC-SHA256 of the body in hex, plain or after `sha256=`: GitHub and Gitea, Gitea, generic.
const HEADERS: [&str; 3] = ["x-hub-signature-256", "x-gitea-signature", "x-signature"];

/// Whether one of the signatures is right. The comparison takes the same time for any wrong one.
pub fn is_authentic(headers: &HeaderMap, body: &[u8], secret: &[u8]) -> bool {
    HEADERS.iter().filter_map(|name| headers.get(*name)).any(|value| {
        let text = value.to_str().unwrap_or_default();
        let signature = hex::decode(text.strip_prefix("sha256=").unwrap_or(text)).unwrap_or_default();
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
            return false;
        };
        mac.update(body);
        mac.verify_slice(&signature).is_ok()
    })
}

/// A push of a few hundred commits; forges cut theirs at 25 MiB, and none of it is read.
pub const BODY_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            value.parse().expect("a header value"),
        )])
    }

    // RFC 4231, test case 2.
    const SIGNATURE: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    #[test]
    fn a_right_signature_is_taken_in_each_forges_form() {
        for (name, value) in [
            ("x-hub-signature-256", format!("sha256={SIGNATURE}")),
            ("x-gitea-signature", SIGNATURE.to_owned()),
            ("x-signature", format!("sha256={SIGNATURE}")),
        ] {
            assert!(
                is_authentic(&headers(name, &value), b"what do ya want for nothing?", b"Jefe"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_wrong_secret_body_or_header_is_refused() {
        let body = b"what do ya want for nothing?";
        let right = headers("x-signature", SIGNATURE);
        assert!(!is_authentic(&right, body, b"jefe"));
        assert!(!is_authentic(&right, b"what do ya want for something?", b"Jefe"));
        assert!(!is_authentic(&headers("x-signature", ""), body, b"Jefe"));
        assert!(!is_authentic(&headers("x-signature", "not hex"), body, b"Jefe"));
        assert!(!is_authentic(&headers("x-other", SIGNATURE), body, b"Jefe"));
        assert!(!is_authentic(&HeaderMap::new(), body, b"Jefe"));
    }
}
