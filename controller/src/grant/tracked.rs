//! Pure: what a session's pushes may not touch because Berth reads it: the paths that a GitSource, of whatever
//! namespace, takes from a repository that the route pushes to.

use std::sync::Arc;

use berth_crds::{GitAccess, GitSource, Route};
use url::Url;

use super::permit::host_covers;

/// Globs of those paths. What a source excludes stays protected too: its `exclude` may change.
pub fn globs(route: &Route, sources: &[Arc<GitSource>]) -> Vec<String> {
    let Some(git) = route.git.as_ref().filter(|git| git.access == GitAccess::Write) else {
        return Vec::new();
    };
    let reads = |source: &&Arc<GitSource>| {
        repository(&source.spec.url).is_some_and(|(host, path)| {
            host_covers(&route.host, &host) && git.repos.iter().any(|name| name.eq_ignore_ascii_case(&path))
        })
    };
    let includes = sources.iter().filter(reads).flat_map(|source| {
        let include = &source.spec.include;
        if include.is_empty() {
            vec![MANIFESTS.to_owned()]
        } else {
            include.clone()
        }
    });
    let mut globs: Vec<String> = includes.collect();
    globs.sort_unstable();
    globs.dedup();
    globs
}

/// Host, and the repository as a route names it.
fn repository(url: &str) -> Option<(String, String)> {
    let url = Url::parse(url).ok()?;
    let path = url.path().trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    Some((url.host_str()?.to_owned(), path.to_owned()))
}

/// What a source reads that includes nothing by name.
const MANIFESTS: &str = "**/*.{yaml,yml,json}";

#[cfg(test)]
mod tests {
    use berth_crds::{GitRoute, GitSourceSpec};

    use super::*;

    fn source(url: &str, include: &[&str]) -> Arc<GitSource> {
        let spec = GitSourceSpec {
            url: url.to_owned(),
            include: include.iter().map(|glob| (*glob).to_owned()).collect(),
            ..GitSourceSpec::default()
        };
        Arc::new(GitSource::new("source", spec))
    }

    fn route(host: &str, access: GitAccess) -> Route {
        Route {
            host: host.to_owned(),
            git: Some(GitRoute {
                repos: vec!["team/app".to_owned()],
                access,
                ..GitRoute::default()
            }),
            ..Route::default()
        }
    }

    #[test]
    fn what_sources_read_from_the_repository_is_protected() {
        let sources = [
            source("https://git.example.com/team/app.git", &["fleet/**", "a.yaml"]),
            source("https://git.example.com/Team/App", &["a.yaml"]),
            source("ssh://git@git.example.com/team/app.git", &[]),
            source("https://git.example.com/team/other.git", &["other/**"]),
            source("https://other.example.com/team/app.git", &["elsewhere/**"]),
        ];
        let all = [MANIFESTS, "a.yaml", "fleet/**"];
        assert_eq!(globs(&route("git.example.com", GitAccess::Write), &sources), all);
        let wide = globs(&route("*.example.com", GitAccess::Write), &sources);
        assert!(wide.contains(&"elsewhere/**".to_owned()), "{wide:?}");
        assert!(globs(&route("git.example.com", GitAccess::Read), &sources).is_empty());
    }
}
