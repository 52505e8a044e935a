//! A forge that refuses Berth's token, over a restart: what was sealed goes on, what is new waits.

use anyhow::Result;
use berth_e2e::Cluster;

use super::{SYSTEM, settled};
use crate::evidence::Desk;

/// Sets the token of the forge, and starts all replicas anew: a Secret's file follows within minutes otherwise.
fn token(cluster: &Cluster, value: &str) -> Result<()> {
    let patch = serde_json::json!({ "stringData": { "token": value } }).to_string();
    cluster.run(
        "kubectl",
        &["-n", SYSTEM, "patch", "secret", "berth-forge", "--patch", &patch],
    )?;
    cluster.run(
        "kubectl",
        &[
            "-n",
            SYSTEM,
            "delete",
            "pods",
            "-l",
            "app.kubernetes.io/name=berth-controller",
        ],
    )?;
    settled(cluster)
}

#[tokio::test]
async fn a_forge_that_says_nothing_holds_what_is_new_and_keeps_what_was_sealed() -> Result<()> {
    let desk = Desk::new("forgedown").await?;
    let cluster = desk.team.cluster.clone();
    let template = "-o=go-template={{index .data \"token\" | base64decode}}";
    let before = cluster.run("kubectl", &["-n", SYSTEM, "get", "secret", "berth-forge", template])?;
    desk.review("old", &["GET"]).await?;
    let sealed = desk.granted("old").await?;

    token(&cluster, "fake-token")?;
    let checked = held(&desk, &sealed).await;
    // Others need it, whatever was found.
    token(&cluster, &before)?;
    checked?;
    desk.granted("new").await?;
    desk.end().await
}

async fn held(desk: &Desk, sealed: &berth_crds::Grant) -> Result<()> {
    desk.review("new", &["GET"]).await?;
    desk.says("new", "EvidenceUnverifiable").await?;
    assert_eq!(desk.granted("old").await?, *sealed, "it was neither lost nor made anew");
    // A revocation needs no forge.
    desk.repository.remove("old.yaml")?;
    desk.repository.push("Take it back")?;
    let gone = ["wait", "--for=delete", "credentialbinding/old", "--timeout=60s"];
    desk.team.kubectl(&gone).map(drop)
}
