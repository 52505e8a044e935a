//! Moments of a source: what is applied, what goes, what waits.

use serde_json::json;

use super::*;

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        name: name.to_owned(),
    }
}

fn object(kind: Kind, name: &str, spec: &Value) -> Declared {
    let api_version = "berth.dev/v1alpha1";
    let object = json!({ "apiVersion": api_version, "kind": kind.name(), "metadata": { "name": name }, "spec": spec });
    let sha256 = spec.to_string();
    let (path, at) = (format!("{name}.yaml"), format!("{name}.yaml:1:1"));
    Declared {
        key: key(kind, name),
        path,
        at,
        object,
        sha256,
        commit: String::new(),
        author: String::new(),
        introduced: None,
    }
}

fn declared(objects: Vec<Declared>) -> Declarations {
    Declarations {
        objects,
        ..Declarations::default()
    }
}

fn live(declared: &Declared, owner: Owner) -> (Key, Live) {
    let live = Live {
        uid: format!("uid-{}", declared.key.name),
        owner,
        applied: Some(declared.sha256.clone()),
        path: Some(declared.path.clone()),
        deleting: false,
        object: declared.object.clone(),
    };
    (declared.key.clone(), live)
}

fn on() -> Prune {
    Prune {
        enabled: true,
        approved: false,
    }
}

fn sessions(count: usize) -> Vec<Declared> {
    (0..count)
        .map(|number| object(Kind::Session, &format!("s-{number}"), &json!({})))
        .collect()
}

fn steps(plan: &Plan) -> Vec<String> {
    let tell = |step: &Step| match step {
        Step::Apply { declared, force } => format!("apply {}{}", declared.key, if *force { " by force" } else { "" }),
        Step::Delete { key, .. } => format!("delete {key}"),
    };
    plan.steps.iter().map(tell).collect()
}

#[test]
fn new_objects_are_applied_bindings_first_and_without_force() {
    let objects = vec![
        object(Kind::Session, "s", &json!({})),
        object(Kind::Pool, "p", &json!({})),
        object(Kind::Binding, "b", &json!({})),
    ];
    let planned = plan(&declared(objects), &BTreeMap::new(), &on());
    assert_eq!(
        steps(&planned),
        ["apply CredentialBinding b", "apply AgentPool p", "apply AgentSession s"]
    );
}

#[test]
fn what_stands_as_declared_costs_nothing() {
    let session = object(
        Kind::Session,
        "s",
        &json!({ "suspend": false, "env": [], "task": { "prompt": "x" } }),
    );
    let (name, mut stands) = live(&session, Owner::This);
    stands.object["spec"] = json!({ "task": { "prompt": "x", "runID": "added-by-another" } });
    let planned = plan(&declared(vec![session]), &BTreeMap::from([(name, stands)]), &on());
    assert_eq!((steps(&planned), planned.unchanged), (vec![], 1));
}

#[test]
fn drift_in_a_field_that_git_owns_is_taken_back() {
    let session = object(Kind::Session, "s", &json!({ "task": { "prompt": "x" } }));
    let (name, mut stands) = live(&session, Owner::This);
    stands.object["spec"]["task"]["prompt"] = "y".into();
    let planned = plan(&declared(vec![session]), &BTreeMap::from([(name, stands)]), &on());
    assert_eq!(steps(&planned), ["apply AgentSession s by force"]);
}

#[test]
fn an_edit_in_git_is_applied_even_if_it_only_removes() {
    let (name, mut stands) = live(&object(Kind::Session, "s", &json!({ "model": "m" })), Owner::This);
    stands.object["spec"] = json!({ "model": "m" });
    let edited = object(Kind::Session, "s", &json!({}));
    let planned = plan(&declared(vec![edited]), &BTreeMap::from([(name, stands)]), &on());
    assert_eq!(steps(&planned), ["apply AgentSession s by force"]);
}

#[test]
fn another_owners_object_is_left_alone_and_named() {
    let session = object(Kind::Session, "s", &json!({}));
    for owner in [Owner::Other("Flux Kustomization apps".to_owned()), Owner::Nobody] {
        let stands = BTreeMap::from([live(&session, owner)]);
        let planned = plan(&declared(vec![session.clone()]), &stands, &on());
        assert_eq!(steps(&planned), Vec::<String>::new());
        assert!(
            planned.conflicts[0].message.starts_with("OwnedBy "),
            "{}",
            planned.conflicts[0].message
        );
    }
    let gone = plan(
        &Declarations::default(),
        &BTreeMap::from([live(&session, Owner::Nobody)]),
        &on(),
    );
    assert_eq!(steps(&gone), Vec::<String>::new(), "nor is it deleted");
}

#[test]
fn a_binding_that_left_goes_first_and_always() {
    let binding = object(Kind::Binding, "b", &json!({}));
    let session = object(Kind::Session, "s", &json!({}));
    let stands = BTreeMap::from([live(&binding, Owner::This)]);
    let planned = plan(&declared(vec![session]), &stands, &Prune::default());
    assert_eq!(steps(&planned), ["delete CredentialBinding b", "apply AgentSession s"]);
}

