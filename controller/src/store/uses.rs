//! Table `credential_use`: what credentials were used for, exactly once by (pod, number). Rows come from sidecars'
//! spools, which keep them until they are told that a row is committed. What is missing has a row of its own: numbers that
//! were skipped, and the end of a pod that can't tell any more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use berth_protocol::control::{ToSidecar, Trail, TrailAck, to_sidecar::Message};
use parking_lot::Mutex;
use serde_json::Value;
use sqlx::{Acquire, PgConnection, PgPool};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::session::clean;
use super::{StoreError, migrate_if_behind};
use crate::control::session_link::Link;
use crate::metrics::UseMetrics;
use crate::telemetry::chain;

/// Takes records in. Cheap to clone.
#[derive(Clone, Default)]
pub struct UseWriter {
    waiting: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
    epoch: u64,
    /// Whether there is a database; without one a record is answered and let go of.
    kept: bool,
    counted: UseMetrics,
}

/// There is no room for a record, and those after it must not overtake it: answers are cumulative.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("the audit trail waits for the database; the sidecar tells it anew")]
pub struct NoRoom;

#[derive(Default)]
struct Queue {
    records: VecDeque<Waiting>,
    /// By pod.
    shares: HashMap<String, usize>,
}

/// A record, and who waits for it to be committed.
struct Waiting {
    namespace: String,
    session: String,
    session_uid: String,
    incarnation: i64,
    pod_uid: String,
    position: u64,
    record: Value,
    answer: Option<mpsc::Sender<ToSidecar>>,
}

impl UseWriter {
    /// For a leader of this epoch.
    pub fn new(epoch: u64, kept: bool, counted: UseMetrics) -> Self {
        Self {
            epoch,
            kept,
            counted,
            ..Self::default()
        }
    }

    /// A record of a pod that was proven to serve this session. When there is no room its stream has to end: the sidecar
    /// keeps the record and tells it, and all after it, on the next one.
    pub fn put(
        &self,
        link: &Link,
        pod_uid: &str,
        trail: &Trail,
        answer: &mpsc::Sender<ToSidecar>,
    ) -> Result<(), NoRoom> {
        let Ok(record) = serde_json::from_slice(&trail.record) else {
            tracing::warn!(pod.uid = pod_uid, "a record of the audit trail can't be read");
            return Ok(());
        };
        let new = Waiting {
            namespace: link.session.namespace.clone(),
            session: link.session.name.clone(),
            session_uid: link.session_uid.clone(),
            incarnation: link.incarnation,
            pod_uid: pod_uid.to_owned(),
            position: trail.position,
            record,
            answer: Some(answer.clone()),
        };
        if !self.kept {
            self.answer(&new);
            return Ok(());
        }
        let mut waiting = self.waiting.lock();
        let share = waiting.shares.get(pod_uid).copied().unwrap_or(0);
        if waiting.records.len() >= WAITING_MAX || share >= WAITING_SHARE {
            return Err(NoRoom);
        }
        waiting.push(new);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// A pod is gone before it said that its trail was complete: what it used last may be missing, and a row says so.
    pub fn lost(&self, link: &Link, pod_uid: &str) {
        if !self.kept {
            return;
        }
        self.waiting.lock().push(Waiting {
            namespace: link.session.namespace.clone(),
            session: link.session.name.clone(),
            session_uid: link.session_uid.clone(),
            incarnation: link.incarnation,
            pod_uid: pod_uid.to_owned(),
            position: 0,
            record: serde_json::json!({ "lost": {} }),
            answer: None,
        });
        self.wake.notify_one();
    }

    /// Writes until cancelled.
    pub async fn run(self, pool: PgPool, cancel: CancellationToken) {
        let mut batch: Vec<Waiting> = Vec::new();
        loop {
            if batch.is_empty() {
                batch = self.waiting.lock().take();
            }
            if batch.is_empty() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = self.wake.notified() => {}
                }
                continue;
            }
            match write(&pool, &batch).await {
                Ok(()) => batch.drain(..).for_each(|stored| self.answer(&stored)),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "uses of credentials aren't stored yet");
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    fn answer(&self, stored: &Waiting) {
        self.counted.observe(&stored.record);
        let ack = TrailAck {
            incarnation: u64::try_from(stored.incarnation).unwrap_or(0),
            position: stored.position,
        };
        let message = ToSidecar {
            epoch: self.epoch,
            revision: 0,
            message: Some(Message::TrailAck(ack)),
        };
        if let Some(answer) = &stored.answer {
            drop(answer.try_send(message)); // they are cumulative: the next one says it too
        }
    }
}

impl Queue {
    fn push(&mut self, waiting: Waiting) {
        *self.shares.entry(waiting.pod_uid.clone()).or_default() += 1;
        self.records.push_back(waiting);
    }

