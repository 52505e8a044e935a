//! Leaves: one certificate and one TLS configuration per host that a rule covers, made on first use and cached.

use std::sync::Arc;
use std::time::Duration;

use berth_egress::authority::Host;
pub use berth_outbound::alpn::Alpn;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::Instant;

use super::ca::{self, Ca};

/// The configurations that agents are answered with.
pub struct Leaves {
    ca: Ca,
    /// One key for all leaves: making it is more work than signing (research/vault-proxy.md §4.2).
    key: KeyPair,
    signing: Arc<dyn rustls::sign::SigningKey>,
    provider: Arc<CryptoProvider>,
    cache: Cache<(Host, Alpn), Leaf>,
    bucket: Mutex<Bucket>,
}

/// Leaves that may still be made: an agent that thinks up names below a wildcard is slowed to what costs nothing
/// (research/vault-proxy.md §2.1, row 42).
struct Bucket {
    left: u32,
    filled: Instant,
}

#[derive(Clone)]
struct Leaf {
    config: Arc<ServerConfig>,
    renew_at: Instant,
}

/// A leaf that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Key or certificate.
    #[error("failed to make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// Too many new hosts at once.
    #[error("more than {BURST} new hosts at once: wait {} ms for each further one", REFILL.as_millis())]
    TooFast,
    /// The TLS configuration.
    #[error("failed to configure TLS")]
    Tls(#[from] rustls::Error),
}

impl Leaves {
    /// With the session's authority.
    pub fn new(ca: Ca) -> Result<Self, LeafError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = provider();
        Ok(Self {
            ca,
            signing: provider.key_provider.load_private_key(der)?,
            key,
            provider: Arc::new(provider),
            cache: Cache::new(LEAVES_MAX),
            bucket: Mutex::new(Bucket::full()),
        })
    }

    /// The authority's certificate, for the agent's trust bundle.
    pub fn ca_pem(&self) -> &str {
        &self.ca.pem
    }

    /// What the agent is answered with. Ask only for a host that a rule covers: names that aren't allowed cost nothing.
    pub fn config(&self, host: &Host, alpn: Alpn) -> Result<Arc<ServerConfig>, LeafError> {
        let key = (host.clone(), alpn);
        if let Some(leaf) = self.cache.get(&key).filter(|leaf| Instant::now() < leaf.renew_at) {
            return Ok(leaf.config);
        }
        if !self.bucket.lock().take() {
            return Err(LeafError::TooFast);
        }
        let config = Arc::new(self.make(host, alpn)?);
        let renew_at = Instant::now() + LIFE / 2;
        let leaf = Leaf {
            config: Arc::clone(&config),
            renew_at,
        };
        self.cache.insert(key, leaf);
        Ok(config)
    }

    fn make(&self, host: &Host, alpn: Alpn) -> Result<ServerConfig, LeafError> {
        let certificate = parameters(host)?.signed_by(&self.key, &self.ca.issuer)?;
        let chain = vec![certificate.der().clone(), self.ca.certificate.clone()];
        let key = CertifiedKey::new(chain, Arc::clone(&self.signing));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![alpn.wire().to_vec()];
        config.ignore_client_order = true; // ours is the cheaper one; the leg never leaves the pod
        config.send_tls13_tickets = 1; // a client uses one at a time
        Ok(config)
    }
}

impl Bucket {
    fn full() -> Self {
        Self {
            left: BURST,
            filled: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        while self.left < BURST && self.filled.elapsed() >= REFILL {
            self.left += 1;
            self.filled += REFILL;
        }
        if self.left == BURST {
            self.filled = Instant::now();
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}

/// The name stands in the alternative names alone; GnuTLS insists on `digitalSignature` (research/vault-proxy.md §3).
fn parameters(host: &Host) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = ca::named("Berth");
    parameters.subject_alt_names = vec![match host {
        Host::Dns(name) => SanType::DnsName(name.to_string().try_into()?),
        Host::Ipv4(address) => SanType::IpAddress((*address).into()),
        Host::Ipv6(address) => SanType::IpAddress((*address).into()),
    }];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    parameters.serial_number = Some(ca::serial());
    ca::valid_for(&mut parameters, LIFE);
    Ok(parameters)
}

/// X25519 first and nothing post-quantum: this leg never leaves the pod, and it would cost 130 µs a handshake
/// (research/vault-proxy.md §4.2). AES-128 first for the same reason: SHA-384 alone was an eighth of a handshake.
fn provider() -> CryptoProvider {
    let mut suites = aws_lc_rs::default_provider().cipher_suites;
    suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    CryptoProvider {
        cipher_suites: suites,
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

/// Longer than a working day; renewed at half of it.
const LIFE: Duration = Duration::from_hours(48);
/// Hosts that one session talks to; 512 × about 8 KiB.
const LEAVES_MAX: usize = 512;
/// New hosts at once: an installer of packages talks to a dozen.
const BURST: u32 = 64;
/// Until one more may be made.
const REFILL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_hosts_are_slowed_beyond_a_burst() {
        let mut bucket = Bucket::full();
        assert!((0..BURST).all(|_| bucket.take()));
        assert!(!bucket.take());
        advance(REFILL).await;
        assert!(bucket.take());
        assert!(!bucket.take());
        advance(REFILL * (BURST + 10)).await;
        assert_eq!(
            (0..BURST * 2).filter(|_| bucket.take()).count(),
            64,
            "it holds no more than a burst"
        );
    }
}
