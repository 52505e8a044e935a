//! `berth-controller check`: what a GitSource would read of a commit and what the linter says of its bindings, without a
//! cluster: for the CI of a team's repository. Against a base also which grants a merge adds, widens, narrows, removes.

use std::collections::BTreeMap;
use std::fmt;

use berth_crds::{CredentialBinding, CredentialBindingSpec, Route, SourceError, Subjects};
use git2::Repository;
use serde::{Deserialize, Serialize};

use crate::cli::Check;
use crate::git::declared::{Declarations, Declared, Kind};
use crate::git::manifest;
use crate::git::tree::{self, Paths};
use crate::grant::fingerprint::Fingerprint;
use crate::grant::permit::Permitted;
use crate::grant::vet::vet;

/// What is to be said of a commit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// Objects that a GitSource would apply.
    pub objects: usize,
    /// Documents of foreign kinds, which it would skip.
    pub skipped: usize,
    /// What is wrong, and where.
    pub errors: Vec<SourceError>,
    /// Grants that a merge changes.
    pub changes: Vec<Change>,
}

/// A grant that a merge changes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Change {
    /// How.
    pub how: How,
    /// The binding.
    pub binding: String,
    /// Its document, `path:line:column`: of the base for one that goes.
    pub at: String,
    /// What it grants, a line each.
    pub grants: Vec<String>,
    /// What a reviewer should look at.
    pub flags: Vec<String>,
    /// Name of the credential.
    pub credential: String,
    /// Which sessions it is meant for.
    pub subjects: Subjects,
}

/// How a merge changes a grant.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum How {
    /// It wasn't there.
    Added,
    /// It grants something that it didn't.
    Widened,
    /// It grants less.
    Narrowed,
    /// It goes.
    Removed,
}

/// Reads and compares. An error is a repository or a revision that can't be read.
pub fn check(args: &Check) -> Result<Report, String> {
    let repository = Repository::discover(&args.repository).map_err(|error| {
        format!(
            "{} is in no git repository: {}",
            args.repository.display(),
            error.message()
        )
    })?;
    let paths = Paths::new(&args.include, &args.exclude)?;
    let read = |revision: &str| read(&repository, revision, &paths, &args.namespace);
    let head = read(&args.revision)?;
    let base = args.base.as_ref().map(|base| read(base)).transpose()?;
    Ok(report(&args.namespace, base.as_ref(), &head))
}

/// What is to be said of what a commit declares, and of how it differs from a base.
pub fn report(namespace: &str, base: Option<&Declarations>, head: &Declarations) -> Report {
    let mut errors = head.errors.clone();
    errors.extend(bindings(head).flat_map(|(declared, spec)| match spec {
        Ok(spec) => broken(declared, spec),
        Err(message) => vec![error(declared, message)],
    }));
    errors.sort_by(|one, other| one.at.cmp(&other.at));
    Report {
        objects: head.objects.len(),
        skipped: head.skipped,
        errors,
        changes: base.map_or_else(Vec::new, |base| compare(namespace, base, head)),
    }
}

fn read(repository: &Repository, revision: &str, paths: &Paths, namespace: &str) -> Result<Declarations, String> {
    let unreadable = |error: git2::Error| format!("revision {revision} can't be read: {}", error.message());
    let object = repository.revparse_single(revision).map_err(unreadable)?;
    let tree = object.peel_to_tree().map_err(unreadable)?;
    Ok(manifest::read(&tree::read(repository, &tree, paths)?, namespace))
}

/// The bindings, and their specs as the types read them.
fn bindings(tip: &Declarations) -> impl Iterator<Item = (&Declared, Result<CredentialBindingSpec, String>)> {
    let bindings = tip.objects.iter().filter(|declared| declared.key.kind == Kind::Binding);
    bindings.map(|declared| {
        let spec = declared.object.get("spec").cloned().unwrap_or_default();
        let spec = serde_json::from_value(spec).map_err(|error| format!("spec: {error}"));
        (declared, spec)
    })
}

fn error(declared: &Declared, message: String) -> SourceError {
    SourceError {
        at: declared.at.clone(),
        object: Some(declared.key.to_string()),
        message,
    }
}

/// What the linter says.
fn broken(declared: &Declared, spec: CredentialBindingSpec) -> Vec<SourceError> {
    let binding = CredentialBinding::new(&declared.key.name, spec);
    let mut permitted = Permitted {
        routes: binding.spec.routes.clone(),
        narrowed: Vec::new(),
    };
    vet(&binding, &mut permitted);
    permitted
        .narrowed
        .into_iter()
        .map(|message| error(declared, message))
        .collect()
}

