//! Processes of pods, as the node sees them: tests run on it, as root, and only signal what belongs to a pod of theirs.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The process of this program in the pod with this UID.
pub fn process(pod_uid: &str, program: &str) -> Result<u32> {
    let of_pod = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(pod_uid));
    let runs = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(first).ends_with(program)
    };
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter(of_pod).find(runs);
    found.with_context(|| format!("no {program} runs in the pod with UID {pod_uid}"))
}

/// User and system time of a process, proc(5): in hundredths of a second.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(')').context("a name in parentheses")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|index| fields.get(*index)?.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    ensure!(status.success(), "{name} can't be sent to {pid}");
    Ok(())
}

/// Counts on the node what arrives from a pod at [`WAYS`] ports of the node's, whatever the address: each way out is
/// tried at a port of its own.
pub struct Arrivals {
    pod: String,
    table: String,
    port: u16,
}

impl Arrivals {
    /// Begins, for the pod with this address.
    pub fn count(pod: &str) -> Result<Self> {
        let [.., third, last] = pod.parse::<Ipv4Addr>()?.octets();
        let number = u16::from_be_bytes([third, last]) % 1000;
        let arrivals = Self {
            pod: pod.to_owned(),
            table: format!("berth_e2e_{number}"),
            port: 20_000 + number * WAYS,
        };
        let (table, first, last) = (&arrivals.table, arrivals.port, arrivals.port + WAYS - 1);
        nft(&format!(
            "table inet {table} {{
                set seen {{ type inet_proto . inet_service; flags dynamic; size 1024; }}
                counter pings {{}}
                chain arrived {{
                    type filter hook prerouting priority raw;
                    iifname != \"{BRIDGE}\" return
                    meta l4proto {{ tcp, udp, udplite }} th dport {first}-{last} update @seen {{ meta l4proto . th dport }}
                    ip saddr {pod} icmp type echo-request counter name pings
                    icmpv6 type echo-request counter name pings
                }}
            }}"
        ))?;
        Ok(arrivals)
    }

    /// Where to try: the node's address, the first port, the node's address on the link alone, the pod's interface.
    pub fn arguments(&self) -> Result<[String; 4]> {
        let addresses = fs::read_to_string("/proc/net/if_inet6")?;
        let line = addresses
            .lines()
            .find(|line| line.starts_with("fe80") && line.ends_with(BRIDGE))
            .context("the node's bridge has no IPv6 address")?;
        let digits = line.get(..32).context("an address has 32 digits")?;
        let groups: Vec<&str> = (0..8)
            .filter_map(|group| digits.get(group * 4..group * 4 + 4))
            .collect();
        Ok([
            NODE.to_owned(),
            self.port.to_string(),
            groups.join(":"),
            "eth0".to_owned(),
        ])
    }

    /// Which of the ways arrived: they were tried in this order, and each line begins with the way's name.
    pub fn ways(&self, tried: &[String]) -> Result<Vec<String>> {
        let listed = list(&["set", "inet", &self.table, "seen"])?;
        let ports = listed.iter().filter_map(|element| element["concat"][1].as_u64());
        let names = ports.filter_map(|port| {
            let way = tried.get(usize::try_from(port).ok()? - usize::from(self.port))?;
            way.split(' ').next().map(str::to_owned)
        });
        let pings = list(&["counter", "inet", &self.table, "pings"])?;
        let pinged = pings.iter().any(|counter| counter["packets"] != 0);
        Ok(names.chain(pinged.then(|| "ping".to_owned())).collect())
    }

    /// Counts from nothing again.
    pub fn forget(&self) -> Result<()> {
        nft(&format!(
            "flush set inet {0} seen\nreset counters table inet {0}",
            self.table
        ))
    }

    /// The sealed node has dropped nothing of the pod's that was meant for beyond the cluster.
    pub fn none_beyond(&self) -> Result<()> {
        let sent = list(&["set", "inet", "berth", "sent"]).context("the cluster isn't sealed")?;
        let sent: Vec<&Value> = sent
            .iter()
            .filter(|element| element["concat"][0] == self.pod.as_str())
            .collect();
        ensure!(sent.is_empty(), "the pod has sent beyond the cluster: {sent:?}");
        Ok(())
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        drop(nft(&format!("delete table inet {}", self.table))); // it counts, and nothing more
    }
}

/// The elements of a set, or the counter.
fn list(what: &[&str]) -> Result<Vec<Value>> {
    let output = Command::new("nft").args(["-j", "list"]).args(what).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let found = objects.flat_map(|object| {
        let elements = object["set"]["elem"].as_array().cloned().unwrap_or_default();
        elements.into_iter().chain(object.get("counter").cloned())
    });
    Ok(found.collect())
}

fn nft(rules: &str) -> Result<()> {
    let mut command = Command::new("nft");
    let mut child = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refuses {rules}");
    Ok(())
}

/// More than there are ways.
const WAYS: u16 = 32;
/// The node's end of what pods are connected to, and its address there (tests/cluster/cluster).
const BRIDGE: &str = "berth0";
const NODE: &str = "10.99.0.1";
