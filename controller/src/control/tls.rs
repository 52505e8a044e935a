//! The control stream's CA and serving certificate, kept in a Secret of our own namespace (DESIGN §14).
//!
//! The first replica that needs them makes them; the others read what it made. Each looks again every few hours: the
//! serving certificate is made anew once two thirds of its life are over, and so is the CA, whose predecessor stays in
//! the bundle until it ends and signs until every pod has the new one. No key ever leaves the Secret and this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Clock;
use crate::grant::offer::InstallKey;
use crate::telemetry::chain;

/// What the control listener serves with, and what pods verify it with.
pub struct Material {
    /// CA certificates, PEM: the current one, then its predecessor while that lasts.
    pub ca: String,
    /// Configuration of the listener.
    pub server: Arc<ServerConfig>,
    /// Configuration of the API's listener: the same certificate, for HTTP of either version.
    pub api: Arc<ServerConfig>,
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

/// What the Secret holds.
type Data = BTreeMap<String, ByteString>;

/// Reads the certificates from the Secret, and makes what is missing or due.
pub async fn load(client: &Client, namespace: &str, now: Timestamp) -> Result<Material, TlsError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |error| TlsError::Secret(Box::new(error));
    let found = api.get_opt(SECRET).await.map_err(failed)?;
    let (metadata, held) = match found {
        Some(found) => (Some(found.metadata), found.data.unwrap_or_default()),
        None => (None, Data::new()),
    };
    let Some(data) = renewed(&held, namespace, now)? else {
        return material(&held, now);
    };
    let exists = metadata.is_some();
    let secret = Secret {
        metadata: metadata.unwrap_or_else(|| ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..ObjectMeta::default()
        }),
        type_: Some("Opaque".to_owned()),
        data: Some(data.clone()),
        ..Secret::default()
    };
    let written = if exists {
        api.replace(SECRET, &PostParams::default(), &secret).await
    } else {
        api.create(&PostParams::default(), &secret).await
    };
    match written {
        Ok(_) => material(&data, now),
        // Another replica was faster: what it made counts.
        Err(kube::Error::Api(status)) if ["AlreadyExists", "Conflict"].contains(&status.reason.as_str()) => {
            material(&api.get(SECRET).await.map_err(failed)?.data.unwrap_or_default(), now)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Looks again from time to time, until cancelled; tells of what has changed.
pub async fn keep(client: Client, namespace: String, current: watch::Sender<Arc<Material>>, cancel: CancellationToken) {
    let mut pause = LOOK;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match load(&client, &namespace, Clock.now()).await {
            Ok(material) => {
                pause = LOOK;
                current.send_replace(Arc::new(material));
            }
            Err(error) => {
                pause = LOOK_AGAIN;
                tracing::warn!(
                    error = chain(&error),
                    "the control stream's certificates weren't looked at"
                );
            }
        }
    }
}

/// Pure but for the keys it draws: what the Secret is to hold; `None` when that is what it holds.
fn renewed(held: &Data, namespace: &str, now: Timestamp) -> Result<Option<Data>, TlsError> {
    let mut data = held.clone();
    if !data.contains_key(INSTALL_KEY) {
        put(&mut data, INSTALL_KEY, rand::random::<[u8; 32]>());
    }
    let has_ca = data.contains_key("ca.crt");
    if has_ca && !data.contains_key("ca-renew-at") {
        // Of a release that didn't renew it, and so from not long ago.
        put(&mut data, "ca-renew-at", (now + CA_LIFE * 2 / 3).to_string());
    }
    if !has_ca || due(&data, "ca-renew-at", now) {
        if has_ca {
            let old = text(&data, "ca.crt")?;
            put(&mut data, "ca-old.crt", old);
            put(&mut data, "ca-old-ends", (now + CA_LIFE / 3).to_string());
            // The old one goes on signing for as long as its last certificate holds.
            if time(&data, "renew-at").is_some_and(|due| due + SERVING_LIFE / 3 > now + SPREAD) {
                put(&mut data, "renew-at", (now + SPREAD).to_string());
            }
        }
        let key = KeyPair::generate().map_err(TlsError::Make)?;
        let certificate = ca_params(now)
            .and_then(|params| params.self_signed(&key))
            .map_err(TlsError::Make)?;
        put(&mut data, "ca.crt", certificate.pem());
        put(&mut data, "ca.key", key.serialize_pem());
        put(&mut data, "ca-renew-at", (now + CA_LIFE * 2 / 3).to_string());
    }
    if !data.contains_key("tls.crt") || due(&data, "renew-at", now) {
        let (certificate, key) = serving(namespace, now, &text(&data, "ca.key")?).map_err(TlsError::Make)?;
        put(&mut data, "tls.crt", certificate);
        put(&mut data, "tls.key", key);
        put(&mut data, "renew-at", (now + SERVING_LIFE * 2 / 3).to_string());
    }
    Ok((data != *held).then_some(data))
}

fn put(data: &mut Data, key: &str, value: impl Into<Vec<u8>>) {
    data.insert(key.to_owned(), ByteString(value.into()));
}

/// Whether a time has come; one that can't be read has.
fn due(data: &Data, key: &str, now: Timestamp) -> bool {
    time(data, key).is_none_or(|at| at <= now)
}

fn time(data: &Data, key: &str) -> Option<Timestamp> {
    text(data, key).ok()?.parse().ok()
}

/// A serving certificate and its key.
fn serving(namespace: &str, now: Timestamp, ca_key: &str) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    // The issuer's name and key identifier depend on nothing else, so that any release signs for the same CA.
    let issuer = Issuer::new(ca_params(now)?, KeyPair::from_pem(ca_key)?);
    let certificate = serving_params(namespace, now)?.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
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

fn text(data: &Data, key: &str) -> Result<String, TlsError> {
    let bytes = data
        .get(key)
        .ok_or_else(|| TlsError::Unusable(format!("{key} is missing")))?;
    String::from_utf8(bytes.0.clone()).map_err(|error| TlsError::Unusable(format!("{key}: {error}")))
}

fn material(data: &Data, now: Timestamp) -> Result<Material, TlsError> {
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
    let mut api = config.clone();
    api.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.alpn_protocols = vec![b"h2".to_vec()];
    let old = data.contains_key("ca-old.crt") && !due(data, "ca-old-ends", now);
    let old = if old { text(data, "ca-old.crt")? } else { String::new() };
    Ok(Material {
        ca: text(data, "ca.crt")? + &old,
        server: Arc::new(config),
        api: Arc::new(api),
        install_key: InstallKey::new(data.get(INSTALL_KEY).map(|key| key.0.clone()).unwrap_or_default()),
    })
}

/// Key of the Secret that holds the install's key.
const INSTALL_KEY: &str = "install.key";
/// Name of the Secret.
pub const SECRET: &str = "berth-control-tls";
const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const SERVING_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// A pod's kubelet brings a changed bundle within minutes, a pod that can't be reached perhaps never.
const SPREAD: SignedDuration = SignedDuration::from_hours(24 * 7);
const LOOK: Duration = Duration::from_hours(6);
const LOOK_AGAIN: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn at(days: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * (20_000 + days))
    }

    fn next(held: &Data, days: i64) -> Data {
        renewed(held, "berth", at(days))
            .unwrap()
            .unwrap_or_else(|| held.clone())
    }

    /// Whether what is served on a day passes with the bundle of another.
    fn passes(bundle: &Data, served: &Data, days: i64) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates = |pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .unwrap()
        };
        let mut roots = RootCertStore::empty();
        let old = if due(bundle, "ca-old-ends", at(days)) {
            String::new()
        } else {
            text(bundle, "ca-old.crt").unwrap()
        };
        roots.add_parsable_certificates(certificates(&(text(bundle, "ca.crt").unwrap() + &old)));
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let chain = certificates(&text(served, "tls.crt").unwrap());
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at(days).as_second()).unwrap()));
        let name = ServerName::try_from("berth-controller.berth.svc").unwrap();
        verifier.verify_server_cert(&chain[0], &[], &name, &[], time).is_ok()
    }

    #[test]
    fn what_is_due_is_made_anew_and_nothing_else() {
        let first = next(&Data::new(), 0);
        assert!(passes(&first, &first, 0));
        assert_eq!(renewed(&first, "berth", at(200)).unwrap(), None);
        let second = next(&first, 300);
        let same = |key: &str| first.get(key) == second.get(key);
        assert!(same("ca.crt") && same("ca.key") && same(INSTALL_KEY) && !same("tls.crt"));
        assert!(passes(&first, &second, 300));
    }

    #[test]
    fn a_new_ca_signs_once_every_pod_has_it_and_the_old_one_stays_until_it_ends() {
        let old = next(&Data::new(), 0);
        let old = next(&old, 2400);
        let changed = next(&old, 2434);
        assert_eq!(changed.get("tls.crt"), old.get("tls.crt"), "it still signs");
        assert!(passes(&old, &changed, 2434) && passes(&changed, &changed, 2434));
        let signed = next(&changed, 2442);
        assert!(passes(&changed, &signed, 2442), "pods have the new one");
        assert!(!passes(&old, &signed, 2442));
        assert_eq!(
            signed.get(INSTALL_KEY),
            old.get(INSTALL_KEY),
            "stubs stay what they are"
        );
        assert_eq!(
            material(&signed, at(2442))
                .unwrap()
                .ca
                .matches("BEGIN CERTIFICATE")
                .count(),
            2
        );
        assert_eq!(
            material(&signed, at(3700))
                .unwrap()
                .ca
                .matches("BEGIN CERTIFICATE")
                .count(),
            1
        );
    }

    #[test]
    fn a_secret_of_an_earlier_release_is_kept() {
        let mut old = next(&Data::new(), 0);
        old.remove("ca-renew-at");
        let kept = next(&old, 10);
        assert_eq!(kept.get("ca.crt"), old.get("ca.crt"));
        assert!(kept.contains_key("ca-renew-at"));
    }
}
