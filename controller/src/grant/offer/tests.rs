//! What a session's sidecar and its agent are told of each kind of credential.

use berth_crds::{AgentSessionSpec, CredentialBindingSpec, Grant};
use serde_json::{Value, json};

use super::*;
use crate::grant::decide::Active;
use crate::grant::permit::Permitted;

fn session(names: &[&str]) -> AgentSession {
    let mut session = AgentSession::new("s", AgentSessionSpec::default());
    session.metadata.uid = Some("session-uid".to_owned());
    let listed: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    session.spec.credentials = serde_json::from_value(Value::from(listed)).unwrap();
    session
}

fn binding(name: &str, credential: &str, source: &Value, route: &Value) -> CredentialBinding {
    let spec: CredentialBindingSpec = serde_json::from_value(json!({
        "credential": { "name": credential, "source": source },
        "subjects": { "allSessions": true },
        "routes": [route],
        "reason": "tests",
    }))
    .unwrap();
    CredentialBinding::new(name, spec)
}

fn aws(name: &str, credential: &str) -> CredentialBinding {
    let key = |key: &str| json!({ "name": "aws", "key": key });
    let source = json!({ "awsSigV4": {
        "accessKeyRef": key("id"), "secretKeyRef": key("secret"), "region": "eu-west-1", "services": ["s3"],
    } });
    let inject = json!({ "awsSigV4": { "ranges": true } });
    let route = json!({ "name": "r", "host": "s3.eu-west-1.amazonaws.com", "methods": ["GET"], "inject": inject });
    binding(name, credential, &source, &route)
}

fn granted_by(binding: &CredentialBinding) -> SessionGrant {
    SessionGrant {
        binding: binding.name_any(),
        active: Active {
            permitted: Permitted {
                routes: binding.spec.routes.clone(),
                narrowed: Vec::new(),
            },
            grant: Grant::default(),
            expires: None,
            version: "1".to_owned(),
        },
    }
}

fn key() -> InstallKey {
    InstallKey::new(vec![7; 32])
}

#[test]
fn an_aws_key_is_two_stubs_and_an_endpoint() {
    let (one, two) = (aws("one", "AWS_ACCESS_KEY_ID"), aws("two", "BACKUP"));
    let session = session(&["AWS_ACCESS_KEY_ID", "BACKUP"]);
    let stubs = stubs(&key(), &session, &Shapes::of([&one, &two]));
    let names: Vec<&str> = stubs.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "AWS_ACCESS_KEY_ID",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_SECRET_ACCESS_KEY",
            "BACKUP",
            "BACKUP_SECRET_ACCESS_KEY",
        ]
    );
    assert_eq!(stubs[environment::AWS_TOKEN], stubs["AWS_ACCESS_KEY_ID"]);
    let uri = "http://127.0.0.1:14322/aws/credentials/AWS_ACCESS_KEY_ID";
    assert_eq!(stubs[environment::AWS_URI], uri);
    assert_ne!(stubs["AWS_SECRET_ACCESS_KEY"], stubs["BACKUP_SECRET_ACCESS_KEY"]);
    assert_eq!(
        stubs,
        super::stubs(&key(), &session, &Shapes::of([&two, &one])),
        "the same after a restart"
    );
}

#[test]
fn an_aws_key_is_signed_with_for_what_its_source_says() {
    let binding = aws("one", "AWS_ACCESS_KEY_ID");
    let stubs = stubs(&key(), &session(&["AWS_ACCESS_KEY_ID"]), &Shapes::of([&binding]));
    let offer = offer(
        &[granted_by(&binding)],
        &[&binding],
        &[],
        ("session-uid", &stubs),
        &BTreeMap::new(),
        &[],
    );
    let found = serde_json::to_value(&offer.policy).unwrap();
    assert_eq!(found["credentials"][0]["secretStub"], stubs["AWS_SECRET_ACCESS_KEY"]);
    let inject = json!({ "awsSigV4": { "region": "eu-west-1", "services": ["s3"] } });
    assert_eq!(found["routes"][0]["inject"], inject);
    assert_eq!(
        (&found["routes"][0]["range"], &found["routes"][0]["redact"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(berth_egress::lint::lint(&offer.policy), []);
    assert!(matches!(offer.credentials[0].value, ValueSource::Aws(_)));
}

#[test]
fn a_key_added_later_is_offered_without_its_variables() {
    let binding = aws("one", "AWS_ACCESS_KEY_ID");
    let session = session(&["AWS_ACCESS_KEY_ID"]);
    let before = stubs(&key(), &session, &Shapes::of([]));
    let after = stubs(&key(), &session, &Shapes::of([&binding]));
    assert_eq!(before["AWS_ACCESS_KEY_ID"], after["AWS_ACCESS_KEY_ID"]);
    assert_eq!(before.len(), 1);
}

#[test]
fn a_key_of_a_gateway_is_offered_once_it_is_there_with_headers_of_the_sidecars_own() {
    let source = json!({ "liteLLMKey": { "gateway": "main" } });
    let header = json!({ "header": { "name": "Authorization", "forms": ["Bearer {}"] } });
    let route = json!({ "name": "llm", "host": "llm.example.com", "methods": ["POST"], "inject": header });
    let binding = binding("b", "OPENAI_API_KEY", &source, &route);
    let stubs = stubs(&key(), &session(&["OPENAI_API_KEY"]), &Shapes::of([&binding]));
    let of = |minted: &BTreeMap<String, Timestamp>| {
        offer(
            &[granted_by(&binding)],
            &[&binding],
            &[],
            ("session-uid", &stubs),
            minted,
            &[],
        )
    };
    let before = of(&BTreeMap::new());
    assert!(before.credentials.is_empty() && before.policy.routes.is_empty());
    let minted = of(&[("b".to_owned(), Timestamp::MAX)].into());
    assert_eq!(minted.credentials[0].value, ValueSource::GatewayKey("b".to_owned()));
    assert_eq!(berth_egress::lint::lint(&minted.policy), []);
    let found = serde_json::to_value(&minted.policy).unwrap();
    let own = json!({ "dropPrefixes": ["x-litellm-"], "set": { "x-litellm-session-id": "session-uid" } });
    assert_eq!(found["routes"][0]["headers"], own);
}

#[test]
fn a_secret_is_read_for_the_hosts_of_its_routes() {
    let source = json!({ "secretRef": { "name": "registry", "key": ".dockerconfigjson" } });
    let route = json!({ "name": "r", "host": "registry.example.com", "methods": ["GET"], "inject": { "basic": {} } });
    let binding = binding("b", "REGISTRY", &source, &route);
    let stubs = stubs(&key(), &session(&["REGISTRY"]), &Shapes::of([&binding]));
    let offer = offer(
        &[granted_by(&binding)],
        &[&binding],
        &[],
        ("session-uid", &stubs),
        &BTreeMap::new(),
        &[],
    );
    let ValueSource::Secret(_, hosts) = &offer.credentials[0].value else {
        panic!("{:?}", offer.credentials)
    };
    assert!(hosts.iter().eq(["registry.example.com"]));
}
