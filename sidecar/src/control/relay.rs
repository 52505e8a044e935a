//! Steps of checkpoints on their way up, and answers on their way down. The runner has one batch under way at a time, so
//! little waits here; what a connection didn't take goes with it, and the runner begins anew.

use std::collections::VecDeque;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use berth_protocol::checkpoint::{Answer, BATCH, BATCH_BYTES, PACKED_MAX, Restore, Step};
use berth_protocol::control::checkpoint::Step as Up;
use berth_protocol::control::checkpoint_answer::Answer as Down;
use berth_protocol::control::{self, Checkpoint, Chunk, Fetch, Finish, Offer};
use berth_protocol::handoff::ToRunner;

/// What waits.
#[derive(Debug, Default)]
pub struct Relay {
    steps: VecDeque<Checkpoint>,
    /// Of the checkpoint that is being taken.
    number: u64,
    bytes: usize,
    /// Answers, and what people say.
    orders: VecDeque<ToRunner>,
}

/// A step that no runner would take.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoStep {
    /// It can't be read.
    #[error("a step of a checkpoint that can't be read, or is too large")]
    Nonsense,
    /// More than a batch waits.
    #[error("more of a checkpoint than was asked for")]
    Unasked,
}

impl Relay {
    /// A step of the runner's. One that begins something takes the place of what was given up.
    pub fn push(&mut self, incarnation: u64, step: Step) -> Result<(), NoStep> {
        let begins = match &step {
            Step::Offer { number, .. } => *number != std::mem::replace(&mut self.number, *number),
            Step::Fetch { .. } => true,
            Step::Chunk { .. } | Step::Finish { .. } => false,
        };
        if begins {
            self.forget_steps();
        }
        let (step, bytes) = read(step)?;
        if self.steps.len() >= STEPS_MAX || self.bytes + bytes > BYTES_MAX {
            return Err(NoStep::Unasked);
        }
        self.bytes += bytes;
        self.steps.push_back(Checkpoint {
            incarnation,
            step: Some(step),
        });
        Ok(())
    }

    /// The next step for the controller.
    pub fn next_step(&mut self) -> Option<Checkpoint> {
        let step = self.steps.pop_front()?;
        if let Some(Up::Chunk(chunk)) = &step.step {
            self.bytes -= chunk.data.len();
        }
        Some(step)
    }

    /// An answer of the controller's. The runner waits for one; it passes over those that it doesn't wait for.
    pub fn answer(&mut self, answer: control::CheckpointAnswer) {
        if let Some(answer) = answer.answer {
            self.order(ToRunner::Checkpoint(write(answer)));
        }
    }

    /// Something for the runner. One that doesn't read is told no more: it asks again.
    pub fn order(&mut self, order: ToRunner) {
        if self.orders.len() < ORDERS_MAX {
            self.orders.push_back(order);
        }
    }

    /// The next order for the runner.
    pub fn next_order(&mut self) -> Option<ToRunner> {
        self.orders.pop_front()
    }

    /// The control stream is another: nobody there knows what was under way.
    pub fn forget_steps(&mut self) {
        self.steps.clear();
        self.bytes = 0;
    }

    /// The runner's connection is another.
    pub fn forget_orders(&mut self) {
        self.orders.clear();
    }
}

fn read(step: Step) -> Result<(Up, usize), NoStep> {
    Ok(match step {
        Step::Offer { number, hashes } if hashes.len() <= BATCH => {
            let hashes: Option<Vec<Vec<u8>>> = hashes.iter().map(|hash| digest(hash)).collect();
            let hashes = hashes.ok_or(NoStep::Nonsense)?;
            (Up::Offer(Offer { number, hashes }), 0)
        }
        Step::Chunk { number, data } => {
            let data = BASE64_STANDARD.decode(data).map_err(|_error| NoStep::Nonsense)?;
            if data.len() > PACKED_MAX {
                return Err(NoStep::Nonsense);
            }
            let bytes = data.len();
            (Up::Chunk(Chunk { number, data }), bytes)
        }
        Step::Finish { number, about } => {
            let about = serde_json::to_vec(&about.cut()).map_err(|_error| NoStep::Nonsense)?;
            (Up::Finish(Finish { number, about }), 0)
        }
        Step::Fetch { position } => (Up::Fetch(Fetch { position }), 0),
        Step::Offer { .. } => return Err(NoStep::Nonsense),
    })
}

