//! Pure: what one session's sidecar is to hold, in the sidecar's own grammar: routes of its grants, routes of its pool,
//! credentials by their stubs. Values are not here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use berth_crds::{
    AgentSession, AwsSigV4, CredentialBinding, EgressRoute, EgressTls, GitAccess, Injection, KeyRef, ProtectedPaths,
    Route,
};
use berth_egress::policy::{self, Policy};
use berth_protocol::environment;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::decide::SessionGrant;

/// What a session may do, and where the values come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Routes and stubs.
    pub policy: Policy,
    /// One for each credential.
    pub credentials: Vec<Credential>,
}

/// A credential that a session may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// Its name.
    pub name: String,
    /// The binding that grants it.
    pub binding: String,
    /// Where its value is.
    pub value: ValueSource,
    /// Version of its Secrets.
    pub version: String,
    /// Fingerprint of the grant.
    pub fingerprint: String,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ValueSource {
    /// A key of a Secret, for these hosts.
    Secret(KeyRef, BTreeSet<String>),
    /// The parts of an AWS key.
    Aws(AwsSigV4),
    /// A token that was minted for this binding.
    Minted(String),
}

/// Key of this install; stubs and seals are derived from it.
#[derive(Clone)]
pub struct InstallKey(Vec<u8>);

impl InstallKey {
    /// Of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// HMAC-SHA256 over parts that can't run into each other.
    fn derive(&self, parts: &[&str]) -> Vec<u8> {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return Vec::new(); // HMAC takes keys of any length
        };
        for part in parts {
            mac.update(&part.len().to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().to_vec()
    }
}

impl std::fmt::Debug for InstallKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("InstallKey")
    }
}

/// What the agent finds in place of each credential that the session lists. The same for every incarnation, so that
/// what a program has written down stays good.
pub fn stubs(key: &InstallKey, session: &AgentSession, bindings: &[&CredentialBinding]) -> BTreeMap<String, String> {
    let uid = session.uid().unwrap_or_default();
    let stub = |name: &str| {
        let binding = bindings.iter().find(|binding| binding.spec.credential.name == name);
        let shape = binding.and_then(|binding| binding.spec.credential.stub.as_ref());
        let prefix = shape.and_then(|shape| shape.prefix.clone());
        let prefix = prefix.unwrap_or_else(|| format!("stub_{}_", name.to_ascii_lowercase()));
        let length = shape
            .and_then(|shape| shape.length)
            .and_then(|length| usize::try_from(length).ok());
        let letters = length
            .map_or(STUB_LETTERS, |length| length.saturating_sub(prefix.len()))
            .max(STUB_LETTERS_MIN);
        format!("{prefix}{}", letters_of(key, &uid, name, letters))
    };
    let listed = session.spec.credentials.iter();
    let mut stubs: BTreeMap<String, String> = listed
        .map(|credential| (credential.name.clone(), stub(&credential.name)))
        .collect();
    for credential in &session.spec.credentials {
        let mut own = bindings
            .iter()
            .filter(|binding| binding.spec.credential.name == credential.name);
        if own.any(|binding| binding.spec.credential.source.aws_sig_v4.is_some()) {
            for (name, value) in aws_variables(key, &uid, &credential.name, stubs.get(&credential.name)) {
                stubs.entry(name).or_insert(value); // of two AWS keys the first listed is what SDKs find by themselves
            }
        }
    }
    stubs
}

fn aws_variables(key: &InstallKey, uid: &str, name: &str, stub: Option<&String>) -> Vec<(String, String)> {
    let Some(stub) = stub else { return Vec::new() };
    let proxy = SocketAddr::from(([127, 0, 0, 1], environment::PROXY_PORT));
    environment::aws(name, stub, &secret_stub(key, uid, name), proxy)
}

/// What the agent signs with in place of a secret access key.
fn secret_stub(key: &InstallKey, uid: &str, name: &str) -> String {
    let letters = letters_of(key, uid, &format!("{name} secret"), STUB_LETTERS);
    format!("stub_secret_{letters}")
}

