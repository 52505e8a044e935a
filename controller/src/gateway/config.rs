//! What the platform team wrote down of its model gateways (chart value `gateways`); admin keys and certificates stand in
//! files of their own, so that a rotation needs no restart. Never a tenant's: a gateway's admin key mints for everybody.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use berth_outbound::endpoint::{Endpoint, EndpointError};
use ipnet::IpNet;
use serde::Deserialize;

/// One gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// What bindings and policies call it.
    pub name: String,
    /// Where its API is, https; sessions reach it at the same host and port.
    pub url: String,
    /// File with a key that may make, change and delete keys.
    pub admin_key_file: PathBuf,
    /// File with certificates (PEM) that it is verified by in place of the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Networks that it may be in although they aren't public.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
}

/// The gateways of an install.
#[derive(Clone, Debug, Default)]
pub struct Gateways(Vec<Gateway>);

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("failed to read the gateways' configuration")]
    Read(#[source] std::io::Error),
    /// It isn't as it should be.
    #[error("the gateways' configuration can't be used")]
    Parse(#[source] serde_json::Error),
    /// Two have one name.
    #[error("gateway {0}: two have this name")]
    Twice(String),
    /// A URL can't be used.
    #[error("gateway {name}: url")]
    Url {
        /// Of which gateway.
        name: String,
        /// Why.
        source: EndpointError,
    },
    /// A URL says more than where the gateway is.
    #[error("gateway {0}: url has a query")]
    Query(String),
}

impl Gateways {
    /// Reads the file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read(file).map_err(ConfigError::Read)?;
        Self::new(serde_json::from_slice(&text).map_err(ConfigError::Parse)?)
    }

    /// These ones.
    pub fn new(gateways: Vec<Gateway>) -> Result<Self, ConfigError> {
        let mut names = BTreeSet::new();
        for gateway in &gateways {
            let name = || gateway.name.clone();
            if !names.insert(&gateway.name) {
                return Err(ConfigError::Twice(name()));
            }
            if gateway.url.contains('?') {
                return Err(ConfigError::Query(name()));
            }
            gateway
                .endpoint("")
                .map_err(|source| ConfigError::Url { name: name(), source })?;
        }
        Ok(Self(gateways))
    }

    /// The gateway of this name.
    pub fn named(&self, name: &str) -> Option<&Gateway> {
        self.0.iter().find(|gateway| gateway.name == name)
    }

    /// All of them.
    pub fn all(&self) -> &[Gateway] {
        &self.0
    }
}

impl Gateway {
    /// One of its routes, such as `/key/generate`.
    pub fn endpoint(&self, route: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(&format!("{}{route}", self.url.trim_end_matches('/')))
    }

    /// Its host and port; `None` never, as its URL was read when the configuration was.
    pub fn place(&self) -> Option<(String, u16)> {
        let endpoint = self.endpoint("").ok()?;
        Some((endpoint.host(), endpoint.authority.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str, url: &str) -> Gateway {
        let file = format!("/etc/berth/gateways/{name}/key");
        serde_json::from_value(serde_json::json!({"name": name, "url": url, "adminKeyFile": file})).unwrap()
    }

    #[test]
    fn routes_stand_below_the_url() {
        let of = |url| gateway("main", url).endpoint("/key/update").unwrap().to_string();
        assert_eq!(of("https://llm.example.com"), "https://llm.example.com/key/update");
        assert_eq!(
            of("https://llm.example.com:4000/proxy/"),
            "https://llm.example.com:4000/proxy/key/update"
        );
        let place = gateway("main", "https://llm.example.com").place();
        assert_eq!(place, Some(("llm.example.com".to_owned(), 443)));
    }

    #[test]
    fn what_the_chart_writes_is_read() {
        let golden = include_str!("../../../tests/manifests/golden/full.yaml");
        let mut lines = golden.lines().filter_map(|line| line.strip_prefix("  gateways.json: "));
        let json: String = serde_yaml::from_str(lines.next().expect("the chart writes it")).unwrap();
        let gateways = Gateways::new(serde_json::from_str(&json).unwrap()).unwrap();
        let names: Vec<&str> = gateways.all().iter().map(|gateway| gateway.name.as_str()).collect();
        assert_eq!(names, ["main", "public"]);
        let main = gateways.named("main").unwrap();
        assert!(main.ca_file.is_some() && main.addresses.len() == 1);
    }

    #[test]
    fn a_configuration_that_cannot_be_used_says_why() {
        let refused = |gateways| crate::telemetry::chain(&Gateways::new(gateways).unwrap_err());
        let one = |url| refused(vec![gateway("a", url)]);
        assert_eq!(
            one("http://llm.example.com"),
            "gateway a: url: it must begin with https://"
        );
        assert_eq!(one("https://llm.example.com/?a=b"), "gateway a: url has a query");
        assert!(one("https://key@llm.example.com").starts_with("gateway a: url: "));
        let twice = vec![
            gateway("a", "https://one.example.com"),
            gateway("a", "https://two.example.com"),
        ];
        assert_eq!(refused(twice), "gateway a: two have this name");
    }
}
