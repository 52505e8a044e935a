//! Table `allotment`: what sessions hold of their namespaces' budgets. Postgres decides, so that no two leaders give the same
//! money away.

use berth_protocol::money::Pico;
use sqlx::{Acquire, PgPool};

use super::{StoreError, migrate_if_behind};
use crate::grant::allot::Cap;

/// The table. Cheap to clone.
#[derive(Clone)]
pub struct Allotting {
    /// `None` without a database: nobody knows then what was spent, and nothing is given.
    pool: Option<PgPool>,
}

/// A session asks to hold its budget.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Its UID.
    pub session_uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The whole of its budget, of which it may have spent some.
    pub amount: Pico,
    /// What the namespace may spend.
    pub caps: &'a [Cap],
}

/// What comes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It holds that.
    Held,
    /// There isn't enough left.
    Refused {
        /// Of this.
        cap: Cap,
        /// That much is.
        left: Pico,
    },
}

impl Allotting {
    /// Over this database, if there is one.
    pub fn new(pool: Option<PgPool>) -> Self {
        Self { pool }
    }

    /// Asks for all of a session's budget, or none.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, StoreError> {
        let none = || StoreError::Connect(sqlx::Error::PoolClosed);
        let pool = self.pool.as_ref().ok_or_else(none)?;
        migrate_if_behind(pool).await?;
        let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
        let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
        let lock = sqlx::query("select pg_advisory_xact_lock(hashtextextended('allotment ' || $1, 0))");
        lock.bind(ask.namespace)
            .execute(&mut *transaction)
            .await
            .map_err(StoreError::Read)?;
        // What the others hold and haven't spent, and what this one has.
        let held = "with spent as (select session_uid, coalesce(sum(coalesce(cost_settled, cost)), 0)::bigint as cost from credential_use \
                where session_uid = $1 or session_uid in (select session_uid from allotment where namespace = $2) \
                group by session_uid) \
            select coalesce(sum(greatest(a.amount - coalesce(spent.cost, 0), 0)), 0)::bigint, \
                coalesce((select cost from spent where session_uid = $1), 0) \
            from allotment a left join spent using (session_uid) left join session s on s.uid = a.session_uid \
            where a.namespace = $2 and a.session_uid <> $1 and s.deleted_at is null \
                and coalesce(s.finished_at > now() - interval '15 seconds', true)";
        let held = sqlx::query_as(held).bind(ask.session_uid).bind(ask.namespace);
        let (others, own): (i64, i64) = held.fetch_one(&mut *transaction).await.map_err(StoreError::Read)?;
        let wants = ask.amount.minus(pico(own));
        for cap in ask.caps {
            let spent = "select coalesce(sum(coalesce(cost_settled, cost)), 0)::bigint from credential_use \
                where namespace = $1 and cost is not null and at >= to_timestamp($2)";
            let spent = sqlx::query_scalar(spent)
                .bind(ask.namespace)
                .bind(cap.since.as_second());
            let spent: i64 = spent.fetch_one(&mut *transaction).await.map_err(StoreError::Read)?;
            let left = cap.limit.minus(pico(spent)).minus(pico(others));
            if wants > left {
                return Ok(Answer::Refused { cap: *cap, left });
            }
        }
        let insert = "insert into allotment (session_uid, namespace, amount) values ($1, $2, $3) \
            on conflict (session_uid) do update set amount = excluded.amount, at = now()";
        let insert = sqlx::query(insert).bind(ask.session_uid).bind(ask.namespace);
        let insert = insert.bind(i64::try_from(ask.amount.0).unwrap_or(i64::MAX));
        insert.execute(&mut *transaction).await.map_err(StoreError::Read)?;
        transaction.commit().await.map_err(StoreError::Connect)?;
        Ok(Answer::Held)
    }
}

fn pico(amount: i64) -> Pico {
    Pico(u64::try_from(amount).unwrap_or(0))
}
