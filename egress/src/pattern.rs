//! Patterns for hosts, paths and methods. Compared label by label and segment by segment, never as substrings.

use std::fmt;

use http::Method;

use crate::authority::{AuthorityError, Host};
use crate::path::CanonicalPath;

/// Which hosts (row 6). A wildcard matches neither its own apex nor an address.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPattern {
    /// This host.
    Exact(Host),
    /// `*.example.com`: exactly one more label.
    OneLabel(String),
    /// `**.example.com`: one or more labels.
    AnyDepth(String),
}

/// Which paths: `/a/*/b`, `/a/**`.
///
/// `*` is one whole segment that isn't empty. `**` stands last and is one or more segments, which may be empty:
/// `/a/**` matches `/a/` and all below it, but not `/a`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PathPattern {
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Segment {
    Literal(String),
    One,
}

/// Which methods. `TRACE`, `TRACK`, `DEBUG` and `CONNECT` are in no set (row 28).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Methods {
    /// Any but those.
    All,
    /// These.
    Named(Vec<String>),
}

/// Why a pattern is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// A host that can't be parsed.
    #[error("{0}")]
    Host(AuthorityError),
    /// A wildcard in another place than the first label.
    #[error("a wildcard stands alone in the first label, as in *.example.com or **.example.com")]
    Wildcard,
    /// A wildcard over a suffix under which anybody can register names.
    #[error("*.{0} would cover names of many owners: {0} is a public suffix or a shared platform")]
    PublicSuffix(String),
    /// A path that doesn't begin with one `/`.
    #[error("a path pattern begins with '/' and has no '//'")]
    Slash,
    /// A `*` that isn't a whole segment, or a `**` that isn't the last.
    #[error("in a path pattern '*' is a whole segment and '**' the last one")]
    Star,
    /// A character or segment that no canonical path has.
    #[error(
        "a path pattern has visible ASCII characters, no '.' or '..' segment and none of % ? # ; \\ \" < > ^ ` {{ | }}"
    )]
    Path,
    /// A word that is no method in upper case.
    #[error("a method is written in upper-case letters")]
    Method,
    /// A method that is never allowed.
    #[error("TRACE, TRACK, DEBUG and CONNECT are never allowed")]
    ForbiddenMethod,
}

impl HostPattern {
    /// Parses a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (depth, base): (fn(String) -> Self, &str) = if let Some(base) = text.strip_prefix("**.") {
            (Self::AnyDepth, base)
        } else if let Some(base) = text.strip_prefix("*.") {
            (Self::OneLabel, base)
        } else if text.contains('*') {
            return Err(PatternError::Wildcard);
        } else {
            return Host::parse(text).map(Self::Exact).map_err(PatternError::Host);
        };
        if base.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let host = Host::parse(base).map_err(PatternError::Host)?;
        let base = host.name().ok_or(PatternError::Wildcard)?;
        let pattern = depth(base.to_owned());
        if pattern.covers_owners(base) {
            return Err(PatternError::PublicSuffix(base.to_owned()));
        }
        Ok(pattern)
    }

    /// Whether the host is one of those meant.
    pub fn matches(&self, host: &Host) -> bool {
        let below = |base: &str| host.name()?.strip_suffix(base)?.strip_suffix('.');
        match self {
            Self::Exact(exact) => exact == host,
            Self::OneLabel(base) => below(base).is_some_and(|label| !label.is_empty() && !label.contains('.')),
            Self::AnyDepth(base) => below(base).is_some_and(|labels| !labels.is_empty()),
        }
    }

    /// Whether some host matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => pattern.matches(host),
            (Self::OneLabel(one), Self::OneLabel(two)) => one == two,
            (Self::OneLabel(one), Self::AnyDepth(any)) | (Self::AnyDepth(any), Self::OneLabel(one)) => {
                is_or_below(one, any)
            }
            (Self::AnyDepth(one), Self::AnyDepth(two)) => is_or_below(one, two) || is_or_below(two, one),
        }
    }

    /// How narrow it is: an exact host before one label before many, then the longer base.
    pub fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::OneLabel(base) => (1, base.len()),
            Self::AnyDepth(base) => (0, base.len()),
        }
    }

    /// Whether names of many owners match: the base, or what the wildcard puts below it, is a public suffix, or a
    /// platform hands out names there (row 5).
    fn covers_owners(&self, base: &str) -> bool {
        let below = format!("label.{base}");
        let deeper = format!("label.label.{base}");
        let suffix = is_public_suffix(base)
            || is_public_suffix(&below)
            || (matches!(self, Self::AnyDepth(_)) && is_public_suffix(&deeper));
        let shared = |platform: &&str| match self {
            Self::AnyDepth(_) => is_or_below(base, platform) || is_or_below(platform, base),
            Self::Exact(_) | Self::OneLabel(_) => *base == **platform,
        };
        suffix || SHARED_PLATFORMS.iter().any(shared)
    }
}

