//! Benchmark `proxy`: the sidecar beside hudsucker, Envoy, mitmproxy and no proxy at all, on loopback.
//!
//! In: the sidecar's release build and the peers of `peers/install`. Out: rows. Protocol: research, vault-proxy §4.3:
//! closed loop, all contestants in turn in every round, medians. The machine may be busy with other work, which hits all
//! of them alike; so ratios count, absolute times don't.

mod authority;
mod cage;
mod config;
mod figures;
mod link;
mod load;
mod origin;
mod peer;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tempfile::TempDir;

use self::cage::Cage;
use self::config::{FULL, Shape};
use self::figures::Figures;
use self::link::Way;
use self::load::Latency;
use self::peer::{Kind, Peer};
use crate::report::Row;

/// Name of the hidden benchmark that is the origin's process.
pub(crate) const ORIGIN: &str = "proxy-origin";
/// The contestant without a proxy.
pub(crate) const DIRECT: &str = "direct";

/// Of the benchmark `proxy`.
#[derive(Args)]
pub(crate) struct Options {
    /// The sidecar's program.
    #[arg(long, default_value = "target/release/berth-sidecar")]
    sidecar: PathBuf,
    /// Where `peers/install` keeps the peers.
    #[arg(long, env = "BERTH_BENCH_PEERS", default_value = "target/peers")]
    peers: PathBuf,
    /// Seconds of a closed loop: short, as the machine may be shared.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only scenarios whose name begins so.
    #[arg(long)]
    scenario: Option<String>,
}

/// What all contestants share.
pub(crate) struct Place {
    pub(crate) sidecar: PathBuf,
    pub(crate) peers: PathBuf,
    pub(crate) certificates: PathBuf,
    pub(crate) origin: SocketAddr,
}

struct Bench {
    place: Place,
    time: Duration,
    rounds: u32,
    scenario: String,
    figures: Figures,
    /// Ends with this process: it waits for the end of its input.
    origin: Child,
    _directory: TempDir,
}

/// One that takes part: by its name, over its way, and its process.
struct Contestant {
    name: &'static str,
    way: Way,
    peer: Option<Peer>,
}

/// The origin's process; the current directory has its certificates.
pub(crate) async fn serve_origin() -> Result<()> {
    origin::serve(".".as_ref()).await
}

/// Measures all scenarios.
pub(crate) async fn measure(options: &Options, rounds: u32) -> Result<Vec<Row>> {
    let mut bench = Bench::new(options, rounds)?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    eprintln!(
        "{rounds} rounds of {} s, medians; loadavg {}; on a shared machine only ratios count",
        options.seconds,
        load.trim()
    );
    bench.latencies().await?;
    bench.transfers().await?;
    bench.memory().await?;
    bench.tunnels().await?;
    bench.limited().await?;
    bench.rules().await?;
    bench.redaction().await?;
    eprintln!(
        "loadavg at the end {}",
        std::fs::read_to_string("/proc/loadavg")?.trim()
    );
    Ok(bench.figures.rows())
}

