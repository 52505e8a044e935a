//! Pure: which messages still count. A former leader that was paused and wakes up must change nothing (DESIGN §2).

use serde::{Deserialize, Serialize};

/// The highest epoch and, within it, the highest revision seen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Gate {
    /// The Lease's transition count.
    pub epoch: u64,
    /// Of the last message that changed something.
    pub revision: u64,
}

/// Why a message doesn't count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Stale {
    /// An earlier leader's.
    #[error("epoch {found} is over: a leader of epoch {seen} has spoken")]
    Epoch {
        /// In the message.
        found: u64,
        /// Highest seen.
        seen: u64,
    },
    /// Said before.
    #[error("revision {found} isn't new: revision {seen} of the same epoch was seen")]
    Revision {
        /// In the message.
        found: u64,
        /// Highest seen.
        seen: u64,
    },
}

/// Whether a message changes what the sidecar holds. Those that don't carry revision 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weight {
    /// `Assignment`, `Start`, `Suspend`.
    Changing,
    /// `Welcome`, `EventAck`.
    Plain,
}

impl Gate {
    /// Lets a message through and remembers it, or says why not.
    pub fn admit(&mut self, epoch: u64, revision: u64, weight: Weight) -> Result<(), Stale> {
        if epoch < self.epoch {
            return Err(Stale::Epoch {
                found: epoch,
                seen: self.epoch,
            });
        }
        let seen = if epoch > self.epoch { 0 } else { self.revision };
        if weight == Weight::Changing && revision <= seen {
            return Err(Stale::Revision { found: revision, seen });
        }
        self.epoch = epoch;
        self.revision = if weight == Weight::Changing { revision } else { seen };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Weight::{Changing, Plain};
    use super::*;

    fn at(epoch: u64, revision: u64) -> Gate {
        Gate { epoch, revision }
    }

    #[test]
    fn every_case_of_the_rule() {
        let cases = [
            // seen, message, what is seen afterwards; None: refused
            (at(0, 0), (1, 0, Plain), Some(at(1, 0))),
            (at(0, 0), (0, 1, Changing), Some(at(0, 1))),
            (at(2, 7), (2, 8, Changing), Some(at(2, 8))),
            (at(2, 7), (2, 20, Changing), Some(at(2, 20))),
            (at(2, 7), (2, 7, Changing), None),
            (at(2, 7), (2, 1, Changing), None),
            (at(2, 7), (2, 0, Plain), Some(at(2, 7))),
            (at(2, 7), (1, 0, Plain), None),
            (at(2, 7), (1, 99, Changing), None),
            (at(2, 7), (3, 1, Changing), Some(at(3, 1))),
            (at(2, 7), (3, 0, Changing), None),
            (at(2, 7), (3, 0, Plain), Some(at(3, 0))),
        ];
        for (seen, (epoch, revision, weight), expected) in cases {
            let mut gate = seen;
            let admitted = gate.admit(epoch, revision, weight).is_ok();
            assert_eq!(
                admitted.then_some(gate),
                expected,
                "{seen:?} {epoch} {revision} {weight:?}"
            );
            assert!(admitted || gate == seen, "a refused message leaves no trace");
        }
    }

    #[test]
    fn after_a_plain_message_of_a_new_epoch_the_old_leader_is_refused() {
        let mut gate = at(2, 7);
        gate.admit(3, 0, Plain).unwrap();
        assert_eq!(gate.admit(2, 8, Changing), Err(Stale::Epoch { found: 2, seen: 3 }));
        gate.admit(3, 1, Changing).unwrap();
    }
}
