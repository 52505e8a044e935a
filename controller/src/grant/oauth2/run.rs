//! IO: what a namespace's bindings need now: tokens to be asked for ([`super::ask`]) or revoked, refresh tokens to be
//! written once more.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_crds::{CredentialBinding, KeyRef, OAuth2 as Spec, Reason};
use kube::Client;

use super::ask::{Asker, Leads, oauth_client};
use super::rotation::{AGAIN, Key};
use super::{Endpoints, For};
use crate::context::Context;
use crate::grant::decide::{Decisions, Verdict};
use crate::grant::github::Token;
use crate::grant::permit::host_covers;
use crate::telemetry::chain;
use crate::watch::Name;

/// What a pass found.
#[derive(Default)]
pub struct Found {
    /// Bindings that grant a token, whether there is one or not: their states are kept.
    granting: HashSet<String>,
    /// Tokens to be asked for.
    due: Vec<(Name, For)>,
    /// Refresh tokens to be written once more.
    unwritten: Vec<(Name, KeyRef)>,
    /// How long until the next thing is due.
    pub wait: Option<Duration>,
    /// Of bindings whose rotated refresh token isn't written: why.
    pub unsaved: BTreeMap<String, String>,
}

/// Adds the tokens that are held to `tokens`. A binding whose source fails and that has none is decided to be inactive.
pub fn look(
    context: &Context,
    bindings: &[Arc<CredentialBinding>],
    decisions: &mut Decisions,
    tokens: &mut BTreeMap<String, Token>,
) -> Found {
    let (mut found, now) = (Found::default(), context.clock.now());
    for binding in bindings {
        let name = Name::of(&**binding);
        let Some(spec) = &binding.spec.credential.source.oauth2 else {
            continue;
        };
        let Some(Verdict::Active(active)) = decisions.bindings.get(&name.name) else {
            continue;
        };
        let mut grants = decisions.sessions.values().flatten();
        let used = grants.any(|grant| grant.binding == name.name);
        found.granting.insert(name.name.clone());
        let wanted = For {
            spec: spec.clone(),
            version: active.version.clone(),
        };
        if let Some(key) = &spec.refresh_token_ref
            && let Some((why, again)) = context.oauth2.unsaved(&key_of(&name, spec), now)
        {
            found.unsaved.insert(name.name.clone(), why);
            found.unwritten.extend(again.then(|| (name.clone(), key.clone())));
            found.waits(AGAIN);
        }
        let known = context.oauth2.known(&name, &wanted, now);
        match (known.token, known.failure) {
            (Some(token), _) => drop(tokens.insert(name.name.clone(), token)),
            (None, Some(why)) => deny(decisions, &name.name, why),
            (None, None) => {}
        }
        if used && known.is_due {
            found.due.push((name, wanted));
        } else if used {
            found.waits(known.wait);
        }
    }
    found
}

impl Found {
    fn waits(&mut self, wait: Duration) {
        self.wait = Some(self.wait.map_or(wait, |before| before.min(wait)));
    }

    /// Begins what is to be done; each looks at the namespace again when it is over.
    pub fn begin(self, context: &Arc<Context>, client: &Client) {
        for (name, wanted) in self.due {
            let key = key_of(&name, &wanted.spec);
            if context.oauth2.begins(&key) {
                tokio::spawn(mint(Arc::clone(context), client.clone(), name, (key, wanted)));
            }
        }
        for (name, key_ref) in self.unwritten {
            let key = (name.namespace.clone(), format!("{}/{}", key_ref.name, key_ref.key));
            if context.oauth2.begins(&key) {
                let (context, client) = (Arc::clone(context), client.clone());
                tokio::spawn(async move {
                    let leads = || context.check_leading();
                    drop(asker(&context, &client, &leads).write_back(&key, &key_ref).await);
                    context.oauth2.ends(&key);
                    context.queues.grants.poke(name.namespace);
                });
            }
        }
    }
}

