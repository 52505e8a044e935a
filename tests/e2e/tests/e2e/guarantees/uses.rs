//! G2 to G5 and G7: where a value goes, in which request, after what record, and at what cost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_e2e::{Granted, PATIENCE, Scene};

/// Each of these is refused, and the host gets no byte of it: another path, method, port, scheme or name, a stub that
/// stands elsewhere, a path that means another one.
pub(super) fn a_value_goes_only_where_it_is_granted(scene: &Scene, session: &Granted, secret: &str) -> Result<()> {
    let (host, stub) = (&scene.outside.host, session.shell("cat /workspace/stub")?);
    let (stub, granted) = (stub.trim(), format!("https://{host}/granted/astray"));
    let bearer = format!("-H 'Authorization: Bearer {stub}'");
    for attempt in [
        format!("{bearer} https://{host}/astray"),
        format!("{bearer} -X DELETE {granted}"),
        format!("{bearer} https://{host}:8443/granted/astray"),
        format!("{bearer} http://{host}/granted/astray"),
        format!("{bearer} -H 'Host: other.example.com' {granted}"),
        format!("{bearer} --path-as-is https://{host}/granted/../astray"),
        format!("{bearer} --path-as-is https://{host}/granted/%2e%2e/astray"),
        format!("{bearer} -H 'X-Other: {stub}' {granted}"),
        format!("{bearer} '{granted}?token={stub}'"),
        format!("-H 'Authorization: Basic {stub}' {granted}"),
    ] {
        let said = session.curl(&attempt)?;
        let status = said.lines().last().unwrap_or_default();
        ensure!(
            ["status=403", "status=421", "status=400", "status=000"].contains(&status),
            "{attempt}: {said}"
        );
    }
    // What is judged is what is sent.
    let said = session.curl(&format!("{bearer} --path-as-is https://{host}/granted/%73ent/./here"))?;
    ensure!(
        said.contains("GET /granted/sent/here HTTP/1.1") && said.contains(stub),
        "{said}"
    );
    let requests = scene.outside.origin.requests();
    ensure!(
        !requests.iter().any(|seen| seen.head.contains("astray")),
        "the host got a stray request"
    );
    let value = format!("Bearer {secret}");
    for seen in requests.iter().filter(|seen| seen.head.contains(secret)) {
        let is_granted = seen.target().starts_with("/granted/") && seen.head.matches(secret).count() == 1;
        ensure!(
            is_granted && seen.header("authorization").as_ref() == Some(&value),
            "{}",
            seen.head
        );
    }
    Ok(())
}

/// As many rows as the host got requests.
pub(super) async fn every_use_is_on_record(scene: &Scene, session: &Granted) -> Result<()> {
    let ask = format!(
        "-H \"Authorization: Bearer $(cat /workspace/stub)\" https://{}/granted/recorded",
        scene.outside.host
    );
    for _ in 0..3 {
        session.curl(&ask)?;
    }
    let requests = scene.outside.origin.requests();
    let got = requests
        .iter()
        .filter(|seen| seen.target() == "/granted/recorded")
        .count();
    ensure!(got == 3, "the host got {got} requests");
    let select = "select count(*) from credential_use where session_uid = $1 and path = '/granted/recorded'";
    let recorded = async {
        loop {
            let rows: i64 = sqlx::query_scalar(select)
                .bind(&session.uid)
                .fetch_one(&scene.team.cluster.database)
                .await?;
            if rows >= 3 {
                return Ok::<_, anyhow::Error>(rows);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let rows = tokio::time::timeout(PATIENCE, recorded)
        .await
        .context("uses are missing")??;
    ensure!(rows == 3, "{rows} rows");
    Ok(())
}

/// 24 MiB go through, and come back redacted, in a few MiB of memory.
pub(super) fn an_upload_is_not_held_in_memory(scene: &Scene, session: &Granted) -> Result<()> {
    let before = session.peak_kib()?;
    let url = format!("https://{}/granted/upload", scene.outside.host);
    let said = session.curl(&format!(
        "-o /dev/null -H \"Authorization: Bearer $(cat /workspace/stub)\" --data-binary @<(head -c 25165824 /dev/zero) {url}"
    ))?;
    ensure!(said.ends_with("status=200\n"), "{said}");
    let grown = session.peak_kib()? - before;
    ensure!(grown < 12 << 10, "the sidecar grew by {grown} KiB");
    Ok(())
}
