//! What the session spends on models. A request reserves the most that it can cost before it is sent, so that what is spent
//! never exceeds the budget, however many are under way; its answer says what it did cost. One that ends without saying so keeps
//! what it reserved.
//!
//! Only what passes here is counted, by prices that the controller has from the gateway. The sum outlives the sidecar's process.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_protocol::budget::{Budget, Price};
use berth_protocol::money::Pico;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use self::usage::{Reader, Usage};
use crate::audit::Ended;

pub mod usage;

/// Counts.
#[derive(Default)]
pub struct Meter {
    state: Mutex<State>,
    file: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    budget: Option<Budget>,
    /// In this pod.
    spent: Pico,
    reserved: Pico,
    /// The limit that was told to be reached.
    told: Option<Pico>,
}

/// A request that isn't sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unaffordable {
    /// It could cost more than is left.
    #[error(
        "the budget of this session is {limit} USD, of which {taken} are spent or reserved, and this request may cost \
         {most}: raise spec.budget.limit of the AgentSession, or ask for fewer tokens"
    )]
    Exhausted {
        /// The budget.
        limit: Pico,
        /// What is gone.
        taken: Pico,
        /// What it may cost.
        most: Pico,
    },
    /// Nobody knows what it could cost.
    #[error("the gateway has no price for model {0:?}, so that a session with a budget can't use it")]
    NoPrice(String),
}

/// What a request may cost, until its answer says what it did.
pub struct Reservation {
    meter: Arc<Meter>,
    price: Price,
    amount: Pico,
    reader: Option<Reader>,
    /// What the gateway itself says.
    said: Option<Pico>,
    /// Somebody may have had the request.
    sent: bool,
    settled: bool,
    /// Room for its body, until the answer begins.
    room: Option<OwnedSemaphorePermit>,
}

/// What a request has cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// How much.
    pub amount: Pico,
    /// Whether that is the most that it could be.
    pub is_estimate: bool,
}

impl Meter {
    /// With what an earlier process in this pod has counted.
    pub fn kept(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let spent = std::fs::read_to_string(&file).ok();
        let spent = spent.and_then(|spent| spent.trim().parse().ok()).unwrap_or(0);
        Self {
            state: Mutex::new(State {
                spent: Pico(spent),
                ..State::default()
            }),
            file: Some(file),
        }
    }

    /// From now on this holds. Whoever says it may be another leader, who wasn't told that the limit is reached.
    pub fn adopt(&self, budget: Option<Budget>) {
        let mut state = self.state.lock();
        (state.budget, state.told) = (budget, None);
    }

    /// Whether anything is counted at all.
    pub fn is_on(&self) -> bool {
        self.state.lock().budget.is_some()
    }

    /// Whether requests with this credential are counted.
    pub fn counts(&self, credential: &str) -> bool {
        let state = self.state.lock();
        let credentials = state.budget.as_ref().map(|budget| &budget.credentials);
        credentials.is_some_and(|credentials| credentials.iter().any(|counted| counted == credential))
    }

    /// Reserves the most that a request of so many bytes can cost: a token has at least one byte. `answer` is the most tokens
    /// that it asks for.
    pub fn reserve(
        self: &Arc<Self>,
        model: &str,
        bytes: u64,
        answer: Option<u64>,
    ) -> Result<Reservation, Unaffordable> {
        let mut state = self.state.lock();
        let Some(budget) = &state.budget else {
            return Ok(self.reservation(Price::default(), Pico(0))); // taken away meanwhile
        };
        let price = budget.prices.iter().find(|price| price.model == model).cloned();
        let price = price.ok_or_else(|| Unaffordable::NoPrice(model.chars().take(MODEL_MAX).collect()))?;
        let input = price.input.max(price.cache_write).max(price.cache_read).times(bytes);
        let output = price.output.times(answer.unwrap_or(price.output_max));
        let most = input.plus(output);
        let limit = budget.limit;
        let here = state.spent.minus(budget.credit);
        let taken = budget.spent.plus(here).plus(state.reserved);
        if taken.plus(most) > limit {
            return Err(Unaffordable::Exhausted { limit, taken, most });
        }
        state.reserved = state.reserved.plus(most);
        drop(state);
        Ok(self.reservation(price, most))
    }

    fn reservation(self: &Arc<Self>, price: Price, amount: Pico) -> Reservation {
        Reservation {
            meter: Arc::clone(self),
            price,
            amount,
            reader: None,
            said: None,
            sent: false,
            settled: false,
            room: None,
        }
    }

    /// Whether it is new that this limit is reached.
    pub fn is_news(&self, limit: Pico) -> bool {
        self.state.lock().told.replace(limit) != Some(limit)
    }

    fn settle(&self, reserved: Pico, cost: Pico) {
        let mut state = self.state.lock();
        state.reserved = state.reserved.minus(reserved);
        state.spent = state.spent.plus(cost);
        if let Some(file) = &self.file
            && let Err(error) = keep(file, state.spent)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "what was spent isn't kept");
        }
    }
}

/// Whole, or not at all.
fn keep(file: &Path, spent: Pico) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::File::create(&new)?.write_all(spent.0.to_string().as_bytes())?;
    std::fs::rename(&new, file)
}

impl Reservation {
    /// Its body is held meanwhile.
    pub fn holds(&mut self, room: OwnedSemaphorePermit) {
        self.room = Some(room);
    }

    /// The answer begins.
    pub fn answered(&mut self, reader: Option<Reader>, said: Option<Pico>) {
        self.room = None;
        (self.reader, self.said) = (reader, said);
    }

    /// A piece of it.
    pub fn read(&mut self, data: &[u8]) {
        if let Some(reader) = &mut self.reader {
            reader.push(data);
        }
    }

    /// Whether the request leaves, or has left.
    pub fn sends(&mut self, sent: bool) {
        self.sent = sent;
    }

    /// It is over: gives what it has cost.
    pub fn end(mut self, status: u16, ended: Ended) -> Cost {
        let refused = status >= 400 || !self.sent;
        let usage = self.reader.take().and_then(Reader::finish);
        let told = usage.filter(|_| ended == Ended::Complete);
        let known = match (refused, self.said, told) {
            (true, ..) => Some(Pico(0)),
            (_, Some(said), _) => Some(said),
            (_, None, Some(usage)) => Some(cost(&self.price, usage)),
            (_, None, None) => None,
        };
        let cost = Cost {
            amount: known.unwrap_or(self.amount),
            is_estimate: known.is_none(),
        };
        self.settled = true;
        self.meter.settle(self.amount, cost.amount);
        cost
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.settled {
            let cost = if self.sent { self.amount } else { Pico(0) };
            self.meter.settle(self.amount, cost);
        }
    }
}

fn cost(price: &Price, usage: Usage) -> Pico {
    let parts = [
        price.input.times(usage.input),
        price.output.times(usage.output),
        price.cache_read.times(usage.cache_read),
        price.cache_write.times(usage.cache_write),
    ];
    parts.into_iter().sum()
}

/// In `vault-state`, beside the audit trail.
const FILE: &str = "spent";
/// Of a name that the agent chose.
const MODEL_MAX: usize = 64;

#[cfg(test)]
mod tests;
