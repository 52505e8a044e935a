//! A URL that Berth itself contacts with a Secret. It is read as strictly as what an agent asks for: the same grammar of
//! hosts, the same canonical path.

use std::fmt;

use berth_egress::authority::{Authority, AuthorityError};
use berth_egress::path::{PathError, Target};

/// Where a Secret is sent: over TLS, to this host and port, as this path.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    /// Host and port.
    pub authority: Authority,
    target: String,
}

/// A URL that no Secret is sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme.
    #[error("it must begin with https://")]
    Scheme,
    /// Its host or port; user names don't belong there either.
    #[error("its host: {0}")]
    Host(AuthorityError),
    /// A metadata service.
    #[error("a metadata service is never contacted")]
    Metadata,
    /// Its path or query.
    #[error("its path: {0}")]
    Path(PathError),
}

impl Endpoint {
    /// Reads an absolute URL.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let rest = url.strip_prefix("https://").ok_or(EndpointError::Scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let authority = Authority::from_host_header(authority, HTTPS).map_err(EndpointError::Host)?;
        if authority.host.is_metadata() {
            return Err(EndpointError::Metadata);
        }
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        let target = Target::parse(&target).map_err(EndpointError::Path)?;
        Ok(Self {
            authority,
            target: match target.query {
                Some(query) => format!("{}?{}", target.path.as_str(), query.as_str()),
                None => target.path.as_str().to_owned(),
            },
        })
    }

    /// Path and query, as they are sent.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The host, as a Secret's owner names it.
    pub fn host(&self) -> String {
        self.authority.host.to_string()
    }

    /// The authority, as a `Host` header names it.
    pub fn host_header(&self) -> String {
        if self.authority.port == HTTPS {
            self.host()
        } else {
            self.authority.to_string()
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "https://{}{}", self.host_header(), self.target)
    }
}

const HTTPS: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_each_is_left() {
        for (url, read) in [
            ("https://login.example.com", "https://login.example.com/"),
            (
                "https://Login.Example.com.:443/token",
                "https://login.example.com/token",
            ),
            (
                "https://login.example.com:8443/a/../token?x=1",
                "https://login.example.com:8443/token?x=1",
            ),
            ("https://login.example.com?x=1", "https://login.example.com/?x=1"),
            ("https://[2001:db8::1]/token", "https://[2001:db8::1]/token"),
        ] {
            assert_eq!(
                Endpoint::parse(url).map(|endpoint| endpoint.to_string()).as_deref(),
                Ok(read)
            );
        }
    }

    #[test]
    fn what_another_parser_could_read_otherwise_is_refused() {
        for url in [
            "http://login.example.com/token",
            "HTTPS://login.example.com/token",
            "//login.example.com/token",
            "https://user@login.example.com/token",
            "https://user:password@login.example.com/token",
            "https://login.example.com\\@evil.example.net/token",
            "https://0x7f.1/token",
            "https://2130706433/token",
            "https://[::ffff:127.0.0.1%25lo]/token",
            "https://metadata.google.internal/token",
            "https://login.example.com/a/%2e%2e%2ftoken",
            "https://login.example.com/token#fragment",
            "https://login.example.com:0/token",
            "https:///token",
        ] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
    }
}
