//! The second key: where the document of a binding, or of a session, stands in git, by what the sources of its namespace
//! have fetched. Labels and annotations prove nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{AgentSession, CredentialBinding, GitSource, label};
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use super::decide::Tip;
use crate::git::declared::{Declared, Key, Kind};

/// What one source says.
pub struct SourceTip {
    /// The source.
    pub source: Arc<GitSource>,
    /// What its newest tip declares; `None` before it was fetched.
    pub declared: Option<Arc<TipObjects>>,
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
    live.retain(|key, _| !key.starts_with(label::PREFIX));
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
        [(_, Ok(declared))] if same_spec(declared, &binding.spec) => Some(Tip::Stands {
            commit: declared.commit.clone(),
            author: declared.author.clone(),
        }),
        [(tip, Ok(declared))] => Some(Tip::Gone(format!(
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
