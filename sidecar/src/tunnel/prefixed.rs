//! A stream of which some bytes were read already, and that notes when something goes through it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::idle::Activity;

/// The bytes that were read, then the stream.
pub struct Prefixed {
    prefix: Bytes,
    stream: TcpStream,
    activity: Activity,
}

impl Prefixed {
    /// With the bytes that were read.
    pub fn new(prefix: Bytes, stream: TcpStream) -> Self {
        let activity = Activity::default();
        Self {
            prefix,
            stream,
            activity,
        }
    }

    /// When something last went through.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }

    /// The first byte; it stays to be read. `None` at the end of the stream.
    pub async fn first(&self) -> io::Result<Option<u8>> {
        if let Some(byte) = self.prefix.first() {
            return Ok(Some(*byte));
        }
        let mut byte = [0];
        let read = self.stream.peek(&mut byte).await?;
        Ok((read > 0).then_some(byte[0]))
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
            return this.noted(polled);
        }
        let some = this.prefix.len().min(buffer.remaining());
        buffer.put_slice(&this.prefix.split_to(some));
        if !this.prefix.has_remaining() {
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.noted(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.noted(polled)
    }
}
