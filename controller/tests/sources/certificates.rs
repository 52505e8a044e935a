//! Client certificates, from Secrets as `kubectl create secret tls` makes them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_controller::grant::secrets;
use berth_crds::Reason;
use berth_gallery::origin::Authority;
use jiff::Timestamp;
use rcgen::date_time_ymd;

use super::api::Secret;

/// Within the certificates' year.
const NOW: i64 = 1_780_000_000;

/// Chain and key, valid in 2026.
fn pair(authority: &Authority) -> Result<(String, String)> {
    let (certificate, key) = authority.issue(&["agent.example.com"], |parameters| {
        parameters.not_before = date_time_ymd(2026, 1, 1);
        parameters.not_after = date_time_ymd(2027, 1, 1);
    })?;
    Ok((certificate.pem(), key.serialize_pem()))
}

async fn read(data: &[(&str, &str)], key: &str, now: i64) -> Result<Result<(Vec<u8>, Duration), secrets::ValueError>> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let secret = Secret::new(data).await?;
    let now = Timestamp::from_second(now)?;
    Ok(secrets::certificate(&secret.client, "team-a", ("oauth", key), now).await)
}

#[tokio::test]
async fn chain_and_key_are_read_together_and_last_as_long_as_the_certificate() -> Result<()> {
    let (chain, key) = pair(&Authority::new()?)?;
    let both = format!("{key}{chain}");
    for (data, name) in [
        (&[("tls.crt", chain.as_str()), ("tls.key", key.as_str())][..], "tls.crt"),
        (&[("client.pem", both.as_str())], "client.pem"),
    ] {
        let (pem, left) = read(data, name, NOW).await??;
        let pem = String::from_utf8(pem)?;
        assert!(pem.contains(chain.trim()) && pem.contains(key.trim()), "{name}");
        let ends = date_time_ymd(2027, 1, 1).unix_timestamp();
        assert_eq!(left, Duration::from_secs((ends - NOW).unsigned_abs()), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused_with_its_reason() -> Result<()> {
    let authority = Authority::new()?;
    let ((chain, key), (_, other)) = (pair(&authority)?, pair(&authority)?);
    for (chain, key, now, why) in [
        (
            chain.as_str(),
            other.as_str(),
            NOW,
            "holds a private key that isn't the certificate's",
        ),
        (chain.as_str(), "nothing", NOW, "holds no private key"),
        ("nothing", key.as_str(), NOW, "holds no certificate chain"),
        (chain.as_str(), key.as_str(), 1_900_000_000, "isn't valid any more"),
        (chain.as_str(), key.as_str(), 1_700_000_000, "isn't valid yet"),
    ] {
        let error = read(&[("tls.crt", chain), ("tls.key", key)], "tls.crt", now)
            .await?
            .err();
        let error = error.context(why)?;
        assert_eq!(error.reason(), Reason::CertificateUnusable, "{why}");
        let message = error.to_string();
        assert!(
            message.starts_with("Secret oauth ") && message.contains(why),
            "{message}"
        );
        assert!(!message.contains("PRIVATE"));
    }
    let error = read(&[("tls.crt", &chain)], "tls.crt", NOW)
        .await?
        .err()
        .context("no key")?;
    assert_eq!(error.reason(), Reason::SecretNotFound);
    Ok(())
}
