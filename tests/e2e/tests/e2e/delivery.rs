//! Flux or Argo CD applies what a branch holds; a GitSource in mode `Observe` gives the evidence alone.

use anyhow::{Context as _, Result, ensure};
use berth_crds::{CredentialBinding, Phase};
use berth_e2e::flux::stand_in_source_controller;
use berth_e2e::{Team, cluster, session_yaml};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::evidence::Desk;

/// A desk whose repository holds a pool and whose policy wants reviews, and sessions that git brought.
async fn observed(purpose: &str) -> Result<Desk> {
    let require = json!({ "review": { "minApprovals": 1 }, "sessionDelivery": "Git" });
    let desk = Desk::in_mode("Observe", purpose, &require).await?;
    desk.repository.write("pool.yaml", &desk.team.pool(1).to_string())?;
    desk.repository.push("A pool")?;
    Ok(desk)
}

/// A session that lists this credential.
fn needs(name: &str, credential: &str) -> Result<Value> {
    let mut session: Value = serde_json::from_str(&session_yaml(name, "echo done"))?;
    session["spec"]["credentials"] = json!([{ "name": credential, "required": true }]);
    Ok(session)
}

/// Merges binding `a` and session `s`, which needs it, after Bob's review; gives the merge commit.
async fn merge(desk: &Desk) -> Result<String> {
    desk.repository.git(&["checkout", "--quiet", "-B", "a"])?;
    desk.repository.write("s.yaml", &needs("s", "A")?.to_string())?;
    desk.review("a", &["GET"]).await
}

/// Waits until an object that isn't Berth's says so.
fn wait(team: &Team, namespace: &str, object: &str, path: &str, value: &str) -> Result<()> {
    let wanted = format!("--for=jsonpath={path}={value}");
    let wait = ["--namespace", namespace, "wait", object, &wanted, "--timeout=120s"];
    match team.cluster.run("kubectl", &wait) {
        Ok(_) => Ok(()),
        Err(error) => {
            let shown = ["--namespace", namespace, "get", object, "--output=jsonpath={.status}"];
            let status = team.cluster.run("kubectl", &shown)?;
            Err(error.context(format!("no {path}={value} in {status}")))
        }
    }
}

/// The binding is in force, as Bob approved it, for a session that ran with it.
async fn is_granted(desk: &Desk, merged: &str) -> Result<()> {
    let grant = desk.granted("a").await?;
    assert_eq!(grant.commit.as_deref(), Some(merged));
    let approvers: Vec<&String> = grant.approvers.iter().map(|approval| &approval.user).collect();
    assert_eq!(approvers, [&desk.bob.login]);
    desk.team.phase("s", Phase::Succeeded).await.map(drop)
}

/// What left the tip grants no more, although the object stands: the applier has not been here, or never deletes.
async fn is_refused_where_it_stands(desk: &Desk) -> Result<()> {
    desk.repository.remove("a.yaml")?;
    desk.repository.push("Take it back")?;
    let refused = desk.says("a", "NotInSource").await?;
    ensure!(refused.status.is_some_and(|status| status.grant.is_none()));
    let objects = desk.team.api::<CredentialBinding>();
    let object = objects.get("a").await?;
    ensure!(object.metadata.deletion_timestamp.is_none());
    Ok(())
}

