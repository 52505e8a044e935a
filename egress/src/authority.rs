//! Host and port, parsed once and strictly. What passes here is the only spelling of that host (rows 3, 7-10).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// A host in its canonical spelling.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Host {
    /// A DNS name of lower-case A-labels, without a trailing dot.
    Dns(DnsName),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
}

/// A DNS name of lower-case A-labels, without a trailing dot; only [`Host::parse`] makes one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DnsName(String);

/// A host and the port on it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Why a host or an authority is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthorityError {
    /// An `xn--` label that IDNA doesn't know as an A-label.
    #[error("a label that begins with xn-- is not valid IDNA")]
    ALabel,
    /// An IPv4 address in another form than four decimal numbers, or a name that some resolver reads as one.
    #[error("an IPv4 address must be written as four decimal numbers without leading zeros")]
    Ipv4,
    /// An IPv6 address in another form than RFC 5952, or with a zone id.
    #[error("an IPv6 address must be written in brackets, in its RFC 5952 form and without a zone")]
    Ipv6,
    /// A label that is empty, too long, or begins or ends with `-`.
    #[error("a label of the host is empty, longer than 63 characters, or begins or ends with '-'")]
    Label,
    /// A host that is empty or longer than 253 characters.
    #[error("the host is empty or longer than 253 characters")]
    Length,
    /// A character outside letters, digits, `-` and `.`.
    #[error("the host has a character other than letters, digits, '-' and '.'; write an international name as xn--")]
    Character,
    /// A port that isn't 1-65535 in plain decimal.
    #[error("the port must be a number from 1 to 65535 without sign or leading zero")]
    Port,
    /// `CONNECT` without a port.
    #[error("CONNECT must name a port")]
    PortMissing,
}

impl Host {
    /// Parses a host; an IPv6 address stands in brackets. One trailing dot of a name is dropped and case is folded.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::Ipv6)?;
            return parse_ipv6(inner).map(Self::Ipv6);
        }
        if text.bytes().any(|byte| !is_host_byte(byte)) {
            return Err(AuthorityError::Character);
        }
        if ends_in_number(text) {
            return parse_ipv4(text).map(Self::Ipv4);
        }
        parse_name(text).map(Self::Dns)
    }

    /// The DNS name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Dns(name) => Some(name.as_str()),
            Self::Ipv4(_) | Self::Ipv6(_) => None,
        }
    }

    /// The address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Dns(_) => None,
            Self::Ipv4(address) => Some(IpAddr::V4(*address)),
            Self::Ipv6(address) => Some(IpAddr::V6(*address)),
        }
    }

    /// Whether it is a name of a cloud's metadata service, which no policy opens (row 12).
    pub fn is_metadata(&self) -> bool {
        self.name().is_some_and(|name| METADATA_NAMES.contains(&name))
    }
}

impl DnsName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Authority {
    /// Parses the target of `CONNECT`, which names a port (RFC 9110 §9.3.6).
    pub fn from_connect(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        let port = port.ok_or(AuthorityError::PortMissing)?;
        Ok(Self {
            host: Host::parse(host)?,
            port: parse_port(port)?,
        })
    }

    /// Whether the text spells this authority exactly as it is written here: then parsing it says nothing new.
    pub(crate) fn is_spelled(&self, text: &str, default_port: u16) -> bool {
        let rest = self.host.name().and_then(|name| text.strip_prefix(name));
        match rest {
            Some("") => self.port == default_port,
            Some(rest) => rest.strip_prefix(':').map(parse_port) == Some(Ok(self.port)),
            None => false,
        }
    }

    /// Parses a `Host` header, an `:authority` or the authority of an absolute target.
    pub fn from_host_header(text: &str, default_port: u16) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        let port = port.map_or(Ok(default_port), parse_port)?;
        if port == 0 {
            return Err(AuthorityError::Port);
        }
        Ok(Self {
            host: Host::parse(host)?,
            port,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(&name.0),
            Self::Ipv4(address) => write!(formatter, "{address}"),
            Self::Ipv6(address) => write!(formatter, "[{address}]"),
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// Splits off the port. Userinfo, paths and all else that doesn't belong stay in the host, which refuses them.
fn split(text: &str) -> Result<(&str, Option<&str>), AuthorityError> {
    if !text.starts_with('[') {
        return Ok(match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        });
    }
    let end = text.find(']').ok_or(AuthorityError::Ipv6)?;
    let (host, rest) = text.split_at(end + 1);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(AuthorityError::Port),
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain).ok_or(AuthorityError::Port)
}

fn parse_ipv6(text: &str) -> Result<Ipv6Addr, AuthorityError> {
    let text = text.to_ascii_lowercase();
    let address: Option<Ipv6Addr> = text.parse().ok();
    address
        .filter(|address| address.to_string() == text)
        .ok_or(AuthorityError::Ipv6)
}

fn parse_ipv4(text: &str) -> Result<Ipv4Addr, AuthorityError> {
    let address: Option<Ipv4Addr> = text.parse().ok();
    address
        .filter(|address| address.to_string() == text)
        .ok_or(AuthorityError::Ipv4)
}

/// Whether `inet_aton` or a URL parser would take the host for an IPv4 address (WHATWG URL, "ends in a number").
fn ends_in_number(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or(text);
    let digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    digits || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn parse_name(text: &str) -> Result<DnsName, AuthorityError> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(AuthorityError::Length);
    }
    name.split('.').try_for_each(check_label)?;
    Ok(DnsName(name))
}

