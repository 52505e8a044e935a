//! A namespace's budget (GrantPolicy `budget`): a session holds the whole of its own budget of it before it has a key of a
//! gateway, and until it ends. What is held and what was spent never exceed the namespace's, so that it holds across sessions
//! without anybody counting between them (docs/adr/0010).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentSession, Period, Reason};
use berth_protocol::money::Pico;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::permit::Matching;
use crate::context::Context;
use crate::control::session_link::Link;
use crate::gateway::keys::Trouble;
use crate::store::allotment::{Allotting, Answer, Ask};
use crate::telemetry::chain;

/// What a namespace may spend from some moment on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cap {
    /// At most.
    pub limit: Pico,
    /// Since then.
    pub since: Timestamp,
}

/// What sessions hold of their namespaces' budgets. In memory while this process leads; Postgres decides.
pub struct Allotments {
    states: Mutex<HashMap<String, State>>,
    table: Allotting,
}

#[derive(Default)]
struct State {
    /// By the incarnation that asked: one that has ended holds nothing, and the session may run again.
    held: Option<(i64, Pico)>,
    refused: Option<Refused>,
    busy: bool,
}

struct Refused {
    credentials: Vec<String>,
    message: String,
    until: Timestamp,
}

impl Allotments {
    /// Over this table.
    pub fn new(table: Allotting) -> Self {
        Self {
            states: Mutex::default(),
            table,
        }
    }

    /// What the session holds in this incarnation, as far as this process knows.
    pub fn held(&self, session_uid: &str, incarnation: i64) -> Option<Pico> {
        let held = self.states.lock().get(session_uid)?.held;
        held.filter(|(of, _)| *of == incarnation).map(|(_, held)| held)
    }

    /// Why its credentials have no key.
    pub fn troubles(&self, session_uid: &str) -> Vec<(String, Trouble)> {
        let states = self.states.lock();
        let refused = states.get(session_uid).and_then(|state| state.refused.as_ref());
        let trouble = |refused: &Refused| Trouble {
            reason: Reason::NamespaceBudget,
            message: refused.message.clone(),
        };
        let each = |refused: &Refused| {
            let named = refused.credentials.iter().cloned();
            named.map(|name| (name, trouble(refused))).collect()
        };
        refused.map(each).unwrap_or_default()
    }

    /// Whether to ask now: it holds something else, nobody asks, and it wasn't refused a moment ago.
    fn begins(&self, session_uid: &str, wanted: (i64, Pico), now: Timestamp) -> bool {
        let mut states = self.states.lock();
        let state = states.entry(session_uid.to_owned()).or_default();
        let waits = state.refused.as_ref().is_some_and(|refused| now < refused.until);
        let begins = state.held != Some(wanted) && !state.busy && !waits;
        state.busy |= begins;
        begins
    }

    fn settle(&self, session_uid: &str, answer: Result<(i64, Pico), Refused>) {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(session_uid) else {
            return;
        };
        state.busy = false;
        match answer {
            Ok(held) => (state.held, state.refused) = (Some(held), None),
            Err(refused) => state.refused = Some(refused),
        }
    }

    /// The session is gone.
    pub fn forget(&self, session_uid: &str) {
        self.states.lock().remove(session_uid);
    }
}

/// The budgets that hold in a namespace.
pub fn caps(context: &Context, namespace: &str) -> Vec<Cap> {
    let policies = context.caches.policies.state();
    let labels = context.caches.labels_of(namespace);
    let now = context.clock.now();
    Matching::of_namespace(namespace, labels.as_ref(), &policies)
        .budgets()
        .filter_map(|budget| {
            Some(Cap {
                limit: Pico::parse(&budget.limit)?,
                since: begin_of(budget.period, now),
            })
        })
        .collect()
}

/// When the day or month in UTC began.
fn begin_of(period: Period, now: Timestamp) -> Timestamp {
    let day = now.to_zoned(TimeZone::UTC).start_of_day();
    let begin = day.and_then(|day| match period {
        Period::Day => Ok(day),
        Period::Month => day.first_of_month(),
    });
    begin.map_or(Timestamp::UNIX_EPOCH, |begin| begin.timestamp())
}

