//! `berth-controller audit`: what was granted, read back. It asks the database alone: nothing of the cluster is needed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use berth_crds::Grant;
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

/// Uses of one grant by one session: as the query of docs/credentials.md has them.
type Used = (String, String, String, String, i64, String, String, String);

/// `audit who`.
pub async fn who(args: &AuditWho) -> anyhow::Result<Told> {
    let pool = store::open(&args.database_url)?;
    let select = "select u.authority, u.method, min(u.path), u.session_uid, count(*), \
            to_char(min(u.at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
            to_char(max(u.at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
            (select g.record from grant_event g where g.namespace = u.namespace and g.fingerprint = fingerprint.one \
                and g.action = 'granted' and g.recorded_at <= max(u.recorded_at) order by g.number desc limit 1) \
        from credential_use u cross join lateral unnest(u.grants) as fingerprint(one) \
        where u.namespace = $1 and u.session = $2 and u.verdict = 'allowed' \
            and ($3::text is null or u.authority = $3 or u.authority like $3 || ':%') \
        group by u.authority, u.method, u.session_uid, u.namespace, fingerprint.one order by min(u.at)";
    let query = sqlx::query_as::<_, (String, String, String, String, i64, String, String, Option<String>)>(select);
    let query = query.bind(&args.namespace).bind(&args.session).bind(&args.host);
    let found = query.fetch_all(&pool).await.context("uses can't be read")?;
    let mut text = String::new();
    for (authority, method, path, uid, count, first, last, record) in &found {
        let used: Used = (
            authority.clone(),
            method.clone(),
            path.clone(),
            uid.clone(),
            *count,
            first.clone(),
            last.clone(),
            record.clone().unwrap_or_default(),
        );
        let line = if args.json {
            document(&used)?
        } else {
            sentence(&args.session, &used)
        };
        writeln!(text, "{line}")?;
    }
    let is_good = !found.is_empty();
    if !is_good {
        text = format!("session {} in {} used no credential", args.session, args.namespace);
    }
    let text = text.trim_end().to_owned();
    Ok(Told { text, is_good })
}

fn document((authority, method, path, uid, count, first, last, record): &Used) -> anyhow::Result<String> {
    let granted: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    let document = serde_json::json!({
        "authority": authority, "method": method, "path": path, "sessionUID": uid, "uses": count, "first": first, "last": last,
        "granted": granted,
    });
    Ok(serde_json::to_string(&document)?)
}

/// Who let it, in a sentence (research/gitops.md §4.5).
fn sentence(session: &str, (authority, method, path, _, count, first, last, record): &Used) -> String {
    let times = if *count == 1 {
        format!("at {first}")
    } else {
        format!("{count} times from {first} to {last}")
    };
    let used = format!("session {session} used {method} https://{authority}{path} {times}");
    let Ok(entry) = serde_json::from_str::<Entry>(record) else {
        return format!("{used}; nothing is written down of its grant");
    };
    let until = entry
        .expires_at
        .map_or_else(|| "until it is taken away".to_owned(), |at| format!("until {at}"));
    let why = entry
        .grant
        .as_ref()
        .map_or_else(|| "by the object alone".to_owned(), because);
    format!(
        "{used}: granted by binding {} at {} {until}, {why}",
        entry.binding, entry.at
    )
}

fn because(grant: &Grant) -> String {
    let commit = grant.commit.as_deref().map(|commit| commit.get(..12).unwrap_or(commit));
    let Some(commit) = commit else {
        return "by the object alone".to_owned();
    };
    let author = grant
        .author
        .as_deref()
        .map_or_else(String::new, |author| format!(" that {author} asked for"));
    let pull = grant
        .pull_request
        .as_deref()
        .map_or_else(String::new, |pull| format!(" in {pull}"));
    let approved: Vec<String> = grant
        .approvers
        .iter()
        .map(|approval| {
            let head = approval.commit.get(..12).unwrap_or(&approval.commit);
            format!("{} approved head {head}", approval.user)
        })
        .collect();
    let approved = if approved.is_empty() {
        String::new()
    } else {
        format!("; {}", approved.join(", "))
    };
    format!("because of commit {commit}{author}{pull}{approved}")
}
