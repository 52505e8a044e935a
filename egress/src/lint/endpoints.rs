//! Endpoints of well-known hosts that hand out credentials, approve changes, or write refs past git: what an agent
//! could widen its own rights with (DESIGN §7, rows 26 and 36). From the providers' public API descriptions; a guard
//! against oversight, not a complete list.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::{Report, Rule};
use crate::pattern::{HostPattern, PathPattern};
use crate::policy::{GitAccess, Route, Tls, Tokens};
use crate::rules::route::CompiledRoute;

type Item<'a> = (usize, &'a Route, &'a CompiledRoute);

/// What an endpoint does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Power {
    /// Hands out a credential, or registers one.
    Mints,
    /// Approves or merges a change, or does anything at all (GraphQL).
    Approves,
    /// Writes a ref, or content to a branch.
    WritesRef,
}

struct Endpoint {
    power: Power,
    /// Labels; `*` stands for one.
    host: &'static str,
    method: &'static str,
    path: &'static str,
}

pub(super) fn check(routes: &[Item<'_>], report: &mut Report) {
    let limited = limited_to_refs(routes);
    for (index, route, compiled) in routes {
        let Some(credential) = &route.credential else { continue };
        if route.git.is_some() || route.tls != Tls::Terminate {
            continue;
        }
        let near = BY_HOST.near(&compiled.host);
        let reached = |power: Power| {
            let mut near = near.iter().filter(|(endpoint, _)| endpoint.power == power);
            near.find(|(endpoint, path)| reaches(compiled, endpoint, path))
        };
        let minted = reached(Power::Mints).filter(|_| route.tokens != Some(Tokens::Endpoint));
        let risky = minted.or_else(|| reached(Power::Approves));
        if let Some((endpoint, _)) = risky.filter(|_| !route.minting) {
            let message = minting_message(endpoint);
            report.route(*index).add("paths", Rule::Minting, message);
        }
        if limited.contains(credential.as_str()) && evades(compiled, &near) {
            let message = format!(
                "credential {credential} may push to some refs only, but this route lets it write others; narrow it"
            );
            report.route(*index).add("methods", Rule::RefBypass, message);
        }
    }
}

fn minting_message(endpoint: &Endpoint) -> String {
    let what = match endpoint.power {
        Power::Mints => "hands out credentials",
        Power::Approves | Power::WritesRef => "approves or merges changes",
    };
    let Endpoint { host, method, path, .. } = endpoint;
    format!(
        "reaches {method} {host}{path}, which {what}; narrow methods or paths, or say minting: true, or tokens: Endpoint to have its tokens become stubs"
    )
}

/// Credentials whose pushes are limited to some refs.
fn limited_to_refs<'a>(routes: &[Item<'a>]) -> HashSet<&'a str> {
    let limited = routes.iter().filter(|(_, route, _)| {
        let git = route.git.as_ref();
        git.is_some_and(|git| git.access == GitAccess::Write && !git.ref_prefixes.is_empty())
    });
    limited
        .filter_map(|(_, route, _)| route.credential.as_deref())
        .collect()
}

/// On a host of the table the table says what writes refs; on another any method that writes may, but for opening a pull
/// request or speaking about one where forges of one's own have that.
fn evades(route: &CompiledRoute, near: &[&(&Endpoint, PathPattern)]) -> bool {
    if near.is_empty() {
        let mut writes = ["DELETE", "PATCH", "PUT"].into_iter();
        let proposes = || {
            let known: Vec<_> = (PROPOSES.iter())
                .filter_map(|path| PathPattern::parse(path).ok())
                .collect();
            let mut paths = route.paths.iter();
            paths.all(|path| known.iter().any(|known| path.is_within(known)))
        };
        return writes.any(|method| route.methods.includes(method)) || (route.methods.includes("POST") && !proposes());
    }
    let mut writers = near.iter().filter(|(endpoint, _)| endpoint.power != Power::Mints);
    writers.any(|(endpoint, path)| reaches(route, endpoint, path))
}

fn reaches(route: &CompiledRoute, endpoint: &Endpoint, path: &PathPattern) -> bool {
    route.methods.includes(endpoint.method) && route.paths.iter().any(|pattern| pattern.overlaps(path))
}

/// Whether a route's host pattern and a host of the table have a name in common.
fn hosts_overlap(pattern: &HostPattern, host: &str) -> bool {
    let (depth, base) = match pattern {
        HostPattern::Exact(exact) => (Some(0), exact.name().unwrap_or_default()),
        HostPattern::OneLabel(base) => (Some(1), base.as_str()),
        HostPattern::AnyDepth(base) => (None, base.as_str()),
    };
    let mut labels = host.rsplit('.');
    let tail = base
        .rsplit('.')
        .all(|label| labels.next().is_some_and(|other| other == "*" || other == label));
    let more = labels.count();
    tail && depth.map_or(more > 0, |depth| more == depth)
}

