//! What stands in a source's namespace, and whose it is, from the stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_crds::{GitSource, label};
use kube::ResourceExt;
use serde::Serialize;

use super::declared::{Key, Kind};
use super::plan::{Live, Owner};
use crate::context::Context;

/// Every object of the three kinds in the source's namespace, as cached.
pub fn live(context: &Context, source: &GitSource) -> BTreeMap<Key, Live> {
    let caches = &context.caches;
    let mut all = BTreeMap::new();
    collect(&mut all, Kind::Session, &caches.sessions.state(), context, source);
    collect(&mut all, Kind::Pool, &caches.pools.state(), context, source);
    collect(&mut all, Kind::Binding, &caches.bindings.state(), context, source);
    all
}

fn collect<K: ResourceExt + Serialize>(
    all: &mut BTreeMap<Key, Live>,
    kind: Kind,
    objects: &[Arc<K>],
    context: &Context,
    source: &GitSource,
) {
    for object in objects.iter().filter(|object| object.namespace() == source.namespace()) {
        let annotation = |key: &str| object.annotations().get(key).cloned();
        let live = Live {
            uid: object.uid().unwrap_or_default(),
            owner: owner(&**object, context, source),
            applied: annotation(label::APPLIED),
            path: annotation(label::PATH),
            deleting: object.meta().deletion_timestamp.is_some(),
            object: serde_json::to_value(&**object).unwrap_or_default(),
        };
        all.insert(
            Key {
                kind,
                name: object.name_any(),
            },
            live,
        );
    }
}

fn owner(object: &impl ResourceExt, context: &Context, source: &GitSource) -> Owner {
    let name = format!("{}/{}", source.namespace().unwrap_or_default(), source.name_any());
    if let Some(uid) = object.labels().get(label::SOURCE_UID) {
        let exists = || {
            context
                .caches
                .sources
                .state()
                .iter()
                .any(|other| other.uid().as_ref() == Some(uid))
        };
        let said = object.annotations().get(label::SOURCE);
        // A source that was deleted and made again under its name goes on with what it applied.
        return if source.uid().as_ref() == Some(uid) || (said == Some(&name) && !exists()) {
            Owner::This
        } else {
            Owner::Other(format!("GitSource {}", said.map_or(uid.as_str(), String::as_str)))
        };
    }
    let marks = [
        (
            object.labels().get("kustomize.toolkit.fluxcd.io/name"),
            "Flux Kustomization",
        ),
        (object.labels().get("helm.toolkit.fluxcd.io/name"), "Flux HelmRelease"),
        (
            object.annotations().get("argocd.argoproj.io/tracking-id"),
            "Argo CD Application",
        ),
        (object.annotations().get("meta.helm.sh/release-name"), "Helm release"),
    ];
    let found = marks
        .into_iter()
        .find_map(|(name, what)| Some(format!("{what} {}", name?)));
    found.map_or(Owner::Nobody, Owner::Other)
}
