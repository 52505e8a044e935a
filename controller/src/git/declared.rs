//! What a tip declares: objects that can be applied, and what is wrong with the rest.

use std::collections::BTreeSet;

use berth_crds::{AgentPool, AgentSession, CredentialBinding, SourceError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The kinds that a source applies, in the order they are applied in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
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
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
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
#[derive(Clone, Debug, PartialEq)]
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
    /// The last commit that changed the file.
    pub commit: String,
    /// Author of that commit.
    pub author: String,
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

fn typed<K: DeserializeOwned + Serialize>(value: &Value) -> Value {
    let read = K::deserialize(value).ok();
    read.and_then(|object| serde_json::to_value(object).ok())
        .unwrap_or_else(|| value.clone())
}

/// A tip, read.
#[derive(Clone, Debug, Default, PartialEq)]
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
