//! Pure: the files of a tip → [`Declarations`]. One bad document never blocks another: its error carries
//! `file:line:column`, the field, what was found and what is allowed.

use std::collections::BTreeMap;

use berth_crds::{GROUP, SourceError, VERSION, label};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::declared::{Declarations, Declared, Key, Kind};
use super::wire::{File, Files};

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
        for document in split(&file.text) {
            take(&mut all, file, &document, namespace);
        }
    }
    withhold_duplicates(&mut all);
    all.errors.sort_by(|one, other| one.at.cmp(&other.at));
    all
}

/// A document and the line, from 1, that it begins at.
struct Document<'a> {
    text: &'a str,
    first_line: usize,
}

/// YAML's document markers stand alone at a line's start, whatever is around them.
fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut begin, mut first_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with(' '));
        if marker {
            documents.push(Document {
                text: text.get(begin..offset).unwrap_or_default(),
                first_line,
            });
            let content = offset + if line.trim_end() == "---" { line.len() } else { 3 };
            (begin, first_line) = (content, number + 1 + usize::from(line.trim_end() == "---"));
        }
        offset += line.len();
    }
    documents.push(Document {
        text: text.get(begin..).unwrap_or_default(),
        first_line,
    });
    documents
}

fn take(all: &mut Declarations, file: &File, document: &Document<'_>, namespace: &str) {
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if document.text.lines().all(blank) {
        return;
    }
    let value: Value = match serde_saphyr::from_str(document.text) {
        Ok(value) => value,
        Err(error) => {
            let place = error
                .location()
                .map_or((1, 1), |location| (location.line(), location.column()));
            let line = document.first_line + usize::try_from(place.0).unwrap_or(1).max(1) - 1;
            let message = format!(
                "not YAML that can be read: {}",
                first_line(&error.without_snippet().to_string())
            );
            all.unreadable.insert(file.path.clone());
            all.errors.push(SourceError {
                at: format!("{}:{line}:{}", file.path, place.1),
                object: None,
                message,
            });
            return;
        }
    };
    match declare(file, document, value, namespace) {
        Ok(Some(declared)) => all.objects.push(declared),
        Ok(None) => all.skipped += 1,
        Err(refusal) => {
            match refusal.key.clone() {
                Some(key) => drop(all.withheld.insert(key)),
                None => drop(all.unreadable.insert(file.path.clone())),
            }
            all.errors.push(SourceError {
                at: place(file, document, refusal.field),
                object: refusal.key.map(|key| key.to_string()),
                message: refusal.message,
            });
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Why a document isn't applied.
struct Refusal {
    key: Option<Key>,
    /// Name of the field that is wrong, to find its line.
    field: &'static str,
    message: String,
}

/// Where a field stands: the first line of the document that begins with its name.
fn place(file: &File, document: &Document<'_>, field: &str) -> String {
    let named = |line: &str| {
        let begin = line.trim_start_matches([' ', '-', '{', '"', '\'']);
        let is = begin
            .strip_prefix(field)
            .is_some_and(|rest| rest.starts_with([':', '"', '\'', '/', '.', ' ']));
        is.then_some(line.len() - begin.len() + 1)
    };
    let found = document
        .text
        .lines()
        .enumerate()
        .find_map(|(line, text)| Some((line, named(text)?)));
    let first = || {
        let begin = document
            .text
            .lines()
            .position(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
        (begin.unwrap_or(0), 1)
    };
    let (line, column) = found.unwrap_or_else(first);
    format!("{}:{}:{column}", file.path, document.first_line + line)
}

/// The object of a document; `None` for a foreign kind.
fn declare(file: &File, document: &Document<'_>, value: Value, namespace: &str) -> Result<Option<Declared>, Refusal> {
    let text = |pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let refuse = |field, message: String| Refusal {
        key: None,
        field,
        message,
    };
    if api_version == "v1" && kind == "List" {
        return Err(refuse(
            "kind",
            "kind List isn't read; write each object as a document of its own".to_owned(),
        ));
    }
    let Some((group, version)) = api_version.split_once('/').filter(|(group, _)| *group == GROUP) else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(refuse(
            "apiVersion",
            format!("apiVersion {api_version:?} isn't served; {group}/{VERSION} is"),
        ));
    }
    let Some(kind) = Kind::named(&kind) else {
        let message =
            format!("kind {kind:?} isn't applied from git; AgentSession, AgentPool and CredentialBinding are");
        return Err(refuse("kind", message));
    };
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err(refuse(
            "metadata",
            format!("metadata.name is missing; every {} needs one", kind.name()),
        ));
    }
    let key = Key { kind, name };
    check(&value, namespace).map_err(|(field, message)| Refusal {
        key: Some(key.clone()),
        field,
        message,
    })?;
    let at = place(file, document, "apiVersion");
    let object = in_namespace(value, namespace);
    let sha256 = hex::encode(Sha256::digest(object.to_string()));
    let (path, commit, author) = (file.path.clone(), file.commit.clone(), file.author.clone());
    Ok(Some(Declared {
        key,
        path,
        at,
        object,
        sha256,
        commit,
        author,
    }))
}

/// The first thing in the document that a file may not say.
fn check(value: &Value, namespace: &str) -> Result<(), (&'static str, String)> {
    let field = |pointer: &str| value.pointer(pointer).filter(|value| !value.is_null());
    if let Some(other) = field("/metadata/namespace").filter(|other| other.as_str() != Some(namespace)) {
        let message = format!("metadata.namespace is {other}; a source applies in its own, {namespace:?}, alone");
        return Err(("namespace", message));
    }
    for name in REFUSED_METADATA {
        if field(&format!("/metadata/{name}")).is_some() {
            return Err((name, format!("metadata.{name} may not be set from git; remove it")));
        }
    }
    if field("/status").is_some() {
        return Err(("status", "status is Berth's to write; remove it".to_owned()));
    }
    for part in ["labels", "annotations"] {
        let keys = value.pointer(&format!("/metadata/{part}")).and_then(Value::as_object);
        let reserved = keys
            .into_iter()
            .flatten()
            .map(|(key, _)| key)
            .find(|key| key.starts_with(label::PREFIX) && !label::USER_KEYS.contains(&key.as_str()));
        if let Some(key) = reserved {
            let allowed = label::USER_KEYS.join(", ");
            return Err((
                part,
                format!(
                    "metadata.{part} {key:?} is reserved; of {}* only {allowed} may be set",
                    label::PREFIX
                ),
            ));
        }
    }
    Ok(())
}

fn in_namespace(mut value: Value, namespace: &str) -> Value {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".to_owned(), namespace.into());
        metadata.remove("creationTimestamp");
    }
    value
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
    for (key, places) in places {
        all.objects.retain(|declared| declared.key != key);
        for (index, at) in places.iter().enumerate() {
            let others: Vec<&str> = places
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, at)| at.as_str())
                .collect();
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

/// What only the API server and controllers set (DESIGN §3 GitSource).
const REFUSED_METADATA: [&str; 8] = [
    "ownerReferences",
    "finalizers",
    "uid",
    "resourceVersion",
    "generateName",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
];

#[cfg(test)]
mod tests;
