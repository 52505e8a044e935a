//! When a gateway is asked for a key, what is told while there is none, and what becomes of one that is wanted no more.

use std::collections::BTreeMap;

use berth_crds::{AgentSessionSpec, AgentSessionStatus, SandboxStatus};
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn keys() -> Keys {
    let resolver = berth_outbound::resolve::Resolver::new(HashMap::new(), berth_egress::address::Vetting::default());
    let tls = berth_outbound::tls::UpstreamTls::new(&[]).unwrap();
    let dialer = berth_outbound::dial::Dialer::new(resolver.unwrap(), tls);
    Keys::new(Gateways::default(), Caller::new(dialer, Vec::new()))
}

fn wanted(budget: &str, models: &[&str]) -> Wanted {
    Wanted {
        id: KeyId {
            namespace: "team-a".to_owned(),
            gateway: "main".to_owned(),
            session_uid: "s-uid".to_owned(),
            binding_uid: "b-uid".to_owned(),
        },
        alias: "berth-0-team-a-s-1".to_owned(),
        session: Name {
            namespace: "team-a".to_owned(),
            name: "s".to_owned(),
        },
        binding: "b".to_owned(),
        credential: "KEY".to_owned(),
        terms: Terms {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            budget: Some(budget.to_owned()),
            lasts: Duration::from_secs(1_000),
        },
        metadata: json!({}),
    }
}

fn trouble() -> Trouble {
    Trouble {
        reason: Reason::GatewayRefused,
        message: "why".to_owned(),
    }
}

/// With a key that was made at second 0.
fn made() -> Keys {
    let keys = keys();
    keys.settle_wanted(&wanted("1", &[]), Ok(()), (at(0), 0.0));
    keys
}

#[test]
fn a_key_is_asked_for_once_and_renewed_ahead_of_its_end() {
    let keys = keys();
    let first = keys.known(&wanted("1", &[]), at(0));
    assert!(first.is_due && first.is_first && first.ends.is_none() && !first.is_there);
    keys.settle_wanted(&wanted("1", &[]), Ok(()), (at(0), 0.0));
    let known = |second| keys.known(&wanted("1", &[]), at(second));
    assert_eq!((known(0).ends, known(0).is_due), (Some(at(1_000)), false));
    assert_eq!(known(0).wait, Duration::from_secs(750));
    assert!(known(750).is_due && known(750).is_there && known(750).ends.is_some());
    assert!(known(996).ends.is_none(), "a request has to arrive before its end");
}

#[test]
fn another_budget_is_told_while_the_key_is_used_and_other_models_hold_it_back() {
    let keys = made();
    let raised = keys.known(&wanted("2", &[]), at(1));
    assert!(raised.is_due && raised.is_there && raised.ends.is_some());
    let narrowed = keys.known(&wanted("1", &["gpt-fake"]), at(1));
    assert!(narrowed.is_due && narrowed.ends.is_none() && !narrowed.is_first);
    keys.settle_wanted(&wanted("1", &["gpt-fake"]), Ok(()), (at(1), 0.0));
    assert!(keys.known(&wanted("1", &["gpt-fake"]), at(1)).ends.is_some());
}

#[test]
fn failures_are_told_and_tried_again_more_and_more_seldom() {
    let keys = keys();
    let mut now = 0;
    for pause in [15, 30, 60, 120, 240, 480, 600, 600] {
        keys.settle_wanted(&wanted("1", &[]), Err(trouble()), (at(now), 0.0));
        let known = keys.known(&wanted("1", &[]), at(now));
        assert_eq!(
            (known.wait, known.is_due, known.is_first),
            (Duration::from_secs(pause), false, false)
        );
        now += i64::try_from(pause).unwrap();
    }
    assert_eq!(keys.troubles("s-uid"), [("KEY".to_owned(), trouble())]);
    assert_eq!(keys.troubles("other"), []);
    assert!(
        keys.known(&wanted("2", &[]), at(0)).is_due,
        "what is changed is tried at once"
    );
    keys.settle_wanted(&wanted("1", &[]), Ok(()), (at(now), 0.0));
    assert_eq!(keys.troubles("s-uid"), []);
}

fn over(keys: &Keys, fate: Fate, second: i64) -> (Vec<Fate>, Option<Duration>) {
    let (due, wait) = keys.unwanted("team-a", &HashSet::new(), |_, _| fate, at(second));
    (due.into_iter().map(|unwanted| unwanted.fate).collect(), wait)
}

fn unwanted(fate: Fate) -> Unwanted {
    let Wanted { id, alias, session, .. } = wanted("1", &[]);
    Unwanted {
        id,
        alias,
        session,
        fate,
    }
}

#[test]
fn a_blocked_key_is_blocked_once_and_asked_for_when_it_is_wanted_again() {
    let keys = made();
    assert_eq!(over(&keys, Fate::Wait, 1), (vec![], None));
    assert_eq!(over(&keys, Fate::Block, 1).0, [Fate::Block]);
    keys.settle_unwanted(&unwanted(Fate::Block), Ok(true), (at(1), 0.0));
    assert_eq!(over(&keys, Fate::Block, 2), (vec![], None));
    let known = keys.known(&wanted("1", &[]), at(2));
    assert!(known.is_due && known.is_there && known.ends.is_none() && !known.is_first);
    assert_eq!(over(&keys, Fate::Delete, 3).0, [Fate::Delete]);
}

