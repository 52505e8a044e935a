//! Table `session_input`: what people say to sessions. Accepted once, given to the harness once: the pod asks for the next
//! one by number.

use sqlx::{Acquire, PgPool};

use super::session::clean;
use super::{StoreError, migrate_if_behind};

/// The table. Cheap to clone.
#[derive(Clone)]
pub struct Inputs {
    /// `None` without a database: nothing is accepted then.
    pool: Option<PgPool>,
}

/// Something that somebody says.
#[derive(Clone, Copy, Debug)]
pub struct NewInput<'a> {
    /// UID of the session.
    pub session_uid: &'a str,
    /// What is said.
    pub text: &'a str,
    /// Who says it.
    pub author: &'a str,
    /// The sender's own name for it: said again under the same, it is the same.
    pub key: Option<&'a str>,
}

/// Why something isn't accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// The harness has more to do than it can be given.
    #[error("{WAITING_MAX} inputs wait already")]
    Full,
    /// The database is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Inputs {
    /// Over this database, if there is one.
    pub fn new(pool: Option<PgPool>) -> Self {
        Self { pool }
    }

    fn pool(&self) -> Result<&PgPool, StoreError> {
        let none = || StoreError::Connect(sqlx::Error::PoolClosed);
        self.pool.as_ref().ok_or_else(none)
    }

    /// Accepts it; gives its number.
    pub async fn accept(&self, new: NewInput<'_>) -> Result<i64, NotAccepted> {
        let pool = self.pool()?;
        migrate_if_behind(pool).await?;
        let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
        let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
        let lock = sqlx::query("select pg_advisory_xact_lock(hashtextextended('input ' || $1, 0))");
        lock.bind(new.session_uid)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let known = sqlx::query_scalar("select number from session_input where session_uid = $1 and key = $2");
        let known = known.bind(new.session_uid).bind(new.key);
        if let Some(number) = known.fetch_optional(&mut *transaction).await.map_err(failed)? {
            return Ok(number);
        }
        let waiting = "select count(*) from session_input where session_uid = $1 and sent_at is null";
        let waiting = sqlx::query_scalar::<_, i64>(waiting).bind(new.session_uid);
        if waiting.fetch_one(&mut *transaction).await.map_err(failed)? >= WAITING_MAX {
            return Err(NotAccepted::Full);
        }
        let insert = "insert into session_input (session_uid, number, key, text, author) \
            select $1, coalesce(max(number), 0) + 1, $2, $3, $4 from session_input where session_uid = $1 returning number";
        let query = sqlx::query_scalar(insert).bind(new.session_uid).bind(new.key);
        let query = query.bind(clean(new.text)).bind(clean(new.author));
        let number = query.fetch_one(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(StoreError::Connect)?;
        Ok(number)
    }

    /// The number of the last input; 0 when nothing was said.
    pub async fn newest(&self, session_uid: &str) -> Result<i64, StoreError> {
        let pool = self.pool()?;
        migrate_if_behind(pool).await?;
        let newest = "select coalesce(max(number), 0) from session_input where session_uid = $1";
        let query = sqlx::query_scalar(newest).bind(session_uid);
        query.fetch_one(pool).await.map_err(failed)
    }

    /// The first input after this one.
    pub async fn after(&self, session_uid: &str, number: i64) -> Result<Option<(i64, String)>, StoreError> {
        let pool = self.pool()?;
        migrate_if_behind(pool).await?;
        let next = "update session_input set sent_at = now() where session_uid = $1 and number = \
            (select min(number) from session_input where session_uid = $1 and number > $2) returning number, text";
        let query = sqlx::query_as(next).bind(session_uid).bind(number);
        query.fetch_optional(pool).await.map_err(failed)
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Write("session_input", error)
}

/// Of a session.
const WAITING_MAX: i64 = 64;
