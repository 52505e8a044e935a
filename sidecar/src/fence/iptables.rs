//! Pure: the rules for gVisor's own network stack, which knows the older iptables only, and of that little: each
//! match and target here was seen working there. It matches the agent's user, as an inverted owner wasn't.

use crate::listen::TRANSPARENT_PORT;

/// User of the agent's container; it can't become another one.
const AGENT_UID: &str = "1000";

/// What to list, and what must be in there. gVisor's listing shows an owner match as unsupported: it isn't compared.
pub const EXPECTED: [([&str; 5], [&str; 2]); 2] = [
    (
        ["iptables-legacy", "-t", "nat", "-S", "OUTPUT"],
        ["-j REDIRECT --to-ports 14323", "-d 127.0.0.0/8"],
    ),
    (
        ["iptables-legacy", "-t", "filter", "-S", "OUTPUT"],
        ["-d 127.0.0.0/8", "-j DROP"],
    ),
];

/// The commands, in order; a second run starts from empty chains.
pub fn rules() -> Vec<Vec<String>> {
    let port = TRANSPARENT_PORT.to_string();
    let lines: [&[&str]; 6] = [
        // Closed first: were a later command refused, nothing would be open.
        &["-t", "filter", "-F", "OUTPUT"],
        &["-t", "nat", "-F", "OUTPUT"],
        &[
            "-A",
            "OUTPUT",
            "-m",
            "owner",
            "--uid-owner",
            AGENT_UID,
            "-d",
            LOOPBACK,
            "-j",
            "ACCEPT",
        ],
        &["-A", "OUTPUT", "-m", "owner", "--uid-owner", AGENT_UID, "-j", "DROP"],
        // The agent's own servers and the proxy are not diverted.
        &[
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-p",
            "tcp",
            "-m",
            "owner",
            "--uid-owner",
            AGENT_UID,
            "-d",
            LOOPBACK,
            "-j",
            "ACCEPT",
        ],
        &[
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-p",
            "tcp",
            "-m",
            "owner",
            "--uid-owner",
            AGENT_UID,
            "-j",
            "REDIRECT",
            "--to-ports",
            &port,
        ],
    ];
    let command = |line: &&[&str]| {
        std::iter::once("iptables-legacy")
            .chain(line.iter().copied())
            .map(str::to_owned)
            .collect()
    };
    lines.iter().map(command).collect()
}

/// After the redirect the old interface is seen, so the destination is what counts.
const LOOPBACK: &str = "127.0.0.0/8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_as_reviewed() {
        insta::assert_snapshot!(rules().iter().map(|rule| rule.join(" ") + "\n").collect::<String>());
    }
}
