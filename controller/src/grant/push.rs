//! IO: one session's offer → its sidecar, when it isn't what the sidecar holds; else its lease is prolonged in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use berth_crds::{AwsSigV4, KeyRef};
use berth_protocol::control::{AwsIdentity, CredentialValue, Drain, Grants, Prolong, to_sidecar::Message};
use jiff::Timestamp;
use kube::Client;
use secrecy::{ExposeSecret, SecretSlice};

use super::github::Token;
use super::kind::{Content, Material, Unusable};
use super::offer::{Credential, Offer, ValueSource};
use super::secrets::{self, ValueError};
use crate::context::Context;
use crate::control::session_link::Link;
use crate::gateway::run::Held;
use crate::session::snapshot::Granted;
use crate::telemetry::chain;

/// What became of a push.
pub struct Pushed {
    /// When the lease has to be prolonged; `None` for a pod without a stream, which pokes when it is back.
    pub again: Option<Duration>,
    /// Values that couldn't be had, by `name/key` of the Secret.
    pub failed: BTreeMap<String, ValueError>,
    /// How long the certificates among them last, by the same.
    pub ends: BTreeMap<String, Duration>,
    /// Whether what the session may use has changed.
    pub changed: bool,
}

/// Values of one pass over a namespace: each is read once, and all are dropped with it.
pub struct Values<'a> {
    client: &'a Client,
    namespace: &'a str,
    tokens: &'a BTreeMap<String, Token>,
    keys: &'a Held,
    read: BTreeMap<String, Content>,
    certificates: BTreeMap<String, SecretSlice<u8>>,
    /// How long certificates last.
    ends: BTreeMap<String, Duration>,
    now: Timestamp,
}

impl<'a> Values<'a> {
    /// Nothing is read yet; `tokens` are those that were minted, by binding, `keys` those of gateways.
    pub fn new(
        (client, namespace): (&'a Client, &'a str),
        (tokens, keys): (&'a BTreeMap<String, Token>, &'a Held),
        now: Timestamp,
    ) -> Self {
        Self {
            now,
            keys,
            ends: BTreeMap::new(),
            client,
            namespace,
            tokens,
            read: BTreeMap::new(),
            certificates: BTreeMap::new(),
        }
    }

    /// Until when what was minted lasts, by binding: tokens for all sessions, keys of gateways for this one.
    pub fn minted(&self, session_uid: &str) -> BTreeMap<String, Timestamp> {
        let tokens = self
            .tokens
            .iter()
            .map(|(binding, token)| (binding.clone(), token.expires));
        let keys = self.keys.get(session_uid).into_iter().flatten();
        tokens
            .chain(keys.map(|(binding, key)| (binding.clone(), key.ends)))
            .collect()
    }

    /// How long a certificate lasts that was read, with its `name/key`.
    fn left(&self, source: &ValueSource) -> Option<(String, Duration)> {
        let ValueSource::Certificate(key) = source else {
            return None;
        };
        let at = format!("{}/{}", key.name, key.key);
        self.ends.get(&at).map(|left| (at, *left))
    }

    /// The value itself, for this session, from where it comes; none for one that isn't minted. With an error comes the
    /// Secret's `name/key`.
    async fn read(
        &mut self,
        source: &ValueSource,
        session_uid: &str,
    ) -> Result<Option<Material>, (String, ValueError)> {
        match source {
            ValueSource::Secret(key, hosts) => {
                let content = self.content(key).await?;
                let material = content.material(&key.key, hosts).map_err(|why| unusable(key, why));
                material.map(Some)
            }
            ValueSource::Aws(aws) => self.aws(aws).await.map(Some),
            ValueSource::Certificate(key) => self.certificate(key).await.map(|pem| Some(Material::of(pem))),
            ValueSource::Minted(binding) => {
                let token = self.tokens.get(binding);
                Ok(token.map(|token| Material::of(token.value.expose_secret().as_bytes().to_vec())))
            }
            ValueSource::GatewayKey(binding) => {
                let key = self.keys.get(session_uid).and_then(|keys| keys.get(binding));
                Ok(key.map(|key| Material::of(key.value.expose_secret().as_bytes().to_vec())))
            }
        }
    }

