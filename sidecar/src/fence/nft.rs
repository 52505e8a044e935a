//! Pure: the rules for nftables.

use crate::listen::TRANSPARENT_PORT;

/// User of the sidecar. Everybody else is fenced, root and sockets without an owner too.
const SIDECAR_UID: u32 = 1337;

/// Shows what was loaded.
pub const LIST: [&str; 5] = ["nft", "list", "table", "inet", "berth"];

/// What must be in there.
pub const EXPECTED: [&str; 5] = [
    "redirect to :14323",
    "policy drop",
    "meta skuid 1337 ct mark set",
    "ip daddr 127.0.0.1 tcp dport 14323 accept",
    "reject with tcp reset",
];

/// The whole table; loading it again replaces it in one transaction.
pub fn rules() -> String {
    format!(
        r#"table inet berth
delete table inet berth
table inet berth {{
  chain divert {{
    type nat hook output priority -100; policy accept;
    meta skuid {SIDECAR_UID} return
    oifname "lo" return
    meta nfproto ipv4 meta l4proto tcp redirect to :{TRANSPARENT_PORT}
  }}
  chain egress {{
    type filter hook output priority 0; policy drop;
    meta skuid {SIDECAR_UID} ct mark set {SIDECAR_UID} accept
    oifname "lo" accept
    # A redirected packet still shows its old interface here. Other packets to loopback that don't go by it would
    # leave: a socket may be bound to a device.
    ct status dnat ip daddr 127.0.0.1 tcp dport {TRANSPARENT_PORT} accept
    meta skuid != {SIDECAR_UID} meta l4proto tcp reject with tcp reset
    meta skuid != {SIDECAR_UID} reject with icmpx type admin-prohibited
    # What is left has no owner. The mark lets the kernel finish the sidecar's connections, and begin none. It comes
    # after the owners: who sends from a port that was the sidecar's has its mark, as the connection is still known.
    ct mark {SIDECAR_UID} tcp flags & (syn | ack) != syn accept
    # The kernel's search for IPv6 neighbours.
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_reviewed() {
        insta::assert_snapshot!(rules());
    }
}
