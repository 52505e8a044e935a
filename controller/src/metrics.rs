//! Prometheus metrics: one struct per subsystem. No object's name is ever a label.

use std::time::Duration;

use berth_crds::{LaunchType, Phase};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;

use crate::context::Context;
use crate::work::Outcome;

/// Every metric of the controller.
pub struct Metrics {
    registry: Registry,
    /// Of sessions.
    pub session: SessionMetrics,
    /// Of passes.
    pub reconcile: ReconcileMetrics,
    /// Of what sidecars tell of credentials.
    pub uses: UseMetrics,
    queues: Family<Label, Gauge>,
    streams: Family<Label, Gauge>,
    leader: Gauge,
}

/// One label, whose key is known at compile time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Label(&'static str, &'static str);

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        (self.0, self.1).encode(encoder.encode_label())
    }
}

/// Metrics of sessions.
pub struct SessionMetrics {
    bind: Family<Label, Histogram>,
    phases: Family<Label, Gauge>,
}

impl SessionMetrics {
    /// A session was bound this long after its creation.
    pub fn observe_bind(&self, launch: LaunchType, took: Duration) {
        self.bind
            .get_or_create(&Label("launch_type", launch.as_str()))
            .observe(took.as_secs_f64());
    }
}

/// Metrics of reconcile passes.
pub struct ReconcileMetrics {
    passes: Family<Label, Histogram>,
    errors: Family<Label, Counter>,
}

impl ReconcileMetrics {
    /// A pass over one object of this kind ended.
    pub fn observe(&self, kind: &'static str, outcome: Outcome, took: Duration) {
        self.passes
            .get_or_create(&Label("kind", kind))
            .observe(took.as_secs_f64());
        if outcome == Outcome::Failed {
            self.errors.get_or_create(&Label("kind", kind)).inc();
        }
    }
}

/// Metrics of credentials' uses. Agents choose hosts, methods and paths, and so none of these is a label; a record that
/// is told twice, as after a change of leaders, counts twice.
#[derive(Clone, Default)]
pub struct UseMetrics {
    uses: Family<Label, Counter>,
    denied: Counter,
    redacted: Counter,
    lost: Counter,
}

impl UseMetrics {
    /// A record of a sidecar's trail.
    pub fn observe(&self, record: &Value) {
        let number = |value: &Value, field: &str| value.get(field).and_then(Value::as_u64).unwrap_or(0);
        if let Some(outcome) = record.get("outcome") {
            let told = outcome.get("ended").and_then(Value::as_str);
            let ended = ENDED.iter().find(|ended| Some(**ended) == told);
            self.uses
                .get_or_create(&Label("ended", ended.copied().unwrap_or("Other")))
                .inc();
            self.redacted.inc_by(number(outcome, "redactions"));
        } else if let Some(denied) = record.get("denied") {
            self.denied.inc_by(number(denied, "count"));
        } else if record.get("lost").is_some() {
            self.lost.inc();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("berth");
        let session = SessionMetrics {
            bind: Family::new_with_constructor(|| Histogram::new(BIND_BUCKETS)),
            phases: Family::default(),
        };
        let reconcile = ReconcileMetrics {
            passes: Family::new_with_constructor(|| Histogram::new(PASS_BUCKETS)),
            errors: Family::default(),
        };
        let uses = UseMetrics::default();
        let (queues, streams, leader) = (Family::default(), Family::default(), Gauge::default());
        let mut add = |name, help, metric: Box<dyn Register>| metric.register(&mut registry, name, help);
        add(
            "session_bind",
            "From a session's creation to its bound sandbox",
            Box::new(session.bind.clone()),
        );
        add("sessions", "Sessions by phase", Box::new(session.phases.clone()));
        add(
            "reconcile",
            "Time of one pass over one object",
            Box::new(reconcile.passes.clone()),
        );
        add(
            "reconcile_errors",
            "Passes that failed",
            Box::new(reconcile.errors.clone()),
        );
        add(
            "credential_uses",
            "Requests with a credential, by how they ended",
            Box::new(uses.uses.clone()),
        );
        add(
            "requests_denied",
            "Requests that no sidecar passed on",
            Box::new(uses.denied.clone()),
        );
        add(
            "secrets_redacted",
            "Secrets taken out of answers",
            Box::new(uses.redacted.clone()),
        );
        add(
            "trails_lost",
            "Pods that went before their trail was complete",
            Box::new(uses.lost.clone()),
        );
        add("queue_depth", "What waits for Postgres", Box::new(queues.clone()));
        add("streams", "Control streams attached", Box::new(streams.clone()));
        add("leader", "1 on the active replica", Box::new(leader.clone()));
        Self {
            registry,
            session,
            reconcile,
            uses,
            queues,
            streams,
            leader,
        }
    }
}

/// A metric that can be registered: durations get their unit, the rest none.
trait Register {
    fn register(self: Box<Self>, registry: &mut Registry, name: &'static str, help: &'static str);
}

impl Register for Family<Label, Histogram> {
    fn register(self: Box<Self>, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register_with_unit(name, help, Unit::Seconds, *self);
    }
}

impl Register for Family<Label, Gauge> {
    fn register(self: Box<Self>, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register(name, help, *self);
    }
}

impl Register for Family<Label, Counter> {
    fn register(self: Box<Self>, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register(name, help, *self);
    }
}

impl Register for Counter {
    fn register(self: Box<Self>, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register(name, help, *self);
    }
}

impl Register for Gauge {
    fn register(self: Box<Self>, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register(name, help, *self);
    }
}

impl Metrics {
    /// The text that Prometheus reads. Gauges are read off the active context, if this replica leads.
    pub fn text(&self, context: Option<&Context>) -> String {
        self.leader.set(i64::from(context.is_some()));
        if let Some(context) = context {
            self.refresh(context);
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# metrics can't be written: {error}\n"),
        }
    }

