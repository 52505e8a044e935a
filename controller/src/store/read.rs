//! Reads `session_event` for people, on connections of its own: readers never keep the record waiting.

use std::time::Duration;

use berth_protocol::money::Pico;
use serde_json::Value;
use sqlx::PgPool;

use super::{StoreError, migrate_if_behind};
use crate::session::spend::Recorded;

/// Reads the record.
#[derive(Clone)]
pub struct Reader {
    pool: Option<PgPool>,
}

/// An event as it is told to people.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Counted over all sessions: where a reader goes on.
    pub seq: i64,
    /// Which attempt at a pod told it.
    pub incarnation: i64,
    /// Counted by that pod.
    pub number: i64,
    /// What kind it is.
    pub kind: String,
    /// Output: 1 standard output, 2 standard error.
    pub stream: Option<i16>,
    /// Output: the bytes.
    pub output: Option<Vec<u8>>,
    /// Every other kind: its fields.
    pub data: Option<Value>,
    /// The pod's clock, RFC 3339.
    pub at: String,
}

impl Reader {
    /// Over this database, if there is one.
    pub fn new(pool: Option<PgPool>) -> Self {
        Self { pool }
    }

    /// What a session has spent on models, as seen from this incarnation. Nothing without a database.
    pub async fn spent(&self, session_uid: &str, incarnation: i64) -> Result<Recorded, StoreError> {
        let Some(pool) = &self.pool else {
            return Ok(Recorded::default());
        };
        migrate_if_behind(pool).await?;
        let select = "select coalesce(sum(cost) filter (where incarnation < $2), 0)::bigint, \
                coalesce(sum(cost) filter (where incarnation = $2), 0)::bigint, \
                coalesce(sum(cost - cost_settled) filter (where incarnation < $2), 0)::bigint, \
                coalesce(sum(cost - cost_settled) filter (where incarnation = $2), 0)::bigint \
            from credential_use where session_uid = $1";
        let query = sqlx::query_as(select).bind(session_uid).bind(incarnation);
        let row: (i64, i64, i64, i64) = query.fetch_one(pool).await.map_err(StoreError::Read)?;
        let pico = |amount: i64| Pico(u64::try_from(amount).unwrap_or(0));
        Ok(Recorded {
            before: pico(row.0),
            here: pico(row.1),
            credit_before: pico(row.2),
            credit_here: pico(row.3),
        })
    }

    /// A session's events after this one, oldest first: at most [`PAGE`]. `kinds` names the wanted ones; all when empty.
    pub async fn events(&self, session_uid: &str, after: i64, kinds: &[String]) -> Result<Vec<EventRow>, StoreError> {
        let none = || StoreError::Connect(sqlx::Error::PoolClosed);
        let pool = self.pool.as_ref().ok_or_else(none)?;
        migrate_if_behind(pool).await?;
        let select = "select seq, incarnation, client_seq, kind, stream, output, data, \
                to_char(at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') \
            from session_event where session_uid = $1 and seq > $2 and (cardinality($3::text[]) = 0 or kind = any($3)) \
            order by seq limit $4";
        let query = sqlx::query_as::<_, Row>(select)
            .bind(session_uid)
            .bind(after)
            .bind(kinds)
            .bind(PAGE);
        let rows = query.fetch_all(pool).await.map_err(StoreError::Read)?;
        let told = |(seq, incarnation, number, kind, stream, output, data, at)| EventRow {
            seq,
            incarnation,
            number,
            kind,
            stream,
            output,
            data,
            at,
        };
        Ok(rows.into_iter().map(told).collect())
    }
}

type Row = (
    i64,
    i64,
    i64,
    String,
    Option<i16>,
    Option<Vec<u8>>,
    Option<Value>,
    String,
);

/// At most 4 MiB of output.
pub const PAGE: i64 = 128;
/// A reader that finds nothing looks again after this long at the latest.
pub const LOOK: Duration = Duration::from_secs(5);
