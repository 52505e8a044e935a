//! A session that uses a credential while it is attacked: its agent asks a host [`Outside`] with it five times a second,
//! so that the value is in the sidecar's memory. Attacks run in the agent's container, as its user.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_crds::{AgentSession, CredentialBinding, Phase};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::origin::Outside;
use crate::{Cluster, PATIENCE, Team, node};

/// A namespace with a host outside and a pool that trusts it.
pub struct Scene {
    /// The namespace.
    pub team: Team,
    /// The host; it answers with what it got.
    pub outside: Outside,
}

/// A running session.
pub struct Granted {
    /// Its pod.
    pub pod: Pod,
    /// The session's UID.
    pub uid: String,
    namespace: String,
    cluster: Cluster,
}

/// A fake credential that was never anywhere before.
pub fn value() -> Result<String> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).ok().context("no randomness")?;
    Ok(format!("fake-value-{}", hex::encode(random)))
}

/// The environment variable of a session's credential.
fn variable(session: &str) -> String {
    format!("TOKEN_{}", session.to_uppercase())
}

impl Scene {
    /// A pool of this size; `change` overrides fields of its spec. A policy lets bindings by hand grant the host.
    pub async fn create(cluster: &Cluster, purpose: &str, replicas: i32, change: &Value) -> Result<Self> {
        let team = Team::create(cluster, purpose).await?;
        let outside = Outside::create(&team).await?;
        team.policy(json!({
            "allow": [{ "name": "outside", "hosts": [outside.host] }], "require": { "direct": true },
        }))
        .await?;
        let mut pool = team.pool(replicas);
        pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
        for (name, field) in change.as_object().into_iter().flatten() {
            pool["spec"][name] = field.clone();
        }
        team.warm(&pool).await?;
        Ok(Self { team, outside })
    }

    /// Binds a credential of session `name` to `value`, in a Secret of the session's name. The credential's name is the
    /// session's too, as one name has one value in a namespace.
    pub async fn grant(&self, name: &str, value: &str) -> Result<()> {
        self.team.offer(name, value, &self.outside.host).await?;
        let route = json!({
            "name": "outside", "host": self.outside.host, "methods": ["GET", "POST"], "paths": ["/granted/**"],
            "addresses": ["10.0.0.0/8"], "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        });
        let source = json!({ "secretRef": { "name": name, "key": "token" } });
        let spec = json!({
            "credential": { "name": variable(name), "source": source }, "subjects": { "sessionNames": [name] },
            "routes": [route], "reason": "e2e",
        });
        let binding = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec,
        });
        self.team.apply(&binding).await?;
        let granted = |binding: &CredentialBinding| {
            let status = binding.status.clone().unwrap_or_default();
            let is = |it: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                it.type_ == "Ready" && it.reason == "Granted"
            };
            status.conditions.iter().any(is)
        };
        self.team
            .wait::<CredentialBinding>(name, "Granted", PATIENCE, granted)
            .await
            .map(drop)
    }

    /// Starts session `name` with what it was granted, and waits until the host has got the value. `before` is shell
    /// that its harness runs first.
    pub async fn start(&self, name: &str, value: &str, before: &str) -> Result<Granted> {
        let variable = variable(name);
        let ask = format!(
            r#"curl -s -o answer -w 'status=%{{http_code}}\n' -H "Authorization: Bearer ${variable}" https://{}/granted/{name}"#,
            self.outside.host
        );
        let prompt = format!("{before}\necho \"${variable}\" > stub\nwhile true; do {ask}; sleep 0.2; done");
        let credentials = json!([{ "name": variable, "required": true }]);
        let spec = json!({ "poolRef": { "name": "pool" }, "task": { "prompt": prompt }, "credentials": credentials });
        let session = json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": name }, "spec": spec,
        });
        self.team.apply(&session).await?;
        let running = self.team.phase(name, Phase::Running).await?;
        self.receives(value).await?;
        Granted::of(&self.team, &running).await
    }

    /// Waits until the host gets this, from now on.
    pub async fn receives(&self, text: &str) -> Result<()> {
        let already = self.count(text);
        let look = async {
            while self.count(text) == already {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look)
            .await
            .context("the host outside didn't get what it should")
    }

    /// How often the host has got this so far.
    pub fn count(&self, text: &str) -> usize {
        self.outside.origin.text().matches(text).count()
    }

    /// Ends policy and namespace.
    pub async fn end(self) -> Result<()> {
        self.team.end_policy().await?;
        self.team.end().await
    }
}

impl Granted {
    /// A session that runs.
    pub async fn of(team: &Team, session: &AgentSession) -> Result<Self> {
        Ok(Self {
            uid: session.uid().context("a uid")?,
            namespace: team.namespace.clone(),
            cluster: team.cluster.clone(),
            pod: team.pod_of(session).await?,
        })
    }

