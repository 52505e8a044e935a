//! Pure: the message prefixes of gRPC, gRPC-Web and Connect. A compressed message would hide a secret, so it's an
//! error, as is any flag that isn't known.

use http::HeaderMap;

use super::media;

/// A stream of messages that can't be passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Its bytes can't be searched.
    #[error("a message of the response is compressed, though nothing but identity was asked for")]
    Compressed,
    /// Not of the protocol's grammar.
    #[error("a message of the response has unknown flags {0:#04x}")]
    Flags(u8),
    /// The stream ended within a message.
    #[error("the response ends within a message")]
    Truncated,
}

/// Follows the messages of one response: a byte of flags, four of length, and that many more.
#[derive(Debug)]
pub struct Frames {
    /// Flags that may be set.
    known: u8,
    /// How much of the prefix has been read, and the length as far as it has been.
    prefix: usize,
    length: u32,
    /// Bytes of the message that are to come.
    rest: usize,
}

impl Frames {
    /// A checker, if the response is one of these protocols' streams.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let media = media::essence(headers)?;
        let known = if media.starts_with("application/grpc-web") {
            GRPC_WEB_TRAILERS
        } else if media.starts_with("application/grpc") {
            0
        } else if media.starts_with("application/connect+") {
            CONNECT_END
        } else {
            return None;
        };
        Some(Self {
            known,
            prefix: 0,
            length: 0,
            rest: 0,
        })
    }

    /// Looks at the next bytes. Says up to where whole messages reach in them, 0 when none ends here.
    pub fn check(&mut self, mut bytes: &[u8]) -> Result<usize, Error> {
        let (total, mut ended) = (bytes.len(), 0);
        while let Some((&first, after)) = bytes.split_first() {
            if self.rest > 0 {
                let within = self.rest.min(bytes.len());
                self.rest -= within;
                bytes = &bytes[within..];
                if self.rest == 0 {
                    ended = total - bytes.len();
                }
                continue;
            }
            match self.prefix {
                0 => self.check_flags(first)?,
                _ => self.length = self.length << 8 | u32::from(first),
            }
            self.prefix += 1;
            if self.prefix == PREFIX {
                self.rest = self.length as usize;
                self.prefix = 0;
                self.length = 0;
            }
            bytes = after;
        }
        Ok(ended)
    }

    /// At the end of the stream.
    pub fn finish(&self) -> Result<(), Error> {
        if self.prefix == 0 && self.rest == 0 {
            Ok(())
        } else {
            Err(Error::Truncated)
        }
    }

    fn check_flags(&self, flags: u8) -> Result<(), Error> {
        if flags & COMPRESSED != 0 {
            Err(Error::Compressed)
        } else if flags & !self.known != 0 {
            Err(Error::Flags(flags))
        } else {
            Ok(())
        }
    }
}

/// The same bit in all three protocols.
const COMPRESSED: u8 = 0x01;
/// EndStreamResponse, a message of JSON.
const CONNECT_END: u8 = 0x02;
/// Trailers as a message.
const GRPC_WEB_TRAILERS: u8 = 0x80;
/// Flags and a length in network order.
const PREFIX: usize = 5;

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    fn frames(media: &'static str) -> Option<Frames> {
        Frames::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]))
    }

    fn judge(media: &'static str, bytes: &[u8]) -> Result<(), Error> {
        let mut whole = frames(media).unwrap();
        let verdict = whole.check(bytes).and_then(|_ended| whole.finish());
        let mut single = frames(media).unwrap();
        let by_byte = bytes
            .chunks(1)
            .try_for_each(|byte| single.check(byte).map(drop))
            .and_then(|()| single.finish());
        assert_eq!(verdict, by_byte);
        verdict
    }

    #[test]
    fn flags_are_judged_by_protocol() {
        let plain = [0, 0, 0, 0, 2, 1, 1, 0, 0, 0, 0, 0];
        for media in [
            "application/grpc",
            "Application/gRPC+proto; a=b",
            "application/connect+json",
        ] {
            assert_eq!(judge(media, &plain), Ok(()), "{media}");
            assert_eq!(judge(media, &[1, 0, 0, 0, 0]), Err(Error::Compressed), "{media}");
            assert_eq!(judge(media, &[0, 0, 0, 0, 1, 9, 1]), Err(Error::Compressed), "{media}");
            assert_eq!(judge(media, &[0x40, 0, 0, 0, 0]), Err(Error::Flags(0x40)), "{media}");
            assert_eq!(judge(media, &plain[..6]), Err(Error::Truncated), "{media}");
            assert_eq!(judge(media, &plain[..3]), Err(Error::Truncated), "{media}");
        }
        assert_eq!(judge("application/connect+json", &[2, 0, 0, 0, 0]), Ok(()));
        assert_eq!(
            judge("application/connect+json", &[3, 0, 0, 0, 0]),
            Err(Error::Compressed)
        );
        assert_eq!(judge("application/grpc", &[2, 0, 0, 0, 0]), Err(Error::Flags(2)));
        assert_eq!(judge("application/grpc-web+proto", &[0x80, 0, 0, 0, 0]), Ok(()));
        assert_eq!(
            judge("application/grpc-web+proto", &[0x81, 0, 0, 0, 0]),
            Err(Error::Compressed)
        );
    }

    #[test]
    fn other_media_have_no_messages() {
        assert!(frames("application/json").is_none());
        assert!(frames("application/connect").is_none());
    }
}
