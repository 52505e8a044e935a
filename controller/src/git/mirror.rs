//! The source's own bare repository: asked for the branch's tip, and for its objects when they aren't there yet.
//! Never a checkout. It is thrown away and made anew when it has grown beyond its bounds or can't be read.

use std::fs;
use std::path::Path;

use git2::{AutotagOption, Commit, Direction, FetchOptions, Oid, Remote, RemoteCallbacks, Repository};

use super::wire::Request;

/// The repository, opened or made.
pub fn open(folder: &Path) -> Result<Repository, String> {
    if let Ok(found) = Repository::open_bare(folder)
        && sweep(folder)
    {
        return Ok(found);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("the clone can't be removed: {error}"))?;
    }
    Repository::init_bare(folder).map_err(|error| words("the clone can't be made", &error))
}

/// Removes what an interrupted fetch has left, and tells whether the rest is within bounds: every fetch adds a pack and
/// nothing packs them together.
fn sweep(folder: &Path) -> bool {
    let (mut packs, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder.join("objects/pack"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        if !["pack", "idx", "rev"].contains(&extension) {
            // What can't be removed counts below, with the next fetch's look.
            drop(fs::remove_file(&path));
            continue;
        }
        packs += usize::from(extension == "pack");
        bytes += entry.metadata().map_or(0, |metadata| metadata.len());
    }
    packs <= PACKS_MAX && bytes <= BYTES_MAX
}

/// The branch's tip, with everything that it reaches.
pub fn bring<'a>(repository: &'a Repository, request: &Request) -> Result<Commit<'a>, String> {
    let mut remote = repository
        .remote_anonymous(&request.url)
        .map_err(|error| words("the URL can't be used", &error))?;
    let tip = remote_tip(&mut remote, &request.branch)?;
    if let Ok(commit) = repository.find_commit(tip) {
        return Ok(commit);
    }
    download(&mut remote, &format!("+refs/heads/{}:{TIP}", request.branch))?;
    let fetched = repository
        .find_reference(TIP)
        .and_then(|reference| reference.peel_to_commit());
    fetched.map_err(|error| words("the branch wasn't fetched", &error))
}

fn remote_tip(remote: &mut Remote<'_>, branch: &str) -> Result<Oid, String> {
    remote
        .connect(Direction::Fetch)
        .map_err(|error| words("the server can't be asked", &error))?;
    let wanted = format!("refs/heads/{branch}");
    let heads = remote
        .list()
        .map_err(|error| words("the server can't be asked", &error))?;
    let tip = heads
        .iter()
        .find(|head| head.name() == wanted)
        .map(git2::RemoteHead::oid);
    drop(remote.disconnect());
    tip.ok_or_else(|| format!("the repository has no branch {branch}"))
}

/// Fetches what a refspec names, within bounds.
pub fn download(remote: &mut Remote<'_>, refspec: &str) -> Result<(), String> {
    let mut many = false;
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|progress| {
        many |= progress.total_objects() > OBJECTS_MAX;
        !many
    });
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks)
        .download_tags(AutotagOption::None)
        .update_fetchhead(false);
    let done = remote.fetch(&[refspec], Some(&mut options), None);
    drop(options);
    let many_objects = format!("the branch has more than {OBJECTS_MAX} objects; use a repository of manifests alone");
    done.map_err(|error| {
        if many {
            many_objects
        } else {
            words("the branch can't be fetched", &error)
        }
    })
}

/// Whether the branch left the commit that it pointed at before.
pub fn is_rewound(repository: &Repository, before: Option<&str>, tip: Oid) -> bool {
    let Some(before) = before.and_then(|before| Oid::from_str(before).ok()) else {
        return false;
    };
    before != tip && !repository.graph_descendant_of(tip, before).unwrap_or(false)
}

/// libgit2's own words, without the bare class that some of its errors are.
pub fn words(what: &str, error: &git2::Error) -> String {
    format!("{what}: {}", error.message())
}

/// Where the fetched tip is kept.
pub const TIP: &str = "refs/berth/tip";
/// A repository of manifests has thousands.
const OBJECTS_MAX: usize = 500_000;
/// One a push; a clone anew once a day costs less than packing together.
const PACKS_MAX: usize = 64;
/// Twice the largest fetch (`transport`), so that one is never thrown away at once.
const BYTES_MAX: u64 = 512 << 20;
