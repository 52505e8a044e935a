//! IO: the body of a push in a file without a name, which is gone when nobody holds it any more. Memory is for a few
//! frames.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use futures::stream;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::Fault;

/// The body of a push from its file.
pub type Held = UnsyncBoxBody<Bytes, io::Error>;

/// A push, all of it.
pub struct Spooled {
    file: tokio::fs::File,
    /// Its bytes, decoded.
    pub length: u64,
    /// Whether bytes beyond the bound were dropped: then it's good for reading the commands only.
    pub too_large: bool,
    room: Arc<OwnedSemaphorePermit>,
}

/// A push that can't be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file.
    #[error("the push can't be spooled")]
    File(#[source] io::Error),
    /// The agent's side.
    #[error("the push ended before its end")]
    Body(#[source] Fault),
    /// Its content coding.
    #[error("the push isn't in the coding that it names")]
    Coding(#[source] io::Error),
    /// Another coding than gzip, which alone git uses.
    #[error("the push has a content coding other than gzip")]
    Unknown,
    /// Far beyond the bound; nobody waits for its end.
    #[error("the push is far beyond the bound of {} MiB", .0 >> 20)]
    Endless(u64),
}

/// Reads a body to its end.
pub async fn spool<B>(
    directory: &Path,
    max: u64,
    headers: &HeaderMap,
    mut body: B,
    permit: OwnedSemaphorePermit,
) -> Result<Spooled, SpoolError>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    let mut coding = Coding::of(headers)?;
    let file = tempfile::tempfile_in(directory).map_err(SpoolError::File)?;
    let mut spooled = Spooled {
        file: tokio::fs::File::from_std(file),
        length: 0,
        too_large: false,
        room: Arc::new(permit),
    };
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| SpoolError::Body(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len() as u64;
        if read > max.saturating_mul(DRAIN) {
            return Err(SpoolError::Endless(max));
        }
        // A frame at a time, and no more of one that unfolds: what is beyond the bound is dropped.
        for part in data.chunks(PART) {
            if spooled.too_large {
                break; // the rest is only waited for, so that the agent hears why
            }
            spooled.write(coding.decode(part)?, max).await?;
        }
    }
    if !spooled.too_large {
        spooled.write(coding.finish()?, max).await?;
    }
    spooled.file.flush().await.map_err(SpoolError::File)?;
    Ok(spooled)
}

impl Spooled {
    async fn write(&mut self, data: Bytes, max: u64) -> Result<(), SpoolError> {
        let room = usize::try_from(max - self.length).unwrap_or(usize::MAX);
        self.too_large |= data.len() > room;
        let data = &data[..data.len().min(room)];
        self.length += data.len() as u64;
        self.file.write_all(data).await.map_err(SpoolError::File)
    }

    /// The same file for a blocking reader.
    pub async fn reader(&self) -> Result<File, SpoolError> {
        let file = self.file.try_clone().await.map_err(SpoolError::File)?;
        Ok(file.into_std().await)
    }

    /// What keeps other pushes out; for whoever may outlive this.
    pub fn room(&self) -> Arc<OwnedSemaphorePermit> {
        Arc::clone(&self.room)
    }

    /// What was spooled, to be sent.
    pub async fn into_body(mut self) -> Result<Held, SpoolError> {
        self.file.rewind().await.map_err(SpoolError::File)?;
        let frames = stream::try_unfold(self, |mut spooled| async move {
            let mut part = BytesMut::with_capacity(PART);
            let count = spooled.file.read_buf(&mut part).await?;
            Ok::<_, io::Error>((count > 0).then(|| (Frame::data(part.freeze()), spooled)))
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }
}

/// Of the body as it comes.
enum Coding {
    Identity,
    Gzip(Box<GzDecoder<Vec<u8>>>),
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, SpoolError> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
            (None, _) => Ok(Self::Identity),
            (Some(b"gzip" | b"x-gzip"), None) => Ok(Self::Gzip(Box::new(GzDecoder::new(Vec::new())))),
            _ => Err(SpoolError::Unknown),
        }
    }

    /// What `PART` bytes unfold to is at most 1032 times as much (deflate's bound), 16 MiB.
    fn decode(&mut self, data: &[u8]) -> Result<Bytes, SpoolError> {
        match self {
            Self::Identity => Ok(Bytes::copy_from_slice(data)),
            Self::Gzip(decoder) => {
                // Bytes after the end are an error here: nobody can say what another reader makes of them.
                decoder.write_all(data).map_err(SpoolError::Coding)?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }

    fn finish(self) -> Result<Bytes, SpoolError> {
        match self {
            Self::Identity => Ok(Bytes::new()),
            Self::Gzip(decoder) => Ok(decoder.finish().map_err(SpoolError::Coding)?.into()),
        }
    }
}

/// Read, decoded and sent at once.
const PART: usize = 16 << 10;
/// How many times the bound is waited for.
const DRAIN: u64 = 4;
