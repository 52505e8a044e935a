//! The last commit that changed each file, along the first parents: merges count as the change that they brought.

use std::collections::HashMap;
use std::path::Path;

use git2::{Commit, Oid, Tree};

/// For each path the commit and its author. A path that has not changed within [`COMMITS_MAX`] commits gets the oldest
/// one that was looked at.
pub fn last_changes(tip: &Commit<'_>, paths: &[String]) -> HashMap<String, (String, String)> {
    let mut found = HashMap::new();
    let mut left: Vec<&String> = paths.iter().collect();
    let mut commit = tip.clone();
    for _ in 0..COMMITS_MAX {
        let parent = commit.parent(0).ok();
        let (mine, theirs) = (
            commit.tree().ok(),
            parent.as_ref().and_then(|parent| parent.tree().ok()),
        );
        left.retain(|path| {
            let changed = blob(mine.as_ref(), path) != blob(theirs.as_ref(), path);
            if changed {
                found.insert((*path).clone(), name(&commit));
            }
            !changed
        });
        match parent {
            Some(parent) if !left.is_empty() => commit = parent,
            _ => break,
        }
    }
    found.extend(left.into_iter().map(|path| (path.clone(), name(&commit))));
    found
}

fn blob(tree: Option<&Tree<'_>>, path: &str) -> Option<Oid> {
    tree?.get_path(Path::new(path)).ok().map(|entry| entry.id())
}

fn name(commit: &Commit<'_>) -> (String, String) {
    let author = commit.author();
    let (name, email) = (author.name().unwrap_or("?"), author.email().unwrap_or("?"));
    (commit.id().to_string(), format!("{name} <{email}>"))
}

/// Half a year of a busy repository; a walk over a thousand files stays below a second.
const COMMITS_MAX: usize = 500;
