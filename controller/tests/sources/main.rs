//! Where credentials' values come from: OAuth 2.0 clients, against a real authorization server (`berth_gallery::oauth`)
//! where Python has its library, and against stand-ins for what no right server does ([`faults`]); client certificates
//! ([`certificates`]); keys of model gateways ([`gateways`]). The Kubernetes API's routes for one Secret are a stand-in ([`api`]).

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use berth_controller::context::{Clock, NotLeading};
use berth_controller::grant::oauth2::ask::Asker;
use berth_controller::grant::oauth2::{For, Minted, OAuth2, Refusal};
use berth_crds::{ClientAuthentication, KeyRef, OAuth2 as Spec};
use berth_egress::address::Vetting;
use berth_egress::authority::Host;
use berth_gallery::oauth::{AuthorizationServer, CLIENT, CLIENT_SECRET, REFRESH_TOKEN};
use berth_gallery::origin::{Authority, Origin, always};
use berth_outbound::dial::Dialer;
use berth_outbound::endpoint::Endpoint;
use berth_outbound::oauth2::{Authentication, Client as OAuthClient};
use berth_outbound::post::Caller;
use berth_outbound::resolve::Resolver;
use berth_outbound::tls::UpstreamTls;
use ipnet::IpNet;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

mod api;
mod certificates;
mod faults;
mod gateways;

use self::api::Secret;
use self::faults::answer;

const LOGIN: &str = "login.example.com";

/// Who asks: loopback is named as a network of token endpoints, unless a test says otherwise.
fn caller(authority: &Authority, networks: &[&str], cluster: &[&str]) -> Result<Caller> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let directory = tempfile::tempdir()?;
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, &authority.pem)?;
    let fixed: HashMap<Host, IpAddr> = [(Host::parse(LOGIN)?, IpAddr::from([127, 0, 0, 1]))].into();
    let parse = |networks: &[&str]| {
        networks
            .iter()
            .map(|network| network.parse())
            .collect::<Result<Vec<IpNet>, _>>()
    };
    let vetting = Vetting {
        cluster: parse(cluster)?,
        own: Vec::new(),
    };
    let dialer = Dialer::new(Resolver::new(fixed, vetting)?, UpstreamTls::new(&[ca])?);
    Ok(Caller::new(dialer, parse(networks)?))
}

fn key_ref(key: &str) -> KeyRef {
    KeyRef {
        name: "oauth".to_owned(),
        key: key.to_owned(),
    }
}

fn spec(port: u16) -> Spec {
    Spec {
        token_url: format!("https://{LOGIN}:{port}/token"),
        client_id: CLIENT.to_owned(),
        client_secret_ref: Some(key_ref("secret")),
        ..Spec::default()
    }
}

fn refreshing(port: u16) -> Spec {
    Spec {
        refresh_token_ref: Some(key_ref("refresh")),
        ..spec(port)
    }
}

fn key() -> (String, String) {
    ("team-a".to_owned(), "oauth/refresh".to_owned())
}

async fn ask(oauth2: &OAuth2, secret: &Secret, spec: &Spec) -> Result<Minted, Refusal> {
    let wanted = For {
        spec: spec.clone(),
        version: "u/1".to_owned(),
    };
    asker(oauth2, secret).ask(&key(), &wanted).await
}

fn asker<'a>(oauth2: &'a OAuth2, secret: &'a Secret) -> Asker<'a> {
    Asker {
        oauth2,
        client: &secret.client,
        leads: &|| Ok(()),
        clock: Clock,
    }
}

fn value(result: Result<Minted, Refusal>) -> Result<Minted> {
    result.map_err(|refusal| anyhow::anyhow!(refusal.message))
}

