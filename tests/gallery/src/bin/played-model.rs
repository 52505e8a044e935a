//! The played model (`berth_gallery::played_model`) over plain HTTP, for recording what agent programs print: prints its
//! URL, serves until its standard input ends, then prints what it was asked, a line each.

use std::io::{Read as _, Write as _};

use berth_gallery::origin::Origin;
use berth_gallery::played_model;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let origin = Origin::plain(played_model::answer()).await?;
    let mut output = std::io::stdout();
    writeln!(output, "http://{}", origin.address)?;
    output.flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    for seen in origin.requests() {
        writeln!(
            output,
            "{} {}",
            seen.head.lines().next().unwrap_or_default(),
            String::from_utf8_lossy(&seen.body)
        )?;
    }
    Ok(())
}
