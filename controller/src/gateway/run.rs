//! IO: what the sessions of a namespace need now of their gateways: keys to be made, changed or renewed, and others to be
//! ended. All of it happens beside the pass that found it, which waits for no gateway.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{AgentSession, CredentialBinding};
use jiff::Timestamp;
use kube::ResourceExt;
use secrecy::SecretString;

use super::client::{Asking, GatewayError};
use super::key::{self, KeyId, Wanted};
use super::keys::{Fate, Keys, Standing, Trouble, Unwanted, fate};
use crate::context::Context;
use crate::grant::decide::Decisions;
use crate::grant::offer::InstallKey;
use crate::session::plan::has_ended;
use crate::telemetry::chain;
use crate::watch::Name;

/// Keys that sessions may use now: by the session's UID, then by the binding's name.
pub type Held = HashMap<String, BTreeMap<String, HeldKey>>;

/// A key that a session may use.
#[derive(Clone, Debug)]
pub struct HeldKey {
    /// Its value.
    pub value: SecretString,
    /// When it ends.
    pub ends: Timestamp,
}

/// What a pass found.
#[derive(Default)]
pub struct Found {
    /// Keys that may be used now.
    pub held: Held,
    /// How long until the next thing is due.
    pub wait: Option<Duration>,
    wanted: HashSet<KeyId>,
    /// Keys to be asked for, and whether they are there already.
    due: Vec<(Wanted, bool)>,
    /// Keys to be ended.
    over: Vec<Unwanted>,
}

/// A session that holds a pod.
pub struct OnPod<'a> {
    /// The session.
    pub session: &'a AgentSession,
    /// Whether its sidecar holds what a former leader granted, and nothing of this one's yet.
    pub taken_over: bool,
}

/// Looks at what the sessions that hold a pod are granted.
pub fn look<'a>(
    (keys, install_key): (&Keys, &InstallKey),
    sessions: impl Iterator<Item = OnPod<'a>>,
    bindings: &[&CredentialBinding],
    decisions: &Decisions,
    now: Timestamp,
) -> Found {
    let mut found = Found::default();
    let by_name: BTreeMap<String, &CredentialBinding> = bindings.iter().map(|it| (it.name_any(), *it)).collect();
    for OnPod { session, taken_over } in sessions {
        if session.status.as_ref().is_some_and(has_ended) {
            continue;
        }
        let uid = session.uid().unwrap_or_default();
        for grant in decisions.sessions.get(&uid).into_iter().flatten() {
            let wanted = by_name
                .get(&grant.binding)
                .and_then(|binding| Wanted::of(install_key, session, binding));
            let Some(wanted) = wanted else { continue };
            found.wanted.insert(wanted.id.clone());
            let mut known = keys.known(&wanted, now);
            if taken_over && known.is_first {
                keys.presume(&wanted, now);
                known = keys.known(&wanted, now);
            }
            if let Some(ends) = known.ends {
                let held = HeldKey {
                    value: key::value(install_key, &wanted.id),
                    ends,
                };
                let theirs = found.held.entry(uid.clone()).or_default();
                theirs.insert(wanted.binding.clone(), held);
            }
            if known.is_due {
                found.due.push((wanted, known.is_there));
            } else {
                found.waits(known.wait);
            }
        }
    }
    found
}

impl Found {
    fn waits(&mut self, wait: Duration) {
        self.wait = Some(self.wait.map_or(wait, |before| before.min(wait)));
    }

    /// Looks at the keys that are wanted no more. `judged`: sessions, by UID, of which this leader knows what they may use.
    pub fn end(&mut self, context: &Context, namespace: &str, judged: &HashSet<&str>) {
        let now = context.clock.now();
        let bindings = context.caches.bindings_of(namespace);
        let bindings: HashSet<String> = bindings.iter().filter_map(|binding| binding.uid()).collect();
        let fate = |id: &KeyId, session: &Name| {
            let session = context.caches.session(session);
            let session = session.filter(|session| session.uid().as_deref() == Some(&id.session_uid));
            let fate = fate(Standing {
                session: session.as_deref(),
                binding_lives: bindings.contains(&id.binding_uid),
                is_judged: judged.contains(id.session_uid.as_str()),
            });
            // A session that is over is asked about once more before its key goes.
            let is_asked = session.is_some() && context.spend.awaits_figure(&id.session_uid, now);
            match fate {
                Fate::Delete if is_asked => Fate::Block,
                fate => fate,
            }
        };
        let keys = &context.gateway_keys;
        let (over, wait) = keys.unwanted(namespace, &self.wanted, fate, now);
        self.over = over;
        if let Some(wait) = wait {
            self.waits(wait);
        }
    }