fn check_label(label: &str) -> Result<(), AuthorityError> {
    if label.is_empty() || label.len() > LABEL_MAX || label.starts_with('-') || label.ends_with('-') {
        return Err(AuthorityError::Label);
    }
    if label.starts_with("xn--") && !is_a_label(label) {
        return Err(AuthorityError::ALabel);
    }
    Ok(())
}

/// A valid A-label decodes to a U-label, which encodes to the same A-label again.
fn is_a_label(label: &str) -> bool {
    let idna = Uts46::new();
    let (unicode, valid) = idna.to_unicode(label.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    let back = idna.to_ascii(
        unicode.as_bytes(),
        AsciiDenyList::STD3,
        Hyphens::CheckFirstLast,
        DnsLength::Verify,
    );
    valid.is_ok() && !unicode.is_ascii() && back.is_ok_and(|back| back == label)
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

/// RFC 1035 §2.3.4, without the root label.
const NAME_MAX: usize = 253;
/// RFC 1035 §2.3.4.
const LABEL_MAX: usize = 63;

/// Row 12, and the names that the clouds' own documentation gives for the addresses of that row.
const METADATA_NAMES: &[&str] = &[
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.azure.internal",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.platformequinix.com",
    "metadata.tencentyun.com",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_spelling_is_known_without_parsing() {
        let authority = Authority::from_connect("api.example.com:443").expect("an authority");
        for text in ["api.example.com", "api.example.com:443"] {
            assert!(authority.is_spelled(text, 443), "{text}");
        }
        let others = [
            "api.example.com:",
            "api.example.com:0443",
            "api.example.com:+443",
            "api.example.com:444",
            "api.example.com.evil.example.com",
            "API.example.com",
            "example.com",
            "",
        ];
        for text in others {
            assert!(!authority.is_spelled(text, 443), "{text}");
        }
        assert!(!authority.is_spelled("api.example.com", 80));
    }

    #[test]
    fn one_host_has_one_spelling() {
        let table = [
            ("API.GitHub.com:443", "api.github.com:443"),
            ("api.github.com.:443", "api.github.com:443"),
            ("api.github.com", "api.github.com:443"),
            ("api.github.com:8443", "api.github.com:8443"),
            ("[::1]", "[::1]:443"),
            ("[2001:DB8::1]:80", "[2001:db8::1]:80"),
            ("[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]:443"),
            ("127.0.0.1:443", "127.0.0.1:443"),
            ("xn--bcher-kva.example.com", "xn--bcher-kva.example.com:443"),
            ("XN--BCHER-KVA.example.com", "xn--bcher-kva.example.com:443"),
            ("r3---sn-abc.example.com", "r3---sn-abc.example.com:443"),
            ("0x7f.example.com", "0x7f.example.com:443"),
            ("1.2.example", "1.2.example:443"),
        ];
        for (text, canonical) in table {
            let authority = Authority::from_host_header(text, 443).expect(text);
            assert_eq!(authority.to_string(), canonical);
        }
    }

    #[test]
    fn other_spellings_of_addresses_are_refused() {
        let table = [
            "0x7f.1",
            "0x7f000001",
            "0X7F.0.0.1",
            "0x",
            "2130706433",
            "127.1",
            "127.0.1",
            "127.0.0.01",
            "0127.0.0.1",
            "0177.0.0.1",
            "127.0.0.1.",
            "127.0.0.1.1",
            "256.0.0.1",
            "1.2.3",
            "1.2.3.4.5",
            "example.0x7f",
            "example.1",
            "example.127.",
            "00.0.0.0",
            "[::0001]",
            "[0:0:0:0:0:0:0:1]",
            "[::FFFF:7f00:1]",
            "[::1%25eth0]",
            "[::1%eth0]",
            "[::1",
            "::1",
            "[]",
            "[127.0.0.1]",
            "[::1]x",
            "[v1.a]",
            "[1::2::3]",
            "[64:ff9b::127.0.0.1]",
            "[2001:db8:0::1]",
            "[::ffff:127.0.0.01]",
            "[::ffff:7f00:0001]",
            "[ ::1]",
            "[[::1]]",
        ];
        for text in table {
            assert!(Authority::from_host_header(text, 443).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long_label = format!("{}.example.com", "a".repeat(64));
        let long_name = format!("{}com", "abcdefg.".repeat(32));
        let table = [
            "",
            ".",
            "..",
            "a..b",
            ".example.com",
            "example.com..",
            "-a.example.com",
            "a-.example.com",
            "a_b.example.com",
            "user@example.com",
            "user:pass@example.com",
            "example.com/",
            "example.com#",
            "example.com?",
            "example.com%00",
            "attacker\0.example.com",
            "exa mple.com",
            " example.com",
            "example.com ",
            "example.com\r\n",
            "a\\b.example.com",
            "аpi.github.com",
            "bücher.example.com",
            "exam%70le.com",
            "*.example.com",
            "xn--.example.com",
            "xn--a.example.com",
            "xn--abc.example.com",
            "xn--example-.com",
            "example。com",
            "example.com\u{ff0e}",
            &long_label,
            &long_name,
        ];
        for text in table {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_plain_numbers() {
        for port in [
            "",
            "0",
            "00",
            "0443",
            "+443",
            "-1",
            "65536",
            "443 ",
            " 443",
            "0x1bb",
            "44a",
            "443:443",
            "99999999999",
        ] {
            let text = format!("example.com:{port}");
            assert_eq!(Authority::from_connect(&text), Err(AuthorityError::Port), "{text}");
        }
        assert_eq!(Authority::from_connect("example.com"), Err(AuthorityError::PortMissing));
        assert_eq!(Authority::from_connect("[::1]"), Err(AuthorityError::PortMissing));
    }
}
