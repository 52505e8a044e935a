//! A registry of crates with one, `fake` 0.1.0, that wants a token.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::origin::{Answer, ok};

/// Of a package that needs `fake` from registry `fake`.
pub const MANIFEST: &str = "[package]\nname = \"user\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
    [dependencies]\nfake = { version = \"0.1\", registry = \"fake\" }\n";

/// What it answers, below `/index/` and `/dl/`. cargo sends the token bare, first for the settings, then for the index
/// and the package.
pub fn registry(folder: &Path, token: &str) -> Result<Answer> {
    let (bytes, sum) = package(folder)?;
    let token = token.to_owned();
    Ok(Arc::new(move |seen| {
        if seen.header("authorization").as_ref() != Some(&token) {
            let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Cargo login_url=\"https://example.com/\"\r\n";
            return Some(format!("{refusal}Content-Length: 0\r\n\r\n").into_bytes());
        }
        let host = seen.header("host").unwrap_or_default();
        match seen.target() {
            "/index/config.json" => {
                ok(json!({ "dl": format!("https://{host}/dl"), "auth-required": true }).to_string())
            }
            "/index/fa/ke/fake" => ok(json!({
                "name": "fake", "vers": "0.1.0", "deps": [], "cksum": sum, "features": {}, "yanked": false,
            })
            .to_string()),
            "/dl/fake/0.1.0/download" => ok(&bytes),
            _ => Some(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        }
    }))
}

/// `fake-0.1.0.crate` and its hash.
fn package(folder: &Path) -> Result<(Vec<u8>, String)> {
    let source = folder.join("fake-0.1.0/src");
    std::fs::create_dir_all(&source)?;
    let manifest = "[package]\nname = \"fake\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    std::fs::write(folder.join("fake-0.1.0/Cargo.toml"), manifest)?;
    std::fs::write(source.join("lib.rs"), "")?;
    let tar = ["-czf", "fake.crate", "fake-0.1.0"];
    let made = Command::new("tar").args(tar).current_dir(folder).status()?;
    ensure!(made.success(), "tar {tar:?}: {made}");
    let bytes = std::fs::read(folder.join("fake.crate"))?;
    let sum = hex::encode(Sha256::digest(&bytes));
    Ok((bytes, sum))
}
