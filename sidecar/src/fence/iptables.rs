//! Pure: the rules for gVisor's own network stack, which knows the older iptables only, and of that little: each
//! match and target here was seen working there. It matches the agent's user, as an inverted owner wasn't.

use crate::listen::TRANSPARENT_PORT;

/// User of the agent's container; it can't become another one.
const AGENT_UID: &str = "1000";

/// What to list, and what must be in there. gVisor's listing shows an owner match as unsupported: it isn't compared.
pub const EXPECTED: [([&str; 5], [&str; 2]); 3] = [
    (
        ["ip6tables-legacy", "-t", "filter", "-S", "OUTPUT"],
        ["-d ::1", "-j DROP"],
    ),
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
    let agent = ["-m", "owner", "--uid-owner", AGENT_UID];
    let rule = |program: &str, before: &[&str], after: &[&str]| {
        let words = [&[program], before, &agent[..], after].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let flush = |program: &str, table: &str| [program, "-t", table, "-F", "OUTPUT"].map(str::to_owned).to_vec();
    vec![
        // Closed first: were a later command refused, nothing would be open.
        flush(V6, "filter"),
        rule(V6, &["-A", "OUTPUT"], &["-d", LOOPBACK6, "-j", "ACCEPT"]),
        rule(V6, &["-A", "OUTPUT"], &["-j", "DROP"]),
        flush(V4, "filter"),
        flush(V4, "nat"),
        rule(V4, &["-A", "OUTPUT"], &["-d", LOOPBACK, "-j", "ACCEPT"]),
        rule(V4, &["-A", "OUTPUT"], &["-j", "DROP"]),
        // The agent's own servers and the proxy are not diverted.
        rule(V4, &NAT, &["-d", LOOPBACK, "-j", "ACCEPT"]),
        rule(V4, &NAT, &["-j", "REDIRECT", "--to-ports", &port]),
    ]
}

const V4: &str = "iptables-legacy";
/// Nothing is redirected: the sidecar has no IPv6 address of its own, and the pod has one on its link at least.
const V6: &str = "ip6tables-legacy";
const NAT: [&str; 6] = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp"];
const LOOPBACK6: &str = "::1/128";
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
