//! Which addresses a git server may have. It may be in a private network, as most are; a machine's own services, its neighbours on the
//! wire and a cloud's metadata service it never is, whoever names them in a source's URL.

use std::net::{IpAddr, SocketAddr};

use berth_egress::address::{Class, classify};
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// An address that isn't dialled.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the server's address {address} is {class:?}, where no git server is: the chart's gitNetworks may say otherwise"
)]
pub struct OutOfReach {
    address: IpAddr,
    class: Class,
}

/// Passes what a git server may have, and what the install names.
pub fn vet(address: IpAddr, networks: &[IpNet]) -> Result<(), OutOfReach> {
    let class = classify(address);
    let named = !class.is_final() && networks.iter().any(|network| network.contains(&address.to_canonical()));
    let usual = matches!(
        class,
        Class::Public | Class::Private | Class::UniqueLocal | Class::CarrierNat | Class::Cluster
    );
    if usual || named {
        Ok(())
    } else {
        Err(OutOfReach { address, class })
    }
}

/// The address that a URL itself has, which nobody resolves.
pub fn literal(url: &str) -> Option<IpAddr> {
    match url::Url::parse(url).ok()?.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Resolves as the system does, and vets what comes: what was vetted is what is dialled.
pub struct Vetted(pub Vec<IpNet>);

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let networks = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            for address in &found {
                vet(address.ip(), &networks)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_reaches_what_is_the_machines_own() {
        let vetted = |address: &str, networks: &[&str]| {
            let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
            vet(address.parse().unwrap(), &networks).is_ok()
        };
        for usual in ["93.184.216.34", "10.1.2.3", "192.168.1.1", "fd12::1", "2606:2800::1"] {
            assert!(vetted(usual, &[]), "{usual}");
        }
        let never = [
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
        ];
        for address in never {
            assert!(
                !vetted(address, &[]) && !vetted(address, &["0.0.0.0/0", "::/0"]),
                "{address}"
            );
        }
        for address in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "::ffff:127.0.0.1"] {
            assert!(!vetted(address, &[]), "{address}");
        }
        assert!(vetted("127.0.0.1", &["127.0.0.0/8"]));
    }

    #[test]
    fn an_address_in_a_url_is_found_however_it_is_written() {
        for url in [
            "http://127.0.0.1/a",
            "http://2130706433/a",
            "http://0x7f.1/a",
            "http://[::ffff:127.0.0.1]/a",
        ] {
            let address = literal(url).expect(url);
            assert!(vet(address, &[]).is_err(), "{url}");
        }
        assert_eq!(literal("https://git.example.com/a"), None);
    }
}
