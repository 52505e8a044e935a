//! G1: no value and no key is in what the agent can read.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_e2e::{Granted, Team};

const SEARCH: &str = include_str!("agent/search.pl");

/// Shell that leaves a value in a file, and in the environment and the memory of processes.
pub(crate) fn plant(plant: &str) -> String {
    format!("echo {plant} > planted; PLANTED={plant} sleep 600 & true")
}

/// Looks for everything that must not be there, and for the plant.
pub(crate) fn search(session: &Granted, secret: &str, plant: &str) -> Result<Vec<String>> {
    let token = String::from_utf8(session.sidecars("/berth/token/token")?)?;
    let authority: serde_json::Value = serde_json::from_slice(&session.sidecars("/berth/vault-state/ca.json")?)?;
    let key = authority["key"].as_str().context("the authority has no key")?;
    let key = key.lines().nth(1).context("the key is no PEM")?;
    let stream_key = session.sidecars("/berth/vault-state/stream.key")?;
    let mut wanted = vec![
        ("plant", plant.as_bytes().to_vec()),
        ("value", secret.as_bytes().to_vec()),
        ("hex", hex::encode(secret).into_bytes()),
        ("backwards", secret.bytes().rev().collect()),
        ("token", token.trim().as_bytes().to_vec()),
        ("authority", key.as_bytes().to_vec()),
        ("stream", stream_key.clone()),
    ];
    // Whatever stands before the value: three alignments, without the characters that its neighbours change.
    for (name, before) in [("base64", ""), ("base64+1", "a"), ("base64+2", "aa")] {
        let encoded = BASE64_STANDARD.encode(format!("{before}{secret}"));
        wanted.push((name, encoded.as_bytes()[4..encoded.len() - 4].to_vec()));
    }
    let lines = wanted
        .iter()
        .map(|(name, bytes)| format!("{name} {}\n", hex::encode(bytes)));
    let input = lines.collect::<Vec<_>>().concat();
    session.agent(SEARCH, &[], &input)
}

/// THREAT: 44
/// The value is in the sidecar's memory, as the node's root sees, and in nothing that the agent sees.
pub(crate) fn sidecar_memory_is_not_the_agents(session: &Granted, secret: &str, found: &[String]) -> Result<()> {
    ensure!(
        session.remembers(secret.as_bytes())?,
        "the sidecar doesn't hold the value"
    );
    let planted = |place: &str| {
        found
            .iter()
            .any(|line| line.starts_with("plant in /proc/") && line.ends_with(place))
    };
    ensure!(
        planted("/environ") && planted("/mem"),
        "the search finds nothing: {found:#?}"
    );
    let leaks: Vec<&String> = found.iter().filter(|line| line.contains(" in /proc/")).collect();
    ensure!(leaks.iter().all(|line| line.starts_with("plant ")), "{leaks:#?}");
    let last = found.last().context("the search said nothing")?;
    ensure!(last.starts_with("read "), "the search wasn't finished: {last}");
    Ok(())
}

/// THREAT: 46
/// No file that the agent can read holds a key, a token or a value, and no volume of the sidecar's is there.
pub(crate) fn agent_finds_no_key(session: &Granted, found: &[String]) -> Result<()> {
    ensure!(
        found.iter().any(|line| line == "plant in /workspace/planted"),
        "{found:#?}"
    );
    let leaks: Vec<&String> = found
        .iter()
        .filter(|line| line.contains(" in ") && !line.starts_with("plant "))
        .collect();
    ensure!(leaks.is_empty(), "{leaks:#?}");
    let seen = session.shell(
        "ls /berth; ls -d /run/secrets/* /var/run/secrets/* 2>/dev/null; ls /dev/shm; wc -l < /proc/sysvipc/shm",
    )?;
    ensure!(seen.split_whitespace().eq(["bin", "handoff", "1"]), "{seen}");
    let mounts = session.shell("cat /proc/self/mountinfo")?;
    ensure!(mounts.contains(" /berth/handoff ro,"), "{mounts}");
    for volume in [
        "vault-state",
        "spool",
        "/berth/token",
        "control-ca",
        "upstream-ca",
        "serviceaccount",
    ] {
        ensure!(!mounts.contains(volume), "{volume} is mounted: {mounts}");
    }
    let keys = session.shell("grep -rlzaP '\\-----BEGIN [A-Z ]*PRIVATE KEY-----\\n[A-Za-z0-9+/=]{16}' /berth /run /tmp /workspace /etc /home 2>/dev/null || true")?;
    ensure!(keys.is_empty(), "{keys}");
    Ok(())
}

