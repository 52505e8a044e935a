//! What was measured, by scenario, contestant and metric, a value a round; and the rows that are made of it.

use std::collections::BTreeMap;

use super::DIRECT;
use crate::report::Row;

/// Scenario, contestant, metric.
type Key = (&'static str, &'static str, &'static str);

/// Values of all rounds.
#[derive(Default)]
pub(crate) struct Figures(BTreeMap<Key, Vec<f64>>);

impl Figures {
    /// Another round's value.
    pub(crate) fn add(&mut self, scenario: &'static str, who: &'static str, metric: &'static str, value: f64) {
        self.0.entry((scenario, who, metric)).or_default().push(value);
    }

    fn median(&self, scenario: &'static str, who: &'static str, metric: &'static str) -> Option<f64> {
        median(self.0.get(&(scenario, who, metric))?.clone())
    }

    /// What a proxy adds to the direct way, round by round.
    fn added(&self, scenario: &'static str, who: &'static str, metric: &'static str) -> Option<f64> {
        let with = self.0.get(&(scenario, who, metric))?;
        let without = self.0.get(&(scenario, DIRECT, metric))?;
        median(with.iter().zip(without).map(|(with, without)| with - without).collect())
    }

    fn value(&self, (scenario, who, metric): Key, added: bool) -> Option<f64> {
        if added {
            self.added(scenario, who, metric)
        } else {
            self.median(scenario, who, metric)
        }
    }

    /// The goals first, then everything else that was measured.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let judged = GOALS.iter().filter_map(|goal| goal.row(self));
        let rest = self.0.keys().filter_map(|&(scenario, who, metric)| {
            let value = self.median(scenario, who, metric)?;
            Some(Row::new(format!("  {scenario}: {metric}, {who}"), value, unit(metric)))
        });
        judged.chain(rest).collect()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (
        values.get((values.len().checked_sub(1)?) / 2)?,
        values.get(values.len() / 2)?,
    );
    Some(f64::midpoint(*low, *high))
}

fn unit(metric: &str) -> &'static str {
    match metric {
        P50 | P99 | CPU => "µs",
        RATE => "req/s",
        SPEED => "MB/s",
        _ => "KiB",
    }
}

/// A goal of issue 4.
struct Goal {
    figure: &'static str,
    of: Key,
    /// Whether only what is added to the direct way counts.
    added: bool,
    beside: Option<Key>,
    bound: Bound,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Told, not judged.
    None,
}

impl Goal {
    fn row(&self, figures: &Figures) -> Option<Row> {
        let mut row = Row::new(self.figure, figures.value(self.of, self.added)?, unit(self.of.2));
        if let Some(beside) = self.beside {
            row = row.beside(beside.1, figures.value(beside, self.added)?);
        }
        Some(match self.bound {
            Bound::AtMost(goal) => row.at_most(goal),
            Bound::AtLeast(goal) => row.at_least(goal),
            Bound::None => row,
        })
    }
}

pub(crate) const P50: &str = "p50";
pub(crate) const P99: &str = "p99";
pub(crate) const RATE: &str = "req/s";
pub(crate) const CPU: &str = "CPU per request";
pub(crate) const SPEED: &str = "speed";
pub(crate) const RESIDENT: &str = "resident";
pub(crate) const GROWTH: &str = "growth";
pub(crate) const STREAM: &str = "per stream";
pub(crate) const TUNNEL: &str = "per tunnel";
pub(crate) const PEAK: &str = "peak";

/// Scenarios.
pub(crate) const KEEP_1: &str = "keep-alive c=1";
pub(crate) const KEEP_32: &str = "keep-alive c=32";
pub(crate) const NEW: &str = "new tunnel c=1";
pub(crate) const UPLOAD: &str = "upload 200 MiB";
pub(crate) const CHUNKED: &str = "chunked upload 200 MiB";
pub(crate) const DOWNLOAD: &str = "download 200 MiB";
pub(crate) const SSE: &str = "1,000 idle SSE streams";
pub(crate) const IDLE: &str = "idle";
pub(crate) const TUNNELS: &str = "10,000 idle tunnels";
pub(crate) const LIMIT: &str = "8 uploads within 128 MiB";
pub(crate) const RULES: &str = "rules";
pub(crate) const REDACT_KEEP: &str = "redaction, keep-alive c=32";
pub(crate) const REDACT_LOG: &str = "redaction, text download";

