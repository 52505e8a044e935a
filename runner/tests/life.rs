//! The runner's program, the sidecar and a controller over real sockets, with real processes as harness.
#![cfg(test)]

#[expect(dead_code, reason = "shared with the sidecar's tests")]
#[path = "../../sidecar/tests/support/controller.rs"]
mod controller;

use std::process::Stdio;
use std::time::Duration;

use berth_protocol::control::event::Kind;
use berth_protocol::control::{Event, HarnessExited, Start};
use controller::{Attached, Controller, PATIENCE, Pod, assignment, eventually};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

struct World {
    controller: Controller,
    stream: Attached,
    pod: Pod,
    runner: Child,
}

impl World {
    async fn new() -> Self {
        let mut controller = Controller::begin().await;
        let mut pod = Pod::new(&controller);
        let runner = runner(&pod, &[]); // before the sidecar: it waits for the socket
        pod.start_sidecar().await;
        let stream = controller.attached().await;
        Self {
            controller,
            stream,
            pod,
            runner,
        }
    }

    async fn running(script: &str) -> Self {
        let mut world = Self::new().await;
        world.stream.run(script, "").await;
        world
    }

    async fn end(&mut self) -> (Vec<Event>, HarnessExited) {
        let events = self
            .stream
            .events_until(|event| matches!(event.kind, Some(Kind::Exited(_))))
            .await;
        let Some(Kind::Exited(exited)) = events.last().unwrap().kind.clone() else {
            panic!("no end")
        };
        (events, exited)
    }

    async fn until_output(&mut self, text: &str) {
        let says = |event: &Event| {
            String::from_utf8(output(std::slice::from_ref(event), 1))
                .unwrap()
                .contains(text)
        };
        self.stream.events_until(says).await;
    }

    /// As the container runtime does.
    fn read_logs(&mut self) {
        let mut logs = self.runner.stdout.take().unwrap();
        tokio::spawn(async move { tokio::io::copy(&mut logs, &mut tokio::io::sink()).await });
    }

    fn pid(&self) -> String {
        self.runner.id().unwrap().to_string()
    }

    fn workspace(&self, name: &str) -> String {
        std::fs::read_to_string(self.pod.path("workspace").join(name)).unwrap_or_default()
    }
}

fn runner(pod: &Pod, command: &[&str]) -> Child {
    runner_with(pod, &[], command)
}

