//! A stand-in of LiteLLM: its key routes, its list of prices and, for the keys that those made, one route with a played
//! model. LiteLLM's
//! own routes need its database engine (Prisma's), which comes from no package registry. Shapes, refusals and the order of
//! the checks are those of its source, litellm/proxy/management_endpoints/key_management_endpoints.py of 1.110.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::origin::{Answer, Authority, Origin, Seen};

/// A running stand-in.
pub struct LiteLlmStandIn {
    /// Where it listens, and what it got.
    pub origin: Origin,
    gateway: Arc<Mutex<Gateway>>,
}

/// What it has.
#[derive(Default)]
struct Gateway {
    /// Keys by their values.
    keys: BTreeMap<String, Map<String, Value>>,
    /// `upperbound_key_generate_params.max_budget` of its configuration.
    most: Option<f64>,
    fault: Option<Fault>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The connection ends without an answer.
    Away,
    /// The database is gone.
    Broken,
    /// A key is made, and the answer lost.
    Forgets,
    /// It is another server.
    Other,
}

impl LiteLlmStandIn {
    /// With no key yet.
    pub async fn start(authority: &Authority, names: &[&str]) -> Result<Self> {
        let gateway: Arc<Mutex<Gateway>> = Arc::default();
        let asked = Arc::clone(&gateway);
        let answer: Answer = Arc::new(move |seen| asked.lock().answer(seen));
        Ok(Self {
            origin: Origin::http1(authority, names, answer).await?,
            gateway,
        })
    }

    /// From now on.
    pub fn fails_with(&self, fault: Option<Fault>) {
        self.gateway.lock().fault = fault;
    }

    /// No key may have more.
    pub fn limit_budgets(&self, most: f64) {
        self.gateway.lock().most = Some(most);
    }

    /// The keys, by their values.
    pub fn keys(&self) -> BTreeMap<String, Map<String, Value>> {
        self.gateway.lock().keys.clone()
    }

    /// Paths of what was asked so far, without queries.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.origin.requests();
        let path = |seen: &Seen| seen.target().split('?').next().unwrap_or_default().to_owned();
        requests.iter().map(path).collect()
    }
}

impl Gateway {
    fn answer(&mut self, seen: &Seen) -> Option<Vec<u8>> {
        match self.fault {
            Some(Fault::Away) => None,
            Some(Fault::Broken) => Some(refuse(500, "DB not connected", "internal_server_error", None)),
            Some(Fault::Other) => Some(respond(404, &json!({"detail": "Not Found"}))),
            Some(Fault::Forgets) => {
                self.route(seen);
                None
            }
            None => Some(self.route(seen)),
        }
    }

    fn route(&mut self, seen: &Seen) -> Vec<u8> {
        let key = seen.header("authorization").unwrap_or_default();
        let key = key.strip_prefix("Bearer ").unwrap_or_default();
        let (path, query) = seen.target().split_once('?').unwrap_or_else(|| (seen.target(), ""));
        if path == "/v1/chat/completions" {
            return self.complete(key, &body(seen));
        }
        if key != ADMIN {
            let message = "Authentication Error, Invalid proxy server token passed. Unable to find token in cache or `LiteLLM_VerificationTable`";
            return refuse(401, message, "token_not_found_in_db", Some("key"));
        }
        match path {
            "/key/generate" => self.generate(body(seen)),
            "/key/update" => self.update(body(seen)),
            "/key/delete" => self.delete(&body(seen)),
            "/key/aliases" => self.aliases(query),
            "/key/info" => self.info(query),
            "/model/info" => respond(200, &prices()),
            _ => respond(404, &json!({"detail": "Not Found"})),
        }
    }

    fn generate(&mut self, mut asked: Map<String, Value>) -> Vec<u8> {
        if let Some(refusal) = self.over_budget(&asked).or_else(|| self.other_alias(&asked, None)) {
            return refusal;
        }
        let Some(key) = asked.remove("key").and_then(|key| key.as_str().map(str::to_owned)) else {
            return refuse(400, "{'error': 'no key'}", "bad_request_error", Some("key"));
        };
        if !key.starts_with("sk-") || key.len() < 16 {
            let message = "{'error': \"Invalid key format. LiteLLM Virtual Key must start with 'sk-'.\"}";
            return refuse(400, message, "bad_request_error", Some("key"));
        }
        if asked.remove("key_type") == Some(json!("llm_api")) {
            asked.insert("allowed_routes".to_owned(), json!(["llm_api_routes"]));
        }
        // An upsert that changes nothing of what is there.
        let row = self.keys.entry(key.clone()).or_insert_with(|| {
            asked.insert("spend".to_owned(), json!(0.0));
            asked
        });
        let mut said = row.clone();
        said.insert("token_id".to_owned(), json!("hash"));
        said.insert("key_name".to_owned(), json!(format!("sk-...{}", &key[key.len() - 4..])));
        said.insert("key".to_owned(), json!(key));
        respond(200, &Value::Object(said))
    }

    fn update(&mut self, mut asked: Map<String, Value>) -> Vec<u8> {
        let key = asked.remove("key").unwrap_or_default();
        let key = key.as_str().unwrap_or_default().to_owned();
        if !self.keys.contains_key(&key) {
            return refuse(404, "Key not found.", "not_found_error", Some("key"));
        }
        if let Some(refusal) = self
            .over_budget(&asked)
            .or_else(|| self.other_alias(&asked, Some(&key)))
        {
            return refusal;
        }
        let row = self.keys.entry(key.clone()).or_default();
        row.extend(asked); // a merge patch, in which null stands for nothing
        let mut said = row.clone();
        said.insert("key".to_owned(), json!(key));
        respond(200, &Value::Object(said))
    }

