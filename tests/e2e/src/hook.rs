//! A source that the forge tells of pushes.

use anyhow::Result;
use serde_json::json;

use crate::{Repository, Team};

/// Where the forge tells GitSource `source` of a team.
pub fn webhook(team: &Team) -> Result<String> {
    let jsonpath = "jsonpath={.spec.clusterIP}";
    let service = [
        "-n",
        "berth-system",
        "get",
        "service",
        "berth-controller",
        "-o",
        jsonpath,
    ];
    let address = team.cluster.run("kubectl", &service)?;
    Ok(format!("http://{address}:8080/webhooks/{}/source", team.namespace))
}

/// GitSource `source` of a repository, which looks by itself this often, and a hook on the forge.
pub async fn follow(team: &Team, repository: &Repository, interval: &str) -> Result<()> {
    let token = format!("fake-{:x}", jiff::Timestamp::now().as_nanosecond());
    team.offer("hook", &token, "unused.example.com").await?;
    let spec = json!({
        "url": repository.url, "ref": { "branch": "main" }, "interval": interval, "prune": true,
        "webhook": { "secretRef": { "name": "hook" } },
    });
    let source = json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "GitSource", "metadata": { "name": "source" }, "spec": spec,
    });
    team.apply(&source).await?;
    let config = json!({ "url": webhook(team)?, "content_type": "json", "secret": token });
    let hook = json!({ "type": "gitea", "active": true, "events": ["push"], "config": config });
    let path = format!("repos/{}/hooks", repository.path);
    repository.api("POST", &path, &hook).await.map(drop)
}
