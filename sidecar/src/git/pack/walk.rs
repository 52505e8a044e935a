//! IO: every object of a pack once, a base before what builds upon it. Bases are held as far as [`HELD_MAX`] allows and
//! made again otherwise.

use std::collections::HashMap;

use super::{DEPTH_MAX, Entry, Pack, PackError, Stored, WHOLE_MAX, delta};
use crate::git::oid::{Kind, Naming, Oid};

/// Is shown objects.
pub trait Visit {
    /// One that is held.
    fn whole(&mut self, kind: Kind, name: Oid, content: &[u8]) -> Result<(), PackError>;
    /// The next part of a file that is too large to be held.
    fn part(&mut self, part: &[u8]);
    /// There are no more parts.
    fn end(&mut self, name: Oid);
}

impl Pack<'_> {
    /// Shows the objects of the wanted kinds; a delta is of the kind of its base.
    pub fn walk(&mut self, wanted: impl Fn(Kind) -> bool, visit: &mut dyn Visit) -> Result<(), PackError> {
        let mut children = Children::of(&self.entries)?;
        let mut all = true;
        for index in 0..self.entries.len() {
            let Entry { size, stored, .. } = self.entries[index];
            let Stored::Whole(kind) = stored else { continue };
            if !wanted(kind) {
                all = false;
            } else if size > WHOLE_MAX {
                let name = self.large(index, visit)?;
                if !children.take(index, name).is_empty() {
                    return Err(PackError::Whole);
                }
            } else {
                self.descend(kind, index, &mut children, visit)?;
            }
        }
        if all { children.all_taken() } else { Ok(()) }
    }

    /// A file that isn't held.
    fn large(&mut self, index: usize, visit: &mut dyn Visit) -> Result<Oid, PackError> {
        let Entry { data, size, .. } = self.entries[index];
        let mut naming = Naming::new(Kind::Blob, size);
        self.source.seek(data);
        self.source.inflate(size, &mut |part| {
            naming.update(part);
            visit.part(part);
        })?;
        let name = naming.finish();
        visit.end(name);
        Ok(name)
    }

    /// An object and all that builds upon it, depth first.
    fn descend(
        &mut self,
        kind: Kind,
        root: usize,
        children: &mut Children,
        visit: &mut dyn Visit,
    ) -> Result<(), PackError> {
        let content = self.content(root)?;
        let name = Oid::of(kind, &content);
        visit.whole(kind, name, &content)?;
        let mut chain = Chain::default();
        chain.push(root, content, children.take(root, name));
        while let Some(child) = chain.next_child() {
            if chain.0.len() > DEPTH_MAX {
                return Err(PackError::Depth);
            }
            self.restore(&mut chain)?;
            let delta = self.content(child)?;
            let content = delta::apply(chain.base(), &delta)?;
            drop(delta);
            self.source.spend(content.len())?;
            let name = Oid::of(kind, &content);
            visit.whole(kind, name, &content)?;
            let grandchildren = children.take(child, name);
            if !grandchildren.is_empty() {
                chain.push(child, content, grandchildren);
            }
        }
        Ok(())
    }

    /// Makes the last link's content again if it was let go.
    fn restore(&mut self, chain: &mut Chain) -> Result<(), PackError> {
        let links = &mut chain.0;
        let Some(last) = links.len().checked_sub(1) else {
            return Ok(());
        };
        if links[last].content.is_some() {
            return Ok(());
        }
        let held = links.iter().rposition(|link| link.content.is_some());
        let mut content = match held {
            Some(held) => links[held].content.take(),
            None => None,
        };
        let mut next = held.map_or(0, |held| held + 1);
        while next <= last {
            let stored = self.content(links[next].index)?;
            content = Some(match content {
                Some(base) => delta::apply(&base, &stored)?,
                None => stored,
            });
            self.source.spend(content.as_ref().map_or(0, Vec::len))?;
            next += 1;
        }
        links[last].content = content;
        Ok(())
    }
}

/// What builds upon what.
struct Children {
    by_index: HashMap<usize, Vec<usize>>,
    by_name: HashMap<Oid, Vec<usize>>,
}

impl Children {
    fn of(entries: &[Entry]) -> Result<Self, PackError> {
        let mut children = Self {
            by_index: HashMap::new(),
            by_name: HashMap::new(),
        };
        for (index, entry) in entries.iter().enumerate() {
            match entry.stored {
                Stored::Whole(_) => {}
                Stored::Offset(offset) => {
                    let base = entries.binary_search_by_key(&offset, |entry| entry.offset);
                    let base = base.map_err(|_none| PackError::Corrupt("a delta builds upon no object"))?;
                    children.by_index.entry(base).or_default().push(index);
                }
                Stored::Name(name) => children.by_name.entry(name).or_default().push(index),
            }
        }
        Ok(children)
    }

    fn take(&mut self, index: usize, name: Oid) -> Vec<usize> {
        let mut taken = self.by_index.remove(&index).unwrap_or_default();
        taken.extend(self.by_name.remove(&name).unwrap_or_default());
        taken
    }

    /// What was never reached builds upon something that isn't here.
    fn all_taken(&self) -> Result<(), PackError> {
        if self.by_index.is_empty() && self.by_name.is_empty() {
            return Ok(());
        }
        Err(PackError::Thin)
    }
}

/// From a whole object to the base at hand.
#[derive(Default)]
struct Chain(Vec<Link>);

struct Link {
    index: usize,
    /// Let go when the chain holds too much.
    content: Option<Vec<u8>>,
    /// Still to be made.
    children: Vec<usize>,
}

impl Chain {
    fn push(&mut self, index: usize, content: Vec<u8>, children: Vec<usize>) {
        self.0.push(Link {
            index,
            content: Some(content),
            children,
        });
        let mut held: usize = self
            .0
            .iter()
            .filter_map(|link| link.content.as_ref())
            .map(Vec::len)
            .sum();
        let last = self.0.len() - 1;
        for link in &mut self.0[..last] {
            if held <= HELD_MAX {
                break;
            }
            held -= link.content.take().map_or(0, |content| content.len());
        }
    }

    /// The next to be made. Links without children are done with.
    fn next_child(&mut self) -> Option<usize> {
        loop {
            let link = self.0.last_mut()?;
            if let Some(child) = link.children.pop() {
                return Some(child);
            }
            self.0.pop();
        }
    }

    fn base(&self) -> &[u8] {
        let last = self.0.last().and_then(|link| link.content.as_deref());
        last.unwrap_or_default()
    }
}

/// Two of the largest, and what is being made of them.
const HELD_MAX: usize = 16 << 20;
