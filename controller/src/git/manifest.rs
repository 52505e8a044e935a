//! Pure: the files of a tip → [`Declarations`]. One bad document never blocks another: its error carries
//! `file:line:column`, the field, what was found and what is allowed.

use std::collections::BTreeMap;

use berth_crds::{GROUP, NAME_MAX, SourceError, VERSION, label};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::declared::{Declarations, Declared, Key, Kind};
use super::tree::{File, Files};
use super::yaml::{self, Document, Field, Node, Place};

/// Reads every document of every file, for a source of this namespace.
pub fn read(files: &Files, namespace: &str) -> Declarations {
    let mut all = Declarations::default();
    for (path, why) in &files.refused {
        all.unreadable.insert(path.clone());
        all.errors.push(SourceError {
            at: format!("{path}:1:1"),
            object: None,
            message: why.clone(),
        });
    }
    for file in &files.read {
        for document in yaml::split(&file.text) {
            take(&mut all, file, &document, namespace);
        }
    }
    withhold_duplicates(&mut all);
    all.errors.sort_by(|one, other| one.at.cmp(&other.at));
    all
}

/// Hashes of the objects that one file declares, to tell whether a document changed with it.
pub fn hashes(text: &str, namespace: &str) -> Vec<String> {
    let declared = |document: &Document<'_>| {
        let declared = declare(&document.read().ok()?, namespace).ok()??;
        Some(hash(&declared.1))
    };
    yaml::split(text).iter().filter_map(declared).collect()
}

/// Names and objects of the bindings that one file declares.
pub fn bindings(text: &str, namespace: &str) -> Vec<(String, Value)> {
    let declared = |document: &Document<'_>| {
        let (key, object) = declare(&document.read().ok()?, namespace).ok()??;
        (key.kind == Kind::Binding).then_some((key.name, object))
    };
    yaml::split(text).iter().filter_map(declared).collect()
}

fn take(all: &mut Declarations, file: &File, document: &Document<'_>, namespace: &str) {
    let node = match document.read() {
        Ok(node) => node,
        // A lock file, a CRD: larger than anything of ours, and none of ours.
        Err(unreadable) if unreadable.oversized && !document.mentions(GROUP) => {
            all.unreadable.insert(file.path.clone());
            all.skipped += 1;
            return;
        }
        Err(unreadable) => {
            all.unreadable.insert(file.path.clone());
            let message = format!("not YAML that can be read: {}", unreadable.message);
            all.errors.push(SourceError {
                at: at(&file.path, unreadable.place),
                object: None,
                message,
            });
            return;
        }
    };
    match declare(&node, namespace) {
        Ok(Some((key, object))) => all.objects.push(Declared {
            key,
            path: file.path.clone(),
            at: at(&file.path, document.place(node.place())),
            sha256: hash(&object),
            object,
            commit: String::new(),
            author: String::new(),
            introduced: None,
        }),
        Ok(None) => all.skipped += 1,
        Err(refusal) => {
            match refusal.key.clone() {
                Some(key) => drop(all.withheld.insert(key)),
                None => drop(all.unreadable.insert(file.path.clone())),
            }
            all.errors.push(SourceError {
                at: at(&file.path, document.place(refusal.place)),
                object: refusal.key.map(|key| key.to_string()),
                message: refusal.message,
            });
        }
    }
}

fn at(path: &str, place: Place) -> String {
    format!("{path}:{}:{}", place.line, place.column)
}

fn hash(object: &Value) -> String {
    hex::encode(Sha256::digest(object.to_string()))
}

/// Why a document isn't applied, and where.
struct Refusal {
    key: Option<Key>,
    place: Place,
    message: String,
}

fn refuse(place: Place, message: String) -> Refusal {
    Refusal {
        key: None,
        place,
        message,
    }
}

/// The object of a document; `None` for a foreign kind.
fn declare(node: &Node, namespace: &str) -> Result<Option<(Key, Value)>, Refusal> {
    let Some(kind) = kind(node)? else { return Ok(None) };
    let name = name(node, kind)?;
    let key = Key { kind, name };
    let with_key = |refusal| Refusal {
        key: Some(key.clone()),
        ..refusal
    };
    check_fields(node).map_err(with_key)?;
    let metadata = metadata(node, &key.name, namespace).map_err(with_key)?;
    let mut object = json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind.name(), "metadata": metadata});
    if let Some(spec) = node.field("spec") {
        object["spec"] = spec.node.value();
    }
    Ok(Some((key, object)))
}

fn kind(node: &Node) -> Result<Option<Kind>, Refusal> {
    let text = |name: &str| node.field(name).and_then(|field| field.node.text()).unwrap_or_default();
    let place = |name: &str| node.field(name).map_or_else(|| node.place(), |field| field.place);
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version == "v1" && kind == "List" {
        let message = "kind List isn't read; write each object as a document of its own".to_owned();
        return Err(refuse(place("kind"), message));
    }
    let (group, version) = api_version.split_once('/').unwrap_or_default();
    if group != GROUP {
        // A slip in apiVersion would else read as "the object has left the branch".
        return match Kind::named(kind) {
            Some(_) => Err(refuse(
                place("apiVersion"),
                format!("apiVersion of a {kind} is {api_version:?}; write {GROUP}/{VERSION}"),
            )),
            None => Ok(None),
        };
    }
    if version != VERSION {
        let message = format!("apiVersion {api_version:?} isn't served; {GROUP}/{VERSION} is");
        return Err(refuse(place("apiVersion"), message));
    }
    let message = format!("kind {kind:?} isn't applied from git; AgentSession, AgentPool and CredentialBinding are");
    Kind::named(kind)
        .map(Some)
        .ok_or_else(|| refuse(place("kind"), message))
}

