//! What a wait that ends in vain leaves for its reader, who may have nothing but the run's output: the namespace's
//! pods and last events, the control plane's pods, its Lease, the node, and what the controller said of the namespace.

use serde_json::Value;

use crate::Cluster;

/// What an object says of itself, in one line: its phase and its conditions.
pub fn says(object: &Value) -> String {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let conditions = conditions.map(|it| {
        let [kind, status, reason, message] = ["type", "status", "reason", "message"].map(|key| text(it, key));
        format!("{kind}={status}/{reason} ({message})")
    });
    let phase = text(&object["status"], "phase");
    let all: Vec<String> = std::iter::once(phase).chain(conditions).collect();
    all.join(" ")
}

/// Describes the namespace and what serves it. What can't be read says why, so that the wait's own error is kept.
pub fn describe(cluster: &Cluster, namespace: &str) -> String {
    let of = ["--namespace", namespace];
    let system = ["--namespace", "berth-system"];
    let reads: [(&str, &[&str], &[&str], usize); 7] = [
        ("pods", &of, &["get", "pods", "--output", "wide"], 20),
        ("claims", &of, &["get", "sandboxclaims,sandboxes"], 20),
        ("events", &of, &["get", "events", "--sort-by=.lastTimestamp"], 25),
        ("control plane", &system, &["get", "pods", "--output", "wide"], 20),
        ("lease", &system, &["get", "leases"], 20),
        ("node", &[], &["describe", "nodes"], 12),
        ("controller", &system, &CONTROLLER, 0),
    ];
    let mut text = String::new();
    for (what, scope, arguments, lines) in reads {
        let said = cluster
            .run("kubectl", &[scope, arguments].concat())
            .unwrap_or_else(|error| format!("{error:#}"));
        let said: Vec<&str> = match what {
            "controller" => last(&said, 20, |line| line.contains(namespace)),
            _ => last(&said, lines, |_| true),
        };
        text.extend(["\n--- ", what, "\n", &said.join("\n")]);
    }
    text
}

/// The last lines that are as wanted, in their order.
fn last(text: &str, most: usize, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().rev().filter(|line| wanted(line)).take(most).collect();
    lines.reverse();
    lines
}

const CONTROLLER: [&str; 5] = [
    "logs",
    "--selector=app.kubernetes.io/name=berth-controller",
    "--tail=2000",
    "--prefix",
    "--since=3m",
];
