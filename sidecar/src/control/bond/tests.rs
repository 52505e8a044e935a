//! What holds over messages, runners and restarts.

use berth_protocol::control::{Assignment, EventAck, HarnessExited, Start, Suspend, Task, Welcome};

use super::*;

struct Pod {
    state: tempfile::TempDir,
    bond: Bond,
}

fn pod() -> Pod {
    let state = tempfile::tempdir().unwrap();
    let bond = Bond::open(state.path()).unwrap();
    Pod { state, bond }
}

impl Pod {
    fn restarted(self) -> Self {
        let bond = Bond::open(self.state.path()).unwrap();
        Self { bond, ..self }
    }

    fn says(&self, epoch: u64, revision: u64, message: Message) -> Result<Taken, Stale> {
        self.bond
            .take(ToSidecar {
                epoch,
                revision,
                message: Some(message),
            })
            .unwrap()
    }

    /// Bound, released and started.
    fn running(self) -> Self {
        self.says(1, 1, assignment("u", 1, "Go.")).unwrap();
        self.says(1, 2, start(1)).unwrap();
        assert!(self.bond.begin_start().unwrap());
        self.bond.started(vec!["sh".to_owned()]).unwrap();
        self
    }

    fn stage(&self) -> Stage {
        self.bond.with_bound(|bound| bound.stage).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        while let Some(event) = self.bond.event_after(events.last().map_or(0, |event| event.client_seq)) {
            events.push(event);
        }
        events
    }

    fn kinds(&self) -> Vec<Kind> {
        self.events().into_iter().filter_map(|event| event.kind).collect()
    }
}

fn assignment(session_uid: &str, incarnation: u64, prompt: &str) -> Message {
    let task = Some(Task {
        prompt: prompt.to_owned(),
        ..Task::default()
    });
    Message::Assignment(Assignment {
        session_uid: session_uid.to_owned(),
        incarnation,
        task,
        ..Assignment::default()
    })
}

fn start(incarnation: u64) -> Message {
    Message::Start(Start { incarnation })
}

fn acknowledged(client_seq: u64, durable: bool) -> Message {
    Message::EventAck(EventAck {
        incarnation: 1,
        client_seq,
        durable,
    })
}

fn ended(code: i32) -> HarnessExited {
    HarnessExited {
        code,
        ..HarnessExited::default()
    }
}

#[test]
fn an_assignment_is_acknowledged_once_the_runner_has_confirmed_it() {
    let pod = pod();
    assert_eq!(pod.says(3, 1, assignment("u", 1, "Go.")), Ok(Taken::Known));
    assert_eq!(pod.bond.due_ack(), None);
    pod.bond.confirm(Some(1));
    assert_eq!(
        pod.bond.due_ack(),
        Some(Ack {
            epoch: 3,
            revision: 1,
            incarnation: 1
        })
    );
    assert_eq!(pod.bond.due_ack(), None);
}

#[test]
fn a_replaced_assignment_needs_a_new_confirmation_and_a_running_one_stands() {
    let pod = pod();
    pod.says(1, 1, assignment("u", 1, "Go.")).unwrap();
    pod.bond.confirm(Some(1));
    pod.says(2, 1, assignment("u", 1, "Stop.")).unwrap();
    assert_eq!(pod.bond.due_ack(), None);
    pod.bond.confirm(Some(2));
    assert_eq!(
        pod.bond.due_ack(),
        Some(Ack {
            epoch: 2,
            revision: 1,
            incarnation: 1
        })
    );
    pod.says(2, 2, start(1)).unwrap();
    pod.says(3, 1, assignment("u", 1, "Again.")).unwrap();
    assert_eq!(
        pod.bond.with_bound(|bound| bound.assignment.prompt.clone()).unwrap(),
        "Stop."
    );
    assert!(pod.bond.due_ack().is_some());
}

#[test]
fn a_pod_serves_one_incarnation_of_one_session() {
    let pod = pod();
    pod.says(1, 1, assignment("u", 1, "Go.")).unwrap();
    assert_eq!(pod.says(1, 2, assignment("u", 2, "Go.")), Ok(Taken::Done));
    assert_eq!(pod.says(1, 3, assignment("v", 1, "Go.")), Ok(Taken::Done));
    assert_eq!(pod.says(1, 4, start(2)), Ok(Taken::Done));
    let held = pod
        .bond
        .with_bound(|bound| (bound.session_uid.clone(), bound.incarnation, bound.stage));
    assert_eq!(held, Some(("u".to_owned(), 1, Stage::Assigned)));
}

