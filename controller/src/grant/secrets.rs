//! IO: Secrets that bindings name. Each is watched by itself and without its values, as its namespace's ServiceAccount
//! `berth-credentials`, so that a Role with `resourceNames` suffices; values are read when they are pushed, and dropped.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::Reason;
use berth_crds::label::{HOSTS, OFFERED};
use berth_outbound::identity::{Identity, IdentityError};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use secrecy::SecretSlice;
use tokio_util::task::AbortOnDropHandle;

use super::decide::{Offered, Refused};
use super::kind::{Content, Unusable};
use crate::telemetry::chain;
use crate::watch::Name;
use crate::work::Pokes;

/// The Secrets in use.
#[derive(Clone, Default)]
pub struct Secrets {
    watched: Arc<Mutex<HashMap<Name, Watched>>>,
    /// Keys that couldn't be read of a version, by namespace and `name/key`.
    broken: Arc<Mutex<HashMap<(String, String), Broken>>>,
}

/// A value that couldn't be had.
struct Broken {
    /// Of the Secret then.
    version: String,
    reason: Reason,
    message: String,
    /// When it begins, for a certificate that ends.
    from: Option<Instant>,
    /// When it is tried again although the Secret is the same.
    until: Option<Instant>,
}

struct Watched {
    state: Arc<Mutex<Option<Result<Offered, Refused>>>>,
    _task: AbortOnDropHandle<()>,
}

impl Broken {
    fn is_of(&self, offered: &Offered) -> bool {
        let now = Instant::now();
        self.version == offered.version
            && self.from.is_none_or(|from| from <= now)
            && self.until.is_none_or(|until| now < until)
    }
}

/// A value that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// The Secret couldn't be read.
    #[error("failed to read Secret {name}")]
    Read {
        /// Which.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It is no certificate that can be shown.
    #[error("Secret {name} {problem}")]
    Certificate {
        /// Which.
        name: String,
        /// Why.
        problem: IdentityError,
    },
    /// It doesn't hold what its type says, or what is needed.
    #[error("Secret {name} {why}")]
    Content {
        /// Which.
        name: String,
        /// Why.
        why: Unusable,
    },
    /// It can't be used as a credential.
    #[error("Secret {name} {why}")]
    Unusable {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
}

impl ValueError {
    /// For programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Certificate { .. } => Reason::CertificateUnusable,
            Self::Content { why, .. } => why.reason,
            Self::Read { .. } | Self::Unusable { .. } => Reason::SecretNotFound,
        }
    }
}

/// The Secret's name in `name/key`.
fn of(at: &str) -> &str {
    at.split_once('/').map_or(at, |(name, _)| name)
}

impl Secrets {
    /// Watches these Secrets of a namespace and no others of it. Changes poke `queue`.
    pub fn watch(&self, namespace: &str, names: &BTreeSet<String>, client: &Client, queue: &Pokes<String>) {
        let mut watched = self.watched.lock();
        watched.retain(|name, _| name.namespace != namespace || names.contains(&name.name));
        for name in names {
            let key = Name {
                namespace: namespace.to_owned(),
                name: name.clone(),
            };
            watched
                .entry(key)
                .or_insert_with_key(|key| begin(key, client.clone(), queue.clone()));
        }
    }

    /// What is known of a key of a Secret; `None` before its watch has said anything.
    pub fn state(&self, name: &Name, key: &str) -> Option<Result<Offered, Refused>> {
        let state = self.watched.lock().get(name)?.state.lock().clone()?;
        let Ok(offered) = &state else { return Some(state) };
        let at = (name.namespace.clone(), format!("{}/{key}", name.name));
        let broken = self.broken.lock();
        Some(match broken.get(&at).filter(|broken| broken.is_of(offered)) {
            Some(broken) => Err(Refused {
                reason: broken.reason,
                message: broken.message.clone(),
            }),
            None => state,
        })
    }

    /// A value couldn't be had; it is tried again when the Secret changes, or after a while.
    pub fn broken(&self, namespace: &str, at: &str, message: String, again: Option<Duration>) {
        self.refuse(namespace, at, |version| Broken {
            version,
            reason: Reason::SecretNotFound,
            message,
            from: None,
            until: again.map(|again| Instant::now() + again),
        });
    }

