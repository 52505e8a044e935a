//! An origin for [`HOST`], the sidecar before it, and what most attacks send.

use anyhow::Result;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::agent::{self, Response};
use crate::origin::{Answer, Authority, Origin};
use crate::policy::{self, HOST, SECRET, STUB};
use crate::sidecar::Sidecar;

/// Everything together.
pub struct Scene {
    /// Signs origins.
    pub authority: Authority,
    /// Of [`HOST`].
    pub origin: Origin,
    /// Its policy is [`policy::bearer`].
    pub sidecar: Sidecar,
    /// Host and port of the origin.
    pub place: String,
}

impl Scene {
    /// With an HTTP/1.1 origin; `change` overrides fields of the one route.
    pub async fn new(answer: Answer, change: &Value) -> Result<Self> {
        let authority = Authority::new()?;
        let origin = Origin::http1(&authority, &[HOST], answer).await?;
        Self::around(authority, origin, change).await
    }

    /// With this origin.
    pub async fn around(authority: Authority, origin: Origin, change: &Value) -> Result<Self> {
        let policy = policy::bearer(origin.address.port(), change);
        Self::with(authority, origin, &policy).await
    }

    /// With this origin and policy.
    pub async fn with(authority: Authority, origin: Origin, policy: &Value) -> Result<Self> {
        let sidecar = Sidecar::start(&authority, &policy.to_string(), &[HOST], &[("token", SECRET)]).await?;
        let place = format!("{HOST}:{}", origin.address.port());
        Ok(Self {
            authority,
            origin,
            sidecar,
            place,
        })
    }

    /// With an origin that answers each request with itself.
    pub async fn echo() -> Result<Self> {
        Self::new(crate::origin::echo(), &json!({})).await
    }

    /// A head with these further lines, each with its end; the stub stands in `Authorization`.
    pub fn head(&self, line: &str, more: &str) -> String {
        format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {STUB}\r\n{more}\r\n",
            self.place
        )
    }

    /// The same without the stub.
    pub fn bare(&self, line: &str, more: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", self.place)
    }

    /// Sends raw bytes through a tunnel of its own, and reads one answer.
    pub async fn send(&self, request: &str) -> Result<Response> {
        agent::send(&self.sidecar, &self.place, request).await
    }

    /// Sends raw bytes, ends its side, and gives every byte that comes until the proxy ends too.
    pub async fn raw(&self, request: &str) -> Result<String> {
        let mut stream = self.tunnel().await?;
        stream.write_all(request.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(String::from_utf8_lossy(&agent::rest(&mut stream).await?).into_owned())
    }

    /// `GET` with the stub.
    pub async fn get(&self, path: &str) -> Result<Response> {
        self.send(&self.head(&format!("GET {path}"), "")).await
    }

    /// A tunnel with TLS that speaks HTTP/1.1.
    pub async fn tunnel(&self) -> Result<agent::Tls> {
        agent::tunnel(&self.sidecar, &self.place, HOST, &["http/1.1"]).await
    }
}
