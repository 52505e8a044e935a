//! Upstream connections that wait for the next request.
//!
//! A connection is shared by nothing but requests of one key: the same target, and the same grants. An upstream that
//! ties rights to a connection can't lend them to a request that has none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_outbound::dial::Target;
use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::http1::Http1;
use crate::body::Body;

/// Who may share a connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    /// Where it leads.
    pub target: Arc<Target>,
    /// Routes of the grants that its requests use, empty for those without; `None` before the first request.
    pub routes: Option<Arc<[String]>>,
}

impl Key {
    /// Of a connection to the same target that no request has used.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self {
            target: Arc::clone(&self.target),
            routes: None,
        }
    }
}

/// The idle ones.
#[derive(Default)]
pub struct Pool {
    shelves: Mutex<Shelves>,
}

#[derive(Default)]
struct Shelves {
    http1: HashMap<Key, Vec<Idle>>,
    http2: HashMap<Key, http2::SendRequest<Body>>,
    idle: usize,
}

struct Idle {
    connection: Http1,
    until: Instant,
}

impl Pool {
    /// The one that was used last, if it still stands; or one that nothing has used.
    pub fn take(&self, key: &Key) -> Option<Http1> {
        self.take_of(key).or_else(|| self.take_of(&key.fresh()))
    }

    fn take_of(&self, key: &Key) -> Option<Http1> {
        let now = Instant::now();
        loop {
            let mut idle = self.shelves.lock().pop(key)?;
            if idle.until > now && idle.connection.is_free() {
                return Some(idle.connection);
            }
        }
    }

    /// For the next request. Beyond the limits it is closed.
    pub fn put(&self, key: Key, connection: Http1) {
        let now = Instant::now();
        let mut shelves = self.shelves.lock();
        if shelves.idle >= IDLE_MAX {
            shelves.sweep(now);
        }
        if shelves.idle >= IDLE_MAX {
            return;
        }
        let waiting = shelves.http1.entry(key).or_default();
        if waiting.len() < IDLE_PER_KEY_MAX {
            let until = now + IDLE_TIME;
            waiting.push(Idle { connection, until });
            shelves.idle += 1;
        }
    }

    /// The HTTP/2 connection of a key.
    pub fn shared(&self, key: &Key) -> Option<http2::SendRequest<Body>> {
        let mut shelves = self.shelves.lock();
        if let Some(sender) = shelves.http2.remove(&key.fresh()) {
            shelves.http2.entry(key.clone()).or_insert(sender);
        }
        let sender = shelves.http2.get(key)?;
        if sender.is_closed() {
            shelves.http2.remove(key);
            return None;
        }
        Some(sender.clone())
    }

    /// From here on requests of the key use this one.
    pub fn share(&self, key: Key, sender: http2::SendRequest<Body>) {
        let mut shelves = self.shelves.lock();
        if shelves.http2.len() >= IDLE_MAX {
            shelves.http2.retain(|_, sender| !sender.is_closed());
        }
        if shelves.http2.len() < IDLE_MAX {
            shelves.http2.insert(key, sender);
        }
    }

    /// Closes what waits on these routes: their grants have changed.
    pub fn forget(&self, is_gone: impl Fn(&str) -> bool) {
        let mut shelves = self.shelves.lock();
        let stays = |key: &Key| {
            !key.routes
                .iter()
                .flat_map(|routes| routes.iter())
                .any(|route| is_gone(route))
        };
        shelves.http1.retain(|key, _| stays(key));
        shelves.http2.retain(|key, _| stays(key));
        shelves.idle = shelves.http1.values().map(Vec::len).sum();
    }

    /// Closes what has waited for too long, as long as the proxy runs.
    pub async fn keep_tidy(&self) {
        loop {
            tokio::time::sleep(IDLE_TIME).await;
            self.shelves.lock().sweep(Instant::now());
        }
    }
}

impl Shelves {
    fn pop(&mut self, key: &Key) -> Option<Idle> {
        let idle = self.http1.get_mut(key)?.pop()?;
        self.idle -= 1;
        Some(idle)
    }

    fn sweep(&mut self, now: Instant) {
        self.http1.retain(|_, shelf| {
            shelf.retain(|idle| idle.until > now);
            !shelf.is_empty()
        });
        self.http2.retain(|_, sender| !sender.is_closed());
        self.idle = self.http1.values().map(Vec::len).sum();
    }
}

/// Idle connections of one key: an agent rarely has more requests in flight to one host.
const IDLE_PER_KEY_MAX: usize = 64;
/// Idle connections in all: descriptors, and about 40 KiB each.
const IDLE_MAX: usize = 256;
/// Most servers keep an idle connection for 60 s and more; shorter avoids the race with their end.
const IDLE_TIME: Duration = Duration::from_secs(30);