/// The table, read once.
static BY_HOST: LazyLock<HostIndex> = LazyLock::new(HostIndex::new);

/// The table's endpoints by host, looked up once for each pattern.
struct HostIndex {
    hosts: HashMap<&'static str, Vec<(&'static Endpoint, PathPattern)>>,
}

impl HostIndex {
    fn new() -> Self {
        let mut hosts: HashMap<&'static str, Vec<_>> = HashMap::new();
        for endpoint in ENDPOINTS {
            if let Ok(path) = PathPattern::parse(endpoint.path) {
                hosts.entry(endpoint.host).or_default().push((endpoint, path));
            }
        }
        Self { hosts }
    }

    fn near(&self, pattern: &HostPattern) -> Vec<&(&'static Endpoint, PathPattern)> {
        let near = self.hosts.iter().filter(|(host, _)| hosts_overlap(pattern, host));
        let mut near: Vec<_> = near.flat_map(|(_, endpoints)| endpoints).collect();
        near.sort_by_key(|(endpoint, _)| (endpoint.host, endpoint.path, endpoint.method));
        near
    }
}

const fn mints(host: &'static str, method: &'static str, path: &'static str) -> Endpoint {
    Endpoint {
        power: Power::Mints,
        host,
        method,
        path,
    }
}

const fn approves(host: &'static str, method: &'static str, path: &'static str) -> Endpoint {
    Endpoint {
        power: Power::Approves,
        host,
        method,
        path,
    }
}

const fn writes_ref(host: &'static str, method: &'static str, path: &'static str) -> Endpoint {
    Endpoint {
        power: Power::WritesRef,
        host,
        method,
        path,
    }
}

/// What a POST opens, or says, without writing a ref: Gitea and Forgejo, GitHub Enterprise Server, GitLab.
const PROPOSES: &[&str] = &[
    "/api/v1/repos/*/*/pulls",
    "/api/v1/repos/*/*/issues",
    "/api/v1/repos/*/*/issues/*/comments",
    "/api/v3/repos/*/*/pulls",
    "/api/v3/repos/*/*/issues",
    "/api/v3/repos/*/*/issues/*/comments",
    "/api/v4/projects/*/merge_requests",
    "/api/v4/projects/*/issues",
];

