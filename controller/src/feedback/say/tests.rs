//! What stands in comments and commit statuses, to the letter.

use berth_crds::{Review, Subjects};

use super::*;

fn change(how: How, binding: &str) -> Change {
    Change {
        how,
        binding: binding.to_owned(),
        at: format!("{binding}.yaml:1:1"),
        grants: vec!["TOKEN for every session: GET api.example.com /v1/**, without an end".to_owned()],
        flags: vec!["never expires".to_owned()],
        credential: "TOKEN".to_owned(),
        subjects: Subjects::default(),
    }
}

fn report(changes: Vec<Change>) -> Report {
    Report {
        objects: 3,
        changes,
        ..Report::default()
    }
}

fn facts() -> Facts {
    Facts {
        source: "team/agents".to_owned(),
        ..Facts::default()
    }
}

fn entry(action: Action, binding: &str, at: i64, sessions: usize) -> Entry {
    Entry {
        action,
        at: Timestamp::from_millisecond(at).unwrap(),
        namespace: "team".to_owned(),
        binding: binding.to_owned(),
        binding_uid: String::new(),
        credential: String::new(),
        fingerprint: String::new(),
        scope: String::new(),
        routes: Vec::new(),
        sessions: vec![String::new(); sessions],
        expires_at: None,
        grant: None,
        reason: String::new(),
        message: String::new(),
        actor: String::new(),
    }
}

#[test]
fn what_a_merge_changes_is_said() {
    let mut facts = facts();
    let named = Matches {
        count: 2,
        names: vec!["one".to_owned(), "two".to_owned()],
    };
    let counted = Matches {
        count: 7,
        names: vec![],
    };
    facts.matches = vec![("new".to_owned(), named), ("wide".to_owned(), counted)];
    facts.wanted = vec!["1 approving review by people who had no part in it".to_owned()];
    let gone = Change {
        flags: vec![],
        ..change(How::Removed, "gone")
    };
    let changes = vec![change(How::Added, "new"), change(How::Widened, "wide"), gone];
    insta::assert_snapshot!(comment(&report(changes), &facts), @r"
    <!-- berth.dev/feedback team/agents -->
    **Berth**: this pull request grants 1, widens 1, revokes 1.

    **grants** `new` (`new.yaml:1:1`)
    - `TOKEN for every session: GET api.example.com /v1/**, without an end`
    - matches 2 sessions now: `one`, `two`
    - ⚠ look at: never expires

    **widens** `wide` (`wide.yaml:1:1`)
    - `TOKEN for every session: GET api.example.com /v1/**, without an end`
    - matches 7 sessions now
    - ⚠ look at: never expires

    **revokes** `gone` (`gone.yaml:1:1`)
    - `TOKEN for every session: GET api.example.com /v1/**, without an end`

    **Wanted before it is in force**: 1 approving review by people who had no part in it.
    ");
}

#[test]
fn nothing_from_a_pull_request_is_more_than_text() {
    let mut evil = change(How::Added, "x`\n## @everyone <img src=x> [a](https://evil.example.com)");
    evil.grants = vec!["a `b` \u{202e}c\n- forged".to_owned()];
    let mut report = report(vec![evil]);
    report.errors = vec![SourceError {
        at: "a`b.yaml:1:1".to_owned(),
        object: Some("CredentialBinding `x`".to_owned()),
        message: "line one\nline two `quoted`".to_owned(),
    }];
    let text = comment(&report, &facts());
    for line in text.lines().skip(2) {
        let outside: String = line.split('`').step_by(2).collect();
        assert_eq!(line.matches('`').count() % 2, 0, "{line}");
        assert!(!outside.contains(['@', '<', '[', '\u{202e}']), "{line}");
        assert!(!line.starts_with("- forged") && !line.starts_with("##"), "{line}");
    }
    let status = status(&report, "team/agents");
    assert!(!status.good && !status.description.contains('\n'), "{status:?}");
}

#[test]
fn a_comment_has_an_end() {
    let many = (0..5_000).map(|number| change(How::Added, &format!("binding-{number}")));
    let text = comment(&report(many.collect()), &facts());
    assert!(
        text.len() < 30_000 && text.contains("and 4980 more grants"),
        "{}",
        text.len()
    );
}

#[test]
fn the_record_says_when_it_was_in_force() {
    let merged = Timestamp::from_millisecond(1_000_000).unwrap();
    let said = |change: &Change, entries: &[Entry]| outcome(change, merged, entries).said;
    let new = change(How::Added, "new");
    assert_eq!(said(&new, &[]), None);
    assert_eq!(said(&new, &[entry(Action::Granted, "other", 1_001_000, 1)]), None);
    assert_eq!(
        said(&new, &[entry(Action::Granted, "new", 1_001_240, 3)]).as_deref(),
        Some("active 1.2 s after the merge, for 3 sessions")
    );
    let earlier = entry(Action::Granted, "new", 900_000, 3);
    assert_eq!(said(&new, &[earlier]), None, "of before the merge");
    let gone = change(How::Removed, "gone");
    assert_eq!(
        said(&gone, &[entry(Action::Revoked, "gone", 1_000_900, 0)]).as_deref(),
        Some("revoked 0.9 s after the merge")
    );
    let again = [
        entry(Action::Granted, "new", 1_001_000, 1),
        entry(Action::Revoked, "new", 1_009_000, 0),
    ];
    assert_eq!(said(&new, &again).as_deref(), Some("revoked 9.0 s after the merge"));
}

#[test]
fn the_strictest_requirement_is_what_is_wanted() {
    let require = |min_approvals, teams: &[&str], signed_commits| Require {
        review: Some(Review {
            min_approvals,
            teams: teams.iter().map(|team| (*team).to_owned()).collect(),
            ..Review::default()
        }),
        signed_commits,
        ..Require::default()
    };
    let (one, two) = (
        require(1, &["org/security"], false),
        require(2, &["org/platform"], true),
    );
    assert_eq!(
        wanted(&[&one, &two]),
        [
            "2 approving reviews by people who had no part in it, of `org/platform` and `org/security`",
            "commits signed by their authors' own keys"
        ]
    );
    assert!(wanted(&[&Require::default()]).is_empty());
}
