//! IO: an authority → a connection to it, over TLS that was verified for its name, to an address that was vetted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::{Authority, Host};
use ipnet::IpNet;
use rustls_pki_types::{DnsName, InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::alpn::Alpn;
use crate::identity::{Identity, Roots};
use crate::resolve::{ResolveError, Resolver};
use crate::tls::UpstreamTls;

/// The bytes of an upstream connection.
pub type Leg = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Opens connections.
#[derive(Clone)]
pub struct Dialer {
    resolver: Resolver,
    tls: UpstreamTls,
}

/// What to open.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    /// Where to.
    pub authority: Authority,
    /// Over TLS; never without one for a credential.
    pub tls: bool,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// Ranges that the host's routes name besides public addresses.
    pub addresses: Arc<[IpNet]>,
    /// What the upstream is shown when it asks for the client's certificate.
    pub identity: Option<Arc<Identity>>,
    /// What the upstream is verified with, in place of everything else.
    pub roots: Option<Arc<Roots>>,
}

impl Target {
    /// Over HTTP/1.1, verified as all others are, by nobody in particular.
    pub fn new(authority: Authority, tls: bool, addresses: Vec<IpNet>) -> Self {
        Self {
            authority,
            tls,
            http2: false,
            addresses: addresses.into(),
            identity: None,
            roots: None,
        }
    }
}

/// An open connection.
pub struct Dialed {
    /// Its bytes.
    pub leg: Leg,
    /// What it speaks.
    pub alpn: Alpn,
}

/// A connection that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address for it.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Nothing answers.
    #[error("failed to connect to {authority}")]
    Connect {
        /// Where to.
        authority: Authority,
        /// Of the last address tried.
        source: io::Error,
    },
    /// Something answers that isn't proven to be it.
    #[error("failed to verify {authority}")]
    Verify {
        /// Where to.
        authority: Authority,
        /// Why.
        source: io::Error,
    },
    /// The client's certificate can't be used with it.
    #[error("failed to configure TLS towards {authority}")]
    Tls {
        /// Where to.
        authority: Authority,
        /// Why.
        source: rustls::Error,
    },
    /// A name that certificates can't hold.
    #[error("{authority} can't be verified by TLS")]
    Name {
        /// Where to.
        authority: Authority,
        /// Why.
        source: InvalidDnsNameError,
    },
}

impl Dialer {
    /// With these roots and name servers.
    pub fn new(resolver: Resolver, tls: UpstreamTls) -> Self {
        Self { resolver, tls }
    }

    /// Opens a connection.
    pub async fn dial(&self, target: &Target) -> Result<Dialed, DialError> {
        let authority = &target.authority;
        let addresses = self.resolver.resolve(&authority.host, &target.addresses).await?;
        let stream = connect(authority, &addresses).await?;
        if !target.tls {
            return Ok(Dialed {
                leg: Either::Left(stream),
                alpn: Alpn::Http1,
            });
        }
        let config = self
            .tls
            .config(target.http2, target.identity.as_deref(), target.roots.as_deref());
        let config = config.map_err(|source| DialError::Tls {
            authority: authority.clone(),
            source,
        })?;
        let connector = TlsConnector::from(config);
        let handshake = connector.connect(server_name(authority)?, stream);
        let failed = |source| DialError::Verify {
            authority: authority.clone(),
            source,
        };
        let stream = timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_elapsed| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        let alpn = match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == Alpn::Http2.wire() => Alpn::Http2,
            _ => Alpn::Http1,
        };
        Ok(Dialed {
            leg: Either::Right(Box::new(stream)),
            alpn,
        })
    }
}

/// One address after the other; only vetted ones are here.
async fn connect(authority: &Authority, addresses: &[IpAddr]) -> Result<TcpStream, DialError> {
    let mut last: io::Error = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses.iter().take(TRIES) {
        let address = SocketAddr::new(*address, authority.port);
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|source| DialError::Connect {
                    authority: authority.clone(),
                    source,
                })?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(DialError::Connect {
        authority: authority.clone(),
        source: last,
    })
}

fn server_name(authority: &Authority) -> Result<ServerName<'static>, DialError> {
    Ok(match &authority.host {
        Host::Ipv4(address) => ServerName::IpAddress(IpAddr::from(*address).into()),
        Host::Ipv6(address) => ServerName::IpAddress(IpAddr::from(*address).into()),
        Host::Dns(name) => {
            let name = DnsName::try_from(name.to_string());
            ServerName::DnsName(name.map_err(|source| DialError::Name {
                authority: authority.clone(),
                source,
            })?)
        }
    })
}

/// A region away answers a SYN within 0.3 s; a lost one is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(3);
/// Certificates and two round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of a host's addresses.
const TRIES: usize = 4;