    fn take(&mut self) -> Vec<Waiting> {
        let count = self.records.len().min(BATCH_MAX);
        let batch: Vec<Waiting> = self.records.drain(..count).collect();
        for waiting in &batch {
            if let Some(share) = self.shares.get_mut(&waiting.pod_uid) {
                *share = share.saturating_sub(1);
            }
        }
        self.shares.retain(|_, share| *share > 0);
        batch
    }
}

async fn write(pool: &PgPool, batch: &[Waiting]) -> Result<(), StoreError> {
    migrate_if_behind(pool).await?;
    let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
    let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
    let mut last = HashMap::new();
    for waiting in batch {
        put(&mut transaction, waiting, &mut last)
            .await
            .map_err(|error| StoreError::Write("credential_use", error))?;
    }
    transaction.commit().await.map_err(StoreError::Connect)
}

/// `known`: the highest number of each pod's uses, asked for once in a batch.
async fn put<'a>(
    connection: &mut PgConnection,
    waiting: &'a Waiting,
    known: &mut HashMap<&'a str, i64>,
) -> Result<(), sqlx::Error> {
    let record = &waiting.record;
    if let Some(used) = record.get("use") {
        let number = integer(used, "number");
        let last = match known.get(waiting.pod_uid.as_str()) {
            Some(last) => *last,
            None => last(connection, &waiting.pod_uid).await?,
        };
        known.insert(&waiting.pod_uid, last.max(number));
        if let Some(missing) = missing(last, number) {
            let reason = format!("{missing} uses are missing from here on");
            gap(
                connection,
                waiting,
                (last + 1, integer(used, "at")),
                (&reason, Some(missing)),
            )
            .await?;
        }
        begin(connection, waiting, used).await
    } else if let Some(outcome) = record.get("outcome") {
        complete(connection, waiting, outcome).await
    } else if let Some(denied) = record.get("denied") {
        deny(connection, waiting, denied).await
    } else if record.get("lost").is_some() {
        let last = last(connection, &waiting.pod_uid).await?;
        let now = jiff::Timestamp::now().as_millisecond();
        gap(
            connection,
            waiting,
            (last + 1, now),
            ("the pod was lost; uses may be missing from here on", None),
        )
        .await
    } else {
        Ok(()) // of a later release's sidecar
    }
}

/// The highest number of a pod's uses so far.
async fn last(connection: &mut PgConnection, pod_uid: &str) -> Result<i64, sqlx::Error> {
    let query = "select coalesce(max(number), 0) from credential_use where pod_uid = $1 and number > 0";
    sqlx::query_scalar(query).bind(pod_uid).fetch_one(connection).await
}

/// How many uses lie between the last one and this.
fn missing(last: i64, number: i64) -> Option<i64> {
    Some(number - last - 1).filter(|missing| *missing > 0)
}

/// A row for what isn't there, under the first number that is missing.
async fn gap(
    connection: &mut PgConnection,
    waiting: &Waiting,
    (number, at): (i64, i64),
    (reason, count): (&str, Option<i64>),
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        insert into credential_use
            (pod_uid, number, session_uid, incarnation, namespace, session, at, verdict, reason, denials)
        values ($1, $2, $3, $4, $5, $6, to_timestamp($7::float8 / 1000), 'gap', $8, $9)
        on conflict (pod_uid, number) do nothing
        ",
    )
    .bind(&waiting.pod_uid)
    .bind(number)
    .bind(&waiting.session_uid)
    .bind(waiting.incarnation)
    .bind(&waiting.namespace)
    .bind(&waiting.session)
    .bind(at)
    .bind(reason)
    .bind(count)
    .execute(connection)
    .await?;
    Ok(())
}

async fn begin(connection: &mut PgConnection, waiting: &Waiting, used: &Value) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        insert into credential_use
            (pod_uid, number, session_uid, incarnation, namespace, session, at, verdict,
             credentials, routes, grants, method, authority, path)
        values ($1, $2, $3, $4, $5, $6, to_timestamp($7::float8 / 1000), 'allowed', $8, $9, $10, $11, $12, $13)
        on conflict (pod_uid, number) do update set
            at = excluded.at, verdict = excluded.verdict, credentials = excluded.credentials, routes = excluded.routes,
            grants = excluded.grants, method = excluded.method, authority = excluded.authority, path = excluded.path,
            reason = null, denials = null
        where credential_use.verdict = 'gap'
        ",
    )
    .bind(&waiting.pod_uid)
    .bind(integer(used, "number"))
    .bind(&waiting.session_uid)
    .bind(waiting.incarnation)
    .bind(&waiting.namespace)
    .bind(&waiting.session)
    .bind(integer(used, "at"))
    .bind(texts(used, "credentials"))
    .bind(texts(used, "routes"))
    .bind(texts(used, "grants"))
    .bind(text(used, "method"))
    .bind(text(used, "authority"))
    .bind(text(used, "path"))
    .execute(connection)
    .await?;
    Ok(())
}