#[test]
fn sessions_and_pools_that_left_go_when_prune_is_set() {
    let (pool, session) = (
        object(Kind::Pool, "p", &json!({})),
        object(Kind::Session, "s", &json!({})),
    );
    let stands = BTreeMap::from([live(&pool, Owner::This), live(&session, Owner::This)]);
    let planned = plan(&Declarations::default(), &stands, &on());
    assert_eq!(steps(&planned), ["delete AgentSession s", "delete AgentPool p"]);
    assert_eq!(
        steps(&plan(&Declarations::default(), &stands, &Prune::default())),
        Vec::<String>::new()
    );
}

#[test]
fn more_than_half_of_ten_waits_for_a_person() {
    let all = sessions(10);
    let stands: BTreeMap<Key, Live> = all.iter().map(|session| live(session, Owner::This)).collect();
    let half = plan(&declared(all[..5].to_vec()), &stands, &on());
    assert_eq!((half.steps.len(), half.guarded), (5, None));
    let more = plan(&declared(all[..4].to_vec()), &stands, &on());
    assert_eq!(
        (steps(&more).len(), more.guarded.as_deref()),
        (0, Some("6 of 10 sessions and pools would be deleted"))
    );
    let approved = plan(
        &declared(all[..4].to_vec()),
        &stands,
        &Prune {
            enabled: true,
            approved: true,
        },
    );
    assert_eq!((approved.steps.len(), approved.guarded), (6, None));
}

#[test]
fn an_emptied_tree_of_ten_waits_and_of_nine_does_not() {
    for (count, guarded) in [(9, false), (10, true)] {
        let stands: BTreeMap<Key, Live> = sessions(count)
            .iter()
            .map(|session| live(session, Owner::This))
            .collect();
        assert_eq!(
            plan(&Declarations::default(), &stands, &on()).guarded.is_some(),
            guarded,
            "{count}"
        );
    }
}

#[test]
fn what_an_unreadable_file_may_still_declare_stays() {
    let session = object(Kind::Session, "s", &json!({}));
    let stands = BTreeMap::from([live(&session, Owner::This)]);
    let mut broken = Declarations::default();
    broken.unreadable.insert("s.yaml".to_owned());
    assert_eq!(steps(&plan(&broken, &stands, &on())), Vec::<String>::new());
    let mut withheld = Declarations::default();
    withheld.withheld.insert(key(Kind::Session, "s"));
    assert_eq!(steps(&plan(&withheld, &stands, &on())), Vec::<String>::new());
}

fn steps_of(declared_one: &Declared, change: impl FnOnce(&mut Live)) -> usize {
    let (key, mut found) = live(declared_one, Owner::This);
    change(&mut found);
    plan(
        &declared(vec![declared_one.clone()]),
        &BTreeMap::from([(key, found)]),
        &on(),
    )
    .steps
    .len()
}

#[test]
fn a_moved_file_is_said_on_its_object() {
    let moved = object(Kind::Session, "s", &json!({}));
    assert_eq!(steps_of(&moved, |live| live.path = Some("old.yaml".to_owned())), 1);
}

#[test]
fn drift_is_seen_in_what_git_says_even_where_it_says_the_default() {
    let spec = json!({"poolRef": {"name": "p"}, "task": {"prompt": "x"}, "suspend": false, "env": []});
    let said = object(Kind::Session, "s", &spec);
    assert_eq!(
        steps_of(&said, |live| drop(
            live.object["spec"].as_object_mut().map(|spec| spec.remove("suspend"))
        )),
        0
    );
    assert_eq!(steps_of(&said, |live| live.object["spec"]["suspend"] = json!(true)), 1);
    assert_eq!(
        steps_of(&said, |live| live.object["spec"]["model"] = json!("theirs")),
        0
    );
    assert_eq!(
        steps_of(&said, |live| live.object["spec"]["env"] =
            json!([{"name": "THEIRS", "value": "x"}])),
        0
    );
}

#[test]
fn named_items_are_compared_by_name_and_other_lists_whole() {
    let env = json!([{"name": "A", "value": "1"}]);
    let spec = json!({"poolRef": {"name": "p"}, "task": {"prompt": "x"}, "env": env});
    let session = object(Kind::Session, "s", &spec);
    let both = json!([{"name": "THEIRS", "value": "x"}, {"name": "A", "value": "1"}]);
    assert_eq!(steps_of(&session, |live| live.object["spec"]["env"] = both), 0);
    assert_eq!(
        steps_of(&session, |live| live.object["spec"]["env"] =
            json!([{"name": "A", "value": "2"}])),
        1
    );
    assert_eq!(steps_of(&session, |live| live.object["spec"]["env"] = json!([])), 1);
    let pool = object(
        Kind::Pool,
        "p",
        &json!({"harness": {"kind": "Custom", "command": ["a"]}, "replicas": 1}),
    );
    assert_eq!(
        steps_of(&pool, |live| live.object["spec"]["harness"]["command"] =
            json!(["a", "b"])),
        1
    );
}

#[test]
fn what_is_written_in_another_way_is_no_drift() {
    let spec = json!({
        "harness": {"kind": "Custom"}, "replicas": 1, "startupDeadline": "90s",
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}}, "labels": null,
    });
    let pool = object(Kind::Pool, "p", &spec);
    assert_eq!(steps_of(&pool, |live| live.object = pool.typed()), 0);
}
