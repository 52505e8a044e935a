//! STREAM → VAULT, and AUDIT → STREAM. What the controller grants becomes the vault's offer, under the stubs that the
//! agent has; what was used goes the other way until it is stored.

use std::collections::{BTreeMap, HashMap};
use std::string::FromUtf8Error;
use std::sync::Arc;
use std::time::Duration;

use berth_egress::policy::Policy;
use berth_protocol::control::{self, AwsIdentity, Grants, Trail};
use berth_protocol::environment::aws_secret_name;
use secrecy::SecretString;
use tokio::sync::watch;

use super::bond::{Bond, ForVault};
use crate::clock::Boottime;
use crate::proxy::Proxy;
use crate::vault::{Holder, Offer, Value};

/// The stream's side of the proxy.
pub struct VaultLink {
    proxy: Arc<Proxy>,
}

impl VaultLink {
    /// Of this proxy.
    pub fn new(proxy: Arc<Proxy>) -> Self {
        Self { proxy }
    }

    /// Does what the controller says.
    pub fn take(&self, told: ForVault, bond: &Bond) {
        match told {
            ForVault::Grants(grants, stubs, ack) => {
                self.proxy.meter.adopt(grants.budget.clone().map(Into::into));
                self.adopt(offer(*grants, &stubs));
                bond.granted(ack);
            }
            ForVault::Prolong(control::Prolong { lease_ms, .. }) => {
                self.proxy
                    .vault
                    .prolong(Boottime::now().after(Duration::from_millis(lease_ms)));
            }
            ForVault::Close => self.adopt(Offer::nothing()),
            ForVault::Stored(position) => {
                if let Err(error) = self.proxy.audit.sink().acknowledge(position) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the audit trail wasn't shortened"
                    );
                }
            }
        }
    }

    fn adopt(&self, offer: Offer) {
        let problems = self.proxy.adopt(offer);
        for problem in problems {
            tracing::warn!(
                error = &problem as &dyn std::error::Error,
                "a part of the grants is left out"
            );
        }
    }

    /// The record that follows `position`, while the pod serves a session.
    pub fn record_after(&self, position: u64, bond: &Bond) -> Option<Trail> {
        let incarnation = bond.incarnation()?;
        let (position, record) = self.proxy.audit.sink().after(position)?;
        Some(Trail {
            incarnation,
            position,
            record: serde_json::to_vec(&record).ok()?,
        })
    }

    /// Changes whenever a record was written.
    pub fn written(&self) -> watch::Receiver<()> {
        self.proxy.audit.written()
    }
}

/// A policy that can't be read allows nothing: a controller of another release may say what this one doesn't know.
fn offer(grants: Grants, stubs: &BTreeMap<String, String>) -> Offer {
    let now = Boottime::now();
    let mut policy: Policy = match serde_json::from_slice(&grants.policy) {
        Ok(policy) => policy,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the grants can't be read; nothing is allowed"
            );
            return Offer::nothing();
        }
    };
    for credential in &mut policy.credentials {
        if let Some(stub) = stubs.get(&credential.name) {
            credential.stub.clone_from(stub);
        }
        if let Some(stub) = stubs.get(&aws_secret_name(&credential.name))
            && let Some(held) = &mut credential.secret_stub
        {
            held.clone_from(stub);
        }
    }
    let mut values = HashMap::new();
    for value in grants.values {
        let Ok(secret) = String::from_utf8(value.secret) else {
            tracing::warn!(credential = value.credential, "a value that isn't text is left out");
            continue;
        };
        let Ok(holder) = holder(value.aws, value.username) else {
            tracing::warn!(credential = value.credential, "a value that isn't text is left out");
            continue;
        };
        let remaining = Some(value.remaining_ms).filter(|remaining| *remaining > 0);
        let held = Value {
            secret: SecretString::from(secret),
            holder,
            grant: value.grant.into(),
            until: remaining.map(|remaining| now.after(Duration::from_millis(remaining))),
        };
        values.insert(value.credential, held);
    }
    Offer {
        policy,
        values,
        lease: Some(now.after(Duration::from_millis(grants.lease_ms))),
        drains: grants
            .drains
            .into_iter()
            .map(|drain| (drain.route, Duration::from_secs(drain.seconds.into())))
            .collect(),
        cut: grants.cut,
    }
}

fn holder(aws: Option<AwsIdentity>, username: String) -> Result<Holder, FromUtf8Error> {
    let Some(aws) = aws else {
        return Ok(if username.is_empty() {
            Holder::None
        } else {
            Holder::User(username)
        });
    };
    let token = String::from_utf8(aws.session_token)?;
    Ok(Holder::Aws {
        access_key: aws.access_key_id,
        session_token: Some(token).filter(|token| !token.is_empty()).map(SecretString::from),
    })
}
