//! TLS towards upstreams: verified with the platform's roots and the pool's, never less.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::tunnel::leaf::Alpn;

/// One configuration per list of protocols: sessions that are resumed never mix them.
#[derive(Clone)]
pub struct UpstreamTls {
    http1: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
}

/// A certificate file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It can't be read.
    #[error("failed to read the certificates in {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate in it can't be a root.
    #[error("{path} holds a certificate that can't be trusted")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Nothing to trust.
    #[error("{path} holds no certificate")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// rustls itself.
    #[error("failed to configure TLS")]
    Tls(#[from] rustls::Error),
}

impl UpstreamTls {
    /// With Mozilla's roots, and those in `extra` besides.
    pub fn new(extra: &[PathBuf]) -> Result<Self, RootsError> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for path in extra {
            add(&mut roots, path)?;
        }
        let roots = Arc::new(roots);
        Ok(Self {
            http1: Arc::new(config(&roots, &[Alpn::Http1])?),
            both: Arc::new(config(&roots, &[Alpn::Http2, Alpn::Http1])?),
        })
    }

    /// For an upstream leg that may speak these.
    pub fn config(&self, http2: bool) -> Arc<ClientConfig> {
        Arc::clone(if http2 { &self.both } else { &self.http1 })
    }
}

fn config(roots: &Arc<RootCertStore>, protocols: &[Alpn]) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|alpn| alpn.wire().to_vec()).collect();
    Ok(config)
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let read = |source| RootsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut some = false;
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        let certificate = certificate.map_err(read)?;
        roots.add(certificate).map_err(|source| RootsError::Certificate {
            path: path.to_owned(),
            source,
        })?;
        some = true;
    }
    if some {
        Ok(())
    } else {
        Err(RootsError::Empty { path: path.to_owned() })
    }
}
