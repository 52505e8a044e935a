//! Processes of pods, as the node sees them: tests run on it, as root, and only signal what belongs to a pod of theirs.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

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

/// Sends a signal.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    ensure!(status.success(), "{name} can't be sent to {pid}");
    Ok(())
}
