//! IO: takes one checkpoint. A thread reads and cuts, a batch at a time; the exchange with the controller sets its pace.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::checkpoint::{About, Answer, BATCH, BATCH_BYTES, Step};
use berth_protocol::handoff::FromRunner;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::archive;
use super::cut::Cutter;
use super::gather::{Databases, Sources, gather};

/// Why there is no checkpoint; the next one may be.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// The files can't be read.
    #[error("failed to read the files")]
    Files(#[from] io::Error),
    /// The sidecar has gone.
    #[error("the sidecar doesn't take it")]
    Gone,
    /// Nobody answered.
    #[error("no answer within {}s", ANSWER.as_secs())]
    Late,
    /// The controller doesn't keep it.
    #[error("refused: {0}")]
    Refused(String),
}

/// How far the session is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// The program's own id of its conversation; empty when it has none.
    pub conversation: String,
    /// The last input that the harness was given; 0 for the prompt alone.
    pub input: u64,
    /// Whether it is at work on that.
    pub working: bool,
}

/// The way to the controller and back.
#[derive(Debug)]
pub struct Exchange {
    /// Steps, to the sidecar.
    pub steps: mpsc::Sender<FromRunner>,
    /// Answers.
    pub answers: mpsc::Receiver<Answer>,
}

/// Chunks that are offered together.
type Batch = Vec<Vec<u8>>;

/// Takes checkpoint `number`.
pub async fn take(sources: Sources, number: u64, place: Place, exchange: &mut Exchange) -> Result<About, NotTaken> {
    let (sender, mut batches) = mpsc::channel(1);
    let making = tokio::task::spawn_blocking(move || make(&sources, place, &sender));
    while let Some(batch) = batches.recv().await {
        offer(number, batch, exchange).await?;
    }
    let about = making
        .await
        .map_err(|error| NotTaken::Files(io::Error::other(error)))??;
    let finish = Step::Finish {
        number,
        about: about.clone(),
    };
    exchange.send(finish).await?;
    match exchange.answer(number).await? {
        Answer::Taken { error, .. } if !error.is_empty() => Err(NotTaken::Refused(error)),
        _ => Ok(about),
    }
}

fn make(sources: &Sources, place: Place, batches: &mpsc::Sender<Batch>) -> io::Result<About> {
    let gathered = gather(sources, Databases::Copied)?;
    let (mut batch, mut bytes) = (Batch::new(), 0);
    let send = |batch: Batch| {
        batches
            .blocking_send(batch)
            .map_err(|_closed| io::Error::other("given up"))
    };
    let mut cutter = Cutter::new(|chunk: &[u8]| {
        if batch.len() == BATCH || bytes + chunk.len() > BATCH_BYTES {
            bytes = 0;
            send(std::mem::take(&mut batch))?;
        }
        bytes += chunk.len();
        batch.push(chunk.to_vec());
        Ok(())
    });
    archive::write(&gathered, &mut cutter)?;
    let whole = cutter.finish()?;
    send(batch)?;
    let transcript = sources.keeps.is_empty() || !gathered.roots[0].is_empty();
    Ok(About {
        digest: whole.digest,
        bytes: whole.bytes,
        files: gathered.files(),
        workspace: gathered.roots[1].len() as u64,
        conversation: if transcript { place.conversation } else { String::new() },
        input: place.input,
        working: place.working,
        transcript,
        missing: gathered.missing,
        missing_count: gathered.missing_count,
    })
}

async fn offer(number: u64, batch: Batch, exchange: &mut Exchange) -> Result<(), NotTaken> {
    let hashes = batch.iter().map(|chunk| hex::encode(Sha256::digest(chunk))).collect();
    exchange.send(Step::Offer { number, hashes }).await?;
    let positions = match exchange.answer(number).await? {
        Answer::Want { positions, .. } => positions,
        Answer::Taken { error, .. } => return Err(NotTaken::Refused(error)),
        Answer::Piece { .. } => return Ok(()),
    };
    for position in positions {
        let chunk = usize::try_from(position).ok().and_then(|position| batch.get(position));
        let chunk = chunk.ok_or_else(|| NotTaken::Refused("a chunk is wanted that wasn't offered".to_owned()))?;
        let data = BASE64_STANDARD.encode(zstd::bulk::compress(chunk, LEVEL)?);
        exchange.send(Step::Chunk { number, data }).await?;
    }
    Ok(())
}

impl Exchange {
    /// Sends a step.
    pub async fn send(&self, step: Step) -> Result<(), NotTaken> {
        let sent = timeout(ANSWER, self.steps.send(FromRunner::Checkpoint(step))).await;
        sent.map_err(|_elapsed| NotTaken::Late)?
            .map_err(|_closed| NotTaken::Gone)
    }

    /// The answer for this checkpoint; those for earlier ones, which were given up, are passed over.
    async fn answer(&mut self, number: u64) -> Result<Answer, NotTaken> {
        let ours = async {
            while let Some(answer) = self.answers.recv().await {
                match &answer {
                    Answer::Want { number: of, .. } | Answer::Taken { number: of, .. } if *of == number => {
                        return Ok(answer);
                    }
                    _ => {}
                }
            }
            Err(NotTaken::Gone)
        };
        timeout(ANSWER, ours).await.map_err(|_elapsed| NotTaken::Late)?
    }
}

/// A batch is a query and an insert of 1 MiB; a controller that changes places is back in 10 s.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// zstd's own default.
const LEVEL: i32 = 3;
