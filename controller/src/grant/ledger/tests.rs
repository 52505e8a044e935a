//! What is written down of grants, and which of them wait for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::*;
use crate::grant::permit::Permitted;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn binding(name: &str) -> Arc<CredentialBinding> {
    let spec = serde_json::json!({
        "credential": { "name": "TOKEN", "source": {} }, "subjects": { "allSessions": true }, "routes": [], "reason": "tests",
    });
    let mut binding = CredentialBinding::new(name, serde_json::from_value(spec).unwrap());
    binding.metadata.uid = Some(format!("uid-of-{name}"));
    Arc::new(binding)
}

fn grant(fingerprint: &str) -> Grant {
    Grant {
        fingerprint: fingerprint.to_owned(),
        ..Grant::default()
    }
}

fn active(fingerprint: &str, routes: usize) -> Active {
    Active {
        permitted: Permitted {
            routes: vec![Route::default(); routes],
            narrowed: vec![],
        },
        grant: grant(fingerprint),
        expires: None,
        version: String::new(),
    }
}

/// Binding `one` in this state, held by a session.
fn decisions(verdict: Option<Verdict>) -> Decisions {
    let mut decisions = Decisions::default();
    if let Some(Verdict::Active(active)) = &verdict {
        let grant = SessionGrant {
            binding: "one".to_owned(),
            active: (**active).clone(),
        };
        decisions.sessions.insert("session".to_owned(), vec![grant]);
    }
    decisions
        .bindings
        .extend(verdict.map(|verdict| ("one".to_owned(), verdict)));
    decisions
}

fn granted(fingerprint: &str, routes: usize) -> Decisions {
    decisions(Some(Verdict::Active(Box::new(active(fingerprint, routes)))))
}

fn refused(reason: Reason) -> Decisions {
    decisions(Some(Verdict::Inactive {
        reason,
        message: "because".to_owned(),
        stalled: true,
    }))
}

/// What one turn does to a book: its actions, whether the grant waits, and then everything is committed.
fn step(book: &mut Book, decisions: &Decisions) -> (Vec<Action>, bool) {
    let turn = turn("team", &[binding("one")], decisions, Some(book), (NOW, "pod"));
    book.write(&turn.entries);
    book.commit(&turn.entries);
    let waits = turn.waiting.contains_key("one");
    (turn.entries.iter().map(|entry| entry.action).collect(), waits)
}

#[test]
fn a_grant_waits_for_its_first_row_and_a_revocation_for_nothing() {
    let mut book = Book::default();
    assert_eq!(step(&mut book, &granted("a", 1)), (vec![Action::Granted], true));
    assert_eq!(step(&mut book, &granted("a", 1)), (vec![], false));
    let edited = turn("team", &[binding("one")], &granted("b", 1), Some(&book), (NOW, "pod"));
    assert_eq!(edited.waiting.get("one"), Some(&true), "it takes another's place");
    // What policies leave of it is written down; only other evidence waits.
    assert_eq!(step(&mut book, &granted("a", 2)), (vec![Action::Changed], false));
    assert_eq!(step(&mut book, &granted("b", 2)), (vec![Action::Granted], true));
    assert_eq!(
        step(&mut book, &refused(Reason::NotPermitted)),
        (vec![Action::Revoked], false)
    );
    assert_eq!(step(&mut book, &refused(Reason::NotPermitted)), (vec![], false));
    assert_eq!(step(&mut book, &granted("b", 2)), (vec![Action::Granted], true));
    assert_eq!(step(&mut book, &decisions(None)), (vec![Action::Revoked], false));
}

#[test]
fn a_row_on_its_way_is_not_written_again_and_its_grant_waits() {
    let mut book = Book::default();
    let first = turn("team", &[binding("one")], &granted("a", 1), Some(&book), (NOW, "pod"));
    assert_eq!(first.entries[0].sessions, ["session"]);
    book.write(&first.entries);
    let again = turn("team", &[binding("one")], &granted("a", 1), Some(&book), (NOW, "pod"));
    assert_eq!((again.entries.len(), again.waiting.len()), (0, 1));
}

#[test]
fn a_leader_that_begins_takes_nothing_away_that_it_does_not_know_and_says_what_it_sees_late() {
    let live = |book: &Book| book.written.keys().cloned().collect::<Vec<_>>();
    let mut book = Book::default();
    step(&mut book, &granted("a", 1));
    book.is_fresh = true;
    assert_eq!(step(&mut book, &refused(Reason::Progressing)), (vec![], false));
    let mut asking = refused(Reason::EvidenceUnverifiable);
    asking.grants.insert("one".to_owned(), ToldGrant::AsBefore);
    book.is_fresh = true;
    assert_eq!(step(&mut book, &asking), (vec![], false));
    book.is_fresh = true;
    assert_eq!(live(&book), ["uid-of-one"]);
    let late = vec![Action::RevokedObservedLate];
    assert_eq!(step(&mut book, &refused(Reason::NotInSource)), (late, false));
}

#[test]
fn before_the_book_is_read_only_what_the_sealed_status_says_goes_on() {
    let look = |binding: Arc<CredentialBinding>| turn("team", &[binding], &granted("a", 1), None, (NOW, "pod"));
    let turn = look(binding("one"));
    assert_eq!((turn.entries.len(), turn.waiting.len()), (0, 1));
    let mut stood = CredentialBinding::clone(&binding("one"));
    let status = stood.status.get_or_insert_default();
    status.grant = Some(grant("a"));
    status.conditions.push(Condition {
        type_: "Active".to_owned(),
        status: "True".to_owned(),
        reason: "Granted".to_owned(),
        message: String::new(),
        last_transition_time: Time(NOW),
        observed_generation: None,
    });
    assert_eq!(look(Arc::new(stood)).waiting.len(), 0);
}
