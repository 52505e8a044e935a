//! Every kind of credential, from its Secret to the host: the agent has stubs, the host gets the real thing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_crds::{CredentialBinding, Phase};
use berth_e2e::origin::{Outside, clusters_own, expose, name, trust};
use berth_e2e::{Team, cluster};
use berth_gallery::aws::{self, Key};
use berth_gallery::oauth::{AuthorizationServer, CLIENT, CLIENT_SECRET};
use berth_gallery::origin::{Authority, Origin, echo};
use kube::ResourceExt;
use serde_json::{Value, json};

/// The cluster's own authority: the controller trusts it with token endpoints, and `upstream-ca` says it to the pool.
async fn authority(team: &Team) -> Result<Authority> {
    let authority = clusters_own(&team.cluster)?;
    trust(team, &authority).await?;
    let mut pool = team.pool(1);
    pool["spec"]["caBundleRef"] = json!({ "name": "upstream-ca" });
    team.apply(&pool).await?;
    Ok(authority)
}

/// A binding by hand for every session of the namespace, and the policy that takes it.
async fn bind(team: &Team, binding: &str, credential: Value, host: &str, inject: Value) -> Result<()> {
    let route = json!({
        "name": "outside", "host": host, "methods": ["GET"], "addresses": ["10.0.0.0/8"], "inject": inject,
    });
    let spec = json!({
        "credential": credential, "subjects": { "allSessions": true }, "routes": [route], "reason": "e2e",
    });
    team.apply(&json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": binding }, "spec": spec,
    }))
    .await?;
    let granted = |binding: &CredentialBinding| {
        let status = binding.status.clone().unwrap_or_default();
        status
            .conditions
            .iter()
            .any(|it| it.type_ == "Ready" && it.reason == "Granted")
    };
    team.wait::<CredentialBinding>(binding, "Granted", Duration::from_secs(40), granted)
        .await
        .map(drop)
}

/// Runs a session with these credentials to its end; gives what it printed.
async fn run(team: &Team, prompt: &str, credentials: &[&str]) -> Result<String> {
    let listed: Vec<Value> = credentials
        .iter()
        .map(|name| json!({ "name": name, "required": true }))
        .collect();
    let spec = json!({ "poolRef": { "name": "pool" }, "task": { "prompt": prompt }, "credentials": listed });
    team.apply(
        &json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "AgentSession", "metadata": { "name": "s" }, "spec": spec }),
    )
    .await?;
    let session = team.phase("s", Phase::Succeeded).await?;
    team.output(&session.uid().context("a uid")?).await
}

async fn policy(team: &Team, hosts: &[&str]) -> Result<()> {
    team.policy(json!({ "allow": [{ "name": "all", "hosts": hosts }], "require": { "direct": true } }))
        .await
}

