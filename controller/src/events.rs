//! Kubernetes Events: transitions that a person would look for, off the hot path.
//!
//! A bounded queue and one writer: when the API server is slow, Events are dropped and counted, never waited for. They
//! live an hour and are no record; Postgres is.

use berth_crds::Reason;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

use crate::telemetry::chain;

/// Publishes Events. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<Event>,
    instance: String,
}

impl Events {
    /// The publisher and the queue that [`write()`] drains.
    pub fn new(instance: &str) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (
            Self {
                sender,
                instance: instance.to_owned(),
            },
            receiver,
        )
    }

    /// Publishes one about an object.
    pub fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, reason: Reason, note: &str, warning: bool) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", object.name_any(), now.as_nanosecond())),
                namespace: object.namespace(),
                ..ObjectMeta::default()
            },
            action: Some(reason.as_str().to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(berth_crds::condition::cut(note, NOTE_MAX)),
            reason: Some(reason.as_str().to_owned()),
            regarding: Some(reference(object)),
            reporting_controller: Some("berth.dev/controller".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        if self.sender.try_send(event).is_err() {
            tracing::warn!(reason = reason.as_str(), "event dropped: the queue is full");
        }
    }
}

fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(object.name_any()),
        namespace: object.namespace(),
        uid: object.uid(),
        ..ObjectReference::default()
    }
}

/// Writes Events until every publisher is gone.
pub async fn write(client: Client, mut queue: mpsc::Receiver<Event>) {
    while let Some(event) = queue.recv().await {
        let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(error = chain(&error), "event not written");
        }
    }
}

/// A burst of fifty sessions that all fail twice.
const QUEUE: usize = 128;
/// The API allows 1 KiB (research/gitops.md §3).
const NOTE_MAX: usize = 1000;
