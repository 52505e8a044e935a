//! The tables of `tests/manifests`, sent to the API server by scripts that a person can run alone.

use anyhow::{Result, ensure};
use berth_e2e::cluster;

fn script(path: &str) -> String {
    format!("{}/../manifests/{path}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn every_bad_manifest_is_refused_with_its_message_and_every_good_one_taken() -> Result<()> {
    let said = cluster().await?.run(&script("check"), &[])?;
    let refused = said
        .lines()
        .last()
        .and_then(|line| line.split(' ').next())
        .and_then(|count| count.parse::<u32>().ok());
    ensure!(refused >= Some(40), "{said}");
    Ok(())
}

#[tokio::test]
async fn admission_lets_in_and_refuses_as_the_policies_claim() -> Result<()> {
    cluster()
        .await?
        .run(&script("admission/prove"), &["berth-system"])
        .map(drop)
}
