//! What hands a branch's tip to Flux's kustomize-controller.

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use crate::{Repository, Team};

/// Plays source-controller, which can't be built where tests run, as a module of its own isn't served: says in the
/// status of GitRepository `repository` which tarball holds this commit of `main`. The tarball is the forge's own, whose
/// files lie in a folder of the repository's name.
pub async fn stand_in_source_controller(team: &Team, repository: &Repository, commit: &str) -> Result<()> {
    let url = repository.url.trim_end_matches(".git");
    let url = format!("{url}/archive/{commit}.tar.gz");
    let tarball = reqwest::get(&url).await?.error_for_status()?.bytes().await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "source.toolkit.fluxcd.io",
        "v1",
        "GitRepository",
    ));
    let sources: Api<DynamicObject> = Api::namespaced_with(team.cluster.client.clone(), &team.namespace, &kind);
    let object = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": { "name": "repository" },
        "spec": { "url": repository.url, "interval": "1h", "ref": { "branch": "main" } },
    });
    let apply = PatchParams::apply("stand-in").force();
    let source = sources.patch("repository", &apply, &Patch::Apply(&object)).await?;
    let now = jiff::Timestamp::now();
    let artifact = json!({
        "url": url, "path": format!("{commit}.tar.gz"), "revision": format!("main@sha1:{commit}"),
        "digest": format!("sha256:{}", hex::encode(digest(&SHA256, &tarball))), "size": tarball.len(),
        "lastUpdateTime": now,
    });
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored", "lastTransitionTime": now,
    });
    let status = json!({ "status": {
        "observedGeneration": source.metadata.generation, "artifact": artifact, "conditions": [ready],
    } });
    sources
        .patch_status("repository", &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}