/// Letters and digits alone, whatever a program checks.
fn letters_of(key: &InstallKey, uid: &str, name: &str, count: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let blocks = (0_u32..).flat_map(|block| key.derive(&["stub", uid, name, &block.to_string()]));
    let letters = blocks.filter_map(|byte| ALPHABET.get(usize::from(byte & 31)));
    letters.take(count).map(|letter| char::from(*letter)).collect()
}

/// What a session's sidecar is to hold. `minted` says until when the token of a binding lasts.
pub fn offer(
    grants: &[SessionGrant],
    bindings: &[&CredentialBinding],
    egress: &[EgressRoute],
    stubs: &BTreeMap<String, String>,
    minted: &BTreeMap<String, Timestamp>,
) -> Offer {
    let mut offer = Offer::default();
    for grant in grants {
        let binding = bindings.iter().find(|binding| binding.name_any() == grant.binding);
        let (Some(binding), active) = (binding, &grant.active) else {
            continue;
        };
        let credential = &binding.spec.credential;
        let Some(stub) = stubs.get(&credential.name) else {
            continue;
        };
        let Some((value, version, expires)) = value_of(grant, credential, minted) else {
            continue; // not minted yet
        };
        let secret_stub = stubs.get(&environment::aws_secret_name(&credential.name));
        let aws = credential.source.aws_sig_v4.as_ref();
        let routes = active.permitted.routes.iter();
        offer
            .policy
            .routes
            .extend(routes.map(|route| granted(&grant.binding, credential, route)));
        if offer.credentials.iter().any(|known| known.name == credential.name) {
            continue;
        }
        offer.policy.credentials.push(policy::Credential {
            name: credential.name.clone(),
            stub: stub.clone(),
            secret_stub: secret_stub.filter(|_| aws.is_some()).cloned(),
            source: None,
            redact: true,
        });
        offer.credentials.push(Credential {
            name: credential.name.clone(),
            binding: grant.binding.clone(),
            value,
            version,
            fingerprint: active.fingerprint.clone(),
            expires,
        });
    }
    offer.policy.routes.extend(egress.iter().map(open));
    offer
}

/// Where a value comes from, the version of that, and when it ends; `None` for a token that isn't minted yet.
fn value_of(
    grant: &SessionGrant,
    credential: &berth_crds::Credential,
    minted: &BTreeMap<String, Timestamp>,
) -> Option<(ValueSource, String, Option<Timestamp>)> {
    let active = &grant.active;
    let value = match (&credential.source.secret_ref, &credential.source.aws_sig_v4) {
        (Some(secret), _) => {
            let hosts = active.permitted.routes.iter().map(|route| route.host.clone());
            ValueSource::Secret(secret.clone(), hosts.collect())
        }
        (None, Some(aws)) => ValueSource::Aws(aws.clone()),
        (None, None) => {
            let ends = minted.get(&grant.binding)?;
            let expires = active.expires.map_or(*ends, |expires| expires.min(*ends));
            let value = ValueSource::Minted(grant.binding.clone());
            return Some((value, ends.to_string(), Some(expires)));
        }
    };
    Some((value, active.version.clone(), active.expires))
}

impl Offer {
    /// Changes whenever anything of it does.
    pub fn digest(&self) -> [u8; 32] {
        let credentials = self.credentials.iter().map(|credential| {
            let expires = credential.expires.map(|time| time.to_string());
            serde_json::json!([
                credential.name,
                credential.value,
                credential.version,
                credential.fingerprint,
                expires
            ])
        });
        let credentials: Vec<serde_json::Value> = credentials.collect();
        let text = serde_json::json!([serde_json::to_value(&self.policy).ok(), credentials]).to_string();
        Sha256::digest(text).into()
    }
}

