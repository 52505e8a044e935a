//! A node that isn't there, and the sidecars of the pods that are scheduled to it.
//!
//! A stand-in: two cores hold no five hundred agents. The pods are objects that the scheduler and agent-sandbox treat as
//! any other; this says of them what a kubelet would, as a kubelet: that they run, and their tokens. The sidecars are real
//! clients of the control stream, each with a connection and a key of its own, that take what they are sent and acknowledge
//! it. No process runs behind them, and nothing is on a wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_e2e::Team;
use berth_e2e::stream::{Stream, proof};
use berth_protocol::AUDIENCE;
use berth_protocol::control::to_sidecar::Message;
use berth_protocol::control::{Ack, Event, Grants, HarnessStarted, event, from_sidecar};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

/// Name of the node, and the taint that keeps others off it.
pub(crate) const NAME: &str = "swarm-stand-in";
/// Label and taint of it.
pub(crate) const LABEL: &str = "berth.dev/stand-in";

/// What a session's sidecar was told last.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Names of the credentials that it has a value of.
    pub(crate) credentials: Vec<String>,
    /// When it got them.
    pub(crate) at: Timestamp,
}

/// The node, while it lives.
pub(crate) struct NodeStandIn {
    cluster: Client,
    told: Arc<Told>,
    _parts: JoinSet<Result<()>>,
}

#[derive(Default)]
struct Told {
    /// By the UID of the pod.
    held: Mutex<BTreeMap<String, Held>>,
    changed: watch::Sender<u64>,
    failed: Mutex<Option<String>>,
}

/// One pod, and what its sidecar needs.
struct Kubelet {
    client: Client,
    endpoint: Endpoint,
    told: Arc<Told>,
}

impl NodeStandIn {
    /// Joins the cluster; serves the pods of this team.
    pub(crate) async fn join(team: &Team, endpoint: Endpoint) -> Result<Self> {
        let cluster = team.cluster.client.clone();
        register(&cluster).await?;
        let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = Some(format!("system:node:{NAME}"));
        config.auth_info.impersonate_groups = Some(vec!["system:nodes".to_owned()]);
        let told = Arc::new(Told::default());
        let kubelet = Arc::new(Kubelet {
            client: Client::try_from(config)?,
            endpoint,
            told: Arc::clone(&told),
        });
        let mut parts = JoinSet::new();
        let beating = cluster.clone();
        parts.spawn(async move { beat(&beating).await });
        let pods: Api<Pod> = team.api();
        parts.spawn(async move { kubelet.follow(pods).await });
        Ok(Self {
            cluster,
            told,
            _parts: parts,
        })
    }

    /// Waits until what the bound sidecars hold is as wanted; gives it.
    pub(crate) async fn wait(&self, what: &str, wanted: impl Fn(&[Held]) -> bool) -> Result<Vec<Held>> {
        let mut changes = self.told.changed.subscribe();
        let look = async {
            loop {
                if let Some(why) = self.told.failed.lock().take() {
                    anyhow::bail!("{why}");
                }
                let held: Vec<Held> = self.told.held.lock().values().cloned().collect();
                if wanted(&held) {
                    return Ok(held);
                }
                changes.changed().await?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        found.with_context(|| format!("{what}: not within {} s", PATIENCE.as_secs()))?
    }

    /// Leaves the cluster; what is still on it is collected by the cluster.
    pub(crate) async fn leave(self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.cluster.clone());
        nodes.delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// A Node with room for everything, on which nothing runs that doesn't ask for it.
async fn register(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = json!({ "kubernetes.io/os": "linux", "kubernetes.io/hostname": NAME, LABEL: "true" });
    let taint = json!({ "key": LABEL, "value": "true", "effect": "NoSchedule" });
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME, "labels": labels }, "spec": { "taints": [taint] },
    });
    let apply = PatchParams::apply("swarm").force();
    nodes.patch(NAME, &apply, &Patch::Apply(&node)).await?;
    let room = json!({ "cpu": "10000", "memory": "10Ti", "pods": "2000", "ephemeral-storage": "100Ti" });
    let ready = condition("Ready");
    let status = json!({ "status": { "capacity": room, "allocatable": room, "conditions": [ready] } });
    nodes
        .patch_status(NAME, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

/// What tells the cluster that the node lives (Kubernetes, "Heartbeats").
async fn beat(client: &Client) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        let now = Timestamp::now();
        let spec = json!({ "holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}") });
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": NAME }, "spec": spec,
        });
        let apply = PatchParams::apply("swarm").force();
        leases.patch(NAME, &apply, &Patch::Apply(&lease)).await?;
    }
}

impl Kubelet {
    /// Every pod of the node is started once, and ended when it is deleted.
    async fn follow(self: Arc<Self>, pods: Api<Pod>) -> Result<()> {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={NAME}"));
        let mut changes = std::pin::pin!(watcher(pods, config).default_backoff().applied_objects());
        let mut sidecars = BTreeMap::new();
        while let Some(pod) = changes.try_next().await? {
            let uid = pod.uid().unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() {
                let ended: Option<tokio::task::AbortHandle> = sidecars.remove(&uid);
                if let Some(ended) = ended {
                    ended.abort();
                    self.told.held.lock().remove(&uid);
                    let (client, pod) = (self.client.clone(), pod);
                    tokio::spawn(async move { drop(forget(&client, &pod).await) });
                }
                continue;
            }
            let number = sidecars.len();
            sidecars.entry(uid).or_insert_with(|| {
                let kubelet = Arc::clone(&self);
                let started = tokio::spawn(async move {
                    let name = pod.name_any();
                    if let Err(error) = kubelet.run(&pod, number).await {
                        kubelet.told.fail(format!("the sidecar of {name}: {error:#}"));
                    }
                });
                started.abort_handle()
            });
        }
        Ok(())
    }

