//! Pure: the head of an HTTP/1 request, as far as an answer needs it. Nothing is decided by it yet; what can't be
//! read is refused, never guessed.

/// How far a head is.
#[derive(Debug, Eq, PartialEq)]
pub enum Head {
    /// More bytes are needed.
    Incomplete,
    /// It is there; `host` is what the agent names, for people.
    Complete {
        /// Authority of the target, or the `Host` header.
        host: String,
    },
    /// It isn't HTTP/1.
    Nonsense,
}

/// Reads a head from the beginning of a connection.
pub fn parse(bytes: &[u8]) -> Head {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if is_plausible(bytes) {
            Head::Incomplete
        } else {
            Head::Nonsense
        };
    };
    let text = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    text.and_then(host)
        .map_or(Head::Nonsense, |host| Head::Complete { host })
}

/// Whether a connection begins like a request: a method is made of capitals.
pub fn is_plausible(bytes: &[u8]) -> bool {
    let method = bytes
        .iter()
        .take(METHOD_MAX + 1)
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    let ended = bytes.get(method).is_none_or(|byte| *byte == b' ' && method > 0);
    method <= METHOD_MAX && ended
}

fn host(head: &str) -> Option<String> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with("HTTP/1.") || !is_plausible(method.as_bytes()) {
        return None;
    }
    let named = if method == "CONNECT" {
        Some(target)
    } else {
        authority(target)
    };
    let named = named.or_else(|| lines.find_map(header_host)).unwrap_or_default();
    Some(named.chars().take(HOST_MAX).collect())
}

/// Of an absolute-form target, without user information.
fn authority(target: &str) -> Option<&str> {
    let (_, rest) = target.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

fn header_host(line: &str) -> Option<&str> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("host").then_some(value.trim())
}

/// The longest registered method has 17 letters.
const METHOD_MAX: usize = 20;
/// A DNS name and a port.
const HOST_MAX: usize = 260;

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(host: &str) -> Head {
        Head::Complete { host: host.to_owned() }
    }

    #[test]
    fn every_form_of_a_head() {
        let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "h".repeat(1000));
        let cases: [(&str, Head); 14] = [
            (
                "CONNECT api.example.com:443 HTTP/1.1\r\nHost: other\r\n\r\n",
                complete("api.example.com:443"),
            ),
            (
                "GET http://u:p@example.com/x?y HTTP/1.1\r\n\r\n",
                complete("example.com"),
            ),
            ("GET http://example.com?x@y HTTP/1.1\r\n\r\n", complete("example.com")),
            (
                "GET / HTTP/1.0\r\nhOsT:  example.com \r\n\r\nbody",
                complete("example.com"),
            ),
            ("GET / HTTP/1.1\r\n\r\n", complete("")),
            (&long, complete(&"h".repeat(HOST_MAX))),
            ("", Head::Incomplete),
            ("GE", Head::Incomplete),
            ("GET / HTTP/1.1\r\nHost:", Head::Incomplete),
            ("get / HTTP/1.1\r\n\r\n", Head::Nonsense),
            ("GET / x HTTP/1.1\r\n\r\n", Head::Nonsense),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Head::Nonsense),
            ("\u{16}\u{3}\u{1}", Head::Nonsense),
            ("AAAAAAAAAAAAAAAAAAAAAAAAA", Head::Nonsense),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_prefix_of_a_good_head_is_never_nonsense() {
        let head = "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
        for length in 0..head.len() {
            assert_eq!(parse(&head.as_bytes()[..length]), Head::Incomplete, "{length}");
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        let mut state = 1_u32;
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length % 97)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b" \r\n:/@GETCHPx\xff\x00.1"[(state >> 24) as usize % 17]
                })
                .collect();
            parse(&bytes);
        }
    }
}