fn granted(binding: &str, credential: &berth_crds::Credential, route: &Route) -> policy::Route {
    let ranges = route.inject.aws_sig_v4.as_ref().is_some_and(|aws| aws.ranges);
    let methods = if route.methods.is_empty() && route.git.is_none() {
        vec!["*".to_owned()]
    } else {
        route.methods.clone()
    };
    policy::Route {
        name: format!("{binding}/{}", route.name),
        host: route.host.clone(),
        ports: ports(&route.ports),
        methods,
        paths: route.paths.clone(),
        credential: Some(credential.name.clone()),
        inject: injection(&route.inject).or_else(|| signature(credential, &route.inject)),
        range: ranges,
        redact: ranges.then_some(false),
        minting: route.minting,
        git: route.git.as_ref().map(|git| policy::GitRoute {
            repos: git.repos.clone(),
            access: match git.access {
                GitAccess::Read => policy::GitAccess::Read,
                GitAccess::Write => policy::GitAccess::Write,
            },
            ref_prefixes: git.ref_prefixes.clone(),
        }),
        websocket: route.websocket,
        addresses: networks(&route.addresses),
        protected_paths: match route
            .git
            .as_ref()
            .and_then(|git| git.protected_paths)
            .unwrap_or_default()
        {
            ProtectedPaths::Refuse => policy::ProtectedPaths::Refuse,
            ProtectedPaths::Allow => policy::ProtectedPaths::Allow,
        },
        ..policy::Route::default()
    }
}

/// A host that the pool opens without a credential.
fn open(route: &EgressRoute) -> policy::Route {
    policy::Route {
        name: format!("pool/{}", route.name),
        host: route.host.clone(),
        ports: ports(&route.ports),
        methods: route.methods.clone(),
        paths: route.paths.clone(),
        tls: match route.tls.unwrap_or_default() {
            EgressTls::Terminate => policy::Tls::Terminate,
            EgressTls::Passthrough => policy::Tls::Passthrough,
            EgressTls::Plain => policy::Tls::Plain,
        },
        websocket: route.websocket,
        addresses: networks(&route.addresses),
        ..policy::Route::default()
    }
}

fn injection(injection: &Injection) -> Option<policy::Injection> {
    let header = injection.header.as_ref().map(|header| {
        policy::Injection::Header(policy::HeaderInjection {
            name: header.name.clone(),
            forms: header.forms.clone(),
        })
    });
    let basic = injection.basic.as_ref().map(|basic| {
        policy::Injection::Basic(policy::BasicInjection {
            username: basic.username.clone(),
        })
    });
    let value = |value: &berth_crds::ValueInjection| policy::ValueInjection {
        name: value.name.clone(),
    };
    let query = injection
        .query
        .as_ref()
        .map(|query| policy::Injection::Query(value(query)));
    let body = injection.body.as_ref().map(|body| policy::Injection::Body(value(body)));
    let certificate = injection.client_certificate.as_ref();
    let certificate = certificate.map(|_| policy::Injection::ClientCertificate(policy::Empty {}));
    header.or(basic).or(query).or(body).or(certificate)
}

/// For what the source says, and nothing else.
fn signature(credential: &berth_crds::Credential, injection: &Injection) -> Option<policy::Injection> {
    let (source, inject) = (credential.source.aws_sig_v4.as_ref()?, injection.aws_sig_v4.as_ref()?);
    Some(policy::Injection::AwsSigV4(policy::AwsInjection {
        region: Some(source.region.clone()),
        services: source.services.clone(),
        presigned: inject.presigned,
    }))
}

fn ports(ports: &[i32]) -> Vec<u16> {
    ports.iter().filter_map(|port| u16::try_from(*port).ok()).collect()
}

/// The schema has checked them.
fn networks(networks: &[String]) -> Vec<ipnet::IpNet> {
    networks.iter().filter_map(|network| network.parse().ok()).collect()
}

/// 160 bits.
const STUB_LETTERS: usize = 32;
/// Whatever shape is asked for: 80 bits, and longer than what text repeats by chance.
const STUB_LETTERS_MIN: usize = 16;

#[cfg(test)]
mod tests;
