//! What a connection speaks.

/// A protocol of HTTP, as a handshake names it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Alpn {
    /// As it is written in a handshake.
    pub fn wire(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}
