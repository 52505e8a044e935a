//! IO: when the controller had the sidecars' acknowledgements, from its log.

use std::collections::HashMap;

use anyhow::Result;
use berth_e2e::Team;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde::Deserialize;

use super::leader;

/// A line of the controller's log.
#[derive(Deserialize)]
struct Line {
    timestamp: Timestamp,
    message: String,
    #[serde(rename = "session.namespace")]
    namespace: String,
    #[serde(rename = "session.name")]
    name: String,
}

/// First acknowledgement by the session's name, since a time.
pub(crate) async fn read(team: &Team, since: Timestamp) -> Result<HashMap<String, Timestamp>> {
    let pods: Api<Pod> = Api::namespaced(team.cluster.client.clone(), "berth-system");
    let leader = leader(&pods).await?;
    let params = LogParams {
        since_time: Some(since),
        ..LogParams::default()
    };
    let log = pods.logs(&leader.metadata.name.unwrap_or_default(), &params).await?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let ours = lines.filter(|line| line.namespace == team.namespace && line.message == "assignment acknowledged");
    let mut first = HashMap::new();
    for line in ours {
        first.entry(line.name).or_insert(line.timestamp);
    }
    Ok(first)
}