/// THREAT: 47
/// The one volume that both see is read-only to the agent, so nothing can be planted in it; what the sidecar has there
/// are files and a socket of its own.
pub(super) fn planted_links_are_not_followed(session: &Granted) -> Result<()> {
    let attempts = [
        "ln -s /etc/passwd /berth/handoff/planted",
        "ln -sf /workspace/mine /berth/handoff/ca.crt",
        "ln /workspace/planted /berth/handoff/planted",
        "mv /workspace/planted /berth/handoff/planted",
        "rm -f /berth/handoff/ca.crt",
        "mkdir /berth/handoff/planted",
        "sh -c 'echo > /berth/handoff/ca-bundle.crt'",
        "chmod 777 /berth/handoff",
        "mount -o remount,rw /berth/handoff",
        "ln -s /workspace/mine /berth/bin/planted",
        "sh -c 'echo > /berth/bin/berth-runner'",
        "mkdir /berth/vault-state",
    ];
    for attempt in attempts {
        let said = session.shell(&format!("{attempt} 2>&1 && echo done || true"))?;
        let refused = ["Read-only", "cross-device", "Permission denied", "superuser", "denied"];
        ensure!(refused.iter().any(|why| said.contains(why)), "{attempt}: {said}");
        ensure!(!said.ends_with("done\n"), "{attempt}: {said}");
    }
    let handoff = format!("/proc/{}/root/berth/handoff", session.sidecar()?);
    for entry in fs::read_dir(handoff)? {
        let kind = entry?.file_type()?;
        ensure!(kind.is_file() || kind.is_socket(), "{kind:?}");
    }
    Ok(())
}

/// THREAT: 45
/// The agent has no token. Its account could do nothing with one, and the sidecar's is none for the API server.
pub(super) fn agent_token_can_do_nothing(team: &Team, session: &Granted) -> Result<()> {
    let account = format!("--as=system:serviceaccount:{}:berth-agent", team.namespace);
    let account = [
        account.as_str(),
        "--as-group=system:serviceaccounts",
        "--as-group=system:authenticated",
    ];
    for (verb, resource) in [
        ("create", "pods/exec"),
        ("get", "pods/exec"),
        ("update", "pods/ephemeralcontainers"),
        ("patch", "pods/ephemeralcontainers"),
        ("create", "pods"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "serviceaccounts/token"),
        ("get", "agentsessions.berth.dev"),
        ("create", "credentialbindings.berth.dev"),
    ] {
        let arguments = [&["auth", "can-i", verb, resource][..], &account].concat();
        let said = team.kubectl(&arguments).err().context("it may")?.to_string();
        ensure!(said.contains("no"), "{verb} {resource}: {said}");
    }
    let token = String::from_utf8(session.sidecars("/berth/token/token")?)?;
    let server = [
        "--kubeconfig=/dev/null",
        "--server=https://10.96.0.1",
        "--insecure-skip-tls-verify",
    ];
    let arguments = [&server[..], &["--token", token.trim(), "auth", "whoami"]].concat();
    let said = team
        .cluster
        .run("kubectl", &arguments)
        .err()
        .context("it is somebody")?
        .to_string();
    ensure!(said.contains("Unauthorized") || said.contains("logged in"), "{said}");
    Ok(())
}