#[test]
fn a_paused_leader_changes_nothing() {
    let pod = pod();
    pod.says(1, 1, assignment("u", 1, "Go.")).unwrap();
    pod.says(2, 0, Message::Welcome(Welcome { nonce: vec![7] })).unwrap();
    assert!(pod.says(1, 2, start(1)).is_err());
    assert!(pod.says(1, 0, acknowledged(1, true)).is_err());
    assert_eq!(pod.stage(), Stage::Assigned);
    let pod = pod.restarted();
    assert!(pod.says(1, 9, start(1)).is_err());
    assert_eq!(
        (
            pod.bond.hello(vec![]).highest_epoch,
            pod.bond.hello(vec![]).highest_revision
        ),
        (2, 0)
    );
}

#[test]
fn no_restart_starts_the_harness_twice() {
    let pod = pod().running();
    assert!(!pod.bond.begin_start().unwrap());
    let pod = pod.restarted();
    assert_eq!(pod.says(2, 1, start(1)), Ok(Taken::Known));
    assert!(!pod.bond.begin_start().unwrap());
    let hello = pod.bond.hello(vec![]);
    assert_eq!((hello.incarnation, hello.session_uid.as_str()), (1, "u"));
}

#[test]
fn a_suspended_session_is_never_started() {
    let pod = pod();
    pod.says(1, 1, assignment("u", 1, "Go.")).unwrap();
    pod.says(
        1,
        2,
        Message::Suspend(Suspend {
            incarnation: 1,
            reason: "suspended".to_owned(),
        }),
    )
    .unwrap();
    pod.says(1, 3, start(1)).unwrap();
    assert!(!pod.restarted().bond.begin_start().unwrap());
}

#[test]
fn events_wait_for_a_durable_acknowledgement() {
    let pod = pod().running();
    pod.bond.output(1, b"hello").unwrap();
    pod.bond.exited(ended(0)).unwrap();
    assert_eq!(pod.events().len(), 3);
    pod.says(1, 0, acknowledged(2, false)).unwrap();
    assert_eq!(pod.events().len(), 3);
    pod.says(1, 0, acknowledged(2, true)).unwrap();
    assert_eq!(pod.kinds(), [Kind::Exited(ended(0))]);
    assert!(!pod.bond.is_drained());
    pod.says(1, 0, acknowledged(3, true)).unwrap();
    assert!(pod.bond.is_drained());
}

#[test]
fn a_restarted_container_numbers_on_without_a_hole_and_knows_every_state() {
    let pod = pod().running();
    pod.bond.output(1, b"one").unwrap();
    let before = pod.events();
    assert_eq!(before.len(), 2);
    pod.says(1, 0, acknowledged(1, true)).unwrap();
    pod.bond.violation("somebody else").unwrap();
    pod.bond.output(1, b"two").unwrap();
    let pod = pod.restarted();
    pod.bond.exited(ended(7)).unwrap();
    let gap = Kind::Gap(control::Gap { events: 1, bytes: 0 });
    // 2 and 4 were output that nobody knows any more, 5 says that more may be missing.
    let violation = Kind::Violation("somebody else".to_owned());
    let expected = [gap.clone(), violation, gap.clone(), gap, Kind::Exited(ended(7))];
    assert_eq!(pod.kinds(), expected);
    let numbers: Vec<u64> = pod.events().iter().map(|event| event.client_seq).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 6]);
}

#[test]
fn the_end_outlives_a_restart_and_is_told_once() {
    let pod = pod().running();
    pod.bond.exited(ended(0)).unwrap();
    let pod = pod.restarted();
    pod.bond.exited(ended(1)).unwrap();
    pod.bond.started(vec![]).unwrap();
    let started = Kind::Started(control::HarnessStarted {
        command: vec!["sh".to_owned()],
    });
    assert_eq!(pod.kinds(), [started, Kind::Exited(ended(0))]);
}

#[test]
fn violations_are_told_up_to_a_limit_and_only_while_bound() {
    let pod = pod();
    pod.bond.violation("warm").unwrap();
    assert_eq!(pod.kinds(), []);
    let pod = pod.running();
    for _ in 0..VIOLATIONS_MAX * 2 {
        pod.bond.violation("again").unwrap();
    }
    assert_eq!(pod.kinds().len(), 1 + VIOLATIONS_MAX as usize);
    let last = Kind::Violation("again; further ones are only logged".to_owned());
    assert_eq!(pod.kinds().last(), Some(&last));
}

#[test]
fn denials_count_only_while_bound() {
    let pod = pod();
    assert!(pod.bond.denied(3).unwrap());
    assert_eq!(pod.kinds(), []);
    let pod = pod.running();
    assert!(pod.bond.denied(3).unwrap());
    assert_eq!(pod.kinds().last(), Some(&Kind::Denied(3)));
}
