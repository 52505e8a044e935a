//! IO: carries out a plan's steps as the namespace's ServiceAccount `berth-sync`. Each object on its own: one that is
//! refused stops no other.

use std::time::Duration;

use berth_crds::{GitSource, SourceError, label};
use futures::StreamExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::declared::{Declared, Key};
use super::plan::Step;

/// What became of the steps.
#[derive(Debug, Default)]
pub struct Applied {
    /// Objects that were applied.
    pub applied: usize,
    /// What the API server refused, with its place.
    pub errors: Vec<SourceError>,
    /// Whether `berth-sync` is missing or lacks a right.
    pub forbidden: Option<String>,
}

/// Carries out the steps: deletions of bindings and applies in order of kind, each kind at most [`AT_ONCE`] at a time.
pub async fn apply(client: &Client, source: &GitSource, steps: &[Step]) -> Applied {
    let mut all = Applied::default();
    for group in steps.chunk_by(|one, other| kind(one) == kind(other)) {
        let requests: Vec<_> = group.iter().map(|step| one(client, source, step)).collect();
        let mut results = futures::stream::iter(requests).buffer_unordered(AT_ONCE);
        while let Some(result) = results.next().await {
            match result {
                Ok(applied) => all.applied += usize::from(applied),
                Err((error, forbidden)) => {
                    all.forbidden = all
                        .forbidden
                        .take()
                        .or_else(|| forbidden.then(|| error.message.clone()));
                    all.errors.push(error);
                }
            }
        }
    }
    all
}

fn kind(step: &Step) -> (bool, super::declared::Kind) {
    match step {
        Step::Apply { declared, .. } => (false, declared.key.kind),
        Step::Delete { key, .. } => (true, key.kind),
    }
}

async fn one(client: &Client, source: &GitSource, step: &Step) -> Result<bool, (SourceError, bool)> {
    let namespace = source.namespace().unwrap_or_default();
    match step {
        Step::Apply { declared, force } => {
            let api = api(client, &namespace, &declared.key);
            let mut params = PatchParams::apply(label::SOURCE_MANAGER).validation_strict();
            params.force = *force;
            let object = provenance(source, declared);
            let patch = Patch::Apply(&object);
            let applied = in_time(api.patch(&declared.key.name, &params, &patch)).await;
            applied
                .map(|_| true)
                .map_err(|error| refused(declared.at.clone(), &declared.key, &error))
        }
        Step::Delete { key, uid } => {
            let only = Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            };
            let params = DeleteParams {
                preconditions: Some(only),
                ..DeleteParams::background()
            };
            match in_time(api(client, &namespace, key).delete(&key.name, &params)).await {
                Ok(_) => Ok(false),
                Err(kube::Error::Api(status)) if ["NotFound", "Conflict"].contains(&status.reason.as_str()) => {
                    Ok(false)
                }
                Err(error) => Err(refused("(left the branch)".to_owned(), key, &error)),
            }
        }
    }
}

/// An API server that doesn't answer holds up no other source.
async fn in_time<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let late = |_| kube::Error::Service("the API server didn't answer in time; it is tried again".into());
    tokio::time::timeout(REQUEST_MAX, request).await.map_err(late)?
}

fn api(client: &Client, namespace: &str, key: &Key) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(berth_crds::GROUP, berth_crds::VERSION, key.kind.name());
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

fn refused(at: String, key: &Key, error: &kube::Error) -> (SourceError, bool) {
    let (message, forbidden) = match error {
        kube::Error::Api(status) => (
            status.message.clone(),
            status.code == 403 && status.message.contains(label::SYNC_ACCOUNT),
        ),
        other => (other.to_string(), false),
    };
    let advice = if forbidden {
        "; bind ClusterRole berth-sync to ServiceAccount berth-sync in this namespace"
    } else {
        ""
    };
    let message = berth_crds::condition::cut(&format!("{message}{advice}"), MESSAGE_MAX);
    (
        SourceError {
            at,
            object: Some(key.to_string()),
            message,
        },
        forbidden,
    )
}

/// The object with where it comes from.
fn provenance(source: &GitSource, declared: &Declared) -> Value {
    let mut object = declared.object.clone();
    let name = format!("{}/{}", source.namespace().unwrap_or_default(), source.name_any());
    let metadata = &mut object["metadata"];
    metadata["labels"][label::SOURCE_UID] = json!(source.uid().unwrap_or_default());
    let annotations = [
        (label::SOURCE, name.as_str()),
        (label::REPOSITORY, source.spec.url.as_str()),
        (label::PATH, declared.path.as_str()),
        (label::COMMIT, declared.commit.as_str()),
        (label::AUTHOR, declared.author.as_str()),
        (label::APPLIED, declared.sha256.as_str()),
    ];
    for (key, value) in annotations {
        metadata["annotations"][key] = json!(value);
    }
    object
}

/// What the API server itself gives a request, halved.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// A source of a thousand objects takes seconds, and the API server keeps room for others.
const AT_ONCE: usize = 8;
/// A screenful: the API server's own words can be long.
const MESSAGE_MAX: usize = 1024;