async fn complete(connection: &mut PgConnection, waiting: &Waiting, outcome: &Value) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        update credential_use
        set status = $3, sent = $4, received = $5, milliseconds = $6, redactions = $7, ended = $8, cost = $9,
            cost_is_estimate = $10
        where pod_uid = $1 and number = $2
        ",
    )
    .bind(&waiting.pod_uid)
    .bind(integer(outcome, "number"))
    .bind(i32::try_from(integer(outcome, "status")).unwrap_or(0))
    .bind(integer(outcome, "sent"))
    .bind(integer(outcome, "received"))
    .bind(integer(outcome, "milliseconds"))
    .bind(integer(outcome, "redactions"))
    .bind(text(outcome, "ended"))
    .bind(outcome.get("cost").and_then(Value::as_i64))
    .bind(outcome.get("costIsEstimate").and_then(Value::as_bool))
    .execute(connection)
    .await?;
    Ok(())
}

/// Aggregated by the sidecar. The number is below 0, so that it meets no use's: the time, and the record's position for
/// those of one moment.
async fn deny(connection: &mut PgConnection, waiting: &Waiting, denied: &Value) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        insert into credential_use
            (pod_uid, number, session_uid, incarnation, namespace, session, at, verdict, authority, reason, denials)
        values ($1, $2, $3, $4, $5, $6, to_timestamp($7::float8 / 1000), 'denied', $8, $9, $10)
        on conflict (pod_uid, number) do nothing
        ",
    )
    .bind(&waiting.pod_uid)
    .bind(-(integer(denied, "at").saturating_mul(4096) + i64::try_from(waiting.position & 4095).unwrap_or(0)))
    .bind(&waiting.session_uid)
    .bind(waiting.incarnation)
    .bind(&waiting.namespace)
    .bind(&waiting.session)
    .bind(integer(denied, "at"))
    .bind(text(denied, "authority"))
    .bind(text(denied, "reason"))
    .bind(integer(denied, "count"))
    .execute(connection)
    .await?;
    Ok(())
}

fn integer(value: &Value, field: &str) -> i64 {
    value.get(field).and_then(Value::as_i64).unwrap_or(0)
}

/// The agent chose it: bounded, and without what Postgres can't hold.
fn text(value: &Value, field: &str) -> String {
    let text = value.get(field).and_then(Value::as_str).unwrap_or_default();
    clean(&text.chars().take(TEXT_MAX).collect::<String>())
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let all = value.get(field).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(clean).collect()
}

/// Of one leader, over all its sessions; a record has about 300 bytes.
const WAITING_MAX: usize = 20_000;
/// Of that, of one pod: a busy one waits for its own rows and not for another's.
const WAITING_SHARE: usize = 2_000;
/// One transaction.
const BATCH_MAX: usize = 500;
const RETRY: Duration = Duration::from_secs(1);
/// A path may have 16 KiB; a reviewer needs its beginning.
const TEXT_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Name;

    fn link() -> Link {
        Link {
            session: Name {
                namespace: "team-a".to_owned(),
                name: "s".to_owned(),
            },
            session_uid: "uid".to_owned(),
            incarnation: 1,
        }
    }

    fn trail(position: u64) -> Trail {
        Trail {
            incarnation: 1,
            position,
            record: br#"{"use":{"number":1}}"#.to_vec(),
        }
    }

    #[test]
    fn without_a_database_a_record_is_answered_at_once() {
        let (sender, mut answers) = mpsc::channel(1);
        UseWriter::new(7, false, UseMetrics::default())
            .put(&link(), "pod", &trail(3), &sender)
            .unwrap();
        let answer = answers.try_recv().unwrap();
        let ack = TrailAck {
            incarnation: 1,
            position: 3,
        };
        assert_eq!((answer.epoch, answer.message), (7, Some(Message::TrailAck(ack))));
    }

    #[test]
    fn a_record_without_room_is_refused_so_that_none_overtakes_it() {
        let (sender, mut answers) = mpsc::channel(1);
        let writer = UseWriter::new(7, true, UseMetrics::default());
        for position in 1..=WAITING_SHARE as u64 {
            writer.put(&link(), "pod", &trail(position), &sender).unwrap();
        }
        assert_eq!(writer.put(&link(), "pod", &trail(0), &sender), Err(NoRoom));
        assert_eq!(
            writer.put(&link(), "another", &trail(1), &sender),
            Ok(()),
            "it has its own share"
        );
        assert!(answers.try_recv().is_err(), "nothing is answered before it is stored");
        assert_eq!(writer.waiting.lock().take().len(), BATCH_MAX);
        assert_eq!(
            writer.put(&link(), "pod", &trail(0), &sender),
            Ok(()),
            "there is room again"
        );
    }

    #[test]
    fn numbers_that_are_skipped_are_missing() {
        let cases = [
            (0, 1, None),
            (0, 3, Some(2)),
            (7, 8, None),
            (7, 10, Some(2)),
            (7, 7, None),
            (7, 2, None),
        ];
        for (last, number, expected) in cases {
            assert_eq!(missing(last, number), expected, "{last} {number}");
        }
    }
}
