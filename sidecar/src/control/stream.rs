//! The control stream: opened, proven, and opened again whenever it is lost.
//!
//! The controller ends a stream that tells events before it knows the pod as bound, which a fresh leader may not yet.
//! So events are held back for a while after a stream that ended that way, until the controller says something about
//! the incarnation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_protocol::control::control_client::ControlClient;
use berth_protocol::control::{FromSidecar, KeyProof, ToSidecar, from_sidecar::Message};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::bond::{Bond, Taken};
use super::gate::Stale;
use super::key::StreamKey;
use super::ready::Ready;
use super::state::StateError;
use super::vault_link::VaultLink;

/// What every stream needs.
pub struct Client {
    /// URL of the controller.
    pub url: String,
    /// File with its CA certificate; read for each stream, as it may be replaced.
    pub ca: PathBuf,
    /// Newest token.
    pub token: watch::Receiver<String>,
    /// The pod's key.
    pub key: StreamKey,
    /// What the pod is bound to.
    pub bond: Arc<Bond>,
    /// The startup probe's file.
    pub ready: Ready,
    /// What is granted, and what was used.
    pub vault: VaultLink,
}

/// Why a stream ended or wasn't opened.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("failed to read the control CA")]
    Ca(#[source] std::io::Error),
    #[error("the control URL or its CA can't be used")]
    Endpoint(#[source] tonic::transport::Error),
    #[error("failed to connect to the controller")]
    Connect(#[source] tonic::transport::Error),
    #[error("there is no token that can be sent")]
    NoToken,
    #[error("the controller refused the stream")]
    Refused(#[source] Status),
    #[error("the controller didn't answer in time")]
    Late,
    #[error("the controller ended the stream")]
    Ended,
    #[error("an earlier leader answered")]
    Stale(#[source] Stale),
    #[error("the controller's first message isn't Welcome")]
    NoWelcome,
    #[error(transparent)]
    State(#[from] StateError),
}

/// What is remembered from one stream to the next.
#[derive(Debug, Default)]
struct Course {
    attached: bool,
    /// The controller has said something about the incarnation.
    known: bool,
    told_events: bool,
    hold: Duration,
}

impl Client {
    /// Keeps a stream up until the pod's state can't be kept any more.
    pub async fn keep_up(self) -> Result<(), StateError> {
        let mut pause = PAUSE_MIN;
        let mut course = Course::default();
        drop(self.token.clone().wait_for(|token| !token.is_empty()).await.map(drop)); // the kubelet's volume is there first
        loop {
            let opened = Instant::now();
            let error = match self.one(&mut course).await {
                Err(StreamError::State(error)) => return Err(error),
                Err(error) => error,
                Ok(never) => match never {},
            };
            self.ready.clear();
            tracing::info!(
                error = &error as &dyn std::error::Error,
                attached = course.attached,
                "no control stream"
            );
            let steady = course.attached && opened.elapsed() > STEADY;
            pause = if steady { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            course = course.next(steady);
            sleep(jittered(pause)).await;
        }
    }

    async fn one(&self, course: &mut Course) -> Result<std::convert::Infallible, StreamError> {
        let channel = timeout(HANDSHAKE, self.connect())
            .await
            .map_err(|_elapsed| StreamError::Late)??;
        let (sender, receiver) = mpsc::channel(OUTGOING);
        self.bond.forget_steps();
        let mut token = self.token.clone();
        let bearer = bearer(token.borrow_and_update().as_str()).ok_or(StreamError::NoToken)?;
        send(&sender, Message::Hello(self.bond.hello(self.key.public()))).await?;
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", bearer);
        let mut client = ControlClient::new(channel);
        let answer = timeout(HANDSHAKE, client.attach(request))
            .await
            .map_err(|_elapsed| StreamError::Late)?;
        let mut incoming = answer.map_err(StreamError::Refused)?.into_inner();
        timeout(HANDSHAKE, self.prove(&mut incoming, &sender))
            .await
            .map_err(|_elapsed| StreamError::Late)??;
        let (known, heard) = watch::channel(false);
        let hold = course.hold;
        let Course {
            attached,
            told_events,
            known: was_known,
            ..
        } = course;
        let ended = tokio::select! {
            ended = self.hear(incoming, attached, &known) => ended,
            ended = self.tell(&sender, token, told_events, (heard, hold)) => ended,
        };
        *was_known = *known.borrow();
        ended
    }

    async fn connect(&self) -> Result<Channel, StreamError> {
        let ca = tokio::fs::read(&self.ca).await.map_err(StreamError::Ca)?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        let endpoint = Endpoint::from_shared(self.url.clone()).and_then(|endpoint| endpoint.tls_config(tls));
        endpoint
            .map_err(StreamError::Endpoint)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(StreamError::Connect)
    }

    async fn prove(
        &self,
        incoming: &mut Streaming<ToSidecar>,
        sender: &mpsc::Sender<FromSidecar>,
    ) -> Result<(), StreamError> {
        let first = next(incoming).await?;
        match self.bond.take(first)?.map_err(StreamError::Stale)? {
            Taken::Sign(nonce) => {
                send(
                    sender,
                    Message::KeyProof(KeyProof {
                        signature: self.key.prove(&nonce),
                    }),
                )
                .await
            }
            Taken::Known | Taken::Vault(_) | Taken::Done => Err(StreamError::NoWelcome),
        }
    }

    /// The controller says nothing when it accepts the proof and ends the stream when it doesn't.
    async fn hear(
        &self,
        mut incoming: Streaming<ToSidecar>,
        attached: &mut bool,
        known: &watch::Sender<bool>,
    ) -> Result<std::convert::Infallible, StreamError> {
        let settled = Instant::now() + SETTLE;
        loop {
            let message = tokio::select! {
                message = next(&mut incoming) => message?,
                () = sleep_until(settled), if !*attached => {
                    self.attach(attached);
                    continue;
                }
            };
            self.attach(attached);
            match self.bond.take(message)? {
                Ok(Taken::Known) => drop(known.send_replace(true)),
                Ok(Taken::Vault(told)) => {
                    known.send_replace(true);
                    self.vault.take(*told, &self.bond);
                }
                Ok(Taken::Sign(_) | Taken::Done) => {}
                Err(stale) => tracing::warn!(error = &stale as &dyn std::error::Error, "a message is ignored"),
            }
        }
    }

    fn attach(&self, attached: &mut bool) {
        if !std::mem::replace(attached, true) {
            self.ready.set();
            tracing::info!("the control stream is attached");
        }
    }

    async fn tell(
        &self,
        sender: &mpsc::Sender<FromSidecar>,
        mut token: watch::Receiver<String>,
        told_events: &mut bool,
        (mut known, hold): (watch::Receiver<bool>, Duration),
    ) -> Result<std::convert::Infallible, StreamError> {
        let mut changes = self.bond.changes();
        let held_until = Instant::now() + hold;
        let (mut told, mut recorded, mut asked) = (0, 0, 0);
        let mut written = self.vault.written();
        loop {
            changes.mark_unchanged();
            for ack in [self.bond.due_ack(), self.bond.due_grants_ack()].into_iter().flatten() {
                send(sender, Message::Ack(ack)).await?;
            }
            while let Some(record) = self.vault.record_after(recorded, &self.bond) {
                recorded = record.position;
                send(sender, Message::Trail(record)).await?;
            }
            if let Some(wanted) = self.bond.wanted(&mut asked) {
                send(sender, Message::WantInput(wanted)).await?;
            }
            while let Some(step) = self.bond.next_step() {
                send(sender, Message::Checkpoint(step)).await?;
            }
            let free = *known.borrow_and_update() || Instant::now() >= held_until;
            if free && let Some(event) = self.bond.event_after(told) {
                told = event.client_seq;
                *told_events = true;
                send(sender, Message::Event(event)).await?;
                if !token.has_changed().unwrap_or(false) {
                    continue;
                }
            }
            tokio::select! {
                biased;
                Ok(()) = token.changed() => {
                    let fresh = token.borrow_and_update().clone();
                    send(sender, Message::Token(fresh)).await?;
                }
                _ = changes.changed() => {}
                Ok(()) = written.changed() => {}
                Ok(()) = known.changed() => {}
                () = sleep_until(held_until), if !free => {}
            }
        }
    }
}

impl Course {
    /// Events that were told in vain are held back for longer the next time. A stream that lasted took them.
    fn next(&self, steady: bool) -> Self {
        let hold = match (self.known || steady, self.told_events) {
            (true, _) => Duration::ZERO,
            (false, true) => (self.hold * 2).clamp(HOLD_MIN, HOLD_MAX),
            (false, false) => self.hold,
        };
        Self {
            hold,
            ..Self::default()
        }
    }
}

fn bearer(token: &str) -> Option<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

async fn send(sender: &mpsc::Sender<FromSidecar>, message: Message) -> Result<(), StreamError> {
    let message = FromSidecar { message: Some(message) };
    sender.send(message).await.map_err(|_closed| StreamError::Ended)
}

async fn next(incoming: &mut Streaming<ToSidecar>) -> Result<ToSidecar, StreamError> {
    match incoming.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(StreamError::Ended),
        Err(status) if status.code() == Code::Unavailable => Err(StreamError::Ended),
        Err(status) => Err(StreamError::Refused(status)),
    }
}

/// Between half and one and a half of `pause`, so that a thousand sidecars don't return at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>()).min(PAUSE_MAX)
}

/// DESIGN §2: keep-alive 5 s. A leader that froze is noticed within twice that.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// One round trip inside a cluster; a Service without an endpoint answers at once or never.
const CONNECT: Duration = Duration::from_secs(2);
/// The controller's own limit for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The proof is refused within a round trip and a few cached look-ups, or not at all.
const SETTLE: Duration = Duration::from_millis(300);
/// Messages that wait for the transport: 8 × 32 KiB of output.
const OUTGOING: usize = 8;
/// First pause before a stream is opened again; doubled first, so half of it is the shortest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A stream is back within 5 s of an upgrade, which takes half of that itself.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A stream that lived this long was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// A reconcile and the identity chain take less.
const HOLD_MIN: Duration = Duration::from_secs(1);
/// A controller that never says anything gets the events twice a minute, and may end the stream each time.
const HOLD_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_told_in_vain_are_held_back_longer_each_time() {
        let mut course = Course::default();
        let mut holds = Vec::new();
        for _ in 0..7 {
            course = Course {
                told_events: true,
                ..course
            }
            .next(false);
            holds.push(course.hold.as_secs());
        }
        assert_eq!(holds, [1, 2, 4, 8, 16, 30, 30]);
        // A controller that can't be reached changes nothing; one that knows the pod ends it.
        course = course.next(false);
        assert_eq!(course.hold.as_secs(), 30);
        assert_eq!(
            Course {
                told_events: true,
                ..course
            }
            .next(true)
            .hold,
            Duration::ZERO
        );
        assert_eq!(
            Course {
                told_events: true,
                known: true,
                ..course
            }
            .next(false)
            .hold,
            Duration::ZERO
        );
    }

    #[test]
    fn pauses_differ_and_stay_bounded() {
        for _ in 0..100 {
            assert!(jittered(PAUSE_MIN) >= PAUSE_MIN / 2);
            assert!(jittered(PAUSE_MAX) <= PAUSE_MAX);
        }
    }
}
