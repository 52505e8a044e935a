//! The second key: where the document of a binding, or of a session, stands in git, by what the sources of its namespace
//! have fetched. Labels and annotations prove nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_crds::{AgentSession, AgentSessionSpec, CredentialBinding, CredentialBindingSpec, GitSource, label};
use jiff::Timestamp;
use kube::ResourceExt;

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
    documents: BTreeMap<Key, Document>,
    withheld: BTreeSet<Key>,
}

/// A document that can be read, and its `spec` as the types read it: spelling and order of fields mean nothing.
struct Document {
    declared: Declared,
    spec: Spec,
}

enum Spec {
    Binding(Box<CredentialBindingSpec>),
    Session(Box<AgentSessionSpec>),
    /// Of another kind, or one that the types can't hold.
    Other,
}

impl TipObjects {
    /// Of documents that can be read; `withheld` are those that are declared wrongly or twice.
    pub fn new(declared: impl IntoIterator<Item = Declared>, withheld: BTreeSet<Key>) -> Self {
        let documents = declared.into_iter().map(|declared| {
            let spec = declared.object.get("spec").cloned().unwrap_or_default();
            let spec = match declared.key.kind {
                Kind::Binding => serde_json::from_value(spec).map_or(Spec::Other, Spec::Binding),
                Kind::Session => serde_json::from_value(spec).map_or(Spec::Other, Spec::Session),
                Kind::Pool => Spec::Other,
            };
            (declared.key.clone(), Document { declared, spec })
        });
        Self {
            documents: documents.collect(),
            withheld,
        }
    }
}

/// Where each of these bindings stands.
pub fn tips(bindings: &[Arc<CredentialBinding>], sources: &[SourceTip]) -> BTreeMap<String, Tip> {
    let found = bindings
        .iter()
        .map(|binding| (binding.name_any(), tip(binding, sources)));
    found.collect()
}

/// Whether a session is what the newest tip of exactly one source declares, with the labels that it declares: one that
/// was made or relabelled by hand isn't.
pub fn declares_session(session: &AgentSession, sources: &[SourceTip]) -> bool {
    let (declaring, _) = declaring(Kind::Session, &session.name_any(), sources);
    let [
        (
            _,
            Ok(Document {
                declared,
                spec: Spec::Session(spec),
            }),
        ),
    ] = declaring.as_slice()
    else {
        return false;
    };
    let labels = declared.object.pointer("/metadata/labels").cloned();
    let declared_labels = labels
        .and_then(|labels| serde_json::from_value(labels).ok())
        .unwrap_or_default();
    let mut live: BTreeMap<String, String> = session.labels().clone();
    live.retain(|key, _| !label::is_an_appliers(key));
    **spec == session.spec && live == declared_labels
}

/// A source, and its document of the object or that there is one which can't be used.
type Found<'a> = (&'a SourceTip, Result<&'a Document, ()>);

/// Who declares an object; and the sources that haven't been read yet.
fn declaring<'a>(kind: Kind, name: &str, sources: &'a [SourceTip]) -> (Vec<Found<'a>>, Vec<&'a SourceTip>) {
    let key = Key {
        kind,
        name: name.to_owned(),
    };
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for tip in sources.iter().filter(|tip| !tip.source.spec.suspend) {
        match &tip.declared {
            None => unread.push(tip),
            Some(objects) => found.extend(declares(objects, &key).map(|declared| (tip, declared))),
        }
    }
    (found, unread)
}

fn tip(binding: &CredentialBinding, sources: &[SourceTip]) -> Tip {
    let (declaring, unread) = declaring(Kind::Binding, &binding.name_any(), sources);
    match declaring.as_slice() {
        [
            (
                tip,
                Ok(Document {
                    declared,
                    spec: Spec::Binding(spec),
                }),
            ),
        ] if **spec == binding.spec => Tip::Stands(Box::new(Standing::of(tip, declared))),
        [(tip, Ok(Document { declared, .. }))] => Tip::Differs(format!(
            "the document at {} of GitSource {} says something else than the object",
            declared.at,
            tip.source.name_any()
        )),
        [(tip, Err(()))] => Tip::Gone(format!(
            "GitSource {} declares it in a way that can't be read or more than once",
            tip.source.name_any()
        )),
        [_, _, ..] => Tip::Gone("more than one GitSource declares it".to_owned()),
        [] if !unread.is_empty() => {
            let names: Vec<String> = unread.iter().map(|tip| tip.source.name_any()).collect();
            Tip::Unread(format!(
                "GitSource {} hasn't been read since this controller began: see what its status says",
                names.join(", ")
            ))
        }
        [] if was_delivered(binding) => {
            Tip::Gone("its document doesn't stand in the newest tip of any GitSource here".to_owned())
        }
        [] => Tip::Direct,
    }
}

fn declares<'a>(tip: &'a TipObjects, key: &Key) -> Option<Result<&'a Document, ()>> {
    let withheld = tip.withheld.contains(key).then_some(Err(()));
    withheld.or_else(|| tip.documents.get(key).map(Ok))
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
