//! Logins of registries, as `docker login` keeps them and `kubernetes.io/dockerconfigjson` Secrets carry them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Material, Unusable, invalid};
use crate::grant::permit::host_covers;

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Login>,
}

/// Either `auth`, or the two others.
#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    auth: SecretString,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: SecretString,
}

/// The login of the one registry that these hosts are of.
pub(super) fn material(json: &[u8], hosts: &BTreeSet<String>) -> Result<Material, Unusable> {
    let config: Config = serde_json::from_slice(json).map_err(|error| {
        // Its own words may quote a value.
        let (line, column) = (error.line(), error.column());
        invalid(format!(
            "isn't a docker configuration: JSON with auths is expected, see line {line}, column {column}"
        ))
    })?;
    let named: Vec<(&String, &Login)> = config.auths.iter().filter(|(at, _)| serves(at, hosts)).collect();
    match named.as_slice() {
        [(at, login)] => login.material(at),
        [] => {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            Err(invalid(format!("has no login for {}", hosts.join(" or "))))
        }
        several => {
            let places: Vec<&str> = several.iter().map(|(at, _)| at.as_str()).collect();
            let message = "has several logins that fit the routes: split the binding, or the Secret";
            Err(invalid(format!("{message} ({})", places.join(", "))))
        }
    }
}

/// `registry.example.com`, `https://registry.example.com/v2/`, `registry.example.com:5000/team`.
fn serves(at: &str, hosts: &BTreeSet<String>) -> bool {
    let rest = at.split_once("://").map_or(at, |(_, rest)| rest);
    let host = rest.split(['/', ':']).next().unwrap_or_default().to_ascii_lowercase();
    hosts.iter().any(|route| {
        let same = host_covers(route, &host);
        // Docker Hub's login stands under its first name.
        let hub = DOCKER_HUB.contains(&host.as_str()) && DOCKER_HUB.iter().any(|name| host_covers(route, name));
        same || hub
    })
}

impl Login {
    fn material(&self, at: &str) -> Result<Material, Unusable> {
        let (username, password) = if self.auth.expose_secret().is_empty() {
            (self.username.clone(), self.password.expose_secret().to_owned())
        } else {
            let pair = BASE64_STANDARD.decode(self.auth.expose_secret()).ok();
            let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
            let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
            let (username, password) =
                pair.ok_or_else(|| invalid(format!("has an auth for {at} that isn't base64 of user:password")))?;
            (username.to_owned(), password.to_owned())
        };
        if username.is_empty() || password.is_empty() {
            return Err(invalid(format!("has no username and password for {at}")));
        }
        Ok(Material {
            secret: password.into_bytes(),
            username: Some(username),
            aws: None,
        })
    }
}

/// The registry, its token service, and the names that clients keep its login under.
const DOCKER_HUB: [&str; 5] = [
    "auth.docker.io",
    "docker.io",
    "hub.docker.com",
    "index.docker.io",
    "registry-1.docker.io",
];
