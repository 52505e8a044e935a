//! What a session may spend on models, as the controller tells its sidecar.

use serde::Serialize;

use crate::control;
use crate::money::Pico;

/// What a session may spend.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Budget {
    /// Over its whole life.
    pub limit: Pico,
    /// In earlier pods.
    pub spent: Pico,
    /// By how much less this pod has spent than its sidecar counts: what requests may have cost at most is settled by the
    /// gateway's own figure.
    pub credit: Pico,
    /// Credentials whose requests are counted.
    pub credentials: Vec<String>,
    /// Of the models of their gateways.
    pub prices: Vec<Price>,
}

/// What one token of a model costs.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Price {
    /// Name of the model, as requests say it.
    pub model: String,
    /// Of the prompt.
    pub input: Pico,
    /// Of the answer.
    pub output: Pico,
    /// Of the prompt, read from the provider's cache.
    pub cache_read: Pico,
    /// Of the prompt, written to it.
    pub cache_write: Pico,
    /// Most tokens that it answers with.
    pub output_max: u64,
}

impl From<&Budget> for control::Budget {
    fn from(budget: &Budget) -> Self {
        let price = |price: &Price| control::Price {
            model: price.model.clone(),
            input: price.input.0,
            output: price.output.0,
            cache_read: price.cache_read.0,
            cache_write: price.cache_write.0,
            output_max: price.output_max,
        };
        Self {
            limit: budget.limit.0,
            spent: budget.spent.0,
            credit: budget.credit.0,
            credentials: budget.credentials.clone(),
            prices: budget.prices.iter().map(price).collect(),
        }
    }
}

impl From<control::Budget> for Budget {
    fn from(told: control::Budget) -> Self {
        let price = |price: control::Price| Price {
            model: price.model,
            input: Pico(price.input),
            output: Pico(price.output),
            cache_read: Pico(price.cache_read),
            cache_write: Pico(price.cache_write),
            output_max: price.output_max,
        };
        Self {
            limit: Pico(told.limit),
            spent: Pico(told.spent),
            credit: Pico(told.credit),
            credentials: told.credentials,
            prices: told.prices.into_iter().map(price).collect(),
        }
    }
}
