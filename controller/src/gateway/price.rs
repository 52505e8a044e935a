//! Pure: what a gateway says that its models cost: LiteLLM's `GET /model/info`
//! (litellm/proxy/proxy_server.py, `model_info_v1`), where each deployment of a model has an entry.

use std::collections::BTreeMap;

use berth_protocol::budget::Price;
use berth_protocol::money::Pico;
use serde_json::Value;

/// The models that have a price; of several deployments of one the dearest counts. `None` for an answer of something else.
pub fn read(answer: &Value) -> Option<Vec<Price>> {
    let entries = answer.get("data")?.as_array()?;
    let mut prices: BTreeMap<String, Price> = BTreeMap::new();
    for price in entries.iter().filter_map(one) {
        prices
            .entry(price.model.clone())
            .and_modify(|known| raise(known, &price))
            .or_insert(price);
    }
    Some(prices.into_values().collect())
}

fn one(entry: &Value) -> Option<Price> {
    let info = entry.get("model_info")?;
    let cost = |name: &str| Pico::from_dollars(info.get(name)?.as_f64()?);
    let most = |name: &str| info.get(name).and_then(Value::as_u64);
    let input = cost("input_cost_per_token")?;
    Some(Price {
        model: entry.get("model_name")?.as_str()?.to_owned(),
        input,
        output: cost("output_cost_per_token")?,
        cache_read: cost("cache_read_input_token_cost").unwrap_or(input),
        cache_write: cost("cache_creation_input_token_cost").unwrap_or(input),
        output_max: most("max_output_tokens")
            .or_else(|| most("max_tokens"))
            .unwrap_or(OUTPUT_MAX),
    })
}

fn raise(known: &mut Price, other: &Price) {
    known.input = known.input.max(other.input);
    known.output = known.output.max(other.output);
    known.cache_read = known.cache_read.max(other.cache_read);
    known.cache_write = known.cache_write.max(other.cache_write);
    known.output_max = known.output_max.max(other.output_max);
}

/// Where a gateway doesn't say: the longest answer of any model that LiteLLM's own price list has.
const OUTPUT_MAX: u64 = 128_000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_dearest_deployment_counts_and_what_has_no_price_is_left_out() {
        let entry = |model: &str, info: Value| json!({ "model_name": model, "litellm_params": {}, "model_info": info });
        let answer = json!({ "data": [
            entry("a", json!({ "input_cost_per_token": 3e-6, "output_cost_per_token": 1.5e-5, "max_output_tokens": 8192 })),
            entry("a", json!({ "input_cost_per_token": 2.5e-6, "output_cost_per_token": 2e-5, "max_tokens": 4096,
                "cache_creation_input_token_cost": 3.75e-6 })),
            entry("b", json!({ "input_cost_per_token": null, "output_cost_per_token": 1e-6 })),
            entry("c", json!({ "input_cost_per_token": 0, "output_cost_per_token": 0.0 })),
        ] });
        let a = Price {
            model: "a".to_owned(),
            input: Pico(3_000_000),
            output: Pico(20_000_000),
            cache_read: Pico(3_000_000),
            cache_write: Pico(3_750_000),
            output_max: 8192,
        };
        let c = Price {
            model: "c".to_owned(),
            output_max: OUTPUT_MAX,
            ..Price::default()
        };
        assert_eq!(read(&answer), Some(vec![a, c]));
        assert_eq!(read(&json!({ "detail": "Not Found" })), None);
    }
}