#[test]
fn a_deletion_that_fails_is_tried_again_until_the_key_ends_by_itself() {
    let keys = made();
    keys.settle_unwanted(&unwanted(Fate::Delete), Err(trouble()), (at(10), 0.0));
    assert_eq!(over(&keys, Fate::Delete, 11), (vec![], Some(Duration::from_secs(14))));
    assert_eq!(over(&keys, Fate::Delete, 25).0, [Fate::Delete]);
    assert_eq!(keys.troubles("s-uid"), [], "its session misses nothing");
    assert_eq!(
        over(&keys, Fate::Delete, 1_000),
        (vec![], None),
        "the gateway refuses it by now"
    );
    assert_eq!(keys.states.lock().len(), 0);
}

#[test]
fn a_deleted_key_is_forgotten_and_those_of_others_are_left_alone() {
    let keys = made();
    let (others, _) = keys.unwanted("team-b", &HashSet::new(), |_, _| Fate::Delete, at(1));
    assert_eq!(others, []);
    let kept: HashSet<KeyId> = [wanted("1", &[]).id].into();
    assert_eq!(
        keys.unwanted("team-a", &kept, |_, _| Fate::Delete, at(1)),
        (vec![], None)
    );
    keys.settle_unwanted(&unwanted(Fate::Delete), Ok(true), (at(1), 0.0));
    assert!(keys.known(&wanted("1", &[]), at(1)).is_first);
}

#[test]
fn a_key_that_only_the_gateway_knows_is_taken_up() {
    let keys = keys();
    assert!(keys.seen(&wanted("1", &[]), at(0)) && !keys.seen(&wanted("1", &[]), at(0)));
    let known = keys.known(&wanted("1", &[]), at(0));
    assert!(known.is_due && known.is_there && known.is_first && known.ends.is_none());
    assert_eq!(over(&keys, Fate::Delete, 1).0, [Fate::Delete]);
}

#[test]
fn a_key_of_a_former_leader_is_offered_on_unless_the_gateway_refuses_it() {
    let keys = keys();
    keys.presume(&wanted("1", &[]), at(0));
    let known = |second| keys.known(&wanted("1", &[]), at(second));
    assert!(known(0).is_due && known(0).is_there && known(0).ends.is_some());
    let away = Trouble {
        reason: Reason::GatewayUnreachable,
        ..trouble()
    };
    keys.settle_wanted(&wanted("1", &[]), Err(away), (at(0), 0.0));
    assert!(known(1).ends.is_some() && !known(1).is_due);
    keys.settle_wanted(&wanted("1", &[]), Err(trouble()), (at(15), 0.0));
    assert!(known(16).ends.is_none());
    keys.presume(&wanted("1", &[]), at(16));
    keys.settle_wanted(&wanted("1", &[]), Ok(()), (at(16), 0.0));
    keys.settle_unwanted(&unwanted(Fate::Block), Ok(true), (at(17), 0.0));
    keys.presume(&wanted("1", &[]), at(18));
    assert!(known(18).ends.is_none(), "a blocked key is known to be of no use");
}

#[test]
fn one_request_at_a_time_for_each_key() {
    let keys = keys();
    let id = wanted("1", &[]).id;
    assert!(keys.begins(&id) && !keys.begins(&id));
    keys.ends(&id);
    assert!(keys.begins(&id));
}

#[test]
fn what_becomes_of_a_key_hangs_on_its_session_and_binding() {
    let session = |change: &dyn Fn(&mut AgentSession)| {
        let mut session = AgentSession::new("s", AgentSessionSpec::default());
        let mut status = AgentSessionStatus {
            phase: Some(Phase::Running),
            ..AgentSessionStatus::default()
        };
        status.sandbox = Some(SandboxStatus::default());
        session.status = Some(status);
        change(&mut session);
        session
    };
    let running = session(&|_| ());
    let suspended = session(&|session| session.status.as_mut().unwrap().phase = Some(Phase::Suspended));
    let waiting = session(&|session| session.status.as_mut().unwrap().sandbox = None);
    let over = session(&|session| session.status.as_mut().unwrap().stopped_reason = Some("TimedOut".to_owned()));
    let table = BTreeMap::from([
        ("gone", (None, true, false, Fate::Delete)),
        ("over", (Some(&over), true, true, Fate::Delete)),
        ("without its binding", (Some(&running), false, true, Fate::Delete)),
        ("granted no more", (Some(&running), true, true, Fate::Block)),
        ("not judged yet", (Some(&running), true, false, Fate::Wait)),
        ("suspended", (Some(&suspended), true, false, Fate::Block)),
        ("waiting for a pod", (Some(&waiting), true, false, Fate::Block)),
    ]);
    for (name, (session, binding_lives, is_judged, expected)) in table {
        let standing = Standing {
            session,
            binding_lives,
            is_judged,
        };
        assert_eq!(fate(standing), expected, "{name}");
    }
}