/// A SHA-256.
pub fn digest(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|hash| hash.len() == 32)
}

fn write(answer: Down) -> Answer {
    match answer {
        Down::Want(control::Want { number, positions }) => Answer::Want { number, positions },
        Down::Taken(control::Taken { number, error }) => Answer::Taken { number, error },
        Down::Piece(control::Piece { position, data, error }) => Answer::Piece {
            position,
            data: BASE64_STANDARD.encode(data),
            error,
        },
    }
}

/// What the runner is told to restore.
pub fn restore(restore: control::Restore) -> Restore {
    Restore {
        incarnation: restore.incarnation,
        number: restore.number,
        chunks: restore.chunks,
        bytes: restore.bytes,
        digest: hex::encode(restore.digest),
        conversation: restore.conversation,
        missing: restore.missing,
        input: restore.input,
        working: restore.working,
    }
}

/// A batch, its offer and its end, twice.
const STEPS_MAX: usize = 2 * (BATCH + 2);
/// A batch that can't be compressed is a little more than it was.
const BYTES_MAX: usize = 2 * BATCH_BYTES;
/// The runner waits for one answer and one input at a time.
const ORDERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bytes: usize) -> Step {
        Step::Chunk {
            number: 1,
            data: BASE64_STANDARD.encode(vec![0; bytes]),
        }
    }

    fn offer(number: u64, hashes: usize) -> Step {
        Step::Offer {
            number,
            hashes: vec!["ab".repeat(32); hashes],
        }
    }

    #[test]
    fn a_batch_passes_in_order_and_no_more_than_two_wait() {
        let mut relay = Relay::default();
        relay.push(3, offer(1, BATCH)).unwrap();
        for _ in 0..8 {
            relay.push(3, chunk(256 << 10)).unwrap();
        }
        assert_eq!(relay.push(3, chunk(1)), Err(NoStep::Unasked));
        assert!(matches!(relay.next_step().unwrap().step, Some(Up::Offer(_))));
        let next = relay.next_step().unwrap();
        assert!(matches!(next.step, Some(Up::Chunk(_))) && next.incarnation == 3);
        relay.push(3, chunk(256 << 10)).unwrap();
    }

    #[test]
    fn the_next_offer_of_a_checkpoint_waits_behind_its_chunks() {
        let mut relay = Relay::default();
        relay.push(3, offer(1, 1)).unwrap();
        relay.next_step();
        relay.push(3, chunk(1)).unwrap();
        relay.push(3, offer(1, 1)).unwrap();
        assert!(matches!(relay.next_step().unwrap().step, Some(Up::Chunk(_))));
        assert!(matches!(relay.next_step().unwrap().step, Some(Up::Offer(_))));
    }

    #[test]
    fn a_new_offer_takes_the_place_of_what_was_given_up() {
        let mut relay = Relay::default();
        for _ in 0..8 {
            relay.push(3, chunk(256 << 10)).unwrap();
        }
        relay.push(3, offer(2, 1)).unwrap();
        assert!(matches!(
            relay.next_step().unwrap().step,
            Some(Up::Offer(Offer { number: 2, .. }))
        ));
        assert_eq!((relay.next_step(), relay.bytes), (None, 0));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut relay = Relay::default();
        let mut odd = |step| relay.push(1, step).unwrap_err();
        assert_eq!(odd(offer(1, BATCH + 1)), NoStep::Nonsense);
        assert_eq!(odd(chunk(PACKED_MAX + 1)), NoStep::Nonsense);
        let hashes = vec!["ab".to_owned()];
        assert_eq!(odd(Step::Offer { number: 1, hashes }), NoStep::Nonsense);
        let data = "no base64".to_owned();
        assert_eq!(odd(Step::Chunk { number: 1, data }), NoStep::Nonsense);
    }
}