/// Contestants in scenarios among ourselves.
pub(crate) const FEW: &str = "10 rules";
pub(crate) const MANY: &str = "10,000 rules";
pub(crate) const ON: &str = "on";
pub(crate) const OFF: &str = "off";

const US: &str = "berth";
const HUDSUCKER: &str = "hudsucker";
const ENVOY: &str = "envoy";

/// Issue 4, in its order.
const GOALS: &[Goal] = &[
    Goal::beside(
        "keep-alive c=1, added p50",
        (KEEP_1, US, P50),
        HUDSUCKER,
        Bound::AtMost(0.75),
    )
    .of_added(),
    Goal::beside(
        "keep-alive c=1, CPU per request",
        (KEEP_1, US, CPU),
        HUDSUCKER,
        Bound::None,
    ),
    Goal::beside("keep-alive c=32", (KEEP_32, US, RATE), HUDSUCKER, Bound::AtLeast(1.15)),
    Goal::beside(
        "keep-alive c=32, CPU per request",
        (KEEP_32, US, CPU),
        HUDSUCKER,
        Bound::None,
    ),
    Goal::beside("new tunnel c=1, p50", (NEW, US, P50), ENVOY, Bound::AtMost(1.0)),
    Goal::beside("new tunnel c=1, CPU per request", (NEW, US, CPU), ENVOY, Bound::None),
    Goal::beside("upload of 200 MiB", (UPLOAD, US, SPEED), ENVOY, Bound::AtLeast(1.0)),
    Goal::beside(
        "chunked upload of 200 MiB",
        (CHUNKED, US, SPEED),
        ENVOY,
        Bound::AtLeast(1.0),
    ),
    Goal::alone(
        "upload of 200 MiB, resident growth",
        (UPLOAD, US, GROWTH),
        Bound::AtMost(16.0 * 1024.0),
    ),
    Goal::alone("idle, resident", (IDLE, US, RESIDENT), Bound::AtMost(12.0 * 1024.0)),
    Goal::beside(
        "1,000 idle SSE streams, each",
        (SSE, US, STREAM),
        HUDSUCKER,
        Bound::None,
    ),
    Goal::alone("1,000 idle SSE streams, each", (SSE, US, STREAM), Bound::AtMost(48.0)),
    Goal::beside("10,000 idle tunnels", (TUNNELS, US, RESIDENT), HUDSUCKER, Bound::None),
    Goal::beside(
        "10,000 idle tunnels, each",
        (TUNNELS, US, TUNNEL),
        HUDSUCKER,
        Bound::None,
    ),
    Goal::alone(
        "8 uploads of 200 MiB within 128 MiB, peak",
        (LIMIT, US, PEAK),
        Bound::AtMost(128.0 * 1024.0),
    ),
    Goal::beside("10,000 rules, p50", (RULES, MANY, P50), FEW, Bound::AtMost(1.1)),
    Goal::beside("10,000 rules, CPU per request", (RULES, MANY, CPU), FEW, Bound::None),
    Goal::beside(
        "redaction on, keep-alive c=32",
        (REDACT_KEEP, ON, RATE),
        OFF,
        Bound::AtLeast(0.85),
    ),
    Goal::beside(
        "redaction on, download of text",
        (REDACT_LOG, ON, SPEED),
        OFF,
        Bound::AtLeast(0.85),
    ),
];

impl Goal {
    const fn alone(figure: &'static str, of: Key, bound: Bound) -> Self {
        Self {
            figure,
            of,
            added: false,
            beside: None,
            bound,
        }
    }

    const fn beside(figure: &'static str, of: Key, who: &'static str, bound: Bound) -> Self {
        Self {
            figure,
            of,
            added: false,
            beside: Some((of.0, who, of.2)),
            bound,
        }
    }

    const fn of_added(self) -> Self {
        Self { added: true, ..self }
    }
}