const ENDPOINTS: &[Endpoint] = &[
    // GitHub: tokens, keys, runners (a runner's token runs code with the repository's secrets).
    mints("api.github.com", "POST", "/app/installations/*/access_tokens"),
    mints("api.github.com", "POST", "/applications/*/token/scoped"),
    mints("api.github.com", "PATCH", "/applications/*/token"),
    mints("api.github.com", "POST", "/repos/*/*/keys"),
    mints("api.github.com", "POST", "/user/keys"),
    mints(
        "api.github.com",
        "POST",
        "/repos/*/*/actions/runners/registration-token",
    ),
    mints(
        "api.github.com",
        "POST",
        "/repos/*/*/actions/runners/generate-jitconfig",
    ),
    mints("api.github.com", "POST", "/orgs/*/actions/runners/registration-token"),
    mints("api.github.com", "POST", "/orgs/*/actions/runners/generate-jitconfig"),
    mints("github.com", "POST", "/login/oauth/access_token"),
    mints("github.com", "POST", "/login/device/code"),
    // GitHub: approval.
    approves("api.github.com", "POST", "/repos/*/*/pulls/*/reviews"),
    approves("api.github.com", "POST", "/repos/*/*/pulls/*/reviews/*/events"),
    approves("api.github.com", "PUT", "/repos/*/*/pulls/*/merge"),
    approves("api.github.com", "POST", "/repos/*/*/merges"),
    approves("api.github.com", "POST", "/repos/*/*/actions/runs/*/approve"),
    approves(
        "api.github.com",
        "POST",
        "/repos/*/*/actions/runs/*/pending_deployments",
    ),
    approves("api.github.com", "POST", "/graphql"),
    // GitHub: refs.
    writes_ref("api.github.com", "POST", "/repos/*/*/git/refs"),
    writes_ref("api.github.com", "PATCH", "/repos/*/*/git/refs/**"),
    writes_ref("api.github.com", "DELETE", "/repos/*/*/git/refs/**"),
    writes_ref("api.github.com", "PUT", "/repos/*/*/contents/**"),
    writes_ref("api.github.com", "DELETE", "/repos/*/*/contents/**"),
    writes_ref("api.github.com", "POST", "/repos/*/*/merge-upstream"),
    writes_ref("api.github.com", "POST", "/repos/*/*/branches/*/rename"),
    writes_ref("api.github.com", "PUT", "/repos/*/*/pulls/*/update-branch"),
    writes_ref("github.com", "POST", "/*/*/git-receive-pack"),
    writes_ref("github.com", "POST", "/*/*/info/lfs/**"),
    writes_ref("github.com", "PUT", "/*/*/info/lfs/**"),
    // GitLab.
    mints("gitlab.com", "POST", "/oauth/token"),
    mints("gitlab.com", "POST", "/api/v4/user/personal_access_tokens"),
    mints("gitlab.com", "POST", "/api/v4/users/*/personal_access_tokens"),
    mints("gitlab.com", "POST", "/api/v4/personal_access_tokens/*/rotate"),
    mints("gitlab.com", "POST", "/api/v4/projects/*/access_tokens"),
    mints("gitlab.com", "POST", "/api/v4/projects/*/deploy_keys"),
    mints("gitlab.com", "POST", "/api/v4/projects/*/deploy_tokens"),
    mints("gitlab.com", "POST", "/api/v4/groups/*/access_tokens"),
    mints("gitlab.com", "POST", "/api/v4/user/runners"),
    approves("gitlab.com", "POST", "/api/v4/projects/*/merge_requests/*/approve"),
    approves("gitlab.com", "PUT", "/api/v4/projects/*/merge_requests/*/merge"),
    approves("gitlab.com", "POST", "/api/graphql"),
    writes_ref("gitlab.com", "POST", "/api/v4/projects/*/repository/**"),
    writes_ref("gitlab.com", "PUT", "/api/v4/projects/*/repository/**"),
    writes_ref("gitlab.com", "DELETE", "/api/v4/projects/*/repository/**"),
    writes_ref("gitlab.com", "PUT", "/api/v4/projects/*/merge_requests/*/rebase"),
    writes_ref("gitlab.com", "POST", "/*/*/git-receive-pack"),
    writes_ref("gitlab.com", "POST", "/*/*/info/lfs/**"),
    writes_ref("gitlab.com", "PUT", "/*/*/gitlab-lfs/**"),
    // Bitbucket.
    mints("bitbucket.org", "POST", "/site/oauth2/access_token"),
    approves(
        "api.bitbucket.org",
        "POST",
        "/2.0/repositories/*/*/pullrequests/*/approve",
    ),
    approves(
        "api.bitbucket.org",
        "POST",
        "/2.0/repositories/*/*/pullrequests/*/merge",
    ),
    writes_ref("api.bitbucket.org", "POST", "/2.0/repositories/*/*/src"),
    writes_ref("api.bitbucket.org", "POST", "/2.0/repositories/*/*/refs/**"),
    writes_ref("api.bitbucket.org", "DELETE", "/2.0/repositories/*/*/refs/**"),
    // AWS: STS takes GET and POST on its root; IAM makes access keys.
    mints("sts.amazonaws.com", "POST", "/"),
    mints("sts.amazonaws.com", "GET", "/"),
    mints("sts.*.amazonaws.com", "POST", "/"),
    mints("sts.*.amazonaws.com", "GET", "/"),
    mints("iam.amazonaws.com", "POST", "/"),
    mints("iam.amazonaws.com", "GET", "/"),
    // Google.
    mints("oauth2.googleapis.com", "POST", "/token"),
    mints("www.googleapis.com", "POST", "/oauth2/v4/token"),
    mints("accounts.google.com", "POST", "/o/oauth2/token"),
    mints("sts.googleapis.com", "POST", "/v1/token"),
    mints(
        "iamcredentials.googleapis.com",
        "POST",
        "/v1/projects/*/serviceAccounts/*",
    ),
    mints("iam.googleapis.com", "POST", "/v1/projects/*/serviceAccounts/*/keys"),
    // Microsoft.
    mints("login.microsoftonline.com", "POST", "/*/oauth2/v2.0/token"),
    mints("login.microsoftonline.com", "POST", "/*/oauth2/token"),
    // Registries.
    mints("registry.npmjs.org", "POST", "/-/npm/v1/tokens"),
    mints("registry.npmjs.org", "PUT", "/-/user/*"),
    mints("auth.docker.io", "GET", "/token"),
    mints("hub.docker.com", "POST", "/v2/users/login"),
    mints("hub.docker.com", "POST", "/v2/access-tokens"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_a_valid_pattern() {
        for path in ENDPOINTS
            .iter()
            .map(|endpoint| endpoint.path)
            .chain(PROPOSES.iter().copied())
        {
            PathPattern::parse(path).expect(path);
        }
    }

    #[test]
    fn hosts_of_the_table_meet_patterns() {
        let table = [
            ("sts.eu-west-1.amazonaws.com", "sts.*.amazonaws.com", true),
            ("*.eu-west-1.amazonaws.com", "sts.*.amazonaws.com", true),
            ("s3.eu-west-1.amazonaws.com", "sts.*.amazonaws.com", false),
            ("*.github.com", "api.github.com", true),
            ("**.github.com", "api.github.com", true),
            ("**.github.com", "github.com", false),
            ("github.com", "api.github.com", false),
        ];
        for (pattern, host, expected) in table {
            let parsed = HostPattern::parse(pattern).expect(pattern);
            assert_eq!(hosts_overlap(&parsed, host), expected, "{pattern} and {host}");
        }
    }
}