#[tokio::test]
async fn flux_applies_and_berth_gives_the_evidence() -> Result<()> {
    cluster().await?.add(&["flux"])?;
    let desk = observed("flux").await?;
    let (team, namespace) = (&desk.team, desk.team.namespace.as_str());
    team.kubectl(&["create", "serviceaccount", "applier"])?;
    for role in ["berth-edit", "berth-grant"] {
        let (to, account) = (
            format!("--clusterrole={role}"),
            format!("--serviceaccount={namespace}:applier"),
        );
        team.kubectl(&["create", "rolebinding", role, &to, &account])?;
    }
    let applies = json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": { "name": "team", "namespace": namespace },
        "spec": {
            "sourceRef": { "kind": "GitRepository", "name": "repository" }, "path": format!("./{namespace}"),
            "serviceAccountName": "applier", "interval": "1h", "retryInterval": "5s", "timeout": "1m",
            "targetNamespace": namespace, "prune": false, "wait": true,
        },
    });
    let file = desk.repository.folder().join(".git/kustomization.json");
    std::fs::write(&file, applies.to_string())?;
    team.kubectl(&["apply", "--filename", file.to_str().context("a path")?])?;

    let merged = merge(&desk).await?;
    stand_in_source_controller(team, &desk.repository, &merged).await?;
    is_granted(&desk, &merged).await?;
    // It waits for what it applied to be well, as kstatus tells.
    let at = |commit: &str| format!("main@sha1:{commit}");
    wait(
        team,
        namespace,
        "kustomization/team",
        "{.status.lastAppliedRevision}",
        &at(&merged),
    )?;

    // Nobody reviewed this one: Flux says at once that it isn't well, and which one.
    desk.write("b", &["GET"])?;
    let pushed = desk.repository.push("Take more")?;
    stand_in_source_controller(team, &desk.repository, &pushed).await?;
    desk.says("b", "NoPullRequest").await?;
    let reason = "{.status.conditions[?(@.type==\"Ready\")].reason}";
    wait(team, namespace, "kustomization/team", reason, "HealthCheckFailed")?;
    let message = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
    let message = team.kubectl(&["get", "kustomization", "team", message])?;
    let named = format!("CredentialBinding/{namespace}/b");
    ensure!(message.contains(&named), "{message}");
    ensure!(
        !message.contains(&format!("CredentialBinding/{namespace}/a")),
        "{message}"
    );

    is_refused_where_it_stands(&desk).await?;
    desk.end().await
}

#[tokio::test]
async fn argo_cd_applies_and_shows_how_everything_is() -> Result<()> {
    cluster().await?.add(&["argocd"])?;
    let desk = observed("argocd").await?;
    let (team, namespace) = (&desk.team, desk.team.namespace.as_str());
    let mut resting = needs("resting", "A")?;
    resting["spec"]["suspend"] = true.into();
    desk.repository.write("resting.yaml", &resting.to_string())?;
    desk.repository
        .write("waiting.yaml", &needs("waiting", "B")?.to_string())?;
    desk.repository.push("Two sessions")?;
    let applies = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": { "name": namespace, "namespace": "argocd" },
        "spec": {
            "project": "default",
            "source": { "repoURL": desk.repository.url, "path": ".", "targetRevision": "main" },
            "destination": { "name": "berth-cluster", "namespace": namespace },
            "syncPolicy": { "automated": { "selfHeal": true }, "syncOptions": ["ServerSideApply=true"] },
        },
    });
    let file = desk.repository.folder().join(".git/application.json");
    std::fs::write(&file, applies.to_string())?;
    team.cluster
        .run("kubectl", &["apply", "--filename", file.to_str().context("a path")?])?;
    let application = format!("application/{namespace}");
    let refresh = || {
        // As its webhook does.
        let annotation = "argocd.argoproj.io/refresh=normal";
        let refresh = [
            "--namespace",
            "argocd",
            "annotate",
            "--overwrite",
            &application,
            annotation,
        ];
        team.cluster.run("kubectl", &refresh)
    };
    let is = |name: &str, health: &str| {
        let path = format!("{{.status.resources[?(@.name==\"{name}\")].health.status}}");
        wait(team, "argocd", &application, &path, health)
    };

    let merged = merge(&desk).await?;
    refresh()?;
    is_granted(&desk, &merged).await?;
    wait(team, "argocd", &application, "{.status.sync.status}", "Synced")?;
    for name in ["a", "s", "pool"] {
        is(name, "Healthy")?;
    }
    is("resting", "Suspended")?;
    is("waiting", "Progressing")?;

    desk.write("b", &["GET"])?;
    desk.repository.push("Take more")?;
    refresh()?;
    desk.says("b", "NoPullRequest").await?;
    is("b", "Degraded")?;
    wait(team, "argocd", &application, "{.status.health.status}", "Degraded")?;

    is_refused_where_it_stands(&desk).await?;
    // It isn't deleted where the Application has no `prune`, and stays refused.
    refresh()?;
    wait(team, "argocd", &application, "{.status.sync.status}", "OutOfSync")?;
    let object = team.api::<CredentialBinding>().get("a").await?;
    ensure!(object.annotations().contains_key("argocd.argoproj.io/tracking-id"));
    team.cluster
        .run("kubectl", &["--namespace", "argocd", "delete", &application])?;
    desk.end().await
}
