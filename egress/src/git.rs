//! git's smart HTTP: which repository a request is about, and whether it fetches or pushes (row 26).

use http::Method;

use crate::path::{CanonicalPath, Query};
use crate::policy::{GitAccess, GitRoute};

/// What a git request does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct GitCall<'a> {
    /// The repository, `owner/name`, without `.git`.
    pub(crate) repository: &'a str,
    /// Whether it belongs to a push.
    pub(crate) push: bool,
    /// Whether it is `info/refs`, which comes before the data.
    pub(crate) discovery: bool,
}

/// Why a git route doesn't match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GitFailure {
    /// Not one of the three endpoints, with the method and query that belong to it.
    NotGit,
    /// Another repository.
    Repository,
    /// A push where only fetches are allowed.
    ReadOnly,
}

impl<'a> GitCall<'a> {
    /// Reads a call. The service that `info/refs` announces counts as if it were called already; the dumb protocol,
    /// which names none, isn't git here.
    pub(crate) fn parse(method: &Method, path: &'a CanonicalPath, query: Option<&Query>) -> Option<Self> {
        let path = path.as_str().strip_prefix('/')?;
        let query = query.map(Query::as_str);
        let (repository, push, discovery) = if let Some(repository) = path.strip_suffix("/info/refs") {
            let push = match query {
                Some("service=git-receive-pack") => true,
                Some("service=git-upload-pack") => false,
                _ => return None,
            };
            (repository, push, true)
        } else if let Some(repository) = path.strip_suffix("/git-receive-pack") {
            (repository, true, false)
        } else {
            (path.strip_suffix("/git-upload-pack")?, false, false)
        };
        let expected = if discovery { Method::GET } else { Method::POST };
        if *method != expected || (!discovery && query.is_some()) {
            return None;
        }
        Some(Self {
            repository: repository.strip_suffix(".git").unwrap_or(repository),
            push,
            discovery,
        })
    }
}

/// Tests a call against a route's limits. Names are compared exactly; a forge that ignores case merely sees less.
pub(crate) fn test(limits: &GitRoute, call: Option<GitCall<'_>>) -> Result<(), GitFailure> {
    let call = call.ok_or(GitFailure::NotGit)?;
    if !limits.repos.iter().any(|repository| repository == call.repository) {
        return Err(GitFailure::Repository);
    }
    if call.push && limits.access == GitAccess::Read {
        return Err(GitFailure::ReadOnly);
    }
    Ok(())
}
