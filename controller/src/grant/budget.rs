//! What a session may spend on models, as its sidecar is told: its limit, what earlier pods have spent, and what the models of
//! its gateways cost. Until all of it is known the session has no key.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentSession, CredentialBinding};
use berth_protocol::budget::Budget;
use berth_protocol::money::Pico;

use super::allot::{self, Cap};
use super::offer::{Offer, ValueSource};
use super::select::selects;
use crate::context::Context;
use crate::control::session_link::Link;
use crate::session::plan::has_ended;
use crate::telemetry::chain;

/// The budget that goes with an offer; `None` for a session without one, or without a key of a gateway.
pub fn of(
    context: &Context,
    (session, link): (&AgentSession, &Link),
    bindings: &[&CredentialBinding],
    offer: &Offer,
) -> Option<Budget> {
    let limit = Pico::parse(&session.spec.budget.as_ref()?.limit)?;
    // One that is raised counts once the namespace's budget has room for it.
    let held = context.allotments.held(&link.session_uid, link.incarnation);
    let limit = held.map_or(limit, |held| held.min(limit));
    let credentials: Vec<String> = offer
        .credentials
        .iter()
        .filter(|credential| matches!(credential.value, ValueSource::GatewayKey(_)))
        .map(|credential| credential.name.clone())
        .collect();
    if credentials.is_empty() {
        return None;
    }
    let gateways = gateways(session, bindings);
    let prices = gateways
        .iter()
        .filter_map(|gateway| context.gateway_keys.prices(gateway));
    let (spent, credit) = context.spend.before(&link.session_uid, link.incarnation)?;
    Some(Budget {
        limit,
        spent,
        credit,
        credentials,
        prices: prices.flat_map(|prices| prices.to_vec()).collect(),
    })
}

/// Whether a session's spending could be counted, and its namespace's budget has room for it.
pub fn is_known(context: &Context, (session, link): (&AgentSession, &Link), bindings: &[&CredentialBinding]) -> bool {
    let gateways = gateways(session, bindings);
    let is_capped = !gateways.is_empty() && !allot::caps(context, &link.session.namespace).is_empty();
    if is_capped && !has_room(context, session, link) {
        return false;
    }
    if session.spec.budget.is_none() {
        return true;
    }
    let mut priced = gateways.iter().map(|gateway| context.gateway_keys.prices(gateway));
    let before = context.spend.before(&link.session_uid, link.incarnation);
    gateways.is_empty() || (before.is_some() && priced.all(|prices| prices.is_some()))
}

/// What it holds is its budget, or lasts until a raised one has room.
fn has_room(context: &Context, session: &AgentSession, link: &Link) -> bool {
    let limit = session.spec.budget.as_ref();
    let limit = limit.and_then(|budget| Pico::parse(&budget.limit));
    let held = context.allotments.held(&link.session_uid, link.incarnation);
    let (Some(limit), Some(held)) = (limit, held) else {
        return false;
    };
    held >= limit || context.spend.facts(&link.session_uid).spent < held
}

/// Has a session hold its budget of its namespace's, if that has one; gives when to look again.
pub fn hold(
    context: &Arc<Context>,
    (session, link): (&AgentSession, &Link),
    bindings: &[&CredentialBinding],
    caps: &[Cap],
) -> Option<Duration> {
    let keys: Vec<String> = keys(session, bindings)
        .map(|(credential, _)| credential.to_owned())
        .collect();
    if caps.is_empty() || keys.is_empty() || session.status.as_ref().is_some_and(has_ended) {
        return None;
    }
    allot::begin(context, (session, link), caps.to_vec(), keys)
}

/// Gateways that a session may have keys of.
fn gateways<'a>(session: &AgentSession, bindings: &[&'a CredentialBinding]) -> BTreeSet<&'a str> {
    keys(session, bindings).map(|(_, gateway)| gateway).collect()
}

/// Credentials of a session that would be keys, and the gateway of each.
fn keys<'a>(session: &AgentSession, bindings: &[&'a CredentialBinding]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let listed = |name: &str| session.spec.credentials.iter().any(|listed| listed.name == name);
    bindings.iter().filter_map(move |binding| {
        let credential = &binding.spec.credential;
        let key = credential.source.lite_llm_key.as_ref()?;
        let is_theirs = listed(&credential.name) && selects(&binding.spec.subjects, session);
        is_theirs.then_some((credential.name.as_str(), key.gateway.as_str()))
    })
}

/// Reads what earlier pods have spent, beside the pass, which is made anew then.
pub fn begin(context: &Arc<Context>, link: &Link) {
    let known = context.spend.before(&link.session_uid, link.incarnation);
    if known.is_some() || !context.spend.begins(&link.session_uid) {
        return;
    }
    let (context, link) = (Arc::clone(context), link.clone());
    tokio::spawn(async move {
        let read = match context.reader.spent(&link.session_uid, link.incarnation).await {
            Ok(recorded) => Some(recorded),
            Err(error) => {
                tracing::warn!(
                    session.namespace = link.session.namespace,
                    session.name = link.session.name,
                    error = chain(&error),
                    "what a session has spent isn't known: it has no key of a gateway yet"
                );
                None
            }
        };
        let wait = if read.is_some() { Duration::ZERO } else { AGAIN };
        let now = context.clock.now();
        context.spend.read(&link.session_uid, link.incarnation, read, now);
        context.queues.grants.poke_after(link.session.namespace.clone(), wait);
    });
}

/// Postgres is away.
const AGAIN: Duration = Duration::from_secs(2);
