//! Pure: what goes with a secret, and what of both is secret.

use berth_egress::policy::Credential;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::Value;
use crate::redact::Secret;

/// Whose a secret is, where that has to be said with it.
#[derive(Clone, Default)]
pub enum Identity {
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
        match &self.identity {
            Identity::None => {}
            Identity::User(name) => digest.update(["\0", name].concat()),
            Identity::Aws {
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
pub(super) fn check(credential: &Credential, identity: &Identity) -> Result<(), String> {
    let problem = match (identity, &credential.secret_stub) {
        (Identity::None | Identity::User(_), None) => return Ok(()),
        (Identity::None | Identity::User(_), Some(_)) => "the value has no access key's id: an AWS key has one",
        (Identity::Aws { .. }, None) => "the value is an AWS key, which is used for signatures only",
        (
            Identity::Aws {
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
pub(super) fn secrets_of<'a>(credential: &'a Credential, value: &'a Value) -> Vec<Secret<'a>> {
    let secret = |value: &'a str, stub: &'a str| Secret::from((credential.name.as_str(), value.as_bytes(), stub));
    let stub = credential.stub.as_str();
    let main = value.secret.expose_secret();
    match &value.identity {
        Identity::None => vec![secret(main, stub)],
        Identity::User(name) => vec![Secret {
            user: Some(name),
            ..secret(main, stub)
        }],
        Identity::Aws {
            access_key,
            session_token,
        } => {
            let key = secret(main, credential.secret_stub.as_deref().unwrap_or(stub));
            let token = session_token.as_ref().map(|token| secret(token.expose_secret(), stub));
            [Some(secret(access_key, stub)), Some(key), token]
                .into_iter()
                .flatten()
                .collect()
        }
    }
}
