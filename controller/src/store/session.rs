//! Table `session`: one row per AgentSession, as its object stood when it last changed.

use berth_crds::condition;
use berth_crds::{AgentSession, ConditionType};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use sqlx::PgConnection;

/// A row of `session`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SessionRow {
    /// UID of the object.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its phase.
    pub phase: String,
    /// Reason and message of its condition Ready.
    pub ready: (String, String),
    /// Its incarnation.
    pub incarnation: i64,
    /// The run that the status speaks of.
    pub run_id: Option<String>,
    /// Name and UID of its pod.
    pub pod: (Option<String>, Option<String>),
    /// Warm or cold.
    pub launch_type: Option<String>,
    /// Exit status of the harness.
    pub exit_code: Option<i32>,
    /// The agent's word on its result.
    pub summary: Option<String>,
    /// Why it was stopped without a result.
    pub stopped_reason: Option<String>,
    /// Repository, path, commit and author that its annotations name.
    pub source: [Option<String>; 4],
    /// Times, RFC 3339: created, bound, finished.
    pub times: (String, Option<String>, Option<String>),
}

impl SessionRow {
    /// The row of an object; `None` for one that the API server hasn't named yet.
    pub fn from_session(session: &AgentSession) -> Option<Self> {
        let status = session.status.clone().unwrap_or_default();
        let ready = condition::find(&status.conditions, ConditionType::Ready);
        let sandbox = status.sandbox.unwrap_or_default();
        let result = status.result.unwrap_or_default();
        let source = status.source.unwrap_or_default();
        let text = |time: &Time| time.0.to_string();
        Some(Self {
            uid: session.uid()?,
            namespace: session.namespace()?,
            name: session.name_any(),
            pool: session.spec.pool_ref.name.clone(),
            phase: status.phase.unwrap_or_default().as_str().to_owned(),
            ready: ready
                .map(|ready| (ready.reason.clone(), clean(&ready.message)))
                .unwrap_or_default(),
            incarnation: status.incarnation,
            run_id: status.run_id,
            pod: (sandbox.pod_name, sandbox.pod_uid),
            launch_type: sandbox.launch_type.map(|launch| launch.as_str().to_owned()),
            exit_code: result.exit_code,
            summary: result.summary.as_deref().map(clean),
            stopped_reason: status.stopped_reason,
            source: [source.repository, source.path, source.commit, source.author],
            times: (
                text(&session.creation_timestamp()?),
                sandbox.bound_at.as_ref().map(text),
                result.finished_at.as_ref().map(text),
            ),
        })
    }
}

/// Postgres holds no NUL in text.
pub(super) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Writes a row. A leader of a lower epoch than the one that wrote it last changes nothing.
pub(super) async fn put(connection: &mut PgConnection, row: &SessionRow, epoch: i64) -> Result<(), sqlx::Error> {
    let [repository, path, commit, author] = &row.source;
    sqlx::query(
        r"
        insert into session
            ( uid, namespace, name, pool, phase, reason, message, incarnation, run_id, pod_name, pod_uid, launch_type
            , exit_code, summary, stopped_reason, repository, path, commit_id, author
            , created_at, bound_at, finished_at, epoch )
        values
            ( $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19
            , $20::text::timestamptz, $21::text::timestamptz, $22::text::timestamptz, $23 )
        on conflict (uid) do update set
              pool = excluded.pool, phase = excluded.phase, reason = excluded.reason, message = excluded.message
            , incarnation = excluded.incarnation, run_id = excluded.run_id, pod_name = excluded.pod_name
            , pod_uid = excluded.pod_uid, launch_type = excluded.launch_type, exit_code = excluded.exit_code
            , summary = excluded.summary, stopped_reason = excluded.stopped_reason
            , repository = excluded.repository, path = excluded.path, commit_id = excluded.commit_id
            , author = excluded.author, bound_at = excluded.bound_at, finished_at = excluded.finished_at
            , epoch = excluded.epoch, recorded_at = now()
        where session.epoch <= excluded.epoch and session.incarnation <= excluded.incarnation
        ",
    )
    .bind(&row.uid)
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(&row.pool)
    .bind(&row.phase)
    .bind(&row.ready.0)
    .bind(&row.ready.1)
    .bind(row.incarnation)
    .bind(&row.run_id)
    .bind(&row.pod.0)
    .bind(&row.pod.1)
    .bind(&row.launch_type)
    .bind(row.exit_code)
    .bind(&row.summary)
    .bind(&row.stopped_reason)
    .bind(repository)
    .bind(path)
    .bind(commit)
    .bind(author)
    .bind(&row.times.0)
    .bind(&row.times.1)
    .bind(&row.times.2)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(())
}

/// Says that objects are gone.
pub(super) async fn gone(connection: &mut PgConnection, uids: &[String], epoch: i64) -> Result<(), sqlx::Error> {
    sqlx::query("update session set deleted_at = now() where uid = any($1) and deleted_at is null and epoch <= $2")
        .bind(uids)
        .bind(epoch)
        .execute(connection)
        .await?;
    Ok(())
}

/// Says that every object but these is gone: for what was deleted while nobody watched.
pub(super) async fn only(connection: &mut PgConnection, uids: &[String], epoch: i64) -> Result<(), sqlx::Error> {
    sqlx::query("update session set deleted_at = now() where uid <> all($1) and deleted_at is null and epoch <= $2")
        .bind(uids)
        .bind(epoch)
        .execute(connection)
        .await?;
    Ok(())
}
