//! The verdict about a push, from the file that it is spooled to. Blocking, and so for a thread of its own.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use berth_egress::decide::GitUse;
use berth_egress::policy::ProtectedPaths;

use super::command::{self, CommandError, Commands};
use super::oid::{Kind, Oid};
use super::pack::{Pack, PackError, Visit};
use super::protected::Protected;
use super::report::Objection;
use super::secret::{Found, Parts, Scanner};
use super::trees::{self, Trees};

/// What a push is held against.
pub struct Judge<'a> {
    /// Its route's limits.
    pub allowed: &'a GitUse,
    /// What may not be in it.
    pub scanner: &'a Scanner,
    /// What it may not touch, unless the route lets it.
    pub protected: &'a Protected,
}

/// A push that can't be judged, and so isn't passed on.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The spooled file.
    #[error("the spooled push can't be read")]
    Read(#[from] std::io::Error),
    /// Its commands.
    #[error(transparent)]
    Commands(#[from] CommandError),
}

impl Judge<'_> {
    /// What stands against a push that has `length` bytes, if something does.
    pub fn judge(&self, file: &File, length: u64) -> Result<(Commands, Option<Objection>), InspectError> {
        let (commands, text) = commands(file, length)?;
        let objection = self
            .refs(&commands, &text)
            .or_else(|| self.content(&commands, file, length));
        Ok((commands, objection))
    }

    fn refs(&self, commands: &Commands, text: &[u8]) -> Option<Objection> {
        let mut refused = commands
            .commands
            .iter()
            .filter(|command| !self.allowed.allows_ref(&command.name));
        let refs: Vec<String> = refused.by_ref().map(|command| command.name.clone()).collect();
        if !refs.is_empty() {
            return Some(Objection {
                reason: "no rule allows this session to push to this ref".to_owned(),
                details: self.allowed.ref_limits.iter().map(|prefixes| only(prefixes)).collect(),
                refs,
            });
        }
        let found = self.scanner.scan(text).into_iter().next()?;
        Some(Objection {
            reason: format!(
                "blocked: the name of a ref, or what is sent with it, holds {}",
                found.rule
            ),
            details: Vec::new(),
            refs: Vec::new(),
        })
    }

    fn content(&self, commands: &Commands, file: &File, length: u64) -> Option<Objection> {
        let begin = commands.length as u64;
        let failed = match (commands.has_pack(), begin == length) {
            (true, false) => match self.pack(file, begin, length) {
                Ok(objection) => return objection,
                Err(error) => error,
            },
            (false, true) => return None,
            (true, true) => PackError::Corrupt("there is none"),
            (false, false) => PackError::Corrupt("bytes follow where none is needed"),
        };
        Some(Objection {
            reason: crate::chain(&failed),
            details: vec![
                "Berth looks into every pack before it passes it on, and couldn't look into this one.".to_owned(),
            ],
            refs: Vec::new(),
        })
    }

    fn pack(&self, file: &File, begin: u64, end: u64) -> Result<Option<Objection>, PackError> {
        let mut pack = Pack::open(file, begin, end)?;
        let mut scan = Scan::new(self.scanner);
        pack.walk(|_| true, &mut scan)?;
        let Scan {
            new, roots, findings, ..
        } = scan;
        let guarded = self.allowed.protected_paths == ProtectedPaths::Refuse;
        if findings.is_empty() && !guarded {
            return Ok(None);
        }
        let mut trees = Trees::new(&new);
        pack.walk(|kind| kind == Kind::Tree, &mut trees)?;
        let named: HashSet<Oid> = findings.iter().map(|finding| finding.object).collect();
        let (mut paths, mut touched) = (HashMap::new(), Vec::new());
        trees.paths(&roots, |path, object| {
            if named.contains(&object) && self.scanner.scan(path).is_empty() {
                paths
                    .entry(object)
                    .or_insert_with(|| String::from_utf8_lossy(path).into_owned());
            }
            if guarded && touched.len() < TOLD_MAX && self.protected.contains(path) {
                touched.push(String::from_utf8_lossy(path).into_owned());
            }
        })?;
        if findings.is_empty() {
            return Ok(protected(touched));
        }
        let places = findings.iter().map(|finding| finding.place(&paths, &roots)).collect();
        Ok(Some(leaks(places)))
    }
}

