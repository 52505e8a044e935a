//! A queue of keys to look at: each at most once at a time, again if it was poked meanwhile, later if asked.
//!
//! A poke says "look again" and carries nothing else (DESIGN §1.2). The number of waiting keys is bounded by the
//! number of objects, since a key waits at most once.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

/// A key that can be queued.
pub trait Key: Clone + Eq + Hash + Send + Sync + 'static {}
impl<K: Clone + Eq + Hash + Send + Sync + 'static> Key for K {}

/// Asks for keys to be looked at. Cheap to clone.
pub struct Pokes<K> {
    inner: Arc<Mutex<HashMap<K, Duration>>>,
    wake: Arc<Notify>,
}

impl<K> Clone for Pokes<K> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            wake: Arc::clone(&self.wake),
        }
    }
}

impl<K> Default for Pokes<K> {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            wake: Arc::default(),
        }
    }
}

impl<K: Key> Pokes<K> {
    /// Look at this key now.
    pub fn poke(&self, key: K) {
        self.poke_after(key, Duration::ZERO);
    }

    /// Look at this key after a while, unless it is looked at before.
    pub fn poke_after(&self, key: K, wait: Duration) {
        let mut inner = self.inner.lock();
        let before = inner.entry(key).or_insert(wait);
        *before = wait.min(*before);
        drop(inner);
        self.wake.notify_one();
    }

    fn take(&self) -> HashMap<K, Duration> {
        std::mem::take(&mut self.inner.lock())
    }
}

/// How a look ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Nothing more until a poke.
    Done,
    /// Again after this long.
    Again(Duration),
    /// It failed; again after a wait that doubles each time.
    Failed,
}

/// Looks at poked keys, at most `concurrency` at a time, until cancelled; then waits for the looks under way.
pub async fn run<K, F>(pokes: Pokes<K>, concurrency: usize, cancel: CancellationToken, look: impl Fn(K) -> F)
where
    K: Key,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut queue = Queue {
        waiting: DelayQueue::new(),
        states: HashMap::new(),
    };
    let permits = Arc::new(Semaphore::new(concurrency));
    let mut running = JoinSet::new();
    loop {
        for (key, wait) in pokes.take() {
            queue.poke(key, wait);
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            () = pokes.wake.notified() => {}
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Ok((key, outcome)) = ended {
                    queue.ended(key, outcome);
                }
            }
            Some(key) = queue.waiting.next(), if permits.available_permits() > 0 => {
                let key: K = key.into_inner();
                queue.begin(&key);
                let permit = Arc::clone(&permits).acquire_owned().await;
                let work = look(key.clone());
                running.spawn(async move {
                    let _permit = permit;
                    // A look that panics fails like any other: its key is looked at again, and no other notices.
                    let outcome = AssertUnwindSafe(work).catch_unwind().await;
                    (key, outcome.unwrap_or(Outcome::Failed))
                });
            }
        }
    }
    while running.join_next().await.is_some() {}
}

struct Queue<K> {
    waiting: DelayQueue<K>,
    states: HashMap<K, State>,
}

struct State {
    waits: Option<(delay_queue::Key, Instant)>,
    runs: bool,
    again: Option<Duration>,
    failures: u32,
}

impl<K: Key> Queue<K> {
    fn poke(&mut self, key: K, wait: Duration) {
        let due = Instant::now() + wait.min(WAIT_MAX);
        let state = self.states.entry(key.clone()).or_insert(State {
            waits: None,
            runs: false,
            again: None,
            failures: 0,
        });
        match &mut state.waits {
            _ if state.runs => state.again = Some(state.again.map_or(wait, |before| before.min(wait))),
            Some((_, at)) if *at <= due => {}
            Some((slot, at)) => {
                self.waiting.reset_at(slot, due);
                *at = due;
            }
            None => state.waits = Some((self.waiting.insert_at(key, due), due)),
        }
    }

    fn begin(&mut self, key: &K) {
        if let Some(state) = self.states.get_mut(key) {
            state.waits = None;
            state.runs = true;
        }
    }

    fn ended(&mut self, key: K, outcome: Outcome) {
        let Some(state) = self.states.get_mut(&key) else { return };
        state.runs = false;
        let again = state.again.take();
        let after = match outcome {
            Outcome::Done => None,
            Outcome::Again(wait) => Some(wait),
            Outcome::Failed => {
                state.failures = (state.failures + 1).min(FAILURES_MAX);
                Some(FIRST_RETRY * 2u32.pow(state.failures - 1))
            }
        };
        if outcome != Outcome::Failed {
            state.failures = 0;
        }
        match [again, after].into_iter().flatten().min() {
            Some(wait) => self.poke(key, wait),
            None => drop(self.states.remove(&key)),
        }
    }
}

/// Timers hold about two years, and an author may write any date. A look too early asks again.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// Retries wait 200 ms, doubled up to 102 s.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const FAILURES_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn count_looks(pokes: Vec<(&'static str, u64)>, outcome: Outcome, run_for: u64) -> usize {
        let queue = Pokes::default();
        for (key, wait) in pokes {
            queue.poke_after(key, Duration::from_secs(wait));
        }
        let looks = Arc::new(AtomicUsize::new(0));
        let cancel = CancellationToken::new();
        let counted = Arc::clone(&looks);
        let worker = run(queue, 4, cancel.clone(), move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { outcome }
        });
        let stop = async {
            tokio::time::sleep(Duration::from_secs(run_for)).await;
            cancel.cancel();
        };
        tokio::join!(worker, stop);
        looks.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn many_pokes_of_one_key_are_one_look() {
        assert_eq!(
            count_looks(vec![("a", 0), ("a", 0), ("a", 5)], Outcome::Done, 60).await,
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_poke_wins_over_a_later_one() {
        assert_eq!(count_looks(vec![("a", 50), ("a", 5)], Outcome::Done, 10).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_looked_at_again_when_asked() {
        assert_eq!(
            count_looks(vec![("a", 0)], Outcome::Again(Duration::from_secs(10)), 35).await,
            4
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_longer_than_timers_hold_stops_nobody() {
        let pokes = vec![("far", u64::from(u32::MAX)), ("near", 1)];
        assert_eq!(count_looks(pokes, Outcome::Again(Duration::MAX), 60).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off() {
        // 0, 0.2, 0.6, 1.4, 3.0, 6.2 s
        assert_eq!(count_looks(vec![("a", 0)], Outcome::Failed, 7).await, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_panics_is_looked_at_again() {
        let queue = Pokes::default();
        queue.poke("a");
        let looks = Arc::new(AtomicUsize::new(0));
        let cancel = CancellationToken::new();
        let counted = Arc::clone(&looks);
        let worker = run(queue, 4, cancel.clone(), move |_| {
            let before = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                if before == 0 {
                    panic!("the first look")
                } else {
                    Outcome::Done
                }
            }
        });
        let stop = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            cancel.cancel();
        };
        tokio::join!(worker, stop);
        assert_eq!(looks.load(Ordering::SeqCst), 2);
    }
}
