//! A proxy under measurement: its process, where it listens, whom its clients trust, what memory it has.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::config::{self, Shape};
use super::link::Way;
use super::{Place, authority};

/// Which proxy.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Berth(Shape),
    Hudsucker,
    Envoy,
    Mitmproxy,
}

/// A running one.
pub(crate) struct Peer {
    child: Child,
    pub(crate) way: Way,
    /// Its files; removed with it.
    _directory: TempDir,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Berth(_) => "berth",
            Self::Hudsucker => "hudsucker",
            Self::Envoy => "envoy",
            Self::Mitmproxy => "mitmproxy",
        }
    }

    /// Its program, where `peers/install` or cargo has put it.
    pub(crate) fn program(self, place: &Place) -> PathBuf {
        match self {
            Self::Berth(_) => place.sidecar.clone(),
            Self::Hudsucker => place.peers.join("hudsucker-0.25.0/release/peer-hudsucker"),
            Self::Envoy => place.peers.join("envoy-1.40.0/envoy"),
            Self::Mitmproxy => place.peers.join("mitmproxy-11.0.2/bin/mitmdump"),
        }
    }

    fn command(self, place: &Place, directory: &Path, listen: SocketAddr) -> Result<Command> {
        let port = listen.port();
        let mut command = Command::new(self.program(place));
        match self {
            Self::Berth(shape) => {
                config::policy(directory, place.origin.port(), shape)?;
                // Not beside the policy, whose directory is watched.
                std::fs::create_dir(directory.join("trail"))?;
                let flags = format!(
                    "serve --policy policy.yaml --handoff handoff --state state --audit trail/uses --proxy-address {listen} \
                     --transparent-address 127.0.0.1:0 --resolve {}=127.0.0.1 --upstream-ca",
                    authority::HOST
                );
                command.args(flags.split(' ')).arg(place.certificates.join("ca.crt"));
            }
            Self::Hudsucker => {
                command.arg(listen.to_string());
                command.args(["ca.crt", "ca.key", "ca.crt"].map(|name| place.certificates.join(name)));
                command.arg("127.0.0.1");
            }
            Self::Envoy => {
                let yaml = config::envoy(&place.certificates, port, place.origin.port());
                std::fs::write(directory.join("envoy.yaml"), yaml)?;
                command.args([
                    "-c",
                    "envoy.yaml",
                    "--concurrency",
                    "2",
                    "--log-level",
                    "error",
                    "--use-dynamic-base-id",
                ]);
            }
            Self::Mitmproxy => {
                let read = |name| std::fs::read_to_string(place.certificates.join(name));
                std::fs::write(
                    directory.join("mitmproxy-ca.pem"),
                    [read("ca.key")?, read("ca.crt")?].concat(),
                )?;
                std::fs::write(directory.join("addon.py"), config::mitmproxy())?;
                let trust = format!(
                    "ssl_verify_upstream_trusted_ca={}",
                    place.certificates.join("ca.crt").display()
                );
                command.args([
                    "-q",
                    "--listen-host",
                    "127.0.0.1",
                    "-s",
                    "addon.py",
                    "--set",
                    "confdir=.",
                ]);
                command.args([
                    "--set",
                    "stream_large_bodies=1m",
                    "--set",
                    &trust,
                    "--listen-port",
                    &port.to_string(),
                ]);
            }
        }
        Ok(command)
    }
}

impl Peer {
    /// Starts it and waits until it listens.
    pub(crate) async fn start(kind: Kind, place: &Place) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let listen = free()?;
        let mut command = kind.command(place, directory.path(), listen)?;
        let log = directory.path().join("log");
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} can't be started", kind.name()))?;
        let ca = match kind {
            Kind::Berth(_) => directory.path().join("handoff/ca.crt"),
            Kind::Hudsucker | Kind::Envoy | Kind::Mitmproxy => place.certificates.join("ca.crt"),
        };
        let mut waiting = Starting(Some(child));
        let until = Instant::now() + START;
        while TcpStream::connect(listen).is_err() || !ca.exists() {
            if Instant::now() > until || waiting.has_ended() {
                bail!("{} doesn't listen: {}", kind.name(), std::fs::read_to_string(&log)?);
            }
            tokio::time::sleep(PAUSE).await; // another program's listener tells nobody
        }
        let way = Way {
            origin: place.origin,
            proxy: Some(listen),
            tls: authority::client(&ca)?,
        };
        Ok(Self {
            child: waiting.0.take().context("it was started")?,
            way,
            _directory: directory,
        })
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident(&self) -> Result<f64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory since [`Self::forget_peak`], in KiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        self.memory("VmHWM:")
    }

    /// From here on the peak is counted anew (proc(5), `clear_refs`).
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// Time on a CPU so far, in µs.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in brackets, may hold anything; utime and stime are the 14th and 15th field (proc(5)).
        let after = stat.rsplit_once(')').context("a process has a name")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .context("a process has times")?
                .parse::<f64>()
                .context("a time")
        };
        Ok((ticks(11)? + ticks(12)?) * TICK)
    }

    /// Its open files and sockets.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn memory(&self, field: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.and_then(|value| value.split_whitespace().next());
        Ok(kib.with_context(|| format!("a process has {field}"))?.parse()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ended when it doesn't come up.
struct Starting(Option<Child>);

impl Starting {
    fn has_ended(&mut self) -> bool {
        self.0
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill(); // it may have ended
    let _ = child.wait();
}

/// A port that nothing listens on, at the moment.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// µs; `USER_HZ` is 100 on every Linux that matters here.
const TICK: f64 = 1e4;
/// Python needs seconds on a busy machine.
const START: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
