//! Benchmark `sessions`: bare SandboxClaims beside AgentSessions, in turn, on one warm pool.
//!
//! In: a cluster with Berth. Out: rows. Overhead is what Berth adds to agent-sandbox: session create → claim create, and
//! claim Ready seen → the sidecar's acknowledgement. All are on this machine's one clock: the claim's create is when the
//! API server received it (audit log), the acknowledgement when the controller did (its log). Never lets a cold start
//! in: each batch begins with a full pool, and what fills it again is held back while it is measured, since starting pods
//! would be most of what two cores do.

mod acknowledged;
mod idle;
mod rows;

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use self::idle::measure as measure_idle;

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

use crate::audit::{self, BERTH};
use crate::follow::{Follow, Seen};
use crate::report::Row;

/// Sandboxes that wait warm: as many as the round at once takes. Two cores hold them beside the control plane.
const POOL: u16 = 20;
/// Pairs between two refills: a pair takes two sandboxes.
const BATCH: u32 = POOL as u32 / 2;
/// Two cores start a pool's pods in about a minute.
const REFILL: Duration = Duration::from_mins(4);

/// What sessions do: nothing, and longer than a batch takes, so that as with bare claims none is given back meanwhile.
const HELD: &str = "sleep 12";

/// What is measured on.
struct Bench {
    team: Team,
    pool: String,
    claims: Api<SandboxClaim>,
    sessions: Api<AgentSession>,
    seen_claims: Follow,
    seen_sessions: Follow,
}

/// The scheduler stands still as long as this lives, also when a measurement fails.
struct HeldBack(Cluster);

impl Drop for HeldBack {
    fn drop(&mut self) {
        if let Err(error) = self.0.process("start", "kube-scheduler") {
            eprintln!("the scheduler can't be started again: {error:#}");
        }
    }
}

/// One session's way.
struct Way {
    name: String,
    /// Created → its status was seen to say that it is bound.
    told: Duration,
    created: Timestamp,
    /// Its claim was seen Ready.
    ready: Timestamp,
    /// Its status was seen to say that it is bound.
    bound: Timestamp,
}

/// Measures `n` pairs one at a time, then `rounds` times a pool's worth at once; the namespace goes afterwards, whatever happened.
pub(crate) async fn measure(n: u32, rounds: u32, log: &Path) -> Result<Vec<Row>> {
    let cluster = cluster().await?;
    let team = Team::with_pool(&cluster, "bench", POOL.into()).await?;
    let bench = Bench::new(team).await?;
    let rows = bench.rows((n, rounds), log).await;
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

    async fn rows(&self, (n, rounds): (u32, u32), log: &Path) -> Result<Vec<Row>> {
        let began = Timestamp::now();
        let since = std::fs::metadata(log)?.len();
        let (mut claims, mut ways) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(BATCH as usize) {
            self.full().await?;
            let batch = first..n.min(first + BATCH);
            let held = self.hold_refill_back()?;
            for i in batch.clone() {
                claims.push(self.claim(&format!("c{i}")).await?);
                ways.push(self.session(&format!("s{i}")).await?);
            }
            drop(held);
            self.clear(&batch.map(|i| i.to_string()).collect::<Vec<_>>(), true, true)
                .await?;
            eprintln!("{} of {n} pairs", ways.len());
        }
        let (mut claims_at_once, mut sessions_at_once) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (claims, sessions) = self.at_once(round).await?;
            claims_at_once.extend(claims);
            sessions_at_once.extend(sessions);
        }
        let memory = resident(&self.team.cluster).await?;
        let writes = audit::writes(log, since, &self.team.namespace)?;
        let acknowledged = acknowledged::read(&self.team, began).await?;
        let mut rows = rows::times(&claims, &ways, &acknowledged)?;
        rows.extend(rows::overheads(&ways, &writes, &acknowledged)?);
        rows.push(rows::at_once(POOL, &claims_at_once, &sessions_at_once, &acknowledged)?);
        rows.extend(rows::writes(&writes, &ways));
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

    /// New pods wait for a node meanwhile.
    fn hold_refill_back(&self) -> Result<HeldBack> {
        self.team.cluster.process("stop", "kube-scheduler")?;
        Ok(HeldBack(self.team.cluster.clone()))
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
        let session: AgentSession = serde_json::from_str(&session_yaml(name, HELD))?;
        let (created, began) = (Timestamp::now(), Instant::now());
        self.sessions.create(&PostParams::default(), &session).await?;
        let seen = one(&self.seen_sessions, name).await?;
        let claim = one(&self.seen_claims, &format!("{name}-1")).await?;
        Ok(Way {
            name: name.to_owned(),
            told: seen.serves.context("it is bound")? - began,
            created,
            ready: claim.serves_at.context("the claim is ready")?,
            bound: seen.serves_at.context("it is bound")?,
        })
    }

    /// A pool's worth of claims at once, then as many sessions.
    async fn at_once(&self, round: u32) -> Result<(Vec<Duration>, Vec<Way>)> {
        let names: Vec<_> = (0..POOL).map(|i| format!("-once{round}-{i}")).collect();
        self.full().await?;
        let held = self.hold_refill_back()?;
        let claims = try_join_all(names.iter().map(async |name| self.claim(&format!("c{name}")).await)).await?;
        drop(held);
        self.clear(&names, true, false).await?;
        self.full().await?;
        let held = self.hold_refill_back()?;
        let ways = try_join_all(names.iter().map(async |name| self.session(&format!("s{name}")).await)).await?;
        drop(held);
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

/// The controller that leads.
pub(crate) async fn leader(pods: &Api<Pod>) -> Result<Pod> {
    let leads = ListParams::default().labels(&format!("{}=true", label::ACTIVE));
    let mut pods = pods.list(&leads).await?.items;
    pods.pop().context("no controller leads")
}

/// Memory of the controller that leads, in MiB.
pub(crate) async fn resident(cluster: &Cluster) -> Result<f64> {
    let pod = leader(&Api::namespaced(cluster.client.clone(), "berth-system")).await?;
    let pid = node::process(&pod.uid().context("a pod has a UID")?, "berth-controller")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("a process has VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
