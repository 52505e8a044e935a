//! The control stream over real TLS, and the runner's socket with a hand-made runner.
#![cfg(test)]

#[expect(dead_code, reason = "shared with the runner's tests")]
#[path = "support/controller.rs"]
mod controller;

use std::time::Duration;

use berth_protocol::control::event::Kind;
use berth_protocol::control::{Gap, HarnessExited, Start, to_sidecar::Message};
use berth_protocol::handoff::{FromRunner, MAX_FRAME_BYTES, ToRunner, codec};
use bytes::Bytes;
use controller::{Controller, PATIENCE, Pod, assignment, eventually};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

struct Runner {
    frames: Framed<UnixStream, LengthDelimitedCodec>,
}

impl Runner {
    async fn connect(pod: &Pod, ran_incarnation: u64) -> Self {
        let mut runner = Self::open(pod).await;
        runner
            .say(FromRunner::Hello {
                protocol: berth_protocol::VERSION,
                ran_incarnation,
            })
            .await;
        runner
    }

    async fn open(pod: &Pod) -> Self {
        eventually("a socket", controller::exists(&pod.socket())).await;
        Self {
            frames: Framed::new(UnixStream::connect(pod.socket()).await.unwrap(), codec()),
        }
    }

    async fn say(&mut self, frame: FromRunner) {
        self.frames
            .send(Bytes::from(serde_json::to_vec(&frame).unwrap()))
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> ToRunner {
        let frame = timeout(PATIENCE, self.frames.next())
            .await
            .expect("the sidecar says nothing");
        serde_json::from_slice(&frame.expect("the sidecar has closed").unwrap()).unwrap()
    }

    async fn is_closed(&mut self) -> bool {
        matches!(timeout(PATIENCE, self.frames.next()).await, Ok(None | Some(Err(_))))
    }

    /// Assigned and ready.
    async fn ready(&mut self) {
        assert!(matches!(self.hear().await, ToRunner::Assignment(_)));
        self.say(FromRunner::Ready { incarnation: 1 }).await;
    }

    async fn output(&mut self, data: &str) {
        let data = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, data);
        self.say(FromRunner::Output { stream: 1, data }).await;
    }
}

fn is_exit(event: &berth_protocol::control::Event) -> bool {
    matches!(event.kind, Some(Kind::Exited(_)))
}

fn exited(code: i32) -> FromRunner {
    FromRunner::Exited {
        code,
        summary: "done".to_owned(),
        error: String::new(),
        stopped: false,
        branch: String::new(),
        pull_request: 0,
        last_lines: String::new(),
    }
}

