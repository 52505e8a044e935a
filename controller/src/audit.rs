//! `berth-controller audit`: what was granted, read back. It asks the database alone: nothing of the cluster is needed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use berth_crds::Grant;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::cli::{AuditVerify, AuditWho};
use crate::grant::chain::{self, Head, Row};
use crate::grant::ledger::Entry;
use crate::store::{self, ledger};

/// What a command tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// For people, or JSON.
    pub text: String,
    /// Whether nothing is wrong, or something was found.
    pub is_good: bool,
}

/// The last row of a namespace's chain, in a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Seen {
    number: i64,
    hash: String,
}

/// `audit verify`.
pub async fn verify(args: &AuditVerify) -> anyhow::Result<Told> {
    let pool = store::open(&args.database_url)?;
    let known = ledger::heads(&pool).await.context("the heads can't be read")?;
    let mut remembered: BTreeMap<String, Vec<Head>> = BTreeMap::new();
    for file in &args.heads {
        for (namespace, head) in read(file)? {
            remembered.entry(namespace).or_default().push(head);
        }
    }
    for (namespace, head) in &known {
        remembered.entry(namespace.clone()).or_default().push(head.clone());
    }
    remembered.retain(|namespace, _| args.namespace.as_ref().is_none_or(|only| only == namespace));
    let (mut text, mut is_good, mut ends) = (String::new(), true, BTreeMap::new());
    for (namespace, heads) in &remembered {
        let rows = all(&pool, namespace).await?;
        match chain::verify(&rows, heads) {
            Ok(()) => writeln!(text, "{namespace}: {} rows, whole", rows.len())?,
            Err(broken) => {
                is_good = false;
                writeln!(text, "{namespace}: {broken}")?;
            }
        }
        if let Some(last) = rows.last() {
            let hash = hex::encode(&last.hash);
            ends.insert(
                namespace.clone(),
                Seen {
                    number: last.number,
                    hash,
                },
            );
        }
    }
    if args.print_heads && is_good {
        text = serde_json::to_string_pretty(&ends)?;
    }
    let text = text.trim_end().to_owned();
    Ok(Told { text, is_good })
}

fn read(file: &Path) -> anyhow::Result<Vec<(String, Head)>> {
    let content = std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    let seen: BTreeMap<String, Seen> =
        serde_json::from_slice(&content).with_context(|| format!("{} isn't a file of heads", file.display()))?;
    let head = |(namespace, seen): (String, Seen)| {
        let hash = hex::decode(&seen.hash).with_context(|| format!("{}: {namespace}: no hash", file.display()))?;
        let number = seen.number;
        Ok((namespace, Head { number, hash }))
    };
    seen.into_iter().map(head).collect()
}

async fn all(pool: &PgPool, namespace: &str) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map_or(0, |row| row.number);
        let page = ledger::rows(pool, namespace, after)
            .await
            .context("rows can't be read")?;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page);
    }
}

/// Uses of one grant by one session.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Used {
    authority: String,
    method: String,
    path: String,
    session_uid: String,
    uses: i64,
    first: String,
    last: String,
    /// The row that granted it.
    record: Option<String>,
}

/// `audit who`.
pub async fn who(args: &AuditWho) -> anyhow::Result<Told> {
    let pool = store::open(&args.database_url)?;
    let query = sqlx::query_as::<_, Used>(WHO);
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let query = query.bind(&args.namespace).bind(&args.session).bind(&args.host);
    let query = query.bind(text(args.since)).bind(text(args.until));
    let found = query.fetch_all(&pool).await.context("uses can't be read")?;
    if found.is_empty() {
        let text = format!("session {} in {} used no credential", args.session, args.namespace);
        return Ok(Told { text, is_good: false });
    }
    let tell = |used: &Used| {
        if args.json {
            document(used).to_string()
        } else {
            sentence(&args.session, used)
        }
    };
    let lines: Vec<String> = found.iter().map(tell).collect();
    Ok(Told {
        text: lines.join("\n"),
        is_good: true,
    })
}

