//! What Berth wrote, from the API server's audit log.
//!
//! In: the log's lines since a position. Out: counts of writes. Never counts what was written by impersonating Berth.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// Berth's account.
pub(crate) const BERTH: &str = "system:serviceaccount:berth-system:berth-controller";

/// Kinds that Berth writes for a pool, however many sessions it has.
const OF_POOL: [&str; 3] = ["agentpools", "sandboxtemplates", "sandboxwarmpools"];

/// A request as the log has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    object_ref: Option<Object>,
    response_status: Option<Status>,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
struct Object {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

/// A write that Berth asked for.
pub(crate) struct Write {
    verb: String,
    pub(crate) resource: String,
    /// Answered with an error, such as 404 or 409.
    pub(crate) refused: bool,
    pub(crate) name: String,
    /// When the API server received it.
    pub(crate) at: Timestamp,
}

/// Anything that Berth asked for.
pub(crate) struct Asked {
    pub(crate) verb: String,
    pub(crate) resource: String,
    pub(crate) name: String,
}

impl Write {
    /// Whether it made this object.
    pub(crate) fn creates(&self, resource: &str, name: &str) -> bool {
        (self.verb.as_str(), self.resource.as_str(), self.name.as_str()) == ("create", resource, name)
    }

    /// Whether it's of this session by name: the session, its claims or its Events; until this time.
    pub(crate) fn is_of(&self, session: &str, until: Timestamp) -> bool {
        let rest = self.name.strip_prefix(session);
        self.at <= until && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    }
}

/// Berth's writes in a namespace since a position in the log, those for its pool left out.
pub(crate) fn writes(log: &Path, since: u64, namespace: &str) -> Result<Vec<Write>> {
    let lines = lines(log, since, namespace)?;
    Ok(lines.into_iter().filter_map(|line| write(line, namespace)).collect())
}

/// Everything that Berth, or whom it acts as, has asked for since a position in the log.
pub(crate) fn requests(log: &Path, since: u64) -> Result<Vec<Asked>> {
    let asked = lines(log, since, BERTH)?.into_iter().map(|line| {
        let object = line.object_ref.unwrap_or_default();
        Asked {
            verb: line.verb,
            resource: object.resource,
            name: object.name.unwrap_or_default(),
        }
    });
    Ok(asked.collect())
}

/// Requests since a position in the log whose line has this text.
fn lines(log: &Path, since: u64, having: &str) -> Result<Vec<Line>> {
    let mut file = File::open(log).with_context(|| format!("{} can't be read", log.display()))?;
    // A shorter log was rotated meanwhile.
    let since = if file.metadata()?.len() < since { 0 } else { since };
    file.seek(SeekFrom::Start(since))?;
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line?;
        if line.contains(having) {
            lines.extend(serde_json::from_str::<Line>(&line).ok());
        }
    }
    Ok(lines)
}

fn write(line: Line, namespace: &str) -> Option<Write> {
    let object = line.object_ref?;
    let name = object.name.unwrap_or_default();
    let of_pool = OF_POOL.contains(&object.resource.as_str()) || name.starts_with("pool.");
    let ours = line.user.username == BERTH && line.impersonated_user.is_none() && !of_pool;
    let writes = ["create", "update", "patch", "delete"].contains(&line.verb.as_str());
    (ours && writes && object.namespace.as_deref() == Some(namespace)).then_some(Write {
        resource: object.resource,
        refused: line
            .response_status
            .and_then(|status| status.code)
            .is_some_and(|code| code >= 400),
        name,
        verb: line.verb,
        at: line.request_received_timestamp,
    })
}
