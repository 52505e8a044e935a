//! Benchmark `grants`: how long after a merge a running session may use a credential, and after a revert may not any more.
//!
//! In: a cluster with Berth and its forge. Out: rows. A session asks a host outside in a loop; every cycle is two pull requests,
//! one that adds a reviewed binding and one that takes it away. The clock starts when the forge has answered the merge; a
//! permitted call counts when the host has it, a refused one when the agent is told. All of it is on this machine's one clock.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use berth_crds::{AgentSession, Phase};
use berth_e2e::origin::{Outside, name, trust};
use berth_e2e::{Team, cluster, session_yaml};
use berth_gallery::origin::{Answer, Authority, Origin, ok};
use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::report::{Row, percentile};
use crate::reviewed::Reviewed;

/// Rounds without a webhook, each some seconds long.
const SLOW: u32 = 5;
const ROTATIONS: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(5);
/// Objects of the commit that is being applied meanwhile.
const MANY: usize = 2_000;

/// When the host got a request with which value.
type Got = Arc<Mutex<Vec<(Timestamp, String)>>>;

struct Bench {
    team: Team,
    reviewed: Reviewed,
    host: String,
    got: Got,
    uid: String,
    value: String,
    _outside: Outside,
}

/// What one cycle took.
struct Cycle {
    granted: Duration,
    revoked: Duration,
}

/// Measures `n` cycles with a webhook, and a few of the other kinds.
pub(crate) async fn measure(n: u32) -> Result<Vec<Row>> {
    let mut bench = Bench::new("1h").await?;
    let fast = bench.cycles("fast", n).await?;
    let rotated = bench.rotate().await?;
    let busy = bench.cycle("busy", Some(MANY)).await?;
    bench.end().await?;
    let bench = Bench::new("5s").await?;
    bench.forget_hook().await?;
    let slow = bench.cycles("slow", SLOW).await?;
    bench.end().await?;

    let times = |cycles: &[Cycle], of: fn(&Cycle) -> Duration| cycles.iter().map(of).collect::<Vec<_>>();
    let (granted, revoked) = (|cycle: &Cycle| cycle.granted, |cycle: &Cycle| cycle.revoked);
    let rows = |what: &str, times: &[Duration]| {
        [(50, "p50", 1_000.0), (100, "worst", 2_000.0)].map(|(percent, name, goal)| {
            Row::new(
                format!("{what}, {name} (n={})", times.len()),
                percentile(times, percent),
                "ms",
            )
            .at_most(goal)
        })
    };
    let mut all = Vec::new();
    all.extend(rows("merge to first permitted call", &times(&fast, granted)));
    all.extend(rows("revert to first refused call", &times(&fast, revoked)));
    let one = |what: String, took: Duration, goal: f64| Row::new(what, percentile(&[took], 100), "ms").at_most(goal);
    all.push(one(
        format!("merge while {MANY} objects are applied"),
        busy.granted,
        2_000.0,
    ));
    all.push(one(
        format!("revert while {MANY} objects are applied"),
        busy.revoked,
        2_000.0,
    ));
    let most = (INTERVAL + Duration::from_secs(1)).as_secs_f64() * 1e3;
    let slowest = |of: fn(&Cycle) -> Duration| percentile(&times(&slow, of), 100);
    all.push(Row::new("merge without a webhook, every 5 s, worst", slowest(granted), "ms").at_most(most));
    all.push(Row::new("revert without a webhook, every 5 s, worst", slowest(revoked), "ms").at_most(most));
    all.push(
        Row::new(
            "rotation of the Secret to its use, worst",
            percentile(&rotated, 100),
            "ms",
        )
        .at_most(1_000.0),
    );
    Ok(all)
}

impl Bench {
    async fn new(interval: &str) -> Result<Self> {
        let team = Team::create(&cluster().await?, "bench-grants").await?;
        let (authority, host, got) = (Authority::new()?, name(&team, "outside"), Got::default());
        trust(&team, &authority).await?;
        let seen = Arc::clone(&got);
        let answer: Answer = Arc::new(move |request| {
            let value = request.header("authorization").unwrap_or_default();
            seen.lock().push((Timestamp::now(), value));
            ok("{}")
        });
        let outside = Outside::of(&team, "outside", Origin::http1(&authority, &[&host], answer).await?).await?;
        let value = "fake-value-of-the-benchmark-0".to_owned();
        team.offer("token", &value, &host).await?;
        team.policy(json!({
            "allow": [{ "name": "outside", "hosts": [host] }], "require": { "review": { "minApprovals": 1 } },
        }))
        .await?;
        let mut pool = team.pool(1);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        team.warm(&pool).await?;
        let reviewed = Reviewed::begin(&team, interval).await?;
        let ask = format!(
            r#"curl -s -o /dev/null -w '%{{http_code}}' -m 5 -H "Authorization: Bearer $TOKEN" https://{host}/used"#
        );
        let prompt = format!(
            r#"last=; while :; do code=$({ask}); [ "$code" = "$last" ] || echo "$(date +%s%N) $code"; last=$code; sleep 0.02; done"#
        );
        let mut session: Value = serde_json::from_str(&session_yaml("s", &prompt))?;
        session["spec"]["credentials"] = json!([{ "name": "TOKEN", "required": false }]);
        team.apply(&session).await?;
        let session: AgentSession = team.phase("s", Phase::Running).await?;
        Ok(Self {
            uid: session.uid().context("a uid")?,
            team,
            reviewed,
            host,
            got,
            value,
            _outside: outside,
        })
    }

