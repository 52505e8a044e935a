//! Blue/green as a table of moments.

use super::*;

fn snapshot(replicas: i32, pairs: &[(&str, i32, i32, usize)]) -> Snapshot {
    let mut pool = AgentPool::new(
        "p",
        AgentPoolSpec {
            replicas,
            ..AgentPoolSpec::default()
        },
    );
    pool.metadata.generation = Some(1);
    Snapshot {
        now: Timestamp::UNIX_EPOCH,
        pool,
        rendering: Rendering {
            pair: "p-new".to_owned(),
            sha256: "ff".to_owned(),
            json: "{}".to_owned(),
        },
        pairs: pairs
            .iter()
            .map(|(name, replicas, ready, claims)| PairFacts {
                name: (*name).to_owned(),
                replicas: *replicas,
                ready: *ready,
                claims: *claims,
                stray: false,
            })
            .collect(),
        refused: None,
        other_rolling: None,
        sessions: 0,
        breaker_open_until: None,
    }
}

fn steps_of(snapshot: &Snapshot) -> Vec<Step> {
    plan(snapshot).steps
}

#[test]
fn a_first_pair_is_made() {
    assert_eq!(steps_of(&snapshot(3, &[])), [Step::ApplyPair(3)]);
}

#[test]
fn a_settled_pool_needs_nothing() {
    let settled = plan(&snapshot(3, &[("p-new", 3, 3, 5)]));
    assert_eq!(
        settled,
        Plan {
            steps: vec![],
            state: State::Ready,
            requeue: None
        }
    );
}

#[test]
fn the_old_pair_serves_until_the_new_one_has_a_ready_member() {
    let rolling = snapshot(3, &[("p-new", 3, 0, 0), ("p-old", 3, 3, 2)]);
    assert_eq!(steps_of(&rolling), []);
    assert_eq!(
        serving(&rolling.pairs, "p-new").map(|pair| pair.name.as_str()),
        Some("p-old")
    );
}

#[test]
fn then_the_old_one_is_scaled_down_and_keeps_its_claims() {
    let switched = snapshot(3, &[("p-new", 3, 1, 0), ("p-old", 3, 3, 2)]);
    assert_eq!(steps_of(&switched), [Step::Scale("p-old".to_owned(), 0)]);
    let draining = snapshot(3, &[("p-new", 3, 3, 0), ("p-old", 0, 0, 2)]);
    assert_eq!(steps_of(&draining), []);
}

#[test]
fn a_drained_pair_is_deleted() {
    let drained = snapshot(3, &[("p-new", 3, 3, 0), ("p-old", 0, 0, 0)]);
    assert_eq!(steps_of(&drained), [Step::DeletePair("p-old".to_owned())]);
}

#[test]
fn a_third_shape_waits_for_two_older_ones() {
    let full = snapshot(1, &[("p-b", 1, 1, 1), ("p-a", 0, 0, 1)]);
    assert_eq!(steps_of(&full), []);
    assert!(matches!(plan(&full).state, State::Warming(message) if message.contains("older pairs")));
}

#[test]
fn one_pool_of_a_namespace_rolls_at_a_time() {
    let mut second = snapshot(1, &[("p-old", 1, 1, 0)]);
    second.other_rolling = Some("q".to_owned());
    assert_eq!(steps_of(&second), []);
    second.pairs.clear();
    assert_eq!(steps_of(&second), [Step::ApplyPair(1)], "a first pair is no roll");
}

#[test]
fn a_refused_pod_keeps_the_old_pair() {
    let mut refused = snapshot(1, &[("p-old", 1, 1, 0)]);
    refused.refused = Some("violates PodSecurity".to_owned());
    let planned = plan(&refused);
    assert_eq!(planned.steps, []);
    assert!(matches!(planned.state, State::Stalled(Reason::AdmissionRefused, _)));
}

#[test]
fn replicas_are_followed() {
    assert_eq!(steps_of(&snapshot(5, &[("p-new", 3, 3, 0)])), [Step::ApplyPair(5)]);
}

#[test]
fn a_pool_without_warm_sandboxes_switches_at_once() {
    let cold = snapshot(0, &[("p-new", 0, 0, 0), ("p-old", 2, 2, 1)]);
    assert_eq!(steps_of(&cold), [Step::Scale("p-old".to_owned(), 0)]);
    assert_eq!(plan(&cold).state, State::Ready);
}

#[test]
fn what_comes_later_is_said() {
    let mut pool = snapshot(1, &[]);
    pool.pool.spec.gateway = Some(berth_crds::Gateway::default());
    let planned = plan(&pool);
    assert_eq!(planned.steps, []);
    assert!(matches!(planned.state, State::Stalled(Reason::NotImplemented, _)));
}

#[test]
fn a_template_that_somebody_changed_is_mended() {
    let mut edited = snapshot(3, &[("p-new", 3, 3, 5)]);
    edited.pairs[0].stray = true;
    assert_eq!(steps_of(&edited), [Step::ApplyPair(3)]);
    // What an older pair was rendered from isn't known any more; its pods are compared when they are bound.
    let mut older = snapshot(3, &[("p-new", 3, 3, 0), ("p-old", 0, 0, 1)]);
    older.pairs[1].stray = true;
    assert_eq!(steps_of(&older), []);
}