    fn delete(&mut self, asked: &Map<String, Value>) -> Vec<u8> {
        let named = |field: &str, value: &str| {
            let list = asked.get(field).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|named| named == value))
        };
        let before = self.keys.len();
        self.keys.retain(|key, row| {
            let alias = row.get("key_alias").and_then(Value::as_str).unwrap_or_default();
            !named("keys", key) && !named("key_aliases", alias)
        });
        if self.keys.len() == before {
            return refuse(404, "{'error': 'No keys found'}", "not_found_error", None);
        }
        let deleted = asked.get("key_aliases").or_else(|| asked.get("keys"));
        respond(200, &json!({"deleted_keys": deleted}))
    }

    fn info(&self, query: &str) -> Vec<u8> {
        let named = query.strip_prefix("key=").unwrap_or_default();
        let found = self
            .keys
            .iter()
            .find(|(key, _)| hex::encode(Sha256::digest(key)) == named);
        match found {
            Some((_, row)) => respond(200, &json!({"key": named, "info": row})),
            None => refuse(404, "Key not found in database", "not_found_error", Some("key")),
        }
    }

    fn aliases(&self, query: &str) -> Vec<u8> {
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.clone().find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        let number = |name: &str, default| parameter(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let (page, size): (usize, usize) = (number("page", 1), number("size", 50));
        let search = parameter("search").unwrap_or_default().to_lowercase();
        let aliases = self.keys.values().filter_map(|row| row.get("key_alias")?.as_str());
        let mut aliases: Vec<&str> = aliases.filter(|alias| alias.to_lowercase().contains(&search)).collect();
        aliases.sort_unstable();
        let some: Vec<&str> = aliases.iter().skip((page - 1) * size).take(size).copied().collect();
        let said = json!({
            "aliases": some, "total_count": aliases.len(), "current_page": page,
            "total_pages": aliases.len().div_ceil(size), "size": size,
        });
        respond(200, &said)
    }

    /// A model that always says the same, for a key that may use it.
    fn complete(&mut self, key: &str, asked: &Map<String, Value>) -> Vec<u8> {
        let Some(row) = self.keys.get_mut(key) else {
            let message = "Authentication Error, Invalid proxy server token passed.";
            return refuse(401, message, "token_not_found_in_db", Some("key"));
        };
        if row.get("blocked") == Some(&json!(true)) {
            let message = "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin.";
            return refuse(401, message, "auth_error", None);
        }
        let model = asked.get("model").cloned().unwrap_or_default();
        let models = row.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
        if !models.is_empty() && !models.contains(&model) {
            let message = format!("key not allowed to access model. This key can only access models={models:?}.");
            return refuse(401, &message, "key_model_access_denied", Some("model"));
        }
        let message = json!({"role": "assistant", "content": "played"});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let usage = json!({"prompt_tokens": PROMPT, "completion_tokens": ANSWER, "total_tokens": PROMPT + ANSWER});
        let spent = row.get("spend").and_then(Value::as_f64).unwrap_or_default();
        row.insert("spend".to_owned(), json!(spent + COST));
        let mut said = json!({"object": "chat.completion", "model": model, "choices": [choice]});
        // There are providers that don't say.
        if asked.get("user") != Some(&json!(UNTOLD)) {
            said["usage"] = usage;
        }
        respond(200, &said)
    }

    fn over_budget(&self, asked: &Map<String, Value>) -> Option<Vec<u8>> {
        let (budget, most) = (asked.get("max_budget")?.as_f64()?, self.most?);
        let message = format!(
            "{{'error': 'max_budget is over max limit set in config - user_value={budget}; max_value={most}'}}"
        );
        (budget > most).then(|| refuse(400, &message, "bad_request_error", None))
    }

    fn other_alias(&self, asked: &Map<String, Value>, own: Option<&str>) -> Option<Vec<u8>> {
        let alias = asked.get("key_alias")?;
        let mut others = self.keys.iter().filter(|(key, _)| Some(key.as_str()) != own);
        others.find(|(_, row)| row.get("key_alias") == Some(alias))?;
        let alias = alias.as_str().unwrap_or_default();
        let message =
            format!("Key with alias '{alias}' already exists. Unique key aliases across all keys are required.");
        Some(refuse(400, &message, "bad_request_error", Some("key_alias")))
    }
}

/// What the played model costs, as LiteLLM lists it.
fn prices() -> Value {
    let info = json!({
        "input_cost_per_token": INPUT_COST, "output_cost_per_token": OUTPUT_COST, "max_output_tokens": 1000,
    });
    json!({"data": [{"model_name": "gpt-fake", "litellm_params": {"model": "gpt-fake"}, "model_info": info}]})
}

fn body(seen: &Seen) -> Map<String, Value> {
    serde_json::from_slice(&seen.body).unwrap_or_default()
}

fn refuse(status: u16, message: &str, kind: &str, param: Option<&str>) -> Vec<u8> {
    let error = json!({"message": message, "type": kind, "param": param, "code": status.to_string()});
    respond(status, &json!({ "error": error }))
}

fn respond(status: u16, said: &Value) -> Vec<u8> {
    let said = said.to_string();
    let head = format!(
        "HTTP/1.1 {status} As Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        said.len()
    );
    [head.as_bytes(), said.as_bytes()].concat()
}

/// Tokens of every prompt, and of every answer.
const PROMPT: u64 = 10;
const ANSWER: u64 = 9;
const INPUT_COST: f64 = 1e-4;
const OUTPUT_COST: f64 = 1e-3;
/// Who asks as this user isn't told what an answer used.
pub const UNTOLD: &str = "untold";
/// What every answer costs, in dollars.
pub const COST: f64 = 0.01;
/// Its admin key.
pub const ADMIN: &str = "sk-fake-admin-key-0123456789";
