//! Benchmark `swarm`: one grant for many sessions, and many grants beside it.
//!
//! In: a cluster with Berth and its forge. Out: rows. Five hundred sessions are bound to pods of a node that is a stand-in
//! ([`node_stand_in`]): agent-sandbox, the API server and the controller do for each what they do for any; their sidecars are
//! real clients of the control stream. A binding that they all match is merged and reverted by pull requests; then again
//! beside a thousand other bindings. The clock starts when the forge has answered the merge, and stops when the last sidecar
//! has got what it brings.

mod node_stand_in;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_e2e::{Cluster, Team, cluster, node, stream};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::report::{Row, percentile};
use crate::reviewed::Reviewed;
use crate::sessions::{leader, resident};
use node_stand_in::{Held, LABEL, NodeStandIn};

/// Sessions; issue 5's own number, as is the next.
const SESSIONS: usize = 500;
/// Bindings beside the one that is measured: ten for each of as many groups of five sessions.
const BINDINGS: usize = 1_000;
const GROUPS: usize = 100;
/// What one session lists beside the one.
const LISTED: usize = BINDINGS / GROUPS;
/// Requests under way while the sessions are made.
const AT_ONCE: usize = 8;
/// Time in which nothing changes.
const IDLE: Duration = Duration::from_mins(1);
const HOST: &str = "outside.example.com";

struct Bench {
    team: Team,
    reviewed: Reviewed,
    node: NodeStandIn,
}

/// How long all sessions took.
struct Cycle {
    granted: Duration,
    revoked: Duration,
}

/// Measures `n` cycles.
pub(crate) async fn measure(n: u32) -> Result<Vec<Row>> {
    let cluster = cluster().await?;
    let before = Row::new("controller before, resident", resident(&cluster).await?, "MiB");
    let bench = Bench::new(&cluster).await?;
    let rows = bench.rows(&cluster, n).await;
    bench.end().await?;
    Ok(std::iter::once(before).chain(rows?).collect())
}

/// What the controller needs of a core while nothing changes.
async fn idle(cluster: &Cluster, beside: &str) -> Result<Row> {
    let before = processor(cluster).await?;
    tokio::time::sleep(IDLE).await; // what is measured is the time itself
    let spent = processor(cluster).await?.saturating_sub(before);
    let share = spent.as_secs_f64() / IDLE.as_secs_f64();
    Ok(Row::new(
        format!("{beside}: an idle minute, of a core"),
        share * 100.0,
        "%",
    ))
}

/// Time on a processor that the controller has had.
async fn processor(cluster: &Cluster) -> Result<Duration> {
    let pod = leader(&kube::Api::namespaced(cluster.client.clone(), "berth-system")).await?;
    node::processor_time(node::process(
        &pod.uid().context("a pod has a UID")?,
        "berth-controller",
    )?)
}

impl Bench {
    async fn new(cluster: &Cluster) -> Result<Self> {
        let team = Team::create(cluster, "bench-swarm").await?;
        team.offer("one", "fake-value-of-the-one", HOST).await?;
        for group in 0..GROUPS {
            let value = format!("fake-value-of-group-{group}");
            team.offer(&format!("group-{group}"), &value, HOST).await?;
        }
        team.policy(json!({
            "allow": [{ "name": "outside", "hosts": [HOST] }], "require": { "review": { "minApprovals": 1 } },
        }))
        .await?;
        let mut pool = team.pool(0);
        pool["spec"]["nodeSelector"] = json!({ LABEL: "true" });
        pool["spec"]["tolerations"] = json!([{ "key": LABEL, "operator": "Exists", "effect": "NoSchedule" }]);
        team.warm(&pool).await?;
        let node = NodeStandIn::join(&team, stream::endpoint(&team).await?).await?;
        Ok(Self {
            reviewed: Reviewed::begin(&team, "1h").await?,
            team,
            node,
        })
    }

    async fn rows(&self, cluster: &Cluster, n: u32) -> Result<Vec<Row>> {
        let began = Instant::now();
        self.bind().await?;
        eprintln!("{SESSIONS} sessions are bound after {} s", began.elapsed().as_secs());
        let what = format!("{SESSIONS} sessions");
        let memory = |what: &str, mib: f64| Row::new(format!("{what}: resident"), mib, "MiB");
        let mut rows = vec![memory(&what, resident(cluster).await?), idle(cluster, &what).await?];
        rows.extend(self.cycles(cluster, n, &what).await?);

        let what = format!("{BINDINGS} bindings × {SESSIONS} sessions");
        let before = processor(cluster).await?;
        let took = self.grant_many().await?.as_secs_f64();
        let spent = processor(cluster).await?.saturating_sub(before).as_secs_f64();
        rows.push(Row::new(format!("{what}: one merge to the last sidecar"), took, "s"));
        rows.push(Row::new(format!("{what}: processor of the merge"), spent, "s"));
        rows.push(memory(&what, resident(cluster).await?));
        rows.push(idle(cluster, &what).await?);
        rows.extend(self.cycles(cluster, n, &what).await?);
        Ok(rows)
    }

