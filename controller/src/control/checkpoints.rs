//! One stream's checkpoints: a task that takes steps one after the other, so that a slow database holds up nothing else.
//! What the runner says is checked against what it offered; hashes are computed here.

use std::collections::VecDeque;
use std::sync::Arc;

use berth_protocol::checkpoint::{About, BATCH, CHUNK_MAX, PACKED_MAX};
use berth_protocol::control::checkpoint::Step;
use berth_protocol::control::checkpoint_answer::Answer;
use berth_protocol::control::{
    Checkpoint, CheckpointAnswer, Chunk, Fetch, Finish, Offer, Piece, Taken, ToSidecar, Want, to_sidecar::Message,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::session_link::Link;
use crate::context::Context;
use crate::store::StoreError;
use crate::store::checkpoint::{self, Hash, New, NotKept, Which};
use crate::telemetry::chain;

/// Takes steps of one stream.
pub struct Checkpoints {
    context: Arc<Context>,
    link: Link,
    answers: mpsc::Sender<ToSidecar>,
    under_way: UnderWay,
}

/// The checkpoint that is being taken.
#[derive(Default)]
struct UnderWay {
    number: u64,
    /// Everything that was offered, in order.
    offered: Vec<Hash>,
    /// What is still to be sent of the last offer.
    wanted: VecDeque<Hash>,
    /// What was sent of it.
    sent: Vec<checkpoint::Chunk>,
    /// Bytes that were sent and aren't in a checkpoint yet.
    loose: u64,
}

/// Why a step is refused; the runner begins anew with another checkpoint.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("a step that doesn't follow")]
    OutOfOrder,
    #[error("a chunk that isn't what was offered")]
    NotAsOffered,
    #[error("more than {} MiB", BYTES_MAX >> 20)]
    TooLarge,
    #[error(transparent)]
    NotKept(#[from] NotKept),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::NotKept(error.into())
    }
}

impl Checkpoints {
    /// Serves steps for as long as the stream sends some.
    pub fn begin(context: Arc<Context>, link: Link, answers: mpsc::Sender<ToSidecar>) -> mpsc::Sender<Step> {
        let (sender, mut steps) = mpsc::channel(STEPS);
        let mut this = Self {
            context,
            link,
            answers,
            under_way: UnderWay::default(),
        };
        tokio::spawn(async move {
            while let Some(step) = steps.recv().await {
                let Some(answer) = this.take(step).await else { continue };
                if this.answer(answer).await.is_err() {
                    return;
                }
            }
        });
        sender
    }

    async fn take(&mut self, step: Step) -> Option<Answer> {
        let number = match &step {
            Step::Offer(Offer { number, .. })
            | Step::Chunk(Chunk { number, .. })
            | Step::Finish(Finish { number, .. }) => *number,
            Step::Fetch(fetch) => return Some(Answer::Piece(self.fetch(fetch).await)),
        };
        let taken = match step {
            Step::Offer(offer) => self.offer(offer).await.map(Some),
            Step::Chunk(chunk) => self.chunk(&chunk).await.map(|()| None),
            Step::Finish(finish) => self.finish(&finish).await.map(Some),
            Step::Fetch(_) => Ok(None),
        };
        taken.unwrap_or_else(|refused| {
            let error = chain(&refused);
            tracing::warn!(
                session.namespace = self.link.session.namespace,
                session.name = self.link.session.name,
                error,
                "checkpoint not kept"
            );
            let loose = self.under_way.loose;
            self.under_way = UnderWay {
                loose,
                ..UnderWay::default()
            };
            Some(Answer::Taken(Taken { number, error }))
        })
    }

    async fn offer(&mut self, offer: Offer) -> Result<Answer, Refused> {
        if offer.number != self.under_way.number {
            self.under_way = UnderWay {
                number: offer.number,
                loose: self.under_way.loose,
                ..UnderWay::default()
            };
        }
        let under_way = &mut self.under_way;
        let hashes: Vec<Hash> = offer
            .hashes
            .iter()
            .filter_map(|hash| hash.as_slice().try_into().ok())
            .collect();
        if hashes.len() != offer.hashes.len() || hashes.len() > BATCH || !under_way.wanted.is_empty() {
            return Err(Refused::OutOfOrder);
        }
        if under_way.offered.len() + hashes.len() > CHUNKS_MAX {
            return Err(Refused::TooLarge);
        }
        under_way.offered.extend(&hashes);
        let missing = self
            .context
            .checkpoints
            .missing(&self.link.session_uid, &hashes)
            .await?;
        let wanted = missing.iter().filter_map(|position| hashes.get(*position).copied());
        self.under_way.wanted = wanted.collect();
        Ok(Answer::Want(Want {
            number: offer.number,
            positions: missing
                .iter()
                .filter_map(|position| u32::try_from(*position).ok())
                .collect(),
        }))
    }

