//! The HTTP API: the same events for every reader, for those who may, of one session and no other.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::Phase;
use berth_e2e::api::{Caller, URL, address, client};
use berth_e2e::{Team, cluster, session_yaml};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::DeleteParams;
use reqwest::StatusCode;
use serde_json::{Value, json};

const TALKS: &str = "for i in $(seq 1 20); do echo line $i; sleep 0.1; done; echo trouble >&2; printf 'no \\377 text'";

async fn text(caller: &Caller, team: &Team, path: &str) -> Result<String> {
    Ok(caller.get(team, path).send().await?.error_for_status()?.text().await?)
}

/// The messages of a stream of server-sent events.
fn messages(stream: &str) -> Vec<(&str, &str, Value)> {
    let read = |message: &&str| !message.trim().is_empty() && !message.starts_with(':');
    let parse = |message| {
        let line = |name: &str| {
            str::lines(message)
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
        };
        let data = serde_json::from_str(line("data: ")).unwrap_or_default();
        (line("id: "), line("event: "), data)
    };
    stream.split("\n\n").filter(read).map(parse).collect()
}

#[tokio::test]
async fn every_reader_is_told_the_same_and_goes_on_where_it_was() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "api", 1).await?;
    let caller = Caller::create(&team, "reader", "berth-view").await?;
    team.session("s", TALKS).await?;
    team.phase("s", Phase::Running).await?;
    let live = text(&caller, &team, "s/events").await?; // until the session is over
    let again = text(&caller, &team, "s/events").await?;
    assert_eq!(live, again);
    let all = messages(&live);
    let kinds: Vec<&str> = all.iter().map(|(_, kind, _)| *kind).collect();
    assert_eq!((kinds[0], kinds.last()), ("started", Some(&"end")), "{kinds:?}");
    let printed: String = all
        .iter()
        .filter(|(.., data)| data["stream"] == 1)
        .map(|(.., data)| printed(data))
        .collect();
    let lines: Vec<String> = (1..=20).map(|line| format!("line {line}")).collect();
    assert_eq!(printed, format!("{}\nno \u{fffd} text", lines.join("\n")));

    let (last, ..) = all[all.len() / 2];
    let rest = caller
        .get(&team, "s/events")
        .header("Last-Event-ID", last)
        .send()
        .await?;
    let rest = rest.error_for_status()?.text().await?;
    assert_eq!(messages(&rest), all[all.len() / 2 + 1..]);

    let lines = text(&caller, &team, "s/transcript?kinds=started,exited").await?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["started", "exited"]);

    // A later session of the same name is another one.
    team.kubectl(&["delete", "agentsession", "s"])?;
    team.session("s", "echo another").await?;
    team.phase("s", Phase::Succeeded).await?;
    let other = text(&caller, &team, "s/events").await?;
    assert!(other.contains("another") && !other.contains("line 1"), "{other}");
    team.end().await
}

fn printed(data: &Value) -> String {
    use base64::Engine as _;
    let text = data["text"].as_str().map(str::to_owned);
    text.unwrap_or_else(|| {
        let bytes = data["base64"]
            .as_str()
            .and_then(|data| base64::prelude::BASE64_STANDARD.decode(data).ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    })
}

async fn refusal(request: reqwest::RequestBuilder) -> Result<(StatusCode, String)> {
    let answer = request.send().await?;
    let code = answer.status();
    let problem: Value = answer.json().await?;
    assert_eq!(problem["code"], code.as_u16());
    let message = problem["message"].as_str().context("a message")?;
    assert!(!message.is_empty());
    Ok((code, problem["reason"].as_str().context("a reason")?.to_owned()))
}

#[tokio::test]
async fn only_those_who_may_read() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "rights", 1).await?;
    team.session("s", "echo secret plans").await?;
    team.phase("s", Phase::Succeeded).await?;
    let reader = Caller::create(&team, "reader", "berth-view").await?;
    let syncer = Caller::create(&team, "syncer", "berth-sync").await?;
    // One of audience `berth` can't even be had: the admission policy berth-tokens.
    let other = Caller::with(&team, "reader", "another").await?;
    let refused = |code: StatusCode, reason: &str| (code, reason.to_owned());
    let unauthorized = refused(StatusCode::UNAUTHORIZED, "Unauthorized");
    let bare = client(&team).await?;
    let url = format!("{URL}/v1/sessions/{}/s/transcript", team.namespace);
    assert_eq!(refusal(bare.get(&url)).await?, unauthorized);
    assert_eq!(refusal(bare.get(format!("{url}?token=x"))).await?, unauthorized);
    assert_eq!(refusal(other.get(&team, "s/transcript")).await?, unauthorized);
    let forbidden = refused(StatusCode::FORBIDDEN, "Forbidden");
    assert_eq!(refusal(syncer.get(&team, "s/transcript")).await?, forbidden);
    assert_eq!(refusal(syncer.get(&team, "s/events")).await?, forbidden);
    // Whether it exists isn't told to those who may not know.
    assert_eq!(refusal(syncer.get(&team, "nothing/events")).await?, forbidden);
    let missing = refused(StatusCode::NOT_FOUND, "NotFound");
    assert_eq!(refusal(reader.get(&team, "nothing/events")).await?, missing);
    assert_eq!(refusal(reader.get(&team, "s/unknown")).await?, missing);
    let bad = refused(StatusCode::BAD_REQUEST, "BadRequest");
    assert_eq!(refusal(reader.get(&team, "s/events?after=x")).await?, bad);
    assert_eq!(refusal(reader.get(&team, "s/events?unknown=x")).await?, bad);
    let document: Value = bare.get(format!("{URL}/openapi.json")).send().await?.json().await?;
    assert_eq!(document["openapi"], "3.1.0");
    assert!(text(&reader, &team, "s/transcript").await?.contains("secret plans"));
    team.end().await
}

