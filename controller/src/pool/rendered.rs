//! Pure: whether a live pod is what its pool rendered (DESIGN §5.3).
//!
//! Everything that decides what runs, as whom, with which files and in which namespaces must be equal. What the API
//! server fills in by default is allowed ([`DEFAULTS`]); scheduling, resources and node names are not compared.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Map, Value};

use super::pod::{FENCE, SIDECAR};

/// Compares a live pod with its rendering. The error names the first field that differs.
pub fn check(pod: &Pod, rendering: &str) -> Result<(), String> {
    let wanted: Value =
        serde_json::from_str(rendering).map_err(|error| format!("the rendering can't be read: {error}"))?;
    let live = serde_json::to_value(&pod.spec).map_err(|error| format!("the pod can't be read: {error}"))?;
    if !live["ephemeralContainers"].as_array().is_none_or(Vec::is_empty) {
        return Err("the pod has an ephemeral container".to_owned());
    }
    for field in POD_FIELDS {
        equal(field, &wanted[field], &live[field])?;
    }
    for list in ["initContainers", "containers"] {
        containers(list, &wanted[list], &live[list])?;
    }
    fence_done(pod, &wanted)?;
    sidecar_runs(pod)
}

const POD_FIELDS: [&str; 9] = [
    "volumes",
    "securityContext",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "serviceAccountName",
    "automountServiceAccountToken",
    "runtimeClassName",
];

const CONTAINER_FIELDS: [&str; 16] = [
    "image",
    "command",
    "args",
    "env",
    "envFrom",
    "ports",
    "volumeMounts",
    "volumeDevices",
    "securityContext",
    "restartPolicy",
    "lifecycle",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "workingDir",
    "stdin",
];

/// What the API server adds by itself (core/v1 defaults).
const DEFAULTS: [(&str, Default); 8] = [
    ("apiVersion", Default::Text("v1")),
    ("protocol", Default::Text("TCP")),
    ("defaultMode", Default::Number(420)),
    ("optional", Default::No),
    ("periodSeconds", Default::Number(10)),
    ("successThreshold", Default::Number(1)),
    ("failureThreshold", Default::Number(3)),
    ("timeoutSeconds", Default::Number(1)),
];

enum Default {
    No,
    Number(i64),
    Text(&'static str),
}

impl Default {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::No => value.as_bool() == Some(false),
            Self::Number(number) => value.as_i64() == Some(*number),
            Self::Text(text) => value.as_str() == Some(text),
        }
    }
}

fn containers(list: &str, wanted: &Value, live: &Value) -> Result<(), String> {
    let names = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .map(|item| item["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    if names(wanted) != names(live) {
        return Err(format!("{list} are {:?}, not {:?}", names(live), names(wanted)));
    }
    let pairs = wanted
        .as_array()
        .into_iter()
        .flatten()
        .zip(live.as_array().into_iter().flatten());
    for (wanted, live) in pairs {
        let name = wanted["name"].as_str().unwrap_or_default();
        for field in CONTAINER_FIELDS {
            equal(&format!("{list}[{name}].{field}"), &wanted[field], &live[field])?;
        }
    }
    Ok(())
}

fn equal(path: &str, wanted: &Value, live: &Value) -> Result<(), String> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => objects(path, wanted, live),
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => {
            let mut pairs = wanted.iter().zip(live).enumerate();
            pairs.try_for_each(|(index, (wanted, live))| equal(&format!("{path}[{index}]"), wanted, live))
        }
        _ if wanted == live || (wanted.is_null() && absent(live)) => Ok(()),
        _ => Err(format!("{path} differs from the rendered pod")),
    }
}

/// A field that is left out, or false: the same where the rendering doesn't say anything.
fn absent(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false))
}

fn objects(path: &str, wanted: &Map<String, Value>, live: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in wanted {
        equal(&format!("{path}.{key}"), value, live.get(key).unwrap_or(&Value::Null))?;
    }
    let added = live
        .iter()
        .find(|(key, value)| !wanted.contains_key(*key) && !is_default(key, value));
    added.map_or(Ok(()), |(key, _)| {
        Err(format!("{path}.{key} isn't in the rendered pod"))
    })
}

fn is_default(key: &str, value: &Value) -> bool {
    absent(value) || DEFAULTS.iter().any(|(name, default)| *name == key && default.is(value))
}

fn fence_done(pod: &Pod, wanted: &Value) -> Result<(), String> {
    let fenced = wanted["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|container| container["name"] == FENCE);
    let exited = |status: &ContainerStatus| {
        let state = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        state.map(|terminated| terminated.exit_code)
    };
    match init_status(pod, FENCE).and_then(exited) {
        _ if !fenced => Ok(()),
        Some(0) => Ok(()),
        Some(code) => Err(format!("the fence exited with status {code}")),
        None => Err("the fence has not exited".to_owned()),
    }
}

fn sidecar_runs(pod: &Pod) -> Result<(), String> {
    let image = init_status(pod, SIDECAR)
        .map(|status| status.image_id.clone())
        .unwrap_or_default();
    if image.is_empty() {
        Err("the sidecar has no image id".to_owned())
    } else {
        Ok(())
    }
}

fn init_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status
        .as_ref()?
        .init_container_statuses
        .as_ref()?
        .iter()
        .find(|status| status.name == name)
}
