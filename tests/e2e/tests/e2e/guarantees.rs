//! What Berth promises of a running session (research/vault-proxy.md §5.4, G1 to G8), attacked from within its pod: as the
//! agent's user, in the agent's container, while the session uses a credential that was made a moment ago. Attacks are
//! Perl, which is in the image already and makes any system call; each is shown to work where it is allowed to.
//!
//! One session serves several checks. `THREAT: 44` is the row of tests/gallery/THREATS.md, which names the check.

use anyhow::{Result, ensure};
use berth_e2e::granted::value;
use berth_e2e::{Scene, cluster};
use serde_json::json;

mod fence;
pub(crate) mod network;
pub(crate) mod secrets;
mod tenants;
mod user;
mod uses;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reads_no_secret_and_becomes_nobody_else() -> Result<()> {
    let (scene, secret, plant) = (
        Scene::create(&cluster().await?, "secrets", 1, &json!({})).await?,
        value()?,
        value()?,
    );
    scene.grant("s", &secret).await?;
    let session = scene.start("s", &secret, &secrets::plant(&plant)).await?;
    let found = secrets::search(&session, &secret, &plant)?;
    secrets::sidecar_memory_is_not_the_agents(&session, &secret, &found)?;
    secrets::agent_finds_no_key(&session, &found)?;
    secrets::planted_links_are_not_followed(&session)?;
    secrets::agent_token_can_do_nothing(&scene.team, &session)?;
    network::agent_connects_to_no_socket_of_the_sidecar(&session)?;
    user::agent_cannot_change_its_user(&session)?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_a_pod_but_through_its_sidecar() -> Result<()> {
    let (scene, secret) = (
        Scene::create(&cluster().await?, "leaves", 1, &json!({})).await?,
        value()?,
    );
    scene.grant("s", &secret).await?;
    let session = scene.start("s", &secret, &network::kinds()).await?;
    network::agent_has_no_other_way_out(&session)?;
    network::agent_sends_no_datagram(&session)?;
    fence::agent_cannot_change_the_fence(&session)?;
    network::agent_cannot_bind_the_proxys_port(&session)?;
    uses::a_value_goes_only_where_it_is_granted(&scene, &session, &secret)?;
    uses::every_use_is_on_record(&scene, &session).await?;
    uses::an_upload_is_not_held_in_memory(&scene, &session)?;
    fence::killed_sidecar_leaves_no_way_out(&scene, &session, &secret).await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_nothing_to_another() -> Result<()> {
    let scene = Scene::create(&cluster().await?, "tenants", 2, &json!({})).await?;
    let (of_one, of_two) = (value()?, value()?);
    scene.grant("one", &of_one).await?;
    scene.grant("two", &of_two).await?;
    let one = scene.start("one", &of_one, "").await?;
    let two = scene.start("two", &of_two, "").await?;
    tenants::proxy_is_not_reached_from_another_pod(&one, &two)?;
    tenants::session_gets_its_own_grants_only(&scene, [(&one, &of_one), (&two, &of_two)])?;
    scene.end().await
}

/// The lines are these, in this order.
fn are(said: &[String], expected: &[&str]) -> Result<()> {
    ensure!(said == expected, "said {said:#?}\nexpected {expected:#?}");
    Ok(())
}
