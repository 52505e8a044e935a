//! Benchmark `sessions`: bare SandboxClaims beside AgentSessions, in turn, on one warm pool.
//!
//! In: a cluster with Berth. Out: rows. Overhead is what Berth adds to agent-sandbox: session created → claim seen,
//! and claim Ready seen → session bound seen. Never lets a cold start in: each batch begins with a full pool.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_controller::sandbox::kind::{NameRef, SandboxClaimSpec};
use berth_controller::sandbox::{ClaimPhase, SandboxClaim, SandboxWarmPool, claim_phase};
use berth_crds::{AgentSession, Phase, label};
use berth_e2e::{Cluster, Team, cluster, node, session_yaml};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{Config, KubeConfigOptions};
use kube::{Api, Client, ResourceExt};

use crate::audit::{self, BERTH, Write};
use crate::follow::{Follow, Seen};
use crate::report::{Row, percentile};

/// Sandboxes that wait warm: as many as the round at once takes. Two cores hold them beside the control plane.
const POOL: u16 = 20;
/// Pairs between two refills: a pair takes two sandboxes.
const BATCH: u32 = POOL as u32 / 2;
/// Two cores start a pool's pods in about a minute.
const REFILL: Duration = Duration::from_mins(4);

/// What is measured on.
struct Bench {
    team: Team,
    pool: String,
    claims: Api<SandboxClaim>,
    sessions: Api<AgentSession>,
    seen_claims: Follow,
    seen_sessions: Follow,
}

/// One session's way.
struct Way {
    name: String,
    /// Created → bound.
    total: Duration,
    /// Created → its claim seen.
    made: Duration,
    /// The claim seen Ready → bound.
    told: Duration,
    bound: Timestamp,
}

/// Measures; the namespace goes afterwards, whatever happened.
pub(crate) async fn measure(n: u32, log: &Path) -> Result<Vec<Row>> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "bench", POOL.into()).await?;
    let bench = Bench::new(team).await?;
    let rows = bench.rows(n, log).await;
    bench.team.end().await?;
    rows
}

impl Bench {
    async fn new(team: Team) -> Result<Self> {
        let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await?;
        // Admission refuses claims on a pool's sandboxes from anyone else.
        config.auth_info.impersonate = Some(BERTH.to_owned());
        let claims = Api::namespaced(Client::try_from(config)?, &team.namespace);
        let pools = team.api::<SandboxWarmPool>().list(&ListParams::default()).await?;
        Ok(Self {
            pool: pools
                .items
                .first()
                .context("the pool has no SandboxWarmPool")?
                .name_any(),
            seen_claims: Follow::open(team.api::<SandboxClaim>(), claim_state).await?,
            seen_sessions: Follow::open(team.api::<AgentSession>(), session_state).await?,
            sessions: team.api(),
            claims,
            team,
        })
    }

    async fn rows(&self, n: u32, log: &Path) -> Result<Vec<Row>> {
        let since = std::fs::metadata(log)?.len();
        let (mut claims, mut ways) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(BATCH as usize) {
            self.full().await?;
            let batch = first..n.min(first + BATCH);
            for i in batch.clone() {
                claims.push(self.claim(&format!("c{i}")).await?);
                ways.push(self.session(&format!("s{i}")).await?);
            }
            self.clear(&batch.map(|i| i.to_string()).collect::<Vec<_>>(), true, true)
                .await?;
            eprintln!("{} of {n} pairs", ways.len());
        }
        let (claims_at_once, sessions_at_once) = self.at_once().await?;
        let memory = resident(&self.team.cluster).await?;
        let writes = audit::writes(log, since, &self.team.namespace)?;
        let mut rows = times(n, &claims, &ways);
        rows.push(at_once_row(&claims_at_once, &sessions_at_once));
        rows.extend(write_rows(&writes, &ways));
        rows.push(Row::new("active controller, resident", memory, "MiB"));
        Ok(rows)
    }

    /// Waits until every sandbox of the pool is there and ready.
    async fn full(&self) -> Result<()> {
        let full = |pool: &SandboxWarmPool| {
            pool.status
                .as_ref()
                .is_some_and(|status| status.ready_replicas == i32::from(POOL))
        };
        self.team.wait(&self.pool, "a full pool", REFILL, full).await.map(drop)
    }

    /// Created → Ready.
    async fn claim(&self, name: &str) -> Result<Duration> {
        let mut claim = SandboxClaim::new(
            name,
            SandboxClaimSpec {
                warm_pool_ref: NameRef {
                    name: self.pool.clone(),
                },
                ..SandboxClaimSpec::default()
            },
        );
        claim.labels_mut().insert(label::POOL.to_owned(), "pool".to_owned());
        let began = Instant::now();
        self.claims.create(&PostParams::default(), &claim).await?;
        let seen = one(&self.seen_claims, name).await?;
        Ok(seen.serves.context("it serves")? - began)
    }

    async fn session(&self, name: &str) -> Result<Way> {
        let session: AgentSession = serde_json::from_str(&session_yaml(name, "true"))?;
        let began = Instant::now();
        self.sessions.create(&PostParams::default(), &session).await?;
        let seen = one(&self.seen_sessions, name).await?;
        let claim = one(&self.seen_claims, &format!("{name}-1")).await?;
        let bound = seen.serves.context("it is bound")?;
        let made = claim
            .created
            .context("the claim is made")?
            .saturating_duration_since(began);
        let told = bound.saturating_duration_since(claim.serves.context("the claim is ready")?);
        Ok(Way {
            name: name.to_owned(),
            total: bound - began,
            made,
            told,
            bound: seen.serves_at.context("it is bound")?,
        })
    }

