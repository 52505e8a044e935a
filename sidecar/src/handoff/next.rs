//! Pure: what a connected runner is to be told, given what the pod is bound to.

use crate::control::held::{Bound, Stage};

/// What is known of the runner that is connected now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Runner {
    /// The incarnation whose harness this container start has run, by its own word; 0 when none.
    pub ran: u64,
    /// Version of the assignment that it was given.
    pub assigned: Option<u64>,
    /// Version of the assignment that it has confirmed.
    pub confirmed: Option<u64>,
    /// Whether it was told to start, on this connection.
    pub started: bool,
    /// Whether it was told to stop, on this connection.
    pub stopped: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Give it the assignment.
    Assign,
    /// Tell it to start the harness.
    Start,
    /// Tell it to end the harness.
    Stop,
    /// An earlier start of its container had the harness: that one has ended, and none is started again.
    ReportRestart,
}

/// The next step, if there is one.
pub fn next(bound: &Bound, runner: &Runner) -> Option<Step> {
    let has_harness = runner.started || runner.ran == bound.incarnation;
    if bound.stage == Stage::Started && !has_harness {
        return Some(Step::ReportRestart);
    }
    if bound.stage == Stage::Over && !has_harness {
        return None;
    }
    if runner.assigned != Some(bound.version) {
        return Some(Step::Assign);
    }
    if bound.suspended {
        return (!runner.stopped).then_some(Step::Stop);
    }
    (bound.stage == Stage::Released && runner.confirmed == Some(bound.version)).then_some(Step::Start)
}

#[cfg(test)]
mod tests {
    use berth_protocol::control;

    use super::*;

    fn bound(stage: Stage) -> Bound {
        Bound {
            stage,
            ..Bound::new(control::Assignment {
                incarnation: 4,
                ..control::Assignment::default()
            })
        }
    }

    fn fresh() -> Runner {
        Runner::default()
    }

    fn given() -> Runner {
        Runner {
            assigned: Some(1),
            ..fresh()
        }
    }

    fn confirmed() -> Runner {
        Runner {
            confirmed: Some(1),
            ..given()
        }
    }

    fn returned() -> Runner {
        Runner { ran: 4, ..fresh() }
    }

    #[test]
    fn every_stage_and_runner() {
        use Stage::{Assigned, Over, Released, Started};
        let cases = [
            (Assigned, fresh(), Some(Step::Assign)),
            (Assigned, given(), None),
            (Assigned, confirmed(), None),
            (Released, fresh(), Some(Step::Assign)),
            (Released, given(), None),
            (Released, confirmed(), Some(Step::Start)),
            (
                Started,
                Runner {
                    started: true,
                    ..confirmed()
                },
                None,
            ),
            (Started, fresh(), Some(Step::ReportRestart)),
            (Started, Runner { ran: 3, ..fresh() }, Some(Step::ReportRestart)),
            (Started, returned(), Some(Step::Assign)),
            (Started, Runner { ran: 4, ..confirmed() }, None),
            (Over, fresh(), None),
            (Over, returned(), Some(Step::Assign)),
        ];
        for (stage, runner, expected) in cases {
            assert_eq!(next(&bound(stage), &runner), expected, "{stage:?} {runner:?}");
        }
    }

    #[test]
    fn a_suspended_session_is_stopped_once_and_never_started() {
        let suspended = |stage| Bound {
            suspended: true,
            ..bound(stage)
        };
        assert_eq!(next(&suspended(Stage::Released), &confirmed()), Some(Step::Stop));
        let stopped = Runner {
            stopped: true,
            ..confirmed()
        };
        assert_eq!(next(&suspended(Stage::Released), &stopped), None);
        let running = Runner {
            started: true,
            ..confirmed()
        };
        assert_eq!(next(&suspended(Stage::Started), &running), Some(Step::Stop));
    }

    #[test]
    fn a_replaced_assignment_is_given_and_confirmed_anew_before_the_start() {
        let replaced = Bound {
            version: 2,
            ..bound(Stage::Released)
        };
        assert_eq!(next(&replaced, &confirmed()), Some(Step::Assign));
        assert_eq!(
            next(
                &replaced,
                &Runner {
                    assigned: Some(2),
                    ..confirmed()
                }
            ),
            None
        );
    }
}
