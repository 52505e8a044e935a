//! Pure: one session's key, and what LiteLLM is told of it. The value is derived from the install's key, so that every
//! leader has the same one and none is stored.
//!
//! Its models aren't part of it: another list is told to the gateway, and what the session has spent stays counted.

use std::time::Duration;

use berth_crds::{AgentSession, CredentialBinding, SourceStatus};
use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::grant::offer::InstallKey;
use crate::watch::Name;

/// Which key: of this session, by this binding, at this gateway.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId {
    /// Namespace of both.
    pub namespace: String,
    /// Name of the gateway.
    pub gateway: String,
    /// UID of the session.
    pub session_uid: String,
    /// UID of the binding.
    pub binding_uid: String,
}

/// A key that a session is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Which.
    pub id: KeyId,
    /// Its name at the gateway.
    pub alias: String,
    /// The session.
    pub session: Name,
    /// Name of the binding.
    pub binding: String,
    /// Name of the credential.
    pub credential: String,
    /// What it is good for.
    pub terms: Terms,
    /// What the gateway's own records say of it.
    pub metadata: Value,
}

/// What a key is good for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Models; all that the gateway has when there are none.
    pub models: Vec<String>,
    /// US dollars as a decimal string, for the whole session.
    pub budget: Option<String>,
    /// How long it lasts unless it is renewed.
    pub lasts: Duration,
}

impl Wanted {
    /// Of this session, by this binding; `None` for a binding of another source.
    pub fn of(key: &InstallKey, session: &AgentSession, binding: &CredentialBinding) -> Option<Self> {
        let source = binding.spec.credential.source.lite_llm_key.as_ref()?;
        let name = Name::of(session);
        let id = KeyId {
            namespace: name.namespace.clone(),
            gateway: source.gateway.clone(),
            session_uid: session.uid()?,
            binding_uid: binding.uid()?,
        };
        let from = SourceStatus::from_annotations(session.annotations()).unwrap_or_default();
        let metadata = json!({
            "namespace": name.namespace, "session": name.name, "session_uid": id.session_uid,
            "commit": from.commit, "pool": session.spec.pool_ref.name, "binding": binding.name_any(),
        });
        Some(Self {
            alias: alias(key, &name, &id),
            binding: binding.name_any(),
            credential: binding.spec.credential.name.clone(),
            terms: Terms {
                models: source.models.clone(),
                budget: session.spec.budget.as_ref().map(|budget| budget.limit.clone()),
                lasts: lasts(session),
            },
            session: name,
            metadata,
            id,
        })
    }
}

/// A session that ends by itself has a key that does too, a while later.
fn lasts(session: &AgentSession) -> Duration {
    let lifecycle = session.spec.lifecycle.as_ref();
    let most = lifecycle
        .and_then(|lifecycle| lifecycle.max_duration)
        .map(Duration::from);
    most.map_or(LASTS_MAX, |most| most.saturating_add(SLACK).min(LASTS_MAX))
}

/// Its value.
pub fn value(key: &InstallKey, id: &KeyId) -> SecretString {
    let derived = key.derive(&["litellm", &id.gateway, &id.session_uid, &id.binding_uid]);
    SecretString::from(format!("sk-{}", hex::encode(derived)))
}

/// What the aliases of all of an install's keys begin with.
pub fn alias_prefix(key: &InstallKey) -> String {
    format!("berth-{}-", short(&key.derive(&["litellm install"]), 4))
}

/// For people the session's name, for Berth what follows it. At most 148 characters of the 255 that LiteLLM takes: names of
/// namespaces have 63, of sessions 52.
fn alias(key: &InstallKey, session: &Name, id: &KeyId) -> String {
    let which = key.derive(&["litellm alias", &id.gateway, &id.session_uid, &id.binding_uid]);
    let prefix = alias_prefix(key);
    format!("{prefix}{}-{}-{}", session.namespace, session.name, short(&which, 8))
}

fn short(derived: &[u8], bytes: usize) -> String {
    hex::encode(derived.get(..bytes).unwrap_or_default())
}

/// Body of `POST /key/generate`.
pub fn generate(wanted: &Wanted, value: &SecretString) -> Value {
    let mut body = common(wanted, value);
    // Without one the gateway's own default holds; null would be no number.
    body.extend(budget(&wanted.terms).map(|budget| ("max_budget".to_owned(), budget)));
    body.insert("key_type".to_owned(), json!("llm_api"));
    body.into()
}

/// Body of `POST /key/update`: a key that is there gets these terms, and is unblocked.
pub fn update(wanted: &Wanted, value: &SecretString) -> Value {
    let mut body = common(wanted, value);
    // A merge patch: null takes it away.
    body.insert("max_budget".to_owned(), budget(&wanted.terms).unwrap_or(Value::Null));
    body.insert("blocked".to_owned(), json!(false));
    body.into()
}

/// Body of `POST /key/update`: the key stays, with what it has spent, and can't be used.
pub fn block(value: &SecretString) -> Value {
    json!({ "key": value.expose_secret(), "blocked": true })
}

/// Body of `POST /key/delete`.
pub fn delete(aliases: &[String]) -> Value {
    json!({ "key_aliases": aliases })
}

fn common(wanted: &Wanted, value: &SecretString) -> Map<String, Value> {
    let fields = json!({
        "key": value.expose_secret(), "key_alias": wanted.alias, "models": wanted.terms.models,
        "duration": format!("{}s", wanted.terms.lasts.as_secs()), "metadata": wanted.metadata,
    });
    fields.as_object().cloned().unwrap_or_default()
}

/// The schema has it as up to nine digits with up to six decimals, of which a double loses none that counts.
fn budget(terms: &Terms) -> Option<Value> {
    let dollars: f64 = terms.budget.as_ref()?.parse().ok()?;
    Some(json!(dollars))
}

/// A key whose install is gone ends within a day; others are renewed.
const LASTS_MAX: Duration = Duration::from_hours(24);
/// For what a session does after its `maxDuration`: it is ended, and its last answers are read.
const SLACK: Duration = Duration::from_mins(15);

#[cfg(test)]
mod tests;
