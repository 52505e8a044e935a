//! Figures: percentiles, the table and the JSON file.
//!
//! In: measured values. Out: text and `target/bench/NAME.json`. Never judges without the goal in the row.

use std::borrow::Cow;
use std::fs;
#[cfg(feature = "cluster")]
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One figure, beside what it is compared with.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Row {
    pub(crate) figure: String,
    pub(crate) value: f64,
    pub(crate) unit: Cow<'static, str>,
    pub(crate) beside: Option<Cow<'static, str>>,
    pub(crate) beside_value: Option<f64>,
    pub(crate) ratio: Option<f64>,
    /// Of the ratio, or of the value where there is none: the most that it may be, or the least with `floor`.
    pub(crate) goal: Option<f64>,
    pub(crate) met: Option<bool>,
    #[serde(skip)]
    pub(crate) floor: bool,
}

impl Row {
    /// A figure alone.
    pub(crate) fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            figure: figure.into(),
            value,
            unit: unit.into(),
            ..Self::default()
        }
    }

    /// Beside another one, with their ratio.
    pub(crate) fn beside(self, beside: &'static str, value: f64) -> Self {
        Self {
            beside: Some(beside.into()),
            beside_value: Some(value),
            ratio: (value > 0.0).then(|| self.value / value),
            ..self
        }
    }

    /// With the most that the ratio, or the value where there is none, may be.
    pub(crate) fn at_most(self, goal: f64) -> Self {
        let judged = self.ratio.unwrap_or(self.value);
        Self {
            goal: Some(goal),
            met: Some(judged <= goal),
            ..self
        }
    }

    /// With the least that the ratio, or the value where there is none, may be.
    #[cfg(feature = "proxy")]
    pub(crate) fn at_least(self, goal: f64) -> Self {
        let judged = self.ratio.unwrap_or(self.value);
        Self {
            goal: Some(goal),
            met: Some(judged >= goal),
            floor: true,
            ..self
        }
    }
}

/// The value, in ms, that this share of the durations doesn't exceed (nearest rank).
#[cfg(feature = "cluster")]
pub(crate) fn percentile(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted
        .get(rank)
        .map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e3)
}

/// Prints the rows and writes them down.
pub(crate) fn publish(name: &str, rows: &[Row]) -> Result<()> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    println!(
        "{:<48} {:>9} {:<7} {:<24} {:>9} {:>6} {:>8} met",
        "figure", "value", "unit", "beside", "value", "ratio", "goal"
    );
    for row in rows {
        let met = row.met.map_or("-", |met| if met { "yes" } else { "NO" });
        let (value, other) = (number(Some(row.value)), number(row.beside_value));
        let side = if row.floor { ">= " } else { "<= " };
        let goal = row
            .goal
            .map_or_else(|| "-".to_owned(), |goal| format!("{side}{goal:.2}"));
        let ratio = number(row.ratio);
        let (figure, unit, beside) = (&row.figure, &row.unit, row.beside.as_deref().unwrap_or("-"));
        println!("{figure:<48} {value:>9} {unit:<7} {beside:<24} {other:>9} {ratio:>6} {goal:>8} {met}");
    }
    fs::create_dir_all(FOLDER)?;
    fs::write(file(name), serde_json::to_string_pretty(rows)?).context("the figures can't be kept")
}

/// Reads what [`publish`] wrote.
pub(crate) fn published(name: &str) -> Result<Vec<Row>> {
    let path = file(name);
    let text =
        fs::read_to_string(&path).with_context(|| format!("{path} can't be read: run `bin/bench {name}` first"))?;
    serde_json::from_str(&text).with_context(|| format!("{path} isn't what `bin/bench {name}` writes"))
}

fn file(name: &str) -> String {
    format!("{FOLDER}/{name}.json")
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cluster")]
    #[test]
    fn percentiles_are_by_nearest_rank() {
        let durations: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert!((percentile(&durations, 50) - 50.0).abs() < 1e-9);
        assert!((percentile(&durations, 99) - 99.0).abs() < 1e-9);
        assert!((percentile(&durations[..1], 99) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_goal_is_of_the_ratio_where_there_is_one() {
        assert_eq!(Row::new("a", 26.0, "ms").beside("b", 20.0).at_most(1.3).met, Some(true));
        assert_eq!(Row::new("a", 26.0, "ms").at_most(1.3).met, Some(false));
        #[cfg(feature = "proxy")]
        assert_eq!(
            Row::new("a", 26.0, "ms").beside("b", 20.0).at_least(1.3).met,
            Some(true)
        );
    }
}
