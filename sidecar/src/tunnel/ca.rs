//! The session's certificate authority: made once, kept in `vault-state`, gone with the pod. Only the agent of this pod
//! trusts it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::clock::unix_seconds;
use crate::control::state::write_atomically;

/// Signs the leaves that the agent sees.
pub struct Ca {
    /// With the private key.
    pub issuer: Issuer<'static, KeyPair>,
    /// The certificate itself, sent with every leaf.
    pub certificate: CertificateDer<'static>,
    /// The same for the agent's trust bundle.
    pub pem: String,
}

/// There is no authority to sign with.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its file.
    #[error("failed to read or keep {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its file was read and makes no sense.
    #[error("{path} makes no sense; the pod has to be replaced")]
    Broken {
        /// Which.
        path: PathBuf,
    },
    /// It couldn't be made.
    #[error("failed to make the session's certificate authority")]
    Make(#[from] rcgen::Error),
}

/// As it is kept: mode 0600, in a volume that the agent doesn't have.
#[derive(Deserialize, Serialize)]
struct Kept {
    name: String,
    key: String,
    certificate: String,
}

impl Ca {
    /// The one that an earlier process of this pod made, or a new one.
    pub fn open(directory: &Path) -> Result<Self, CaError> {
        let path = directory.join(FILE);
        let file = |source| CaError::File {
            path: path.clone(),
            source,
        };
        match std::fs::read(&path) {
            Ok(bytes) => {
                let broken = || CaError::Broken { path: path.clone() };
                let kept: Kept = serde_json::from_slice(&bytes).map_err(|_unreadable| broken())?;
                kept.restore().ok_or_else(broken)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let kept = Kept::make()?;
                let bytes = serde_json::to_vec(&kept).map_err(|error| file(error.into()))?;
                write_atomically(&path, &bytes).map_err(file)?;
                kept.restore().ok_or(CaError::Broken { path })
            }
            Err(source) => Err(file(source)),
        }
    }
}

impl Kept {
    fn make() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let name = format!("Berth session CA {:016x}", rand::random::<u64>());
        let certificate = parameters(&name).self_signed(&key)?;
        Ok(Self {
            name,
            key: key.serialize_pem(),
            certificate: certificate.pem(),
        })
    }

    fn restore(self) -> Option<Ca> {
        let key = KeyPair::from_pem(&self.key).ok()?;
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()?;
        Some(Ca {
            issuer: Issuer::new(parameters(&self.name), key),
            certificate,
            pem: self.certificate,
        })
    }
}

/// P-256, no further authority below it (research/vault-proxy.md §3). Unconstrained in names: hosts may be granted while
/// programs that have read the bundle run on.
fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.serial_number = Some(serial());
    valid_for(&mut parameters, LIFE);
    parameters
}

/// A subject that holds a common name.
pub(super) fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From five minutes ago, for clocks that differ.
pub(super) fn valid_for(parameters: &mut CertificateParams, life: Duration) {
    let now = unix_seconds();
    let at = |seconds| time(seconds).unwrap_or(parameters.not_before);
    (parameters.not_before, parameters.not_after) = (at(now - 300), at(now.saturating_add_unsigned(life.as_secs())));
}

fn time(unix: i64) -> Option<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(unix).ok()
}

/// 128 random bits, of which the first is clear: serial numbers are positive.
pub(super) fn serial() -> SerialNumber {
    let bytes: [u8; 16] = rand::random();
    let [first, rest @ ..] = bytes;
    SerialNumber::from_slice(&[&[first & 0x7f][..], &rest[..]].concat())
}

/// The certificate dies with the pod; this only bounds what a stolen key would be good for, which is this pod's agent.
const LIFE: Duration = Duration::from_hours(30 * 24);
const FILE: &str = "ca.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_a_restart_of_the_container_and_no_other_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let first = Ca::open(directory.path()).unwrap();
        let again = Ca::open(directory.path()).unwrap();
        assert_eq!(first.pem, again.pem);
        let other = Ca::open(tempfile::tempdir().unwrap().path()).unwrap();
        assert_ne!(first.pem, other.pem);
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_a_new_authority() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), b"{}").unwrap();
        assert!(matches!(Ca::open(directory.path()), Err(CaError::Broken { .. })));
    }
}
