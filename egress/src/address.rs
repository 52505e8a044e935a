//! Which addresses may be dialled: only public ones, unless a route names others (rows 10-13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is for. An IPv6 address that carries an IPv4 one has the class of that one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Shared between carrier and customer, 100.64.0.0/10 (RFC 6598).
    CarrierNat,
    /// In a network of the cluster: pods, Services, nodes.
    Cluster,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// 127.0.0.0/8 and ::1.
    Loopback,
    /// A cloud's metadata service.
    Metadata,
    /// Multicast and broadcast.
    Multicast,
    /// An address of this pod itself.
    Own,
    /// 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918).
    Private,
    /// Globally reachable.
    Public,
    /// Documentation, benchmarks, future use, discard, translation and tunnel prefixes without a destination.
    Reserved,
    /// fc00::/7 and the deprecated fec0::/10.
    UniqueLocal,
    /// 0.0.0.0/8 and ::, which many systems connect to themselves.
    Unspecified,
}

/// What no address may be in, over and above its class.
#[derive(Clone, Debug, Default)]
pub struct Vetting {
    /// Networks of the cluster: pods, Services, nodes. A route's own `addresses` may open a part of them.
    pub cluster: Vec<IpNet>,
    /// Addresses of this pod's interfaces. Nothing opens them.
    pub own: Vec<IpAddr>,
}

impl Class {
    /// Whether no route can open it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Metadata | Self::Multicast | Self::Own | Self::Unspecified)
    }
}

/// Classifies an address by itself.
pub fn classify(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

impl Vetting {
    /// Passes a public address, and one that `allowed` (a route's `addresses`) names and whose class isn't final.
    pub fn vet(&self, address: IpAddr, allowed: &[IpNet]) -> Result<(), Class> {
        let class = self.classify(address);
        let named = || {
            allowed
                .iter()
                .any(|net| net.contains(&address.to_canonical()) || net.contains(&address))
        };
        if class == Class::Public || (!class.is_final() && named()) {
            Ok(())
        } else {
            Err(class)
        }
    }

    /// Classifies an address, the cluster's networks and the pod's own addresses known.
    pub fn classify(&self, address: IpAddr) -> Class {
        let carried = carried(address);
        let is = |other: &IpAddr| *other == address || carried.is_some_and(|carried| *other == carried);
        let class = classify(address);
        if class.is_final() {
            class
        } else if self.own.iter().any(is) {
            Class::Own
        } else if self
            .cluster
            .iter()
            .any(|net| net.contains(&address) || carried.is_some_and(|carried| net.contains(&carried)))
        {
            Class::Cluster
        } else {
            class
        }
    }
}

fn carried(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded(address).map(IpAddr::V4),
    }
}

fn classify_v4(address: Ipv4Addr) -> Class {
    let [a, b, ..] = address.octets();
    if METADATA_V4.contains(&address) {
        Class::Metadata
    } else if a == 0 {
        Class::Unspecified
    } else if address.is_loopback() {
        Class::Loopback
    } else if address.is_private() {
        Class::Private
    } else if address.is_link_local() {
        Class::LinkLocal
    } else if a == 100 && (b & 0xc0) == 64 {
        Class::CarrierNat
    } else if address.is_multicast() || address.is_broadcast() {
        Class::Multicast
    } else if RESERVED_V4.iter().any(|net| net.contains(&address)) {
        Class::Reserved
    } else {
        Class::Public
    }
}

fn classify_v6(address: Ipv6Addr) -> Class {
    if METADATA_V6.contains(&address) {
        return Class::Metadata;
    }
    if address.is_unspecified() {
        return Class::Unspecified;
    }
    if address.is_loopback() {
        return Class::Loopback;
    }
    if let Some(inner) = embedded(address) {
        return classify_v4(inner);
    }
    let head = address.segments()[0];
    if address.is_multicast() {
        Class::Multicast
    } else if head & 0xffc0 == 0xfe80 {
        Class::LinkLocal
    } else if head & 0xfe00 == 0xfc00 || head & 0xffc0 == 0xfec0 {
        Class::UniqueLocal
    } else if head & 0xe000 != 0x2000 || RESERVED_V6.iter().any(|net| net.contains(&address)) {
        // Only 2000::/3 is handed out as global unicast (IANA).
        Class::Reserved
    } else {
        Class::Public
    }
}

/// The IPv4 address that an IPv6 one carries: mapped and compatible (RFC 4291), NAT64 (RFC 6052, RFC 8215),
/// IPv4-translated (RFC 2765), 6to4 (RFC 3056), Teredo (RFC 4380, its client address is stored inverted).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let of = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => of(high, low),
        [0x64, 0xff9b, 1, ..] => of(s[6], s[7]),
        [0x2001, 0, ..] => of(!s[6], !s[7]),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Row 12, and the containers' credential endpoints of ECS and EKS, Tencent's and Scaleway's services.