impl PathPattern {
    /// Parses a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::Slash)?;
        if text.contains("//") {
            return Err(PatternError::Slash);
        }
        let (rest, open) = match rest.strip_suffix("**") {
            Some("") => {
                return Ok(Self {
                    segments: Vec::new(),
                    open: true,
                });
            }
            Some(rest) => (rest.strip_suffix('/').ok_or(PatternError::Star)?, true),
            None => (rest, false),
        };
        let segments = rest.split('/').map(parse_segment).collect::<Result<_, _>>()?;
        Ok(Self { segments, open })
    }

    /// Whether the path is one of those meant. A segment with `%2F` matches no literal, as no literal has a `%`.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let mut rest = path.segments();
        for segment in &self.segments {
            let Some(actual) = rest.next() else { return false };
            let same = match segment {
                Segment::Literal(literal) => literal == actual,
                Segment::One => !actual.is_empty(),
            };
            if !same {
                return false;
            }
        }
        rest.next().is_some() == self.open
    }

    /// Whether some path matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let pairs = self.segments.iter().zip(&other.segments);
        let alike = pairs.into_iter().all(|pair| match pair {
            (Segment::Literal(one), Segment::Literal(two)) => one == two,
            (Segment::Literal(literal), Segment::One) | (Segment::One, Segment::Literal(literal)) => {
                !literal.is_empty()
            }
            (Segment::One, Segment::One) => true,
        });
        let enough = |open: &Self, closed: &Self| open.open && closed.segments.len() > open.segments.len();
        let both_end = self.open == other.open && (self.open || self.segments.len() == other.segments.len());
        alike && (both_end || enough(self, other) || enough(other, self))
    }

    /// Whether every path that it means is one of the other's, for two that end.
    pub fn is_within(&self, other: &Self) -> bool {
        let mut pairs = self.segments.iter().zip(&other.segments);
        let both_end = !self.open && !other.open && self.segments.len() == other.segments.len();
        both_end && pairs.all(|(one, other)| *other == Segment::One || one == other)
    }

    /// How narrow it is: literal segments, then all segments, then whether it ends.
    pub fn specificity(&self) -> (usize, usize, bool) {
        let literals = self.segments.iter().filter(|segment| **segment != Segment::One).count();
        (literals, self.segments.len(), !self.open)
    }
}

impl Methods {
    /// Parses a list; `["*"]` is all.
    pub fn parse(names: &[String]) -> Result<Self, PatternError> {
        if let [only] = names
            && only == "*"
        {
            return Ok(Self::All);
        }
        for name in names {
            if is_forbidden(name) {
                return Err(PatternError::ForbiddenMethod);
            }
            let upper = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
            if name.is_empty() || !name.bytes().all(upper) {
                return Err(PatternError::Method);
            }
        }
        Ok(Self::Named(names.to_vec()))
    }

    /// Whether the method is in the set.
    pub fn contains(&self, method: &Method) -> bool {
        self.includes(method.as_str())
    }

    /// Whether the method of this name is in the set.
    pub fn includes(&self, method: &str) -> bool {
        match self {
            Self::All => !is_forbidden(method),
            Self::Named(names) => names.iter().any(|name| name == method),
        }
    }

    /// Whether some method is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, Self::All) => true,
            (Self::Named(names), other) | (other, Self::Named(names)) => names.iter().any(|name| other.includes(name)),
        }
    }
}

/// Whether the method echoes requests or opens tunnels; compared without case, as some servers do.
pub fn is_forbidden(method: &str) -> bool {
    let forbidden = ["CONNECT", "DEBUG", "TRACE", "TRACK"];
    forbidden.iter().any(|name| name.eq_ignore_ascii_case(method))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(formatter, "{host}"),
            Self::OneLabel(base) => write!(formatter, "*.{base}"),
            Self::AnyDepth(base) => write!(formatter, "**.{base}"),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(formatter, "/{literal}")?,
                Segment::One => formatter.write_str("/*")?,
            }
        }
        formatter.write_str(if self.open { "/**" } else { "" })
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("*"),
            Self::Named(names) => formatter.write_str(&names.join(", ")),
        }
    }
}

fn parse_segment(text: &str) -> Result<Segment, PatternError> {
    if text == "*" {
        return Ok(Segment::One);
    }
    if text.contains('*') {
        return Err(PatternError::Star);
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"%?#;\\\"<>^`{|}".contains(&byte);
    if matches!(text, "." | "..") || !text.bytes().all(plain) {
        return Err(PatternError::Path);
    }
    Ok(Segment::Literal(text.to_owned()))
}

fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == name.as_bytes())
}

