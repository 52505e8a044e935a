//! The second key: where the document of a binding, or of a session, stands in git, by what the sources of its namespace
//! have fetched. Labels and annotations prove nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{AgentSession, CredentialBinding, GitSource, label};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use super::decide::Tip;
use crate::forge::config::Place;
use crate::git::declared::{Declared, Key, Kind};
use crate::git::introduced::Introduced;

/// What one source says.
pub struct SourceTip {
    /// The source.
    pub source: Arc<GitSource>,
    /// What its newest tip declares; `None` before it was fetched.
    pub declared: Option<Arc<TipObjects>>,
    /// When that was last fetched.
    pub verified_at: Option<Timestamp>,
    /// When its branch was last rewound.
    pub rewound_at: Option<Timestamp>,
    /// Its repository on a forge of the install's configuration, and the forge's id of it once it is known.
    pub place: Option<(Place, Option<i64>)>,
}

/// Where a document stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The last commit that changed it.
    pub commit: String,
    /// Author of that commit, as git says.
    pub author: String,
    /// Path of its file.
    pub path: String,
    /// Where its fingerprint comes from, if that could be found.
    pub introduced: Option<Introduced>,
    /// Name of the source.
    pub source: String,
    /// Clone URL of the source.
    pub url: String,
    /// Branch of the source.
    pub branch: String,
    /// When that branch was last fetched.
    pub verified_at: Option<Timestamp>,
    /// When that branch was last rewound.
    pub rewound_at: Option<Timestamp>,
    /// The repository on a forge of the install's configuration, and the forge's id of it once it is known.
    pub place: Option<(Place, Option<i64>)>,
}

impl Standing {
    fn of(tip: &SourceTip, declared: &Declared) -> Self {
        Self {
            commit: declared.commit.clone(),
            author: declared.author.clone(),
            path: declared.path.clone(),
            introduced: declared.introduced.clone(),
            source: tip.source.name_any(),
            url: tip.source.spec.url.clone(),
            branch: tip.source.spec.reference.branch.clone(),
            verified_at: tip.verified_at,
            rewound_at: tip.rewound_at,
            place: tip.place.clone(),
        }
    }
}

/// Bindings and sessions of a tip.
pub struct TipObjects {
    /// Documents that can be read.
    pub objects: Vec<Declared>,
    /// Objects that are declared wrongly or twice.
    pub withheld: BTreeSet<Key>,
}

/// Where each of these bindings stands. One is left out while a source of the namespace hasn't been fetched and none of
/// the others declares it.
pub fn tips(bindings: &[Arc<CredentialBinding>], sources: &[SourceTip]) -> BTreeMap<String, Tip> {
    let found = bindings
        .iter()
        .filter_map(|binding| Some((binding.name_any(), tip(binding, sources)?)));
    found.collect()
}

/// Whether a session is what the newest tip of exactly one source declares, with the labels that it declares: one that
/// was made or relabelled by hand isn't.
pub fn declares_session(session: &AgentSession, sources: &[SourceTip]) -> bool {
    let (declaring, _) = declaring(Kind::Session, &session.name_any(), sources);
    let [(_, Ok(declared))] = declaring.as_slice() else {
        return false;
    };
    let labels = declared.object.pointer("/metadata/labels").cloned();
    let declared_labels = labels
        .and_then(|labels| serde_json::from_value(labels).ok())
        .unwrap_or_default();
    let mut live: BTreeMap<String, String> = session.labels().clone();
    live.retain(|key, _| !label::is_an_appliers(key));
    same_spec(declared, &session.spec) && live == declared_labels
}

/// A source, and its document of the object or that there is one which can't be used.
type Found<'a> = (&'a SourceTip, Result<&'a Declared, ()>);

/// Who declares an object; and whether a source hasn't been read yet.
fn declaring<'a>(kind: Kind, name: &str, sources: &'a [SourceTip]) -> (Vec<Found<'a>>, bool) {
    let key = Key {
        kind,
        name: name.to_owned(),
    };
    let (mut found, mut unread) = (Vec::new(), false);
    for tip in sources.iter().filter(|tip| !tip.source.spec.suspend) {
        match &tip.declared {
            None => unread = true,
            Some(objects) => found.extend(declares(objects, &key).map(|declared| (tip, declared))),
        }
    }
    (found, unread)
}

fn tip(binding: &CredentialBinding, sources: &[SourceTip]) -> Option<Tip> {
    let (declaring, unread) = declaring(Kind::Binding, &binding.name_any(), sources);
    match declaring.as_slice() {
        [(tip, Ok(declared))] if same_spec(declared, &binding.spec) => {
            Some(Tip::Stands(Box::new(Standing::of(tip, declared))))
        }
        [(tip, Ok(declared))] => Some(Tip::Differs(format!(
            "the document at {} of GitSource {} says something else than the object",
            declared.at,
            tip.source.name_any()
        ))),
        [(tip, Err(()))] => Some(Tip::Gone(format!(
            "GitSource {} declares it in a way that can't be read or more than once",
            tip.source.name_any()
        ))),
        [_, _, ..] => Some(Tip::Gone("more than one GitSource declares it".to_owned())),
        [] if unread => None,
        [] if was_delivered(binding) => Some(Tip::Gone(
            "its document doesn't stand in the newest tip of any GitSource here".to_owned(),
        )),
        [] => Some(Tip::Direct),
    }
}

fn declares<'a>(tip: &'a TipObjects, key: &Key) -> Option<Result<&'a Declared, ()>> {
    let withheld = tip.withheld.contains(key).then_some(Err(()));
    withheld.or_else(|| tip.objects.iter().find(|declared| declared.key == *key).map(Ok))
}

/// Compared as the types read them: spelling and order of fields mean nothing.
fn same_spec<S: DeserializeOwned + PartialEq>(declared: &Declared, spec: &S) -> bool {
    let read = declared.object.get("spec").cloned().unwrap_or_default();
    serde_json::from_value::<S>(read).is_ok_and(|read| read == *spec)
}

/// Git, Flux or Argo CD brought it once: it is no direct binding, whatever became of its document.
fn was_delivered(binding: &CredentialBinding) -> bool {
    let labels = [
        label::SOURCE_UID,
        "kustomize.toolkit.fluxcd.io/name",
        "helm.toolkit.fluxcd.io/name",
    ];
    labels.iter().any(|label| binding.labels().contains_key(*label))
        || binding.annotations().contains_key("argocd.argoproj.io/tracking-id")
}

#[cfg(test)]
mod tests;
