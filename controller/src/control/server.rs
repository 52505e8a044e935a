//! The gRPC service that sidecars attach to. One task per stream: review the token, let the sidecar prove its key,
//! enter the registry, then carry events to the record and acknowledgements to the sessions' queue.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use berth_crds::CredentialBinding;
use berth_protocol::control::control_server::Control;
use berth_protocol::control::{
    Ack, Checkpoint, Event, EventAck, FromSidecar, Hello, ToSidecar, Trail, WantInput, Welcome, checkpoint, event,
    from_sidecar, to_sidecar::Message,
};
use berth_protocol::{KEY_PROOF_PREFIX, VERSION};
use futures::Stream;
use jiff::Timestamp;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::checkpoints::{self, Checkpoints};
use super::feed::feed;
use super::registry::{Attachment, QUEUE};
use super::session_link::Link;
use super::token::{self, PodIdentity, TokenError};
use crate::context::Context;
use crate::session::proposal::{Unmet, propose};
use crate::session::runs::{Told, What};
use crate::session::snapshot::Exited;
use crate::session::spend::Told as Spent;
use crate::store::event::NewEvent;
use crate::store::uses::NoRoom;
use crate::watch::Name;

/// The service; `context` is there while this replica leads.
#[derive(Clone)]
pub struct ControlService {
    context: tokio::sync::watch::Receiver<Option<Arc<Context>>>,
}

impl ControlService {
    /// A service that serves whenever there is a context.
    pub fn new(context: tokio::sync::watch::Receiver<Option<Arc<Context>>>) -> Self {
        Self { context }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<ToSidecar, Status>> + Send>>;

#[tonic::async_trait]
impl Control for ControlService {
    type AttachStream = Outgoing;

    async fn attach(&self, request: Request<Streaming<FromSidecar>>) -> Result<Response<Self::AttachStream>, Status> {
        let context = self.context.borrow().clone();
        let context = context.ok_or_else(|| Status::unavailable("this replica doesn't lead"))?;
        let bearer = bearer(&request)?;
        let pod = within(token::review(&context.client, &bearer))
            .await?
            .map_err(refused)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let stream = AttachedStream {
            context,
            led: self.context.clone(),
            pod,
            sender,
            incoming: request.into_inner(),
            acknowledged: 0,
            settled: false,
            checkpoints: None,
        };
        tokio::spawn(stream.serve());
        let outgoing = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), Ok);
        Ok(Response::new(Box::pin(outgoing)))
    }
}

fn bearer(request: &Request<Streaming<FromSidecar>>) -> Result<String, Status> {
    let header = request
        .metadata()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let token = header
        .and_then(|value| value.strip_prefix("Bearer "))
        .filter(|token| token.len() <= TOKEN_MAX);
    token
        .map(str::to_owned)
        .ok_or_else(|| Status::unauthenticated("a bearer token of audience berth is needed"))
}