fn name(node: &Node, kind: Kind) -> Result<String, Refusal> {
    let metadata = node.field("metadata");
    let place = metadata.map_or_else(|| node.place(), |field| field.place);
    let Some(field) = metadata
        .and_then(|field| field.node.field("name"))
        .filter(|field| !field.node.is_null())
    else {
        return Err(refuse(
            place,
            format!("metadata.name is missing; every {} needs one", kind.name()),
        ));
    };
    let name = field.node.text().unwrap_or_default();
    let word = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    let fits = name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(word);
    let found = berth_crds::condition::cut(&field.node.value().to_string(), FOUND_MAX);
    let message = format!(
        "metadata.name is {found}; it is a text of at most {NAME_MAX} lower-case letters, digits and '-' that begins with a letter"
    );
    if fits {
        Ok(name.to_owned())
    } else {
        Err(refuse(field.place, message))
    }
}

/// Nothing stands beside the four fields of an object.
fn check_fields(node: &Node) -> Result<(), Refusal> {
    for field in node.fields().into_iter().flatten() {
        match field.name.as_str() {
            "apiVersion" | "kind" | "metadata" | "spec" => {}
            "status" if field.node.is_null() => {}
            "status" => return Err(refuse(field.place, "status is Berth's to write; remove it".to_owned())),
            other => {
                let message = format!("unknown field {other:?}; an object has apiVersion, kind, metadata and spec");
                return Err(refuse(field.place, message));
            }
        }
    }
    Ok(())
}

/// What a file may say under `metadata`, with the namespace.
fn metadata(node: &Node, name: &str, namespace: &str) -> Result<Value, Refusal> {
    let mut metadata = json!({"name": name, "namespace": namespace});
    for field in node
        .field("metadata")
        .and_then(|field| field.node.fields())
        .into_iter()
        .flatten()
    {
        match field.name.as_str() {
            // kubectl prints the second.
            "name" | "creationTimestamp" => {}
            _ if field.node.is_null() => {}
            "namespace" if field.node.text() == Some(namespace) => {}
            "namespace" => {
                let found = field.node.value();
                let message =
                    format!("metadata.namespace is {found}; a source applies in its own, {namespace:?}, alone");
                return Err(refuse(field.place, message));
            }
            "labels" | "annotations" => metadata[field.name.as_str()] = keys(field)?,
            other => {
                let message = format!(
                    "metadata.{other} may not be set from git; remove it: name, namespace, labels and annotations may"
                );
                return Err(refuse(field.place, message));
            }
        }
    }
    Ok(metadata)
}

/// Labels or annotations: texts, and none of Berth's own keys.
fn keys(part: &Field) -> Result<Value, Refusal> {
    let name = &part.name;
    let Some(fields) = part.node.fields() else {
        return Err(refuse(
            part.place,
            format!("metadata.{name} is {}; it maps keys to texts", part.node.value()),
        ));
    };
    for field in fields {
        let key = field.name.as_str();
        if key.starts_with(label::PREFIX) && !label::USER_KEYS.contains(&key) {
            let allowed = label::USER_KEYS.join(", ");
            let message = format!(
                "metadata.{name} {key:?} is reserved; of {}* only {allowed} may be set",
                label::PREFIX
            );
            return Err(refuse(field.place, message));
        }
        if field.node.text().is_none() {
            let found = berth_crds::condition::cut(&field.node.value().to_string(), FOUND_MAX);
            let message = format!("metadata.{name} {key:?} is {found}; it must be a text: put it in quotes");
            return Err(refuse(field.node.place(), message));
        }
    }
    Ok(part.node.value())
}

/// An object that two documents declare is applied from neither.
fn withhold_duplicates(all: &mut Declarations) {
    let mut places: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for declared in &all.objects {
        places
            .entry(declared.key.clone())
            .or_default()
            .push(declared.at.clone());
    }
    places.retain(|_, places| places.len() > 1);
    all.objects.retain(|declared| !places.contains_key(&declared.key));
    for (key, places) in places {
        let mut others = places.clone();
        others.truncate(OTHERS_MAX);
        for at in &places {
            let others: Vec<&str> = others.iter().filter(|other| *other != at).map(String::as_str).collect();
            let message = format!("declared again at {}; keep one of them", others.join(", "));
            all.errors.push(SourceError {
                at: at.clone(),
                object: Some(key.to_string()),
                message,
            });
        }
        all.withheld.insert(key);
    }
}

/// How much of a wrong value is quoted.
const FOUND_MAX: usize = 64;
/// How many other places of one object are named.
const OTHERS_MAX: usize = 5;

#[cfg(test)]
mod tests;
