//! Since when a tip holds each binding as it says it now: the first-parent commit from which on every commit holds a
//! document that grants at least as much, and the author's commit behind it with its signature. That commit, not the
//! tip, is what a review or a signature has to speak of; a revert ends the run, so that evidence is spent with it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_crds::CredentialBindingSpec;
use git2::{Commit, Oid, Repository};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::declared::{Declared, Kind};
use super::manifest;
use super::tree::Paths;
use super::wire::Request;
use crate::grant::fingerprint::Fingerprint;

/// Where a binding's fingerprint comes from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Introduced {
    /// The commit on the first-parent line that brought it.
    pub commit: String,
    /// That commit and those that follow it while none is a merge: of a rebased pull request a forge names the last.
    pub line: Vec<String>,
    /// Who wrote it.
    pub authored: Authored,
}

/// The commit that a person made.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Authored {
    /// The commit.
    pub commit: String,
    /// Its committer's time, in seconds since 1970, as the commit says.
    pub at: i64,
    /// Its signature, whoever made it.
    pub signature: Option<Signature>,
}

/// A signature that nobody has looked at yet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Signature {
    /// As the commit holds it.
    pub armored: String,
    /// What it signs, base64: a commit needn't be UTF-8.
    pub payload: String,
}

/// What was found for an earlier tip, in the clone's folder.
#[derive(Default, Deserialize, Serialize)]
struct Known {
    /// What was read: another namespace or other globs make other documents.
    scope: String,
    tip: String,
    /// By name: digest of the fingerprint, and where it comes from.
    bindings: BTreeMap<String, (String, Introduced)>,
}

/// One binding on its way back through history.
struct Tracked {
    index: usize,
    name: String,
    fingerprint: Fingerprint,
}

/// The bindings of one file.
type Documents = Rc<Vec<(String, Fingerprint)>>;

/// Says of every binding where it comes from. One of which that can't be found within the bounds stays without.
pub fn trace(repository: &Repository, tip: &Commit<'_>, objects: &mut [Declared], request: &Request) {
    let file = request.folder.join(KNOWN);
    let scope = serde_json::json!([request.branch, request.namespace, request.include, request.exclude]).to_string();
    let Ok(paths) = Paths::new(&request.include, &request.exclude) else {
        return; // the fetch has said so
    };
    let mut open: BTreeMap<String, Vec<Tracked>> = BTreeMap::new();
    for (index, object) in objects
        .iter()
        .enumerate()
        .filter(|(_, object)| object.key.kind == Kind::Binding)
    {
        let name = object.key.name.clone();
        let Some(fingerprint) = fingerprint(&request.namespace, &name, &object.object) else {
            continue; // the API server won't take it either
        };
        open.entry(object.path.clone()).or_default().push(Tracked {
            index,
            name,
            fingerprint,
        });
    }
    let mut history = History {
        repository,
        paths,
        namespace: &request.namespace,
        read: HashMap::new(),
        began: Instant::now(),
        left: BYTES_MAX,
        ended: false,
    };
    let known = known(&file, &scope);
    let mut new = Known {
        scope,
        tip: tip.id().to_string(),
        ..Known::default()
    };
    for (tracked, introduced) in history.walk(tip, open, &known) {
        let digest = tracked.fingerprint.digest();
        new.bindings.insert(tracked.name, (digest, introduced.clone()));
        if let Some(object) = objects.get_mut(tracked.index) {
            object.introduced = Some(introduced);
        }
    }
    keep(&file, &new);
}

/// The fingerprint of a declared object; `None` where it can't be read as a binding.
pub fn fingerprint(namespace: &str, name: &str, object: &Value) -> Option<Fingerprint> {
    let spec = object.get("spec")?;
    let spec = CredentialBindingSpec::deserialize(spec).ok()?;
    Some(Fingerprint::of(namespace, name, &spec))
}

fn known(file: &Path, scope: &str) -> Known {
    let read = fs::read(file)
        .ok()
        .and_then(|text| serde_json::from_slice::<Known>(&text).ok());
    read.filter(|known| known.scope == scope).unwrap_or_default()
}

/// What can't be kept is found again.
fn keep(file: &Path, known: &Known) {
    let new = file.with_extension("new");
    let text = serde_json::to_vec(known).unwrap_or_default();
    if fs::write(&new, text).is_ok() {
        drop(fs::rename(&new, file));
    }
}

/// Commits read along the way.
struct History<'a> {
    repository: &'a Repository,
    paths: Paths,
    namespace: &'a str,
    read: HashMap<Oid, Documents>,
    began: Instant,
    /// Bytes of manifests that may still be read.
    left: usize,
    /// Something couldn't be read, or the bounds are reached: what isn't settled by then stays unknown.
    ended: bool,
}