fn refused(error: TokenError) -> Status {
    match error {
        TokenError::Refused(why) => {
            tracing::warn!(why, "control stream refused");
            Status::unauthenticated(why)
        }
        TokenError::Review(source) => Status::unavailable(format!("the token couldn't be reviewed: {source}")),
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, Status> {
    tokio::time::timeout(HANDSHAKE, work)
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("the handshake took too long"))
}

struct AttachedStream {
    context: Arc<Context>,
    /// Changes when this replica leads no more.
    led: tokio::sync::watch::Receiver<Option<Arc<Context>>>,
    pod: PodIdentity,
    sender: mpsc::Sender<ToSidecar>,
    incoming: Streaming<FromSidecar>,
    /// Highest number of an event that the sidecar was told to forget.
    acknowledged: u64,
    /// The run on it has ended and all of its events are durable.
    settled: bool,
    /// Takes steps of checkpoints, once there was one.
    checkpoints: Option<mpsc::Sender<checkpoint::Step>>,
}

impl AttachedStream {
    async fn serve(mut self) {
        let connection = match within(self.handshake()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(status)) | Err(status) => {
                tracing::warn!(
                    pod = self.pod.name,
                    namespace = self.pod.namespace,
                    why = status.message(),
                    "stream refused"
                );
                return;
            }
        };
        self.poke();
        self.context.queues.grants.poke(self.pod.namespace.clone());
        let ended = self.carry(connection).await;
        tracing::debug!(pod = self.pod.name, why = ended, "stream ended");
        self.context.registry.detach(&self.pod.uid, connection);
        self.poke(); // a session that goes on elsewhere waits for this
    }

    /// Hello, a nonce, a signature: then the stream is the pod's.
    async fn handshake(&mut self) -> Result<u64, Status> {
        let Some(from_sidecar::Message::Hello(hello)) = self.next().await? else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        if hello.protocol != VERSION {
            let why = format!("protocol {} isn't served, {VERSION} is", hello.protocol);
            return Err(Status::failed_precondition(why));
        }
        let epoch = self.context.leadership.epoch();
        if hello.highest_epoch > epoch {
            return Err(Status::failed_precondition("the sidecar has seen a later leader"));
        }
        let nonce: [u8; 32] = rand::random();
        let welcome = ToSidecar {
            epoch,
            revision: 0,
            message: Some(Message::Welcome(Welcome { nonce: nonce.to_vec() })),
        };
        self.sender
            .send(welcome)
            .await
            .map_err(|_closed| Status::cancelled("the sidecar has gone"))?;
        let Some(from_sidecar::Message::KeyProof(proof)) = self.next().await? else {
            return Err(Status::invalid_argument("KeyProof must follow Welcome"));
        };
        verify(&hello.public_key, &nonce, &proof.signature)?;
        self.enter(&hello, epoch)
    }

    fn enter(&self, hello: &Hello, epoch: u64) -> Result<u64, Status> {
        let key = hex::encode(Sha256::digest(&hello.public_key));
        let acknowledged = self.confirmed(hello, &key)?;
        let revision = if hello.highest_epoch == epoch {
            hello.highest_revision
        } else {
            0
        };
        let attachment = Attachment {
            pod: self.pod.clone(),
            key,
            acknowledged,
            sender: self.sender.clone(),
            epoch,
            revision,
        };
        let connection = self.context.registry.attach(attachment);
        if connection.is_none() {
            self.poke();
        }
        connection
            .ok_or_else(|| Status::permission_denied("the pod is refused: it showed another key, or isn't as rendered"))
    }

    /// What the sidecar says it holds, as far as the session's status says the same of this pod. A bound pod that
    /// shows another key than the one its session was bound with is refused.
    fn confirmed(&self, hello: &Hello, key: &str) -> Result<Option<i64>, Status> {
        let pod = Name {
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
        };
        let Some(name) = self.context.caches.session_of_pod(&pod) else {
            return Ok(None);
        };
        let Some(session) = self.context.caches.session(&name) else {
            return Ok(None);
        };
        let status = session.status.clone().unwrap_or_default();
        let bound = status
            .sandbox
            .filter(|sandbox| sandbox.pod_uid.as_ref() == Some(&self.pod.uid));
        let Some(bound) = bound else { return Ok(None) };
        if bound.stream_key.as_deref() != Some(key) {
            return Err(Status::permission_denied("the session is bound to another key"));
        }
        let uid = session.uid().unwrap_or_default();
        let incarnation = i64::try_from(hello.incarnation).unwrap_or(0);
        let same = hello.session_uid == uid && incarnation == status.incarnation;
        if same {
            self.context.event_writer.restart(&uid);
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let (told, acknowledged) = (number(hello.events_told), number(hello.events_acknowledged));
            self.context.runs.resume(&uid, incarnation, told, acknowledged);
            self.context
                .sessions_on_pods
                .set(&self.pod.uid, name, &uid, incarnation);
        }
        Ok(same.then_some(incarnation))
    }

    /// Until the stream ends, the token expires, or another stream takes its place. Says why.
    async fn carry(&mut self, connection: u64) -> &'static str {
        let (mut commits, mut led) = (self.context.projection_commits(), self.led.clone());
        if led.borrow_and_update().is_none() {
            return "this replica leads no more";
        }
        loop {
            if !self.context.registry.is_current(&self.pod.uid, connection) {
                return "another stream took its place, or the pod is refused";
            }
            let left = self.pod.expires.duration_since(self.context.clock.now());
            let Ok(left) = Duration::try_from(left) else {
                return "the token has expired";
            };
            tokio::select! {
                message = self.next() => match message {
                    Ok(Some(message)) => if let Err(why) = self.take(message).await { return why },
                    Ok(None) | Err(_) => return "the sidecar has gone",
                },
                () = tokio::time::sleep(left) => return "the token has expired",
                _ = led.changed() => return "this replica leads no more",
                _ = commits.changed() => if self.acknowledge() { return "its events were let go of; it tells them anew" },
            }
        }
    }

    async fn take(&mut self, message: from_sidecar::Message) -> Result<(), &'static str> {
        match message {
            from_sidecar::Message::Token(fresh) => self.renew(&fresh).await,
            from_sidecar::Message::Ack(ack) => {
                self.hold(&ack);
                Ok(())
            }
            from_sidecar::Message::Event(event) => self.event(event).await,
            from_sidecar::Message::Trail(trail) => self.trail(&trail),
            from_sidecar::Message::WantInput(want) => {
                self.want_input(want);
                Ok(())
            }
            from_sidecar::Message::Checkpoint(step) => {
                self.checkpoint(step);
                Ok(())
            }
            from_sidecar::Message::Hello(_) | from_sidecar::Message::KeyProof(_) => Err("a second handshake"),
        }
    }

    /// A fresh token must be of the same pod.
    async fn renew(&mut self, fresh: &str) -> Result<(), &'static str> {
        match token::review(&self.context.client, fresh).await {
            Ok(pod) if pod.uid == self.pod.uid => {
                self.pod = pod;
                Ok(())
            }
            Ok(_) => Err("the fresh token is another pod's"),
            Err(TokenError::Refused(_)) => Err("the fresh token is refused"),
            Err(TokenError::Review(_)) => Ok(()), // the old one still holds; the sidecar sends the next one
        }
    }

    /// The sidecar holds an assignment: it counts if this leader has pushed that one to it.
    fn hold(&self, ack: &Ack) {
        let incarnation = i64::try_from(ack.incarnation).unwrap_or(0);
        let mut bound = false;
        self.context.registry.update(&self.pod.uid, |facts| {
            if let Some(granted) = facts
                .granted
                .as_mut()
                .filter(|granted| granted.revision == ack.revision)
            {
                granted.acknowledged = true;
            } else if facts.assigned == Some(incarnation) {
                bound = facts.acknowledged.replace(incarnation) != Some(incarnation);
            }
        });
        if let Some(link) = bound
            .then(|| self.context.sessions_on_pods.get(&self.pod.uid))
            .flatten()
        {
            tracing::info!(
                session.namespace = link.session.namespace,
                session.name = link.session.name,
                incarnation,
                pod = self.pod.name,
                "assignment acknowledged"
            );
        }
        self.poke();
    }

    async fn event(&mut self, event: Event) -> Result<(), &'static str> {
        let Some(link) = self.context.sessions_on_pods.get(&self.pod.uid) else {
            return Err("events before the pod was bound");
        };
        if i64::try_from(event.incarnation).ok() != Some(link.incarnation) {
            return Ok(()); // of an incarnation that is over
        }
        let now = self.context.clock.now();
        let told = told(&event, now);
        let moves = !matches!(told.what, What::Other);
        let Some(new) = NewEvent::from_wire(event, now) else {
            return Err("an event without a kind");
        };
        self.context.runs.tell(&link.session_uid, link.incarnation, &told);
        self.context
            .event_writer
            .submit(&link.session_uid, link.incarnation, new)
            .await;
        if moves {
            self.context.queues.sessions.poke(link.session);
        }
        Ok(())
    }

    /// A row of the audit trail goes to the record.
    fn trail(&self, trail: &Trail) -> Result<(), &'static str> {
        let link = self.context.sessions_on_pods.get(&self.pod.uid);
        let link = link.filter(|link| i64::try_from(trail.incarnation).ok() == Some(link.incarnation));
        let Some(link) = link else { return Ok(()) };
        if let Some(unmet) = Unmet::read(&trail.record) {
            self.propose(&link, &unmet);
        }
        if let Some(told) = Spent::read(&trail.record)
            && self
                .context
                .spend
                .tell(&link.session_uid, link.incarnation, told, self.context.clock.now())
        {
            self.context.queues.sessions.poke(link.session.clone());
        }
        let put = self.context.uses.put(&link, &self.pod.uid, trail, &self.sender);
        put.map_err(|NoRoom| "the audit trail waits for the database; it is told anew")
    }

    /// The harness waits: it gets what was said meanwhile, and the status says so.
    fn want_input(&self, want: WantInput) {
        let link = self.context.sessions_on_pods.get(&self.pod.uid);
        let ours = |link: &Link| i64::try_from(want.incarnation).ok() == Some(link.incarnation);
        let Some(link) = link.filter(ours) else { return };
        let mut before = None;
        self.context
            .registry
            .update(&self.pod.uid, |facts| before = facts.waits.replace(want.after));
        if before != Some(want.after) {
            self.context.queues.sessions.poke(link.session.clone());
        }
        tokio::spawn(feed(Arc::clone(&self.context), self.pod.uid.clone(), link, want.after));
    }

    /// A step of a checkpoint. One that finds no room is let go of: the runner waits for an answer, then begins anew.
    fn checkpoint(&mut self, step: Checkpoint) {
        let Some(link) = self.context.sessions_on_pods.get(&self.pod.uid) else {
            return;
        };
        let Some(step) = checkpoints::step(step, &link) else {
            return;
        };
        let (context, answers) = (Arc::clone(&self.context), self.sender.clone());
        let taking = self
            .checkpoints
            .get_or_insert_with(|| Checkpoints::begin(context, link, answers));
        drop(taking.try_send(step));
    }

    /// What would allow a refused request goes to the session's status.
    fn propose(&self, link: &Link, unmet: &Unmet) {
        let context = &self.context;
        let Some(session) = context.caches.session(&link.session) else {
            return;
        };
        let bindings = context.caches.bindings_of(&link.session.namespace);
        let bindings: Vec<&CredentialBinding> = bindings.iter().map(|binding| &**binding).collect();
        let now = context.clock.now();
        let proposal = propose(&session, unmet, &bindings, now);
        if let Some(wait) = proposal.and_then(|it| context.proposals.add(&link.session_uid, it, now)) {
            context.queues.sessions.poke_after(link.session.clone(), wait);
        }
    }

    /// Tells the sidecar what it may forget. `true` when the stream has to be opened anew.
    fn acknowledge(&mut self) -> bool {
        let Some(link) = self.context.sessions_on_pods.get(&self.pod.uid) else {
            return false;
        };
        let number = self.may_forget(&link);
        let Ok(client_seq) = u64::try_from(number) else {
            return false;
        };
        if client_seq > self.acknowledged {
            self.acknowledged = client_seq;
            self.send_acknowledgement(&link, client_seq);
        }
        self.settle(&link);
        self.context.event_writer.wants_restart(&link.session_uid)
    }

    /// The last event of a run that ended is durable: the session needs its sandbox no more.
    fn settle(&mut self, link: &Link) {
        let run = self.context.runs.facts(&link.session_uid, link.incarnation);
        let settled = run.exited.is_some() && run.durable;
        if settled && !self.settled {
            self.context.queues.sessions.poke(link.session.clone());
        }
        self.settled = settled;
    }

    fn send_acknowledgement(&self, link: &Link, client_seq: u64) {
        let incarnation = u64::try_from(link.incarnation).unwrap_or(0);
        let ack = EventAck {
            incarnation,
            client_seq,
            durable: true,
        };
        let epoch = self.context.leadership.epoch();
        let message = ToSidecar {
            epoch,
            revision: 0,
            message: Some(Message::EventAck(ack)),
        };
        // A sidecar that doesn't read gets the next one: acknowledgements are cumulative.
        drop(self.sender.try_send(message));
    }

    fn may_forget(&self, link: &Link) -> i64 {
        let session = self.context.caches.session(&link.session);
        let status = session.and_then(|session| session.status.clone()).unwrap_or_default();
        let running = status.phase == Some(berth_crds::Phase::Running);
        let finished = crate::session::plan::has_ended(&status) && status.incarnation == link.incarnation;
        self.context
            .runs
            .acknowledge(&link.session_uid, link.incarnation, running, finished)
    }

    async fn next(&mut self) -> Result<Option<from_sidecar::Message>, Status> {
        Ok(self.incoming.message().await?.and_then(|message| message.message))
    }

    fn poke(&self) {
        let pod = Name {
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
        };
        let linked = self
            .context
            .sessions_on_pods
            .get(&self.pod.uid)
            .map(|link| link.session);
        let session = linked.or_else(|| self.context.caches.session_of_pod(&pod));
        if let Some(session) = session {
            self.context.queues.sessions.poke(session);
        }
    }
}

fn verify(public_key: &[u8], nonce: &[u8], signature: &[u8]) -> Result<(), Status> {
    let signed = [KEY_PROOF_PREFIX, nonce].concat();
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(&signed, signature)
        .map_err(|_unspecified| Status::permission_denied("the key isn't proven"))
}

/// What an event says of the session's state.
fn told(event: &Event, at: Timestamp) -> Told {
    let what = match &event.kind {
        Some(event::Kind::Started(_)) => What::Started,
        Some(event::Kind::Exited(exited)) => What::Exited(Exited {
            code: exited.code,
            summary: exited.summary.clone(),
            error: exited.error.clone(),
            stopped: exited.stopped,
            branch: exited.branch.clone(),
            pull_request: exited.pull_request,
            last_lines: exited.last_lines.clone(),
            ..Exited::default()
        }),
        Some(event::Kind::Restored(restored)) => What::Restored(restored.digest.clone()),
        _ => What::Other,
    };
    Told {
        number: i64::try_from(event.client_seq).unwrap_or(i64::MAX),
        at,
        what,
    }
}

/// A handshake is two round trips and a TokenReview.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A projected token is about 1 KiB.
const TOKEN_MAX: usize = 16 << 10;
