//! The chain of what was granted: written before anybody gets it, read back by the commands, and telling when it was
//! tampered with.

use anyhow::{Context as _, Result};
use berth_controller::audit::{Told, verify, who};
use berth_controller::cli::{AuditVerify, AuditWho};
use berth_e2e::granted::value;
use berth_e2e::{Cluster, Scene, Team, cluster};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// As `berth-controller audit verify` is called in this cluster.
pub(crate) async fn verified(team: &Team, heads: Option<&std::path::Path>, print_heads: bool) -> Result<Told> {
    let args = AuditVerify {
        database_url: team.cluster.database_url.clone(),
        namespace: Some(team.namespace.clone()),
        heads: heads.map(std::path::Path::to_owned).into_iter().collect(),
        print_heads,
    };
    verify(&args).await
}

/// The rows of a namespace so far: action and binding.
pub(crate) async fn rows(team: &Team) -> Result<Vec<(String, String)>> {
    let select = "select action, binding from grant_event where namespace = $1 order by number";
    let rows = sqlx::query_as(select).bind(&team.namespace);
    Ok(rows.fetch_all(&team.cluster.database).await?)
}

/// Waits for a row; Postgres tells nobody of one, so this looks every so often.
pub(crate) async fn row(team: &Team, action: &str) -> Result<()> {
    let look = async {
        while !rows(team).await?.iter().any(|(found, _)| found == action) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let found = tokio::time::timeout(std::time::Duration::from_mins(1), look).await;
    found.with_context(|| format!("no row {action}"))?
}

async fn owner(cluster: &Cluster) -> Result<PgConnection> {
    Ok(PgConnection::connect(&cluster.owner_database_url).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_let_it_is_written_down_and_tampering_is_named() -> Result<()> {
    let cluster = cluster().await?;
    let (scene, secret) = (Scene::create(&cluster, "ledger", 1, &json!({})).await?, value()?);
    let team = &scene.team;
    scene.grant("s", &secret).await?;
    let granted = scene.start("s", &secret, "").await?;
    assert_eq!(rows(team).await?, [("granted".to_owned(), "s".to_owned())]);
    let seen = verified(team, None, true).await?;
    assert!(seen.is_good, "{}", seen.text);
    let heads = tempfile::NamedTempFile::new()?;
    std::fs::write(heads.path(), &seen.text)?;

    let args = AuditWho {
        database_url: team.cluster.database_url.clone(),
        namespace: team.namespace.clone(),
        session: "s".to_owned(),
        host: Some(scene.outside.host.clone()),
        json: false,
    };
    let told = who(&args).await?;
    let says = format!("used GET https://{}:443/granted/s", scene.outside.host);
    assert!(told.is_good && told.text.contains(&says), "{}", told.text);
    assert!(
        told.text.contains("granted by binding s at") && told.text.contains("by the object alone"),
        "{}",
        told.text
    );
    let told = who(&AuditWho { json: true, ..args }).await?;
    let document: Value = serde_json::from_str(told.text.lines().next().context("a line")?)?;
    assert_eq!(
        (&document["sessionUID"], &document["granted"]["binding"]),
        (&json!(granted.uid), &json!("s"))
    );

    team.kubectl(&["delete", "credentialbinding", "s"])?;
    row(team, "revoked").await?;
    assert!(verified(team, Some(heads.path()), false).await?.is_good);

    // The application can't touch a row; whoever may change the schema can, and is found out.
    let alter = "update grant_event set record = replace(record, '\"s\"', '\"t\"') where namespace = $1 and number = 1";
    let refused = sqlx::query(alter)
        .bind(&team.namespace)
        .execute(&cluster.database)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("append-only") || refused.to_string().contains("permission"),
        "{refused}"
    );
    let mut owner = owner(&cluster).await?;
    for statement in [
        "alter table grant_event disable trigger user",
        alter,
        "alter table grant_event enable trigger user",
    ] {
        let query = sqlx::query(statement);
        let query = if statement == alter {
            query.bind(&team.namespace)
        } else {
            query
        };
        query.execute(&mut owner).await?;
    }
    let told = verified(team, None, false).await?;
    assert!(
        !told.is_good && told.text.contains("row 1 isn't what was written"),
        "{}",
        told.text
    );
    scene.end().await
}
