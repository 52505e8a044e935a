//! Each program's launch, and what is read of what the real program printed: `runner/tests/recordings`, made with the
//! played model (`cargo run -p berth-gallery --bin played-model`) and the versions that `images/` pin. Paths and the model's
//! address were replaced, and Claude Code's first line cut.

use berth_protocol::told::Told;

use super::*;

fn assignment() -> Assignment {
    let env = [
        ("COLOUR", "blue"),
        ("HTTPS_PROXY", "http://elsewhere"),
        ("BERTH_SESSION", "another"),
        ("OPENAI_BASE_URL", "https://model.example.com/v1/"),
    ];
    Assignment {
        namespace: "team".to_owned(),
        name: "fix".to_owned(),
        incarnation: 2,
        prompt: "Fix it.".to_owned(),
        env: variables(env),
        ..Assignment::default()
    }
}

fn with_model() -> Assignment {
    Assignment {
        model: "large".to_owned(),
        ..assignment()
    }
}

fn launch(kind: Kind, assignment: &Assignment, fallback: &[&str], resume: Option<&str>) -> Result<Launch, LaunchError> {
    let fallback: Vec<String> = fallback.iter().map(|word| (*word).to_owned()).collect();
    kind.launch(Task {
        assignment,
        fallback: &fallback,
        home: Path::new("/home/agent"),
        workspace: Path::new("/workspace"),
        resume,
        prompt: &assignment.prompt,
    })
}

fn command(kind: Kind, resume: Option<&str>) -> String {
    launch(kind, &with_model(), &[], resume).unwrap().command.join(" ")
}

#[test]
fn what_berth_says_wins_over_the_author() {
    let launch = launch(Kind::Custom, &assignment(), &["sh"], None).unwrap();
    let lines: Vec<String> = launch
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let expected = [
        "BERTH_INCARNATION=2",
        "BERTH_NAMESPACE=team",
        "BERTH_SESSION=fix",
        "COLOUR=blue",
        "GIT_CONFIG_COUNT=3",
        "GIT_CONFIG_KEY_0=safe.directory",
        "GIT_CONFIG_KEY_1=user.name",
        "GIT_CONFIG_KEY_2=user.email",
        "GIT_CONFIG_VALUE_0=/workspace",
        "GIT_CONFIG_VALUE_1=fix",
        "GIT_CONFIG_VALUE_2=fix@team.sessions.berth.dev",
        "HTTPS_PROXY=http://127.0.0.1:14322",
        "HTTP_PROXY=http://127.0.0.1:14322",
        "NO_PROXY=127.0.0.1,localhost",
        "OPENAI_BASE_URL=https://model.example.com/v1/",
        "http_proxy=http://127.0.0.1:14322",
        "https_proxy=http://127.0.0.1:14322",
        "no_proxy=127.0.0.1,localhost",
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        (launch.command, launch.input.as_str()),
        (vec!["sh".to_owned()], "Fix it.")
    );
}

#[test]
fn the_assignment_may_name_command_and_model() {
    let command = vec!["agent".to_owned(), "--yes".to_owned()];
    let assignment = Assignment {
        command: command.clone(),
        ..with_model()
    };
    let custom = launch(Kind::Custom, &assignment, &["sh"], None).unwrap();
    assert_eq!(custom.command, command);
    assert_eq!(custom.env["BERTH_MODEL"], "large");
    let claude = launch(Kind::ClaudeCode, &assignment, &["sh"], None).unwrap();
    assert_eq!(claude.command[..3], ["agent", "--yes", "-p"]);
}

#[test]
fn each_program_is_asked_in_its_own_way_and_resumes() {
    assert_eq!(
        command(Kind::ClaudeCode, Some("id")),
        "claude -p --output-format stream-json --verbose --permission-mode bypassPermissions --model large --resume id"
    );
    assert_eq!(
        command(Kind::Codex, None),
        "codex exec --json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox --model large -"
    );
    assert!(command(Kind::Codex, Some("id")).starts_with("codex exec resume id --json"));
    assert_eq!(
        command(Kind::OpenCode, Some("id")),
        "opencode run --format json --session id"
    );
    assert_eq!(
        command(Kind::Hermes, Some("id")),
        "hermes chat --quiet --yolo --continue --query=Fix it."
    );
}

#[test]
fn settings_name_the_service_and_the_variable_of_the_stub_and_no_key() {
    let codex = launch(Kind::Codex, &with_model(), &[], None).unwrap();
    let (path, settings) = &codex.files[0];
    assert_eq!(path, Path::new("/home/agent/.codex/config.toml"));
    assert!(
        settings.contains("base_url = \"https://model.example.com/v1\"\n"),
        "{settings}"
    );
    assert!(settings.contains("env_key = \"OPENAI_API_KEY\""));
    let hermes = launch(Kind::Hermes, &with_model(), &[], None).unwrap();
    let (path, settings) = &hermes.files[0];
    assert_eq!(path, Path::new("/home/agent/.hermes/config.yaml"));
    let settings: serde_json::Value = serde_json::from_str(settings).unwrap();
    assert_eq!(settings["model"]["api_key"], "${OPENAI_API_KEY}");
    assert_eq!(settings["model"]["base_url"], "https://model.example.com/v1");
    let opencode = launch(Kind::OpenCode, &with_model(), &[], None).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&opencode.env["OPENCODE_CONFIG_CONTENT"]).unwrap();
    assert_eq!(
        settings["provider"]["berth"]["options"]["apiKey"],
        "{env:OPENAI_API_KEY}"
    );
    assert_eq!(settings["model"], "berth/large");
}

