//! A refused request becomes the smallest binding that would allow it.

use berth_crds::AgentSessionSpec;
use serde_json::json;

use super::*;

fn session() -> AgentSession {
    AgentSession::new("s", AgentSessionSpec::default())
}

fn held() -> CredentialBinding {
    let spec = json!({
        "credential": { "name": "TOKEN", "source": { "secretRef": { "name": "forge", "key": "token" } } },
        "subjects": { "sessionNames": ["s"] }, "reason": "reads",
        "routes": [{
            "name": "reads", "host": "api.example.com", "methods": ["GET"], "paths": ["/repos/**"],
            "addresses": ["10.0.0.0/8"], "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        }],
    });
    CredentialBinding::new("held", serde_json::from_value(spec).unwrap())
}

fn unmet(change: impl FnOnce(&mut Unmet)) -> Unmet {
    let mut unmet = Unmet {
        credential: "TOKEN".to_owned(),
        method: "POST".to_owned(),
        authority: "api.example.com:443".to_owned(),
        path: "/repos/a/issues".to_owned(),
    };
    change(&mut unmet);
    unmet
}

fn proposed(unmet: &Unmet) -> Option<Proposal> {
    propose(
        &session(),
        unmet,
        &[&held()],
        Timestamp::from_second(1_800_000_000).unwrap(),
    )
}

/// As a team would have written it.
const BINDING: &str = "\
apiVersion: berth.dev/v1alpha1
kind: CredentialBinding
metadata:
  name: proposed-2dfffc82
spec:
  credential:
    name: TOKEN
    source:
      secretRef:
        key: token
        name: forge
  expiresAt: 2027-01-16T08:00:00Z
  reason: the agent of session s asked for this; whoever prompts an agent can make it ask
  routes:
  - addresses:
    - 10.0.0.0/8
    host: api.example.com
    inject:
      header:
        forms:
        - Bearer {}
        name: Authorization
    methods:
    - POST
    name: proposed
    paths:
    - /repos/a/issues
  subjects:
    sessionNames:
    - s
";

#[test]
fn a_proposal_is_the_least_that_would_allow_the_request() {
    let proposal = proposed(&unmet(|_| {})).unwrap();
    assert_eq!(
        (proposal.host.as_str(), proposal.method.as_str()),
        ("api.example.com:443", "POST")
    );
    assert_eq!(proposal.binding, BINDING);
    let read: CredentialBinding = serde_yaml::from_str(&proposal.binding).unwrap();
    assert_eq!(read.spec.routes[0].paths, ["/repos/a/issues"]);
}

#[test]
fn what_no_route_could_say_exactly_is_not_proposed() {
    type Change = fn(&mut Unmet);
    let cases: [Change; 7] = [
        |it| it.path = "/repos/*".to_owned(),
        |it| it.path = "/repos/%7Bid%7D".to_owned(),
        |it| it.path = format!("/{}", "a".repeat(512)),
        |it| it.method = "PROPFIND".to_owned(),
        |it| it.credential = "OTHER".to_owned(),
        |it| it.authority = "api.example.com".to_owned(),
        |it| it.authority = "a\nb:443".to_owned(),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        assert_eq!(proposed(&unmet(change)), None, "{number}");
    }
    let mut others = held();
    others.spec.subjects.session_names = vec!["t".to_owned()];
    assert_eq!(
        propose(&session(), &unmet(|_| {}), &[&others], Timestamp::UNIX_EPOCH),
        None
    );
}

/// THREAT: 68
#[test]
fn an_agent_writes_nothing_but_values_into_a_proposal() {
    let path = "/repos/a'b,c:!&-(x)@d=~yes/null/- e: f".replace(' ', "+");
    let proposal = proposed(&unmet(|it| it.path.clone_from(&path))).unwrap();
    let read: serde_json::Value = serde_yaml::from_str(&proposal.binding).unwrap();
    assert_eq!(read["spec"]["routes"][0]["paths"], json!([path]));
    assert_eq!(read["spec"]["subjects"], json!({ "sessionNames": ["s"] }));
    assert_eq!(read["spec"]["routes"].as_array().unwrap().len(), 1);
    assert!(
        read["spec"]["reason"]
            .as_str()
            .unwrap()
            .contains("the agent of session s asked for this")
    );
}

#[test]
fn new_ones_are_shown_once_a_minute_and_five_at_most() {
    let (kept, now) = (Proposals::default(), Timestamp::from_second(1_800_000_000).unwrap());
    let proposal = |path: &str| proposed(&unmet(|it| it.path = path.to_owned())).unwrap();
    assert_eq!(kept.add("uid", proposal("/repos/1"), now), Some(Duration::ZERO));
    assert_eq!(kept.add("uid", proposal("/repos/1"), now), None, "the same again");
    assert_eq!(kept.shown("uid", now).len(), 1);
    assert_eq!(kept.add("uid", proposal("/repos/2"), now), Some(Duration::from_mins(1)));
    assert_eq!(kept.shown("uid", now).len(), 1);
    let later = now + SignedDuration::from_mins(1);
    assert_eq!(kept.shown("uid", later).len(), 2);
    for number in 3..9 {
        kept.add("uid", proposal(&format!("/repos/{number}")), later);
    }
    let all = kept.shown("uid", later + SignedDuration::from_mins(1));
    assert_eq!(all.len(), 5);
    assert_eq!(merged(&all[..2], &all).len(), 5);
    assert_eq!(merged(&all, &[proposal("/repos/9")]), all);
    kept.forget("uid");
    assert!(kept.shown("uid", later).is_empty());
}

#[test]
fn only_its_own_record_is_read() {
    assert_eq!(Unmet::read(br#"{"use":{"number":1}}"#), None);
    let record = br#"{"unmet":{"at":1,"credential":"TOKEN","method":"POST","authority":"api.example.com:443","path":"/repos/a/issues"}}"#;
    assert_eq!(Unmet::read(record), Some(unmet(|_| {})));
}