impl History<'_> {
    /// From the tip back along the first parents, until each binding has been settled.
    fn walk(
        &mut self,
        tip: &Commit<'_>,
        mut open: BTreeMap<String, Vec<Tracked>>,
        known: &Known,
    ) -> Vec<(Tracked, Introduced)> {
        let (mut settled, mut passed, mut commit) = (Vec::new(), Passed::new(), tip.clone());
        for _ in 0..COMMITS_MAX {
            if commit.id().to_string() == known.tip {
                settle_known(&mut open, known, (&commit, &passed), &mut settled);
            }
            if open.is_empty() || self.ended || self.began.elapsed() > TIME_MAX {
                break;
            }
            passed.push_front((commit.id().to_string(), commit.parent_count()));
            passed.truncate(LINE_MAX);
            let parent = commit.parent(0).ok();
            // A parent that is named and isn't there is no beginning.
            self.ended |= parent.is_none() && commit.parent_count() > 0;
            let mut changed = self.changed(&commit, parent.as_ref());
            let touched = changed.new.iter().filter(|path| open.contains_key(*path));
            let touched: Vec<String> = touched.cloned().collect();
            for path in touched {
                for tracked in open.remove(&path).into_iter().flatten() {
                    let before = self.before(parent.as_ref(), &mut changed, &tracked);
                    if let Some(path) = before {
                        open.entry(path).or_default().push(tracked);
                    } else if !self.ended {
                        let introduced = self.introduced(&commit, &passed, (&path, &tracked));
                        settled.push((tracked, introduced));
                    }
                }
            }
            match parent {
                Some(parent) => commit = parent,
                None => break,
            }
        }
        settled
    }

    fn introduced(&mut self, commit: &Commit<'_>, passed: &Passed, (path, tracked): (&str, &Tracked)) -> Introduced {
        let mut line: Vec<String> = single(passed).collect();
        if line.is_empty() {
            line.push(commit.id().to_string());
        }
        Introduced {
            commit: commit.id().to_string(),
            line,
            authored: self.authored(commit, (path, tracked)),
        }
    }

    /// Through what was merged, to the commit that no parent of holds it.
    fn authored(&mut self, merged: &Commit<'_>, (path, tracked): (&str, &Tracked)) -> Authored {
        let (mut commit, mut path) = (merged.clone(), path.to_owned());
        for _ in 0..COMMITS_MAX {
            // The walk has seen that the first parent of what was merged doesn't.
            let parents: Vec<Commit<'_>> = commit.parents().skip(usize::from(commit.id() == merged.id())).collect();
            let from = parents.into_iter().find_map(|parent| {
                let mut changed = self.changed(&commit, Some(&parent));
                let same = !changed.new.contains(&path);
                let before = if same {
                    Some(path.clone())
                } else {
                    self.before(Some(&parent), &mut changed, tracked)
                };
                before.filter(|_| !self.ended).map(|path| (parent, path))
            });
            match from {
                Some((parent, before)) => (commit, path) = (parent, before),
                None => break,
            }
        }
        Authored {
            commit: commit.id().to_string(),
            at: commit.committer().when().seconds(),
            signature: self.signature(commit.id()),
        }
    }

    fn signature(&self, commit: Oid) -> Option<Signature> {
        let (armored, payload) = self.repository.extract_signature(&commit, None).ok()?;
        let small = armored.len() <= SIGNED_MAX && payload.len() <= SIGNED_MAX;
        small.then(|| Signature {
            armored: String::from_utf8_lossy(&armored).into_owned(),
            payload: STANDARD.encode(&*payload),
        })
    }

    /// Where the parent holds exactly one document of the binding that grants at least as much, among what has changed:
    /// at the same path, or moved from another.
    fn before(&mut self, parent: Option<&Commit<'_>>, changed: &mut Changed, tracked: &Tracked) -> Option<String> {
        parent?;
        if changed.before.is_none() {
            let mut before: HashMap<String, Vec<(String, Fingerprint)>> = HashMap::new();
            for (place, blob) in changed.old.clone() {
                for (name, fingerprint) in self
                    .documents(blob, &place)
                    .iter()
                    .flat_map(|documents| documents.iter())
                {
                    let found = (place.clone(), fingerprint.clone());
                    before.entry(name.clone()).or_default().push(found);
                }
            }
            changed.before = Some(before);
        }
        match changed.before.as_ref()?.get(&tracked.name)?.as_slice() {
            [(place, before)] if before.covers(&tracked.fingerprint) => Some(place.clone()),
            _ => None,
        }
    }

    /// The bindings that a file declares.
    fn documents(&mut self, blob: Oid, path: &str) -> Option<Documents> {
        if !self.paths.wanted(path) {
            return None;
        }
        if let Some(read) = self.read.get(&blob) {
            return Some(Rc::clone(read));
        }
        let blob = self.repository.find_blob(blob).ok()?;
        if blob.size() > super::tree::FILE_MAX {
            return None; // a fetch wouldn't have read it either
        }
        match self.left.checked_sub(blob.size()) {
            Some(left) => self.left = left,
            None => self.ended = true,
        }
        if self.ended || self.began.elapsed() > TIME_MAX {
            self.ended = true;
            return None;
        }
        let text = String::from_utf8_lossy(blob.content());
        let bindings = manifest::bindings(&text, self.namespace).into_iter();
        let read = bindings.filter_map(|(name, object)| {
            let fingerprint = fingerprint(self.namespace, &name, &object)?;
            Some((name, fingerprint))
        });
        let read: Documents = Rc::new(read.collect());
        if self.read.values().map(|documents| documents.len()).sum::<usize>() + read.len() > HELD_MAX {
            self.read.clear();
        }
        self.read.insert(blob.id(), Rc::clone(&read));
        Some(read)
    }

    /// A difference that can't be read ends the walk: it may hide a revert.
    fn changed(&mut self, commit: &Commit<'_>, parent: Option<&Commit<'_>>) -> Changed {
        let trees = commit
            .tree()
            .and_then(|tree| Ok((tree, parent.map(Commit::tree).transpose()?)));
        let diff =
            trees.and_then(|(tree, before)| self.repository.diff_tree_to_tree(before.as_ref(), Some(&tree), None));
        let Ok(diff) = diff else {
            self.ended = true;
            return Changed::default();
        };
        let mut changed = Changed::default();
        for delta in diff.deltas() {
            let path = |file: git2::DiffFile<'_>| file.path().and_then(|path| path.to_str().map(str::to_owned));
            changed.new.extend(path(delta.new_file()));
            let old = delta.old_file().id();
            let there = path(delta.old_file()).filter(|_| !old.is_zero());
            changed.old.extend(there.map(|path| (path, old)));
        }
        changed
    }
}

