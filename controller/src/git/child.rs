//! The child process `berth-controller fetch`: one source, one request, one answer (DESIGN §4).
//!
//! A repository that crashes or starves it hurts its own source alone. It knows that source's credentials and no
//! other's, and writes nothing but its bare repository.

use std::io::{self, Write};
use std::process::ExitCode;

use git2::{Commit, Direction, FetchOptions, Oid, Remote, RemoteCallbacks, Repository};

use super::history::last_changes;
use super::transport;
use super::tree::{self, Paths};
use super::wire::{Answer, File, Files, Request, Tip};

/// Reads the request, writes the answer.
pub fn run() -> ExitCode {
    let request: Request = match serde_json::from_reader(io::stdin().lock()) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(error = %error, "the request can't be read");
            return ExitCode::FAILURE;
        }
    };
    let answer = fetch(&request).map_or_else(Answer::Failed, Answer::Tip);
    let mut output = io::stdout().lock();
    match serde_json::to_writer(&mut output, &answer)
        .map_err(io::Error::from)
        .and_then(|()| output.flush())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Why a URL is never handed to git, if it isn't (DESIGN §4).
pub fn refuse_url(url: &str) -> Option<String> {
    if url.starts_with("ssh://") {
        return Some("ssh isn't implemented in this release; use https".to_owned());
    }
    let parsed = url::Url::parse(url);
    let Ok(parsed) = parsed else {
        return Some(format!("spec.url {url:?} isn't a URL"));
    };
    let host = parsed.host_str().unwrap_or_default();
    let checks = [
        (
            !["http", "https"].contains(&parsed.scheme()),
            "only https and http are fetched",
        ),
        (host.is_empty() || host.starts_with('-'), "the host can't be one"),
        (
            parsed.path().split('/').any(|part| part.starts_with('-')),
            "no part of the path may begin with -",
        ),
        (
            !parsed.username().is_empty() || parsed.password().is_some(),
            "user and password belong into the Secret",
        ),
        (
            parsed.query().is_some() || parsed.fragment().is_some(),
            "a clone URL has no query and no fragment",
        ),
    ];
    checks
        .iter()
        .find(|(wrong, _)| *wrong)
        .map(|(_, why)| format!("spec.url: {why}"))
}

fn fetch(request: &Request) -> Result<Tip, String> {
    if let Some(why) = refuse_url(&request.url) {
        return Err(why);
    }
    let paths = Paths::new(&request.include, &request.exclude)?;
    transport::register(request)?;
    let repository = open(request)?;
    let commit = bring(&repository, request)?;
    let tip = repository
        .find_commit(commit)
        .map_err(|error| words("the tip can't be read", &error))?;
    let rewound = rewound(&repository, request, commit);
    let held = request.held.as_deref() == Some(commit.to_string().as_str());
    let files = if held {
        None
    } else {
        Some(files(&repository, &tip, &paths)?)
    };
    Ok(Tip {
        commit: commit.to_string(),
        rewound,
        files,
    })
}

/// The source's own bare repository; one that can't be opened is made anew.
fn open(request: &Request) -> Result<Repository, String> {
    if let Ok(found) = Repository::open_bare(&request.folder) {
        return Ok(found);
    }
    if request.folder.exists() {
        std::fs::remove_dir_all(&request.folder).map_err(|error| format!("the clone can't be removed: {error}"))?;
    }
    Repository::init_bare(&request.folder).map_err(|error| words("the clone can't be made", &error))
}

/// Asks for the branch's tip, and for its objects when they aren't there yet.
fn bring(repository: &Repository, request: &Request) -> Result<Oid, String> {
    let mut remote = repository
        .remote_anonymous(&request.url)
        .map_err(|error| words("the URL can't be used", &error))?;
    let tip = remote_tip(&mut remote, &request.branch)?;
    if repository.find_commit(tip).is_ok() {
        return Ok(tip);
    }
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|progress| progress.total_objects() <= OBJECTS_MAX);
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks)
        .download_tags(git2::AutotagOption::None);
    let reference = format!("+refs/heads/{}:{TIP}", request.branch);
    remote.fetch(&[reference], Some(&mut options), None).map_err(|error| {
        words(
            &format!("the branch can't be fetched (at most {OBJECTS_MAX} objects)"),
            &error,
        )
    })?;
    repository
        .refname_to_id(TIP)
        .map_err(|error| words("the branch wasn't fetched", &error))
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

fn rewound(repository: &Repository, request: &Request, tip: Oid) -> bool {
    let Some(before) = request.before.as_deref().and_then(|before| Oid::from_str(before).ok()) else {
        return false;
    };
    before != tip && !repository.graph_descendant_of(tip, before).unwrap_or(false)
}

fn files(repository: &Repository, tip: &Commit<'_>, paths: &Paths) -> Result<Files, String> {
    let tree = tip.tree().map_err(|error| words("the tree can't be read", &error))?;
    let (texts, mut files) = tree::read(repository, &tree, paths)?;
    let names: Vec<String> = texts.iter().map(|(path, _)| path.clone()).collect();
    let mut changes = last_changes(tip, &names);
    files.read = texts
        .into_iter()
        .map(|(path, text)| {
            let (commit, author) = changes.remove(&path).unwrap_or_default();
            File {
                path,
                text,
                commit,
                author,
            }
        })
        .collect();
    Ok(files)
}

fn words(what: &str, error: &git2::Error) -> String {
    format!("{what}: {}", error.message())
}

/// Where the fetched tip is kept.
const TIP: &str = "refs/berth/tip";
/// A repository of manifests has thousands.
const OBJECTS_MAX: usize = 500_000;

#[cfg(test)]
mod tests {
    use super::refuse_url;

    #[test]
    fn urls_that_could_be_taken_for_something_else_are_refused() {
        for url in [
            "ssh://git@git.example.com/a.git",
            "file:///etc",
            "ext::sh -c id",
            "git://git.example.com/a",
            "https://-oProxyCommand=id/a",
            "https://git.example.com/-upload-pack=id",
            "https://alice:secret@git.example.com/a.git",
            "https://git.example.com/a.git?x=1",
            "-u",
        ] {
            assert!(refuse_url(url).is_some(), "{url}");
        }
        assert_eq!(refuse_url("https://git.example.com:8443/team/agents.git"), None);
    }
}
