//! A gateway's own figure of what a session has spent, held against what the session's sidecars saw. Both are written down.
//! What a request may have cost at most, as its answer didn't say, becomes what the gateway says that it did.
//!
//! Asked once a session has been quiet for a while: gateways add to a key some seconds after an answer. Pure but for
//! [`keep`].

use std::sync::Arc;
use std::time::Duration;

use berth_protocol::money::Pico;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::key;
use super::keys::Trouble;
use super::run::with;
use crate::context::Context;
use crate::session::plan::has_ended;
use crate::session::spend::{Compared, ROUNDING};
use crate::store::StoreError;
use crate::store::figure::Whose;
use crate::telemetry::chain;

/// What the record says that a session has spent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// What answers said.
    pub told: Pico,
    /// What requests whose answers didn't could have cost at most.
    pub estimated: Pico,
    /// Requests that were under way when their pods were lost: nobody knows what they cost.
    pub lost: i64,
    /// Requests that are under way.
    pub open: i64,
    /// When the last of them ended.
    pub until: Timestamp,
}

/// What estimates and lost requests come to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settled {
    /// All estimates together; at most what they were.
    pub estimates: Pico,
    /// All lost requests together.
    pub lost: Pico,
}

/// What the gateway's figure makes of them. Nothing while it says less than what answers told: it counts behind or has lost
/// some, and what was reserved stays.
pub fn settle(said: Pico, seen: &Seen) -> Option<Settled> {
    if said.plus(ROUNDING) < seen.told {
        return None;
    }
    let rest = said.minus(seen.told);
    let estimates = rest.min(seen.estimated);
    let lost = if seen.lost > 0 {
        rest.minus(estimates)
    } else {
        Pico::default()
    };
    Some(Settled { estimates, lost })
}

/// Why a figure isn't there.
#[derive(Debug, thiserror::Error)]
enum FigureError {
    #[error("the record can't be used")]
    Store(#[from] StoreError),
    #[error("{}", .0.message)]
    Gateway(Trouble),
}

/// Asks for the figures of sessions that spent something and are quiet, while this process leads.
pub async fn keep(context: Arc<Context>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        for (session_uid, from) in context.spend.quiet_since(context.clock.now() - QUIET) {
            let compared = compare(&context, &session_uid).await;
            if let Err(error) = &compared {
                tracing::warn!(
                    session.uid = session_uid,
                    error = chain(error),
                    "no figure of a gateway"
                );
            }
            let next = match compared {
                Ok(true) => None,
                Ok(false) => Some(context.clock.now()),
                Err(_) => Some(context.clock.now() + AGAIN),
            };
            context.spend.was_compared(&session_uid, from, next);
        }
    }
}

/// Whether there is nothing to do any more until the session spends again.
async fn compare(context: &Arc<Context>, session_uid: &str) -> Result<bool, FigureError> {
    let keys = context.gateway_keys.of_session(session_uid);
    let Some((_, session, _)) = keys.first().cloned() else {
        return Ok(true); // no key: it ended, or the gateway's name is known no more
    };
    let credentials: Vec<String> = keys.iter().map(|(.., credential)| credential.clone()).collect();
    let status = context
        .caches
        .session(&session)
        .and_then(|session| session.status.clone());
    let status = status.unwrap_or_default();
    let incarnation = if has_ended(&status) {
        i64::MAX
    } else {
        status.incarnation
    };
    let whose = Whose {
        session_uid,
        incarnation,
        credentials: &credentials,
    };
    let Some(seen) = context.figures.seen(whose).await? else {
        context.queues.grants.poke(session.namespace); // a key that waited for this may go
        return Ok(true);
    };
    if seen.open > 0 || seen.until + QUIET > context.clock.now() {
        return Ok(false);
    }
    let mut said = Vec::new();
    for (id, ..) in &keys {
        let value = key::value(&context.install_key, id);
        let spent = with(context, &id.gateway, async |asking| asking.spent(&value).await).await;
        said.push(spent.map_err(FigureError::Gateway)?);
    }
    // What a key has spent that is gone is gone with it: the rest is no figure, and what was reserved stays.
    let Some(said) = said.into_iter().sum::<Option<Pico>>() else {
        context.queues.grants.poke(session.namespace);
        return Ok(true);
    };
    context
        .figures
        .settle((whose, &session), (said, &seen), settle(said, &seen))
        .await?;
    let recorded = context.reader.spent(session_uid, status.incarnation).await?;
    let compared = Compared {
        said,
        seen: seen.told.plus(seen.estimated),
    };
    context
        .spend
        .compare(session_uid, status.incarnation, (compared, recorded));
    context.queues.grants.poke(session.namespace.clone());
    context.queues.sessions.poke(session);
    Ok(true)
}

/// Between two looks at what is due, in memory alone.
const LOOK: Duration = Duration::from_secs(2);
/// LiteLLM adds to a key's row every 10 to 15 s (`proxy_batch_write_at`).
pub const QUIET: Duration = Duration::from_secs(20);
/// After a gateway or the record was away.
const AGAIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(told: u64, estimated: u64, lost: i64) -> Seen {
        Seen {
            told: Pico(told),
            estimated: Pico(estimated),
            lost,
            open: 0,
            until: Timestamp::UNIX_EPOCH,
        }
    }

    fn settled(said: u64, seen: &Seen) -> Option<(u64, u64)> {
        settle(Pico(said), seen).map(|settled| (settled.estimates.0, settled.lost.0))
    }

    #[test]
    fn an_estimate_becomes_what_the_gateway_says() {
        let known = seen(1_000_000, 500_000, 0);
        assert_eq!(settled(1_200_000, &known), Some((200_000, 0)));
        assert_eq!(settled(1_000_000, &known), Some((0, 0)), "the gateway wasn't charged");
        assert_eq!(
            settled(9_000_000, &known),
            Some((500_000, 0)),
            "never more than it could be"
        );
        assert_eq!(settled(999_500, &known), Some((0, 0)), "rounding");
    }

    #[test]
    fn a_gateway_that_counts_behind_settles_nothing() {
        assert_eq!(settled(900_000, &seen(1_000_000, 500_000, 0)), None);
    }

    #[test]
    fn what_a_lost_pod_had_under_way_costs_what_is_left_over() {
        let known = seen(1_000_000, 500_000, 2);
        assert_eq!(settled(1_900_000, &known), Some((500_000, 400_000)));
        assert_eq!(settled(1_100_000, &known), Some((100_000, 0)));
    }
}
