//! Keeps wakings that a poll causes within itself away from the scheduler.
//!
//! A request and the connection it drives are one task, so hyper's channels between the two wake the task that is
//! running. Tokio puts a task that was woken while it ran at the end of a queue and wakes another worker for it: a futex,
//! a change of the core, for nothing. Here such a waking means "poll again", at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// What lies between a poll and its task's waker.
pub struct Quiet {
    between: Arc<Between>,
    waker: Waker,
}

struct Between {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Default for Quiet {
    /// For one connection.
    fn default() -> Self {
        let between = Arc::new(Between {
            state: AtomicU8::new(IDLE),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            waker: Waker::from(Arc::clone(&between)),
            between,
        }
    }
}

impl Quiet {
    /// Polls, and again when the poll has woken itself.
    pub fn poll<T>(&self, context: &mut Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let mut task = self.between.task.lock();
        if !task.will_wake(context.waker()) {
            task.clone_from(context.waker());
        }
        drop(task);
        for _ in 0..AGAIN_MAX {
            self.between.state.store(POLLING, Ordering::SeqCst);
            let polled = poll(&mut Context::from_waker(&self.waker));
            let woken = self.between.state.swap(IDLE, Ordering::SeqCst) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        context.waker().wake_by_ref(); // others have their turn: tokio's budget is used up
        Poll::Pending
    }
}

impl Wake for Between {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let polling = self
            .state
            .compare_exchange(POLLING, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if matches!(polling, Err(IDLE)) {
            self.task.lock().wake_by_ref();
        }
    }
}

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;
/// More than a request's own wakings; tokio's budget wakes for ever.
const AGAIN_MAX: usize = 4;
