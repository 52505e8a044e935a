//! IO: fetches a checkpoint's chunks, writes its files, reads them back and hashes them: what is told is what the disk
//! holds, not what was sent.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::checkpoint::{Answer, CHUNK_MAX, Restore, Step};
use tar::Archive;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::archive;
use super::cut::Cutter;
use super::gather::{Databases, Sources, gather};
use super::take::{ANSWER, Exchange, NotTaken};
use crate::harness::Kept;

/// Why nothing can be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum NotRestored {
    /// The files can't be written.
    #[error("failed to write the files")]
    Files(#[from] io::Error),
    /// A chunk can't be had.
    #[error("chunk {0} can't be had: {1}")]
    Chunk(u32, String),
    /// The sidecar has gone.
    #[error("the sidecar has gone")]
    Gone,
}

/// Restores; gives the SHA-256 of what the disk holds then, in hex.
pub async fn restore(sources: Sources, from: &Restore, exchange: &mut Exchange) -> Result<String, NotRestored> {
    let (sender, pieces) = mpsc::channel(2);
    let roots = [sources.home.clone(), sources.workspace.clone()];
    let keeps = sources.keeps;
    let writing = tokio::task::spawn_blocking(move || {
        forget_logs(&roots[0], keeps)?;
        unpack(Pieces::new(pieces), &roots)
    });
    for position in 0..from.chunks {
        let piece = fetch(position, exchange).await?;
        if sender.send(piece).await.is_err() {
            break; // the writer says why
        }
    }
    drop(sender);
    writing.await.map_err(io::Error::other)??;
    let digest = tokio::task::spawn_blocking(move || digest(&sources));
    Ok(digest.await.map_err(io::Error::other)??)
}

/// What an archive of the files would hash to, nothing running.
pub fn digest(sources: &Sources) -> io::Result<String> {
    let gathered = gather(sources, Databases::AtRest)?;
    let mut cutter = Cutter::new(|_chunk: &[u8]| Ok(()));
    archive::write(&gathered, &mut cutter)?;
    Ok(cutter.finish()?.digest)
}

async fn fetch(position: u32, exchange: &mut Exchange) -> Result<Vec<u8>, NotRestored> {
    let mut why = "nobody answers".to_owned();
    for _ in 0..TRIES {
        match exchange.send(Step::Fetch { position }).await {
            Err(NotTaken::Gone) => return Err(NotRestored::Gone),
            Err(_) => continue,
            Ok(()) => {}
        }
        match timeout(ANSWER, piece(position, exchange)).await {
            Ok(Some((data, error))) if error.is_empty() => {
                let packed = BASE64_STANDARD.decode(data).map_err(io::Error::other)?;
                return Ok(zstd::bulk::decompress(&packed, CHUNK_MAX)?);
            }
            Ok(Some((_, error))) => why = error,
            Ok(None) => return Err(NotRestored::Gone),
            Err(_elapsed) => {}
        }
        sleep(PAUSE).await;
    }
    Err(NotRestored::Chunk(position, why))
}

async fn piece(position: u32, exchange: &mut Exchange) -> Option<(String, String)> {
    loop {
        match exchange.answers.recv().await? {
            Answer::Piece {
                position: found,
                data,
                error,
            } if found == position => return Some((data, error)),
            _ => {}
        }
    }
}

/// A log of the image's own database would be applied to the one that is restored.
fn forget_logs(home: &Path, keeps: &[Kept]) -> io::Result<()> {
    for kept in keeps {
        let Kept::Sqlite(name) = kept else { continue };
        for beside in ["-wal", "-shm"] {
            match fs::remove_file(home.join(format!("{name}{beside}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn unpack(mut pieces: Pieces, roots: &[PathBuf; 2]) -> io::Result<()> {
    for root in roots {
        fs::create_dir_all(root)?;
        let mut tar = Archive::new(&mut pieces);
        tar.set_preserve_permissions(true);
        tar.set_preserve_mtime(true);
        tar.set_overwrite(true);
        for entry in tar.entries()? {
            let mut entry = entry?;
            // Never outside of the root, whatever the archive's names and links are.
            if !entry.unpack_in(root)? {
                let name = entry.path()?.display().to_string();
                return Err(io::Error::other(format!(
                    "{name} would be outside of {}",
                    root.display()
                )));
            }
        }
        // A tar file ends with two blocks of zeros, of which the reader takes one.
        pieces.read_exact(&mut [0; 512])?;
    }
    io::copy(&mut pieces, &mut io::sink()).map(drop)
}

/// Chunks as one stream.
struct Pieces {
    from: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Pieces {
    fn new(from: mpsc::Receiver<Vec<u8>>) -> Self {
        Self {
            from,
            piece: io::Cursor::default(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.piece.read(to)?;
            if read > 0 {
                return Ok(read);
            }
            match self.from.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}

/// Five minutes of a database that is away, or of a controller that changes places.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
