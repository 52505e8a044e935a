//! What was asked of the API server, from its audit log: the cluster writes every request there before it answers.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::Cluster;

/// Berth's account.
pub const BERTH: &str = "system:serviceaccount:berth-system:berth-controller";

/// A request as the log has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Verb, such as `create`.
    pub verb: String,
    user: User,
    impersonated_user: Option<User>,
    object_ref: Option<Object>,
    response_status: Option<Answer>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Object {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Answer {
    code: Option<u16>,
}

impl Request {
    /// Status code of the answer.
    pub fn code(&self) -> u16 {
        self.response_status
            .as_ref()
            .and_then(|answer| answer.code)
            .unwrap_or(0)
    }

    /// Name of the object, where the request has one.
    pub fn name(&self) -> &str {
        self.object_ref
            .as_ref()
            .and_then(|object| object.name.as_deref())
            .unwrap_or_default()
    }

    /// Whether Berth sent it as itself.
    fn is_berths(&self) -> bool {
        self.user.username == BERTH && self.impersonated_user.is_none()
    }

    fn is_of(&self, namespace: &str, resource: &str) -> bool {
        self.object_ref.as_ref().is_some_and(|object| {
            let path = object
                .subresource
                .as_ref()
                .map_or_else(|| object.resource.clone(), |part| format!("{}/{part}", object.resource));
            object.namespace.as_deref().unwrap_or_default() == namespace && path == resource
        })
    }
}

/// Berth's own requests on this resource, such as `sandboxclaims` or `agentsessions/status`, in this namespace; an empty
/// namespace for cluster-wide objects.
pub fn requests(cluster: &Cluster, namespace: &str, resource: &str) -> Result<Vec<Request>> {
    let log = cluster.folder.join("audit/audit.log");
    let file = File::open(&log).with_context(|| format!("{} can't be read", log.display()))?;
    let mut found = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line?;
        if line.contains(namespace) && line.contains(BERTH) {
            let request = serde_json::from_str::<Request>(&line).ok();
            found.extend(request.filter(|request| request.is_berths() && request.is_of(namespace, resource)));
        }
    }
    Ok(found)
}
