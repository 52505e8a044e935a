//! IO: Secrets that bindings name. Each is watched by itself and without its values, as its namespace's ServiceAccount
//! `berth-credentials`, so that a Role with `resourceNames` suffices; values are read when they are pushed, and dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::Reason;
use berth_crds::label::{HOSTS, OFFERED};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use secrecy::SecretSlice;
use tokio_util::task::AbortOnDropHandle;

use super::decide::{Offered, Refused};
use super::kind::{Content, Unusable};
use crate::watch::Name;
use crate::work::Pokes;

/// The Secrets in use.
#[derive(Clone, Default)]
pub struct Secrets {
    watched: Arc<Mutex<HashMap<Name, Watched>>>,
    /// Bindings whose value couldn't be had of a version.
    broken: Arc<Mutex<HashMap<Name, Broken>>>,
}

/// A value that couldn't be had.
#[derive(Clone)]
struct Broken {
    /// Of its Secrets then.
    version: String,
    refused: Refused,
    /// When it is tried again although they are the same.
    until: Option<Instant>,
}

struct Watched {
    state: Arc<Mutex<Option<Result<Offered, Refused>>>>,
    _task: AbortOnDropHandle<()>,
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
    /// It can't be used as a credential.
    #[error("Secret {name} {why}")]
    Unusable {
        /// Which.
        name: String,
        /// Why.
        why: Unusable,
    },
}

impl ValueError {
    /// Why, for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Read { .. } => Reason::SecretNotFound,
            Self::Unusable { why, .. } => why.reason,
        }
    }
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

    /// What is known of a Secret; `None` before its watch has said anything.
    pub fn state(&self, name: &Name) -> Option<Result<Offered, Refused>> {
        self.watched.lock().get(name)?.state.lock().clone()
    }

    /// The value of a binding couldn't be had of its Secrets in this version; it is tried again when one changes, or
    /// after a while.
    pub fn broken(&self, binding: Name, version: String, refused: Refused, again: Option<Duration>) {
        let until = again.map(|again| Instant::now() + again);
        let broken = Broken {
            version,
            refused,
            until,
        };
        self.broken.lock().insert(binding, broken);
    }

    /// The bindings of a namespace whose value can't be had, with the version of their Secrets for which that holds.
    pub fn broken_in(&self, namespace: &str) -> BTreeMap<String, (String, Refused)> {
        let now = Instant::now();
        let mut broken = self.broken.lock();
        broken.retain(|_, broken| broken.until.is_none_or(|until| now < until));
        let here = broken.iter().filter(|(binding, _)| binding.namespace == namespace);
        here.map(|(binding, broken)| {
            let Broken { version, refused, .. } = broken.clone();
            (binding.name.clone(), (version, refused))
        })
        .collect()
    }

    /// Nothing of the namespace is in use any more.
    pub fn forget(&self, namespace: &str) {
        self.watched.lock().retain(|name, _| name.namespace != namespace);
        self.broken.lock().retain(|binding, _| binding.namespace != namespace);
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

/// Reads a Secret, to be pushed from and dropped.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Content, ValueError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = api.get(name).await.map_err(|source| ValueError::Read {
        name: name.to_owned(),
        source: Box::new(source),
    })?;
    let kind = secret.type_.unwrap_or_else(|| "Opaque".to_owned());
    if NEVER.iter().any(|never| kind.starts_with(never)) {
        let why = Unusable {
            reason: Reason::SecretInvalid,
            message: format!("is of type {kind}, which is never a session's credential"),
        };
        return Err(unusable(name, why));
    }
    let data = secret.data.unwrap_or_default().into_iter();
    let data = data.map(|(key, value)| (key, SecretSlice::from(value.0)));
    Ok(Content {
        kind,
        data: data.collect(),
    })
}

/// Reads one value.
pub async fn value(client: &Client, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, ValueError> {
    let content = read(client, namespace, name).await?;
    let value = content.value(key).map(<[u8]>::to_vec);
    value.map_err(|why| unusable(name, why))
}

/// What is wrong with a Secret of this name.
pub fn unusable(name: &str, why: Unusable) -> ValueError {
    ValueError::Unusable {
        name: name.to_owned(),
        why,
    }
}

/// DESIGN §9.
const NEVER: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release",
];
