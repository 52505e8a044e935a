//! A stand-in of the Kubernetes API's two routes for one Secret: no API server runs beside `cargo test`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_gallery::origin::{Answer, Origin, Seen};
use kube::{Client, Config};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// What the stand-in of the Kubernetes API holds: one Secret, and whether it may be patched.
pub(crate) struct Kept {
    pub(crate) data: BTreeMap<String, String>,
    pub(crate) version: u64,
    pub(crate) may_patch: bool,
    /// Changes that somebody else makes before the next patches.
    pub(crate) overtaken: u64,
}

/// The Secret of a client, behind its stand-in of an API.
pub(crate) struct Secret {
    pub(crate) kept: Arc<Mutex<Kept>>,
    pub(crate) client: Client,
    _stand_in: Origin,
}

impl Secret {
    pub(crate) async fn new(data: &[(&str, &str)]) -> Result<Self> {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let kept = Arc::new(Mutex::new(Kept {
            data: data.collect(),
            version: 1,
            may_patch: true,
            overtaken: 0,
        }));
        let held = Arc::clone(&kept);
        let answer: Answer = Arc::new(move |seen| Some(held.lock().answer(seen)));
        let stand_in = Origin::plain(answer).await?;
        let url = format!("http://{}", stand_in.address);
        Ok(Self {
            kept,
            client: Client::try_from(Config::new(url.parse()?))?,
            _stand_in: stand_in,
        })
    }

    pub(crate) fn value(&self, key: &str) -> String {
        self.kept.lock().data.get(key).cloned().unwrap_or_default()
    }
}

impl Kept {
    fn answer(&mut self, seen: &Seen) -> Vec<u8> {
        let (status, body) = self.answered(seen);
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn answered(&mut self, seen: &Seen) -> (u16, Value) {
        if seen.target().split('?').next() != Some("/api/v1/namespaces/team-a/secrets/oauth") {
            return failure(404, "NotFound");
        }
        if seen.head.starts_with("PATCH") {
            if !self.may_patch {
                return failure(403, "Forbidden");
            }
            if self.overtaken > 0 {
                self.overtaken -= 1;
                self.version += 1;
            }
            let patch: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            if patch["metadata"]["resourceVersion"] != json!(self.version.to_string()) {
                return failure(409, "Conflict");
            }
            for (key, value) in patch["data"].as_object().into_iter().flatten() {
                let value = BASE64_STANDARD
                    .decode(value.as_str().unwrap_or_default())
                    .unwrap_or_default();
                self.data
                    .insert(key.clone(), String::from_utf8_lossy(&value).into_owned());
            }
            self.version += 1;
        }
        let data = self
            .data
            .iter()
            .map(|(key, value)| (key.clone(), json!(BASE64_STANDARD.encode(value))));
        let data: serde_json::Map<String, Value> = data.collect();
        let metadata = json!({ "name": "oauth", "uid": "u", "resourceVersion": self.version.to_string() });
        (
            200,
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data }),
        )
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code });
    (code, status)
}
