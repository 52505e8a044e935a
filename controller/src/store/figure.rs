//! Table `gateway_figure`, and what estimates come to by it.

use berth_protocol::money::Pico;
use jiff::Timestamp;
use sqlx::{Acquire, PgPool};

use super::{StoreError, migrate_if_behind};
use crate::gateway::figure::{Seen, Settled};
use crate::watch::Name;

/// The table. Cheap to clone.
#[derive(Clone)]
pub struct Figures {
    /// `None` without a database: nothing is kept then that could be held against a gateway.
    pool: Option<PgPool>,
}

/// Whose uses are summed.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The session.
    pub session_uid: &'a str,
    /// Requests of earlier incarnations that have no end were lost with their pods.
    pub incarnation: i64,
    /// Credentials that are keys of gateways.
    pub credentials: &'a [String],
}

impl Figures {
    /// Over this database, if there is one.
    pub fn new(pool: Option<PgPool>) -> Self {
        Self { pool }
    }

    /// What the record says that was spent; `None` when nothing was.
    pub async fn seen(&self, whose: Whose<'_>) -> Result<Option<Seen>, StoreError> {
        let Some(pool) = &self.pool else { return Ok(None) };
        migrate_if_behind(pool).await?;
        let select = "select coalesce(sum(cost) filter (where not cost_is_estimate), 0)::bigint, \
                coalesce(sum(cost) filter (where cost_is_estimate), 0)::bigint, \
                count(*) filter (where ended is null and incarnation < $2), \
                count(*) filter (where ended is null and incarnation >= $2), \
                (extract(epoch from max(at + make_interval(secs => coalesce(milliseconds, 0) / 1000.0))) * 1000000)::bigint \
            from credential_use where session_uid = $1 and verdict = 'allowed' \
                and (cost is not null or (ended is null and method = 'POST' and credentials && $3))";
        let query = sqlx::query_as(select).bind(whose.session_uid).bind(whose.incarnation);
        let row: (i64, i64, i64, i64, Option<i64>) = query
            .bind(whose.credentials)
            .fetch_one(pool)
            .await
            .map_err(StoreError::Read)?;
        let (told, estimated, lost, open, until) = row;
        let until = until.and_then(|micros| Timestamp::from_microsecond(micros).ok());
        Ok(until.map(|until| Seen {
            told: pico(told),
            estimated: pico(estimated),
            lost,
            open,
            until,
        }))
    }

    /// Writes down what the gateways say, and what that makes of estimates and lost requests.
    pub async fn settle(
        &self,
        (whose, session): (Whose<'_>, &Name),
        (said, seen): (Pico, &Seen),
        settled: Option<Settled>,
    ) -> Result<(), StoreError> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let failed = |error| StoreError::Write("gateway_figure", error);
        let mut connection = pool.acquire().await.map_err(StoreError::Connect)?;
        let mut transaction = connection.begin().await.map_err(StoreError::Connect)?;
        let until = seen.until.as_microsecond();
        if let Some(settled) = settled {
            // Each estimate's share, and the rest to the last request that was lost.
            let share = "update credential_use set cost_settled = (cost::numeric * $3 / nullif($4, 0))::bigint \
                where session_uid = $1 and cost_is_estimate and at <= to_timestamp($2 / 1000000.0)";
            let share = sqlx::query(share).bind(whose.session_uid).bind(until);
            let share = share.bind(bigint(settled.estimates)).bind(bigint(seen.estimated));
            share.execute(&mut *transaction).await.map_err(failed)?;
            let rest = "update credential_use set cost = $4, cost_settled = $4 where (pod_uid, number) = \
                (select pod_uid, number from credential_use where session_uid = $1 and verdict = 'allowed' \
                    and ended is null and incarnation < $2 and method = 'POST' and credentials && $3 \
                    order by at desc limit 1)";
            let rest = sqlx::query(rest).bind(whose.session_uid).bind(whose.incarnation);
            let rest = rest.bind(whose.credentials).bind(bigint(settled.lost));
            rest.execute(&mut *transaction).await.map_err(failed)?;
        }
        let upsert = "insert into gateway_figure \
                (session_uid, namespace, session, said, told, estimated, lost, until) \
            values ($1, $2, $3, $4, $5, $6, $7, to_timestamp($8 / 1000000.0)) \
            on conflict (session_uid) do update set said = excluded.said, told = excluded.told, \
                estimated = excluded.estimated, lost = excluded.lost, until = excluded.until, at = now()";
        let upsert = sqlx::query(upsert)
            .bind(whose.session_uid)
            .bind(&session.namespace)
            .bind(&session.name);
        let upsert = upsert
            .bind(bigint(said))
            .bind(bigint(seen.told))
            .bind(bigint(seen.estimated));
        let upsert = upsert.bind(seen.lost).bind(until);
        upsert.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(StoreError::Connect)
    }
}

fn pico(amount: i64) -> Pico {
    Pico(u64::try_from(amount).unwrap_or(0))
}

fn bigint(amount: Pico) -> i64 {
    i64::try_from(amount.0).unwrap_or(i64::MAX)
}
