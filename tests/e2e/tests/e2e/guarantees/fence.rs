//! The fence stands whatever the agent does, and without the sidecar too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_e2e::node::{self, Arrivals};
use berth_e2e::{Granted, PATIENCE, Scene};
use kube::ResourceExt;

use super::are;

const ATTACK: &str = include_str!("agent/fence.pl");

/// THREAT: 52
/// Neither by netlink nor by sockets or sysctls. The same words from the network's owner delete a table.
pub(super) fn agent_cannot_change_the_fence(session: &Granted) -> Result<()> {
    let before = session.tables()?;
    ensure!(before.contains("redirect to :14323"), "there is no fence: {before}");
    let said = session.agent(ATTACK, &["berth"], "")?;
    are(
        &said,
        &[
            "delete table EPERM",
            "delete all tables EPERM",
            "read tables EPERM",
            "flush connections EPERM",
            "take a link down EPERM",
            "delete a route EPERM",
            "raw socket EPERM",
            "replace rules EPERM",
            "write ip_unprivileged_port_start EACCES",
            "write ip_forward EACCES",
            "write ping_group_range EACCES",
        ],
    )?;
    ensure!(session.tables()? == before, "the fence has changed");

    session.in_network("nft", &["add", "table", "inet", "planted"])?;
    ensure!(session.tables()?.contains("planted"), "nothing was planted");
    session.beside(0, ATTACK, &["planted"])?;
    ensure!(session.tables()? == before, "the attack deletes nothing where it may");
    Ok(())
}

/// THREAT: 53
/// The agent can't signal it (row 51). When it is killed, its connections end and nothing leaves until its container is
/// back; then the same stub and the same authority serve.
pub(super) async fn killed_sidecar_leaves_no_way_out(scene: &Scene, session: &Granted, secret: &str) -> Result<()> {
    let arrivals = Arrivals::count(&session.address()?)?;
    let arguments = arrivals.arguments()?;
    let (killed, authority) = (session.sidecar()?, session.sidecars("/berth/handoff/ca.crt")?);
    let said = std::thread::scope(|scope| {
        let attack = scope.spawn(|| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            session.agent(include_str!("agent/gap.pl"), &arguments, "")
        });
        kill_when_it_is_ready(session)?;
        attack.join().ok().context("the attack broke down")?
    })?;
    let [gone, tried, ways @ .., back] = &said[..] else {
        anyhow::bail!("{said:#?}");
    };
    ensure!(gone == "the proxy is gone" && back == "the proxy is back", "{said:#?}");
    ensure!(tried.starts_with("tried ") && tried != "tried 0", "{said:#?}");
    let open = arrivals.ways(ways)?;
    ensure!(open.is_empty(), "{open:?} left the pod");
    arrivals.none_beyond()?;

    scene.receives(secret).await?;
    ensure!(session.sidecar()? != killed, "the sidecar wasn't killed");
    let kept = session.sidecars("/berth/handoff/ca.crt")?;
    ensure!(kept == authority, "another authority was made");
    Ok(())
}

/// The attack says by a file that it has begun.
fn kill_when_it_is_ready(session: &Granted) -> Result<()> {
    let runner = node::process(&session.pod.uid().context("a uid")?, "berth-runner")?;
    let ready = format!("/proc/{runner}/root/tmp/attack-ready");
    let begun = Instant::now();
    while !std::fs::exists(&ready)? {
        ensure!(begun.elapsed() < PATIENCE, "the attack doesn't begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    node::signal(session.sidecar()?, "KILL")
}
