//! AGENT → TUNNEL. What an accepted connection leads to: a `CONNECT` or a plain request on the proxy's port
//! ([`connect`]), TLS that names its host on the transparent one ([`transparent`]). The agent's TLS ends here ([`tls`])
//! with a certificate for the tunnel's host and no other ([`leaf`], [`ca`]); each request inside goes to
//! [`crate::exchange`]. Where a route says so TLS passes through unread ([`passthrough`]).

use std::sync::Arc;

use berth_egress::authority::Authority;
use berth_outbound::dial::Target;
use http::HeaderValue;
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
    /// The authority, as a `Host` header names it: every request of the tunnel is sent with it.
    pub host: HeaderValue,
}

impl Tunnel {
    /// To an authority whose routes name these ranges.
    pub fn new(authority: Authority, tls: bool, addresses: Vec<IpNet>) -> Self {
        let target = Target::new(authority.clone(), tls, addresses);
        Self {
            host: host_header(&authority, tls),
            authority,
            tls,
            target: Arc::new(target),
        }
    }

    /// What [`Self::host`] says.
    pub fn host_text(&self) -> &str {
        self.host.to_str().unwrap_or_default()
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
        default_port(self.tls)
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn host_header(authority: &Authority, tls: bool) -> HeaderValue {
    let text = if authority.port == default_port(tls) {
        authority.host.to_string()
    } else {
        authority.to_string()
    };
    // A canonical host is letters, digits, dots, hyphens and brackets: an upstream refuses a request without one.
    HeaderValue::try_from(text).unwrap_or_else(|_unsendable| HeaderValue::from_static(""))
}
