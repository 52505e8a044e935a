//! What commits of a pull request say of bindings: in the child, like every look into a repository. Heads that were
//! reviewed needn't be on the branch; they are fetched into a repository beside the source's own, which lends its
//! objects, so that no fetch of the branch waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use git2::{Commit, Oid, Repository};

use super::declared::{Declarations, Kind};
use super::introduced::fingerprint;
use super::mirror::{self, words};
use super::tree::{self, Paths};
use super::wire::{Head, Inspect, Inspected, Preview, Request};
use super::{child, manifest, transport};
use crate::check::{Report, report};
use crate::grant::fingerprint::Fingerprint;

/// Reads every wanted commit that is to be had.
pub fn inspect(request: &Request, wanted: &Inspect) -> Result<Inspected, String> {
    if let Some(why) = child::refuse_url(&request.url) {
        return Err(why);
    }
    transport::register(request)?;
    let repository = beside(request, "pulls")?;
    let oids: BTreeSet<Oid> = wanted
        .commits
        .iter()
        .filter_map(|oid| Oid::from_str(oid).ok())
        .collect();
    bring(&repository, request, wanted.pull, &oids)?;
    let merge = Oid::from_str(&wanted.merge).and_then(|merge| repository.find_commit(merge));
    let joined = merge.iter().flat_map(|merge| merge.parent_ids().skip(1));
    let mut inspected = Inspected {
        joined: joined.map(|oid| oid.to_string()).collect(),
        ..Inspected::default()
    };
    for commit in oids.iter().filter_map(|oid| repository.find_commit(*oid).ok()) {
        let read = |commit: &Commit<'_>| documents(&repository, commit, request, &wanted.names);
        let before = merge
            .as_ref()
            .ok()
            .and_then(|merge| fork(&repository, merge, commit.id()));
        let head = Head {
            here: read(&commit)?,
            before: before.map(|before| read(&before)).transpose()?.unwrap_or_default(),
        };
        inspected.heads.insert(commit.id().to_string(), head);
    }
    Ok(inspected)
}

/// What a pull request changes: between its head and where that left the branch, as it was before the merge if it is merged.
pub fn preview(request: &Request, wanted: &Preview) -> Result<Report, String> {
    if let Some(why) = child::refuse_url(&request.url) {
        return Err(why);
    }
    transport::register(request)?;
    let repository = beside(request, "previews")?;
    let unknown = |error: git2::Error| words("the pull request's commits aren't there", &error);
    let head = Oid::from_str(&wanted.head).map_err(unknown)?;
    bring(&repository, request, wanted.pull, &BTreeSet::from([head]))?;
    let merge = wanted
        .merge
        .as_deref()
        .map(Oid::from_str)
        .transpose()
        .map_err(unknown)?;
    let before = match merge {
        None => repository.refname_to_id(mirror::TIP),
        Some(merge) => repository.find_commit(merge).and_then(|merge| merge.parent_id(0)),
    };
    let base = repository.merge_base(before.map_err(unknown)?, head).map_err(unknown)?;
    let read = |oid: Oid| declared(&repository, &repository.find_commit(oid).map_err(unknown)?, request);
    Ok(report(&request.namespace, Some(&read(base)?), &read(head)?))
}

/// Fetches a pull request's commits, unless they are there.
fn bring(repository: &Repository, request: &Request, number: u64, oids: &BTreeSet<Oid>) -> Result<(), String> {
    if oids.iter().all(|oid| repository.find_commit(*oid).is_ok()) {
        return Ok(());
    }
    let mut remote = repository
        .remote_anonymous(&request.url)
        .map_err(|error| words("the URL can't be used", &error))?;
    let refs = format!("+refs/pull/{number}/head:refs/berth/pull/{number}");
    mirror::download(&mut remote, &refs)
}

/// The repository beside the source's own, with the branch's tip as something that it has.
fn beside(request: &Request, name: &str) -> Result<Repository, String> {
    let own = Repository::open_bare(&request.folder).map_err(|error| words("the clone can't be read", &error))?;
    let folder = request.folder.join(name);
    drop(mirror::open(&folder)?);
    let lends = request.folder.join("objects");
    fs::create_dir_all(folder.join("objects/info"))
        .and_then(|()| fs::write(folder.join("objects/info/alternates"), format!("{}\n", lends.display())))
        .map_err(|error| format!("the clone can't be lent from: {error}"))?;
    let repository = Repository::open_bare(&folder).map_err(|error| words("the clone can't be read", &error))?;
    let tip = own
        .refname_to_id(mirror::TIP)
        .map_err(|error| words("the branch isn't there", &error))?;
    repository
        .reference(mirror::TIP, tip, true, "")
        .map_err(|error| words("the branch isn't there", &error))?;
    Ok(repository)
}

/// Where a head left the branch, as that was before the merge.
fn fork<'a>(repository: &'a Repository, merge: &Commit<'_>, head: Oid) -> Option<Commit<'a>> {
    let fork = repository.merge_base(merge.parent_id(0).ok()?, head).ok()?;
    repository.find_commit(fork).ok()
}

fn declared(repository: &Repository, commit: &Commit<'_>, request: &Request) -> Result<Declarations, String> {
    let paths = Paths::new(&request.include, &request.exclude)?;
    let tree = commit.tree().map_err(|error| words("the tree can't be read", &error))?;
    Ok(manifest::read(
        &tree::read(repository, &tree, &paths)?,
        &request.namespace,
    ))
}

/// Bindings that exactly one document of a commit declares.
fn documents(
    repository: &Repository,
    commit: &Commit<'_>,
    request: &Request,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, Fingerprint>, String> {
    let declared = declared(repository, commit, request)?;
    let ours = declared
        .objects
        .iter()
        .filter(|object| object.key.kind == Kind::Binding && names.contains(&object.key.name))
        .filter(|object| !declared.withheld.contains(&object.key));
    let read = ours.filter_map(|object| {
        let name = object.key.name.clone();
        let fingerprint = fingerprint(&request.namespace, &name, &object.object)?;
        Some((name, fingerprint))
    });
    Ok(read.collect())
}