/// Asks for what a session should hold, beside the pass, which is made anew then. Gives when to look again.
pub fn begin(
    context: &Arc<Context>,
    (session, link): (&AgentSession, &Link),
    caps: Vec<Cap>,
    credentials: Vec<String>,
) -> Option<Duration> {
    let now = context.clock.now();
    let limit = session.spec.budget.as_ref().map(|budget| budget.limit.as_str());
    let amount = limit.and_then(Pico::parse);
    let wanted = (link.incarnation, amount.unwrap_or_default());
    if !context.allotments.begins(&link.session_uid, wanted, now) {
        let held = context.allotments.held(&link.session_uid, link.incarnation);
        return held.is_none().then_some(AGAIN);
    }
    let (context, link) = (Arc::clone(context), link.clone());
    tokio::spawn(async move {
        let answer = match amount {
            None => {
                Err("its namespace has a budget, so that it needs one of its own: set spec.budget.limit".to_owned())
            }
            Some(amount) => ask(&context, &link, amount, &caps).await,
        };
        let until = now.checked_add(SignedDuration::try_from(AGAIN).unwrap_or_default());
        let answer = answer.map_err(|message| Refused {
            credentials,
            message,
            until: until.unwrap_or(now),
        });
        let wait = if answer.is_ok() { Duration::ZERO } else { AGAIN };
        context.allotments.settle(&link.session_uid, answer);
        context.queues.sessions.poke(link.session.clone()); // its condition says what came of it
        context.queues.grants.poke_after(link.session.namespace.clone(), wait);
    });
    None
}

async fn ask(context: &Context, link: &Link, amount: Pico, caps: &[Cap]) -> Result<(i64, Pico), String> {
    let asked = Ask {
        session_uid: &link.session_uid,
        namespace: &link.session.namespace,
        amount,
        caps,
    };
    match context.allotments.table.ask(asked).await {
        Ok(Answer::Held) => Ok((link.incarnation, amount)),
        Ok(Answer::Refused { cap, left }) => Err(format!(
            "its budget is {amount} USD, and of the namespace's {} USD no more than {left} are neither spent nor held by other \
             sessions: wait for one to end, lower spec.budget.limit, or raise budget.limit of the GrantPolicy",
            cap.limit
        )),
        Err(error) => Err(format!("what its namespace has spent can't be read: {}", chain(&error))),
    }
}

/// Another session may have ended.
const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn periods_begin_at_midnight_utc() {
        let now = at("2026-11-27T15:04:05+02:00");
        assert_eq!(begin_of(Period::Day, now), at("2026-11-27T00:00:00Z"));
        assert_eq!(begin_of(Period::Month, now), at("2026-11-01T00:00:00Z"));
    }

    #[test]
    fn one_asks_at_a_time_and_not_right_after_a_refusal() {
        let allotments = Allotments::new(Allotting::new(None));
        let begins = |amount: u64, now: &str| allotments.begins("u", (1, Pico(amount)), at(now));
        assert!(begins(5, "2026-11-27T00:00:00Z") && !begins(5, "2026-11-27T00:00:00Z"));
        let refused = Refused {
            credentials: vec!["KEY".to_owned()],
            message: "no".to_owned(),
            until: at("2026-11-27T00:00:05Z"),
        };
        allotments.settle("u", Err(refused));
        assert_eq!(allotments.troubles("u")[0].0, "KEY");
        assert!(!begins(5, "2026-11-27T00:00:04Z") && begins(5, "2026-11-27T00:00:05Z"));
        allotments.settle("u", Ok((1, Pico(5))));
        let held = |incarnation: i64| allotments.held("u", incarnation);
        assert_eq!((held(1), held(2)), (Some(Pico(5)), None));
        assert!(allotments.troubles("u").is_empty());
        assert!(!begins(5, "2026-11-27T00:00:09Z"), "it holds that");
        assert!(begins(7, "2026-11-27T00:00:09Z"), "it should hold more");
        assert_eq!(held(1), Some(Pico(5)), "until it does, it holds what it held");
    }
}
