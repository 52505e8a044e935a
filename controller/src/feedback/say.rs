//! Pure: the text about a pull request, and its commit status.

use std::fmt::Write as _;

use berth_crds::{Require, SourceError};
use jiff::{SignedDuration, Timestamp};

use crate::check::{Change, How, Report};
use crate::forge::desk::CommitStatus;
use crate::grant::ledger::{Action, Entry};

/// What is known of a pull request beside what it changes.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The source whose branch it is against: `namespace/name`.
    pub source: String,
    /// By the binding: sessions that it matches now.
    pub matches: Vec<(String, Matches)>,
    /// What approves grants here.
    pub wanted: Vec<String>,
    /// Once it is merged: what has become of its bindings since.
    pub merged: Option<Vec<Outcome>>,
}

/// Sessions that a binding matches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Matches {
    /// How many.
    pub count: usize,
    /// Names of the first; empty for somebody who may not know them.
    pub names: Vec<String>,
}

/// What has become of a binding after the merge.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The binding.
    pub binding: String,
    /// In words; `None` while nothing has.
    pub said: Option<String>,
}

/// The line that ours is known by, beside its author.
pub fn marker(source: &str) -> String {
    format!("<!-- berth.dev/feedback {source} -->")
}

/// The comment.
pub fn comment(report: &Report, facts: &Facts) -> String {
    let changes = match report.changes.as_slice() {
        [] => "changes no grant".to_owned(),
        changes => verbs(changes),
    };
    let also = match report.errors.len() {
        0 => String::new(),
        errors => format!(", and {} in it", problems(errors)),
    };
    let mut text = format!(
        "{}\n**Berth**: this pull request {changes}{also}.\n",
        marker(&facts.source)
    );
    for change in report.changes.iter().take(CHANGES_MAX) {
        one(&mut text, change, facts);
    }
    left_out(&mut text, report.changes.len(), CHANGES_MAX, "grants");
    if !report.errors.is_empty() {
        text.push_str("\n**Not as it should be**, and left out if it is merged:\n");
        for SourceError { at, object, message } in report.errors.iter().take(ERRORS_MAX) {
            let object = object
                .as_ref()
                .map_or_else(String::new, |object| format!(" {}", code(object)));
            line(&mut text, &format!("- {}{object}: {}", code(at), code(message)));
        }
        left_out(&mut text, report.errors.len(), ERRORS_MAX, "problems");
    }
    let grants = report
        .changes
        .iter()
        .any(|change| matches!(change.how, How::Added | How::Widened));
    if let Some(outcomes) = &facts.merged {
        text.push_str("\n**Since the merge**\n");
        for Outcome { binding, said } in outcomes {
            let said = said.as_deref().unwrap_or("not yet in force");
            line(&mut text, &format!("- {}: {said}", code(binding)));
        }
    } else if grants && !facts.wanted.is_empty() {
        line(
            &mut text,
            &format!("\n**Wanted before it is in force**: {}.", facts.wanted.join("; ")),
        );
    }
    text
}

fn one(text: &mut String, change: &Change, facts: &Facts) {
    line(
        text,
        &format!(
            "\n**{}** {} ({})",
            change.how.word(),
            code(&change.binding),
            code(&change.at)
        ),
    );
    for grant in change.grants.iter().take(ROUTES_MAX) {
        line(text, &format!("- {}", code(grant)));
    }
    left_out(text, change.grants.len(), ROUTES_MAX, "routes");
    if let Some((_, matches)) = facts.matches.iter().find(|(binding, _)| *binding == change.binding) {
        let some: Vec<String> = matches.names.iter().map(|name| code(name)).collect();
        let named = if some.is_empty() {
            String::new()
        } else {
            format!(": {}", some.join(", "))
        };
        let sessions = plural(matches.count, "session");
        line(text, &format!("- matches {sessions} now{named}"));
    }
    if !change.flags.is_empty() {
        line(text, &format!("- ⚠ look at: {}", change.flags.join("; ")));
    }
}