    async fn chunk(&mut self, chunk: &Chunk) -> Result<(), Refused> {
        let under_way = &mut self.under_way;
        let wanted = under_way
            .wanted
            .pop_front()
            .filter(|_| chunk.number == under_way.number);
        let wanted = wanted.ok_or(Refused::OutOfOrder)?;
        let bytes = (chunk.data.len() <= PACKED_MAX)
            .then(|| zstd::bulk::decompress(&chunk.data, CHUNK_MAX).ok())
            .flatten()
            .ok_or(Refused::NotAsOffered)?;
        if Sha256::digest(&bytes).as_slice() != wanted {
            return Err(Refused::NotAsOffered);
        }
        under_way.loose += bytes.len() as u64;
        if under_way.loose > BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        under_way.sent.push(checkpoint::Chunk {
            hash: wanted,
            bytes: i32::try_from(bytes.len()).unwrap_or(i32::MAX),
            data: chunk.data.clone(),
        });
        if under_way.wanted.is_empty() {
            let sent = std::mem::take(&mut under_way.sent);
            self.context.checkpoints.put(&self.link.session_uid, &sent).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, finish: &Finish) -> Result<Answer, Refused> {
        let under_way = std::mem::take(&mut self.under_way);
        self.under_way.loose = under_way.loose;
        if finish.number != under_way.number || !under_way.wanted.is_empty() {
            return Err(Refused::OutOfOrder);
        }
        let about: About = serde_json::from_slice(&finish.about).map_err(|_error| Refused::OutOfOrder)?;
        let session = self.context.caches.session(&self.link.session);
        let status = session.and_then(|session| session.status.clone()).unwrap_or_default();
        let new = New {
            session_uid: &self.link.session_uid,
            which: Which {
                incarnation: self.link.incarnation,
                number: i64::try_from(finish.number).unwrap_or(i64::MAX),
            },
            run_id: status.run_id.as_deref().unwrap_or_default(),
            chunks: &under_way.offered,
            about: &about.cut(),
        };
        self.context.checkpoints.keep(&new).await?;
        self.under_way.loose = 0;
        let (number, error) = (finish.number, String::new());
        Ok(Answer::Taken(Taken { number, error }))
    }

    async fn fetch(&self, fetch: &Fetch) -> Piece {
        let (uid, position) = (&self.link.session_uid, fetch.position);
        let found = self
            .context
            .checkpoints
            .chunk(uid, self.link.incarnation, position)
            .await;
        let (data, error) = match found {
            Ok(Some(data)) => (data, String::new()),
            Ok(None) => (vec![], "the checkpoint has no such chunk".to_owned()),
            Err(error) => (vec![], chain(&error)),
        };
        Piece { position, data, error }
    }

    async fn answer(&self, answer: Answer) -> Result<(), mpsc::error::SendError<ToSidecar>> {
        let answer = CheckpointAnswer {
            incarnation: u64::try_from(self.link.incarnation).unwrap_or(0),
            answer: Some(answer),
        };
        let message = ToSidecar {
            epoch: self.context.leadership.epoch(),
            revision: 0,
            message: Some(Message::CheckpointAnswer(answer)),
        };
        self.answers.send(message).await
    }
}

/// Whether a step is of the incarnation that the pod serves.
pub fn step(checkpoint: Checkpoint, link: &Link) -> Option<Step> {
    let ours = i64::try_from(checkpoint.incarnation).ok() == Some(link.incarnation);
    checkpoint.step.filter(|_| ours)
}

/// A batch and what stands around it; a runner waits for the answer before it goes on.
const STEPS: usize = BATCH + 4;
/// What the runner keeps at most (runner/src/checkpoint/gather.rs), and tar's own bytes.
const BYTES_MAX: u64 = 320 << 20;
/// Chunks are 16 KiB at the least, but for the last.
const CHUNKS_MAX: usize = 20_480 + 1;
