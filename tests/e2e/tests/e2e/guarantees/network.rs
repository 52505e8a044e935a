//! G8: nothing leaves the pod except through the sidecar.

use anyhow::{Result, ensure};
use berth_e2e::Granted;
use berth_e2e::node::Arrivals;

use super::are;

const OUT: &str = include_str!("agent/out.pl");

/// Shell that leaves in a file which kinds of sockets the harness can make: what runs beside it, as here by exec, hasn't
/// got the runner's filter.
pub(crate) fn kinds() -> String {
    format!("perl - > kinds <<'END'\n{}\nEND\n", include_str!("agent/families.pl"))
}

/// THREAT: 49
/// THREAT: 55
/// Each way out is tried to a port of its own on the node, which counts what arrives: from the sidecar's user many do,
/// from the agent none.
pub(super) fn agent_has_no_other_way_out(session: &Granted) -> Result<()> {
    let arrivals = Arrivals::count(&session.address()?)?;
    let arguments = arrivals.arguments()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Newer container runtimes let everybody ping; the fence has to hold there too.
    session.in_network("sysctl", &["-qw", "net.ipv4.ping_group_range=0 2147483647"])?;
    let allowed = session.beside(SIDECAR_UID, OUT, &arguments)?;
    let open = arrivals.ways(&allowed)?;
    for way in OPEN {
        ensure!(
            open.iter().any(|name| name == way),
            "{way} isn't open to the sidecar: {open:?}"
        );
    }
    arrivals.forget()?;
    let tried = session.agent(OUT, &arguments, "")?;
    ensure!(tried.len() == allowed.len(), "{tried:#?}");
    let open = arrivals.ways(&tried)?;
    ensure!(open.is_empty(), "{open:?} left the pod: {tried:#?}");

    let said = session.agent(include_str!("agent/places.pl"), &[], "")?;
    ensure!(
        !said.is_empty() && said.iter().all(|line| line.ends_with(" refused")),
        "{said:#?}"
    );
    arrivals.none_beyond()
}

/// THREAT: 50
/// No datagram leaves: not to a name server, not from a port that was the sidecar's a moment ago, and no kind of socket
/// can be made that the fence doesn't know.
pub(super) fn agent_sends_no_datagram(session: &Granted) -> Result<()> {
    let kinds = session.shell("cat /workspace/kinds")?;
    let kinds: Vec<&str> = kinds.lines().collect();
    for kind in &kinds {
        let known = KINDS.iter().any(|known| kind.starts_with(known));
        ensure!(known, "a socket of kind {kind} can be made");
    }
    ensure!(kinds.len() > KINDS.len(), "{kinds:?}");
    let server = session.shell("sed -n 's/^nameserver //p' /etc/resolv.conf | head -1")?;
    let reuse = session.agent(include_str!("agent/reuse.pl"), &[server.trim()], "")?;
    // Otherwise there was nothing to take up.
    let entries = session.connections()?;
    let taken = |entry: &&str| entry.contains(" dport=53 ") && entry.contains(" mark=1337 ");
    ensure!(
        entries.lines().any(|entry| taken(&entry)),
        "the sidecar asked nothing: {entries}"
    );
    are(&reuse, &["tried many", "sent 0 answered 0"])
}

/// THREAT: 48
/// The network is shared, and so are abstract sockets: the sidecar has none, and listens on loopback at two ports. A
/// second connection to the runner's socket is closed.
pub(super) fn agent_connects_to_no_socket_of_the_sidecar(session: &Granted) -> Result<()> {
    let said = session.agent(include_str!("agent/sockets.pl"), &["/berth/handoff/runner.sock"], "")?;
    are(
        &said,
        &[
            "abstract @planted- answers",
            "/berth/handoff/runner.sock is closed",
            "127.0.0.1 14322",
            "127.0.0.1 14323",
        ],
    )
}

/// THREAT: 54
/// While the sidecar stands, its ports are its own, whatever the options.
pub(super) fn agent_cannot_bind_the_proxys_port(session: &Granted) -> Result<()> {
    let said = session.agent(include_str!("agent/squat.pl"), &[], "")?;
    let taken = |line: &String| !line.ends_with(" EADDRINUSE");
    ensure!(said.len() == 6 && !said.iter().any(taken), "{said:#?}");
    Ok(())
}

/// What the node sees of a user that isn't fenced, at least.
const OPEN: [&str; 9] = [
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udp_to_loopback",
    "udp_broadcast",
    "udp_multicast",
    "udp6_multicast",
    "ping",
];
const SIDECAR_UID: u32 = 1337;
/// Address families by number: Unix, IPv4 and IPv6 as streams and datagrams, netlink.
pub(crate) const KINDS: [&str; 6] = ["1 ", "2 1 ", "2 2 ", "10 1 ", "10 2 ", "16 "];