    /// The sidecar's process, as the node sees it under runc.
    pub fn sidecar(&self) -> Result<u32> {
        node::process(&self.pod.uid().context("a uid")?, "berth-sidecar")
    }

    /// Runs a Perl script as the agent, with the agent's environment for proxies; gives its lines.
    pub fn agent(&self, script: &str, arguments: &[&str], input: &str) -> Result<Vec<String>> {
        let pod = self.pod.name_any();
        let proxy = ([127, 0, 0, 1], PROXY_PORT).into();
        let environment: Vec<String> = berth_protocol::environment::of("/berth/handoff", proxy)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut command = Command::new("kubectl");
        command.args([
            "--namespace",
            &self.namespace,
            "exec",
            "--stdin",
            &pod,
            "--container",
            "agent",
            "--",
            "env",
        ]);
        command.args(environment).args(["perl", "-e", script]).args(arguments);
        run(command, input)
    }

    /// Runs the same within the pod's network as this user, past the container: what only the sidecar or the network's
    /// owner may do.
    pub fn beside(&self, user: u32, script: &str, arguments: &[&str]) -> Result<Vec<String>> {
        run(self.beside_command(user, script, arguments)?, "")
    }

    /// The command of [`Self::beside`].
    pub fn beside_command(&self, user: u32, script: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = self.nsenter()?;
        command.args([
            "setpriv",
            "--clear-groups",
            &format!("--reuid={user}"),
            "perl",
            "-e",
            script,
        ]);
        command.args(arguments);
        Ok(command)
    }

    /// Runs a program of the node's within the pod's network, as root.
    pub fn in_network(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.nsenter()?;
        command.arg(program).args(arguments);
        Ok(run(command, "")?.join("\n"))
    }

    fn nsenter(&self) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.sidecar()?.to_string()]);
        Ok(command)
    }

    /// What nft has in the pod's network.
    pub fn tables(&self) -> Result<String> {
        self.in_network("nft", &["list", "ruleset"])
    }

    /// The connections that the kernel keeps for the pod's network, a line each.
    pub fn connections(&self) -> Result<String> {
        Ok(fs::read_to_string(format!(
            "/proc/{}/net/nf_conntrack",
            self.sidecar()?
        ))?)
    }

    /// The most memory that the sidecar has held so far.
    pub fn peak_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.sidecar()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(line.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
    }

    /// Runs curl as the agent, by the proxy; gives the answer and a last line `status=…`, 000 for none.
    pub fn curl(&self, arguments: &str) -> Result<String> {
        let options = "-s -m 30 -x http://127.0.0.1:14322 --cacert /berth/handoff/ca-bundle.crt";
        self.shell(&format!(
            "curl {options} -w '\\nstatus=%{{http_code}}\\n' {arguments} || true"
        ))
    }

    /// Runs a shell script as the agent; gives what it printed.
    pub fn shell(&self, script: &str) -> Result<String> {
        let pod = self.pod.name_any();
        let arguments = [
            "--namespace",
            &self.namespace,
            "exec",
            &pod,
            "--container",
            "agent",
            "--",
            "bash",
            "-c",
            script,
        ];
        self.cluster.run("kubectl", &arguments)
    }

    /// The pod's address.
    pub fn address(&self) -> Result<String> {
        let status = self.pod.status.as_ref();
        status
            .and_then(|status| status.pod_ip.clone())
            .context("the pod has no address")
    }

    /// A file of the sidecar's, which the node's root can read.
    pub fn sidecars(&self, path: &str) -> Result<Vec<u8>> {
        let path = format!("/proc/{}/root{path}", self.sidecar()?);
        fs::read(&path).with_context(|| format!("{path} can't be read"))
    }

    /// Whether these bytes are in the sidecar's memory.
    pub fn remembers(&self, bytes: &[u8]) -> Result<bool> {
        let sidecar = self.sidecar()?;
        let of = |name: &str| format!("/proc/{sidecar}/{name}");
        let memory = File::open(of("mem"))?;
        for line in fs::read_to_string(of("maps"))?.lines() {
            let mut words = line.split([' ', '-']);
            let (Some(start), Some(end), Some(mode)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            let mut region = vec![0; usize::try_from(end - start)?];
            // Pages of the kernel's own can't be read.
            let readable = mode.starts_with("rw") && memory.read_exact_at(&mut region, start).is_ok();
            if readable && region.windows(bytes.len()).any(|window| window == bytes) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn run(mut command: Command, input: &str) -> Result<Vec<String>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("an attack can't be run")?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let (said, trouble) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "an attack broke down: {trouble}{said}");
    Ok(said.lines().map(str::to_owned).collect())
}

/// Of the agent's environment.
const PROXY_PORT: u16 = 14322;