fn is_or_below(name: &str, base: &str) -> bool {
    name.strip_suffix(base)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Content networks and storage where each customer has a name below, or is told apart by other means, and that the
/// Public Suffix List doesn't have as such (row 5). Not complete: a wildcard is its author's word for all below it.
const SHARED_PLATFORMS: &[&str] = &[
    "akamaihd.net",
    "akamaized.net",
    "amazonaws.com",
    "azureedge.net",
    "azurefd.net",
    "cdn.cloudflare.net",
    "cloudfront.net",
    "core.windows.net",
    "digitaloceanspaces.com",
    "edgekey.net",
    "edgesuite.net",
    "fastly.net",
    "googleapis.com",
    "googleusercontent.com",
    "r2.cloudflarestorage.com",
    "r2.dev",
    "storage.googleapis.com",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Target;

    fn host(text: &str) -> Host {
        Host::parse(text).expect(text)
    }

    fn path(text: &str) -> CanonicalPath {
        Target::parse(text).expect(text).path
    }

    #[test]
    fn wildcards_match_whole_labels() {
        let table = [
            ("github.com", "github.com", true),
            ("github.com", "GitHub.com.", true),
            ("github.com", "evil-github.com", false),
            ("github.com", "github.com.evil.com", false),
            ("github.com", "a.github.com", false),
            ("*.github.com", "a.github.com", true),
            ("*.github.com", "github.com", false),
            ("*.github.com", "a.b.github.com", false),
            ("*.github.com", "agithub.com", false),
            ("*.github.com", "evil-github.com", false),
            ("**.github.com", "a.github.com", true),
            ("**.github.com", "a.b.github.com", true),
            ("**.github.com", "github.com", false),
            ("**.github.com", "xgithub.com", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("[::1]", "[::1]", true),
        ];
        for (pattern, name, expected) in table {
            let parsed = HostPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(&host(name)), expected, "{pattern} and {name}");
        }
    }

    #[test]
    fn wildcards_over_many_owners_are_refused() {
        for text in [
            "*.com",
            "**.com",
            "*.co.uk",
            "*.github.io",
            "**.github.io",
            "*.cloudfront.net",
            "*.s3.amazonaws.com",
            "**.amazonaws.com",
            "**.us-east-1.amazonaws.com",
            "*.googleapis.com",
            "*.azurewebsites.net",
            "*.blob.core.windows.net",
            "*.herokuapp.com",
            "*.vercel.app",
            "*.pages.dev",
            "*.internal",
            "*.compute.amazonaws.com",
        ] {
            assert!(
                matches!(HostPattern::parse(text), Err(PatternError::PublicSuffix(_))),
                "{text}"
            );
        }
        for text in ["*.github.com", "*.me.github.io", "**.example.com", "*.corp.example.com"] {
            HostPattern::parse(text).expect(text);
        }
    }

    #[test]
    fn wildcards_elsewhere_are_refused() {
        for text in [
            "*",
            "**",
            "a.*.com",
            "a*.example.com",
            "*a.example.com",
            "***.example.com",
            "*.*.example.com",
            "*.1.2.3.4",
            "*.[::1]",
            "*.",
            "",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_match_whole_segments() {
        let table = [
            ("/", "/", true),
            ("/", "/a", false),
            ("/**", "/", true),
            ("/**", "/a//b", true),
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a", "/A", false),
            ("/a/", "/a/", true),
            ("/a/**", "/a", false),
            ("/a/**", "/a/", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab/c", false),
            ("/a/**", "/a//b", true),
            ("/a/*", "/a/", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/", false),
            ("/a/*", "/a/b%2Fc", true),
            ("/a/b/c", "/a/b%2Fc", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a//c", false),
            ("/a/*/c", "/a/b%2Fc", false),
            ("/a/**", "/a%2Fb", false),
            ("/*/**", "/a/", true),
            ("/*/**", "/a", false),
        ];
        for (pattern, text, expected) in table {
            let parsed = PathPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.to_string(), pattern);
            assert_eq!(parsed.matches(&path(text)), expected, "{pattern} and {text}");
        }
    }

    #[test]
    fn path_patterns_that_nothing_would_match_are_refused() {
        for text in [
            "", "a", "*", "//", "/a//b", "/a/**/b", "/a**", "/a*", "/*a", "/a/..", "/./a", "/a%2Fb", "/a?b", "/a#b",
            "/a;b", "/a b", "/ä", "/a\\b", "/{a}", "/***", "/**/",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn methods_that_echo_are_in_no_set() {
        let all = Methods::parse(&["*".to_owned()]).expect("all");
        for name in ["TRACE", "TRACK", "DEBUG", "CONNECT", "trace"] {
            assert!(!all.includes(name), "{name}");
            assert!(Methods::parse(&[name.to_owned()]).is_err(), "{name}");
        }
        assert!(Methods::parse(&["GET".to_owned(), "*".to_owned()]).is_err());
        assert!(Methods::parse(&["get".to_owned()]).is_err());
        assert!(Methods::parse(&["GET".to_owned()]).is_ok_and(|get| !get.includes("HEAD")));
    }
}
