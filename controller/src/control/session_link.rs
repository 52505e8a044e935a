//! Which session each pod was assigned to by this leader, so that events on its stream find their session.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::watch::Name;

/// Assigned pods, by UID.
#[derive(Clone, Default)]
pub struct SessionsOnPods {
    inner: Arc<Mutex<HashMap<String, Link>>>,
}

/// The session that a pod was assigned to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// The session.
    pub session: Name,
    /// Its UID.
    pub session_uid: String,
    /// Its incarnation.
    pub incarnation: i64,
}

impl SessionsOnPods {
    /// The pod was proven to serve this session.
    pub fn set(&self, pod_uid: &str, session: Name, session_uid: &str, incarnation: i64) {
        let link = Link {
            session,
            session_uid: session_uid.to_owned(),
            incarnation,
        };
        self.inner.lock().insert(pod_uid.to_owned(), link);
    }

    /// The session that the pod serves.
    pub fn get(&self, pod_uid: &str) -> Option<Link> {
        self.inner.lock().get(pod_uid).cloned()
    }

    /// The pods that serve sessions of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> Vec<(String, Link)> {
        let inner = self.inner.lock();
        let theirs = inner.iter().filter(|(_, link)| link.session.namespace == namespace);
        theirs.map(|(pod_uid, link)| (pod_uid.clone(), link.clone())).collect()
    }

    /// The pods that serve a session.
    pub fn of_session(&self, session_uid: &str) -> Vec<(String, Link)> {
        let inner = self.inner.lock();
        let theirs = inner.iter().filter(|(_, link)| link.session_uid == session_uid);
        theirs.map(|(pod_uid, link)| (pod_uid.clone(), link.clone())).collect()
    }

    /// The pod's stream has gone; it proves itself again when it is back.
    pub fn remove(&self, pod_uid: &str) {
        self.inner.lock().remove(pod_uid);
    }

    /// Takes out every pod that serves this session.
    pub fn take(&self, session_uid: &str) -> Vec<String> {
        let mut inner = self.inner.lock();
        let pods = inner.extract_if(|_, link| link.session_uid == session_uid);
        pods.map(|(pod_uid, _)| pod_uid).collect()
    }
}
