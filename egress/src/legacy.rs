//! The variables of the product before Berth, compiled into the grammar: `REAL_<KEY>`, `HOST_<KEY>`,
//! `EGRESS_ALLOW_OUT`, `EGRESS_DENY_OUT`, `EGRESS_DEFAULT_DENY` (§1.4).
//!
//! Three things differ, each towards less: a credential without a host is an error, where it went to any host;
//! nothing is allowed by default, where everything was; a deny list can't take from an allowed wildcard.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::pattern::{HostPattern, PatternError};
use crate::policy::{BasicInjection, Credential, HeaderInjection, Injection, Policy, Route, Source};

/// Variables that can't be compiled.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LegacyError {
    /// The old default, which Berth doesn't have.
    #[error("{DEFAULT_DENY}={0} would allow every host; list the hosts in {ALLOW_OUT}")]
    AllowByDefault(String),
    /// A denied host that an allowed pattern covers.
    #[error("{DENY_OUT} names {denied}, which {allowed} allows; allow narrower hosts instead")]
    Denied {
        /// The denied pattern.
        denied: String,
        /// The allowed one.
        allowed: String,
    },
    /// A credential without a host.
    #[error("REAL_{0} has no HOST_{0}; name the hosts that it may go to")]
    HostMissing(String),
    /// A host that can't be parsed, or too wide a wildcard.
    #[error("{variable} names {host}")]
    Host {
        /// The variable.
        variable: String,
        /// What it names.
        host: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// A network in a list of hosts.
    #[error("{variable} names the network {network}; name hosts, an address behind a name is vetted by itself")]
    Network {
        /// The variable.
        variable: String,
        /// The network.
        network: String,
    },
    /// A host for a credential that isn't there.
    #[error("HOST_{0} has no REAL_{0}")]
    ValueMissing(String),
}

/// Compiles the variables. Values of `REAL_` are not read: the policy names the variable as their source. `mint` makes
/// a stub for a key; the same key must have the same stub after a restart.
pub fn policy(
    variables: &BTreeMap<String, String>,
    mut mint: impl FnMut(&str) -> String,
) -> Result<Policy, LegacyError> {
    check_default(variables)?;
    check_hosts_have_values(variables)?;
    let mut policy = Policy::default();
    for key in keys(variables, REAL) {
        policy.credentials.push(Credential {
            name: key.to_owned(),
            stub: mint(key),
            secret_stub: None,
            source: Some(Source::Env(format!("{REAL}{key}"))),
            redact: true,
        });
        let variable = format!("{HOST}{key}");
        let hosts = hosts(variables, &variable)?;
        if hosts.is_empty() {
            return Err(LegacyError::HostMissing(key.to_owned()));
        }
        let routes = hosts
            .iter()
            .enumerate()
            .flat_map(|(index, host)| credentialed(key, index, host));
        policy.routes.extend(routes);
    }
    let allowed = hosts(variables, ALLOW_OUT)?;
    policy
        .routes
        .extend(allowed.iter().enumerate().map(|(index, host)| open(index, host)));
    check_denied(variables, &policy)?;
    Ok(policy)
}

fn check_default(variables: &BTreeMap<String, String>) -> Result<(), LegacyError> {
    match variables.get(DEFAULT_DENY).map(|value| value.trim()) {
        None | Some("" | "1" | "true" | "True" | "TRUE" | "yes" | "on") => Ok(()),
        Some(other) => Err(LegacyError::AllowByDefault(other.to_owned())),
    }
}

fn check_hosts_have_values(variables: &BTreeMap<String, String>) -> Result<(), LegacyError> {
    match keys(variables, HOST).find(|key| !variables.contains_key(&format!("{REAL}{key}"))) {
        Some(key) => Err(LegacyError::ValueMissing(key.to_owned())),
        None => Ok(()),
    }
}

fn check_denied(variables: &BTreeMap<String, String>, policy: &Policy) -> Result<(), LegacyError> {
    for denied in hosts(variables, DENY_OUT)? {
        let overlaps = |route: &&Route| HostPattern::parse(&route.host).is_ok_and(|allowed| allowed.overlaps(&denied));
        if let Some(route) = policy.routes.iter().find(overlaps) {
            return Err(LegacyError::Denied {
                denied: denied.to_string(),
                allowed: route.host.clone(),
            });
        }
    }
    Ok(())
}

fn keys<'a>(variables: &'a BTreeMap<String, String>, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let keys = variables.keys().filter_map(move |name| name.strip_prefix(prefix));
    keys.filter(|key| !key.is_empty())
}

