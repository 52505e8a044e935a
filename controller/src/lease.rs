//! Who leads: a Lease held by one replica at a time (DESIGN §2).
//!
//! [`Leadership`] answers from this process's own clock, without a request: a replica that was stopped and wakes up
//! knows at once that it leads no more. Takeover is judged by how long *we* have seen the Lease unchanged, never by
//! comparing another machine's clock with ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answer::is_overtaken;
use crate::telemetry::chain;

/// Whether this replica leads. Cheap to clone.
#[derive(Clone, Default)]
pub struct Leadership {
    held_until: Arc<Mutex<Option<Instant>>>,
    epoch: Arc<AtomicU64>,
}

impl Leadership {
    /// Whether the Lease is held, by our clock.
    pub fn is_held(&self) -> bool {
        self.held_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// How often the Lease has changed hands: the epoch of every push.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

/// Takes, holds and releases the Lease.
pub struct Elector {
    api: Api<Lease>,
    identity: String,
    leadership: Leadership,
    seen: Seen,
    /// What this process has written last, until that is known to have changed.
    written: Option<ObjectMeta>,
}

/// The Lease as last read, and since when it has not changed.
#[derive(Clone, Debug, Default)]
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    since: Option<Instant>,
}

/// A request for the Lease failed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// It couldn't be read.
    #[error("failed to read Lease {LEASE}")]
    Read(#[source] Box<kube::Error>),
    /// It couldn't be written; another replica may have been quicker.
    #[error("failed to write Lease {LEASE}")]
    Write(#[source] Box<kube::Error>),
}

impl Elector {
    /// An elector for this process. The identity must be its own: a restarted container is another holder.
    pub fn new(client: Client, namespace: &str, identity: String) -> (Self, Leadership) {
        let leadership = Leadership::default();
        let api = Api::namespaced(client, namespace);
        (
            Self {
                api,
                identity,
                leadership: leadership.clone(),
                seen: Seen::default(),
                written: None,
            },
            leadership,
        )
    }

    /// Waits until this replica leads; `false` when cancelled first.
    pub async fn acquire(&mut self, cancel: &CancellationToken) -> bool {
        loop {
            match self.try_acquire().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(error = chain(&error), "the Lease isn't taken"),
            }
            tokio::select! {
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn try_acquire(&mut self) -> Result<bool, LeaseError> {
        let began = Instant::now();
        let found = self
            .api
            .get_opt(LEASE)
            .await
            .map_err(|error| LeaseError::Read(Box::new(error)))?;
        let spec = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if !self.seen.may_take(&spec, began) {
            return Ok(false);
        }
        let epoch = spec.lease_transitions.unwrap_or(0) + 1;
        self.write(found.map(|lease| lease.metadata), Some(self.identity.clone()), epoch)
            .await?;
        self.leadership
            .epoch
            .store(u64::try_from(epoch).unwrap_or(0), Ordering::Release);
        *self.leadership.held_until.lock() = Some(began + HOLD);
        Ok(true)
    }

    /// Renews until the Lease is lost (`false`) or the token is cancelled (`true`).
    pub async fn hold(&mut self, cancel: &CancellationToken) -> bool {
        while self.leadership.is_held() {
            tokio::select! {
                () = cancel.cancelled() => return true,
                () = tokio::time::sleep(RENEW) => {}
            }
            let began = Instant::now();
            match tokio::time::timeout(RENEW, self.renew()).await {
                Ok(Ok(true)) => *self.leadership.held_until.lock() = Some(began + HOLD),
                Ok(Ok(false)) => break,
                Ok(Err(error)) => tracing::warn!(error = chain(&error), "the Lease isn't renewed"),
                Err(_elapsed) => tracing::warn!("the Lease isn't renewed: no answer"),
            }
        }
        *self.leadership.held_until.lock() = None;
        false
    }

    /// `false` when somebody else holds it.
    async fn renew(&mut self) -> Result<bool, LeaseError> {
        // Nobody else writes it while it is held: one request is enough, also where each takes a second.
        if let Some(written) = self.written.take() {
            let epoch = i32::try_from(self.leadership.epoch()).unwrap_or(i32::MAX);
            match self.write(Some(written), Some(self.identity.clone()), epoch).await {
                Err(LeaseError::Write(error)) if is_overtaken(&error) => {}
                other => return other.map(|()| true),
            }
        }
        let found = self
            .api
            .get(LEASE)
            .await
            .map_err(|error| LeaseError::Read(Box::new(error)))?;
        let spec = found.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(false);
        }
        let epoch = spec.lease_transitions.unwrap_or(0);
        self.write(Some(found.metadata), Some(self.identity.clone()), epoch)
            .await?;
        Ok(true)
    }

    /// Gives the Lease up, so that a standby takes over at once.
    pub async fn release(&mut self) {
        *self.leadership.held_until.lock() = None;
        let released = async {
            let found = self
                .api
                .get(LEASE)
                .await
                .map_err(|error| LeaseError::Read(Box::new(error)))?;
            let spec = found.spec.unwrap_or_default();
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return Ok(());
            }
            self.write(Some(found.metadata), None, spec.lease_transitions.unwrap_or(0))
                .await
        };
        if let Err(error) = released.await {
            tracing::warn!(error = chain(&error), "the Lease isn't released");
        }
    }

    /// Writes on the version that was read: of two that try, one succeeds.
    async fn write(&mut self, read: Option<ObjectMeta>, holder: Option<String>, epoch: i32) -> Result<(), LeaseError> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                resource_version: read.as_ref().and_then(|read| read.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder,
                lease_duration_seconds: i32::try_from(HOLD.as_secs()).ok(),
                renew_time: Some(now.clone()),
                acquire_time: Some(now),
                lease_transitions: Some(epoch),
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams::default();
        let written = match read {
            Some(_) => self.api.replace(LEASE, &params, &lease).await,
            None => self.api.create(&params, &lease).await,
        };
        let lease = written.map_err(|error| LeaseError::Write(Box::new(error)))?;
        self.written = Some(lease.metadata);
        Ok(())
    }
}

impl Seen {
    /// Whether the Lease is free, or has not changed for as long as a holder may be silent.
    fn may_take(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder.is_empty() {
            return true;
        }
        if holder != self.holder || spec.renew_time != self.renewed || self.since.is_none() {
            *self = Self {
                holder,
                renewed: spec.renew_time.clone(),
                since: Some(now),
            };
        }
        self.since
            .is_some_and(|since| now.duration_since(since) >= HOLD + MARGIN)
    }
}

/// Name of the Lease in the release's namespace.
pub const LEASE: &str = "berth-controller";
/// DESIGN §2: a silent leader has lost after 10 s, less what a standby waits longer.
const HOLD: Duration = Duration::from_secs(8);
/// A standby waits this much longer than a leader trusts itself.
const MARGIN: Duration = Duration::from_secs(1);
const RENEW: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Timestamp::from_second(renewed).ok().map(MicroTime),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        assert!(Seen::default().may_take(&LeaseSpec::default(), Instant::now()));
        assert!(Seen::default().may_take(&spec("", 1), Instant::now()));
    }

    #[test]
    fn a_renewed_lease_is_never_taken() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        for second in 0..60 {
            assert!(!seen.may_take(
                &spec("a", second.try_into().unwrap_or(0)),
                start + Duration::from_secs(second)
            ));
        }
    }

    #[test]
    fn a_silent_holder_is_replaced_after_hold_and_margin() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        assert!(!seen.may_take(&spec("a", 0), start));
        assert!(!seen.may_take(&spec("a", 0), start + HOLD));
        assert!(seen.may_take(&spec("a", 0), start + HOLD + MARGIN));
    }

    #[test]
    fn a_new_holder_gets_its_full_time() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.may_take(&spec("a", 0), start);
        assert!(!seen.may_take(&spec("b", 0), start + HOLD + MARGIN));
    }
}