    async fn certificate(&mut self, key: &KeyRef) -> Result<Vec<u8>, (String, ValueError)> {
        let at = format!("{}/{}", key.name, key.key);
        if let Some(value) = self.certificates.get(&at) {
            return Ok(value.expose_secret().to_vec());
        }
        let place = (key.name.as_str(), key.key.as_str());
        match secrets::certificate(self.client, self.namespace, place, self.now).await {
            Ok((pem, left)) => {
                self.ends.insert(at.clone(), left);
                self.certificates.insert(at, SecretSlice::from(pem.clone()));
                Ok(pem)
            }
            Err(error) => Err((at, error)),
        }
    }

    async fn aws(&mut self, aws: &AwsSigV4) -> Result<Material, (String, ValueError)> {
        let access_key_id = self.text(&aws.access_key_ref).await?;
        let session_token = match &aws.session_token_ref {
            Some(key) => self.text(key).await?.into_bytes(),
            None => Vec::new(),
        };
        Ok(Material {
            aws: Some(AwsIdentity {
                access_key_id,
                session_token,
            }),
            ..Material::of(self.text(&aws.secret_key_ref).await?.into_bytes())
        })
    }

    async fn text(&mut self, key: &KeyRef) -> Result<String, (String, ValueError)> {
        let text = self.content(key).await?.text(&key.key);
        text.map(str::to_owned).map_err(|why| unusable(key, why))
    }

    /// A Secret, read once in a pass: its values belong together.
    async fn content(&mut self, key: &KeyRef) -> Result<&Content, (String, ValueError)> {
        if !self.read.contains_key(&key.name) {
            let content = secrets::content(self.client, self.namespace, &key.name).await;
            let content = content.map_err(|error| (format!("{}/{}", key.name, key.key), error))?;
            self.read.insert(key.name.clone(), content);
        }
        Ok(&self.read[&key.name])
    }
}

fn unusable(key: &KeyRef, why: Unusable) -> (String, ValueError) {
    let name = key.name.clone();
    (format!("{name}/{}", key.key), ValueError::Content { name, why })
}

/// Whether a sidecar was bound on an earlier stream and has been granted nothing on this one: it may hold what a former
/// leader granted.
pub fn holds_earlier_grants(context: &Context, pod_uid: &str) -> bool {
    let facts = context.registry.facts(pod_uid);
    facts.is_some_and(|facts| facts.assigned.is_none() && facts.acknowledged.is_some() && facts.granted.is_none())
}

/// Whether a sidecar holds something, and nothing but these credentials.
pub fn holds_within(context: &Context, pod_uid: &str, names: &BTreeSet<&str>) -> bool {
    let granted = context.registry.facts(pod_uid).and_then(|facts| facts.granted);
    granted.is_some_and(|granted| granted.names.iter().all(|name| names.contains(name.as_str())))
}

