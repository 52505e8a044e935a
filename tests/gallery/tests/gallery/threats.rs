//! `THREATS.md` says of every row what is true: it names each once, and what it calls tested is.

use std::collections::{BTreeMap, BTreeSet};

const LIST: &str = include_str!("../../THREATS.md");

/// Verdicts by row or incident, and their reasons.
fn verdicts() -> BTreeMap<String, (String, String)> {
    let mut verdicts = BTreeMap::new();
    for line in LIST.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, .., verdict, reason] = cells[..] else {
            panic!("{line}")
        };
        if ["Row", "Incident"].contains(&name) {
            continue;
        }
        let said = verdicts.insert(name.to_owned(), (verdict.to_owned(), reason.to_owned()));
        assert!(said.is_none(), "{name} twice");
    }
    verdicts
}

/// The rows that a test is marked with: a comment that belongs to a function which isn't ignored.
fn tested() -> BTreeSet<String> {
    let mut tested = BTreeSet::new();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gallery");
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(path).unwrap();
        let mut marks = Vec::new();
        let (mut is_test, mut ignored) = (false, false);
        for line in text.lines() {
            marks.extend(line.strip_prefix("/// THREAT: ").map(str::to_owned));
            is_test |= line.starts_with("#[tokio::test") || line == "#[test]";
            ignored |= line.starts_with("#[ignore");
            if line.starts_with("async fn ") || line.starts_with("fn ") {
                assert!(marks.is_empty() || is_test, "{marks:?} mark no test");
                tested.extend(marks.drain(..).filter(|_| !ignored));
                (is_test, ignored) = (false, false);
            }
        }
    }
    tested
}

#[test]
fn every_row_has_one_verdict() {
    let verdicts = verdicts();
    let rows: Vec<&String> = verdicts.keys().filter(|name| name.len() == 2).collect();
    let expected: Vec<String> = (1..=68).map(|row| format!("{row:02}")).collect();
    assert_eq!(rows, expected.iter().collect::<Vec<_>>());
    for (name, (verdict, reason)) in &verdicts {
        let known = ["defended", "expected-leak", "pod", "open"].contains(&verdict.as_str());
        assert!(known, "{name}: {verdict}");
        assert!(verdict == "defended" || !reason.is_empty(), "{name} needs a reason");
        assert!(
            verdict != "pod" || reason.starts_with('`'),
            "{name} needs the name of its end-to-end test"
        );
    }
}

#[test]
fn what_is_called_tested_is() {
    let (verdicts, tested) = (verdicts(), tested());
    for (name, (verdict, _)) in &verdicts {
        let claims = ["defended", "expected-leak"].contains(&verdict.as_str());
        assert!(!claims || tested.contains(name), "{name} is {verdict} by no test");
    }
    for name in &tested {
        assert!(
            verdicts.contains_key(name),
            "a test is marked {name}, which isn't listed"
        );
    }
}
