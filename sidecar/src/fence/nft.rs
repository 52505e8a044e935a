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
    "ip daddr 127.0.0.0/8 accept",
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
    # The mark lets the kernel finish the sidecar's connections when their socket has lost its owner.
    meta skuid {SIDECAR_UID} ct mark set {SIDECAR_UID} accept
    ct mark {SIDECAR_UID} accept
    # A redirected packet still shows its old interface here, so its new destination is what counts.
    oifname "lo" accept
    ip daddr 127.0.0.0/8 accept
    meta skuid != {SIDECAR_UID} meta l4proto tcp reject with tcp reset
    meta skuid != {SIDECAR_UID} reject with icmpx type admin-prohibited
    # What is left has no owner: of that only the kernel's search for IPv6 neighbours is needed.
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