/// The hosts of a list. `*.example.com` covered the apex and any depth, so it becomes two patterns.
fn hosts(variables: &BTreeMap<String, String>, variable: &str) -> Result<Vec<HostPattern>, LegacyError> {
    let list = variables.get(variable).map(String::as_str).unwrap_or_default();
    let words = list.split([',', ' ', '\n', '\t']).filter(|word| !word.is_empty());
    let mut patterns = Vec::new();
    for word in words {
        if word.parse::<IpNet>().is_ok() {
            return Err(LegacyError::Network {
                variable: variable.to_owned(),
                network: word.to_owned(),
            });
        }
        let texts = match word.strip_prefix("*.") {
            Some(apex) => vec![apex.to_owned(), format!("**.{apex}")],
            None => vec![word.to_owned()],
        };
        for text in texts {
            let pattern = HostPattern::parse(&text).map_err(|source| LegacyError::Host {
                variable: variable.to_owned(),
                host: word.to_owned(),
                source,
            })?;
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

/// The old product swapped a stub in any header; these are the headers that SDKs and git use. It had no notion of
/// endpoints that mint credentials, so `minting` is set.
fn credentialed(key: &str, index: usize, host: &HostPattern) -> Vec<Route> {
    let header = |name: &str, forms: &[&str]| {
        Injection::Header(HeaderInjection {
            name: name.to_owned(),
            forms: forms.iter().map(|form| (*form).to_owned()).collect(),
        })
    };
    let surfaces = [
        (
            "authorization",
            header("authorization", &["Bearer {}", "token {}", "{}"]),
        ),
        ("basic", Injection::Basic(BasicInjection::default())),
        ("x-api-key", header("x-api-key", &[])),
    ];
    let routes = surfaces.into_iter().map(|(surface, inject)| Route {
        name: format!("{key}-{index}-{surface}"),
        credential: Some(key.to_owned()),
        inject: Some(inject),
        methods: vec!["*".to_owned()],
        minting: true,
        ..route(host)
    });
    routes.collect()
}

fn open(index: usize, host: &HostPattern) -> Route {
    Route {
        name: format!("allow-{index}"),
        ..route(host)
    }
}

/// An address that is named is meant, also when it isn't public.
fn route(host: &HostPattern) -> Route {
    let address = match host {
        HostPattern::Exact(host) => host.address(),
        HostPattern::OneLabel(_) | HostPattern::AnyDepth(_) => None,
    };
    Route {
        host: host.to_string(),
        addresses: address.map(IpNet::from).into_iter().collect(),
        ..Route::default()
    }
}

const REAL: &str = "REAL_";
const HOST: &str = "HOST_";
const ALLOW_OUT: &str = "EGRESS_ALLOW_OUT";
const DENY_OUT: &str = "EGRESS_DENY_OUT";
const DEFAULT_DENY: &str = "EGRESS_DEFAULT_DENY";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rules;

    fn compile(pairs: &[(&str, &str)]) -> Result<Policy, LegacyError> {
        let variables = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        policy(&variables.collect(), |key| format!("stub_fake_{key}_0123456789abcdef"))
    }

    #[test]
    fn variables_become_a_policy_without_findings_or_values() {
        let policy = compile(&[
            ("REAL_GITHUB_TOKEN", "fake-value"),
            ("HOST_GITHUB_TOKEN", "api.github.com,*.example.com"),
            ("EGRESS_ALLOW_OUT", "packages.example.com, 10.0.0.9"),
            ("EGRESS_DENY_OUT", "evil.example.org"),
            ("EGRESS_DEFAULT_DENY", "true"),
        ]);
        let policy = policy.expect("a policy");
        let hosts: Vec<&str> = policy.routes.iter().map(|route| route.host.as_str()).collect();
        let open = ["packages.example.com", "10.0.0.9"];
        let bound = ["api.github.com", "example.com", "**.example.com"].map(|host| [host; 3]);
        assert_eq!(hosts, [bound.as_flattened(), &open].concat());
        assert!(!format!("{policy:?}").contains("fake-value"));
        Rules::strict(policy).expect("no findings");
    }

    #[test]
    fn what_was_open_by_default_is_an_error() {
        let missing = compile(&[("REAL_A", "fake-value")]);
        assert_eq!(missing, Err(LegacyError::HostMissing("A".to_owned())));
        let empty = compile(&[("REAL_A", "fake-value"), ("HOST_A", " ")]);
        assert_eq!(empty, Err(LegacyError::HostMissing("A".to_owned())));
        let unused = compile(&[("HOST_A", "example.com")]);
        assert_eq!(unused, Err(LegacyError::ValueMissing("A".to_owned())));
        let open = compile(&[("EGRESS_DEFAULT_DENY", "false")]);
        assert_eq!(open, Err(LegacyError::AllowByDefault("false".to_owned())));
        let carved = compile(&[
            ("EGRESS_ALLOW_OUT", "*.example.com"),
            ("EGRESS_DENY_OUT", "a.example.com"),
        ]);
        assert!(matches!(carved, Err(LegacyError::Denied { .. })));
        let network = compile(&[("EGRESS_ALLOW_OUT", "10.0.0.0/8")]);
        assert!(matches!(network, Err(LegacyError::Network { .. })));
        let wide = compile(&[("EGRESS_ALLOW_OUT", "*.com")]);
        assert!(matches!(wide, Err(LegacyError::Host { .. })));
    }
}
