//! Gives a harness that waits what somebody has said, once it is there. The pod asks, and asks again while it waits: so
//! nothing here has to last.

use std::sync::Arc;

use berth_protocol::control::{Abort, Input, to_sidecar::Message};

use super::session_link::Link;
use crate::context::Context;
use crate::telemetry::chain;
use crate::watch::Name;

/// The pod waits for what comes after this input: gives it, if it is there.
pub async fn feed(context: Arc<Context>, pod_uid: String, link: Link, after: u64) {
    let number = i64::try_from(after).unwrap_or(i64::MAX);
    let next = match context.inputs.after(&link.session_uid, number).await {
        Ok(next) => next,
        Err(error) => {
            tracing::warn!(
                session.namespace = link.session.namespace,
                session.name = link.session.name,
                error = chain(&error),
                "input isn't read; the pod asks again"
            );
            return;
        }
    };
    let Some((number, text)) = next else { return };
    let input = Input {
        incarnation: u64::try_from(link.incarnation).unwrap_or(0),
        number: u64::try_from(number).unwrap_or(0),
        text,
    };
    if context.check_leading().is_err() {
        return;
    }
    if let Err(error) = context.registry.push(&pod_uid, Message::Input(input)) {
        tracing::debug!(error = chain(&error), "input not pushed; the pod asks again");
        return;
    }
    context.registry.update(&pod_uid, |facts| facts.waits = None);
    context.queues.sessions.poke(link.session);
}

/// Something was said to a session: a pod that waits for it gets it, and one that rests goes on.
pub fn said(context: &Arc<Context>, session: &Name, session_uid: &str) {
    context.queues.sessions.poke(session.clone());
    for (pod_uid, link) in context.sessions_on_pods.of_session(session_uid) {
        let waits = context.registry.facts(&pod_uid).and_then(|facts| facts.waits);
        if let Some(after) = waits {
            tokio::spawn(feed(Arc::clone(context), pod_uid, link, after));
        }
    }
}

/// Ends what a session's harness does now. `false` when it has no pod that hears it.
pub fn abort(context: &Context, session_uid: &str) -> bool {
    let pods = context.sessions_on_pods.of_session(session_uid);
    let heard = pods.into_iter().filter(|(pod_uid, link)| {
        let incarnation = u64::try_from(link.incarnation).unwrap_or(0);
        let abort = Message::Abort(Abort { incarnation });
        context.registry.push(pod_uid, abort).is_ok()
    });
    heard.count() > 0
}
