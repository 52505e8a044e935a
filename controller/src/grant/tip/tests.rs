//! What counts as standing in git.

use berth_crds::{AgentSessionSpec, CredentialBindingSpec, GitSourceSpec};
use serde_json::{Value, json};

use super::*;

fn binding_spec(host: &str) -> Value {
    json!({
        "credential": {"name": "TOKEN", "source": {"secretRef": {"name": "forge", "key": "token"}}},
        "subjects": {"allSessions": true}, "reason": "tests",
        "routes": [{"name": "r", "host": host, "inject": {"header": {"name": "authorization"}}}],
    })
}

fn binding(host: &str) -> CredentialBinding {
    let spec: CredentialBindingSpec = serde_json::from_value(binding_spec(host)).unwrap();
    CredentialBinding::new("b", spec)
}

fn declared(kind: Kind, name: &str, object: Value) -> Declared {
    Declared {
        key: Key {
            kind,
            name: name.to_owned(),
        },
        path: "a.yaml".to_owned(),
        at: "a.yaml:1:1".to_owned(),
        object,
        sha256: String::new(),
        commit: "c0ffee".to_owned(),
        author: "A".to_owned(),
        introduced: None,
    }
}

fn source(suspend: bool, objects: Option<Vec<Declared>>) -> SourceTip {
    let spec: GitSourceSpec = serde_json::from_value(json!({
        "url": "https://forge.example.com/a/b.git", "ref": {"branch": "main"}, "suspend": suspend,
    }))
    .unwrap();
    SourceTip {
        source: Arc::new(GitSource::new("source", spec)),
        declared: objects.map(|objects| Arc::new(TipObjects::new(objects, BTreeSet::new()))),
        verified_at: None,
        rewound_at: None,
        place: None,
    }
}

#[test]
fn a_binding_stands_only_as_its_one_readable_document_says() {
    let live = binding("api.example.com");
    let document = |host: &str| declared(Kind::Binding, "b", json!({"spec": binding_spec(host)}));
    let same = || source(false, Some(vec![document("api.example.com")]));
    let stands = |sources: &[SourceTip]| matches!(tip(&live, sources), Tip::Stands(_));
    let gone = |sources: &[SourceTip]| matches!(tip(&live, sources), Tip::Gone(_));
    assert!(stands(&[same()]));
    assert!(
        stands(&[same(), source(false, None)]),
        "another source that isn't read yet is no doubt"
    );
    let other = source(false, Some(vec![document("other.example.com")]));
    assert!(matches!(tip(&live, &[other]), Tip::Differs(_)));
    assert!(gone(&[same(), same()]));
    assert!(matches!(tip(&live, &[source(false, None)]), Tip::Unread(_)));
    assert_eq!(tip(&live, &[]), Tip::Direct);
    let suspended = source(true, Some(vec![document("api.example.com")]));
    assert_eq!(tip(&live, &[suspended]), Tip::Direct);

    let withheld = SourceTip {
        declared: Some(Arc::new(TipObjects::new([], BTreeSet::from([document("").key])))),
        ..same()
    };
    assert!(gone(&[withheld]));
    let mut delivered = live.clone();
    delivered
        .labels_mut()
        .insert(label::SOURCE_UID.to_owned(), "uid".to_owned());
    assert!(matches!(tip(&delivered, &[]), Tip::Gone(_)), "git brought it once");
}

#[test]
fn a_session_is_from_git_as_its_document_says_and_with_its_labels() {
    let spec = json!({"poolRef": {"name": "pool"}, "task": {"prompt": "x"}});
    let typed: AgentSessionSpec = serde_json::from_value(spec.clone()).unwrap();
    let object = json!({"metadata": {"labels": {"team": "a"}}, "spec": spec});
    let sources = [source(false, Some(vec![declared(Kind::Session, "s", object)]))];
    let session = |labels: &[(&str, &str)], change: fn(&mut AgentSession)| {
        let mut session = AgentSession::new("s", typed.clone());
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        session.labels_mut().extend(labels);
        change(&mut session);
        session
    };
    let ours = [("team", "a"), (label::SOURCE_UID, "uid")];
    assert!(declares_session(&session(&ours, |_| {}), &sources));
    let by_flux = [("team", "a"), ("kustomize.toolkit.fluxcd.io/name", "apps")];
    assert!(declares_session(&session(&by_flux, |_| {}), &sources));
    assert!(!declares_session(
        &session(&ours, |it| it.spec.task.prompt = "y".to_owned()),
        &sources
    ));
    assert!(
        !declares_session(&session(&[("team", "b")], |_| {}), &sources),
        "relabelled by hand"
    );
    assert!(!declares_session(
        &session(&[("team", "a"), ("more", "x")], |_| {}),
        &sources
    ));
    assert!(!declares_session(&session(&ours, |_| {}), &[source(false, None)]));
}
