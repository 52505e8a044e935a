//! Lets go of what sessions said and used whose objects are long gone. Their rows stay, and so does the chain of grants.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{StoreError, migrate_if_behind};
use crate::telemetry::chain;

/// Looks every hour, until cancelled.
pub async fn run(pool: PgPool, days: u32, cancel: CancellationToken) {
    loop {
        match forget(&pool, days).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, days, "forgot what sessions left that are long gone"),
            Err(error) => tracing::warn!(error = chain(&error), "the record keeps what is older than it should"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Forgets what belongs to sessions that were deleted more than so many days ago; gives how many rows went. What is 31 days old or
/// younger stays, whatever `days` is.
pub async fn forget(pool: &PgPool, days: u32) -> Result<u64, StoreError> {
    migrate_if_behind(pool).await?;
    let mut all = 0;
    loop {
        let forget = "select record_forget(now() - make_interval(days => $1), $2)";
        let query = sqlx::query_scalar(forget).bind(i32::try_from(days).unwrap_or(i32::MAX));
        let rows: i64 = query.bind(BATCH).fetch_one(pool).await.map_err(failed)?;
        if rows == 0 {
            return Ok(all);
        }
        all += u64::try_from(rows).unwrap_or(0);
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Write("record", error)
}

const AGAIN: Duration = Duration::from_hours(1);
/// Rows of a table that one statement deletes: nobody waits long for their locks.
const BATCH: i32 = 10_000;
