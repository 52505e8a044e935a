//! Keys that nobody has any more: of sessions and bindings that went while no leader saw it. What a gateway has under this
//! install's prefix is held against the sessions that are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentSession, CredentialBinding};
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::client::{Asking, GatewayError};
use super::config::Gateway;
use super::key::{self, Wanted};
use crate::context::Context;
use crate::grant::offer::InstallKey;
use crate::session::plan::has_ended;
use crate::telemetry::chain;

/// Sweeps at once and every ten minutes.
pub async fn keep(context: Arc<Context>, cancel: CancellationToken) {
    loop {
        for gateway in context.gateway_keys.gateways.all() {
            match sweep(&context, gateway).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(gateway.name = gateway.name, keys = count, "orphaned keys deleted"),
                Err(error) => tracing::warn!(gateway.name = gateway.name, error = chain(&error), "no sweep"),
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Gives the number of keys that went.
async fn sweep(context: &Context, gateway: &Gateway) -> Result<usize, GatewayError> {
    let keys = &context.gateway_keys;
    let leads = || context.check_leading();
    let asking = Asking::begin(&keys.caller, gateway, &leads).await?;
    let stores = || (context.caches.sessions.state(), context.caches.bindings.state());
    let Sorted { orphans, known } = delete_orphans(&asking, &gateway.name, &context.install_key, stores).await?;
    for wanted in known {
        if keys.seen(&wanted, context.clock.now()) {
            context.queues.grants.poke(wanted.id.namespace);
        }
    }
    Ok(orphans.len())
}

/// Deletes what belongs to nobody; gives what it found.
pub async fn delete_orphans(
    asking: &Asking<'_>,
    gateway: &str,
    install_key: &InstallKey,
    stores: impl FnOnce() -> (Vec<Arc<AgentSession>>, Vec<Arc<CredentialBinding>>),
) -> Result<Sorted, GatewayError> {
    let there = asking.aliases(&key::alias_prefix(install_key)).await?;
    // Looked at after the gateway: a key that it names was made for a session that is in the stores.
    let (sessions, bindings) = stores();
    let sorted = sort(there, gateway, install_key, (&sessions, &bindings));
    for some in sorted.orphans.chunks(CHUNK) {
        asking.delete(some).await?;
    }
    Ok(sorted)
}

/// What a gateway has.
#[derive(Debug, Default, PartialEq)]
pub struct Sorted {
    /// Aliases of keys that nobody has.
    pub orphans: Vec<String>,
    /// Keys of sessions that are there.
    pub known: Vec<Wanted>,
}

/// Pure: which of these aliases belong to a session that isn't over and a binding that is there.
pub fn sort(
    there: Vec<String>,
    gateway: &str,
    key: &InstallKey,
    (sessions, bindings): (&[Arc<AgentSession>], &[Arc<CredentialBinding>]),
) -> Sorted {
    let is_its = |binding: &&Arc<CredentialBinding>| {
        let source = binding.spec.credential.source.lite_llm_key.as_ref();
        source.is_some_and(|source| source.gateway == gateway)
    };
    let mut by_namespace: BTreeMap<String, Vec<&Arc<CredentialBinding>>> = BTreeMap::new();
    for binding in bindings.iter().filter(is_its) {
        let namespace = binding.namespace().unwrap_or_default();
        by_namespace.entry(namespace).or_default().push(binding);
    }
    let lives = |session: &&Arc<AgentSession>| {
        session.meta().deletion_timestamp.is_none() && !session.status.as_ref().is_some_and(has_ended)
    };
    let mut expected = BTreeMap::new();
    for session in sessions.iter().filter(lives) {
        let theirs = by_namespace.get(&session.namespace().unwrap_or_default());
        let keys = theirs.into_iter().flatten();
        expected.extend(
            keys.filter_map(|binding| Wanted::of(key, session, binding))
                .map(|wanted| (wanted.alias.clone(), wanted)),
        );
    }
    let mut sorted = Sorted::default();
    for alias in there {
        match expected.remove(&alias) {
            Some(wanted) => sorted.known.push(wanted),
            None => sorted.orphans.push(alias),
        }
    }
    sorted
}

/// A crashed leader's leavings cost nothing but rows, and end within a day.
const PERIOD: Duration = Duration::from_mins(10);
/// Of one request to delete.
const CHUNK: usize = 50;

#[cfg(test)]
mod tests {
    use berth_crds::{AgentSessionSpec, AgentSessionStatus, CredentialBindingSpec};
    use serde_json::json;

    use super::*;

    fn session(namespace: &str, uid: &str, stopped: bool) -> Arc<AgentSession> {
        let mut session = AgentSession::new("s", AgentSessionSpec::default());
        session.metadata.namespace = Some(namespace.to_owned());
        session.metadata.uid = Some(uid.to_owned());
        session.status = Some(AgentSessionStatus {
            stopped_reason: stopped.then(|| "TimedOut".to_owned()),
            ..AgentSessionStatus::default()
        });
        Arc::new(session)
    }

    fn binding(uid: &str, gateway: &str) -> Arc<CredentialBinding> {
        let spec: CredentialBindingSpec = serde_json::from_value(json!({
            "credential": {"name": "KEY", "source": {"liteLLMKey": {"gateway": gateway}}},
            "subjects": {"allSessions": true}, "reason": "tests", "routes": [],
        }))
        .unwrap();
        let mut binding = CredentialBinding::new("b", spec);
        binding.metadata.namespace = Some("team-a".to_owned());
        binding.metadata.uid = Some(uid.to_owned());
        Arc::new(binding)
    }

    #[test]
    fn a_key_without_a_living_session_or_without_its_binding_is_an_orphan() {
        let key = InstallKey::new(vec![7; 32]);
        let alias =
            |session: &AgentSession, binding: &CredentialBinding| Wanted::of(&key, session, binding).unwrap().alias;
        let (lives, over, elsewhere) = (
            session("team-a", "lives", false),
            session("team-a", "over", true),
            session("team-b", "elsewhere", false),
        );
        let (here, gone, other) = (
            binding("here", "main"),
            binding("gone", "main"),
            binding("other", "second"),
        );
        let kept = alias(&lives, &here);
        let orphans = vec![
            alias(&over, &here),
            alias(&session("team-a", "deleted", false), &here),
            alias(&lives, &gone),
            alias(&elsewhere, &here),
            alias(&lives, &other),
        ];
        let mut there = orphans.clone();
        there.push(kept.clone());
        let stores = ([lives, over, elsewhere], [here, other]);
        let sorted = sort(there, "main", &key, (&stores.0, &stores.1));
        assert_eq!(sorted.orphans, orphans);
        let known: Vec<String> = sorted.known.into_iter().map(|wanted| wanted.alias).collect();
        assert_eq!(known, [kept]);
    }
}