/// Against the real server: by Basic and by body, with and without scopes; what it refuses is said by its code.
#[tokio::test]
async fn a_client_gets_a_token_that_works_and_can_be_revoked() -> Result<()> {
    let authority = Authority::new()?;
    let Some(server) = AuthorizationServer::start(&authority, &[LOGIN]).await? else {
        return Ok(());
    };
    let caller = caller(&authority, &["127.0.0.0/8"], &[])?;
    let oauth2 = OAuth2::new(self::caller(&authority, &["127.0.0.0/8"], &[])?);
    let secret = Secret::new(&[("secret", &format!("{CLIENT_SECRET}\n"))]).await?;
    for authentication in [ClientAuthentication::Basic, ClientAuthentication::Body] {
        let spec = Spec {
            client_authentication: Some(authentication),
            scopes: vec!["read".to_owned(), "write".to_owned()],
            ..spec(server.port)
        };
        let minted = value(ask(&oauth2, &secret, &spec).await)?;
        ensure!(minted.lasts == Some(std::time::Duration::from_hours(1)));
        let client = OAuthClient {
            token: Endpoint::parse(&spec.token_url)?,
            id: CLIENT.to_owned(),
            secret: Some(SecretString::from(CLIENT_SECRET)),
            authentication: Authentication::Basic,
            scopes: Vec::new(),
        };
        let place = format!("https://{LOGIN}:{}", server.port);
        let bearer = format!("Bearer {}", minted.value.expose_secret());
        let live = |bearer: String| {
            let (caller, place) = (&caller, Endpoint::parse(&format!("{place}/me")));
            async move { Ok::<_, anyhow::Error>(caller.post(&place?, Some(bearer.parse()?), String::new()).await?.status) }
        };
        assert_eq!(live(bearer.clone()).await?, 200);
        let revocation = Endpoint::parse(&format!("{place}/revoke"))?;
        berth_outbound::oauth2::revoke(&caller, &client, &revocation, &minted.value).await?;
        assert_eq!(live(bearer).await?, 401);
    }
    let wrong = Secret::new(&[("secret", "fake-wrong-secret")]).await?;
    let unknown_scope = Spec {
        scopes: vec!["admin".to_owned()],
        ..spec(server.port)
    };
    for (secret, spec, code) in [
        (&wrong, spec(server.port), "401 Unauthorized: invalid_client"),
        (&secret, unknown_scope, "400 Bad Request: invalid_scope"),
    ] {
        let refusal = ask(&oauth2, secret, &spec).await.err().context("refused")?;
        assert_eq!(refusal.message, format!("{LOGIN} refuses a token: {code}"));
        assert!(refusal.is_final);
    }
    Ok(())
}

/// Against the real server, which takes each refresh token once.
#[tokio::test]
async fn a_rotated_refresh_token_is_written_back() -> Result<()> {
    let authority = Authority::new()?;
    let Some(server) = AuthorizationServer::start(&authority, &[LOGIN]).await? else {
        return Ok(());
    };
    let oauth2 = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
    let secret = Secret::new(&[("secret", CLIENT_SECRET), ("refresh", REFRESH_TOKEN)]).await?;
    let mut before = REFRESH_TOKEN.to_owned();
    for round in 0..3 {
        secret.kept.lock().overtaken = round; // somebody labels the Secret meanwhile, up to twice
        value(ask(&oauth2, &secret, &refreshing(server.port)).await)?;
        let version = secret.kept.lock().version;
        let after = secret.value("refresh");
        // What was written is no change to any binding of this Secret.
        let wanted = oauth2.wanted("team-a", &Spec::default(), &format!("u/{version}"));
        assert_ne!(wanted.version, format!("u/{version}"));
        assert!(after != before && after.len() >= 12, "{version}");
        assert_eq!(secret.value("secret"), CLIENT_SECRET);
        before = after;
    }
    assert_eq!(oauth2.unsaved(&key(), Timestamp::now()), None);
    Ok(())
}

