//! When things happened to the objects of a kind, as a watch opened beforehand saw them.
//!
//! In: a watch. Out: monotonic times by object name. Never polls.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::TryStreamExt;
use jiff::Timestamp;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// When an object was first seen, first seen serving, and seen gone.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) created: Option<Instant>,
    pub(crate) serves: Option<Instant>,
    /// `serves` on the wall clock, to compare with the audit log.
    pub(crate) serves_at: Option<Timestamp>,
    pub(crate) finished: bool,
    pub(crate) gone: bool,
}

/// A kind's objects by name.
pub(crate) struct Follow(watch::Receiver<HashMap<String, Seen>>);

/// A full pool's worth of sandboxes, at once, on two cores.
const MOST: Duration = Duration::from_mins(3);

impl Follow {
    /// Begins to watch; returns once the watch is open. `read` says whether an object serves and whether it's finished.
    pub(crate) async fn open<K>(api: Api<K>, read: fn(&K) -> (bool, bool)) -> Result<Self>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (sender, receiver) = watch::channel(HashMap::new());
        let (ready, opened) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
            // An error is one of the watch, which opens again by itself.
            loop {
                match events.try_next().await {
                    Ok(Some(Event::InitDone)) => drop(ready.take().map(|ready| ready.send(()))),
                    Ok(Some(event)) => sender.send_modify(|seen| note(seen, &event, read)),
                    Ok(None) => return,
                    Err(error) => eprintln!("a watch broke and opens again: {error}"),
                }
            }
        });
        opened.await.context("the watch can't be opened")?;
        Ok(Self(receiver))
    }

    /// What was seen of these objects, once all of them are as wanted.
    pub(crate) async fn all(&self, names: &[String], wanted: fn(&Seen) -> bool) -> Result<Vec<Seen>> {
        let mut receiver = self.0.clone();
        let done = receiver.wait_for(|seen| names.iter().all(|name| seen.get(name).is_some_and(wanted)));
        let seen = tokio::time::timeout(MOST, done)
            .await
            .with_context(|| format!("not all of {} are as wanted in time", names.join(", ")))??;
        Ok(names.iter().filter_map(|name| seen.get(name).cloned()).collect())
    }
}

fn note<K: Resource<DynamicType = ()>>(
    all: &mut HashMap<String, Seen>,
    event: &Event<K>,
    read: fn(&K) -> (bool, bool),
) {
    let (Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) = event else {
        return;
    };
    let seen = all.entry(object.name_any()).or_default();
    let (serves, finished) = read(object);
    seen.created.get_or_insert_with(Instant::now);
    if serves {
        seen.serves.get_or_insert_with(Instant::now);
        seen.serves_at.get_or_insert_with(Timestamp::now);
    }
    seen.finished |= finished;
    seen.gone |= matches!(event, Event::Delete(_));
}