    /// A pool's worth of claims at once, then as many sessions.
    async fn at_once(&self) -> Result<(Vec<Duration>, Vec<Way>)> {
        let names: Vec<_> = (0..POOL).map(|i| format!("-once{i}")).collect();
        self.full().await?;
        let claims = try_join_all(names.iter().map(async |name| self.claim(&format!("c{name}")).await)).await?;
        self.clear(&names, true, false).await?;
        self.full().await?;
        let ways = try_join_all(names.iter().map(async |name| self.session(&format!("s{name}")).await)).await?;
        self.clear(&names, false, true).await?;
        Ok((claims, ways))
    }

    /// Ends claims and sessions, the sessions once they have succeeded, and waits until they are gone.
    async fn clear(&self, names: &[String], claims: bool, sessions: bool) -> Result<()> {
        let with = |prefix: &str| names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
        if claims {
            let names = with("c");
            for name in &names {
                self.claims.delete(name, &DeleteParams::default()).await?;
            }
            self.seen_claims.all(&names, |seen| seen.gone).await?;
        }
        if sessions {
            let names = with("s");
            self.seen_sessions.all(&names, |seen| seen.finished).await?;
            for name in &names {
                self.sessions.delete(name, &DeleteParams::default()).await?;
            }
            self.seen_sessions.all(&names, |seen| seen.gone).await?;
        }
        Ok(())
    }
}

fn claim_state(claim: &SandboxClaim) -> (bool, bool) {
    (matches!(claim_phase(claim), ClaimPhase::Ready { .. }), false)
}

fn session_state(session: &AgentSession) -> (bool, bool) {
    let status = session.status.clone().unwrap_or_default();
    let bound = status.sandbox.is_some_and(|sandbox| sandbox.bound_at.is_some());
    (bound, matches!(status.phase, Some(Phase::Succeeded | Phase::Failed)))
}

async fn one(follow: &Follow, name: &str) -> Result<Seen> {
    let seen = follow.all(&[name.to_owned()], |seen| seen.serves.is_some()).await?;
    seen.into_iter().next().context("one was asked for")
}

/// Memory of the controller that leads, in MiB.
async fn resident(cluster: &Cluster) -> Result<f64> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "berth-system");
    let leads = ListParams::default().labels(&format!("{}=true", label::ACTIVE));
    let pod = pods
        .list(&leads)
        .await?
        .items
        .into_iter()
        .next()
        .context("no controller leads")?;
    let pid = node::process(&pod.uid().context("a pod has a UID")?, "berth-controller")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("a process has VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

fn times(n: u32, claims: &[Duration], ways: &[Way]) -> Vec<Row> {
    let totals: Vec<_> = ways.iter().map(|way| way.total).collect();
    let overheads: Vec<_> = ways.iter().map(|way| way.made + way.told).collect();
    let goals = [(50, 50.0), (99, 200.0)];
    let total = goals.map(|(percent, _)| {
        let row = Row::new(
            format!("session created to bound, p{percent} (n={n})"),
            percentile(&totals, percent),
            "ms",
        );
        row.beside("bare claim to Ready", percentile(claims, percent))
    });
    let overhead = goals.map(|(percent, goal)| {
        let figure = format!("Berth's overhead per session, p{percent} (n={n})");
        Row::new(figure, percentile(&overheads, percent), "ms").at_most(goal)
    });
    let made: Vec<_> = ways.iter().map(|way| way.made).collect();
    let told: Vec<_> = ways.iter().map(|way| way.told).collect();
    let parts = [("created to claim seen", made), ("claim Ready to bound", told)];
    let parts = parts.map(|(part, times)| Row::new(format!("  {part}, p50"), percentile(&times, 50), "ms"));
    total.into_iter().chain(overhead).chain(parts).collect()
}

fn at_once_row(claims: &[Duration], ways: &[Way]) -> Row {
    let totals: Vec<_> = ways.iter().map(|way| way.total).collect();
    let row = Row::new(
        format!("{POOL} at once, created to bound, p50"),
        percentile(&totals, 50),
        "ms",
    );
    row.beside("bare claims to Ready", percentile(claims, 50)).at_most(1.3)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn write_rows(writes: &[Write], ways: &[Way]) -> Vec<Row> {
    let of = |way: &Way, until| writes.iter().filter(|write| write.is_of(&way.name, until)).count();
    let to_bound: usize = ways.iter().map(|way| of(way, way.bound)).sum();
    let whole: usize = ways.iter().map(|way| of(way, Timestamp::MAX)).sum();
    let serial = |write: &&Write| ways.iter().any(|way| write.is_of(&way.name, Timestamp::MAX));
    let events = writes.iter().filter(serial).filter(|write| write.resource == "events");
    let refused = writes.iter().filter(serial).filter(|write| write.refused);
    let others = writes
        .iter()
        .filter(|write| !serial(write) && !write.name.starts_with("s-once"));
    let per = |count: usize| count as f64 / ways.len() as f64;
    vec![
        Row::new("writes per session, created to bound", per(to_bound), "writes").at_most(3.0),
        Row::new("writes per session, whole life", per(whole), "writes").at_most(6.0),
        Row::new("  of which Events", per(events.count()), "writes"),
        Row::new("  of which refused (404, 409)", per(refused.count()), "writes"),
        Row::new("other writes in the namespace", others.count() as f64, "writes"),
    ]
}
