//! The agent stays who it is.

use anyhow::Result;
use berth_e2e::Granted;

use super::are;

/// THREAT: 51
/// THREAT: CVE-2026-65093
/// No call, no setuid program and no namespace makes it the sidecar's user or root, and it signals nobody else.
pub(super) fn agent_cannot_change_its_user(session: &Granted) -> Result<()> {
    let said = session.agent(include_str!("agent/user.pl"), &[], "")?;
    are(
        &said,
        &[
            "Uid 1000",
            "Gid 1000",
            "CapInh 0000000000000000",
            "CapPrm 0000000000000000",
            "CapEff 0000000000000000",
            "CapBnd 0000000000000000",
            "CapAmb 0000000000000000",
            "NoNewPrivs 1",
            "Seccomp 2",
            "setuid 0 EPERM",
            "setresuid 0 EPERM",
            "setgid 0 EPERM",
            "setuid 1337 EPERM",
            "setresuid 1337 EPERM",
            "setgid 1337 EPERM",
            "unshare mount EPERM",
            "unshare net EPERM",
            "unshare pid EPERM",
            "unshare user EPERM",
            "mount EPERM",
            "chroot EPERM",
            "bpf EPERM",
            "setuid programs some",
            "su runs as 1000\t1000\t1000\t1000",
            "unseen processes 0",
            "processes of others 0",
        ],
    )
}