    async fn end(self) -> Result<()> {
        self.team.end_policy().await?;
        self.team.end().await?;
        self.node.leave().await
    }

    /// Makes the sessions, and waits until every sidecar was told that it may use nothing yet.
    async fn bind(&self) -> Result<()> {
        let made = futures::stream::iter(0..SESSIONS).map(async |number| self.team.apply(&session(number)).await);
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let bound = |held: &[Held]| held.len() == SESSIONS;
        self.node.wait("all sessions are bound", bound).await.map(drop)
    }

    /// Grants and revokes the one `n` times.
    async fn cycles(&self, cluster: &Cluster, n: u32, beside: &str) -> Result<Vec<Row>> {
        let (mut cycles, before) = (Vec::new(), processor(cluster).await?);
        for number in 0..n {
            cycles.push(
                self.cycle(&format!("one-{beside}-{number}").replace([' ', '×'], "-"))
                    .await?,
            );
        }
        let spent = processor(cluster).await?.saturating_sub(before).as_secs_f64() / f64::from(n.max(1)) / 2.0;
        let times = |of: fn(&Cycle) -> Duration| cycles.iter().map(of).collect::<Vec<_>>();
        let worst = |of| percentile(&times(of), 100);
        let figure = |what: &str| format!("{beside}: {what} (n={n})");
        let limit = 3_000.0; // issue 5, of 500 sessions
        Ok(vec![
            Row::new(
                figure("merge to the last permitted, worst"),
                worst(|it| it.granted),
                "ms",
            ),
            Row::new(
                figure("revert to the last revoked, worst"),
                worst(|it| it.revoked),
                "ms",
            )
            .at_most(limit),
            Row::new(figure("processor of one of them"), spent * 1e3, "ms"),
        ])
    }

    async fn cycle(&self, topic: &str) -> Result<Cycle> {
        let has = |held: &Held| held.credentials.iter().any(|name| name.eq_ignore_ascii_case("one"));
        let all = |held: &[Held]| held.len() == SESSIONS && held.iter().all(has);
        let merged = self
            .reviewed
            .merge(topic, |it| it.write("one.yaml", &one(topic).to_string()))
            .await?;
        let granted = last(merged, &self.node.wait("all may use it", all).await?)?;
        let back = format!("{topic}-back");
        let merged = self.reviewed.merge(&back, |it| it.remove("one.yaml")).await?;
        let none = |held: &[Held]| held.len() == SESSIONS && !held.iter().any(has);
        let revoked = last(merged, &self.node.wait("none may use it", none).await?)?;
        Ok(Cycle { granted, revoked })
    }

    /// All others in one commit; gives the time to the last sidecar.
    async fn grant_many(&self) -> Result<Duration> {
        let merged = self.reviewed.merge("many", |repository| {
            let mut all = 0..BINDINGS;
            all.try_for_each(|number| repository.write(&format!("many/{number}.yaml"), &of_group(number).to_string()))
        });
        let merged = merged.await?;
        let full = |held: &[Held]| held.len() == SESSIONS && held.iter().all(|held| held.credentials.len() == LISTED);
        last(merged, &self.node.wait("all may use theirs", full).await?)
    }
}

/// The last of all, after a merge.
fn last(merged: Timestamp, held: &[Held]) -> Result<Duration> {
    let last = held.iter().map(|held| held.at).max().context("a sidecar")?;
    ensure!(held.len() == SESSIONS, "{} sidecars", held.len());
    // A forge tells its hooks beside the answer: what came before that took no time.
    Ok(Duration::try_from(last.duration_since(merged)).unwrap_or_default())
}

fn session(number: usize) -> Value {
    let listed = (0..LISTED).map(|of| json!({ "name": format!("T{of}"), "required": false }));
    let credentials: Vec<Value> = std::iter::once(json!({ "name": "ONE", "required": false }))
        .chain(listed)
        .collect();
    let labels = json!({ "group": format!("{}", number % GROUPS) });
    let spec = json!({ "poolRef": { "name": "pool" }, "task": { "prompt": "none" }, "credentials": credentials });
    json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession",
        "metadata": { "name": format!("s-{number}"), "labels": labels }, "spec": spec,
    })
}

/// The binding that all of them match.
fn one(topic: &str) -> Value {
    binding("one", "ONE", "one", &json!({ "allSessions": true }), topic)
}

/// One of the others.
fn of_group(number: usize) -> Value {
    let (group, of) = (number % GROUPS, number / GROUPS);
    let labels = json!({ "matchLabels": { "group": group.to_string() } });
    let subjects = json!({ "sessionSelector": labels });
    binding(
        &format!("b-{number}"),
        &format!("T{of}"),
        &format!("group-{group}"),
        &subjects,
        "many",
    )
}

fn binding(name: &str, credential: &str, secret: &str, subjects: &Value, reason: &str) -> Value {
    let route = json!({
        "name": "outside", "host": HOST, "methods": ["GET"], "paths": [format!("/{credential}")],
        "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
    });
    let credential = json!({ "name": credential, "source": { "secretRef": { "name": secret, "key": "token" } } });
    let spec = json!({ "credential": credential, "subjects": subjects, "routes": [route], "reason": reason });
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec })
}
