//! The second key: where a binding's document stands in git, by what the sources of its namespace have fetched. Labels
//! and annotations prove nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{CredentialBinding, CredentialBindingSpec, GitSource, label};
use kube::ResourceExt;

use super::decide::Tip;
use crate::git::declared::{Declared, Key, Kind};

/// What one source says.
pub struct SourceTip {
    /// The source.
    pub source: Arc<GitSource>,
    /// What its newest tip declares; `None` before it was fetched.
    pub declared: Option<Arc<TipObjects>>,
}

/// Bindings of a tip.
pub struct TipObjects {
    /// Documents that can be read.
    pub bindings: Vec<Declared>,
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

fn tip(binding: &CredentialBinding, sources: &[SourceTip]) -> Option<Tip> {
    let name = binding.name_any();
    let live = sources.iter().filter(|tip| !tip.source.spec.suspend);
    let mut declaring = Vec::new();
    let mut unread = false;
    for tip in live {
        match &tip.declared {
            None => unread = true,
            Some(declared) => declaring.extend(declares(declared, &name).map(|found| (tip, found))),
        }
    }
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

/// The document of that name, or that there is one which can't be used.
fn declares<'a>(tip: &'a TipObjects, name: &str) -> impl Iterator<Item = Result<&'a Declared, ()>> {
    let key = Key {
        kind: Kind::Binding,
        name: name.to_owned(),
    };
    let withheld = tip.withheld.contains(&key).then_some(Err(()));
    let declared = tip.bindings.iter().find(|declared| declared.key == key).map(Ok);
    withheld.or(declared).into_iter()
}

/// Compared as the types read them: spelling and order of fields mean nothing.
fn same_spec(declared: &Declared, spec: &CredentialBindingSpec) -> bool {
    let read = declared.object.get("spec").cloned().unwrap_or_default();
    serde_json::from_value::<CredentialBindingSpec>(read).is_ok_and(|read| read == *spec)
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
