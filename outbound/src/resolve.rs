//! IO: a host → the addresses that may be dialled. Every answer is vetted, and one that may not be dialled refuses the
//! name: an attacker's name may not hide one private address among public ones.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use berth_egress::address::{Class, Vetting};
use berth_egress::authority::Host;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver as Hickory, TokioResolver, system_conf};
use ipnet::IpNet;

/// Finds and vets addresses.
#[derive(Clone)]
pub struct Resolver {
    dns: TokioResolver,
    /// Names that are answered here, as curl's `--resolve` does; they are vetted like all others.
    fixed: HashMap<Host, IpAddr>,
    vetting: Vetting,
}

/// A host that can't be dialled.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers don't say.
    #[error("failed to resolve {host}")]
    Dns {
        /// Which.
        host: Host,
        /// Why.
        source: Box<NetError>,
    },
    /// They say that it has no address.
    #[error("{host} has no address")]
    Nothing {
        /// Which.
        host: Host,
    },
    /// One of its addresses may not be dialled.
    #[error("{host} has an address that is {class:?}, and no route names its range")]
    Refused {
        /// Which.
        host: Host,
        /// Of the address.
        class: Class,
    },
}

impl Resolver {
    /// Asks the machine's name servers, without its search list: `api.example.com` is that and nothing below it.
    pub fn new(fixed: HashMap<Host, IpAddr>, vetting: Vetting) -> Result<Self, NetError> {
        Self::asking(&[], fixed, vetting)
    }

    /// Asks these name servers; the machine's when there are none.
    pub fn asking(servers: &[SocketAddr], fixed: HashMap<Host, IpAddr>, vetting: Vetting) -> Result<Self, NetError> {
        let (machine, mut options) = system_conf::read_system_conf()?;
        let servers = match servers {
            [] => machine.name_servers().to_vec(),
            named => named.iter().map(name_server).collect(),
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = TIMEOUT;
        options.attempts = 1; // after the first
        options.cache_size = CACHE;
        options.positive_max_ttl = Some(TTL_MAX);
        options.negative_max_ttl = Some(TTL_MAX_NEGATIVE);
        let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self {
            dns: builder.build()?,
            fixed,
            vetting,
        })
    }

    /// Addresses of a host, all of them vetted; `allowed` are the ranges that a route of this host names.
    pub async fn resolve(&self, host: &Host, allowed: &[IpNet]) -> Result<Vec<IpAddr>, ResolveError> {
        let addresses = self.addresses(host).await?;
        for address in &addresses {
            self.vet(*address, allowed).map_err(|class| ResolveError::Refused {
                host: host.clone(),
                class,
            })?;
        }
        if addresses.is_empty() {
            return Err(ResolveError::Nothing { host: host.clone() });
        }
        Ok(addresses)
    }

    fn vet(&self, address: IpAddr, allowed: &[IpNet]) -> Result<(), Class> {
        self.vetting.vet(address, allowed)?;
        if is_own(address) { Err(Class::Own) } else { Ok(()) }
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(address) = self.fixed.get(host) {
            return Ok(vec![*address]);
        }
        match host {
            Host::Ipv4(address) => Ok(vec![(*address).into()]),
            Host::Ipv6(address) => Ok(vec![(*address).into()]),
            Host::Dns(name) => {
                let found = self.dns.lookup_ip(format!("{name}.")).await;
                let found = found.map_err(|source| ResolveError::Dns {
                    host: host.clone(),
                    source: Box::new(source),
                })?;
                Ok(found.iter().take(ADDRESSES_MAX).collect())
            }
        }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Whether the pod itself has the address: then a socket can be bound to it (research/vault-proxy.md §2.1, row 13). Asked
/// anew each time, since addresses come and go. Loopback, where it can always be bound, is a class of its own.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_loopback() && UdpSocket::bind((address, 0)).is_ok()
}

/// A name server of the cluster answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Answers; a session talks to dozens of hosts.
const CACHE: u64 = 512;
/// A pinned pool key may not outlive a change of address for longer.
const TTL_MAX: Duration = Duration::from_mins(5);
/// A host that has just been created is found soon.
const TTL_MAX_NEGATIVE: Duration = Duration::from_secs(5);
/// More are never tried.
const ADDRESSES_MAX: usize = 16;
