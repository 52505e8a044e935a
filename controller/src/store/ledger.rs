//! Tables `grant_event` and `grant_head`: the chain of what was granted, for each namespace.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::{Acquire, PgPool};

use super::{StoreError, migrate_if_behind};
use crate::grant::chain::{BEGIN, Head, Row, hash};
use crate::grant::ledger::{Entry, Live, apply};

/// Adds rows to a namespace's chain, all or none. A leader of a lower epoch than the one that added last adds nothing.
pub async fn append(pool: &PgPool, namespace: &str, entries: &[Entry], epoch: i64) -> Result<(), StoreError> {
    migrate_if_behind(pool).await?;
    let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
    let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
    let begin = "insert into grant_head (namespace, number, hash, epoch) values ($1, 0, $2, $3) on conflict do nothing";
    let query = sqlx::query(begin).bind(namespace).bind(BEGIN.as_slice()).bind(epoch);
    query.execute(&mut *transaction).await.map_err(failed)?;
    let head = "select number, hash, epoch from grant_head where namespace = $1 for update";
    let query = sqlx::query_as::<_, (i64, Vec<u8>, i64)>(head).bind(namespace);
    let (mut number, mut last, holder) = query.fetch_one(&mut *transaction).await.map_err(failed)?;
    if holder > epoch {
        return Err(StoreError::Overtaken);
    }
    for entry in entries {
        let record = serde_json::to_string(entry).unwrap_or_default();
        let new = hash(&last, &record).to_vec();
        number += 1;
        let insert = "insert into grant_event (namespace, number, record, prev_hash, hash) values ($1, $2, $3, $4, $5)";
        let query = sqlx::query(insert)
            .bind(namespace)
            .bind(number)
            .bind(&record)
            .bind(&last)
            .bind(&new);
        query.execute(&mut *transaction).await.map_err(failed)?;
        last = new;
    }
    let moved = "update grant_head set number = $2, hash = $3, epoch = $4 where namespace = $1";
    let query = sqlx::query(moved).bind(namespace).bind(number).bind(&last).bind(epoch);
    query.execute(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(StoreError::Connect)
}

/// What is live in a namespace: the last word about each binding.
pub async fn live(pool: &PgPool, namespace: &str) -> Result<BTreeMap<String, Live>, StoreError> {
    migrate_if_behind(pool).await?;
    let last = "select distinct on (binding_uid) record from grant_event \
        where namespace = $1 order by binding_uid, number desc";
    let records: Vec<String> = sqlx::query_scalar(last)
        .bind(namespace)
        .fetch_all(pool)
        .await
        .map_err(StoreError::Read)?;
    let mut live = BTreeMap::new();
    for record in records {
        match serde_json::from_str::<Entry>(&record) {
            Ok(entry) => apply(&mut live, &entry),
            Err(error) => tracing::error!(namespace, error = %error, "a row of grant_event can't be read"),
        }
    }
    Ok(live)
}

/// What was written down of a namespace since a time, oldest first, at most [`PAGE`].
pub async fn since(pool: &PgPool, namespace: &str, since: Timestamp) -> Result<Vec<Entry>, StoreError> {
    let select = "select record from grant_event where namespace = $1 and recorded_at >= $2::timestamptz \
        order by number limit $3";
    let query = sqlx::query_scalar::<_, String>(select).bind(namespace);
    let query = query.bind(since.to_string()).bind(PAGE);
    let records = query.fetch_all(pool).await.map_err(StoreError::Read)?;
    let read = records.iter().filter_map(|record| serde_json::from_str(record).ok());
    Ok(read.collect())
}

/// Namespaces that have a chain, and where each ends by the database's own word.
pub async fn heads(pool: &PgPool) -> Result<BTreeMap<String, Head>, StoreError> {
    let heads = sqlx::query_as::<_, (String, i64, Vec<u8>)>("select namespace, number, hash from grant_head");
    let heads = heads.fetch_all(pool).await.map_err(StoreError::Read)?;
    let heads = heads
        .into_iter()
        .map(|(namespace, number, hash)| (namespace, Head { number, hash }));
    Ok(heads.collect())
}

/// Rows of a namespace's chain after this number, at most [`PAGE`].
pub async fn rows(pool: &PgPool, namespace: &str, after: i64) -> Result<Vec<Row>, StoreError> {
    let select = "select number, record, prev_hash, hash from grant_event \
        where namespace = $1 and number > $2 order by number limit $3";
    let query = sqlx::query_as::<_, (i64, String, Vec<u8>, Vec<u8>)>(select);
    let rows = query
        .bind(namespace)
        .bind(after)
        .bind(PAGE)
        .fetch_all(pool)
        .await
        .map_err(StoreError::Read)?;
    let row = |(number, record, prev_hash, hash)| Row {
        number,
        record,
        prev_hash,
        hash,
    };
    Ok(rows.into_iter().map(row).collect())
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Write("grant_event", error)
}

/// Rows at a time; one is a few KiB.
pub const PAGE: i64 = 1000;
