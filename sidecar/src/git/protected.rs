//! Pure: paths that decide what runs or who approves beyond the session. A push that touches one is refused unless its
//! route says `protectedPaths: Allow`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Such paths.
#[derive(Clone, Debug)]
pub struct Protected(GlobSet);

impl Protected {
    /// CI definitions, CODEOWNERS, and what these globs match; `include` of a GitSource has the same.
    pub fn with<'a>(tracked: impl IntoIterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut globs = GlobSetBuilder::new();
        for pattern in DEFINITIONS.into_iter().chain(tracked) {
            let mut glob = GlobBuilder::new(pattern);
            glob.literal_separator(true)
                .case_insensitive(true)
                .empty_alternates(true);
            globs.add(glob.build()?);
        }
        Ok(Self(globs.build()?))
    }

    /// Whether a path is one of them; directories are, too.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.0.is_match(OsStr::from_bytes(path))
    }
}

/// Where forges and CI systems look by default. Case is ignored: some of them ignore it.
const DEFINITIONS: [&str; 16] = [
    ".{github,gitea,forgejo}/{workflows,actions}{,/**}",
    ".gitlab-ci.{yml,yaml}",
    ".gitlab/ci{,/**}",
    "**/Jenkinsfile*",
    ".circleci{,/**}",
    "**/azure-pipelines*.{yml,yaml}",
    ".azure-pipelines{,/**}",
    ".travis.yml",
    ".drone.{yml,yaml,star,jsonnet}",
    ".woodpecker{,.yml,.yaml,/**}",
    "bitbucket-pipelines.yml",
    ".buildkite{,/**}",
    ".builds{,/**}",
    ".cirrus.{yml,yaml,star}",
    ".tekton{,/**}",
    "{,.github/,.gitlab/,.gitea/,.forgejo/,docs/}CODEOWNERS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_and_tracked_paths_are_protected() {
        let protected = Protected::with(["clusters/prod/**"]).unwrap();
        for path in [
            ".github/workflows",
            ".github/workflows/ci.yml",
            ".GitHub/Workflows/ci.yml",
            ".gitea/workflows/a/b.yaml",
            ".forgejo/workflows/ci.yml",
            ".gitlab-ci.yml",
            "Jenkinsfile",
            "deploy/Jenkinsfile.release",
            ".circleci/config.yml",
            "azure-pipelines.yml",
            ".woodpecker.yml",
            ".woodpecker/x.yml",
            "CODEOWNERS",
            ".github/CODEOWNERS",
            "docs/CODEOWNERS",
            "clusters/prod/a/session.yaml",
        ] {
            assert!(protected.contains(path.as_bytes()), "{path}");
        }
        for path in [
            "src/main.rs",
            ".github/ISSUE_TEMPLATE/bug.md",
            ".github",
            "docs/.github/workflows/ci.yml",
            "src/CODEOWNERS",
            "clusters/test/a.yaml",
            "gitlab-ci.yml",
        ] {
            assert!(!protected.contains(path.as_bytes()), "{path}");
        }
    }
}
