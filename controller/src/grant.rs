//! CREDENTIALBINDING, GRANTPOLICY → STATUS. Observe → status → write, once for a generation.
//!
//! In: the stores. Out: one status write where it says something new. Nothing is granted yet: no credential, no push.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_crds::{CredentialBinding, CredentialBindingStatus, GrantPolicy, GrantPolicyStatus, label};
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::status::{Said, status};
use crate::context::{Context, NotLeading};
use crate::telemetry::chain;
use crate::watch::{Caches, Name};
use crate::work::Outcome;

pub mod status;

/// A kind of this stage.
pub trait Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync {
    /// Label of its passes in metrics and the log.
    const PASS: &str;
    /// The object of that name, as cached.
    fn cached(caches: &Caches, name: &Name) -> Option<Arc<Self>>;
    /// The API that the object of that name is written by.
    fn api(client: &Client, name: &Name) -> Api<Self>;
    /// What its status says.
    fn said(&self) -> Said;
    /// The same object with this said of it; the rest of its status stays.
    #[must_use]
    fn with(&self, said: Said) -> Self;
}

impl Kind for CredentialBinding {
    const PASS: &str = "binding";

    fn cached(caches: &Caches, name: &Name) -> Option<Arc<Self>> {
        caches.binding(name)
    }

    fn api(client: &Client, name: &Name) -> Api<Self> {
        Api::namespaced(client.clone(), &name.namespace)
    }

    fn said(&self) -> Said {
        self.status.clone().map_or_else(Said::default, |status| Said {
            generation: status.observed_generation,
            conditions: status.conditions,
        })
    }

    fn with(&self, said: Said) -> Self {
        let status = CredentialBindingStatus {
            observed_generation: said.generation,
            conditions: said.conditions,
            ..self.status.clone().unwrap_or_default()
        };
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

impl Kind for GrantPolicy {
    const PASS: &str = "policy";

    fn cached(caches: &Caches, name: &Name) -> Option<Arc<Self>> {
        caches.policy(name)
    }

    fn api(client: &Client, _: &Name) -> Api<Self> {
        Api::all(client.clone())
    }

    fn said(&self) -> Said {
        self.status.clone().map_or_else(Said::default, |status| Said {
            generation: status.observed_generation,
            conditions: status.conditions,
        })
    }

    fn with(&self, said: Said) -> Self {
        let status = GrantPolicyStatus {
            observed_generation: said.generation,
            conditions: said.conditions,
        };
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

/// A write that failed, or the loss of the Lease.
#[derive(Debug, thiserror::Error)]
pub enum GrantFailure {
    /// Another replica leads.
    #[error("this replica doesn't lead")]
    NotLeading(#[from] NotLeading),
    /// The status couldn't be written.
    #[error("failed to write the status")]
    WriteStatus(#[source] Box<kube::Error>),
}

impl GrantFailure {
    /// Whether the object was written by somebody else meanwhile: nothing failed, the next pass sees it.
    fn is_overtaken(&self) -> bool {
        let Self::WriteStatus(source) = self else { return false };
        matches!(&**source, kube::Error::Api(status) if ["Conflict", "NotFound"].contains(&status.reason.as_str()))
    }
}

/// Looks at one binding or policy.
pub async fn reconcile<K: Kind>(context: Arc<Context>, name: Name) -> Outcome {
    let began = Instant::now();
    let outcome = match pass::<K>(&context, &name).await {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_overtaken() => Outcome::Again(OVERTAKEN),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                kind = K::PASS,
                namespace = name.namespace,
                name = name.name,
                error,
                "pass failed"
            );
            Outcome::Failed
        }
    };
    context.metrics.reconcile.observe(K::PASS, outcome, began.elapsed());
    outcome
}

async fn pass<K: Kind>(context: &Context, name: &Name) -> Result<(), GrantFailure> {
    let Some(object) = K::cached(&context.caches, name) else {
        return Ok(());
    };
    if object.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    let generation = object.meta().generation.unwrap_or(0);
    let Some(said) = status(&K::kind(&()), generation, &object.said(), context.clock.now()) else {
        return Ok(());
    };
    context.check_leading()?;
    // On the version that was looked at: a newer object refuses the write.
    let params = PostParams {
        field_manager: Some(label::MANAGER.to_owned()),
        ..PostParams::default()
    };
    let api = K::api(&context.client, name);
    let written = api
        .replace_status(&object.name_any(), &params, &object.with(said))
        .await;
    written
        .map(drop)
        .map_err(|error| GrantFailure::WriteStatus(Box::new(error)))
}

/// Somebody else wrote the object; the watch brings it within this time.
const OVERTAKEN: Duration = Duration::from_millis(50);
