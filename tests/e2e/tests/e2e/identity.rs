//! Who may speak for a pod: tests attach to the real control stream as an attacker would, and see what it gets them.
//!
//! In: tokens as the node holds them, and keys of the tests' own. A test must never touch a pod outside its namespace.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use berth_crds::{AgentSession, Phase};
use berth_e2e::stream::{Stream, endpoint, proof};
use berth_e2e::{Team, cluster, node};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tonic::Code;

/// The pod of a pool of one.
async fn warm_pod(team: &Team) -> Result<Pod> {
    let pods = team.api::<Pod>().list(&ListParams::default()).await?;
    let mut alive = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive.next().context("the pool has no pod")
}

/// The projected token that a program of the pod sees at this path: the node's root can read it.
fn token(pod: &Pod, program: &str, path: &str) -> Result<String> {
    let process = node::process(&pod.uid().context("a uid")?, program)?;
    Ok(fs::read_to_string(format!("/proc/{process}/root{path}"))?)
}

fn incarnation(session: &AgentSession) -> i64 {
    session.status.as_ref().map_or(0, |status| status.incarnation)
}

fn pod_name(session: &AgentSession) -> Option<&str> {
    session.status.as_ref()?.sandbox.as_ref()?.pod_name.as_deref()
}

#[tokio::test]
async fn a_stream_without_a_token_of_audience_berth_is_refused() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "token", 1).await?;
    let other = team.kubectl(&["create", "token", "default"])?;
    for token in [None, Some("garbage"), Some(other.trim())] {
        match Stream::open(&endpoint(&team).await?, token).await? {
            Ok(_) => bail!("a stream was opened with {token:?}"),
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{token:?}: {status}"),
        }
    }
    // The same client with a pod's token is welcome, so it was the token that was refused.
    let genuine = token(&warm_pod(&team).await?, SIDECAR, SIDECAR_TOKEN)?;
    Stream::of_pod(&endpoint(&team).await?, &genuine)
        .await?
        .prove(proof)
        .await?;
    team.end().await
}

#[tokio::test]
async fn a_copied_token_gets_nothing_and_its_pod_is_bound_to_no_session() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "copied", 1).await?;
    let poisoned = warm_pod(&team).await?;
    let copied = token(&poisoned, SIDECAR, SIDECAR_TOKEN)?;
    let mut stream = Stream::of_pod(&endpoint(&team).await?, &copied).await?;
    stream.prove(proof).await?;
    stream.ends().await?;

    team.session("s", "echo done > result.md").await?;
    let ended = |session: &AgentSession| {
        let phase = session.status.as_ref().and_then(|status| status.phase);
        phase == Some(Phase::Succeeded)
    };
    let session = team.wait::<AgentSession>("s", "success", REPLACED, ended).await?;
    assert_eq!(incarnation(&session), 2);
    assert_ne!(pod_name(&session), Some(poisoned.name_any().as_str()));
    team.end().await
}

#[tokio::test]
async fn a_key_that_is_not_proven_is_refused_and_harms_no_pod() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "proof", 1).await?;
    let pod = warm_pod(&team).await?;
    let copied = token(&pod, SIDECAR, SIDECAR_TOKEN)?;
    let mut stream = Stream::of_pod(&endpoint(&team).await?, &copied).await?;
    stream.prove(<[u8]>::to_vec).await?; // without the prefix
    stream.ends().await?;

    // Had the key been taken, the pod would have shown two and be refused.
    team.session("s", "true").await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    assert_eq!(
        (incarnation(&session), pod_name(&session)),
        (1, Some(pod.name_any().as_str()))
    );
    team.end().await
}

/// A pod that claims to be the sandbox's: its labels, owner and account, and a token of its own.
fn look_alike(genuine: &Pod) -> Result<Pod> {
    let source = json!({ "serviceAccountToken": { "audience": "berth", "path": "token", "expirationSeconds": 600 } });
    let security = json!({
        "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let container = json!({
        "name": "agent", "image": "localhost/berth-agent-base:dev", "imagePullPolicy": "Never",
        "command": ["sleep", "600"], "securityContext": security,
        "volumeMounts": [{ "name": "token", "mountPath": "/token" }],
    });
    let pod = json!({
        "metadata": {
            "name": "look-alike", "labels": genuine.labels(), "ownerReferences": genuine.meta().owner_references,
        },
        "spec": {
            "serviceAccountName": "berth-agent", "automountServiceAccountToken": false, "containers": [container],
            "volumes": [{ "name": "token", "projected": { "sources": [source] } }],
        },
    });
    Ok(serde_json::from_value(pod)?)
}