    /// Says that the pod runs, and is its sidecar.
    async fn run(&self, pod: &Pod, number: usize) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let status = Patch::Merge(running(pod, number));
        pods.patch_status(&name, &PatchParams::default(), &status).await?;
        let token = self.token(pod, &namespace).await?;
        let mut stream = Stream::of_pod(&self.endpoint, &token).await?;
        stream.prove(proof).await?;
        let uid = pod.uid().unwrap_or_default();
        while let Some(sent) = stream.next().await? {
            let ack = |incarnation| {
                from_sidecar::Message::Ack(Ack {
                    epoch: sent.epoch,
                    revision: sent.revision,
                    incarnation,
                })
            };
            match sent.message {
                Some(Message::Assignment(assigned)) => stream.say(ack(assigned.incarnation))?,
                Some(Message::Start(start)) => stream.say(started(start.incarnation))?,
                Some(Message::Grants(grants)) => {
                    let incarnation = grants.incarnation;
                    self.told.hold(&uid, &grants);
                    stream.say(ack(incarnation))?;
                }
                _ => {}
            }
        }
        anyhow::bail!("the controller ended the stream")
    }

    /// The pod's projected token, as its kubelet asks for it.
    async fn token(&self, pod: &Pod, namespace: &str) -> Result<String> {
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid() });
        let request: TokenRequest = serde_json::from_value(json!({
            "metadata": {}, "spec": { "audiences": [AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound },
        }))?;
        let account = account.context("a pod has an account")?;
        for _ in 0..TOKEN_TRIES {
            match accounts
                .create_token_request(&account, &PostParams::default(), &request)
                .await
            {
                // The API server's own authorizer hasn't seen yet where the pod is; kubelets ask again, too.
                Err(kube::Error::Api(answer)) if answer.code == 403 => tokio::time::sleep(TOKEN_WAIT).await,
                answer => return Ok(answer?.status.context("a token")?.token),
            }
        }
        anyhow::bail!("no token for {}", pod.name_any())
    }
}

impl Told {
    fn hold(&self, uid: &str, grants: &Grants) {
        let at = Timestamp::now();
        let credentials = grants.values.iter().map(|value| value.credential.clone()).collect();
        self.held.lock().insert(uid.to_owned(), Held { credentials, at });
        self.changed.send_modify(|turn| *turn += 1);
    }

    fn fail(&self, why: String) {
        self.failed.lock().get_or_insert(why);
        self.changed.send_modify(|turn| *turn += 1);
    }
}

/// Removes a pod that has ended.
async fn forget(client: &Client, pod: &Pod) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
        .await?;
    Ok(())
}

fn started(incarnation: u64) -> from_sidecar::Message {
    from_sidecar::Message::Event(Event {
        incarnation,
        client_seq: 1,
        at_unix_ms: Timestamp::now().as_millisecond(),
        kind: Some(event::Kind::Started(HarnessStarted {
            command: vec!["stand-in".to_owned()],
        })),
    })
}

/// The status of a pod whose containers all are where they should be.
fn running(pod: &Pod, number: usize) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let now = Timestamp::now();
    let run = json!({ "running": { "startedAt": now } });
    let done = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now } });
    let container = |container: &Container, state: &Value, runs: bool| {
        json!({
            "name": container.name, "image": container.image, "imageID": "sha256:stand-in", "ready": true, "started": runs,
            "restartCount": 0, "state": state,
        })
    };
    let init: Vec<Value> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|it| match it.restart_policy {
            Some(_) => container(it, &run, true),
            None => container(it, &done, false),
        })
        .collect();
    let containers: Vec<Value> = spec.containers.iter().map(|it| container(it, &run, true)).collect();
    let address = format!("198.18.{}.{}", number / 250, number % 250 + 1);
    let conditions: Vec<Value> = [
        "PodScheduled",
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    ]
    .map(condition)
    .to_vec();
    json!({ "status": {
        "phase": "Running", "conditions": conditions, "hostIP": "198.18.255.1", "hostIPs": [{ "ip": "198.18.255.1" }],
        "podIP": address, "podIPs": [{ "ip": address }], "startTime": now,
        "initContainerStatuses": init, "containerStatuses": containers,
    } })
}

fn condition(kind: &str) -> Value {
    let now = Timestamp::now();
    json!({
        "type": kind, "status": "True", "reason": "StandIn", "message": "a stand-in of the benchmark",
        "lastTransitionTime": now,
    })
}

const TOKEN_TRIES: u32 = 60;
const TOKEN_WAIT: Duration = Duration::from_millis(500);
/// A quarter of what the node's controller allows for.
const BEAT: Duration = Duration::from_secs(10);
/// Hundreds of pods come and go one after the other.
const PATIENCE: Duration = Duration::from_mins(10);