const WHO: &str = "select u.authority, u.method, min(u.path) as path, u.session_uid, count(*) as uses, \
        to_char(min(u.at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as first, \
        to_char(max(u.at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as last, \
        (select g.record from grant_event g where g.namespace = u.namespace and g.fingerprint = fingerprint.one \
            and g.action = 'granted' and g.recorded_at <= max(u.recorded_at) order by g.number desc limit 1) as record \
    from credential_use u cross join lateral unnest(u.grants) as fingerprint(one) \
    where u.namespace = $1 and u.session = $2 and u.verdict = 'allowed' \
        and ($3::text is null or u.authority = $3 or starts_with(u.authority, $3 || ':')) \
        and u.at >= coalesce($4::timestamptz, '-infinity') and u.at < coalesce($5::timestamptz, 'infinity') \
    group by u.authority, u.method, u.session_uid, u.namespace, fingerprint.one order by min(u.at)";

fn document(used: &Used) -> serde_json::Value {
    let record = used.record.as_deref().unwrap_or_default();
    let granted: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    serde_json::json!({
        "authority": used.authority, "method": used.method, "path": used.path, "sessionUID": used.session_uid,
        "uses": used.uses, "first": used.first, "last": used.last, "granted": granted,
    })
}

/// Who let it, in a sentence (research/gitops.md §4.5).
fn sentence(session: &str, used: &Used) -> String {
    let Used {
        method,
        authority,
        path,
        ..
    } = used;
    let times = match used.uses {
        1 => format!("at {}", used.first),
        count => format!("{count} times from {} to {}", used.first, used.last),
    };
    let what = format!("session {session} used {method} https://{authority}{path} {times}");
    let entry = used
        .record
        .as_deref()
        .and_then(|record| serde_json::from_str::<Entry>(record).ok());
    let Some(entry) = entry else {
        return format!("{what}; nothing is written down of its grant");
    };
    let until = entry
        .expires_at
        .map_or_else(|| "until it is taken away".to_owned(), |at| format!("until {at}"));
    let why = because(entry.grant.as_ref());
    format!(
        "{what}: granted by binding {} at {} {until}, {why}",
        entry.binding, entry.at
    )
}

fn because(grant: Option<&Grant>) -> String {
    let short = |commit: &str| commit.get(..12).unwrap_or(commit).to_owned();
    let Some((grant, commit)) = grant.and_then(|grant| Some((grant, grant.commit.as_deref()?))) else {
        return "by the object alone".to_owned();
    };
    let mut why = format!("because of commit {}", short(commit));
    if let Some(author) = &grant.author {
        why = format!("{why} that {author} asked for");
    }
    if let Some(pull) = &grant.pull_request {
        why = format!("{why} in {pull}");
    }
    for approval in &grant.approvers {
        why = format!("{why}; {} approved head {}", approval.user, short(&approval.commit));
    }
    why
}

#[cfg(test)]
mod tests {
    use berth_crds::Approval;

    use super::*;

    #[test]
    fn who_asked_and_who_approved_is_said() {
        let approver = Approval {
            user: "bob".to_owned(),
            commit: "9e1d77c2a0b4ffff".to_owned(),
            ..Approval::default()
        };
        let grant = Grant {
            commit: Some("4f2c0a1b9d3effff".to_owned()),
            pull_request: Some("https://forge.example.com/a/b/pulls/214".to_owned()),
            author: Some("alice".to_owned()),
            approvers: vec![approver],
            ..Grant::default()
        };
        let said = "because of commit 4f2c0a1b9d3e that alice asked for in https://forge.example.com/a/b/pulls/214; \
            bob approved head 9e1d77c2a0b4";
        assert_eq!(because(Some(&grant)), said);
        assert_eq!(because(None), "by the object alone");
    }
}
