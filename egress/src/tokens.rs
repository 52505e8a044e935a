//! Stubs of tokens that an agent's own OAuth 2.0 flow gave (row 36): the stub of the credential that the flow was run
//! with, a dot, and letters. Wherever a credential's stub is found and refused, its tokens' stubs are found with it.

/// The stub of a token; `letters` are [`LETTERS`] of [`ALPHABET`].
pub fn stub(credential: &str, letters: &str) -> String {
    format!("{credential}.{letters}")
}

/// Whether a text is the stub of a token of the credential with this stub.
pub fn is_stub_of(text: &str, credential: &str) -> bool {
    let letters = text.strip_prefix(credential).and_then(|rest| rest.strip_prefix('.'));
    letters.is_some_and(|letters| letters.len() == LETTERS && letters.bytes().all(|letter| ALPHABET.contains(&letter)))
}

/// 160 bits.
pub const LETTERS: usize = 32;
/// Letters and digits that aren't mistaken for each other.
pub const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_stub_is_of_one_credential() {
        let credential = "stub_fake_client_0123456789abcdef";
        let token = stub(credential, &"a".repeat(LETTERS));
        assert!(is_stub_of(&token, credential));
        for other in [
            credential.to_owned(),
            format!("{token}a"),
            token[..token.len() - 1].to_owned(),
            token.to_ascii_uppercase(),
            format!("x{token}"),
            stub(credential, &"1".repeat(LETTERS)),
        ] {
            assert!(!is_stub_of(&other, credential), "{other}");
        }
        assert!(!is_stub_of(&token, "stub_fake_other_0123456789abcdef"));
    }
}