    /// Begins what is to be done; each looks at the namespace again when it is over.
    pub fn begin(self, context: &Arc<Context>) {
        for (wanted, is_there) in self.due {
            if context.gateway_keys.begins(&wanted.id) {
                tokio::spawn(keep(Arc::clone(context), wanted, is_there));
            }
        }
        for unwanted in self.over {
            if context.gateway_keys.begins(&unwanted.id) {
                tokio::spawn(end(Arc::clone(context), unwanted));
            }
        }
    }
}

async fn keep(context: Arc<Context>, wanted: Wanted, is_there: bool) {
    let value = key::value(&context.install_key, &wanted.id);
    let kept = with(&context, &wanted.id.gateway, async |asking| {
        // Prices change; a session with a budget counts by those of its key's last renewal.
        if wanted.terms.budget.is_some() {
            let prices = asking.prices().await?;
            context.gateway_keys.are_priced(&wanted.id.gateway, prices);
        }
        asking.keep(&wanted, &value, is_there).await
    });
    let kept = kept.await;
    if let Err(trouble) = &kept {
        tracing::warn!(
            session.namespace = wanted.session.namespace,
            session.name = wanted.session.name,
            binding.name = wanted.binding,
            error = trouble.message,
            "no gateway key"
        );
    }
    let now = (context.clock.now(), rand::random());
    context.gateway_keys.settle_wanted(&wanted, kept, now);
    context.gateway_keys.ends(&wanted.id);
    context.queues.sessions.poke(wanted.session); // its condition says what came of it
    context.queues.grants.poke(wanted.id.namespace);
}

async fn end(context: Arc<Context>, unwanted: Unwanted) {
    let value = key::value(&context.install_key, &unwanted.id);
    let ended = with(&context, &unwanted.id.gateway, async |asking| match unwanted.fate {
        Fate::Block => asking.block(&value).await,
        Fate::Delete | Fate::Wait => asking
            .delete(std::slice::from_ref(&unwanted.alias))
            .await
            .map(|()| true),
    });
    let ended = ended.await;
    if let Err(trouble) = &ended {
        tracing::warn!(
            session.namespace = unwanted.session.namespace,
            session.name = unwanted.session.name,
            error = trouble.message,
            "a gateway key isn't ended; it is tried again until the key ends by itself"
        );
    }
    let now = (context.clock.now(), rand::random());
    context.gateway_keys.settle_unwanted(&unwanted, ended, now);
    context.gateway_keys.ends(&unwanted.id);
    context.queues.grants.poke(unwanted.id.namespace);
}

