//! Pure: what one session's sidecar is to hold, in the sidecar's own grammar: routes of its grants, routes of its pool,
//! credentials by their stubs. Values are not here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{
    AgentSession, AwsSigV4, CredentialBinding, EgressRoute, EgressTls, GitAccess, GitSource, Injection, KeyRef,
    ProtectedPaths, Reason, Route, Stub, Tokens,
};
use berth_egress::policy::{self, Policy};
use berth_protocol::budget::Budget;
use berth_protocol::environment;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::decide::{SessionGrant, Verdict};
use super::select::selects;
use super::tracked;

/// What a session may do, and where the values come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Routes and stubs.
    pub policy: Policy,
    /// One for each credential.
    pub credentials: Vec<Credential>,
    /// Seconds that open streams of a route may go on once it isn't granted any more.
    pub drains: BTreeMap<String, u32>,
    /// Bindings whose streams are cut at once ([`at_once`]).
    pub cut: Vec<String>,
    /// Set for a session with a budget that has a key of a gateway.
    pub budget: Option<Budget>,
}

/// A credential that a session may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// Its name.
    pub name: String,
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
    /// A client's certificate with its key, from a Secret.
    Certificate(KeyRef),
    /// A token that was minted for this binding.
    Minted(String),
    /// The session's own key of a gateway, by this binding.
    GatewayKey(String),
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
    pub fn derive(&self, parts: &[&str]) -> Vec<u8> {
        let mac = self.over(parts);
        mac.map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default()
    }

    /// Whether this was derived from these parts, in a time that tells nothing.
    pub fn confirms(&self, parts: &[&str], derived: &[u8]) -> bool {
        self.over(parts).is_some_and(|mac| mac.verify_slice(derived).is_ok())
    }

    /// `None` never: HMAC takes keys of any length.
    fn over(&self, parts: &[&str]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in parts {
            mac.update(&part.len().to_be_bytes());
            mac.update(part.as_bytes());
        }
        Some(mac)
    }
}

impl std::fmt::Debug for InstallKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("InstallKey")
    }
}

/// The credential, of those that the session lists, whose route is for git at the repository's host.
pub fn git_credential(session: &AgentSession, bindings: &[&CredentialBinding], url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let host = url.host_str()?;
    let reaches = |pattern: &str| match pattern.strip_prefix("*.") {
        None => pattern == host,
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
    };
    let is_for_it = |binding: &&&CredentialBinding| {
        let mut routes = binding.spec.routes.iter();
        selects(&binding.spec.subjects, session) && routes.any(|route| route.git.is_some() && reaches(&route.host))
    };
    let named = |binding: &&CredentialBinding| binding.spec.credential.name.clone();
    let mut granting = bindings.iter().filter(is_for_it).map(named);
    granting.find(|name| session.spec.credentials.iter().any(|listed| listed.name == *name))
}

/// How the stubs of credentials look, by name: as the first binding of each says.
#[derive(Default)]
pub struct Shapes<'a>(BTreeMap<&'a str, Shape<'a>>);

#[derive(Default)]
struct Shape<'a> {
    stub: Option<&'a Stub>,
    is_aws: bool,
}

impl<'a> Shapes<'a> {
    /// Of these bindings.
    pub fn of(bindings: impl IntoIterator<Item = &'a CredentialBinding>) -> Self {
        let mut shapes = Self::default();
        for binding in bindings {
            let credential = &binding.spec.credential;
            let first = Shape {
                stub: credential.stub.as_ref(),
                is_aws: false,
            };
            let shape = shapes.0.entry(&credential.name).or_insert(first);
            shape.is_aws |= credential.source.aws_sig_v4.is_some();
        }
        shapes
    }
}