#[test]
fn what_a_program_cannot_be_given_is_said() {
    for kind in [Kind::OpenCode, Kind::Hermes] {
        let error = launch(kind, &assignment(), &[], None).unwrap_err();
        assert!(error.to_string().contains("set spec.model"), "{error}");
    }
    let long = Assignment {
        prompt: "€".repeat(65536),
        ..with_model()
    };
    assert!(matches!(
        launch(Kind::Hermes, &long, &[], None),
        Err(LaunchError::LongPrompt { .. })
    ));
    assert!(launch(Kind::ClaudeCode, &long, &[], None).is_ok());
}

#[test]
fn each_program_keeps_something_below_the_home() {
    for kind in Kind::value_variants() {
        assert_eq!(kind.keeps().is_empty(), *kind == Kind::Custom, "{kind:?}");
        assert_eq!(kind.reader().is_none(), *kind == Kind::Custom, "{kind:?}");
    }
}

fn told(kind: Kind, recording: &str) -> Vec<Told> {
    let mut reader = kind.reader().unwrap();
    let mut told: Vec<Told> = recording.lines().flat_map(|line| reader.line(line)).collect();
    told.extend(reader.end());
    told
}

fn kinds(told: &[Told]) -> String {
    told.iter().map(Told::kind).collect::<Vec<_>>().join(" ")
}

fn usage(told: &[Told]) -> (u64, u64) {
    let step = |told: &Told| match told {
        Told::Usage {
            input_tokens,
            output_tokens,
            ..
        } => Some((*input_tokens, *output_tokens)),
        _ => None,
    };
    told.iter()
        .filter_map(step)
        .fold((0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1))
}

fn result(told: &[Told]) -> (&str, bool) {
    let Some(Told::Result { text, failed }) = told.last() else {
        panic!("no result: {told:?}")
    };
    (text, *failed)
}

/// The command that the played model has each program run, as it tells it, and what came of it.
fn assert_ran(told: &[Told]) {
    let call = told.iter().find_map(|told| match told {
        Told::ToolCall { id, input, .. } => Some((id, input)),
        _ => None,
    });
    let (id, input) = call.unwrap();
    assert!(
        input.contains("printf played > played.txt && cat played.txt"),
        "{input}"
    );
    let answer = Told::ToolResult {
        id: id.clone(),
        output: "played".to_owned(),
        failed: false,
    };
    assert!(told.contains(&answer), "{told:?}");
}

#[test]
fn claude_code_is_understood() {
    let ran = told(
        Kind::ClaudeCode,
        include_str!("../../tests/recordings/claude-code.jsonl"),
    );
    assert_eq!(kinds(&ran), "session toolCall toolResult message usage result");
    assert_ran(&ran);
    assert_eq!(
        (usage(&ran), result(&ran)),
        ((22, 14), ("The command said: played", false))
    );
    let failed = told(
        Kind::ClaudeCode,
        include_str!("../../tests/recordings/claude-code-failed.jsonl"),
    );
    assert_eq!(kinds(&failed), "session message usage error result");
    let (text, has_failed) = result(&failed);
    assert!(has_failed && text.contains("selected model (played)"), "{text}");
}

#[test]
fn codex_is_understood() {
    let ran = told(Kind::Codex, include_str!("../../tests/recordings/codex.jsonl"));
    // It says that it doesn't know the played model.
    assert_eq!(kinds(&ran), "session error toolCall toolResult message usage result");
    assert_ran(&ran);
    let (text, failed) = result(&ran);
    assert!(text.ends_with("played") && !failed, "{text}");
    assert_eq!(usage(&ran), (22, 14));
    let failed = told(Kind::Codex, include_str!("../../tests/recordings/codex-failed.jsonl"));
    let (text, has_failed) = result(&failed);
    assert!(has_failed && text.contains("404 Not Found"), "{text}");
}

#[test]
fn opencode_is_understood() {
    let ran = told(Kind::OpenCode, include_str!("../../tests/recordings/opencode.jsonl"));
    assert_eq!(kinds(&ran), "session toolCall toolResult usage message usage result");
    assert_ran(&ran);
    assert_eq!(
        (usage(&ran), result(&ran)),
        ((22, 14), ("The command said: played", false))
    );
    let failed = told(
        Kind::OpenCode,
        include_str!("../../tests/recordings/opencode-failed.jsonl"),
    );
    assert_eq!(kinds(&failed), "session error result");
    assert_eq!(result(&failed), ("the played model has no such path", true));
}

#[test]
fn hermes_is_understood() {
    let ran = told(Kind::Hermes, include_str!("../../tests/recordings/hermes.txt"));
    assert_eq!(kinds(&ran), "message result");
    let (text, failed) = result(&ran);
    assert!(text.starts_with("The command said:") && !failed, "{text}");
}
