//! AGENT → TUNNEL. What an accepted connection leads to: a `CONNECT` or a plain request on the proxy's port
//! ([`connect`]), TLS that names its host on the transparent one ([`transparent`]). The agent's TLS ends here ([`tls`])
//! with a certificate for the tunnel's host and no other ([`leaf`], [`ca`]); each request inside goes to
//! [`crate::exchange`]. Where a route says so TLS passes through unread ([`passthrough`]).

use std::sync::Arc;

use berth_egress::authority::Authority;
use berth_outbound::dial::Target;

use ipnet::IpNet;

use self::leaf::Alpn;

pub mod ca;
pub mod leaf;

pub mod connect;
pub mod container;
pub mod transparent;

pub mod tls;

pub mod passthrough;

pub mod idle;
pub mod prefixed;

pub mod serve;

/// What every request of a tunnel shares.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The one host and port that its requests may name.
    pub authority: Authority,
    /// Whether the agent's leg is TLS. Without it nothing may be exchanged.
    pub tls: bool,
    /// Where its requests go.
    pub target: Arc<Target>,
}

impl Tunnel {
    /// To an authority whose routes name these ranges.
    pub fn new(authority: Authority, tls: bool, addresses: Vec<IpNet>) -> Self {
        let target = Target::new(authority.clone(), tls, addresses);
        Self {
            authority,
            tls,
            target: Arc::new(target),
        }
    }

    /// Once it is known what both legs speak.
    fn speaking(self, alpn: Alpn) -> Self {
        let target = Target {
            http2: alpn == Alpn::Http2,
            ..Target::clone(&self.target)
        };
        Self {
            target: Arc::new(target),
            ..self
        }
    }

    /// The port that an authority without one means.
    pub fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }

    /// The authority, as a `Host` header names it.
    pub fn host_header(&self) -> String {
        if self.authority.port == self.default_port() {
            self.authority.host.to_string()
        } else {
            self.authority.to_string()
        }
    }
}
