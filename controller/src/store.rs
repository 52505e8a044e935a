//! STATUS → POSTGRES. The record: what sessions did, written after the fact and never read to decide (DESIGN §1.1).
//!
//! In: rows from the reconcilers and events from the streams. Out: SQL. Without a database everything else goes on;
//! [`writer`] and [`events`] hold back what they can and say what they could not.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

use crate::telemetry::chain;

pub mod allotment;
pub mod checkpoint;
pub mod event;
pub mod events;
pub mod figure;
pub mod input;
pub mod ledger;
pub mod read;
pub mod retention;
pub mod revision;
pub mod session;
pub mod uses;
pub mod writer;

/// The migrations of this release.
static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// Why the record couldn't be reached or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL isn't one of PostgreSQL.
    #[error("the database URL can't be used; it is postgres://user:password@host:port/database")]
    Url(#[source] sqlx::Error),
    /// No connection.
    #[error("failed to connect to the database")]
    Connect(#[source] sqlx::Error),
    /// The schema couldn't be brought up to date.
    #[error("failed to migrate the schema")]
    Migrate(#[source] Box<MigrateError>),
    /// Somebody else migrates, or died while it did.
    #[error("the schema's migration lock is held by another connection; end that one, see pg_locks")]
    Locked,
    /// A statement failed.
    #[error("failed to write {0}")]
    Write(&'static str, #[source] sqlx::Error),
    /// A later leader writes.
    #[error("a later leader writes")]
    Overtaken,
    /// A query failed.
    #[error("failed to read the record")]
    Read(#[source] sqlx::Error),
}

/// Opens the pool without connecting: the database may be away.
pub fn open(url: &str) -> Result<PgPool, StoreError> {
    let options: PgConnectOptions = url.parse().map_err(StoreError::Url)?;
    let options = options
        .application_name("berth-controller")
        .options([("statement_timeout", STATEMENT_TIMEOUT)]);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(pool.connect_lazy_with(options))
}

/// What became of a migration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Migrated {
    /// The schema is that of this release.
    Done,
    /// The database didn't answer in time.
    Unreachable,
}

/// Brings the schema up to date as the owner; waits [`MIGRATE_WAIT`] for the database and no longer (DESIGN §10).
pub async fn migrate(url: &str) -> Result<Migrated, StoreError> {
    let options: PgConnectOptions = url.parse().map_err(StoreError::Url)?;
    let connect = async {
        loop {
            match PgConnection::connect_with(&options).await {
                Ok(connection) => return connection,
                Err(error) => tracing::warn!(error = chain(&error), "the database doesn't answer yet"),
            }
            tokio::time::sleep(MIGRATE_RETRY).await;
        }
    };
    let Ok(mut connection) = tokio::time::timeout(MIGRATE_WAIT, connect).await else {
        return Ok(Migrated::Unreachable);
    };
    // sqlx takes an advisory lock: two replicas that start at once migrate once.
    let migrated = tokio::time::timeout(LOCK_WAIT, MIGRATOR.run(&mut connection)).await;
    migrated
        .map_err(|_elapsed| StoreError::Locked)?
        .map_err(|error| StoreError::Migrate(Box::new(error)))?;
    Ok(Migrated::Done)
}

/// Migrates with the process's own rights, before its first write; an up-to-date schema costs one query.
async fn migrate_if_behind(pool: &PgPool) -> Result<(), StoreError> {
    let current = sqlx::query_scalar::<_, i64>("select coalesce(max(version), 0) from _sqlx_migrations where success");
    let newest = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
    match current.fetch_one(pool).await {
        Ok(version) if version >= newest => Ok(()),
        Err(error) if error.as_database_error().is_none() => Err(StoreError::Connect(error)),
        _ => migrate_apart(pool).await,
    }
}

/// On a connection of its own: a migration that fails keeps its advisory lock until its connection is closed, and
/// everybody else would wait for it. On a blocking thread, since the compiler can't see that sqlx's future may move.
async fn migrate_apart(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(StoreError::Connect)?.detach();
    let runtime = tokio::runtime::Handle::current();
    let migrated = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            let migrated = MIGRATOR.run(&mut connection).await;
            drop(connection.close().await); // a connection that can't be closed holds no lock
            migrated
        })
    });
    let migrated = migrated
        .await
        .map_err(|error| StoreError::Connect(sqlx::Error::Io(error.into())))?;
    migrated.map_err(|error| StoreError::Migrate(Box::new(error)))
}

/// The projection, the events and a spare for migration.
const CONNECTIONS_MAX: u32 = 4;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
const STATEMENT_TIMEOUT: &str = "10s";
const MIGRATE_WAIT: Duration = Duration::from_secs(20);
/// A migration of a large table takes minutes, and another replica's is waited for.
const LOCK_WAIT: Duration = Duration::from_mins(10);
const MIGRATE_RETRY: Duration = Duration::from_millis(500);