fn runner_with(pod: &Pod, options: &[&str], command: &[&str]) -> Child {
    let mut run = Command::new(env!("CARGO_BIN_EXE_berth-runner"));
    run.arg("run")
        .arg("--handoff")
        .arg(&pod.options.place.handoff)
        .arg("--workspace")
        .arg(pod.path("workspace"))
        .args(options);
    run.arg("--").args(command).env("FROM_IMAGE", "kept");
    run.stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn signal(pid: &str, signal: &str) {
    assert!(
        Command::new("kill")
            .args([signal, pid])
            .status()
            .await
            .unwrap()
            .success()
    );
}

fn output(events: &[Event], stream: u32) -> Vec<u8> {
    let pieces = events.iter().filter_map(|event| match &event.kind {
        Some(Kind::Output(output)) if output.stream == stream => Some(output.data.as_slice()),
        _ => None,
    });
    pieces.collect::<Vec<_>>().concat()
}

fn text(events: &[Event], stream: u32) -> String {
    String::from_utf8(output(events, stream)).unwrap()
}

fn count(events: &[Event], is: impl Fn(&Kind) -> bool) -> usize {
    events
        .iter()
        .filter_map(|event| event.kind.as_ref())
        .filter(|kind| is(kind))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harness_gets_its_prompt_and_environment_and_its_words_and_end_are_told() {
    let mut world = World::new().await;
    let script = r#"
        echo "prompt: $(cat)"; echo "$BERTH_SESSION $BERTH_NAMESPACE $BERTH_INCARNATION $https_proxy $FROM_IMAGE" >&2
        pwd; printf 'All done: ü' > result.md; exit 3"#;
    world.stream.run(script, "Fix the bug.\nThanks.").await;
    let (events, exited) = world.end().await;
    let workspace = std::fs::canonicalize(world.pod.path("workspace")).unwrap();
    assert_eq!(
        text(&events, 1),
        format!("prompt: Fix the bug.\nThanks.\n{}\n", workspace.display())
    );
    assert_eq!(text(&events, 2), "fix team 1 http://127.0.0.1:14322 kept\n");
    assert_eq!(
        exited,
        HarnessExited {
            code: 3,
            summary: "All done: ü".to_owned(),
            error: String::new(),
            stopped: false,
            branch: String::new(),
            pull_request: 0,
            last_lines: "fix team 1 http://127.0.0.1:14322 kept".to_owned(),
        }
    );
    assert_eq!(
        events.iter().map(|event| event.client_seq).collect::<Vec<_>>(),
        (1..=events.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(count(&events, |kind| matches!(kind, Kind::Started(_))), 1);
    // `kubectl logs` shows the same, and the container stays.
    assert!(timeout(Duration::from_millis(300), world.runner.wait()).await.is_err());
    signal(&world.pid(), "-TERM").await;
    let logged = world.runner.wait_with_output().await.unwrap();
    assert!(logged.status.success());
    assert!(
        String::from_utf8(logged.stdout)
            .unwrap()
            .starts_with("prompt: Fix the bug.")
    );
    assert!(String::from_utf8(logged.stderr).unwrap().contains("fix team 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_own_command_runs_when_the_assignment_names_none() {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    pod.start_sidecar().await;
    let mut stream = controller.attached().await;
    let _runner = runner(&pod, &["sh", "-c", "echo own; exit 4"]);
    let berth_protocol::control::to_sidecar::Message::Assignment(mut assigned) = assignment("", "") else {
        panic!()
    };
    assigned.command.clear();
    stream
        .push(berth_protocol::control::to_sidecar::Message::Assignment(assigned))
        .await;
    stream.ack().await;
    stream
        .push(berth_protocol::control::to_sidecar::Message::Start(Start {
            incarnation: 1,
        }))
        .await;
    let events = stream
        .events_until(|event| matches!(event.kind, Some(Kind::Exited(_))))
        .await;
    assert_eq!(text(&events, 1), "own\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_command_is_an_end_with_a_reason() {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    pod.start_sidecar().await;
    let mut stream = controller.attached().await;
    let mut runner = runner(&pod, &["no-such-agent"]);
    let berth_protocol::control::to_sidecar::Message::Assignment(mut assigned) = assignment("", "") else {
        panic!()
    };
    assigned.command.clear();
    stream
        .push(berth_protocol::control::to_sidecar::Message::Assignment(assigned))
        .await;
    stream.ack().await;
    stream
        .push(berth_protocol::control::to_sidecar::Message::Start(Start {
            incarnation: 1,
        }))
        .await;
    let Some(Kind::Exited(exited)) = stream.event().await.kind else {
        panic!("no end")
    };
    assert_eq!(exited.code, 127);
    assert!(
        exited
            .error
            .starts_with(r#"the harness command "no-such-agent" can't be started: there is no such program"#)
    );
    assert!(
        timeout(Duration::from_millis(300), runner.wait()).await.is_err(),
        "the container stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_harness_is_told_as_a_shell_would() {
    let mut world = World::running("kill -9 $$").await;
    assert_eq!(world.end().await.1.code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_bytes_arrive_in_order() {
    let mut world = World::running("seq 1 200000; printf end >&2").await;
    world.read_logs();
    let (events, _) = world.end().await;
    let lines: Vec<String> = (1..=200_000).map(|number| number.to_string()).collect();
    let expected = lines.join("\n") + "\n";
    assert!(
        text(&events, 1) == expected,
        "{} of {} bytes",
        text(&events, 1).len(),
        expected.len()
    );
    assert_eq!(text(&events, 2), "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_told_while_the_harness_runs() {
    let mut world = World::running("echo early; sleep 1000").await;
    world.until_output("early").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_a_term_and_then_a_kill() {
    let mut world = World::running("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done").await;
    world.until_output("up").await;
    world.stream.suspend().await;
    let (events, exited) = world.end().await;
    assert_eq!((exited.code, text(&events, 1).as_str()), (9, "bye\n"));

    let mut world = World::running("trap '' TERM; echo up; while :; do sleep 0.1; done").await;
    world.until_output("up").await;
    let asked = Instant::now();
    world.stream.suspend().await;
    assert_eq!(world.end().await.1.code, 137);
    assert!((4..9).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_told_to_leave_ends_the_harness_and_tells_so() {
    let mut world = World::running("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done").await;
    world.until_output("up").await;
    signal(&world.pid(), "-TERM").await;
    let (events, exited) = world.end().await;
    assert_eq!((exited.code, text(&events, 1).as_str()), (9, "bye\n"));
    assert!(timeout(PATIENCE, world.runner.wait()).await.unwrap().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_harness_leaves_behind_ends_with_it_and_orphans_are_waited_for() {
    // One stays in the group and holds the pipe, one leaves the group and holds it, some are orphans that just end.
    let script = "sleep 1000 & echo $! > held; setsid sh -c 'echo $$ > left; exec sleep 1000' & \
                  for turn in 1 2 3 4 5; do (true &); done; while ! test -s left; do sleep 0.05; done; echo over";
    let mut world = World::running(script).await;
    let asked = Instant::now();
    let (events, exited) = world.end().await;
    assert_eq!((exited.code, text(&events, 1).as_str()), (0, "over\n"));
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    let held = world.workspace("held");
    eventually("the leftover is gone", || {
        !std::path::Path::new("/proc").join(held.trim()).exists()
    })
    .await;
    let left = world.workspace("left");
    let children = format!("/proc/{0}/task/{0}/children", world.pid());
    let listed = || std::fs::read_to_string(&children).unwrap();
    // Nobody but the one that left the group is a child of the runner any more: no zombie is kept.
    eventually("orphans are waited for", || {
        listed().split_whitespace().collect::<Vec<_>>() == [left.trim()]
    })
    .await;
    signal(left.trim(), "-KILL").await;
    eventually("the last orphan is waited for", || listed().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_sidecar_finds_the_harness_running_and_runs_nothing_twice() {
    let script =
        "echo run >> runs; echo before; while ! test -e go; do sleep 0.05; done; echo after; echo ok > result.md";
    let mut world = World::running(script).await;
    world.until_output("before").await;
    world.pod.start_sidecar().await;
    world.stream = world.controller.attached().await;
    assert_eq!(world.stream.hello.incarnation, 1);
    std::fs::write(world.pod.path("workspace").join("go"), "").unwrap();
    let (events, exited) = world.end().await;
    assert_eq!(
        (exited.code, exited.summary.as_str(), text(&events, 1).as_str()),
        (0, "ok\n", "after\n")
    );
    assert_eq!(world.workspace("runs"), "run\n");
    assert_eq!(count(&events, |kind| matches!(kind, Kind::Exited(_))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_a_sidecar_is_told_to_the_next_one() {
    let mut world =
        World::running("echo up; while ! test -e go; do sleep 0.05; done; echo last; echo x > done; exit 5").await;
    world.until_output("up").await;
    world.pod.kill_sidecar().await;
    std::fs::write(world.pod.path("workspace").join("go"), "").unwrap();
    eventually("the harness has ended", || !world.workspace("done").is_empty()).await;
    world.pod.start_sidecar().await;
    world.stream = world.controller.attached().await;
    let (events, exited) = world.end().await;
    assert_eq!((exited.code, text(&events, 1).as_str()), (5, "last\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_container_does_not_run_the_prompt_again() {
    let mut world = World::running("echo run >> runs; echo up; sleep 1000").await;
    world.until_output("up").await;
    signal(&world.pid(), "-KILL").await;
    world.runner.wait().await.unwrap();
    world.runner = runner(&world.pod, &[]);
    let (_, exited) = world.end().await;
    assert_eq!(
        (exited.code, exited.error.as_str()),
        (255, "the agent container restarted")
    );
    assert!(timeout(Duration::from_millis(500), world.runner.wait()).await.is_err());
    assert_eq!(world.workspace("runs"), "run\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sidecar_the_harness_blocks_and_the_runner_stays_small() {
    let script = "echo up; while ! test -e go; do sleep 0.05; done; \
                  i=0; while test $i -lt 1024; do head -c 32768 /dev/zero; i=$((i+1)); echo $i > wrote; done";
    let mut world = World::running(script).await;
    world.read_logs();
    world.until_output("up").await;
    world.pod.kill_sidecar().await;
    std::fs::write(world.pod.path("workspace").join("go"), "").unwrap();
    // It stands still once the queue and the pipe are full.
    let mut wrote = String::new();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = world.workspace("wrote");
        if !now.is_empty() && now == wrote {
            break;
        }
        wrote = now;
    }
    let wrote: u64 = wrote.trim().parse().unwrap();
    assert!(wrote < 64, "{wrote} × 32 KiB were taken without a reader");
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 40_000, "{peak} kB");
    world.pod.start_sidecar().await;
    world.stream = world.controller.attached().await;
    let (events, _) = world.end().await;
    // What was in the socket when the sidecar was killed is lost, and said to be.
    let arrived = output(&events, 1).len();
    assert!(
        (1024 * 32_768 - 1_000_000..=1024 * 32_768).contains(&arrived),
        "{arrived}"
    );
    assert!(count(&events, |kind| matches!(kind, Kind::Gap(_))) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_nobody_reads_holds_nothing_up() {
    let mut world = World::new().await;
    world.stream.run("exec <&-; echo deaf", &"x".repeat(60_000)).await;
    let (events, exited) = world.end().await;
    assert_eq!((exited.code, text(&events, 1).as_str()), (0, "deaf\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installed_copy_runs() {
    let directory = tempfile::tempdir().unwrap();
    let installed = Command::new(env!("CARGO_BIN_EXE_berth-runner"))
        .arg("install")
        .arg(directory.path())
        .status();
    assert!(installed.await.unwrap().success());
    let version = Command::new(directory.path().join("berth-runner"))
        .arg("--version")
        .output()
        .await
        .unwrap();
    assert!(version.stdout.starts_with(b"berth-runner "));
}

/// The program is a stand-in: it keeps the prompt and prints what the real one printed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_tells_follows_its_lines_and_its_last_words_are_the_summary() {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/codex.jsonl");
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    let home = pod.path("home");
    let options = ["--harness", "codex", "--home", home.to_str().unwrap()];
    let runner = runner_with(&pod, &options, &[]);
    pod.start_sidecar().await;
    let stream = controller.attached().await;
    let mut world = World {
        controller,
        stream,
        pod,
        runner,
    };
    let stand_in = format!("cat > prompt; echo \"$0 $*\" > arguments; echo mine > result.md; exec cat {recording}");
    world.stream.run(&stand_in, "Fix it.").await;
    let (events, exited) = world.end().await;
    assert_eq!(world.workspace("prompt"), "Fix it.");
    assert!(world.workspace("arguments").starts_with("exec --json"));
    let settings = std::fs::read_to_string(home.join(".codex/config.toml")).unwrap();
    assert!(settings.contains("OPENAI_API_KEY"), "{settings}");
    assert!(exited.summary.starts_with("The command said:"), "{}", exited.summary);
    let output = output(&events, 1);
    assert_eq!(output, std::fs::read(recording).unwrap());
    let (mut arrived, mut kinds) = (0, vec![]);
    for event in &events {
        match event.kind.as_ref().unwrap() {
            Kind::Output(piece) if piece.stream == 1 => arrived += piece.data.len(),
            Kind::Said(said) => {
                let end = usize::try_from(said.offset + said.length).unwrap();
                assert!(end <= arrived, "{} is told before its line", said.kind);
                let told: serde_json::Value = serde_json::from_slice(&said.told).unwrap();
                assert_eq!(told["kind"], said.kind);
                kinds.push(said.kind.as_str());
            }
            _ => {}
        }
    }
    let expected = [
        "session",
        "error",
        "toolCall",
        "toolResult",
        "message",
        "usage",
        "result",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_needs_a_model_says_so() {
    let mut controller = Controller::begin().await;
    let mut pod = Pod::new(&controller);
    let runner = runner_with(&pod, &["--harness", "opencode"], &[]);
    pod.start_sidecar().await;
    let stream = controller.attached().await;
    let mut world = World {
        controller,
        stream,
        pod,
        runner,
    };
    world.stream.run("true", "").await;
    let (_, exited) = world.end().await;
    assert_eq!(exited.code, 126);
    assert!(exited.error.contains("set spec.model"), "{}", exited.error);
}
