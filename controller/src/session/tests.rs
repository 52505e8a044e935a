//! Golden plans: each scenario is a moment of a session's life; `tests/plans.txt` says what is planned and what the
//! status becomes. `UPDATE=1 cargo test -p berth-controller plans` rewrites it: read the diff.

mod scenario;

use std::fmt::Write;

use berth_crds::AgentSessionStatus;
use scenario::{Scenario, scenarios};

use super::plan::{Plan, State, Step, plan};
use super::status::status;
use crate::settings::Deadlines;

#[test]
fn plans_are_as_written_down() {
    let found: String = scenarios().iter().map(tell).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/session/tests/plans.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &found).expect("the golden file can be written");
    }
    let wanted = std::fs::read_to_string(path).expect("the golden file is there");
    for (found, wanted) in found.split("\n\n").zip(wanted.split("\n\n")) {
        assert_eq!(found, wanted);
    }
    assert_eq!(
        found.len(),
        wanted.len(),
        "scenarios were added or removed: run with UPDATE=1 and read the diff"
    );
}

#[test]
fn there_are_sixty_scenarios_with_names_of_their_own() {
    let names: std::collections::BTreeSet<&str> = scenarios().iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), scenarios().len());
    assert!(names.len() >= 60, "{}", names.len());
}

#[test]
fn the_same_snapshot_gives_the_same_plan() {
    for Scenario { name, snapshot } in scenarios() {
        assert_eq!(
            plan(&snapshot, &Deadlines::default()),
            plan(&snapshot, &Deadlines::default()),
            "{name}"
        );
    }
}

#[test]
fn a_harness_is_started_only_where_the_status_says_so() {
    for Scenario { name, snapshot } in scenarios() {
        let starts = plan(&snapshot, &Deadlines::default())
            .steps
            .iter()
            .any(|step| matches!(step, Step::Start { .. }));
        let said = snapshot
            .status()
            .sandbox
            .is_some_and(|sandbox| sandbox.started_at.is_some());
        assert!(!starts || said, "{name}");
    }
}

#[test]
fn no_plan_claims_while_a_claim_stands() {
    for Scenario { name, snapshot } in scenarios() {
        let steps = plan(&snapshot, &Deadlines::default()).steps;
        let claims = steps.iter().any(|step| matches!(step, Step::CreateClaim { .. }));
        assert!(!claims || snapshot.claim().is_none(), "{name}");
    }
}

#[test]
fn conditions_hold_what_kstatus_and_flux_ask_for() {
    for Scenario { name, snapshot } in scenarios() {
        let plan = plan(&snapshot, &Deadlines::default());
        if let Some(status) = status(&snapshot, &plan.state) {
            conformant(name, &status);
        }
    }
}

/// Flux's own checks for a settled object (research/gitops.md §2.2).
fn conformant(name: &str, status: &AgentSessionStatus) {
    let is = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let on = |type_: &str| is(type_).is_some_and(|condition| condition.status == "True");
    assert!(is("Ready").is_some(), "{name}: Ready must exist");
    assert!(
        !(on("Ready") && (on("Stalled") || on("Reconciling"))),
        "{name}: Ready beside an abnormal condition"
    );
    assert!(
        !(on("Stalled") && on("Reconciling")),
        "{name}: Stalled and Reconciling together"
    );
    for type_ in ["Stalled", "Reconciling"] {
        assert!(
            is(type_).is_none_or(|condition| condition.status == "True"),
            "{name}: {type_} kept at False"
        );
    }
    for condition in &status.conditions {
        assert_eq!(
            condition.observed_generation,
            Some(status.observed_generation),
            "{name}: {}",
            condition.type_
        );
    }
}

#[test]
fn a_status_that_is_written_is_not_written_again() {
    for Scenario { name, mut snapshot } in scenarios() {
        let first = plan(&snapshot, &Deadlines::default());
        let Some(written) = status(&snapshot, &first.state) else {
            continue;
        };
        snapshot.session.status = Some(written);
        let again = status(&snapshot, &State::AsBefore);
        assert_eq!(again, None, "{name}");
    }
}

fn tell(scenario: &Scenario) -> String {
    let plan = plan(&scenario.snapshot, &Deadlines::default());
    let mut text = format!("{}\n", scenario.name);
    for step in &plan.steps {
        writeln!(text, "  do      {}", tell_step(step)).expect("a String takes all");
    }
    let Plan { state, requeue, .. } = &plan;
    let next = requeue.map_or("at a poke".to_owned(), |wait| format!("{wait:?}"));
    writeln!(text, "  again   {next}").expect("a String takes all");
    match status(&scenario.snapshot, state) {
        None => text.push_str("  status  unchanged\n"),
        Some(status) => tell_status(&mut text, &status),
    }
    text.push('\n');
    text
}

fn tell_step(step: &Step) -> String {
    match step {
        Step::CreateClaim { incarnation, pair } => format!("claim incarnation {incarnation} from {pair}"),
        Step::DeleteClaim { name, .. } => format!("give back {name}"),
        Step::CountFailedBind => "count a failed bind".to_owned(),
        Step::Assign {
            incarnation, pod_uid, ..
        } => format!("assign incarnation {incarnation} to {pod_uid}"),
        Step::Start { incarnation, pod_uid } => format!("start incarnation {incarnation} on {pod_uid}"),
        Step::Stop { incarnation, pod_uid } => format!("stop incarnation {incarnation} on {pod_uid}"),
    }
}

fn tell_status(text: &mut String, status: &AgentSessionStatus) {
    let phase = status.phase.map_or("-", berth_crds::Phase::as_str);
    writeln!(text, "  status  {phase}, incarnation {}", status.incarnation).expect("a String takes all");
    if let Some(spend) = &status.spend {
        let known = spend.gateway_usd.as_ref().zip(spend.difference_usd.as_ref());
        let gateway = known.map_or(String::new(), |(said, by)| format!(", {said} at the gateway, by {by}"));
        writeln!(text, "          spent {}{gateway}", spend.usd).expect("a String takes all");
    }
    for condition in &status.conditions {
        let (type_, value, reason) = (&condition.type_, &condition.status, &condition.reason);
        writeln!(text, "          {type_}={value} {reason}: {}", condition.message).expect("a String takes all");
    }
}