/// The commit status: a check that a team may require.
pub fn status(report: &Report, source: &str) -> CommitStatus {
    let good = report.errors.is_empty();
    let description = match (report.changes.is_empty(), good) {
        (true, true) => "changes no grant".to_owned(),
        (_, false) => {
            let first = report.errors.first().map_or("", |error| error.at.as_str());
            format!("{}, first at {first}", plural(report.errors.len(), "problem"))
        }
        (false, true) => verbs(&report.changes),
    };
    CommitStatus {
        good,
        description: description
            .chars()
            .filter(|char| !char.is_control())
            .take(DESCRIPTION_MAX)
            .collect(),
        context: format!("berth/{source}"),
    }
}

/// What approves a grant where these requirements hold; the strictest of each counts.
pub fn wanted(requirements: &[&Require]) -> Vec<String> {
    let mut wanted = Vec::new();
    let reviews = requirements.iter().filter_map(|require| require.review.as_ref());
    if let Some(most) = reviews.clone().map(|review| review.min_approvals).max() {
        let approvals = usize::try_from(most).unwrap_or(0);
        let mut review = format!(
            "{} by people who had no part in it",
            plural(approvals, "approving review")
        );
        let mut teams: Vec<&str> = reviews.flat_map(|review| &review.teams).map(String::as_str).collect();
        teams.sort_unstable();
        teams.dedup();
        if !teams.is_empty() {
            let teams: Vec<String> = teams.into_iter().map(code).collect();
            let _ = write!(review, ", of {}", teams.join(" and "));
        }
        wanted.push(review);
    }
    if requirements.iter().any(|require| require.signed_commits) {
        wanted.push("commits signed by their authors' own keys".to_owned());
    }
    wanted
}

/// What the record says of a binding since the merge: its last word counts.
pub fn outcome(change: &Change, merged: Timestamp, entries: &[Entry]) -> Outcome {
    let mut ours = entries
        .iter()
        .filter(|entry| entry.binding == change.binding && entry.at >= merged - SECOND);
    let said = ours.next_back().map(|entry| {
        let after = seconds(entry.at.duration_since(merged));
        match entry.action {
            Action::Granted | Action::Changed if change.how == How::Removed => "still granted".to_owned(),
            Action::Granted | Action::Changed => {
                let sessions = plural(entry.sessions.len(), "session");
                format!("active {after} after the merge, for {sessions}")
            }
            Action::Revoked | Action::RevokedObservedLate => format!("revoked {after} after the merge"),
        }
    });
    Outcome {
        binding: change.binding.clone(),
        said,
    }
}

/// A forge says when it merged to the second.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

fn seconds(after: SignedDuration) -> String {
    let tenths = (after.as_millis().max(0) + 50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn verbs(changes: &[Change]) -> String {
    let count = |how: How| changes.iter().filter(|change| change.how == how).count();
    let parts = [How::Added, How::Widened, How::Narrowed, How::Removed];
    let parts = parts.into_iter().filter(|how| count(*how) > 0);
    let parts: Vec<String> = parts.map(|how| format!("{} {}", how.word(), count(how))).collect();
    parts.join(", ")
}

fn problems(count: usize) -> String {
    let is = if count == 1 { "is" } else { "are" };
    format!("{} {is}", plural(count, "problem"))
}

fn plural(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}

fn left_out(text: &mut String, count: usize, most: usize, what: &str) {
    if count > most {
        line(text, &format!("- and {} more {what}", count - most));
    }
}

fn line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}

/// Somebody else's words as a code span: one line that can't end its span.
fn code(words: &str) -> String {
    let plain = |char: char| match char {
        '`' => 'ˋ',
        char if char.is_control() || is_bidi(char) => ' ',
        char => char,
    };
    let words: String = words.chars().map(plain).take(WORDS_MAX).collect();
    match words.trim() {
        "" => "` `".to_owned(),
        words => format!("`{words}`"),
    }
}

/// Marks that turn the direction of what follows: text that reads otherwise than it is.
fn is_bidi(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A comment is for people; the rest is in the diff. Forges take 64 KiB.
const CHANGES_MAX: usize = 20;
const ROUTES_MAX: usize = 10;
const ERRORS_MAX: usize = 20;
const WORDS_MAX: usize = 300;
/// GitHub's limit.
const DESCRIPTION_MAX: usize = 140;

#[cfg(test)]
mod tests;