fn compare(namespace: &str, base: &Declarations, head: &Declarations) -> Vec<Change> {
    let named = |tip| -> BTreeMap<String, (Declared, CredentialBindingSpec)> {
        let readable = bindings(tip).filter_map(|(declared, spec)| Some((declared.clone(), spec.ok()?)));
        readable
            .map(|(declared, spec)| (declared.key.name.clone(), (declared, spec)))
            .collect()
    };
    let (before, after) = (named(base), named(head));
    let print = |name: &str, spec: &CredentialBindingSpec| Fingerprint::of(namespace, name, spec);
    let mut changes = Vec::new();
    for (name, (declared, spec)) in &after {
        let how = match before.get(name) {
            None => How::Added,
            Some((_, old)) => match (print(name, old), print(name, spec)) {
                (old, new) if old.digest() == new.digest() => continue,
                (old, new) if old.covers(&new) => How::Narrowed,
                _ => How::Widened,
            },
        };
        changes.push(change(how, declared, spec));
    }
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    changes.extend(gone.map(|(_, (declared, spec))| change(How::Removed, declared, spec)));
    changes.sort_by(|one, other| (one.how, &one.binding).cmp(&(other.how, &other.binding)));
    changes
}

fn change(how: How, declared: &Declared, spec: &CredentialBindingSpec) -> Change {
    let ends = match &spec.expires_at {
        Some(time) => format!("until {}", time.0),
        None => "without an end".to_owned(),
    };
    let who = match &spec.subjects {
        subjects if subjects.all_sessions == Some(true) => "every session".to_owned(),
        subjects if !subjects.session_names.is_empty() => format!("sessions {}", subjects.session_names.join(", ")),
        _ => "the sessions of its selector".to_owned(),
    };
    let name = &spec.credential.name;
    let grants = spec
        .routes
        .iter()
        .map(|route| format!("{name} for {who}: {}, {ends}", words(route)));
    Change {
        how,
        binding: declared.key.name.clone(),
        at: declared.at.clone(),
        grants: grants.collect(),
        flags: if how == How::Removed { Vec::new() } else { flags(spec) },
        credential: name.clone(),
        subjects: spec.subjects.clone(),
    }
}

fn words(route: &Route) -> String {
    if let Some(git) = &route.git {
        return format!("git {:?} {} on {}", git.access, git.repos.join(", "), route.host);
    }
    let all = |list: &[String]| {
        if list.is_empty() {
            "any".to_owned()
        } else {
            list.join(",")
        }
    };
    let paths = if route.paths.is_empty() {
        "/**".to_owned()
    } else {
        route.paths.join(" ")
    };
    format!("{} {} {paths}", all(&route.methods), route.host)
}

fn flags(spec: &CredentialBindingSpec) -> Vec<String> {
    let any = |holds: fn(&Route) -> bool| spec.routes.iter().any(holds);
    let writes = |route: &Route| {
        route.git.is_none()
            && (route.methods.is_empty() || route.methods.iter().any(|method| !READS.contains(&&**method)))
    };
    let flags = [
        (spec.expires_at.is_none(), "never expires"),
        (
            spec.subjects.all_sessions == Some(true),
            "every session of the namespace",
        ),
        (any(|route| route.host.starts_with("*.")), "any host of a domain"),
        (any(writes), "methods that write"),
        (
            any(|route| {
                route.git.is_none() && (route.paths.is_empty() || route.paths.iter().any(|path| path == "/**"))
            }),
            "any path",
        ),
        (any(|route| !route.addresses.is_empty()), "addresses that aren't public"),
    ];
    flags
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, flag)| flag.to_owned())
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SourceError { at, object, message } in &self.errors {
            let object = object.as_ref().map_or_else(String::new, |object| format!("{object}: "));
            writeln!(formatter, "{at}: error: {object}{message}")?;
        }
        for Change {
            how,
            binding,
            at,
            grants,
            flags,
            ..
        } in &self.changes
        {
            writeln!(formatter, "{} {binding} ({at})", how.word())?;
            for grant in grants {
                writeln!(formatter, "    {grant}")?;
            }
            if !flags.is_empty() {
                writeln!(formatter, "    look at: {}", flags.join("; "))?;
            }
        }
        let Self {
            objects,
            skipped,
            errors,
            ..
        } = self;
        write!(
            formatter,
            "{objects} objects, {skipped} documents of other kinds, {} errors",
            errors.len()
        )
    }
}

impl How {
    /// What a merge does with it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "grants",
            Self::Widened => "widens",
            Self::Narrowed => "narrows",
            Self::Removed => "revokes",
        }
    }
}

/// Methods that read.
const READS: [&str; 3] = ["GET", "HEAD", "OPTIONS"];