const METADATA_V4: &[Ipv4Addr] = &[
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(169, 254, 0, 23),
    Ipv4Addr::new(169, 254, 42, 42),
];

/// As [`METADATA_V4`].
const METADATA_V6: &[Ipv6Addr] = &[
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

/// IANA's special-purpose registry, what isn't globally reachable and has no class of its own.
const RESERVED_V4: &[Ipv4Net] = &[
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 31, 196, 0, 24),
    v4(192, 52, 193, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 175, 48, 0, 24),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(240, 0, 0, 0, 4),
];

/// As [`RESERVED_V4`], within 2000::/3: protocol assignments, documentation, ORCHID.
const RESERVED_V6: &[Ipv6Net] = &[v6(0x2001, 0, 0, 23), v6(0x2001, 0xdb8, 0, 32), v6(0x3fff, 0, 0, 20)];

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_have_the_class_of_what_they_reach() {
        let table = [
            ("1.1.1.1", Class::Public),
            ("2606:4700::1111", Class::Public),
            ("127.0.0.1", Class::Loopback),
            ("127.255.255.254", Class::Loopback),
            ("::1", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::127.0.0.1", Class::Loopback),
            ("::ffff:0:127.0.0.1", Class::Loopback),
            ("64:ff9b::7f00:1", Class::Loopback),
            ("64:ff9b:1::7f00:1", Class::Loopback),
            ("2002:7f00:1::", Class::Loopback),
            ("2001:0:1::80ff:fffe", Class::Loopback),
            ("64:ff9b::a9fe:a9fe", Class::Metadata),
            ("2002:a9fe:a9fe::1", Class::Metadata),
            ("::ffff:169.254.169.254", Class::Metadata),
            ("169.254.169.254", Class::Metadata),
            ("100.100.100.200", Class::Metadata),
            ("168.63.129.16", Class::Metadata),
            ("192.0.0.192", Class::Metadata),
            ("169.254.170.2", Class::Metadata),
            ("fd00:ec2::254", Class::Metadata),
            ("fd20:ce::254", Class::Metadata),
            ("169.254.1.1", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("10.96.0.1", Class::Private),
            ("172.31.255.255", Class::Private),
            ("192.168.0.1", Class::Private),
            ("64:ff9b::a00:1", Class::Private),
            ("100.64.0.1", Class::CarrierNat),
            ("100.128.0.1", Class::Public),
            ("fd00::1", Class::UniqueLocal),
            ("fec0::1", Class::UniqueLocal),
            ("0.0.0.0", Class::Unspecified),
            ("0.1.2.3", Class::Unspecified),
            ("::", Class::Unspecified),
            ("::ffff:0.0.0.0", Class::Unspecified),
            ("224.0.0.1", Class::Multicast),
            ("255.255.255.255", Class::Multicast),
            ("ff02::1", Class::Multicast),
            ("203.0.113.1", Class::Reserved),
            ("198.18.0.1", Class::Reserved),
            ("240.0.0.1", Class::Reserved),
            ("2001:db8::1", Class::Reserved),
            ("100::1", Class::Reserved),
            ("64:ff9b::101:101", Class::Public),
        ];
        for (text, class) in table {
            assert_eq!(classify(address(text)), class, "{text}");
        }
    }

    #[test]
    fn a_route_opens_what_it_names_and_nothing_final() {
        let vetting = Vetting {
            cluster: vec!["34.118.224.0/20".parse().expect("a network")],
            own: vec![address("10.0.0.7")],
        };
        let all: Vec<IpNet> = vec![
            "0.0.0.0/0".parse().expect("a network"),
            "::/0".parse().expect("a network"),
        ];
        let ten: Vec<IpNet> = vec!["10.0.0.0/24".parse().expect("a network")];
        let vet = |text: &str, allowed: &[IpNet]| vetting.vet(address(text), allowed);
        assert_eq!(vet("1.1.1.1", &[]), Ok(()));
        assert_eq!(vet("10.0.0.8", &[]), Err(Class::Private));
        assert_eq!(vet("10.0.0.8", &ten), Ok(()));
        assert_eq!(vet("::ffff:10.0.0.8", &ten), Ok(()));
        assert_eq!(vet("64:ff9b::a00:8", &ten), Err(Class::Private));
        assert_eq!(vet("10.0.1.8", &ten), Err(Class::Private));
        assert_eq!(vet("34.118.224.1", &[]), Err(Class::Cluster));
        assert_eq!(vet("34.118.224.1", &all), Ok(()));
        for (text, class) in [
            ("10.0.0.7", Class::Own),
            ("::ffff:10.0.0.7", Class::Own),
            ("169.254.169.254", Class::Metadata),
            ("0.0.0.0", Class::Unspecified),
            ("ff02::1", Class::Multicast),
            ("fd00:ec2::254", Class::Metadata),
        ] {
            assert_eq!(vet(text, &all), Err(class), "{text}");
        }
    }
}