    /// A value that was read can't be used.
    pub fn unusable(&self, namespace: &str, at: &str, error: &ValueError) {
        self.refuse(namespace, at, |version| Broken {
            version,
            reason: error.reason(),
            message: chain(error),
            from: None,
            until: None,
        });
    }

    /// A certificate that was read ends after a while.
    pub fn ends(&self, namespace: &str, at: &str, left: Duration) {
        self.refuse(namespace, at, |version| Broken {
            version,
            reason: Reason::CertificateUnusable,
            message: format!("Secret {} {}", of(at), IdentityError::Expired),
            from: Instant::now().checked_add(left),
            until: None,
        });
    }

    fn refuse(&self, namespace: &str, at: &str, broken: impl FnOnce(String) -> Broken) {
        let watched = Name {
            namespace: namespace.to_owned(),
            name: of(at).to_owned(),
        };
        let state = self
            .watched
            .lock()
            .get(&watched)
            .and_then(|watched| watched.state.lock().clone());
        if let Some(Ok(offered)) = state {
            let at = (namespace.to_owned(), at.to_owned());
            self.broken.lock().insert(at, broken(offered.version));
        }
    }

    /// Nothing of the namespace is in use any more.
    pub fn forget(&self, namespace: &str) {
        self.watched.lock().retain(|name, _| name.namespace != namespace);
        self.broken.lock().retain(|(of, _), _| of != namespace);
    }
}

fn begin(name: &Name, client: Client, queue: Pokes<String>) -> Watched {
    let state = Arc::new(Mutex::new(None));
    let (told, name) = (Arc::clone(&state), name.clone());
    let task = tokio::spawn(async move {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client, &name.namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", name.name));
        let mut events = Box::pin(watcher(api, only).default_backoff());
        let mut listed = false;
        while let Some(event) = events.next().await {
            let new = match event {
                Ok(watcher::Event::Init) => {
                    listed = false;
                    None
                }
                Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => {
                    listed = true;
                    Some(offered(&secret))
                }
                Ok(watcher::Event::Delete(_)) => Some(Err(missing(&name.name))),
                // It may have gone while the watch was interrupted.
                Ok(watcher::Event::InitDone) => (!listed).then(|| Err(missing(&name.name))),
                Err(error) => unreadable(&name, &error),
            };
            if let Some(new) = new {
                *told.lock() = Some(new);
                queue.poke(name.namespace.clone());
            }
        }
    });
    Watched {
        state,
        _task: AbortOnDropHandle::new(task),
    }
}

fn missing(name: &str) -> Refused {
    Refused {
        reason: Reason::SecretNotFound,
        message: format!("Secret {name} doesn't exist"),
    }
}

/// A watch that was refused is an answer; one that broke isn't, and what was known stays.
fn unreadable(name: &Name, error: &watcher::Error) -> Option<Result<Offered, Refused>> {
    let refused = matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 403
    );
    tracing::debug!(secret.namespace = name.namespace, secret.name = name.name, %error, "a Secret's watch broke");
    refused.then(|| {
        Err(Refused {
            reason: Reason::SecretNotFound,
            message: format!(
                "ServiceAccount berth-credentials may not get, list and watch Secret {}: add it to its Role's resourceNames",
                name.name
            ),
        })
    })
}

/// Only what its owner offers (DESIGN §9).
fn offered(secret: &PartialObjectMeta<Secret>) -> Result<Offered, Refused> {
    let name = secret.name_any();
    let not_offered = |message: String| Refused {
        reason: Reason::SecretNotOffered,
        message,
    };
    if secret.labels().get(OFFERED).is_none_or(|value| value != "true") {
        return Err(not_offered(format!(
            "Secret {name} isn't offered: its owner sets the label {OFFERED}: \"true\""
        )));
    }
    let hosts = secret
        .annotations()
        .get(HOSTS)
        .map(|hosts| hosts.split(',').map(|host| host.trim().to_owned()));
    let hosts: Vec<String> = hosts.into_iter().flatten().filter(|host| !host.is_empty()).collect();
    if hosts.is_empty() {
        return Err(not_offered(format!(
            "Secret {name} names no hosts: its owner sets the annotation {HOSTS}: api.example.com"
        )));
    }
    Ok(Offered {
        hosts,
        version: version(&secret.metadata),
    })
}