#[tokio::test]
async fn a_login_goes_as_its_secret_has_it() -> Result<()> {
    let team = Team::create(&cluster().await?, "login").await?;
    let authority = authority(&team).await?;
    let host = name(&team, "outside");
    let outside = Outside::of(&team, "outside", Origin::http1(&authority, &[&host], echo()).await?).await?;
    policy(&team, &[&host]).await?;
    let data = json!({ "username": "robot", "password": "fake-password-0123456789" });
    let secret = json!({ "type": "kubernetes.io/basic-auth", "stringData": data });
    team.offer_as("login", &host, secret).await?;
    let source = json!({ "secretRef": { "name": "login", "key": "password" } });
    let credential = json!({ "name": "LOGIN", "source": source });
    bind(&team, "login", credential, &host, json!({ "basic": {} })).await?;

    let prompt = format!("curl -sf -u \"anybody:$LOGIN\" https://{host}/x");
    let printed = run(&team, &prompt, &["LOGIN"]).await?;
    let sent = BASE64_STANDARD.encode("robot:fake-password-0123456789");
    assert!(outside.origin.text().contains(&format!("Basic {sent}")));
    assert!(!printed.contains(&sent) && printed.contains("GET /x"), "{printed}");
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_certificate_is_shown_and_its_key_stays() -> Result<()> {
    let team = Team::create(&cluster().await?, "certificate").await?;
    let authority = authority(&team).await?;
    let (clients, host) = (Authority::new()?, name(&team, "private"));
    let server = authority.server_of(&clients, &[&host], &["http/1.1"])?;
    let outside = Outside::of(&team, "private", Origin::http1_over(server, echo()).await?).await?;
    policy(&team, &[&host]).await?;
    let (certificate, key) = clients.issue(&["agent.example.com"], |_as_it_is| {})?;
    let data = json!({ "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() });
    let secret = json!({ "type": "kubernetes.io/tls", "stringData": data });
    team.offer_as("client", &host, secret).await?;
    let source = json!({ "secretRef": { "name": "client", "key": "tls.crt" } });
    let credential = json!({ "name": "CLIENT", "source": source });
    bind(&team, "client", credential, &host, json!({ "clientCertificate": {} })).await?;

    let printed = run(&team, &format!("curl -sf https://{host}/x"), &["CLIENT"]).await?;
    assert!(printed.contains("GET /x"), "{printed}");
    let seen = outside.origin.requests();
    let shown = seen.first().and_then(|seen| seen.certificate.clone());
    assert_eq!(shown.as_deref(), Some(certificate.der().as_ref()));
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_request_signed_with_stubs_is_signed_anew() -> Result<()> {
    let team = Team::create(&cluster().await?, "aws").await?;
    let authority = authority(&team).await?;
    let host = name(&team, "service");
    let outside = Outside::of(&team, "service", Origin::http1(&authority, &[&host], echo()).await?).await?;
    policy(&team, &[&host]).await?;
    let key = Key {
        id: "AKIAFAKE0123456789AB",
        secret: "fake/secret+access/key/0123456789abcdefgh",
        token: None,
    };
    let data = json!({ "id": key.id, "secret": key.secret });
    team.offer_as("aws", &host, json!({ "stringData": data })).await?;
    let source = json!({ "awsSigV4": {
        "accessKeyRef": { "name": "aws", "key": "id" }, "secretKeyRef": { "name": "aws", "key": "secret" },
        "region": "test-1", "services": ["execute-api"],
    } });
    let credential = json!({ "name": "AWS_ACCESS_KEY_ID", "source": source });
    bind(&team, "aws", credential, &host, json!({ "awsSigV4": {} })).await?;

    let sign = "--aws-sigv4 aws:amz:test-1:execute-api -u \"$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY\"";
    let printed = run(
        &team,
        &format!("curl -sf {sign} https://{host}/things?a=1"),
        &["AWS_ACCESS_KEY_ID"],
    )
    .await?;
    let seen = outside.origin.requests();
    aws::verify(seen.first().context("a request")?, &key, "test-1", "execute-api")?;
    assert!(
        !printed.contains(key.id) && printed.contains("GET /things"),
        "{printed}"
    );
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_clients_token_is_asked_for_and_stays_with_the_sidecar() -> Result<()> {
    let team = Team::create(&cluster().await?, "oauth").await?;
    let authority = authority(&team).await?;
    let host = name(&team, "login");
    let Some(server) = AuthorizationServer::start(&authority, &[&host]).await? else {
        anyhow::bail!("Python's oauthlib isn't installed: tests/gallery/install brings it")
    };
    let _exposed = expose(&team, "login", ([127, 0, 0, 1], server.port).into()).await?;
    policy(&team, &[&host]).await?;
    team.offer("client", CLIENT_SECRET, &host).await?;
    let source = json!({ "oauth2": {
        "tokenURL": format!("https://{host}/token"), "clientID": CLIENT, "scopes": ["read"],
        "clientSecretRef": { "name": "client", "key": "token" },
    } });
    let inject = json!({ "header": { "name": "Authorization", "forms": ["Bearer {}"] } });
    bind(
        &team,
        "client",
        json!({ "name": "TOKEN", "source": source }),
        &host,
        inject,
    )
    .await?;

    let ask = format!("curl -s -o /dev/null -w 'status=%{{http_code}}\\n' https://{host}/things");
    let prompt = format!("{ask} -H \"Authorization: Bearer $TOKEN\"; {ask} -H 'Authorization: Bearer stale'");
    let printed = run(&team, &prompt, &["TOKEN"]).await?;
    assert!(printed.contains("status=200"), "the token is live: {printed}");
    assert!(
        !printed.trim_end().ends_with("status=200"),
        "the server wants one: {printed}"
    );
    team.end_policy().await?;
    team.end().await
}
