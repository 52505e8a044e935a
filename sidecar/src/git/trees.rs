//! Pure: names in trees, and at which paths of the pushed commits the new objects are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::oid::{self, Kind, Oid};
use super::pack::{PackError, Visit};

/// An entry of a tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Named<'a> {
    /// Its name, one component of a path.
    pub name: &'a [u8],
    /// What it names.
    pub object: Oid,
}

/// Reads a tree: `mode SP name NUL object`.
pub fn entries(mut tree: &[u8]) -> Result<Vec<Named<'_>>, PackError> {
    let mut entries = Vec::new();
    while !tree.is_empty() {
        let space = tree.iter().position(|byte| *byte == b' ').ok_or(CORRUPT)?;
        let rest = &tree[space + 1..];
        let end = rest.iter().position(|byte| *byte == 0).ok_or(CORRUPT)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let (object, rest) = rest.split_first_chunk::<{ oid::LENGTH }>().ok_or(CORRUPT)?;
        entries.push(Named {
            name,
            object: Oid(*object),
        });
        tree = rest;
    }
    Ok(entries)
}

/// The tree of a commit.
pub fn root(commit: &[u8]) -> Result<Oid, PackError> {
    let line = commit.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let name = line.strip_prefix(b"tree ").and_then(Oid::parse);
    name.ok_or(PackError::Corrupt("a commit names no tree"))
}

/// A name and its object.
type Entry = (Box<[u8]>, Oid);

/// The trees of a pack, with those of their entries that are in the pack too: the others aren't new.
pub struct Trees<'a> {
    new: &'a HashSet<Oid>,
    entries: HashMap<Oid, Vec<Entry>>,
    room: Room,
}

/// How much may still be held.
struct Room(usize);

impl<'a> Trees<'a> {
    /// For a pack with these objects.
    pub fn new(new: &'a HashSet<Oid>) -> Self {
        Self {
            new,
            entries: HashMap::new(),
            room: Room(HELD_MAX),
        }
    }

    /// Goes to every path below these trees at which something is new, and says it. A tree that many paths share is
    /// gone through at each of them, so there is an end to it.
    pub fn paths(&self, roots: &HashSet<Oid>, mut say: impl FnMut(&[u8], Oid)) -> Result<(), PackError> {
        let mut seen: HashSet<(Oid, Arc<[u8]>)> = HashSet::new();
        let mut open: Vec<(Oid, Arc<[u8]>)> = roots.iter().map(|root| (*root, Arc::default())).collect();
        let mut room = Room(HELD_MAX);
        let mut count = 0;
        while let Some((tree, directory)) = open.pop() {
            for (name, object) in self.entries.get(&tree).into_iter().flatten() {
                count += 1;
                if count > PATHS_MAX {
                    return Err(PackError::Paths);
                }
                let path = join(&directory, name)?;
                say(&path, *object);
                if self.entries.contains_key(object) {
                    let path: Arc<[u8]> = path.into();
                    if seen.insert((*object, Arc::clone(&path))) {
                        room.take(path.len())?;
                        open.push((*object, path));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Visit for Trees<'_> {
    fn whole(&mut self, _kind: Kind, name: Oid, content: &[u8]) -> Result<(), PackError> {
        let mut kept = Vec::new();
        for entry in entries(content)? {
            if self.new.contains(&entry.object) {
                self.room.take(entry.name.len())?;
                kept.push((Box::from(entry.name), entry.object));
            }
        }
        self.entries.insert(name, kept);
        Ok(())
    }

    fn part(&mut self, _part: &[u8]) {}

    fn end(&mut self, _name: Oid) {}
}

impl Room {
    fn take(&mut self, name: usize) -> Result<(), PackError> {
        self.0 = self.0.checked_sub(name + OVERHEAD).ok_or(PackError::Paths)?;
        Ok(())
    }
}

fn join(directory: &[u8], name: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    if path.len() > PATH_MAX {
        return Err(PackError::Corrupt("a path is longer than 4096 bytes"));
    }
    Ok(path)
}

/// Twice the objects.
pub const PATHS_MAX: usize = 400_000;
/// Of names, and again of paths: 250,000 of the usual length.
const HELD_MAX: usize = 32 << 20;
/// Of a name that is held, for its object and its place.
const OVERHEAD: usize = 100;
/// Of Linux.
const PATH_MAX: usize = 4096;
const CORRUPT: PackError = PackError::Corrupt("a directory can't be read");

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, object) in entries {
            bytes.extend_from_slice(format!("40000 {name}\0").as_bytes());
            bytes.extend_from_slice(&[*object; oid::LENGTH]);
        }
        bytes
    }

    fn oid(number: u8) -> Oid {
        Oid([number; oid::LENGTH])
    }

    #[test]
    fn new_objects_have_their_paths() {
        let new = HashSet::from([oid(1), oid(2), oid(3)]);
        let mut trees = Trees::new(&new);
        trees
            .whole(Kind::Tree, oid(1), &tree(&[("a", 2), ("old", 9), ("b", 2)]))
            .unwrap();
        trees.whole(Kind::Tree, oid(2), &tree(&[("c", 3)])).unwrap();
        let mut said = Vec::new();
        let roots = HashSet::from([oid(1)]);
        trees
            .paths(&roots, |path, _| said.push(String::from_utf8_lossy(path).into_owned()))
            .unwrap();
        said.sort();
        assert_eq!(said, ["a", "a/c", "b", "b/c"]);
    }

    #[test]
    fn a_tree_bomb_has_an_end() {
        let new = (1..=9).map(oid).collect();
        let mut trees = Trees::new(&new);
        let names: Vec<String> = (0..10).map(|name| name.to_string()).collect();
        for level in 1..9 {
            let entries: Vec<_> = names.iter().map(|name| (name.as_str(), level + 1)).collect();
            trees.whole(Kind::Tree, oid(level), &tree(&entries)).unwrap();
        }
        let result = trees.paths(&HashSet::from([oid(1)]), |_, _| {});
        assert!(matches!(result, Err(PackError::Paths)));
    }

    #[test]
    fn names_are_held_within_bounds() {
        let new = HashSet::from([oid(1), oid(2)]);
        let mut trees = Trees::new(&new);
        let long = "x".repeat(4000);
        let entries: Vec<_> = (0..1000).map(|_| (long.as_str(), 2)).collect();
        let content = tree(&entries);
        let kept = (0..20).try_for_each(|number| trees.whole(Kind::Tree, oid(number), &content));
        assert!(matches!(kept, Err(PackError::Paths)));
    }

    #[test]
    fn what_is_no_tree_is_corrupt() {
        let whole = tree(&[("a", 2)]);
        for end in 1..whole.len() {
            assert!(entries(&whole[..end]).is_err(), "{end}");
        }
        assert_eq!(root(format!("tree {}\n", oid(1)).as_bytes()).unwrap(), oid(1));
        assert!(root(b"parent x").is_err());
    }
}