fn version(metadata: &ObjectMeta) -> String {
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let version = metadata.resource_version.as_deref().unwrap_or_default();
    format!("{uid}/{version}")
}

/// Reads one value, to be pushed and dropped.
pub async fn value(client: &Client, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, ValueError> {
    read(client, namespace, name, key).await.map(|read| read.value)
}

/// Reads a client's certificate with its key: both keys of a Secret of type `kubernetes.io/tls`, or the one key that holds
/// them. Gives the PEM and how long it lasts from `now`.
pub async fn certificate(
    client: &Client,
    namespace: &str,
    (name, key): (&str, &str),
    now: Timestamp,
) -> Result<(Vec<u8>, Duration), ValueError> {
    let mut pem = value(client, namespace, name, key).await?;
    if key == TLS_CHAIN {
        pem.push(b'\n');
        pem.extend(value(client, namespace, name, TLS_KEY).await?);
    }
    let identity = Identity::parse(&pem, now.as_second()).map_err(|problem| ValueError::Certificate {
        name: name.to_owned(),
        problem,
    })?;
    let left = u64::try_from(identity.ends() - now.as_second()).unwrap_or_default();
    Ok((pem, Duration::from_secs(left)))
}

/// One value, and the Secret that it was read from.
pub struct Read {
    /// The value.
    pub value: Vec<u8>,
    /// Version of the Secret, as [`Offered`] has it.
    pub version: String,
    /// The same, as the API server knows it.
    pub resource_version: Option<String>,
}

/// The same, with its version.
pub async fn read(client: &Client, namespace: &str, name: &str, key: &str) -> Result<Read, ValueError> {
    let secret = fetch(client, namespace, name).await?;
    let value = secret.data.and_then(|mut data| data.remove(key));
    let missing = || ValueError::Unusable {
        name: name.to_owned(),
        why: format!("has no key {key}"),
    };
    Ok(Read {
        value: value.ok_or_else(missing)?.0,
        version: version(&secret.metadata),
        resource_version: secret.metadata.resource_version,
    })
}

/// Reads a Secret whole, of which values belong together.
pub async fn content(client: &Client, namespace: &str, name: &str) -> Result<Content, ValueError> {
    let secret = fetch(client, namespace, name).await?;
    let data = secret.data.unwrap_or_default().into_iter();
    let data = data.map(|(key, value)| (key, SecretSlice::from(value.0)));
    Ok(Content {
        kind: secret.type_.unwrap_or_default(),
        data: data.collect(),
    })
}

async fn fetch(client: &Client, namespace: &str, name: &str) -> Result<Secret, ValueError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = api.get(name).await.map_err(|source| ValueError::Read {
        name: name.to_owned(),
        source: Box::new(source),
    })?;
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if NEVER.iter().any(|never| kind.starts_with(never)) {
        return Err(ValueError::Unusable {
            name: name.to_owned(),
            why: format!("is of type {kind}, which is never a session's credential"),
        });
    }
    Ok(secret)
}

/// A value that isn't written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The Secret was changed since it was read.
    #[error("Secret {name} was changed meanwhile")]
    Overtaken {
        /// Which.
        name: String,
    },
    /// The Role says no.
    #[error("ServiceAccount berth-credentials may not patch Secret {name}: add the verb patch for it to its Role")]
    Forbidden {
        /// Which.
        name: String,
    },
    /// Something else.
    #[error("failed to write Secret {name}")]
    Write {
        /// Which.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// Writes one value into the Secret that `read` came from, and into no later one. Gives the Secret's new version.
pub async fn write(
    client: &Client,
    (namespace, name, key): (&str, &str, &str),
    read: &Read,
    value: &[u8],
) -> Result<String, WriteError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": read.resource_version },
        "data": { key: ByteString(value.to_vec()) },
    });
    let written = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let name = name.to_owned();
    match written {
        Ok(secret) => Ok(version(&secret.metadata)),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(WriteError::Overtaken { name }),
        Err(kube::Error::Api(status)) if status.code == 403 => Err(WriteError::Forbidden { name }),
        Err(source) => Err(WriteError::Write {
            name,
            source: Box::new(source),
        }),
    }
}

/// Keys of a Secret of type `kubernetes.io/tls`.
const TLS_CHAIN: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
/// DESIGN §9.
const NEVER: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release",
];
