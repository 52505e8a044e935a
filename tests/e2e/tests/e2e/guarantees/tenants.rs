//! G6: what one session has is of no use in another.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use berth_e2e::{Granted, Scene};

const REACH: &str = include_str!("agent/reach.pl");

/// THREAT: 61
/// The proxy listens on loopback: from another pod's network its ports are closed, where another port of that pod
/// answers; from another pod's agent nothing gets as far as that.
pub(super) fn proxy_is_not_reached_from_another_pod(one: &Granted, two: &Granted) -> Result<()> {
    let address = one.address()?;
    let mut listener = one.beside_command(1337, include_str!("agent/listen.pl"), &["14399"])?;
    let mut listener = listener.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(listener.stdout.take().context("no output")?).read_line(&mut line)?;
    let ports = [address.as_str(), "14399", "14322", "14323"];
    let (by_node, by_agent) = (two.beside(1337, REACH, &ports), two.agent(REACH, &ports, ""));
    listener.kill()?;
    listener.wait()?;
    // Refused or not answered: the fence drops what has no owner, such as a refusal.
    let (by_node, by_agent) = (by_node?, by_agent?);
    let closed = |line: &String| line.ends_with(" EINPROGRESS") || line.ends_with(" ECONNREFUSED");
    let [planted, proxies @ ..] = &by_node[..] else {
        anyhow::bail!("nothing was tried");
    };
    ensure!(planted == "14399 planted", "{by_node:#?}");
    ensure!(proxies.len() == 2 && proxies.iter().all(closed), "{by_node:#?}");
    let away = |line: &String| line.ends_with("HTTP/1.1 403 Forbidden") || line.ends_with(" closed");
    ensure!(by_agent.len() == 3 && by_agent.iter().all(away), "{by_agent:#?}");
    Ok(())
}

/// THREAT: 62
/// THREAT: openshell-shared-cert
/// A sidecar holds its own session's value only, its authority is its own, and another session's stub means nothing.
pub(super) fn session_gets_its_own_grants_only(scene: &Scene, sessions: [(&Granted, &str); 2]) -> Result<()> {
    let [(one, of_one), (two, of_two)] = sessions;
    for (session, own, others) in [(one, of_one, of_two), (two, of_two, of_one)] {
        ensure!(session.remembers(own.as_bytes())?, "the sidecar doesn't hold its value");
        ensure!(
            !session.remembers(others.as_bytes())?,
            "a sidecar holds another session's value"
        );
    }
    for file in [
        "/berth/handoff/ca.crt",
        "/berth/vault-state/ca.json",
        "/berth/vault-state/stream.key",
    ] {
        ensure!(one.sidecars(file)? != two.sidecars(file)?, "{file} is shared");
    }
    let stub = one.shell("cat /workspace/stub")?;
    ensure!(
        stub.starts_with("stub_") && stub != two.shell("cat /workspace/stub")?,
        "{stub}"
    );
    let url = format!("https://{}/granted/crossed", scene.outside.host);
    let said = two.curl(&format!("-H 'Authorization: Bearer {}' {url}", stub.trim()))?;
    ensure!(!said.contains(of_one) && !said.contains(of_two), "{said}");
    let crossed = |seen: &&berth_gallery::origin::Seen| seen.target() == "/granted/crossed";
    for seen in scene.outside.origin.requests().iter().filter(crossed) {
        ensure!(!seen.head.contains("fake-value-"), "{}", seen.head);
    }
    Ok(())
}
