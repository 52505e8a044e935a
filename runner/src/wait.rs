//! Until the session's status names this pod: takes the assignment, says that it can be started, waits for the start.
//! A stop that comes before means that nothing is ever started here.

use berth_protocol::handoff::{Assignment, FromRunner, ToRunner};
use tokio::sync::mpsc;

use crate::link::Link;

/// The assignment, once it is released; `None` when the connection's task has gone.
pub async fn for_start(link: &mut Link) -> Option<Assignment> {
    let mut waiting = Waiting::default();
    while let Some(order) = link.orders.recv().await {
        match waiting.take(order) {
            Next::Nothing => {}
            Next::Ready(incarnation) => ready(&link.answers, incarnation),
            Next::Start(assignment) => return Some(*assignment),
        }
    }
    None
}

/// Says that the assignment is understood.
pub fn ready(answers: &mpsc::Sender<FromRunner>, incarnation: u64) {
    if answers.try_send(FromRunner::Ready { incarnation }).is_err() {
        tracing::warn!(incarnation, "the sidecar doesn't take the answer");
    }
}

#[derive(Debug, Default)]
struct Waiting {
    assignment: Option<Box<Assignment>>,
    stopped: bool,
}

#[derive(Debug, Eq, PartialEq)]
enum Next {
    Nothing,
    Ready(u64),
    Start(Box<Assignment>),
}

impl Waiting {
    fn take(&mut self, order: ToRunner) -> Next {
        match order {
            ToRunner::Assignment(assignment) => {
                let incarnation = assignment.incarnation;
                self.assignment = Some(assignment);
                Next::Ready(incarnation)
            }
            ToRunner::Start if self.stopped => Next::Nothing,
            ToRunner::Start => self.assignment.take().map_or(Next::Nothing, Next::Start),
            ToRunner::Stop { .. } => {
                self.stopped = true;
                Next::Nothing
            }
            ToRunner::Checkpoint(_) | ToRunner::Input { .. } | ToRunner::Abort => Next::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment() -> Assignment {
        Assignment {
            incarnation: 3,
            ..Assignment::default()
        }
    }

    #[test]
    fn only_an_assignment_can_be_started() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.take(ToRunner::Start), Next::Nothing);
        assert_eq!(
            waiting.take(ToRunner::Assignment(Box::new(assignment()))),
            Next::Ready(3)
        );
        assert_eq!(waiting.take(ToRunner::Start), Next::Start(Box::new(assignment())));
        assert_eq!(waiting.take(ToRunner::Start), Next::Nothing);
    }

    #[test]
    fn nothing_starts_after_a_stop() {
        let mut waiting = Waiting::default();
        waiting.take(ToRunner::Assignment(Box::new(assignment())));
        waiting.take(ToRunner::Stop { grace_seconds: 1 });
        assert_eq!(waiting.take(ToRunner::Start), Next::Nothing);
    }
}