/// A pod whose harness runs, by its runner's word.
async fn running() -> (Controller, controller::Attached, Pod, Runner) {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    pod.start_sidecar().await;
    let mut stream = controller.attached().await;
    let mut runner = Runner::connect(&pod, 0).await;
    stream.push(assignment("true", "Go.")).await;
    runner.ready().await;
    stream.ack().await;
    stream.push(Message::Start(Start { incarnation: 1 })).await;
    assert_eq!(runner.hear().await, ToRunner::Start);
    runner
        .say(FromRunner::Started {
            command: vec!["true".to_owned()],
        })
        .await;
    (controller, stream, pod, runner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_sidecar_attaches_unbound_becomes_ready_and_renews_its_token() {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    assert!(!pod.is_ready());
    pod.start_sidecar().await;
    let mut stream = controller.attached().await;
    assert_eq!(stream.bearer, "Bearer token-1");
    assert_eq!(
        (stream.hello.incarnation, stream.hello.protocol),
        (0, berth_protocol::VERSION)
    );
    eventually("ready", || pod.is_ready()).await;
    let replacement = pod.path("token.new");
    std::fs::write(&replacement, "token-2").unwrap();
    std::fs::rename(&replacement, pod.path("token")).unwrap();
    assert_eq!(stream.token().await, "token-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_is_opened_again_with_the_same_key_and_the_probe_knows() {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    pod.start_sidecar().await;
    let first = controller.attached().await;
    eventually("ready", || pod.is_ready()).await;
    let key = first.hello.public_key.clone();
    drop(first);
    eventually("not ready", || !pod.is_ready()).await;
    let second = controller.attached().await;
    assert_eq!(second.hello.public_key, key);
    drop(second);
    pod.start_sidecar().await;
    assert_eq!(controller.attached().await.hello.public_key, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_is_told_in_order_and_resent_until_it_is_durable() {
    let (mut controller, mut stream, _pod, mut runner) = running().await;
    runner.output("hello").await;
    runner.say(exited(0)).await;
    let events = stream.events_until(is_exit).await;
    assert_eq!(
        events.iter().map(|event| event.client_seq).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    stream.acknowledge(1).await;
    drop(stream);
    let mut stream = controller.attached().await;
    assert_eq!(
        (stream.hello.incarnation, stream.hello.session_uid.as_str()),
        (1, "uid-1")
    );
    let again = stream.events_until(is_exit).await;
    // The acknowledgement may have been lost with the stream; the order and the numbers aren't.
    assert!(again == events[1..] || again == events, "{again:?}");
    stream.acknowledge(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_leader_is_refused_and_the_next_one_served() {
    let (mut controller, stream, _pod, mut runner) = running().await;
    controller.take_over();
    drop(stream);
    let mut stream = controller.attached().await;
    stream
        .send(1, 99, Message::Suspend(berth_protocol::control::Suspend::default()))
        .await;
    stream.send(1, 100, assignment("true", "Other.")).await;
    stream.suspend().await;
    assert!(matches!(runner.hear().await, ToRunner::Stop { .. }));
    assert_eq!(
        (stream.epoch, stream.hello.highest_epoch, stream.hello.highest_revision),
        (2, 1, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_is_refused_and_recorded_and_the_first_stays() {
    let (_controller, mut stream, pod, mut runner) = running().await;
    let mut forged = Runner::connect(&pod, 1).await;
    assert!(forged.is_closed().await);
    runner.output("still here").await;
    let events = stream
        .events_until(|event| matches!(event.kind, Some(Kind::Output(_))))
        .await;
    let violation = events.iter().find_map(|event| match &event.kind {
        Some(Kind::Violation(why)) => Some(why.as_str()),
        _ => None,
    });
    assert_eq!(
        violation,
        Some("a second connection to the runner's socket was refused")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_ends_the_connection_and_is_recorded() {
    let (_controller, mut stream, _pod, runner) = running().await;
    let mut raw = runner.frames.into_inner();
    raw.write_all(&u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes())
        .await
        .unwrap();
    let events = stream
        .events_until(|event| matches!(event.kind, Some(Kind::Violation(_))))
        .await;
    assert_eq!(
        events.last().unwrap().kind,
        Some(Kind::Violation("a frame of more than 1048576 bytes".to_owned()))
    );
    assert_eq!(timeout(PATIENCE, raw.read(&mut [0; 64])).await.unwrap().unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_before_the_release_end_the_connection_and_move_nothing() {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    pod.start_sidecar().await;
    let mut stream = controller.attached().await;
    let mut runner = Runner::connect(&pod, 0).await;
    stream.push(assignment("true", "Go.")).await;
    runner.ready().await;
    stream.ack().await;
    runner.say(exited(0)).await;
    assert!(runner.is_closed().await);
    assert!(matches!(stream.event().await.kind, Some(Kind::Violation(_))));
    // The runner returns and is served.
    let mut runner = Runner::connect(&pod, 0).await;
    runner.ready().await;
    stream.push(Message::Start(Start { incarnation: 1 })).await;
    assert_eq!(runner.hear().await, ToRunner::Start);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_container_is_reported_and_not_started_again() {
    let (_controller, mut stream, pod, runner) = running().await;
    drop(runner);
    let mut runner = Runner::connect(&pod, 0).await;
    let events = stream.events_until(is_exit).await;
    let error = "the agent container restarted".to_owned();
    let expected = HarnessExited {
        code: 255,
        summary: String::new(),
        error,
        stopped: true,
        branch: String::new(),
        pull_request: 0,
        last_lines: String::new(),
    };
    assert_eq!(events.last().unwrap().kind, Some(Kind::Exited(expected)));
    assert!(
        timeout(Duration::from_millis(300), runner.frames.next()).await.is_err(),
        "the new runner is told nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_sidecar_is_bound_starts_nothing_and_leaves_no_hole() {
    let (mut controller, mut stream, mut pod, mut runner) = running().await;
    runner.output("one").await;
    stream
        .events_until(|event| matches!(event.kind, Some(Kind::Output(_))))
        .await;
    stream.acknowledge(1).await;
    pod.start_sidecar().await;
    assert!(runner.is_closed().await);
    drop(stream);
    let mut stream = controller.attached().await;
    assert_eq!(stream.hello.incarnation, 1);
    let mut runner = Runner::connect(&pod, 1).await;
    runner.ready().await;
    runner
        .say(FromRunner::Started {
            command: vec!["true".to_owned()],
        })
        .await; // the runner repeats what it told
    runner.output("two").await;
    runner.say(exited(0)).await;
    let events = stream.events_until(is_exit).await;
    let first = events.first().unwrap().client_seq;
    assert!(first <= 2);
    let numbers: Vec<u64> = events.iter().map(|event| event.client_seq).collect();
    assert_eq!(numbers, (first..first + events.len() as u64).collect::<Vec<_>>());
    let gap = Some(Kind::Gap(Gap { events: 1, bytes: 0 }));
    assert!(events.iter().any(|event| event.kind == gap));
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event.kind, Some(Kind::Started(_))))
            .count(),
        usize::from(first == 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_ends_streams_over_early_events_gets_them_later() {
    let (mut controller, stream, _pod, mut runner) = running().await;
    drop(stream);
    runner.output("early").await;
    let mut stream = controller.attached().await;
    stream.event().await;
    drop(stream); // "events before the pod was bound"
    let mut stream = controller.attached().await;
    assert!(
        timeout(Duration::from_millis(500), stream.event()).await.is_err(),
        "events are held back"
    );
    stream.push(assignment("true", "Go.")).await;
    assert_eq!(stream.ack().await.incarnation, 1);
    assert_eq!(stream.event().await.client_seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_until_everything_is_durable() {
    let (_controller, mut stream, mut pod, mut runner) = running().await;
    runner.say(exited(0)).await;
    let last = stream.events_until(is_exit).await.last().unwrap().client_seq;
    let stopping = tokio::spawn(async move {
        pod.stop_sidecar().await;
        tokio::time::Instant::now()
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished());
    let acknowledged = tokio::time::Instant::now();
    stream.acknowledge(last).await;
    assert!(stopping.await.unwrap() - acknowledged < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_counted_together_and_told_while_bound() {
    let (_controller, mut stream, pod, _runner) = running().await;
    for _ in 0..3 {
        let mut agent = TcpStream::connect(pod.options.place.proxy_address).await.unwrap();
        agent
            .write_all(
                b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nConnection: close\r\n\r\n",
            )
            .await
            .unwrap();
        let mut answer = String::new();
        agent.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    }
    let events = stream
        .events_until(|event| matches!(event.kind, Some(Kind::Denied(_))))
        .await;
    assert_eq!(events.last().unwrap().kind, Some(Kind::Denied(3)));
}
