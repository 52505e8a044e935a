//! Pure: what goes with a secret, and what of both is secret.

use berth_egress::policy::Credential;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::Value;
use crate::redact::Secret;

/// Whose a secret is, where that has to be said with it.
#[derive(Clone, Default)]
pub enum Holder {
    /// It speaks for itself.
    #[default]
    None,
    /// The secret is this user's password, whoever the agent says that it is.
    User(String),
    /// The secret is a secret access key.
    Aws {
        /// Its id.
        access_key: String,
        /// The session token of a temporary key.
        session_token: Option<SecretString>,
    },
}

impl Value {
    /// To see whether a value is another one without keeping the earlier.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.secret.expose_secret());
        match &self.holder {
            Holder::None => {}
            Holder::User(name) => digest.update(["\0", name].concat()),
            Holder::Aws {
                access_key,
                session_token,
            } => {
                digest.update(["\0", access_key.as_str(), "\0"].concat());
                digest.update(session_token.as_ref().map_or("", ExposeSecret::expose_secret));
            }
        }
        digest.finalize().into()
    }
}

/// A key that AWS gave has an id of letters and digits ("AccessKey", IAM API Reference), and a token without spaces.
pub(super) fn check(credential: &Credential, holder: &Holder) -> Result<(), String> {
    let problem = match (holder, &credential.secret_stub) {
        (Holder::None | Holder::User(_), None) => return Ok(()),
        (Holder::None | Holder::User(_), Some(_)) => "the value has no access key's id: an AWS key has one",
        (Holder::Aws { .. }, None) => "the value is an AWS key, which is used for signatures only",
        (
            Holder::Aws {
                access_key,
                session_token,
            },
            Some(_),
        ) => {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let token = session_token.as_ref().map_or("", ExposeSecret::expose_secret);
            if !(16..=128).contains(&access_key.len()) || !access_key.bytes().all(word) {
                "the access key's id isn't one: it has 16 to 128 letters and digits"
            } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                "the session token has other characters than visible ASCII"
            } else {
                return Ok(());
            }
        }
    };
    Err(problem.to_owned())
}

/// What of a value is to be searched for.
pub(super) fn secrets_of<'a>(name: &'a str, stubs: (&'a str, Option<&'a str>), value: &'a Value) -> Vec<Secret<'a>> {
    let secret = |value: &'a str, stub: &'a str| Secret::from((name, value.as_bytes(), stub));
    let (stub, secret_stub) = stubs;
    let main = value.secret.expose_secret();
    match &value.holder {
        Holder::None => vec![secret(main, stub)],
        Holder::User(user) => vec![Secret {
            user: Some(user),
            ..secret(main, stub)
        }],
        Holder::Aws {
            access_key,
            session_token,
        } => {
            let key = secret(main, secret_stub.unwrap_or(stub));
            let token = session_token.as_ref().map(|token| secret(token.expose_secret(), stub));
            [Some(secret(access_key, stub)), Some(key), token]
                .into_iter()
                .flatten()
                .collect()
        }
    }
}
