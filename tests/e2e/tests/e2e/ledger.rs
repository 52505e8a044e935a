//! The chain of what was granted: written before anybody gets it, read back by the commands, and telling when it was
//! tampered with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_controller::audit::{Told, verify, who};
use berth_controller::cli::{AuditVerify, AuditWho};
use berth_controller::store::retention;
use berth_e2e::granted::value;
use berth_e2e::{Cluster, PATIENCE, Repository, Scene, Team, cluster, session_yaml};
use jiff::Timestamp;
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
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let found = tokio::time::timeout(PATIENCE, look).await;
    found.with_context(|| format!("no row {action}"))?
}

async fn owner(cluster: &Cluster) -> Result<PgConnection> {
    Ok(PgConnection::connect(&cluster.owner_database_url).await?)
}

/// `audit who` says it: in a sentence, for a time, and as JSON.
async fn is_said(scene: &Scene, session_uid: &str) -> Result<()> {
    let team = &scene.team;
    let args = AuditWho {
        database_url: team.cluster.database_url.clone(),
        namespace: team.namespace.clone(),
        session: "s".to_owned(),
        host: Some(scene.outside.host.clone()),
        since: None,
        until: Some(Timestamp::now()),
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
    let later = AuditWho {
        since: args.until,
        ..args.clone()
    };
    let told = who(&later).await?;
    assert!(!told.is_good, "{}", told.text);
    let told = who(&AuditWho { json: true, ..args }).await?;
    let document: Value = serde_json::from_str(told.text.lines().next().context("a line")?)?;
    assert_eq!(
        (&document["sessionUID"], &document["granted"]["binding"]),
        (&json!(session_uid), &json!("s"))
    );
    Ok(())
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

    is_said(&scene, &granted.uid).await?;

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

/// What a session left goes some time after its object, and not before.
#[tokio::test]
async fn what_long_gone_sessions_left_is_forgotten() -> Result<()> {
    let cluster = cluster().await?;
    let mut owner = owner(&cluster).await?;
    let purpose = format!("forgotten-{:x}", Timestamp::now().as_microsecond());
    for (name, days) in [("old", Some(100)), ("young", Some(30)), ("live", None)] {
        let uid = format!("{purpose}-{name}");
        let session = "insert into session (uid, namespace, name, pool, phase, reason, message, incarnation, created_at, epoch, \
                deleted_at) \
            values ($1, 'e2e-forgotten', $1, 'pool', 'Succeeded', 'Completed', '', 1, now(), 1, now() - make_interval(days => $2))";
        sqlx::query(session).bind(&uid).bind(days).execute(&mut owner).await?;
        let event = "insert into session_event (session_uid, incarnation, client_seq, kind, data, at) \
            values ($1, 1, 1, 'started', '{}', now())";
        sqlx::query(event).bind(&uid).execute(&mut owner).await?;
        let used = "insert into credential_use (pod_uid, number, session_uid, incarnation, namespace, session, at, verdict) \
            values ($1, 1, $1, 1, 'e2e-forgotten', $1, now(), 'allowed')";
        sqlx::query(used).bind(&uid).execute(&mut owner).await?;
    }
    // As two leaders at once; and one that would keep nothing, which the database doesn't follow.
    let (one, other) = tokio::join!(
        retention::forget(&cluster.database, 90),
        retention::forget(&cluster.database, 0)
    );
    assert!(one? + other? >= 2);
    let left = "select array[(select count(*) from session where uid like $1), \
        (select count(*) from session_event where session_uid like $1), \
        (select count(*) from credential_use where session_uid like $1)]";
    let left = sqlx::query_scalar::<_, Vec<i64>>(left).bind(format!("{purpose}-%"));
    assert_eq!(left.fetch_one(&mut owner).await?, [3, 2, 2], "rows, events, uses");
    Ok(())
}

/// Waits until the ledger has so many rows of this.
async fn count(team: &Team, action: &str, wanted: i64) -> Result<()> {
    let counts = "select count(*) from grant_event where namespace = $1 and action = $2";
    let began = Instant::now();
    let mut found = 0;
    while began.elapsed() < THOUSAND {
        found = team
            .cluster
            .number(counts, &[&team.namespace, action])
            .await?
            .unwrap_or(0);
        if found == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await; // Postgres tells nobody of a row
    }
    bail!("{found} of {wanted} bindings are {action}")
}

#[tokio::test]
async fn a_thousand_bindings_of_one_commit_come_and_go() -> Result<()> {
    let team = Team::with_pool(&cluster().await?, "thousand", 1).await?;
    team.offer("forge", "fake-value", "api.example.com").await?;
    team.policy(json!({ "allow": [{ "name": "api", "hosts": ["api.example.com"] }] }))
        .await?;
    let binding = |number: i64| {
        let route = json!({
            "name": "api", "host": "api.example.com", "paths": [format!("/{number}/**")],
            "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
        });
        let source = json!({ "secretRef": { "name": "forge", "key": "token" } });
        let spec = json!({
            "credential": { "name": format!("C{number}"), "source": source }, "subjects": { "allSessions": true },
            "routes": [route], "reason": "e2e",
        });
        json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding",
            "metadata": { "name": format!("c{number}") }, "spec": spec,
        })
        .to_string()
    };
    let documents: Vec<String> = (0..MANY).map(binding).collect();
    let mut session: Value = serde_json::from_str(&session_yaml("s", "until [ -e stop ]; do sleep 0.2; done"))?;
    session["spec"]["credentials"] = json!([{ "name": "C0" }, { "name": format!("C{}", MANY - 1) }]);
    let repository = Repository::create(&team.cluster, &team.namespace).await?;
    repository.write("bindings.yaml", &documents.join("\n---\n"))?;
    repository.write("session.yaml", &session.to_string())?;
    repository.push("A thousand")?;
    team.source("source", &repository.url).await?;
    count(&team, "granted", MANY).await?;
    team.condition("s", "CredentialsReady", "True", "CredentialsGranted")
        .await?;

    repository.remove("bindings.yaml")?;
    repository.push("None of them")?;
    count(&team, "revoked", MANY).await?;
    team.condition("s", "CredentialsReady", "False", "CredentialsMissing")
        .await?;
    team.end_policy().await?;
    team.end().await
}

const MANY: i64 = 1_000;
/// A minute on two cores that do nothing else.
const THOUSAND: Duration = Duration::from_mins(4);
