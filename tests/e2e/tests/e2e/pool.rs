//! Pools: blue/green, what admission refuses, what a pool says of itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{AgentPool, AgentSession, Phase};
use berth_e2e::audit::BERTH;
use berth_e2e::{PATIENCE, Team, cluster};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

fn current(pool: &AgentPool) -> Option<String> {
    pool.status.as_ref().and_then(|status| status.current.clone())
}

#[tokio::test]
async fn a_change_drains_the_old_pair_and_leaves_bound_sessions_alone() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "roll", 1).await?;
    team.session("old", "echo started; sleep 600").await?;
    let bound = team.phase("old", Phase::Running).await?;
    let before = current(&team.api::<AgentPool>().get("pool").await?).context("a current pair")?;

    let mut pool = team.pool(1);
    pool["spec"]["resources"] = json!({ "requests": { "cpu": "15m" } });
    team.apply(&pool).await?;
    let rolled = team
        .wait::<AgentPool>("pool", "new pair", Duration::from_mins(2), |pool| {
            current(pool).is_some_and(|name| name != before)
        })
        .await?;
    let draining = rolled.status.map(|status| status.draining).unwrap_or_default();
    assert_eq!(
        draining,
        [before],
        "the old pair stays while a session holds its sandbox"
    );
    assert_eq!(
        team.pod_of(&bound).await?.uid(),
        team.pod_of(&team.phase("old", Phase::Running).await?).await?.uid()
    );

    team.session("new", "true").await?;
    team.phase("new", Phase::Succeeded).await?;
    team.kubectl(&["delete", "agentsession", "old"])?;
    team.wait::<AgentPool>("pool", "end of the old pair", Duration::from_mins(2), |pool| {
        pool.status.as_ref().is_some_and(|status| status.draining.is_empty())
    })
    .await?;
    team.end().await
}

#[tokio::test]
async fn a_namespace_that_refuses_the_pod_is_quoted() -> Result<()> {
    let team = Team::create(&cluster().await?, "refused").await?;
    let namespaces: Api<Namespace> = Api::all(team.cluster.client.clone());
    let enforce = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    namespaces
        .patch(&team.namespace, &PatchParams::default(), &Patch::Merge(&enforce))
        .await?;
    team.apply(&team.pool(1)).await?;
    let stalled = |pool: &AgentPool| {
        let conditions = pool
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|it| it.type_ == "Stalled" && it.message.contains("PodSecurity") && it.message.contains("fence"))
    };
    team.wait::<AgentPool>("pool", "refusal", PATIENCE, stalled).await?;
    team.end().await
}

/// Puts this CA where the namespace's sidecars look for the controller's, and gives the one that was there.
async fn trust(team: &Team, authority: &str) -> Result<String> {
    let maps = team.api::<ConfigMap>();
    let before = maps.get("berth-ca").await?.data.unwrap_or_default();
    let patch = json!({ "data": { "ca.crt": authority } });
    maps.patch("berth-ca", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    before.get("ca.crt").cloned().context("berth-ca has a CA")
}

fn stalled_for(pool: &AgentPool, reason: &str) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice());
    let is = |it: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        (it.type_.as_str(), it.status.as_str(), it.reason.as_str()) == ("Stalled", "True", reason)
    };
    conditions.unwrap_or_default().iter().any(is)
}

#[tokio::test]
async fn a_pool_whose_sandboxes_do_not_attach_burns_no_claims_and_harms_no_other() -> Result<()> {
    let team = Team::create(&cluster().await?, "breaker").await?;
    team.warm(&team.pool_named("other", 1)).await?;
    let mut pool = team.pool(0);
    pool["spec"]["startupDeadline"] = "15s".into();
    team.warm(&pool).await?;
    // A CA that did not sign the controller's certificate: sidecars start, and refuse the stream.
    let foreign = team
        .wait::<ConfigMap>("kube-root-ca.crt", "CA", PATIENCE, |_| true)
        .await?;
    let foreign = foreign
        .data
        .and_then(|data| data.get("ca.crt").cloned())
        .context("a CA")?;
    let ours = trust(&team, &foreign).await?;

    for number in 0..5 {
        team.session(&format!("s-{number}"), "true").await?;
    }
    let broken = |pool: &AgentPool| stalled_for(pool, "SandboxesDoNotAttach");
    team.wait::<AgentPool>("pool", "breaker", PATIENCE, broken).await?;
    team.session("late", "true").await?;
    for name in ["s-0", "s-1", "s-2", "s-3", "s-4", "late"] {
        team.condition(name, "Ready", "False", "SandboxesDoNotAttach").await?;
    }
    let claims = team.claims().list(&ListParams::default()).await?;
    let claims: Vec<String> = claims
        .iter()
        .filter(|claim| claim.metadata.deletion_timestamp.is_none())
        .map(ResourceExt::name_any)
        .collect();
    assert!(claims.len() <= 1, "half a minute later one tries: {claims:?}");
    let late = team.api::<AgentSession>().get("late").await?;
    assert_eq!(
        late.status.map(|status| (status.incarnation, status.failed_binds)),
        Some((0, 0))
    );
    team.session_of("other", "beside", "true", &json!({})).await?;
    team.phase("beside", Phase::Succeeded).await?;

    // Mended, the pool is tried again after half a minute.
    trust(&team, &ours).await?;
    for name in ["s-0", "s-1", "s-2", "s-3", "s-4", "late"] {
        let ended =
            |session: &AgentSession| session.status.as_ref().and_then(|status| status.phase) == Some(Phase::Succeeded);
        team.wait::<AgentSession>(name, "success", Duration::from_mins(2), ended)
            .await?;
    }
    team.wait::<AgentPool>("pool", "recovery", PATIENCE, |pool| !broken(pool))
        .await?;
    team.end().await
}

