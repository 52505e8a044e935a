//! Pure: from what a tip declares and what stands to what is to be done, in order: grants are narrowed before anything
//! else, each on its own (DESIGN §4).

use std::collections::{BTreeMap, HashSet};

use berth_crds::SourceError;
use serde_json::Value;

use super::declared::{Declarations, Declared, Key, Kind};

/// An object of one of the three kinds that stands in the source's namespace.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its UID.
    pub uid: String,
    /// Whose it is.
    pub owner: Owner,
    /// SHA-256 of the document that it was last applied from.
    pub applied: Option<String>,
    /// Path of the file that it was last applied from.
    pub path: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The object as it stands.
    pub object: Value,
}

/// Whose an object is, by the marks that appliers leave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Owner {
    /// This source's.
    This,
    /// Somebody else's: `GitSource other`, `Flux Kustomization x`, ….
    Other(String),
    /// Nobody's: made by hand.
    Nobody,
}

/// What the author of the source wants of deletions.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// `spec.prune`.
    pub enabled: bool,
    /// Whether a person has approved the deletions of this tip.
    pub approved: bool,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Apply a declared object; by force when it is this source's already.
    Apply {
        /// The object.
        declared: Box<Declared>,
        /// Whether fields that others have taken over are taken back.
        force: bool,
    },
    /// Delete an object that has left the branch.
    Delete {
        /// Which.
        key: Key,
        /// Its UID, so that no other object of the name is meant.
        uid: String,
    },
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Objects that stand as declared.
    pub unchanged: usize,
    /// Objects that aren't this source's to apply.
    pub conflicts: Vec<SourceError>,
    /// Why deletions wait for a person, if they do.
    pub guarded: Option<String>,
}

/// Plans one pass.
pub fn plan(declared: &Declarations, live: &BTreeMap<Key, Live>, prune: &Prune) -> Plan {
    let mut plan = Plan::default();
    let (bindings, others) = leaving(declared, live);
    plan.steps.extend(bindings.into_iter().map(delete));
    let mut objects: Vec<&Declared> = declared.objects.iter().collect();
    objects.sort_by(|one, other| one.key.cmp(&other.key));
    for object in objects {
        match decide(object, live.get(&object.key)) {
            Decision::Unchanged => plan.unchanged += 1,
            Decision::Apply { force } => {
                plan.steps.push(Step::Apply {
                    declared: Box::new(object.clone()),
                    force,
                });
            }
            Decision::Refuse(message) => {
                let (at, object) = (object.at.clone(), Some(object.key.to_string()));
                plan.conflicts.push(SourceError { at, object, message });
            }
        }
    }
    plan.guarded = guard(declared, live, others.len()).filter(|_| prune.enabled && !prune.approved);
    if prune.enabled && plan.guarded.is_none() {
        // Sessions go before the pools that they run in.
        plan.steps.extend(others.into_iter().rev().map(delete));
    }
    plan
}

fn delete((key, live): (&Key, &Live)) -> Step {
    Step::Delete {
        key: key.clone(),
        uid: live.uid.clone(),
    }
}

type Leaving<'a> = Vec<(&'a Key, &'a Live)>;

/// Objects of this source that the tip declares no more: bindings, and the rest. What an unreadable file may still
/// declare stays.
fn leaving<'a>(declared: &Declarations, live: &'a BTreeMap<Key, Live>) -> (Leaving<'a>, Leaving<'a>) {
    let standing: HashSet<&Key> = declared.objects.iter().map(|object| &object.key).collect();
    let stays = |key: &Key, live: &Live| {
        standing.contains(key)
            || declared.withheld.contains(key)
            || live
                .path
                .as_ref()
                .is_some_and(|path| declared.unreadable.contains(path))
    };
    live.iter()
        .filter(|(key, live)| live.owner == Owner::This && !live.deleting && !stays(key, live))
        .partition(|(key, _)| key.kind == Kind::Binding)
}