/// Paths that differ between a commit and a parent.
#[derive(Default)]
struct Changed {
    new: Vec<String>,
    /// Those that the parent has, with its blobs: a path looked up costs its whole folder.
    old: Vec<(String, Oid)>,
    /// The bindings that the parent has there, by name, once one was looked for.
    before: Option<HashMap<String, Vec<(String, Fingerprint)>>>,
}

/// Commits that the walk has passed, the last first, and how many parents each has.
type Passed = VecDeque<(String, usize)>;

/// An earlier look began at this commit: what was the same then has come from the same commit.
fn settle_known(
    open: &mut BTreeMap<String, Vec<Tracked>>,
    known: &Known,
    (commit, passed): (&Commit<'_>, &Passed),
    settled: &mut Vec<(Tracked, Introduced)>,
) {
    for (path, all) in std::mem::take(open) {
        for tracked in all {
            let found = known.bindings.get(&tracked.name);
            match found.filter(|(digest, _)| *digest == tracked.fingerprint.digest()) {
                Some((_, introduced)) => {
                    let mut introduced = introduced.clone();
                    // What has followed since may follow the line too.
                    if introduced.line.last() == Some(&known.tip) && commit.parent_count() <= 1 {
                        introduced.line.extend(single(passed));
                        introduced.line.truncate(LINE_MAX);
                    }
                    settled.push((tracked, introduced));
                }
                None => open.entry(path.clone()).or_default().push(tracked),
            }
        }
    }
}

fn single(passed: &Passed) -> impl Iterator<Item = String> {
    let single = passed.iter().take_while(|(_, parents)| *parents <= 1);
    single.map(|(commit, _)| commit.clone())
}

const KNOWN: &str = "introduced.json";
/// Ten years of a busy repository.
const COMMITS_MAX: usize = 100_000;
/// A sixth of what a fetch may take; the next one goes on from what this one has found.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Commits of a rebased pull request that a forge is asked about.
const LINE_MAX: usize = 8;
/// A signature has a kilobyte, a commit a few.
const SIGNED_MAX: usize = 64 << 10;
/// Manifests that are read along the way: a thousand versions of a file with a hundred bindings.
const BYTES_MAX: usize = 64 << 20;
/// Bindings that are held at once, of a few kilobytes each.
const HELD_MAX: usize = 4_096;
