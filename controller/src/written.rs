//! Objects as this process has just written them, until the watch brings them back: a pass right after a write sees
//! its own write, and never plans from what stood before.

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::watch::Name;

/// Objects of one kind as written.
pub struct Written<K> {
    inner: Mutex<HashMap<Name, Entry<K>>>,
}

struct Entry<K> {
    /// Versions that this process has planned from, which the watch may still show.
    overtaken: Vec<String>,
    object: Arc<K>,
}

impl<K> Default for Written<K> {
    fn default() -> Self {
        let inner = Mutex::default();
        Self { inner }
    }
}

impl<K: ResourceExt> Written<K> {
    /// The object was written on top of version `before`.
    pub fn remember(&self, before: Option<String>, object: K) {
        let mut inner = self.inner.lock();
        let name = Name::of(&object);
        let mut overtaken = inner.remove(&name).map(|entry| entry.overtaken).unwrap_or_default();
        overtaken.extend(before);
        if overtaken.len() > VERSIONS_MAX {
            overtaken.remove(0);
        }
        let object = Arc::new(object);
        inner.insert(name, Entry { overtaken, object });
    }

    /// The newer of the two: what was written, while the watch still shows a version from before.
    pub fn newest(&self, cached: Arc<K>) -> Arc<K> {
        let name = &Name::of(&*cached);
        let mut inner = self.inner.lock();
        let version = cached.resource_version().unwrap_or_default();
        match inner.get(name) {
            Some(entry) if entry.overtaken.contains(&version) && entry.object.uid() == cached.uid() => {
                Arc::clone(&entry.object)
            }
            Some(_) => {
                inner.remove(name);
                cached
            }
            None => cached,
        }
    }

    /// Objects that `stands` doesn't know are gone.
    pub fn retain(&self, stands: impl Fn(&Name) -> bool) {
        self.inner.lock().retain(|name, _| stands(name));
    }

    /// The object is gone.
    pub fn forget(&self, name: &Name) {
        self.inner.lock().remove(name);
    }
}

/// Writes of one object that the watch can be behind by.
const VERSIONS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use berth_crds::AgentSession;

    use super::*;

    fn version(version: &str) -> AgentSession {
        let mut session = AgentSession::new("s", berth_crds::AgentSessionSpec::default());
        session.metadata.namespace = Some("team".to_owned());
        session.metadata.uid = Some("u".to_owned());
        session.metadata.resource_version = Some(version.to_owned());
        session
    }

    #[test]
    fn a_write_is_seen_until_the_watch_moves_past_it() {
        let written = Written::default();
        written.remember(Some("1".to_owned()), version("2"));
        written.remember(Some("2".to_owned()), version("3"));
        let seen = |cached| written.newest(Arc::new(version(cached))).resource_version();
        assert_eq!(seen("1").as_deref(), Some("3"));
        assert_eq!(seen("2").as_deref(), Some("3"));
        assert_eq!(seen("3").as_deref(), Some("3"));
        assert_eq!(
            seen("1").as_deref(),
            Some("1"),
            "forgotten once the watch has caught up"
        );
    }
}