/// Admission lets agent-sandbox write templates: the test is what would have taken it over, and Berth is kept from mending
/// the template until a session was refused a pod of it.
#[tokio::test]
async fn a_pod_of_an_edited_template_is_never_bound_and_the_template_is_mended() -> Result<()> {
    let team = Team::create(&cluster().await?, "edited").await?;
    let pair = current(&team.warm(&team.pool(0)).await?).context("a pair")?;
    let keep = Keep::from_writing_templates(&team).await?;
    let edit = |patch: &str, dry: &[&str]| {
        let account = "--as=system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
        let group = "--as-group=system:masters";
        let patch = [
            "patch",
            "sandboxtemplate",
            &pair,
            "--type=json",
            "-p",
            patch,
            account,
            group,
        ];
        team.kubectl(&[&patch, dry].concat())
    };
    edit(
        r#"[{"op":"add","path":"/spec/podTemplate/spec/containers/0/env","value":[{"name":"X","value":"1"}]}]"#,
        &[],
    )?;
    team.session("s", "true").await?;
    let session = team.condition("s", "Ready", "False", "PodNotAsRendered").await?;
    let status = session.status.context("a status")?;
    let said = berth_crds::condition::find(&status.conditions, berth_crds::ConditionType::Ready);
    let said = said.map(|ready| ready.message.clone()).unwrap_or_default();
    assert!(said.contains("containers[agent].env"), "{said}");
    assert!(status.sandbox.is_none(), "{:?}", status.sandbox);

    keep.end().await?;
    team.condition("s", "Succeeded", "True", "Completed").await?;
    let template = team.kubectl(&["get", "sandboxtemplate", &pair, "-o", "yaml"])?;
    assert!(!template.contains("name: X"), "{template}");
    team.end().await
}

/// Admission that keeps Berth from writing templates of one namespace.
struct Keep(
    Api<ValidatingAdmissionPolicy>,
    Api<ValidatingAdmissionPolicyBinding>,
    String,
);

impl Keep {
    async fn from_writing_templates(team: &Team) -> Result<Self> {
        let name = format!("{}-templates", team.namespace);
        let client = team.cluster.client.clone();
        let keep = Self(Api::all(client.clone()), Api::all(client), name.clone());
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": { "name": name },
            "spec": {
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": ["extensions.agents.x-k8s.io"], "apiVersions": ["*"],
                    "operations": ["UPDATE"], "resources": ["sandboxtemplates"],
                }] },
                "validations": [{ "expression": format!("request.userInfo.username != '{BERTH}'") }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": name },
            "spec": { "policyName": name, "validationActions": ["Deny"], "matchResources": { "namespaceSelector": {
                "matchLabels": { "kubernetes.io/metadata.name": team.namespace },
            } } },
        });
        let params = PostParams::default();
        keep.0.create(&params, &serde_json::from_value(policy)?).await?;
        keep.1.create(&params, &serde_json::from_value(binding)?).await?;
        // An API server takes a policy up within moments, which nothing shows but its refusals.
        let pair = team.kubectl(&["get", "sandboxtemplate", "-o", "name"])?;
        let tried = ["annotate", pair.trim(), "try=1", "--dry-run=server", "--as", BERTH];
        for _ in 0..100 {
            if team.kubectl(&tried).is_err() {
                return Ok(keep);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("Berth may still write templates of {}", team.namespace)
    }

    async fn end(self) -> Result<()> {
        let params = DeleteParams::default();
        self.1.delete(&self.2, &params).await?;
        self.0.delete(&self.2, &params).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_fenced_pool_says_that_it_is_confined() -> Result<()> {
    let team = Team::create(&cluster().await?, "confined").await?;
    team.apply(&team.pool(0)).await?;
    let confined = |pool: &AgentPool| {
        let conditions = pool
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_str()) == ("Confined", "True", "Fenced"))
    };
    team.wait::<AgentPool>("pool", "Confined", PATIENCE, confined).await?;
    team.end().await
}
