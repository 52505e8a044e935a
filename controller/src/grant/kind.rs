//! Pure: what a Secret holds → what a sidecar is given of it. One Secret may hold several things: its type says which.

use std::collections::{BTreeMap, BTreeSet};

use berth_crds::Reason;
use berth_protocol::control::AwsIdentity;
use secrecy::{ExposeSecret, SecretSlice};

mod registry;

/// A Secret, read for one push.
pub struct Content {
    /// Its type.
    pub kind: String,
    /// Its values.
    pub data: BTreeMap<String, SecretSlice<u8>>,
}

/// What a sidecar is given.
#[derive(Clone, Default)]
pub struct Material {
    /// The secret itself.
    pub secret: Vec<u8>,
    /// The user that it belongs to, under HTTP Basic.
    pub username: Option<String>,
    /// For a secret access key.
    pub aws: Option<AwsIdentity>,
}

/// A Secret that doesn't hold what is needed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Unusable {
    /// For programs.
    pub reason: Reason,
    /// For people: follows the Secret's name, and holds no part of its values.
    pub message: String,
}

impl Material {
    /// A secret that speaks for itself.
    pub fn of(secret: Vec<u8>) -> Self {
        Self {
            secret,
            ..Self::default()
        }
    }
}

impl Content {
    /// One value as it stands.
    pub fn value(&self, key: &str) -> Result<&[u8], Unusable> {
        let value = self.data.get(key).ok_or_else(|| Unusable {
            reason: Reason::SecretNotFound,
            message: format!("has no key {key}"),
        })?;
        Ok(trimmed(value.expose_secret()))
    }

    /// One value that is text.
    pub fn text(&self, key: &str) -> Result<&str, Unusable> {
        let text = std::str::from_utf8(self.value(key)?).ok();
        let text =
            text.filter(|text| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control()));
        text.ok_or_else(|| invalid(format!("holds something else than one word of text at {key}")))
    }

    /// One value as its type means it, for these hosts.
    pub fn material(&self, key: &str, hosts: &BTreeSet<String>) -> Result<Material, Unusable> {
        match (self.kind.as_str(), key) {
            (BASIC_AUTH, "password") => Ok(Material {
                secret: self.value("password")?.to_vec(),
                username: Some(self.username()?),
                aws: None,
            }),
            (DOCKER_CONFIG, DOCKER_CONFIG_KEY) => registry::material(self.value(key)?, hosts),
            _ => Ok(Material {
                secret: self.value(key)?.to_vec(),
                ..Material::default()
            }),
        }
    }

    /// RFC 7617: no colon, as it ends there.
    fn username(&self) -> Result<String, Unusable> {
        let username = self.value("username")?;
        let plain = username.iter().all(|byte| !byte.is_ascii_control() && *byte != b':');
        let text = std::str::from_utf8(username)
            .ok()
            .filter(|name| plain && !name.is_empty());
        text.map(str::to_owned).ok_or_else(|| {
            invalid("holds a username that HTTP Basic can't carry: text without ':' and control characters")
        })
    }
}

fn invalid(message: impl Into<String>) -> Unusable {
    Unusable {
        reason: Reason::SecretInvalid,
        message: message.into(),
    }
}

/// `kubectl create secret --from-file` keeps the line end of the file.
fn trimmed(mut secret: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r'] = secret {
        secret = rest;
    }
    secret
}

/// Type of a Secret with `username` and `password`.
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";
/// Type of a Secret with registries' logins.
const DOCKER_CONFIG: &str = "kubernetes.io/dockerconfigjson";
const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";

#[cfg(test)]
mod tests;