    fn refresh(&self, context: &Context) {
        let (attached, bound) = context.registry.count();
        set(&self.streams, Label("state", "attached"), attached);
        set(&self.streams, Label("state", "bound"), bound);
        set(&self.queues, Label("queue", "events"), context.event_writer.depth());
        set(&self.queues, Label("queue", "projection"), context.projection.depth());
        let sessions = context.caches.sessions.state();
        for phase in Phase::ALL {
            let of = |session: &berth_crds::AgentSession| session.status.as_ref().and_then(|status| status.phase);
            let count = sessions
                .iter()
                .filter(|session| of(session).unwrap_or_default() == *phase)
                .count();
            set(&self.session.phases, Label("phase", phase.as_str()), count);
        }
    }
}

fn set(family: &Family<Label, Gauge>, label: Label, value: usize) {
    family
        .get_or_create(&label)
        .set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// How a use ends, as sidecars say it (`sidecar/src/audit.rs`); another word is a later release's.
const ENDED: [&str; 4] = ["Complete", "Broken", "Cut", "Refused"];
/// From a warm bind (tens of milliseconds) to a cold start's deadline.
const BIND_BUCKETS: [f64; 12] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];
/// A pass is a handful of requests at most.
const PASS_BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_an_agent_chooses_is_a_label() {
        let metrics = Metrics::default();
        let records = [
            json!({ "use": { "number": 1, "authority": "chosen.example.com", "path": "/chosen", "method": "CHOSEN" } }),
            json!({ "outcome": { "number": 1, "redactions": 2, "ended": "Cut" } }),
            json!({ "outcome": { "number": 2, "redactions": 1, "ended": "chosen" } }),
            json!({ "denied": { "authority": "chosen.example.com", "reason": "chosen", "count": 41 } }),
            json!({ "denied": { "authority": "chosen.example.net", "reason": "chosen", "count": 1 } }),
            json!({ "lost": {} }),
        ];
        for record in &records {
            metrics.uses.observe(record);
        }
        let text = metrics.text(None);
        assert!(!text.to_lowercase().contains("chosen"), "{text}");
        for line in [
            r#"berth_credential_uses_total{ended="Cut"} 1"#,
            r#"berth_credential_uses_total{ended="Other"} 1"#,
            "berth_requests_denied_total 42",
            "berth_secrets_redacted_total 3",
            "berth_trails_lost_total 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
    }
}
