//! The figures of the last `bin/bench proxy`, for people: a table in `docs/benchmarks.md` and a plot beside it.
//!
//! In: `target/bench/proxy.json`. Out: the part of the page between its two marks, and `docs/benchmarks.svg`. The words
//! around the table are written by hand.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};

use crate::report::{self, Row};

/// Writes both.
pub(crate) fn write() -> Result<()> {
    let rows: Vec<Row> = report::published("proxy")?.into_iter().filter(is_judged).collect();
    let page = fs::read_to_string(PAGE).with_context(|| format!("{PAGE} can't be read"))?;
    let (before, rest) = page
        .split_once(BEGIN)
        .context("the page has no mark where the table begins")?;
    let (_, after) = rest
        .split_once(END)
        .context("the page has no mark where the table ends")?;
    fs::write(PAGE, [before, BEGIN, "\n", &table(&rows), END, after].concat())?;
    Ok(fs::write(PLOT, plot(&rows))?)
}

/// Not one of the rows that hold what each contestant did.
fn is_judged(row: &Row) -> bool {
    !row.figure.starts_with(' ')
}

/// In Markdown.
fn table(rows: &[Row]) -> String {
    let mut text = "| figure | value | beside | ratio | goal | met |\n|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let beside = match (&row.beside, row.beside_value) {
            (Some(name), Some(value)) => format!("{name}: {}", number(value)),
            _ => "–".to_owned(),
        };
        let ratio = row.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let met = row.met.map_or("–", |met| if met { "yes" } else { "**no**" });
        let (figure, value, unit) = (&row.figure, number(row.value), &row.unit);
        let _ = writeln!(
            text,
            "| {figure} | {value} {unit} | {beside} | {ratio} | {} | {met} |",
            goal(row)
        );
    }
    text
}

/// Bars from the goal, to the right where it is exceeded and to the left where it is missed; a doubling is one step.
fn plot(rows: &[Row]) -> String {
    let judged: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, score(row)?))).collect();
    let height = judged.iter().fold(TOP + 30.0, |height, _| height + LINE);
    let mut text = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">
<title>The proxy's figures beside their goals</title>
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="16" y="24" font-size="15" font-weight="600" fill="#1c2430">How far each figure is from its goal</text>
<g fill="#5a6472" text-anchor="middle">
"##
    );
    for (step, name) in [
        (-1.0, "half as good"),
        (0.0, "goal"),
        (1.0, "twice"),
        (2.0, "four times"),
    ] {
        let x = MIDDLE + step * STEP;
        let _ = writeln!(
            text,
            r##"<text x="{x}" y="48">{name}</text><line x1="{x}" x2="{x}" y1="54" y2="{}" stroke="#d5dae0"/>"##,
            height - 22.0
        );
    }
    text.push_str("</g>\n");
    let mut y = TOP;
    for (row, score) in judged {
        let length = score.log2().clamp(-1.3, 2.3) * STEP;
        let (x, color) = if length < 0.0 {
            (MIDDLE + length, "#b5482a")
        } else {
            (MIDDLE, "#2b7a4b")
        };
        let (middle, figure) = (y + 14.0, escaped(&row.figure));
        let told = escaped(&format!("{}, goal {}", judged_text(row), goal(row)));
        let _ = writeln!(
            text,
            r##"<text x="{}" y="{middle}" text-anchor="end" fill="#1c2430">{figure}</text><rect x="{x:.1}" y="{}" width="{:.1}" height="14" fill="{color}"/><text x="{}" y="{middle}" fill="#5a6472">{told}</text>"##,
            MIDDLE - STEP * 1.4,
            y + 2.0,
            length.abs().max(1.5),
            MIDDLE + STEP * 2.4,
        );
        y += LINE;
    }
    text.push_str("</svg>\n");
    text
}

/// How many times as good as the goal.
fn score(row: &Row) -> Option<f64> {
    let (judged, goal) = (row.ratio.unwrap_or(row.value), row.goal?);
    let score = if is_floor(row)? { judged / goal } else { goal / judged };
    score.is_finite().then_some(score).filter(|score| *score > 0.0)
}

/// Whether the goal is the least: the file doesn't say so, but it follows from the verdict.
fn is_floor(row: &Row) -> Option<bool> {
    Some(row.met? == (row.ratio.unwrap_or(row.value) > row.goal?))
}

fn goal(row: &Row) -> String {
    let text = |goal: f64| {
        let side = if is_floor(row) == Some(true) { "≥" } else { "≤" };
        format!("{side} {}", number(goal))
    };
    row.goal.map_or_else(|| "–".to_owned(), text)
}

fn judged_text(row: &Row) -> String {
    match (row.ratio, &row.beside) {
        (Some(ratio), Some(beside)) => format!("{ratio:.2} × {beside}"),
        _ => format!("{} {}", number(row.value), row.unit),
    }
}

/// Three digits are what a shared machine can tell.
fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks.md");
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks.svg");
const BEGIN: &str = "<!-- bin/bench docs: begin -->";
const END: &str = "<!-- bin/bench docs: end -->";

const WIDTH: f64 = 1080.0;
const TOP: f64 = 60.0;
const LINE: f64 = 22.0;
/// Where the goal is.
const MIDDLE: f64 = 460.0;
/// A doubling.
const STEP: f64 = 110.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_of_a_goal_follows_from_its_verdict() {
        let most = Row::new("a", 26.0, "ms").beside("b", 20.0).at_most(1.0);
        assert_eq!(
            (goal(&most).as_str(), score(&most).map(|score| score < 1.0)),
            ("≤ 1.00", Some(true))
        );
        let most = Row::new("a", 10.0, "ms").at_most(20.0);
        assert_eq!((goal(&most).as_str(), score(&most)), ("≤ 20.0", Some(2.0)));
        let least = Row::new("a", 26.0, "ms").beside("b", 13.0).at_least(1.0);
        assert_eq!((goal(&least).as_str(), score(&least)), ("≥ 1.00", Some(2.0)));
        let least = Row::new("a", 10.0, "ms").at_least(20.0);
        assert_eq!((goal(&least).as_str(), score(&least)), ("≥ 20.0", Some(0.5)));
    }

    #[test]
    fn every_goal_has_its_bar_and_text_is_escaped() {
        let rows = [Row::new("a < b", 10.0, "ms").at_most(20.0), Row::new("told", 1.0, "ms")];
        let plot = plot(&rows);
        assert!(plot.contains("a &lt; b") && !plot.contains("told<"));
        assert_eq!(table(&rows).lines().count(), 4);
    }
}
