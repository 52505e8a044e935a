//! A client's certificate with its key, and the roots of one route: what makes one connection to a host another than the
//! next. Both are compared by a digest of their PEM, so that connections with different ones never take each other's place.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error as TlsError, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// A digest of some PEM.
pub type Print = [u8; 32];

/// A client's certificate and key.
pub struct Identity {
    print: Print,
    key: Arc<CertifiedKey>,
    ends: i64,
    /// Made once for each protocol and roots; they go with the identity, and their sessions with them.
    configs: Mutex<HashMap<Kind, Arc<ClientConfig>>>,
}

/// Certificates that the upstreams of a route are verified with, in place of all others.
pub struct Roots {
    print: Print,
    store: Arc<RootCertStore>,
    configs: Mutex<HashMap<Kind, Arc<ClientConfig>>>,
}

/// Which configuration: whether HTTP/2 is offered, and with which roots.
type Kind = (bool, Option<Print>);

/// A certificate and key that can't be used. Nothing of them is in it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// No certificate in it, or one that can't be read.
    #[error("holds no certificate chain in PEM that can be read")]
    Certificate,
    /// It is over.
    #[error("holds a certificate that isn't valid any more")]
    Expired,
    /// No key in it, or of a kind that isn't known.
    #[error("holds no private key in PEM that can be read")]
    Key,
    /// The key isn't the certificate's.
    #[error("holds a private key that isn't the certificate's")]
    Mismatch,
    /// It isn't valid yet.
    #[error("holds a certificate that isn't valid yet")]
    NotYet,
    /// More than a chain has.
    #[error("is larger than {} KiB or holds more than {CHAIN_MAX} certificates", PEM_MAX >> 10)]
    Large,
}

/// Roots that can't be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("holds no certificates in PEM that can be trusted")]
pub struct RootsError;

impl Identity {
    /// Reads the chain, the client's own certificate first, and the key, in any order; `now` in seconds since 1970.
    pub fn parse(pem: &[u8], now: i64) -> Result<Self, IdentityError> {
        if pem.len() > PEM_MAX {
            return Err(IdentityError::Large);
        }
        let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|_unreadable| IdentityError::Certificate)?;
        if chain.len() > CHAIN_MAX {
            return Err(IdentityError::Large);
        }
        let (begins, ends) = validity(chain.first())?;
        if now < begins {
            return Err(IdentityError::NotYet);
        }
        if ends <= now {
            return Err(IdentityError::Expired);
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_unreadable| IdentityError::Key)?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => IdentityError::Mismatch,
            TlsError::InvalidCertificate(_) => IdentityError::Certificate,
            _ => IdentityError::Key,
        })?;
        Ok(Self {
            print: Sha256::digest(pem).into(),
            key: Arc::new(key),
            ends,
            configs: Mutex::default(),
        })
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn ends(&self) -> i64 {
        self.ends
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    pub(crate) fn config(
        &self,
        (http2, roots): (bool, Option<&Roots>),
        make: impl FnOnce() -> Result<ClientConfig, TlsError>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        kept(&self.configs, (http2, roots.map(|roots| roots.print)), make)
    }
}

impl Roots {
    /// Reads certificates.
    pub fn parse(pem: &[u8]) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_unreadable| RootsError)?;
            store.add(certificate).map_err(|_untrustable| RootsError)?;
        }
        if store.is_empty() {
            return Err(RootsError);
        }
        Ok(Self {
            print: Sha256::digest(pem).into(),
            store: Arc::new(store),
            configs: Mutex::default(),
        })
    }

    pub(crate) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    pub(crate) fn config(
        &self,
        http2: bool,
        make: impl FnOnce() -> Result<ClientConfig, TlsError>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        kept(&self.configs, (http2, None), make)
    }
}

fn kept(
    configs: &Mutex<HashMap<Kind, Arc<ClientConfig>>>,
    kind: Kind,
    make: impl FnOnce() -> Result<ClientConfig, TlsError>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut configs = configs.lock();
    if let Some(config) = configs.get(&kind) {
        return Ok(Arc::clone(config));
    }
    let config = Arc::new(make()?);
    configs.insert(kind, Arc::clone(&config));
    Ok(config)
}

fn validity(certificate: Option<&CertificateDer<'_>>) -> Result<(i64, i64), IdentityError> {
    let certificate = certificate.ok_or(IdentityError::Certificate)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_unreadable| IdentityError::Certificate)?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

macro_rules! compared_by_print {
    ($($type:ty),+) => {$(
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.print == other.print
            }
        }

        impl Eq for $type {}

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.print.hash(state);
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        }
    )+};
}

compared_by_print!(Identity, Roots);

/// A chain of four RSA certificates and a key have 12 KiB.
const PEM_MAX: usize = 64 << 10;
const CHAIN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Within the certificate's year.
    const NOW: i64 = 1_780_000_000;

    fn certificate(key: &KeyPair) -> String {
        let mut parameters = CertificateParams::new(vec!["agent.example.com".to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2026, 1, 1);
        parameters.not_after = date_time_ymd(2027, 1, 1);
        parameters.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_chain_and_its_key_are_read_in_any_order() {
        let key = KeyPair::generate().unwrap();
        let (chain, key) = (certificate(&key), key.serialize_pem());
        for pem in [format!("{chain}{key}"), format!("{key}\n{chain}\n{chain}")] {
            let identity = Identity::parse(pem.as_bytes(), NOW).unwrap();
            assert_eq!(identity.ends(), date_time_ymd(2027, 1, 1).unix_timestamp());
            assert!(!format!("{identity:?}").contains("PRIVATE"));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (chain, key, other) = (certificate(&one), one.serialize_pem(), two.serialize_pem());
        for (pem, now, expected) in [
            (String::new(), NOW, IdentityError::Certificate),
            (key.clone(), NOW, IdentityError::Certificate),
            (chain.replace('M', "!"), NOW, IdentityError::Certificate),
            (chain.clone(), NOW, IdentityError::Key),
            (format!("{chain}{other}"), NOW, IdentityError::Mismatch),
            (format!("{chain}{key}"), 1_700_000_000, IdentityError::NotYet),
            (format!("{chain}{key}"), 1_900_000_000, IdentityError::Expired),
            (format!("{}{key}", chain.repeat(11)), NOW, IdentityError::Large),
        ] {
            assert_eq!(Identity::parse(pem.as_bytes(), now).err(), Some(expected), "{now}");
        }
    }

    #[test]
    fn roots_are_certificates() {
        let chain = certificate(&KeyPair::generate().unwrap());
        assert_eq!(Roots::parse(chain.as_bytes()), Roots::parse(chain.as_bytes()));
        assert_eq!(Roots::parse(b"nothing").err(), Some(RootsError));
    }
}
