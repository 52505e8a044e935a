//! Bindings and policies: their statuses are written once for a generation.

use anyhow::{Context as _, Result};
use berth_crds::{CredentialBinding, GrantPolicy};
use berth_e2e::{PATIENCE, Team, audit, cluster};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

fn binding(name: &str, reason: &str) -> Value {
    let source = json!({ "secretRef": { "name": "token", "key": "value" } });
    let inject = json!({ "header": { "name": "Authorization", "forms": ["Bearer {}"] } });
    let spec = json!({
        "credential": { "name": "TOKEN", "source": source }, "subjects": { "sessionNames": ["s"] }, "reason": reason,
        "routes": [{ "name": "api", "host": "api.example.com", "inject": inject }],
    });
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec })
}

fn policy(name: &str) -> String {
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "GrantPolicy", "metadata": { "name": name }, "spec": {} })
        .to_string()
}

/// `Ready` for this generation and this reason.
fn says_so(conditions: &[Condition], observed: i64, generation: i64, (status, reason): (&str, &str)) -> bool {
    let is = |it: &Condition| {
        (it.type_.as_str(), it.status.as_str(), it.reason.as_str()) == ("Ready", status, reason)
            && it.observed_generation == Some(generation)
    };
    observed == generation && conditions.iter().any(is)
}

async fn binding_says(team: &Team, name: &str, generation: i64) -> Result<CredentialBinding> {
    team.wait::<CredentialBinding>(name, "NotInSource", PATIENCE, |binding| {
        let status = binding.status.clone().unwrap_or_default();
        says_so(
            &status.conditions,
            status.observed_generation,
            generation,
            ("False", "NotInSource"),
        )
    })
    .await
}

#[tokio::test]
async fn a_binding_says_once_for_each_generation_why_it_grants_nothing() -> Result<()> {
    let team = Team::create(&cluster().await?, "binding").await?;
    team.apply(&binding("first", "a test")).await?;
    binding_says(&team, "first", 1).await?;

    // It is looked at again, and the next one's status shows that this has happened.
    team.kubectl(&["label", "credentialbinding", "first", "again=yes"])?;
    let labelled = team.api::<CredentialBinding>().get("first").await?;
    team.apply(&binding("second", "a test")).await?;
    binding_says(&team, "second", 1).await?;
    let later = team.api::<CredentialBinding>().get("first").await?;
    assert_eq!(labelled.resource_version(), later.resource_version());

    team.apply(&binding("first", "another reason")).await?;
    binding_says(&team, "first", 2).await?;
    let mut written: Vec<(String, u16)> = audit::requests(&team.cluster, &team.namespace, "credentialbindings/status")?
        .iter()
        .map(|request| (request.name().to_owned(), request.code()))
        .collect();
    written.sort();
    let first = ("first".to_owned(), 200);
    assert_eq!(written, [first.clone(), first, ("second".to_owned(), 200)]);
    let table = team.kubectl(&["get", "credentialbindings"])?;
    assert!(table.contains("NotInSource"), "{table}");
    team.end().await
}

#[tokio::test]
async fn a_policy_says_once_that_it_is_in_force() -> Result<()> {
    let team = Team::create(&cluster().await?, "policy").await?;
    let name = team.namespace.clone();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), policy(&name))?;
    let path = file.path().to_str().context("a path")?;
    team.kubectl(&["apply", "--server-side", "--filename", path])?;
    let policies: Api<GrantPolicy> = Api::all(team.cluster.client.clone());
    let said = policy_says(&policies, &name).await;
    // Cluster-wide: it doesn't go with the namespace.
    policies.delete(&name, &DeleteParams::default()).await?;
    said?;
    let written = audit::requests(&team.cluster, "", "grantpolicies/status")?;
    assert_eq!(written.iter().filter(|request| request.name() == name).count(), 1);
    team.end().await
}

async fn policy_says(policies: &Api<GrantPolicy>, name: &str) -> Result<()> {
    let says = |policy: Option<&GrantPolicy>| {
        let status = policy.and_then(|policy| policy.status.clone()).unwrap_or_default();
        says_so(
            &status.conditions,
            status.observed_generation,
            1,
            ("True", "PolicyReady"),
        )
    };
    tokio::time::timeout(PATIENCE, await_condition(policies.clone(), name, says))
        .await
        .context("the policy says nothing")??;
    Ok(())
}