    async fn end(self) -> Result<()> {
        self.team.end_policy().await?;
        self.team.end().await
    }

    /// The forge tells nobody of pushes any more.
    async fn forget_hook(&self) -> Result<()> {
        let repository = &self.reviewed.repository;
        let path = format!("repos/{}/hooks", repository.path);
        let hooks = repository.api("GET", &path, &Value::Null).await?;
        for hook in hooks.as_array().into_iter().flatten() {
            let one = format!("{path}/{}", hook["id"]);
            repository.api("DELETE", &one, &Value::Null).await?;
        }
        Ok(())
    }

    async fn cycles(&self, what: &str, n: u32) -> Result<Vec<Cycle>> {
        let mut cycles = Vec::new();
        for number in 0..n {
            cycles.push(self.cycle(&format!("{what}-{number}"), None).await?);
            if number % 10 == 9 {
                eprintln!("{} of {n} cycles", number + 1);
            }
        }
        Ok(cycles)
    }

    /// Granted by one pull request, revoked by another. `beside`: as many sessions come, and go, in the same merges.
    async fn cycle(&self, topic: &str, beside: Option<usize>) -> Result<Cycle> {
        let merged = self.reviewed.merge(topic, |repository| {
            repository.write("binding.yaml", &self.binding(topic).to_string())?;
            let mut many = 0..beside.unwrap_or(0);
            many.try_for_each(|number| repository.write(&format!("many/{number}.yaml"), &idle(number)))
        });
        let granted = self.permitted(merged.await?).await?;

        let back = format!("{topic}-back");
        let merged = self.reviewed.merge(&back, |repository| {
            repository.remove("binding.yaml")?;
            // As many change, so that they are being applied when the binding goes.
            let mut many = 0..beside.unwrap_or(0);
            many.try_for_each(|number| repository.write(&format!("many/{number}.yaml"), &idle(number + 1)))
        });
        let revoked = self.refused(merged.await?).await?;
        Ok(Cycle { granted, revoked })
    }

    /// The first call that the host got after a merge, or shortly before the forge said that it was done.
    async fn permitted(&self, merged: Timestamp) -> Result<Duration> {
        let bearer = format!("Bearer {}", self.value);
        let look = || {
            let got = self.got.lock();
            let mut after = got
                .iter()
                .filter(|(at, value)| *value == bearer && *at > merged - EARLY);
            after.next().map(|(at, _)| *at)
        };
        Ok(since(merged, poll(async || Ok(look())).await?))
    }

    /// The first call after it that the agent saw refused: 403, or no tunnel at all, which curl calls 000.
    async fn refused(&self, merged: Timestamp) -> Result<Duration> {
        let first = |output: &str| {
            let mut codes = output.lines().filter_map(|line| {
                let (at, code) = line.split_once(' ')?;
                Some((Timestamp::from_nanosecond(at.parse().ok()?).ok()?, code))
            });
            let refused = codes.find(|(at, code)| *code != "200" && *at > merged - EARLY);
            refused.map(|(at, _)| at)
        };
        let output = self
            .team
            .output_that(&self.uid, "a refusal", |output| first(output).is_some());
        Ok(since(merged, first(&output.await?).context("a refusal")?))
    }

    /// A Secret's new value, until the host gets it.
    async fn rotate(&mut self) -> Result<Vec<Duration>> {
        let binding = self.binding("rotate").to_string();
        let write = self
            .reviewed
            .merge("rotate", |repository| repository.write("binding.yaml", &binding));
        let merged = write.await?;
        self.permitted(merged).await?;
        let mut took = Vec::new();
        for number in 1..=ROTATIONS {
            let value = format!("fake-value-of-the-benchmark-{number}");
            let patch = json!({ "stringData": { "token": value } }).to_string();
            self.team
                .kubectl(&["patch", "secret", "token", "--type=merge", "--patch", &patch])?;
            let rotated = Timestamp::now();
            self.value = value;
            took.push(self.permitted(rotated).await?);
        }
        let repository = &self.reviewed.repository;
        repository.remove("binding.yaml")?;
        repository.push("Revoke")?;
        self.refused(Timestamp::now()).await?;
        Ok(took)
    }

    fn binding(&self, topic: &str) -> Value {
        let route = json!({
            "name": "outside", "host": self.host, "methods": ["GET"], "paths": ["/used"], "addresses": ["10.0.0.0/8"],
            "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        });
        let credential = json!({ "name": "TOKEN", "source": { "secretRef": { "name": "token", "key": "token" } } });
        let spec = json!({
            "credential": credential, "subjects": { "sessionNames": ["s"] }, "routes": [route], "reason": topic,
        });
        json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": "b" }, "spec": spec })
    }
}

/// A session that nobody binds: its pool is nowhere.
fn idle(number: usize) -> String {
    let spec = json!({ "poolRef": { "name": "nowhere" }, "task": { "prompt": format!("{number}") }, "suspend": true });
    let name = format!("many-{}", number % MANY);
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

async fn poll(look: impl AsyncFn() -> Result<Option<Timestamp>>) -> Result<Timestamp> {
    let end = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < end {
        if let Some(at) = look().await? {
            return Ok(at);
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // what is waited for has its own time in it
    }
    bail!("nothing came within {} s", PATIENCE.as_secs())
}

/// A forge tells its hooks beside the answer: what came before that took no time.
fn since(merged: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(merged)).unwrap_or_default()
}

const EARLY: jiff::SignedDuration = jiff::SignedDuration::from_millis(300);
const PATIENCE: Duration = Duration::from_mins(1);
