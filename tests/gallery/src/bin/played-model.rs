//! The played model (`berth_gallery::played_model`): prints its URL, serves until its standard input ends, then prints what it
//! was asked, a line each. Over plain HTTP, for recording what agent programs print; or over TLS, for `bin/up --agent`.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use berth_gallery::origin::{Authority, Origin};
use berth_gallery::played_model;
use clap::Parser;
use tokio::net::{TcpListener, TcpStream};

#[derive(Parser)]
struct Arguments {
    /// Folder with `ca.crt` and `ca.key`, which its certificate is made by.
    #[arg(long, requires = "host", requires = "listen")]
    pki: Option<PathBuf>,
    /// The name in the certificate.
    #[arg(long)]
    host: Option<String>,
    /// Where it listens over TLS.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { pki, host, listen } = Arguments::parse();
    let mut output = std::io::stdout();
    let origin = if let (Some(pki), Some(host), Some(listen)) = (pki, host, listen) {
        let read = |name: &str| std::fs::read_to_string(pki.join(name)).with_context(|| name.to_owned());
        // What the local cluster calls its authority.
        let authority = Authority::of("berth-cluster", read("ca.crt")?, &read("ca.key")?)?;
        let origin = Origin::http1(&authority, &[&host], played_model::answer()).await?;
        tokio::spawn(relay(TcpListener::bind(listen).await?, origin.address));
        writeln!(output, "https://{host}")?;
        origin
    } else {
        let origin = Origin::plain(played_model::answer()).await?;
        writeln!(output, "http://{}", origin.address)?;
        origin
    };
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

/// Origins listen on loopback; pods reach another address of the node.
async fn relay(from: TcpListener, to: SocketAddr) {
    while let Ok((mut one, _)) = from.accept().await {
        tokio::spawn(async move {
            if let Ok(mut other) = TcpStream::connect(to).await {
                drop(tokio::io::copy_bidirectional(&mut one, &mut other).await); // either end may go
            }
        });
    }
}
