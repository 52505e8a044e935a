//! TLS towards upstreams: verified with the platform's roots and the pool's, never less.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::alpn::Alpn;
use crate::identity::{Identity, Roots};

/// One configuration per list of protocols, and apart from those one for each client's certificate and a route's own
/// roots: sessions that are resumed never mix them.
#[derive(Clone)]
pub struct UpstreamTls {
    roots: Arc<RootCertStore>,
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
            http1: Arc::new(config(&roots, false, None)?),
            both: Arc::new(config(&roots, true, None)?),
            roots,
        })
    }

    /// For an upstream leg that may speak HTTP/2, shows this certificate, and is verified with these roots.
    pub fn config(
        &self,
        http2: bool,
        identity: Option<&Identity>,
        roots: Option<&Roots>,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let store = roots.map_or(&self.roots, Roots::store);
        match (identity, roots) {
            (None, None) => Ok(Arc::clone(if http2 { &self.both } else { &self.http1 })),
            (None, Some(roots)) => roots.config(http2, || config(store, http2, None)),
            (Some(identity), roots) => identity.config((http2, roots), || config(store, http2, Some(identity))),
        }
    }
}

fn config(roots: &Arc<RootCertStore>, http2: bool, identity: Option<&Identity>) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key()))),
        None => builder.with_no_client_auth(),
    };
    let protocols: &[Alpn] = if http2 {
        &[Alpn::Http2, Alpn::Http1]
    } else {
        &[Alpn::Http1]
    };
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
