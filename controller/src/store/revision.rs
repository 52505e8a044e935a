//! Table `source_revision`: each tip of a GitSource that was handled.

use sqlx::PgConnection;

/// A row of `source_revision`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RevisionRow {
    /// UID of the GitSource.
    pub source_uid: String,
    /// The tip.
    pub commit: String,
    /// Namespace of the GitSource.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// URL of the repository, without credentials.
    pub repository: String,
    /// The branch.
    pub branch: String,
    /// Objects of the tip that stand.
    pub applied: i64,
    /// Documents and objects with an error.
    pub failed: i64,
    /// Documents of foreign kinds.
    pub skipped: i64,
    /// When it was handled, RFC 3339.
    pub at: String,
}

/// Writes a row; the newest handling of a tip stands.
pub(super) async fn put(connection: &mut PgConnection, row: &RevisionRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        insert into source_revision
            ( source_uid, commit_id, namespace, name, repository, branch, applied, failed, skipped, at )
        values
            ( $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::timestamptz )
        on conflict (source_uid, commit_id) do update set
            applied = excluded.applied, failed = excluded.failed, skipped = excluded.skipped, at = excluded.at
        where source_revision.at <= excluded.at
        ",
    )
    .bind(&row.source_uid)
    .bind(&row.commit)
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(&row.repository)
    .bind(&row.branch)
    .bind(row.applied)
    .bind(row.failed)
    .bind(row.skipped)
    .bind(&row.at)
    .execute(connection)
    .await?;
    Ok(())
}
