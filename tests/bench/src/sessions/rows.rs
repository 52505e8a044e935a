//! Pure: what was measured of sessions, as rows.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::Way;
use crate::audit::Write;
use crate::report::{Row, percentile};

/// When each session's sidecar acknowledged its assignment, by the session's name: then it is bound (DESIGN §5.4).
pub(crate) type Acknowledged = HashMap<String, Timestamp>;

/// Sessions and bare claims one at a time, from create to bound and to Ready.
pub(crate) fn times(claims: &[Duration], ways: &[Way], acknowledged: &Acknowledged) -> Result<Vec<Row>> {
    let totals = totals(ways, acknowledged)?;
    let told: Vec<_> = ways.iter().map(|way| way.told).collect();
    let row = |percent| {
        let figure = format!("session created to bound, p{percent} (n={})", ways.len());
        let row = Row::new(figure, percentile(&totals, percent), "ms");
        row.beside("bare claim to Ready", percentile(claims, percent))
    };
    let told = Row::new(
        "  created to bound as its status says, p50",
        percentile(&told, 50),
        "ms",
    );
    Ok([50, 99].map(row).into_iter().chain([told]).collect())
}

fn totals(ways: &[Way], acknowledged: &Acknowledged) -> Result<Vec<Duration>> {
    let totals = ways.iter().map(|way| Ok(between(way.created, at(acknowledged, way)?)));
    totals.collect()
}

fn at(acknowledged: &Acknowledged, way: &Way) -> Result<Timestamp> {
    let at = acknowledged.get(&way.name).copied();
    at.with_context(|| format!("no acknowledgement of {} is logged", way.name))
}

/// What Berth adds to agent-sandbox, and its two parts.
pub(crate) fn overheads(ways: &[Way], writes: &[Write], acknowledged: &Acknowledged) -> Result<Vec<Row>> {
    let (mut made, mut told) = (Vec::new(), Vec::new());
    for way in ways {
        let claim = format!("{}-1", way.name);
        let claim = writes.iter().find(|write| write.creates("sandboxclaims", &claim));
        let claim = claim.with_context(|| format!("the audit log has no claim of {}", way.name))?;
        made.push(between(way.created, claim.at));
        told.push(between(way.ready, at(acknowledged, way)?));
    }
    let both: Vec<_> = made.iter().zip(&told).map(|(made, told)| *made + *told).collect();
    let goals = [(50, 50.0), (99, 200.0)].map(|(percent, goal)| {
        let figure = format!("Berth's overhead per session, p{percent} (n={})", ways.len());
        Row::new(figure, percentile(&both, percent), "ms").at_most(goal)
    });
    let parts = [
        ("created to claim created", made),
        ("claim Ready to acknowledged", told),
    ];
    let parts = parts.map(|(part, times)| Row::new(format!("  {part}, p50"), percentile(&times, 50), "ms"));
    Ok(goals.into_iter().chain(parts).collect())
}

/// The controller may have seen what comes first a little earlier than we: then nothing lies between.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// As many at once as the pool has.
pub(crate) fn at_once(pool: u16, claims: &[Duration], ways: &[Way], acknowledged: &Acknowledged) -> Result<Row> {
    let totals = totals(ways, acknowledged)?;
    let figure = format!("{pool} at once, created to bound, p50 (n={})", ways.len());
    let row = Row::new(figure, percentile(&totals, 50), "ms");
    Ok(row.beside("bare claims to Ready", percentile(claims, 50)).at_most(1.3))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
/// Writes by Berth.
pub(crate) fn writes(writes: &[Write], ways: &[Way]) -> Vec<Row> {
    let of = |way: &Way, until| writes.iter().filter(|write| write.is_of(&way.name, until)).count();
    let to_bound: usize = ways.iter().map(|way| of(way, way.bound)).sum();
    let whole: usize = ways.iter().map(|way| of(way, Timestamp::MAX)).sum();
    let serial = |write: &&Write| ways.iter().any(|way| write.is_of(&way.name, Timestamp::MAX));
    let events = writes.iter().filter(serial).filter(|write| write.resource == "events");
    let refused = writes.iter().filter(serial).filter(|write| write.refused);
    let others = writes
        .iter()
        .filter(|write| !serial(write) && !write.name.starts_with("s-once"));
    let per = |count: usize| count as f64 / ways.len() as f64;
    vec![
        Row::new("writes per session, created to bound", per(to_bound), "writes").at_most(3.0),
        Row::new("writes per session, whole life", per(whole), "writes").at_most(6.0),
        Row::new("  of which Events", per(events.count()), "writes"),
        Row::new("  of which refused (404, 409)", per(refused.count()), "writes"),
        Row::new("other writes in the namespace", others.count() as f64, "writes"),
    ]
}
