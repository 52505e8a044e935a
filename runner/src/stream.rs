//! What the harness writes → output frames for the sidecar, and the runner's own output for `kubectl logs`.
//!
//! Nothing is read ahead: when the frames' queue is full the harness blocks on its pipe.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::handoff::{FromRunner, MAX_OUTPUT_BYTES};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::tell::Teller;

/// Carries one stream until its end, or until `cut` is set and nothing is there to be read; gives its last bytes.
pub async fn carry(
    stream: u8,
    mut from: impl AsyncRead + Unpin,
    mut log: impl AsyncWrite + Unpin,
    frames: mpsc::Sender<FromRunner>,
    mut cut: watch::Receiver<bool>,
    teller: Option<&Mutex<Teller>>,
) -> Vec<u8> {
    let mut last = Vec::new();
    let mut piece = vec![0; MAX_OUTPUT_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut piece) => read.unwrap_or(0),
            _ = cut.wait_for(|cut| *cut) => 0,
        };
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else {
            let said = teller.map(|teller| teller.lock().end());
            send(&frames, said.unwrap_or_default()).await;
            return last;
        };
        tee(&mut log, piece).await;
        last.extend_from_slice(piece);
        last.drain(..last.len().saturating_sub(LAST_MAX));
        let frame = FromRunner::Output {
            stream,
            data: BASE64_STANDARD.encode(piece),
        };
        // The line before what it tells.
        let said = teller.map(|teller| teller.lock().read(piece));
        if !send(&frames, [frame].into_iter().chain(said.unwrap_or_default())).await {
            return last;
        }
    }
}

/// The last lines that a stream had, for the session's status.
pub fn last_lines(last: &[u8]) -> String {
    let text = String::from_utf8_lossy(last);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

/// A screenful's end; the whole is in the session's events.
const LAST_MAX: usize = 600;
const LINES_MAX: usize = 5;

/// `false` when nobody takes them any more.
async fn send(frames: &mpsc::Sender<FromRunner>, all: impl IntoIterator<Item = FromRunner>) -> bool {
    for frame in all {
        if frames.send(frame).await.is_err() {
            return false;
        }
    }
    true
}

/// The log is a convenience: that it can't be written stops nothing.
async fn tee(log: &mut (impl AsyncWrite + Unpin), piece: &[u8]) {
    let written = async {
        log.write_all(piece).await?;
        log.flush().await
    };
    if let Err(error) = written.await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the log isn't written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_stops_the_reading() {
        let (mut pipe, from) = tokio::io::duplex(1024);
        let (sender, mut frames) = mpsc::channel(1);
        let (_cut, cut) = watch::channel(false);
        let carried = tokio::spawn(carry(2, from, tokio::io::sink(), sender, cut, None));
        // One frame in the queue, one in hand, one in the pipe; the writer then waits.
        let writing = async { while pipe.write_all(&[b'x'; 1024]).await.is_ok() {} };
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(200), writing)
                .await
                .is_err()
        );
        drop(pipe);
        let mut bytes = 0;
        while let Some(FromRunner::Output { stream, data }) = frames.recv().await {
            assert_eq!(stream, 2);
            bytes += BASE64_STANDARD.decode(data).unwrap().len();
        }
        assert!((1024..=4096).contains(&bytes), "{bytes}");
        carried.await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_ends_a_pipe_that_somebody_holds_open_but_loses_nothing() {
        let (mut pipe, from) = tokio::io::duplex(1024);
        let (sender, mut frames) = mpsc::channel(1);
        let (_keep, cut) = watch::channel(true);
        pipe.write_all(b"last words").await.unwrap();
        carry(1, from, tokio::io::sink(), sender, cut, None).await;
        assert_eq!(
            frames.recv().await,
            Some(FromRunner::Output {
                stream: 1,
                data: BASE64_STANDARD.encode("last words")
            })
        );
    }
}
