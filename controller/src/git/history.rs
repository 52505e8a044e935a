//! The last commit that changed each document, along the first parents: merges count as the change that they brought.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use git2::{Commit, Oid, Repository, Tree};

use super::declared::Declared;
use super::manifest;

/// Names commit and author of every object. The walk ends at `held`, the tip that the caller knows already: what has
/// not changed since stays without a commit. One that nothing within the bounds has changed gets the oldest commit that
/// was looked at.
pub fn attribute(
    repository: &Repository,
    tip: &Commit<'_>,
    held: Option<Oid>,
    objects: &mut [Declared],
    namespace: &str,
) {
    let began = Instant::now();
    let mut left: BTreeMap<String, Vec<&mut Declared>> = BTreeMap::new();
    for object in objects {
        left.entry(object.path.clone()).or_default().push(object);
    }
    let mut commit = tip.clone();
    for _ in 0..COMMITS_MAX {
        if Some(commit.id()) == held {
            return;
        }
        let parent = commit.parent(0).ok();
        let before = parent.as_ref().and_then(|parent| parent.tree().ok());
        for (path, old) in changed(repository, &commit, before.as_ref()) {
            let Some(objects) = left.remove(&path) else { continue };
            let known = hashes(repository, old, namespace);
            let (same, new): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| known.contains(&object.sha256));
            for object in new {
                name(object, &commit);
            }
            if !same.is_empty() {
                left.insert(path, same);
            }
        }
        match parent {
            Some(parent) if !left.is_empty() && began.elapsed() < TIME_MAX => commit = parent,
            _ => break,
        }
    }
    left.into_values().flatten().for_each(|object| name(object, &commit));
}

/// Paths that differ between a commit and its first parent, with the blob that was there: a path looked up costs its whole
/// folder. Folders that are the same aren't opened.
fn changed(repository: &Repository, commit: &Commit<'_>, before: Option<&Tree<'_>>) -> Vec<(String, Oid)> {
    let tree = commit.tree().ok();
    let Ok(diff) = repository.diff_tree_to_tree(before, tree.as_ref(), None) else {
        return vec![];
    };
    let path = |delta: git2::DiffDelta<'_>| {
        let path = delta.new_file().path()?.to_str()?.to_owned();
        Some((path, delta.old_file().id()))
    };
    diff.deltas().filter_map(path).collect()
}

/// Hashes of what a file declared before.
fn hashes(repository: &Repository, old: Oid, namespace: &str) -> HashSet<String> {
    // One that is new has none: its id is zero.
    let small = repository
        .find_blob(old)
        .ok()
        .filter(|blob| blob.size() <= super::tree::FILE_MAX);
    let text = small.and_then(|blob| String::from_utf8(blob.content().to_vec()).ok());
    text.map(|text| manifest::hashes(&text, namespace))
        .unwrap_or_default()
        .into_iter()
        .collect()
}

fn name(object: &mut Declared, commit: &Commit<'_>) {
    let author = commit.author();
    let (name, email) = (author.name().unwrap_or("?"), author.email().unwrap_or("?"));
    object.commit = commit.id().to_string();
    object.author = format!("{name} <{email}>");
}

/// Half a year of a busy repository.
const COMMITS_MAX: usize = 500;
/// A tenth of what a fetch may take.
const TIME_MAX: Duration = Duration::from_secs(10);
