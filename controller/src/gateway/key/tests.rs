//! What a key is derived from, and what LiteLLM is told.

use berth_crds::{AgentSessionSpec, CredentialBindingSpec, label};
use serde_json::json;

use super::*;

fn key() -> InstallKey {
    InstallKey::new(vec![7; 32])
}

fn session(uid: &str, spec: &Value) -> AgentSession {
    let mut spec = spec.clone();
    spec["poolRef"] = json!({"name": "pool"});
    spec["task"] = json!({"prompt": "p"});
    let spec: AgentSessionSpec = serde_json::from_value(spec).unwrap();
    let mut session = AgentSession::new("fix-login", spec);
    session.metadata.namespace = Some("team-a".to_owned());
    session.metadata.uid = Some(uid.to_owned());
    let commit = (label::COMMIT.to_owned(), "c0ffee".to_owned());
    session.metadata.annotations = Some([commit].into());
    session
}

fn binding(uid: &str, gateway: &str, models: &[&str]) -> CredentialBinding {
    let spec: CredentialBindingSpec = serde_json::from_value(json!({
        "credential": {"name": "OPENAI_API_KEY", "source": {"liteLLMKey": {"gateway": gateway, "models": models}}},
        "subjects": {"allSessions": true}, "reason": "tests",
        "routes": [{"name": "llm", "host": "llm.example.com", "inject": {"header": {"name": "Authorization"}}}],
    }))
    .unwrap();
    let mut binding = CredentialBinding::new("models", spec);
    binding.metadata.uid = Some(uid.to_owned());
    binding
}

fn wanted(uid: &str, spec: &Value) -> Wanted {
    Wanted::of(&key(), &session(uid, spec), &binding("b", "main", &["gpt-fake"])).unwrap()
}

#[test]
fn a_key_is_the_same_after_a_restart_and_another_for_everything_else() {
    let of = |session_uid: &str, binding_uid: &str, gateway: &str| {
        let binding = binding(binding_uid, gateway, &[]);
        let wanted = Wanted::of(&key(), &session(session_uid, &json!({})), &binding).unwrap();
        (value(&key(), &wanted.id).expose_secret().to_owned(), wanted.alias)
    };
    let (first, alias) = of("s", "b", "main");
    assert_eq!((first.clone(), alias.clone()), of("s", "b", "main"));
    assert!(first.starts_with("sk-") && first.len() == 67, "{first}");
    for (other, other_alias) in [of("t", "b", "main"), of("s", "c", "main"), of("s", "b", "other")] {
        assert!(other != first && other_alias != alias);
    }
    let elsewhere = InstallKey::new(vec![8; 32]);
    let id = wanted("s", &json!({})).id;
    assert_ne!(value(&elsewhere, &id).expose_secret(), first);
    assert_ne!(alias_prefix(&elsewhere), alias_prefix(&key()));
}

#[test]
fn an_alias_tells_nothing_of_the_key_and_fits() {
    let long = Name {
        namespace: "n".repeat(63),
        name: "s".repeat(52),
    };
    let id = wanted("s", &json!({})).id;
    let longest = alias(&key(), &long, &id);
    assert!(
        longest.len() <= 148 && longest.starts_with(&alias_prefix(&key())),
        "{longest}"
    );
    // LiteLLM's own pattern, where it is switched on.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    assert!(longest.bytes().all(plain));
    let secret = value(&key(), &id);
    let tail = longest.rsplit('-').next().unwrap();
    assert!(!secret.expose_secret().contains(tail));
}

#[test]
fn a_new_key_says_whose_it_is_and_what_it_may_do() {
    let spec = json!({"budget": {"limit": "5.25"}, "lifecycle": {"maxDuration": "1h"}});
    let wanted = wanted("s-uid", &spec);
    let body = generate(&wanted, &SecretString::from("sk-fake"));
    let expected = json!({
        "key": "sk-fake", "key_alias": wanted.alias, "models": ["gpt-fake"], "max_budget": 5.25, "duration": "4500s",
        "key_type": "llm_api",
        "metadata": {
            "namespace": "team-a", "session": "fix-login", "session_uid": "s-uid", "commit": "c0ffee", "pool": "pool",
            "binding": "models",
        },
    });
    assert_eq!(body, expected);
}

#[test]
fn without_a_budget_none_is_said_and_a_known_key_loses_its() {
    let wanted = wanted("s", &json!({}));
    assert_eq!(wanted.terms.lasts, LASTS_MAX);
    let fake = SecretString::from("sk-fake");
    assert_eq!(generate(&wanted, &fake).get("max_budget"), None);
    let update = update(&wanted, &fake);
    assert_eq!(
        (&update["max_budget"], &update["blocked"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(update.get("key_type"), None);
}

#[test]
fn no_key_outlasts_a_day_without_being_renewed() {
    let wanted = wanted("s", &json!({"lifecycle": {"maxDuration": "720h"}}));
    assert_eq!(wanted.terms.lasts, LASTS_MAX);
}
