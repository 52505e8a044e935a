//! An image in a pod of its own: nothing of Berth's is in it or before it.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_e2e::Team;
use serde_json::json;

/// Starts pod `name`, which trusts what the team's pools trust; gives how long that took.
pub(super) fn start(team: &Team, name: &str, image: &str) -> Result<Duration> {
    let variables = ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"];
    let env: Vec<_> = variables
        .iter()
        .map(|name| json!({ "name": name, "value": "/ca/ca.crt" }))
        .collect();
    let container = json!({
        "name": "agent", "image": format!("localhost/berth-{image}:dev"), "imagePullPolicy": "Never", "env": env,
        "command": ["sleep", "3600"], "volumeMounts": [{ "name": "ca", "mountPath": "/ca" }],
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "containers": [container], "volumes": [{ "name": "ca", "configMap": { "name": "upstream-ca" } }],
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
        },
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), pod.to_string())?;
    let began = Instant::now();
    team.kubectl(&["apply", "--filename", &file.path().display().to_string()])?;
    team.kubectl(&[
        "wait",
        &format!("pod/{name}"),
        "--for=condition=Ready",
        "--timeout=120s",
    ])?;
    Ok(began.elapsed())
}

/// Runs a shell script in it; gives what it printed.
pub(super) fn run(team: &Team, name: &str, script: &str) -> Result<String> {
    team.kubectl(&["exec", name, "--", "bash", "-c", script])
}