fn only(prefixes: &[String]) -> String {
    format!(
        "This session may push to refs that begin with {} only.",
        prefixes.join(" or ")
    )
}

/// Reads the commands, and their text with it.
pub fn commands(file: &File, length: u64) -> Result<(Commands, Vec<u8>), InspectError> {
    let held = length.min(command::LENGTH_MAX as u64);
    let mut text = vec![0; usize::try_from(held).unwrap_or_default()];
    file.read_exact_at(&mut text, 0)?;
    let commands = Commands::parse(&text, held == length)?;
    text.truncate(commands.length);
    Ok((commands, text))
}

fn leaks(places: Vec<String>) -> Objection {
    let more = match places.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let reason = format!("blocked: {}{more}", places.first().map_or("", String::as_str));
    let advice = "Take it out of every commit of this push (git commit --amend, git rebase -i), and have what was real \
                  revoked.";
    Objection {
        reason,
        details: places.into_iter().chain([advice.to_owned()]).collect(),
        refs: Vec::new(),
    }
}

fn protected(mut touched: Vec<String>) -> Option<Objection> {
    touched.sort_unstable();
    touched.dedup();
    let first = touched.first()?;
    let reason = format!("refused: {first} is protected, and this push adds or changes it");
    let advice = "CI definitions, CODEOWNERS and paths that a GitSource tracks pass only by a route that says \
                  protectedPaths: Allow.";
    Some(Objection {
        reason,
        details: touched.into_iter().chain([advice.to_owned()]).collect(),
        refs: Vec::new(),
    })
}

/// Where something was found.
struct Finding {
    object: Oid,
    kind: Kind,
    found: Found,
}

impl Finding {
    /// With the path of a file, where there is one; never with a name that holds a secret itself.
    fn place(&self, paths: &HashMap<Oid, String>, roots: &HashSet<Oid>) -> String {
        let Self { object, kind, found } = self;
        let Found { line, rule } = found;
        match (kind, paths.get(object)) {
            (Kind::Tree, Some(path)) => format!("the name of a file in {path}/ holds {rule}"),
            (Kind::Tree, None) if roots.contains(object) => {
                format!("the name of a file in the topmost directory holds {rule}")
            }
            (Kind::Tree, None) => format!("the name of a file in tree {object} holds {rule}"),
            (_, Some(path)) => format!("{path}:{line} holds {rule}"),
            (_, None) => format!("{} {object}, line {line}, holds {rule}", kind.as_str()),
        }
    }
}

/// Looks at all objects.
struct Scan<'a> {
    scanner: &'a Scanner,
    parts: Option<Parts<'a>>,
    new: HashSet<Oid>,
    roots: HashSet<Oid>,
    findings: Vec<Finding>,
}

impl<'a> Scan<'a> {
    fn new(scanner: &'a Scanner) -> Self {
        Self {
            scanner,
            parts: None,
            new: HashSet::new(),
            roots: HashSet::new(),
            findings: Vec::new(),
        }
    }

    fn note(&mut self, kind: Kind, object: Oid, found: Vec<Found>) {
        if !self.new.insert(object) {
            return; // it's in the pack twice
        }
        let room = TOLD_MAX.saturating_sub(self.findings.len());
        let findings = found
            .into_iter()
            .take(room)
            .map(|found| Finding { object, kind, found });
        self.findings.extend(findings);
    }
}

impl Visit for Scan<'_> {
    fn whole(&mut self, kind: Kind, name: Oid, content: &[u8]) -> Result<(), PackError> {
        let found = match kind {
            Kind::Tree => {
                let entries = trees::entries(content)?;
                let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name).collect();
                self.scanner.scan(&names.join(&b'\n'))
            }
            Kind::Commit => {
                self.roots.insert(trees::root(content)?);
                self.scanner.scan(content)
            }
            Kind::Blob | Kind::Tag => self.scanner.scan(content),
        };
        self.note(kind, name, found);
        Ok(())
    }

    fn part(&mut self, part: &[u8]) {
        let scanner = self.scanner;
        self.parts.get_or_insert_with(|| scanner.parts()).push(part);
    }

    fn end(&mut self, name: Oid) {
        let found = self.parts.take().map(Parts::finish);
        self.note(Kind::Blob, name, found.unwrap_or_default());
    }
}

/// Findings and paths that are told at most.
const TOLD_MAX: usize = 20;
