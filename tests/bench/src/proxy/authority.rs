//! Certificates of one run: an authority, which every party trusts, and a server's certificate from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The one host of a benchmark.
pub(crate) const HOST: &str = "origin.example.com";

/// Files in a directory: `ca.crt`, `ca.key`, and `server.crt`, `server.key` for [`HOST`].
pub(crate) fn write(directory: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named("Authority of a benchmark");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    std::fs::write(directory.join("ca.crt"), parameters.self_signed(&key)?.pem())?;
    std::fs::write(directory.join("ca.key"), key.serialize_pem())?;
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec![HOST.to_owned()])?;
    parameters.distinguished_name = named(HOST);
    let certificate = parameters.signed_by(&key, &issuer)?;
    std::fs::write(directory.join("server.crt"), certificate.pem())?;
    std::fs::write(directory.join("server.key"), key.serialize_pem())?;
    Ok(())
}

/// A name of its own: BoringSSL takes a certificate with its issuer's name for a self-signed one.
fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// One suite and one group, so that all contestants do the same work on both legs: left to themselves rustls takes
/// AES-256 and BoringSSL AES-128.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// TLS of the origin.
pub(crate) fn server(directory: &Path) -> Result<Arc<ServerConfig>> {
    let certificate = CertificateDer::from_pem_file(directory.join("server.crt"))?;
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key"))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}

/// TLS of the client: a program of its own for each tunnel, so nothing is resumed.
pub(crate) fn client(ca: &PathBuf) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