impl Bench {
    fn new(options: &Options, rounds: u32) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        authority::write(directory.path())?;
        let mut origin = Command::new(std::env::current_exe()?)
            .arg(ORIGIN)
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(origin.stdout.take().context("it is piped")?).read_line(&mut line)?;
        Ok(Self {
            place: Place {
                sidecar: std::path::absolute(&options.sidecar)?,
                peers: std::path::absolute(&options.peers)?,
                certificates: directory.path().to_owned(),
                origin: line.trim().parse().context("the origin doesn't listen")?,
            },
            time: Duration::from_secs(options.seconds),
            rounds,
            scenario: options.scenario.clone().unwrap_or_default(),
            figures: Figures::default(),
            origin,
            _directory: directory,
        })
    }

    fn wants(&self, scenario: &str) -> bool {
        scenario.starts_with(&self.scenario)
    }

    /// None of a scenario that isn't asked for.
    fn rounds(&self, scenario: &str) -> Range<u32> {
        0..if self.wants(scenario) { self.rounds } else { 0 }
    }

    /// Those of the peers that are installed, as fresh processes: a round owes nothing to the one before.
    async fn contestants(&self, kinds: &[Kind]) -> Result<Vec<Contestant>> {
        let mut all = vec![Contestant {
            name: DIRECT,
            way: Way {
                origin: self.place.origin,
                proxy: None,
                tls: authority::client(&self.place.certificates.join("ca.crt"))?,
            },
            peer: None,
        }];
        for kind in kinds {
            let program = kind.program(&self.place);
            if program.exists() {
                all.push(Contestant::start(kind.name(), *kind, &self.place).await?);
            } else {
                eprintln!(
                    "{} is skipped: peers/install hasn't made {}",
                    kind.name(),
                    program.display()
                );
            }
        }
        Ok(all)
    }

    async fn latencies(&mut self) -> Result<()> {
        let kinds = [Kind::Berth(FULL), Kind::Hudsucker, Kind::Envoy, Kind::Mitmproxy];
        for scenario in [figures::KEEP_1, figures::KEEP_32, figures::NEW] {
            for round in self.rounds(scenario) {
                for one in self.contestants(&kinds).await? {
                    let measured = self.latency(scenario, &one).await;
                    measured.with_context(|| format!("{scenario}, {}", one.name))?;
                }
                eprintln!("{scenario}, {} of {}", round + 1, self.rounds);
            }
        }
        Ok(())
    }

    async fn latency(&mut self, scenario: &'static str, one: &Contestant) -> Result<()> {
        let before = one.cpu()?;
        let latency = match scenario {
            figures::NEW => load::new(&one.way, 1, self.time).await?,
            figures::KEEP_1 | figures::RULES => load::keep(&one.way, 1, self.time).await?,
            _ => load::keep(&one.way, 32, self.time).await?,
        };
        let Latency {
            rate,
            p50,
            p99,
            requests,
        } = latency;
        for (metric, value) in [(figures::RATE, rate), (figures::P50, p50), (figures::P99, p99)] {
            self.figures.add(scenario, one.name, metric, value);
        }
        if let (Some(before), Some(after)) = (before, one.cpu()?) {
            self.figures
                .add(scenario, one.name, figures::CPU, (after - before) / requests);
        }
        Ok(())
    }

    async fn transfers(&mut self) -> Result<()> {
        let kinds = [Kind::Berth(FULL), Kind::Hudsucker, Kind::Envoy];
        for scenario in [figures::UPLOAD, figures::CHUNKED, figures::DOWNLOAD] {
            for round in self.rounds(scenario) {
                for one in self.contestants(&kinds).await? {
                    let measured = self.transfer(scenario, &one).await;
                    measured.with_context(|| format!("{scenario}, {}", one.name))?;
                }
                eprintln!("{scenario}, {} of {}", round + 1, self.rounds);
            }
        }
        Ok(())
    }

    async fn transfer(&mut self, scenario: &'static str, one: &Contestant) -> Result<()> {
        let before = one.forget()?;
        let speed = match scenario {
            figures::DOWNLOAD => load::download(&one.way, "/download").await?,
            figures::REDACT_LOG => load::download(&one.way, "/log").await?,
            _ => load::upload(&one.way, scenario == figures::CHUNKED).await?,
        };
        self.figures.add(scenario, one.name, figures::SPEED, speed);
        if let (Some(before), Some(peer)) = (before, &one.peer) {
            let growth = peer.peak()? - before;
            self.figures.add(scenario, one.name, figures::GROWTH, growth);
        }
        Ok(())
    }

    /// Each in a fresh process: what an allocator keeps from before isn't a stream's.
    async fn memory(&mut self) -> Result<()> {
        if !self.wants(figures::SSE) && !self.wants(figures::IDLE) {
            return Ok(());
        }
        for _ in 0..self.rounds {
            for kind in [Kind::Berth(FULL), Kind::Hudsucker, Kind::Envoy] {
                if !kind.program(&self.place).exists() {
                    continue;
                }
                let peer = Peer::start(kind, &self.place).await?;
                self.figures
                    .add(figures::IDLE, kind.name(), figures::RESIDENT, peer.resident()?);
                load::open_streams(&peer.way, 1).await?;
                let before = peer.resident()?;
                let streams = load::open_streams(&peer.way, STREAMS).await;
                let streams = streams.with_context(|| format!("streams through {}", kind.name()))?;
                tokio::time::sleep(SETTLE).await; // some events pass by
                let each = (peer.resident()? - before) / f64::from(STREAMS);
                self.figures.add(figures::SSE, kind.name(), figures::STREAM, each);
                drop(streams);
            }
        }
        eprintln!("memory");
        Ok(())
    }

    /// Once: ten thousand handshakes take their time.
    async fn tunnels(&mut self) -> Result<()> {
        for _ in self.rounds(figures::TUNNELS).take(1) {
            for kind in [Kind::Berth(FULL), Kind::Hudsucker] {
                if !kind.program(&self.place).exists() {
                    continue;
                }
                let peer = Peer::start(kind, &self.place).await?;
                load::open_streams(&peer.way, 1).await?;
                let before = peer.resident()?;
                let tunnels = load::open_tunnels(&peer.way, TUNNELS).await;
                let tunnels = tunnels.with_context(|| format!("tunnels through {}", kind.name()))?;
                let resident = peer.resident()?;
                ensure!(
                    peer.descriptors()? >= TUNNELS as usize,
                    "{} closed some tunnels",
                    kind.name()
                );
                drop(tunnels);
                let each = (resident - before) / f64::from(TUNNELS);
                self.figures.add(figures::TUNNELS, kind.name(), figures::TUNNEL, each);
                self.figures
                    .add(figures::TUNNELS, kind.name(), figures::RESIDENT, resident);
            }
            eprintln!("{}", figures::TUNNELS);
        }
        Ok(())
    }

    /// All of the uploads arrive, or the kernel has ended the proxy.
    async fn limited(&mut self) -> Result<()> {
        for _ in self.rounds(figures::LIMIT) {
            let kind = Kind::Berth(FULL);
            let peer = Peer::start(kind, &self.place).await?;
            let cage = match Cage::around(peer.id(), LIMIT) {
                Ok(cage) => cage,
                Err(error) => {
                    eprintln!("{} is skipped: no control group can be made: {error}", figures::LIMIT);
                    return Ok(());
                }
            };
            let arrived = load::uploads(&peer.way, UPLOADS).await;
            arrived.with_context(|| format!("uploads within {} MiB", LIMIT >> 20))?;
            self.figures
                .add(figures::LIMIT, kind.name(), figures::PEAK, peer.peak()?);
            drop(peer); // a group is removed when it is empty
            drop(cage);
        }
        eprintln!("{}", figures::LIMIT);
        Ok(())
    }

    async fn rules(&mut self) -> Result<()> {
        let shape = |routes| Kind::Berth(Shape { routes, ..FULL });
        let pair = [(figures::FEW, shape(10)), (figures::MANY, shape(10_000))];
        self.among_ourselves(&[figures::RULES], pair, 2).await
    }

    async fn redaction(&mut self) -> Result<()> {
        let shape = |redact| Kind::Berth(Shape { redact, ..FULL });
        let pair = [(figures::ON, shape(true)), (figures::OFF, shape(false))];
        let scenarios = [figures::REDACT_KEEP, figures::REDACT_LOG];
        self.among_ourselves(&scenarios, pair, 2).await
    }

    /// Two of ours with different policies, in turn.
    async fn among_ourselves(
        &mut self,
        scenarios: &[&'static str],
        pair: [(&'static str, Kind); 2],
        repeat: u32,
    ) -> Result<()> {
        for scenario in scenarios.iter().copied() {
            for _ in 0..self.rounds(scenario).end * repeat {
                for (name, kind) in pair {
                    let one = Contestant::start(name, kind, &self.place).await?;
                    if scenario == figures::REDACT_LOG {
                        self.transfer(scenario, &one).await?;
                    } else {
                        self.latency(scenario, &one).await?;
                    }
                }
            }
            eprintln!("{scenario}");
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.origin.stdin.take());
        let _ = self.origin.wait(); // ends with its input
    }
}

impl Contestant {
    async fn start(name: &'static str, kind: Kind, place: &Place) -> Result<Self> {
        let peer = Peer::start(kind, place).await?;
        Ok(Self {
            name,
            way: peer.way.clone(),
            peer: Some(peer),
        })
    }

    fn cpu(&self) -> Result<Option<f64>> {
        self.peer.as_ref().map(Peer::cpu).transpose()
    }

    /// Memory now, from where a peak is counted.
    fn forget(&self) -> Result<Option<f64>> {
        let Some(peer) = &self.peer else { return Ok(None) };
        peer.forget_peak()?;
        peer.resident().map(Some)
    }
}

/// Of the memory scenario (issue 4).
const STREAMS: u32 = 1_000;
/// The same.
const TUNNELS: u32 = 10_000;
/// At once.
const UPLOADS: usize = 8;
/// Bytes: the pod's limit.
const LIMIT: u64 = 128 << 20;
/// A stream has an event a second.
const SETTLE: Duration = Duration::from_secs(3);