/// Sees to it that a sidecar holds what it is to hold.
pub async fn push(
    context: &Context,
    (pod_uid, link): (&str, &Link),
    (offer, values): (&Offer, &mut Values<'_>),
    lease: Duration,
) -> Pushed {
    let nothing = Pushed {
        again: None,
        failed: BTreeMap::new(),
        ends: BTreeMap::new(),
        changed: false,
    };
    let Some(facts) = context.registry.facts(pod_uid) else {
        return nothing;
    };
    let holds = facts.assigned == Some(link.incarnation) || facts.acknowledged == Some(link.incarnation);
    if !holds || facts.refused.is_some() {
        return nothing;
    }
    let digest = offer.digest();
    match facts.granted {
        Some(granted) if granted.digest == digest => {
            let renewal = lease / RENEWALS;
            let left = left(granted.prolonged.elapsed(), renewal);
            if left.is_none() {
                prolong(context, pod_uid, link, lease);
            }
            Pushed {
                again: Some(left.unwrap_or(renewal)),
                ..nothing
            }
        }
        _ => grant(context, (pod_uid, link), (offer, digest, values), lease).await,
    }
}

/// How long until a lease is prolonged that was that long ago; `None` for now. Those that would be due soon go with the
/// first: hundreds of sessions, each at a time of its own, would otherwise have the namespace looked at all the time.
fn left(ago: Duration, renewal: Duration) -> Option<Duration> {
    (ago < renewal / 2).then(|| renewal.saturating_sub(ago))
}

fn prolong(context: &Context, pod_uid: &str, link: &Link, lease: Duration) {
    if context.check_leading().is_err() {
        return;
    }
    let prolong = Prolong {
        incarnation: unsigned(link.incarnation),
        lease_ms: milliseconds(lease),
    };
    if context.registry.push(pod_uid, Message::Prolong(prolong)).is_ok() {
        context.registry.update(pod_uid, |facts| {
            if let Some(granted) = &mut facts.granted {
                granted.prolonged = Instant::now();
            }
        });
    }
}

async fn grant(
    context: &Context,
    (pod_uid, link): (&str, &Link),
    (offer, digest, known): (&Offer, [u8; 32], &mut Values<'_>),
    lease: Duration,
) -> Pushed {
    let mut pushed = Pushed {
        again: Some(lease / RENEWALS),
        failed: BTreeMap::new(),
        ends: BTreeMap::new(),
        changed: false,
    };
    let mut values = Vec::new();
    for credential in &offer.credentials {
        match known.read(&credential.value, &link.session_uid).await {
            Ok(Some(material)) => {
                let left = known.left(&credential.value);
                pushed.ends.extend(left.clone());
                values.push(value(
                    credential,
                    material,
                    (context.clock.now(), left.map(|(_, left)| left)),
                ));
            }
            Ok(None) => {} // its binding has changed; the next pass mints
            Err((key, error)) => drop(pushed.failed.insert(key, error)),
        }
    }
    let Ok(policy) = serde_json::to_vec(&offer.policy) else {
        return pushed; // a policy always can be written
    };
    let names: Vec<String> = values.iter().map(|value| value.credential.clone()).collect();
    let grants = Grants {
        incarnation: unsigned(link.incarnation),
        lease_ms: milliseconds(lease),
        policy,
        values,
        drains: offer.drains.iter().map(drain).collect(),
        cut: offer.cut.clone(),
        budget: offer.budget.as_ref().map(Into::into),
    };
    if context.check_leading().is_err() {
        return pushed;
    }
    match context.registry.push(pod_uid, Message::Grants(grants)) {
        Ok(revision) => {
            pushed.changed = true;
            context.registry.update(pod_uid, |facts| {
                facts.granted = Some(Granted {
                    digest,
                    revision,
                    acknowledged: false,
                    names,
                    prolonged: Instant::now(),
                });
            });
        }
        Err(error) => tracing::debug!(error = chain(&error), "grants weren't pushed"),
    }
    pushed
}

fn drain((route, seconds): (&String, &u32)) -> Drain {
    Drain {
        route: route.clone(),
        seconds: *seconds,
    }
}

fn value(credential: &Credential, material: Material, (now, ends): (Timestamp, Option<Duration>)) -> CredentialValue {
    let expires = credential.expires;
    let expires = expires.map(|expires| Duration::try_from(expires.duration_since(now)).unwrap_or_default());
    let left = [expires, ends].into_iter().flatten().min();
    CredentialValue {
        credential: credential.name.clone(),
        secret: trimmed(material.secret),
        grant: credential.fingerprint.clone(),
        // 0 would mean "no end".
        remaining_ms: left.map_or(0, |left| milliseconds(left).max(1)),
        aws: material.aws,
        username: material.username.unwrap_or_default(),
    }
}

/// `kubectl create secret --from-file` keeps the line end of the file.
fn trimmed(mut secret: Vec<u8>) -> Vec<u8> {
    while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        secret.pop();
    }
    secret
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unsigned(incarnation: i64) -> u64 {
    u64::try_from(incarnation).unwrap_or(0)
}

/// Two may get lost before a lease ends.
const RENEWALS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// A look comes whenever the first of many is due: three times in a renewal at most, and none waits longer than that.
    #[test]
    fn leases_of_many_sessions_are_prolonged_together() {
        let renewal = Duration::from_secs(20);
        let mut prolonged: Vec<Duration> = (0..500).map(|number| Duration::from_millis(40 * number)).collect();
        let (mut now, mut looks) = (Duration::from_secs(20), 0);
        while now < Duration::from_secs(220) {
            looks += 1;
            let mut next = renewal;
            for since in &mut prolonged {
                let ago = now.checked_sub(*since).unwrap();
                assert!(ago <= renewal, "{ago:?}");
                match left(ago, renewal) {
                    Some(wait) => next = next.min(wait),
                    None => *since = now,
                }
            }
            now += next;
        }
        assert!(looks <= 30, "{looks} looks in ten renewals");
    }
}