/// The prune guard counts sessions and pools only, from ten objects up.
fn guard(declared: &Declarations, live: &BTreeMap<Key, Live>, leaving: usize) -> Option<String> {
    let ours = live
        .iter()
        .filter(|(key, live)| live.owner == Owner::This && key.kind != Kind::Binding)
        .count();
    let empty = declared.objects.is_empty();
    let guarded = leaving > 0 && ours >= GUARD_FROM && (leaving * 2 > ours || empty);
    guarded.then(|| format!("{leaving} of {ours} sessions and pools would be deleted"))
}

enum Decision {
    Unchanged,
    Apply { force: bool },
    Refuse(String),
}

fn decide(declared: &Declared, live: Option<&Live>) -> Decision {
    let Some(live) = live else {
        return Decision::Apply { force: false };
    };
    match &live.owner {
        Owner::Other(owner) => {
            Decision::Refuse(format!("OwnedBy {owner}: two would fight over it; remove it from one"))
        }
        Owner::Nobody => Decision::Refuse(format!(
            "OwnedBy nobody: it was made by hand; delete it, or hand it over: kubectl label {} {} {}=<uid of this GitSource>",
            declared.key.kind.name().to_lowercase(),
            declared.key.name,
            berth_crds::label::SOURCE_UID
        )),
        Owner::This if live.deleting => Decision::Unchanged,
        Owner::This if is_current(declared, live) => Decision::Unchanged,
        Owner::This => Decision::Apply { force: true },
    }
}

/// Whether the object was applied from this document of this file and still stands so.
fn is_current(declared: &Declared, live: &Live) -> bool {
    live.applied.as_ref() == Some(&declared.sha256)
        && live.path.as_ref() == Some(&declared.path)
        && stands(&declared.object, Some(&declared.typed()), Some(&live.object))
}

/// Whether everything that a document says stands so, in the form that the typed client gives. What others add beside it
/// isn't git's.
fn stands(said: &Value, typed: Option<&Value>, live: Option<&Value>) -> bool {
    match (said, typed) {
        (Value::Null, _) => true,
        (Value::Object(said), None) if said.is_empty() => true,
        // That form leaves out what is the default anyway.
        (_, None) => live.is_none_or(|live| live == said || is_empty(live)),
        (Value::Object(said), Some(typed)) if typed.is_object() => {
            let field = |name: &String, said: &Value| {
                let (typed, live) = (typed.get(name), live.and_then(|live| live.get(name)));
                if NAMED_LISTS.contains(&name.as_str()) {
                    items_stand(typed, live)
                } else {
                    stands(said, typed, live)
                }
            };
            live.is_some_and(Value::is_object) && said.iter().all(|(name, said)| field(name, said))
        }
        (_, Some(typed)) => live.map_or_else(|| is_empty(typed), |live| covers(typed, live)),
    }
}

/// Items with names are each their applier's.
fn items_stand(typed: Option<&Value>, live: Option<&Value>) -> bool {
    let items = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let live = items(live);
    let stands = |item: &Value| {
        live.iter()
            .any(|found| found.get("name") == item.get("name") && covers(item, found))
    };
    items(typed).iter().all(stands)
}

fn covers(declared: &Value, live: &Value) -> bool {
    match (declared, live) {
        (Value::Object(declared), Value::Object(live)) => declared.iter().all(|(key, value)| {
            value.is_null()
                || live.get(key).is_some_and(|found| covers(value, found))
                || (!live.contains_key(key) && is_empty(value))
        }),
        (Value::Array(declared), Value::Array(live)) => {
            declared.len() == live.len() && declared.iter().zip(live).all(|(one, other)| covers(one, other))
        }
        (Value::Number(declared), Value::Number(live)) => declared.as_f64() == live.as_f64(),
        _ => declared == live,
    }
}

/// An empty map, an empty list, false: what a typed object that came back from the API leaves out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        Value::Bool(set) => !set,
        _ => false,
    }
}

/// Lists whose items belong to whoever applied them (`x-kubernetes-list-type: map`).
const NAMED_LISTS: [&str; 2] = ["credentials", "env"];
/// DESIGN §4.
const GUARD_FROM: usize = 10;

#[cfg(test)]
mod tests;