/// Asks a gateway, a few at a time.
pub async fn with<T>(
    context: &Context,
    gateway: &str,
    ask: impl AsyncFnOnce(Asking<'_>) -> Result<T, GatewayError>,
) -> Result<T, Trouble> {
    let keys = &context.gateway_keys;
    let Some(gateway) = keys.gateways.named(gateway) else {
        return Err(Trouble {
            reason: berth_crds::Reason::GatewayUnknown,
            message: format!("the install has no gateway {gateway}"),
        });
    };
    let _turn = keys.at_once.acquire().await; // never closed
    let leads = || context.check_leading();
    let asked = async { ask(Asking::begin(&keys.caller, gateway, &leads).await?).await };
    asked.await.map_err(|error| Trouble {
        reason: error.reason(),
        message: chain(&error),
    })
}

#[cfg(test)]
mod tests {
    use berth_crds::{AgentSessionSpec, AgentSessionStatus, CredentialBindingSpec, Grant};
    use berth_outbound::post::Caller;
    use serde_json::json;

    use super::*;
    use crate::gateway::config::Gateways;
    use crate::grant::decide::{Active, SessionGrant};
    use crate::grant::permit::Permitted;

    fn keys() -> Keys {
        let vetting = berth_egress::address::Vetting::default();
        let resolver = berth_outbound::resolve::Resolver::new(HashMap::new(), vetting).unwrap();
        let tls = berth_outbound::tls::UpstreamTls::new(&[]).unwrap();
        let dialer = berth_outbound::dial::Dialer::new(resolver, tls);
        Keys::new(Gateways::default(), Caller::new(dialer, Vec::new()))
    }

    fn session(uid: &str, stopped: bool) -> AgentSession {
        let mut session = AgentSession::new(uid, AgentSessionSpec::default());
        session.metadata.namespace = Some("team-a".to_owned());
        session.metadata.uid = Some(uid.to_owned());
        session.status = Some(AgentSessionStatus {
            stopped_reason: stopped.then(|| "TimedOut".to_owned()),
            ..AgentSessionStatus::default()
        });
        session
    }

    fn binding(name: &str, source: &serde_json::Value) -> Arc<CredentialBinding> {
        let spec: CredentialBindingSpec = serde_json::from_value(json!({
            "credential": {"name": "KEY", "source": source}, "subjects": {"allSessions": true}, "reason": "tests",
            "routes": [],
        }))
        .unwrap();
        let mut binding = CredentialBinding::new(name, spec);
        binding.metadata.namespace = Some("team-a".to_owned());
        binding.metadata.uid = Some(format!("{name}-uid"));
        Arc::new(binding)
    }

    /// Every one of these sessions is granted every one of these bindings.
    fn granted(sessions: &[&AgentSession], bindings: &[Arc<CredentialBinding>]) -> Decisions {
        let grant = |binding: &Arc<CredentialBinding>| SessionGrant {
            binding: binding.name_any(),
            active: Active {
                permitted: Permitted::default(),
                grant: Grant::default(),
                expires: None,
                version: String::new(),
            },
        };
        let of = |session: &&AgentSession| (session.uid().unwrap(), bindings.iter().map(grant).collect());
        Decisions {
            sessions: sessions.iter().map(of).collect(),
            ..Decisions::default()
        }
    }

    #[test]
    fn a_key_is_asked_for_where_it_is_granted_and_held_once_it_is_there() {
        let (keys, install_key, now) = (keys(), InstallKey::new(vec![7; 32]), Timestamp::UNIX_EPOCH);
        let (runs, over, ungranted) = (
            session("runs", false),
            session("over", true),
            session("ungranted", false),
        );
        let bindings = [
            binding("models", &json!({"liteLLMKey": {"gateway": "main"}})),
            binding("secret", &json!({"secretRef": {"name": "forge", "key": "token"}})),
        ];
        let decisions = granted(&[&runs, &over], &bindings);
        let on_pods = |taken_over| {
            let sessions = [&runs, &over, &ungranted];
            sessions.map(|session| OnPod { session, taken_over })
        };
        let look = |taken_over| {
            let sessions = on_pods(taken_over).into_iter();
            look(
                (&keys, &install_key),
                sessions,
                &bindings.each_ref().map(|it| &**it),
                &decisions,
                now,
            )
        };
        let first = look(false);
        assert!(first.held.is_empty() && first.wait.is_none());
        let [(wanted, false)] = first.due.as_slice() else {
            panic!("{:?}", first.due)
        };
        assert_eq!(
            (wanted.session.name.as_str(), wanted.binding.as_str()),
            ("runs", "models")
        );
        keys.settle_wanted(wanted, Ok(()), (now, 0.0));
        let second = look(false);
        assert!(second.due.is_empty() && second.wait.is_some());
        let uids: Vec<&str> = second.held.keys().map(String::as_str).collect();
        assert_eq!((uids, second.held["runs"].len()), (vec!["runs"], 1));
    }

    #[test]
    fn what_a_former_leader_granted_is_held_before_the_gateway_has_answered() {
        let (keys, install_key, now) = (keys(), InstallKey::new(vec![7; 32]), Timestamp::UNIX_EPOCH);
        let runs = session("runs", false);
        let bindings = [binding("models", &json!({"liteLLMKey": {"gateway": "main"}}))];
        let decisions = granted(&[&runs], &bindings);
        for taken_over in [true, false] {
            let on_pod = OnPod {
                session: &runs,
                taken_over,
            };
            let found = look(
                (&keys, &install_key),
                [on_pod].into_iter(),
                &[&*bindings[0]],
                &decisions,
                now,
            );
            assert_eq!((found.held["runs"].len(), found.due.len()), (1, 1));
        }
    }
}