fn deny(decisions: &mut Decisions, name: &str, message: String) {
    let verdict = Verdict::Inactive {
        reason: Reason::TokenRefused,
        message,
        stalled: true,
    };
    decisions.bindings.insert(name.to_owned(), verdict);
    for grants in decisions.sessions.values_mut() {
        grants.retain(|grant| grant.binding != name);
    }
}

/// Two bindings with one refresh token never use it at once: the server would take it for stolen.
fn key_of(binding: &Name, spec: &Spec) -> Key {
    let of = |key: &KeyRef| format!("{}/{}", key.name, key.key);
    let refresh = spec.refresh_token_ref.as_ref().map(of);
    (
        binding.namespace.clone(),
        refresh.unwrap_or_else(|| binding.name.clone()),
    )
}

fn asker<'a>(context: &'a Context, client: &'a Client, leads: &'a Leads<'a>) -> Asker<'a> {
    Asker {
        oauth2: &context.oauth2,
        client,
        leads,
        clock: context.clock,
    }
}

async fn mint(context: Arc<Context>, client: Client, binding: Name, (key, wanted): (Key, For)) {
    let leads = || context.check_leading();
    let result = asker(&context, &client, &leads).ask(&key, &wanted).await;
    if let Err(refusal) = &result {
        tracing::warn!(
            binding.namespace = binding.namespace,
            binding.name = binding.name,
            error = refusal.message,
            "no token"
        );
    }
    let now = (context.clock.now(), rand::random());
    context.oauth2.settle(&binding, wanted, result, now);
    context.oauth2.ends(&key);
    context.queues.grants.poke(binding.namespace);
}

/// Revokes tokens of bindings that grant no more where their servers offer that; what can't be revoked ends by itself.
pub fn retire(
    context: &Arc<Context>,
    (namespace, client): (&str, &Client),
    bindings: &[Arc<CredentialBinding>],
    found: &Found,
) {
    let named = bindings.iter().filter_map(|binding| {
        let spec = binding.spec.credential.source.oauth2.as_ref()?;
        Some(key_of(&Name::of(&**binding), spec))
    });
    let named: HashSet<Key> = named.collect();
    context
        .oauth2
        .rotations
        .lock()
        .keep(namespace, |key| named.contains(key));
    let over = context
        .oauth2
        .retire(namespace, |name| found.granting.contains(&name.name));
    for (spec, token) in over {
        let Some(revocation) = Endpoints::of(&spec).ok().and_then(|endpoints| endpoints.revocation) else {
            continue;
        };
        if !may_be_sent(context, namespace, &spec, &revocation.host()) {
            tracing::warn!("a token isn't revoked, as its client's Secret isn't offered any more; it ends by itself");
            continue;
        }
        let (context, client, namespace) = (Arc::clone(context), client.clone(), namespace.to_owned());
        tokio::spawn(async move {
            let revoked = match oauth_client(&client, &namespace, &spec).await {
                Ok(oauth) => berth_outbound::oauth2::revoke(&context.oauth2.caller, &oauth, &revocation, &token.value)
                    .await
                    .map_err(|error| chain(&error)),
                Err(refusal) => Err(refusal.message),
            };
            if let Err(error) = revoked {
                tracing::warn!(error, "a token isn't revoked; it ends by itself");
            }
        });
    }
}

/// Whether the owner of the client's secret still offers it to that host.
fn may_be_sent(context: &Context, namespace: &str, spec: &Spec, host: &str) -> bool {
    spec.client_secret_ref.as_ref().is_none_or(|key| {
        let name = Name {
            namespace: namespace.to_owned(),
            name: key.name.clone(),
        };
        let state = context.secrets.state(&name, &key.key);
        state.is_some_and(|state| {
            state.is_ok_and(|offered| offered.hosts.iter().any(|offered| host_covers(offered, host)))
        })
    })
}