/// Against the real server: what can't be written is used from memory, told, and written once it may be.
#[tokio::test]
async fn without_the_right_to_patch_the_new_token_is_kept_in_memory_and_told() -> Result<()> {
    let authority = Authority::new()?;
    let Some(server) = AuthorizationServer::start(&authority, &[LOGIN]).await? else {
        return Ok(());
    };
    let oauth2 = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
    let secret = Secret::new(&[("secret", CLIENT_SECRET), ("refresh", REFRESH_TOKEN)]).await?;
    secret.kept.lock().may_patch = false;
    for _ in 0..3 {
        value(ask(&oauth2, &secret, &refreshing(server.port)).await)?;
        assert_eq!(secret.value("refresh"), REFRESH_TOKEN);
    }
    let (why, _) = oauth2.unsaved(&key(), Timestamp::now()).context("told")?;
    assert!(
        why.contains("may not patch Secret oauth") && why.contains("Role"),
        "{why}"
    );
    // Another process knows the spent one alone.
    let other = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
    let refusal = ask(&other, &secret, &refreshing(server.port)).await.err();
    assert!(refusal.is_some_and(|refusal| refusal.message.ends_with("invalid_grant")));
    secret.kept.lock().may_patch = true;
    let refresh = key_ref("refresh");
    asker(&oauth2, &secret).write_back(&key(), &refresh).await;
    assert_ne!(secret.value("refresh"), REFRESH_TOKEN);
    assert_eq!(oauth2.unsaved(&key(), Timestamp::now()), None);
    value(ask(&other, &secret, &refreshing(server.port)).await)?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_the_owner_has_put_there_meanwhile_is_not_written_over() -> Result<()> {
    let authority = Authority::new()?;
    let rotated =
        json!({ "access_token": "fake-access-token-0", "token_type": "bearer", "refresh_token": "fake-rotated-token" });
    let stand_in = Origin::http1(&authority, &[LOGIN], always(answer(200, "", &rotated.to_string()))).await?;
    let oauth2 = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
    let secret = Secret::new(&[("secret", CLIENT_SECRET), ("refresh", REFRESH_TOKEN)]).await?;
    secret.kept.lock().may_patch = false;
    value(ask(&oauth2, &secret, &refreshing(stand_in.address.port())).await)?;
    {
        let mut kept = secret.kept.lock();
        kept.may_patch = true;
        kept.data
            .insert("refresh".to_owned(), "fake-token-of-the-owner".to_owned());
    }
    let refresh = key_ref("refresh");
    asker(&oauth2, &secret).write_back(&key(), &refresh).await;
    assert_eq!(secret.value("refresh"), "fake-token-of-the-owner");
    value(ask(&oauth2, &secret, &refreshing(stand_in.address.port())).await)?;
    let seen = stand_in.requests();
    let last = String::from_utf8_lossy(&seen.last().context("a request")?.body).into_owned();
    assert!(last.contains("refresh_token=fake-token-of-the-owner"), "{last}");
    Ok(())
}

/// A Secret goes to public addresses and to networks that the install names; never into the cluster by a name's answer.
#[tokio::test]
async fn addresses_are_vetted_as_an_agents_are() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[LOGIN], berth_gallery::origin::echo()).await?;
    let port = origin.address.port();
    let secret = Secret::new(&[("secret", CLIENT_SECRET)]).await?;
    for (url, networks, cluster, expected) in [
        (format!("https://{LOGIN}:{port}/token"), &[][..], &[][..], "Loopback"),
        (format!("https://127.0.0.1:{port}/token"), &[], &[], "Loopback"),
        (
            format!("https://{LOGIN}:{port}/token"),
            &["10.0.0.0/8"],
            &["127.0.0.0/8"],
            "Cluster",
        ),
        (
            "https://169.254.169.254/token".to_owned(),
            &["169.254.0.0/16"],
            &[],
            "Metadata",
        ),
        (format!("https://user@{LOGIN}/token"), &[], &[], "tokenURL: its host"),
        (
            format!("http://{LOGIN}/token"),
            &[],
            &[],
            "tokenURL: it must begin with https://",
        ),
    ] {
        let oauth2 = OAuth2::new(caller(&authority, networks, cluster)?);
        let spec = Spec {
            token_url: url.clone(),
            ..spec(port)
        };
        let refusal = ask(&oauth2, &secret, &spec).await.err().context(url.clone())?;
        assert!(refusal.message.contains(expected), "{url}: {}", refusal.message);
    }
    assert_eq!(origin.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_former_leader_spends_no_refresh_token() -> Result<()> {
    let authority = Authority::new()?;
    let origin = Origin::http1(&authority, &[LOGIN], berth_gallery::origin::echo()).await?;
    let oauth2 = OAuth2::new(caller(&authority, &["127.0.0.0/8"], &[])?);
    let secret = Secret::new(&[("secret", CLIENT_SECRET), ("refresh", REFRESH_TOKEN)]).await?;
    let wanted = For {
        spec: refreshing(origin.address.port()),
        version: "u/1".to_owned(),
    };
    let former = Asker {
        leads: &|| Err(NotLeading),
        ..asker(&oauth2, &secret)
    };
    let refusal = former.ask(&key(), &wanted).await.err().context("refused")?;
    assert!(
        !refusal.is_final && refusal.message.contains("Lease"),
        "{}",
        refusal.message
    );
    assert_eq!(origin.connections(), 0);
    Ok(())
}