/// Makes the look-alike, and attaches as it.
async fn attach_as(team: &Team, pod: &Pod) -> Result<Stream> {
    team.api::<Pod>().create(&PostParams::default(), pod).await?;
    let running = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Running")
    };
    let forged = team.wait::<Pod>("look-alike", "running", REPLACED, running).await?;
    let mut stream = Stream::of_pod(&endpoint(team).await?, &token(&forged, "sleep", "/token/token")?).await?;
    stream.prove(proof).await?;
    stream.is_quiet(QUIET).await?;
    Ok(stream)
}

#[tokio::test]
async fn a_pod_with_a_warm_pods_owner_and_labels_is_never_assigned_its_session() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "alike", 1).await?;
    let genuine = warm_pod(&team).await?;
    let mut alike = look_alike(&genuine)?;
    for owner in alike.owner_references_mut() {
        owner.controller = Some(false); // a second controlled pod takes the sandbox out of the pool: the next test
    }
    let mut stream = attach_as(&team, &alike).await?;

    team.session("s", "true").await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    assert_eq!(
        (incarnation(&session), pod_name(&session)),
        (1, Some(genuine.name_any().as_str()))
    );
    stream.is_quiet(QUIET).await?;
    team.end().await
}

#[tokio::test]
async fn a_pod_that_says_the_sandbox_controls_it_is_never_assigned_a_session() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "owned", 1).await?;
    let genuine = warm_pod(&team).await?;
    let mut stream = attach_as(&team, &look_alike(&genuine)?).await?;

    // agent-sandbox gives up a sandbox with two pods, so the session gets a pod of its own.
    team.session("s", "true").await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    assert_eq!(incarnation(&session), 1);
    let bound = pod_name(&session).context("a pod")?;
    ensure!(bound != "look-alike", "the session is bound to {bound}");
    stream.is_quiet(QUIET).await?;
    team.end().await
}

#[tokio::test]
async fn nobody_but_a_kubelet_mints_a_token_of_audience_berth() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "minted", 1).await?;
    let mint = |audience: &str| team.kubectl(&["create", "token", "berth-agent", "--audience", audience]);
    let error = mint("berth").err().context("a token was minted")?.to_string();
    ensure!(error.contains("minted by kubelets only"), "{error}");
    mint("elsewhere")?;
    team.end().await
}

#[tokio::test]
async fn a_second_connection_to_the_runners_socket_changes_nothing_and_is_recorded() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "socket", 1).await?;
    let forge = r#"perl -MIO::Socket::UNIX -e '
        $SIG{PIPE} = "IGNORE"; # the refusal may come before the last frame
        my $s = IO::Socket::UNIX->new(Peer => "/berth/handoff/runner.sock") or die "no connection: $!";
        syswrite $s, pack "N/a*", $_ for
            q({"type":"hello","protocol":1,"ran_incarnation":1}),
            q({"type":"exited","code":0,"summary":"forged","error":""});
        sysread $s, my $answer, 1;'
        status=$?; id -u > result.md; [ $status = 0 ] || exit 9; exit 7"#;
    team.session("s", forge).await?;
    let session = team.condition("s", "Succeeded", "False", "HarnessFailed").await?;
    let result = session.status.clone().and_then(|status| status.result);
    let result = result.context("a result")?;
    assert_eq!((result.exit_code, result.summary.as_deref()), (Some(7), Some("1000\n")));
    let violations = "select count(*) from session_event where session_uid = $1 and kind = 'violation'";
    let violations: i64 = sqlx::query_scalar(violations)
        .bind(session.uid().context("a uid")?)
        .fetch_one(&team.cluster.database)
        .await?;
    assert_eq!(violations, 1);
    team.end().await
}

const SIDECAR: &str = "berth-sidecar";
/// Where the kubelet's volume is in the sidecar.
const SIDECAR_TOKEN: &str = "/berth/token/token";
/// A refused proof, or an assignment to the wrong pod, would be there within a round trip.
const QUIET: Duration = Duration::from_secs(2);
/// A pod starts anew in between, on two cores that other tests share.
const REPLACED: Duration = Duration::from_mins(2);