/// The document of the API with one session in its paths, and the paths that end so alone.
fn document(namespace: &str, session: &str, ends: &[&str]) -> Result<tempfile::NamedTempFile> {
    let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/../../controller/src/api/openapi.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(whole)?)?;
    let parameters = &mut document["components"]["parameters"];
    parameters["namespace"]["schema"] = json!({ "type": "string", "enum": [namespace] });
    parameters["name"]["schema"] = json!({ "type": "string", "enum": [session] });
    let paths = document["paths"].as_object_mut().context("paths")?;
    paths.retain(|path, _| ends.iter().any(|end| path.ends_with(end)));
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), document.to_string())?;
    Ok(file)
}

/// schemathesis asks everything that the document allows, and much that it doesn't.
#[tokio::test]
async fn the_document_says_what_the_api_does() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "document", 1).await?;
    let caller = Caller::create(&team, "editor", "berth-edit").await?;
    let view = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "berth-view" });
    let subject = json!({ "kind": "ServiceAccount", "name": "editor", "namespace": team.namespace });
    let binding = json!({ "metadata": { "name": "view" }, "roleRef": view, "subjects": [subject] });
    team.create_typed::<RoleBinding>(&binding).await?;
    team.session("done", TALKS).await?;
    team.phase("done", Phase::Succeeded).await?;
    let mut talk: Value = serde_json::from_str(&session_yaml("s", "echo begun"))?;
    talk["spec"]["task"]["mode"] = "Interactive".into();
    team.apply(&talk).await?;
    crate::interactive::waits(&team, 0).await?;
    let folder = tempfile::tempdir()?; // it keeps notes of its own where it runs
    for (session, ends) in [("done", ["events", "transcript"]), ("s", ["messages", "abort"])] {
        let file = document(&team.namespace, session, &ends)?;
        let url = format!("--url=https://{}:8444", address(&team).await?);
        let bearer = format!("--header=Authorization: Bearer {}", caller.token());
        let run = Command::new("schemathesis")
            .current_dir(folder.path())
            .args([
                "run",
                &url,
                &bearer,
                "--tls-verify=false",
                "--max-examples=15",
                "--generation-deterministic",
            ])
            .args(["--no-color", "--phases=coverage,fuzzing", "--request-timeout=10"])
            .arg(file.path())
            .output();
        let run = run.context("schemathesis can't be run: tests/gallery/install")?;
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    }
    team.end().await
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_an_open_stream() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "taken", 1).await?;
    let reader = Caller::create(&team, "reader", "berth-view").await?;
    team.session("s", "echo begun; sleep 300").await?;
    team.phase("s", Phase::Running).await?;
    let reading = reader.get(&team, "s/events").send().await?.error_for_status()?;
    team.api::<RoleBinding>()
        .delete("reader", &DeleteParams::default())
        .await?;
    // The review is once a minute.
    let told = tokio::time::timeout(Duration::from_secs(75), reading.text())
        .await
        .context("it goes on")??;
    let all = messages(&told);
    let (_, kind, data) = all.last().context("a message")?;
    assert_eq!(
        (*kind, &data["reason"]),
        ("problem", &Value::from("Forbidden")),
        "{told}"
    );
    team.end().await
}
