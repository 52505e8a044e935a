//! The child process `berth-controller fetch`: one source, one request, one answer (DESIGN §4).
//!
//! A repository that crashes or starves it hurts its own source alone. It knows that source's credentials and no
//! other's, and writes nothing but its bare repository.

use std::io::{self, Write};
use std::process::ExitCode;

use git2::{Commit, Oid, Repository};
use serde_json::Value;

use super::declared::Declarations;
use super::mirror::{self, words};
use super::tree::{self, Paths};
use super::wire::{Answer, Request, Tip};
use super::{history, inspect, introduced, manifest, transport};

/// Reads the request, writes the answer.
pub fn run() -> ExitCode {
    let request: Request = match serde_json::from_reader(io::stdin().lock()) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(error = %error, "the request can't be read");
            return ExitCode::FAILURE;
        }
    };
    let answer = match (&request.inspect, &request.preview) {
        (Some(wanted), _) => inspect::inspect(&request, wanted).map(Answer::Inspected),
        (None, Some(wanted)) => inspect::preview(&request, wanted).map(Answer::Previewed),
        (None, None) => fetch(&request).map(Answer::Tip),
    };
    let answer = answer.unwrap_or_else(Answer::Failed);
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
    transport::register(request)?;
    let repository = mirror::open(&request.folder)?;
    let tip = mirror::bring(&repository, request)?;
    let commit = tip.id().to_string();
    let rewound = mirror::is_rewound(&repository, request.before.as_deref(), tip.id());
    let held = request.held.as_ref() == Some(&commit);
    let declarations = if held {
        None
    } else {
        Some(declarations(&repository, &tip, request)?)
    };
    Ok(Tip {
        commit,
        rewound,
        declarations,
    })
}

/// What the tip declares, each object with the commit that changed it last.
fn declarations(repository: &Repository, tip: &Commit<'_>, request: &Request) -> Result<Declarations, String> {
    let paths = Paths::new(&request.include, &request.exclude)?;
    let tree = tip.tree().map_err(|error| words("the tree can't be read", &error))?;
    let files = tree::read(repository, &tree, &paths)?;
    let mut declarations = manifest::read(&files, &request.namespace);
    drop(files);
    declarations.errors.truncate(ERRORS_MAX);
    let size: usize = declarations.objects.iter().map(|object| values(&object.object)).sum();
    if size > VALUES_MAX {
        return Err(format!(
            "the manifests hold more than {VALUES_MAX} values; use several sources"
        ));
    }
    let held = request.held.as_deref().and_then(|held| Oid::from_str(held).ok());
    history::attribute(repository, tip, held, &mut declarations.objects, &request.namespace);
    introduced::trace(repository, tip, &mut declarations.objects, request);
    Ok(declarations)
}

fn values(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(values).sum::<usize>(),
        _ => 1,
    }
}

/// What a person can't read is not said in full; the objects concerned stay marked.
const ERRORS_MAX: usize = 10_000;
/// Ten thousand sessions of thirty values; the caller holds a hundred bytes for each.
const VALUES_MAX: usize = 300_000;

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