/// What the agent finds in place of each credential that the session lists. The same for every incarnation, so that
/// what a program has written down stays good.
pub fn stubs(key: &InstallKey, session: &AgentSession, shapes: &Shapes<'_>) -> BTreeMap<String, String> {
    let uid = session.uid().unwrap_or_default();
    let stub = |name: &str| {
        let shape = shapes.0.get(name).and_then(|shape| shape.stub);
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
        if shapes.0.get(credential.name.as_str()).is_some_and(|shape| shape.is_aws) {
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

/// Bindings whose streams don't drain: the brake was pulled, or the owner's side permits it no more.
pub fn at_once(bindings: &[Arc<CredentialBinding>], verdicts: &BTreeMap<String, Verdict>) -> Vec<String> {
    let stopped = bindings.iter().filter(|binding| {
        let Some(Verdict::Inactive { reason, .. }) = verdicts.get(&binding.name_any()) else {
            return false;
        };
        match reason {
            Reason::Revoked => binding.meta().deletion_timestamp.is_none(),
            Reason::Progressing | Reason::NotInSource | Reason::Suspended | Reason::NotYet | Reason::Expired => false,
            _ => true,
        }
    });
    stopped.map(|binding| binding.name_any()).collect()
}

/// Letters and digits alone, whatever a program checks.
fn letters_of(key: &InstallKey, uid: &str, name: &str, count: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let blocks = (0_u32..).flat_map(|block| key.derive(&["stub", uid, name, &block.to_string()]));
    let letters = blocks.filter_map(|byte| ALPHABET.get(usize::from(byte & 31)));
    letters.take(count).map(|letter| char::from(*letter)).collect()
}

/// What a session's sidecar is to hold. `minted` says until when the token of a binding lasts, or the session's key of it;
/// `sources` what Berth reads from git, in whatever namespace.
pub fn offer(
    grants: &[SessionGrant],
    bindings: &[&CredentialBinding],
    egress: &[EgressRoute],
    (session_uid, stubs): (&str, &BTreeMap<String, String>),
    minted: &BTreeMap<String, Timestamp>,
    sources: &[Arc<GitSource>],
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
        let Some((value, version, expires)) = value_of(grant, binding, minted) else {
            continue; // not minted yet
        };
        let secret_stub = stubs.get(&environment::aws_secret_name(&credential.name));
        let aws = credential.source.aws_sig_v4.as_ref();
        let routes = active.permitted.routes.iter();
        let routes = routes.map(|route| policy::Route {
            headers: own_headers(credential, session_uid),
            ..granted(&grant.binding, credential, route, sources)
        });
        let routes: Vec<policy::Route> = routes.collect();
        let drain = binding.spec.revoke.as_ref().and_then(|revoke| revoke.drain);
        if let Some(seconds) = drain.and_then(|drain| u32::try_from(Duration::from(drain).as_secs()).ok()) {
            offer
                .drains
                .extend(routes.iter().map(|route| (route.name.clone(), seconds)));
        }
        offer.policy.routes.extend(routes);
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
            value,
            version,
            fingerprint: active.grant.fingerprint.clone(),
            expires,
        });
    }
    offer.policy.routes.extend(egress.iter().map(open));
    offer
}

/// Where a value comes from, the version of that, and when it ends; `None` for a token that isn't minted yet.
fn value_of(
    grant: &SessionGrant,
    binding: &CredentialBinding,
    minted: &BTreeMap<String, Timestamp>,
) -> Option<(ValueSource, String, Option<Timestamp>)> {
    let active = &grant.active;
    let source = &binding.spec.credential.source;
    let value = match (&source.secret_ref, &source.aws_sig_v4) {
        (Some(secret), _) if shows_certificate(binding) => ValueSource::Certificate(secret.clone()),
        (Some(secret), _) => {
            let hosts = active.permitted.routes.iter().map(|route| route.host.clone());
            ValueSource::Secret(secret.clone(), hosts.collect())
        }
        (None, Some(aws)) => ValueSource::Aws(aws.clone()),
        (None, None) => {
            let ends = minted.get(&grant.binding)?;
            let expires = active.expires.map_or(*ends, |expires| expires.min(*ends));
            let binding = grant.binding.clone();
            // A key lasts as its session does: only its end moves.
            if source.lite_llm_key.is_some() {
                return Some((ValueSource::GatewayKey(binding), String::new(), Some(expires)));
            }
            return Some((ValueSource::Minted(binding), ends.to_string(), Some(expires)));
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
        let policy = serde_json::to_value(&self.policy).ok();
        let text = serde_json::json!([policy, credentials, self.drains, self.cut, self.budget]).to_string();
        Sha256::digest(text).into()
    }
}

/// The schema has it that all routes do or none.
fn shows_certificate(binding: &CredentialBinding) -> bool {
    let mut routes = binding.spec.routes.iter();
    routes.any(|route| route.inject.client_certificate.is_some())
}

/// A permitted route in the sidecar's grammar. `sources`: whose paths its pushes may not touch.
pub fn granted(
    binding: &str,
    credential: &berth_crds::Credential,
    route: &Route,
    sources: &[Arc<GitSource>],
) -> policy::Route {
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
        git: route.git.as_ref().map(|git| policy::GitRoute {
            repos: git.repos.clone(),
            access: match git.access {
                GitAccess::Read => policy::GitAccess::Read,
                GitAccess::Write => policy::GitAccess::Write,
            },
            ref_prefixes: git.ref_prefixes.clone(),
            protect: tracked::globs(route, sources),
        }),
        websocket: route.websocket,
        minting: route.minting,
        set_cookie: route.set_cookie,
        addresses: networks(&route.addresses),
        tokens: route.tokens.map(|tokens| match tokens {
            Tokens::Endpoint => policy::Tokens::Endpoint,
            Tokens::Minted => policy::Tokens::Minted,
        }),
        ca: route.ca.clone(),
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

/// LiteLLM books a request on the session that a header names, and takes settings from others: what an agent sends of
/// them is dropped.
fn own_headers(credential: &berth_crds::Credential, session_uid: &str) -> policy::Headers {
    if credential.source.lite_llm_key.is_none() {
        return policy::Headers::default();
    }
    policy::Headers {
        drop_prefixes: vec![LITELLM.to_owned()],
        set: [(format!("{LITELLM}session-id"), session_uid.to_owned())].into(),
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

/// LiteLLM's own headers (litellm/proxy/litellm_pre_call_utils.py).
const LITELLM: &str = "x-litellm-";
/// 160 bits.
const STUB_LETTERS: usize = 32;
/// Whatever shape is asked for: 80 bits, and longer than what text repeats by chance.
const STUB_LETTERS_MIN: usize = 16;

#[cfg(test)]
mod tests;
