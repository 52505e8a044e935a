//! The controller's side of the control stream, for tests: real TLS, a real handshake, and then whatever the test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use berth_protocol::KEY_PROOF_PREFIX;
use berth_protocol::control::control_server::{Control, ControlServer};
use berth_protocol::control::{
    Ack, Assignment, Event, EventAck, FromSidecar, Hello, Start, Suspend, Task, ToSidecar, Welcome, from_sidecar,
    to_sidecar::Message,
};
use berth_sidecar::cli::{self, Options, Place};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// A stream whose key is proven.
pub(crate) struct Attached {
    pub(crate) bearer: String,
    pub(crate) hello: Hello,
    sender: Option<mpsc::Sender<Result<ToSidecar, Status>>>,
    incoming: Streaming<FromSidecar>,
    pub(crate) epoch: u64,
    revision: u64,
    seen: Vec<Event>,
}

impl Attached {
    /// A message that changes what the sidecar holds.
    pub(crate) async fn push(&mut self, message: Message) {
        self.revision += 1;
        self.send(self.epoch, self.revision, message).await;
    }

    pub(crate) async fn send(&self, epoch: u64, revision: u64, message: Message) {
        let message = ToSidecar {
            epoch,
            revision,
            message: Some(message),
        };
        self.sender.as_ref().unwrap().send(Ok(message)).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> from_sidecar::Message {
        let message = timeout(PATIENCE, self.incoming.message())
            .await
            .expect("the sidecar says nothing");
        message.unwrap().expect("the sidecar has gone").message.unwrap()
    }

    pub(crate) async fn ack(&mut self) -> Ack {
        loop {
            match self.next().await {
                from_sidecar::Message::Ack(ack) => return ack,
                from_sidecar::Message::Event(event) => self.seen.push(event),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        if !self.seen.is_empty() {
            return self.seen.remove(0);
        }
        loop {
            match self.next().await {
                from_sidecar::Message::Event(event) => return event,
                // The audit trail and checkpoints go beside the events.
                from_sidecar::Message::Trail(_) | from_sidecar::Message::Checkpoint(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn token(&mut self) -> String {
        match self.next().await {
            from_sidecar::Message::Token(token) => token,
            other => panic!("{other:?}"),
        }
    }

    /// Events up to and including the first that `last` picks.
    pub(crate) async fn events_until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            events.push(self.event().await);
            if last(events.last().unwrap()) {
                return events;
            }
        }
    }

    pub(crate) async fn acknowledge(&self, client_seq: u64) {
        let ack = EventAck {
            incarnation: 1,
            client_seq,
            durable: true,
        };
        self.send(self.epoch, 0, Message::EventAck(ack)).await;
    }

    /// Assigns incarnation 1 of a session, waits for the acknowledgement, releases the harness.
    pub(crate) async fn run(&mut self, script: &str, prompt: &str) {
        self.push(assignment(script, prompt)).await;
        assert_eq!(self.ack().await.incarnation, 1);
        self.push(Message::Start(Start { incarnation: 1 })).await;
    }

    pub(crate) async fn suspend(&mut self) {
        self.push(Message::Suspend(Suspend {
            incarnation: 1,
            reason: "test".to_owned(),
        }))
        .await;
    }
}

pub(crate) fn assignment(script: &str, prompt: &str) -> Message {
    Message::Assignment(Assignment {
        session_uid: "uid-1".to_owned(),
        namespace: "team".to_owned(),
        name: "fix".to_owned(),
        incarnation: 1,
        task: Some(Task {
            prompt: prompt.to_owned(),
            ..Task::default()
        }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Assignment::default()
    })
}

/// The controller.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    pub(crate) ca: String,
    attached: mpsc::Receiver<Attached>,
    task: JoinHandle<()>,
    epoch: Arc<Mutex<u64>>,
}

impl Controller {
    pub(crate) async fn begin() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, attached) = mpsc::channel(4);
        let epoch = Arc::new(Mutex::new(1));
        let service = Service {
            sender,
            epoch: Arc::clone(&epoch),
        };
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&certificate, key));
        let mut server = Server::builder().tls_config(tls).unwrap();
        let server = server
            .add_service(ControlServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        Self {
            address,
            ca: certificate,
            attached,
            task,
            epoch,
        }
    }

    /// A new leader answers from now on.
    pub(crate) fn take_over(&self) {
        *self.epoch.lock().unwrap() += 1;
    }

    pub(crate) async fn attached(&mut self) -> Attached {
        timeout(PATIENCE, self.attached.recv())
            .await
            .expect("no sidecar attaches")
            .unwrap()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    sender: mpsc::Sender<Attached>,
    epoch: Arc<Mutex<u64>>,
}

#[tonic::async_trait]
impl Control for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ToSidecar, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromSidecar>>) -> Result<Response<Self::AttachStream>, Status> {
        let bearer = request
            .metadata()
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let (sender, receiver) = mpsc::channel(64);
        let (attached, epoch) = (self.sender.clone(), *self.epoch.lock().unwrap());
        tokio::spawn(async move {
            let mut incoming = request.into_inner();
            let Some(from_sidecar::Message::Hello(hello)) = incoming.message().await.unwrap().unwrap().message else {
                panic!("no hello")
            };
            let nonce = vec![9; 32];
            let welcome = Message::Welcome(Welcome { nonce: nonce.clone() });
            sender
                .send(Ok(ToSidecar {
                    epoch,
                    revision: 0,
                    message: Some(welcome),
                }))
                .await
                .unwrap();
            let Ok(Some(FromSidecar {
                message: Some(from_sidecar::Message::KeyProof(proof)),
            })) = incoming.message().await
            else {
                return; // a sidecar that has seen a later leader goes away
            };
            let signed = [KEY_PROOF_PREFIX, &nonce].concat();
            UnparsedPublicKey::new(&ED25519, &hello.public_key)
                .verify(&signed, &proof.signature)
                .unwrap();
            let revision = if hello.highest_epoch == epoch {
                hello.highest_revision
            } else {
                0
            };
            let stream = Attached {
                bearer,
                hello,
                sender: Some(sender),
                incoming,
                epoch,
                revision,
                seen: Vec::new(),
            };
            drop(attached.send(stream).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// The volumes of one pod, and its sidecar.
pub(crate) struct Pod {
    pub(crate) volumes: tempfile::TempDir,
    pub(crate) options: Options,
    sidecar: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Pod {
    pub(crate) fn new(controller: &Controller) -> Self {
        // Memory, as in a pod: a busy disk must not hold up what is kept with every event.
        let memory = Path::new("/dev/shm");
        let volumes = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        }
        .unwrap();
        let at = |name: &str| volumes.path().join(name);
        for directory in ["handoff", "state", "workspace"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        std::fs::write(at("ca.crt"), &controller.ca).unwrap();
        std::fs::write(at("token"), "token-1\n").unwrap();
        let own = own_address();
        let options = Options {
            control: cli::Control {
                control_url: format!("https://localhost:{}", controller.address.port()),
                control_ca: at("ca.crt"),
                token_file: at("token"),
            },
            place: Place {
                handoff: at("handoff"),
                state: at("state"),
                proxy_address: (own, 14322).into(),
                transparent_address: (own, 14323).into(),
                upstream_ca: Vec::new(),
                cluster_cidr: Vec::new(),
                resolve: Vec::new(),
                name_server: Vec::new(),
                spool: None,
            },
        };
        Self {
            volumes,
            options,
            sidecar: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.volumes.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.options.place.handoff.join(berth_protocol::handoff::SOCKET_NAME)
    }

    /// Starts the container; an earlier one is killed, as by the kernel.
    pub(crate) async fn start_sidecar(&mut self) {
        self.kill_sidecar().await;
        // Unlike a process's, the aborted task's listeners close a moment later.
        let free = |address| std::net::TcpListener::bind::<SocketAddr>(address).is_ok();
        let addresses = [self.options.place.proxy_address, self.options.place.transparent_address];
        eventually("free ports", || addresses.into_iter().all(free)).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let options = self.options.clone();
        let run = async move {
            let stopped = async move { drop(stopped.await) };
            berth_sidecar::run::run(options, stopped).await.unwrap();
        };
        self.sidecar = Some((stop, tokio::spawn(run)));
    }

    pub(crate) async fn kill_sidecar(&mut self) {
        if let Some((_stop, task)) = self.sidecar.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// As SIGTERM does.
    pub(crate) async fn stop_sidecar(&mut self) {
        let (stop, task) = self.sidecar.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }

    pub(crate) fn is_ready(&self) -> bool {
        berth_sidecar::control::ready::is_attached(&self.options.place.state)
    }
}

/// Waits for something that nothing tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn exists(path: &Path) -> impl FnMut() -> bool {
    let path = path.to_owned();
    move || path.exists()
}

/// Each pod has its own loopback address, as it would have its own network: no test takes another one's port.
fn own_address() -> Ipv4Addr {
    static ADDRESSES: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [.., pod] = ADDRESSES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 64 | high, low, pod + 1)
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
