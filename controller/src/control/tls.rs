//! The control stream's CA and serving certificate, kept in a Secret of our own namespace (DESIGN §14).
//!
//! The first replica that needs them makes them; the others read what it made. The serving certificate is made anew
//! once two thirds of its life are over; the CA outlives the release. No key ever leaves the Secret and this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::grant::offer::InstallKey;

/// What the control listener serves with, and what pods verify it with.
pub struct Material {
    /// CA certificate, PEM.
    pub ca: String,
    /// Configuration of the listener.
    pub server: Arc<ServerConfig>,
    /// Key of this install: stubs are derived from it.
    pub install_key: InstallKey,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The Secret couldn't be read or written.
    #[error("failed to keep the certificate in Secret {SECRET}")]
    Secret(#[source] Box<kube::Error>),
    /// A certificate couldn't be made.
    #[error("failed to make a certificate")]
    Make(#[source] rcgen::Error),
    /// What the Secret holds can't be used.
    #[error("Secret {SECRET} can't be used: {0}; delete it to have it made again")]
    Unusable(String),
}

/// Reads the certificate from the Secret, or makes it.
pub async fn load(client: &Client, namespace: &str, now: Timestamp) -> Result<Material, TlsError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = |error| TlsError::Secret(Box::new(error));
    let found = api.get_opt(SECRET).await.map_err(secret)?;
    let data = match found.and_then(|found| found.data.map(|data| (found.metadata, data))) {
        None => create(&api, namespace, now).await?,
        Some((_, data)) if fresh(&data, now) => data,
        Some((metadata, data)) => renew(&api, metadata, &data, (namespace, now)).await?,
    };
    material(&data)
}

async fn create(api: &Api<Secret>, namespace: &str, now: Timestamp) -> Result<BTreeMap<String, ByteString>, TlsError> {
    let mut data = make(namespace, now, None).map_err(TlsError::Make)?;
    data.insert(INSTALL_KEY.to_owned(), ByteString(rand::random::<[u8; 32]>().to_vec()));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.clone()),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(data),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let made = api
                .get(SECRET)
                .await
                .map_err(|error| TlsError::Secret(Box::new(error)))?;
            made.data.ok_or_else(|| TlsError::Unusable("it is empty".to_owned()))
        }
        Err(error) => Err(TlsError::Secret(Box::new(error))),
    }
}

async fn renew(
    api: &Api<Secret>,
    metadata: ObjectMeta,
    old: &BTreeMap<String, ByteString>,
    (namespace, now): (&str, Timestamp),
) -> Result<BTreeMap<String, ByteString>, TlsError> {
    let ca = (text(old, "ca.crt")?, text(old, "ca.key")?);
    let mut data = make(namespace, now, Some(ca)).map_err(TlsError::Make)?;
    let kept = old.get(INSTALL_KEY).cloned();
    let kept = kept.unwrap_or_else(|| ByteString(rand::random::<[u8; 32]>().to_vec()));
    data.insert(INSTALL_KEY.to_owned(), kept);
    let secret = Secret {
        metadata,
        type_: Some("Opaque".to_owned()),
        data: Some(data.clone()),
        ..Secret::default()
    };
    api.replace(SECRET, &PostParams::default(), &secret)
        .await
        .map_err(|error| TlsError::Secret(Box::new(error)))?;
    Ok(data)
}

/// A serving certificate by this CA, or by a new one.
fn make(
    namespace: &str,
    now: Timestamp,
    ca: Option<(String, String)>,
) -> Result<BTreeMap<String, ByteString>, rcgen::Error> {
    let (ca_pem, ca_key) = if let Some((certificate, key)) = ca {
        (certificate, KeyPair::from_pem(&key)?)
    } else {
        let key = KeyPair::generate()?;
        (ca_params(now)?.self_signed(&key)?.pem(), key)
    };
    let ca_key_pem = ca_key.serialize_pem();
    let key = KeyPair::generate()?;
    // The issuer's name and key identifier depend on nothing else, so that any release signs for the same CA.
    let issuer = Issuer::new(ca_params(now)?, ca_key);
    let certificate = serving_params(namespace, now)?.signed_by(&key, &issuer)?;
    let renew_at = (now + SERVING_LIFE * 2 / 3).to_string();
    let entries = [
        ("ca.crt", ca_pem),
        ("ca.key", ca_key_pem),
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
        ("renew-at", renew_at),
    ];
    Ok(entries
        .into_iter()
        .map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())))
        .collect())
}

fn ca_params(now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "berth control stream CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, now, CA_LIFE);
    Ok(params)
}

fn serving_params(namespace: &str, now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let names = ["", ".svc", ".svc.cluster.local"].map(|suffix| format!("berth-controller.{namespace}{suffix}"));
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "berth-controller");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, SERVING_LIFE);
    Ok(params)
}

/// From five minutes ago, as clocks differ.
fn valid(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) {
    let at = |time: Timestamp| {
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        let (year, month, day) = (
            i32::from(date.year()),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        );
        rcgen::date_time_ymd(year, month, day)
    };
    params.not_before = at(now - SignedDuration::from_mins(5));
    params.not_after = at(now + life);
}

fn fresh(data: &BTreeMap<String, ByteString>, now: Timestamp) -> bool {
    let renew_at = text(data, "renew-at")
        .ok()
        .and_then(|text| text.parse::<Timestamp>().ok());
    renew_at.is_some_and(|at| now < at) && data.contains_key(INSTALL_KEY)
}

fn text(data: &BTreeMap<String, ByteString>, key: &str) -> Result<String, TlsError> {
    let bytes = data
        .get(key)
        .ok_or_else(|| TlsError::Unusable(format!("{key} is missing")))?;
    String::from_utf8(bytes.0.clone()).map_err(|error| TlsError::Unusable(format!("{key}: {error}")))
}

fn material(data: &BTreeMap<String, ByteString>) -> Result<Material, TlsError> {
    let unusable = |what: &str, error: &dyn std::fmt::Display| TlsError::Unusable(format!("{what}: {error}"));
    let chain = CertificateDer::pem_slice_iter(text(data, "tls.crt")?.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable("tls.crt", &error))?;
    let key = PrivateKeyDer::from_pem_slice(text(data, "tls.key")?.as_bytes())
        .map_err(|error| unusable("tls.key", &error))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| unusable("tls.crt", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Material {
        ca: text(data, "ca.crt")?,
        server: Arc::new(config),
        install_key: InstallKey::new(data.get(INSTALL_KEY).map(|key| key.0.clone()).unwrap_or_default()),
    })
}

/// Key of the Secret that holds the install's key.
const INSTALL_KEY: &str = "install.key";
/// Name of the Secret.
pub const SECRET: &str = "berth-control-tls";
const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const SERVING_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
