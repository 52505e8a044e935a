//! What a tip declares: objects that can be applied, and what is wrong with the rest.

use std::collections::{BTreeSet, HashMap};

use berth_crds::{AgentPool, AgentSession, CredentialBinding, SourceError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::introduced::Introduced;

/// The kinds that a source applies, in the order they are applied in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Kind {
    /// CredentialBinding: a grant is narrowed before anything else happens.
    Binding,
    /// AgentPool.
    Pool,
    /// AgentSession.
    Session,
}

impl Kind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Binding, Self::Pool, Self::Session]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binding => "CredentialBinding",
            Self::Pool => "AgentPool",
            Self::Session => "AgentSession",
        }
    }
}

/// Kind and name: an object of the source's namespace.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.kind.name(), self.name)
    }
}

/// One object as a file declares it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Declared {
    /// Which object.
    pub key: Key,
    /// Path of the file.
    pub path: String,
    /// Where the document begins: `path:line:column`.
    pub at: String,
    /// The object: `apiVersion`, `kind`, `metadata`, `spec`.
    pub object: Value,
    /// SHA-256 of the object, hex.
    pub sha256: String,
    /// The last commit that changed the document; empty while it isn't known.
    pub commit: String,
    /// Author of that commit.
    pub author: String,
    /// Of a binding: where its fingerprint comes from, as far as that could be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introduced: Option<Introduced>,
}

impl Declared {
    /// The object in the form that the typed client gives: durations and quantities written one way, so that it can be
    /// compared with what stands. One that the types can't hold stays as it is; the API server will say why.
    pub fn typed(&self) -> Value {
        match self.key.kind {
            Kind::Binding => typed::<CredentialBinding>(&self.object),
            Kind::Pool => typed::<AgentPool>(&self.object),
            Kind::Session => typed::<AgentSession>(&self.object),
        }
    }
}

impl Declarations {
    /// Names the commits that the walk along the history did not reach: an object that was held the same before keeps
    /// its commit; another one has the tip.
    pub fn inherit(&mut self, held: Option<&Self>, tip: &str) {
        let known: HashMap<(&Key, &str), &Declared> = held
            .into_iter()
            .flat_map(|held| &held.objects)
            .map(|object| ((&object.key, object.path.as_str()), object))
            .collect();
        for object in self.objects.iter_mut().filter(|object| object.commit.is_empty()) {
            let before = known
                .get(&(&object.key, object.path.as_str()))
                .filter(|before| before.sha256 == object.sha256);
            (object.commit, object.author) = before.map_or_else(
                || (tip.to_owned(), String::new()),
                |before| (before.commit.clone(), before.author.clone()),
            );
        }
    }
}

fn typed<K: DeserializeOwned + Serialize>(value: &Value) -> Value {
    let read = K::deserialize(value).ok();
    read.and_then(|object| serde_json::to_value(object).ok())
        .unwrap_or_else(|| value.clone())
}

/// A tip, read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Declarations {
    /// Objects that can be applied.
    pub objects: Vec<Declared>,
    /// What can't be, with its place.
    pub errors: Vec<SourceError>,
    /// Paths with an error: what was applied from them before stays.
    pub unreadable: BTreeSet<String>,
    /// Objects that are declared wrongly: they stay as they are.
    pub withheld: BTreeSet<Key>,
    /// Documents of foreign kinds.
    pub skipped: usize,
}
