//! Keys of model gateways, against a stand-in of LiteLLM's key routes (`berth_gallery::litellm_stand_in`, which says why).

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use berth_controller::context::NotLeading;
use berth_controller::gateway::client::{Asking, GatewayError};
use berth_controller::gateway::config::Gateway;
use berth_controller::gateway::key::{self, KeyId, Terms, Wanted};
use berth_controller::gateway::sweep;
use berth_controller::grant::offer::InstallKey;
use berth_controller::watch::Name;
use berth_crds::{AgentSession, CredentialBinding, Reason};
use berth_egress::address::Vetting;
use berth_egress::authority::Host;
use berth_gallery::litellm_stand_in::{ADMIN, Fault, LiteLlmStandIn};
use berth_gallery::origin::Authority;
use berth_outbound::dial::Dialer;
use berth_outbound::post::Caller;
use berth_outbound::resolve::Resolver;
use berth_outbound::tls::UpstreamTls;
use berth_protocol::money::Pico;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;

const HOST: &str = "llm.example.com";

/// The stand-in, and the configuration of an install that knows it.
struct Scene {
    stand_in: LiteLlmStandIn,
    caller: Caller,
    gateway: Gateway,
    files: TempDir,
}

impl Scene {
    async fn new() -> Result<Self> {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let authority = Authority::new()?;
        let stand_in = LiteLlmStandIn::start(&authority, &[HOST]).await?;
        let files = tempfile::tempdir()?;
        let path = |name: &str| files.path().join(name);
        std::fs::write(path("key"), format!("{ADMIN}\n"))?;
        std::fs::write(path("ca.crt"), &authority.pem)?;
        let gateway = json!({
            "name": "main", "url": format!("https://{HOST}:{}", stand_in.origin.address.port()),
            "adminKeyFile": path("key"), "caFile": path("ca.crt"), "addresses": ["127.0.0.0/8"],
        });
        let fixed = HashMap::from([(Host::parse(HOST)?, [127, 0, 0, 1].into())]);
        let resolver = Resolver::new(fixed, Vetting::default())?;
        Ok(Self {
            stand_in,
            caller: Caller::new(Dialer::new(resolver, UpstreamTls::new(&[])?), Vec::new()),
            gateway: serde_json::from_value(gateway)?,
            files,
        })
    }

    async fn asking(&self) -> Result<Asking<'_>, GatewayError> {
        Asking::begin(&self.caller, &self.gateway, &|| Ok(())).await
    }

    async fn keep(&self, wanted: &Wanted, is_there: bool) -> Result<(), GatewayError> {
        self.asking().await?.keep(wanted, &value(wanted), is_there).await
    }

    /// The one key's row.
    fn row(&self, wanted: &Wanted) -> Value {
        let mut keys = self.stand_in.keys();
        let row = keys.remove(value(wanted).expose_secret()).unwrap_or_default();
        assert!(keys.is_empty(), "one key and no other: {keys:?}");
        row.into()
    }
}

fn install() -> InstallKey {
    InstallKey::new(vec![7; 32])
}

fn value(wanted: &Wanted) -> SecretString {
    key::value(&install(), &wanted.id)
}

fn wanted(session: &str, budget: Option<&str>) -> Wanted {
    Wanted {
        id: KeyId {
            namespace: "team-a".to_owned(),
            gateway: "main".to_owned(),
            session_uid: session.to_owned(),
            binding_uid: "b-uid".to_owned(),
        },
        alias: format!("{}team-a-{session}-0", key::alias_prefix(&install())),
        session: Name {
            namespace: "team-a".to_owned(),
            name: session.to_owned(),
        },
        binding: "b".to_owned(),
        credential: "KEY".to_owned(),
        terms: Terms {
            models: vec!["gpt-fake".to_owned()],
            budget: budget.map(str::to_owned),
            lasts: std::time::Duration::from_hours(1),
        },
        metadata: json!({"session": session}),
    }
}

/// A key that only looks like one of this install's.
fn foreign() -> Wanted {
    Wanted {
        alias: format!("of-{}somebody-else", key::alias_prefix(&install())),
        ..wanted("foreign", None)
    }
}

#[tokio::test]
async fn a_key_is_made_once_and_a_restart_takes_it_up() -> Result<()> {
    let scene = Scene::new().await?;
    let first = wanted("s", Some("5.00"));
    scene.keep(&first, false).await?;
    let expected = json!({
        "key_alias": first.alias, "models": ["gpt-fake"], "max_budget": 5.0, "duration": "3600s", "spend": 0.0,
        "allowed_routes": ["llm_api_routes"], "metadata": {"session": "s"},
    });
    assert_eq!(scene.row(&first), expected);
    // A leader that knows nothing of it, and one that has found it in a sweep.
    for is_there in [false, true] {
        scene.keep(&first, is_there).await?;
    }
    assert_eq!(scene.row(&first)["blocked"], false);
    assert_eq!(
        scene.stand_in.asked(),
        ["/key/generate", "/key/generate", "/key/update", "/key/update"]
    );
    assert!(scene.stand_in.origin.text().contains(&format!("Bearer {ADMIN}")));
    Ok(())
}

#[tokio::test]
async fn what_a_key_has_spent_is_asked_by_its_hash() -> Result<()> {
    let scene = Scene::new().await?;
    let key = wanted("s", Some("5.00"));
    assert_eq!(scene.asking().await?.spent(&value(&key)).await?, None, "it isn't there");
    scene.keep(&key, false).await?;
    assert_eq!(scene.asking().await?.spent(&value(&key)).await?, Some(Pico(0)));
    let asked = scene.stand_in.origin.requests();
    let asked = asked.iter().filter(|seen| seen.target().starts_with("/key/info?"));
    let value = value(&key);
    assert!(asked.clone().count() == 2 && asked.clone().all(|seen| !seen.target().contains(value.expose_secret())));
    Ok(())
}

#[tokio::test]
async fn another_budget_is_told_and_none_is_none() -> Result<()> {
    let scene = Scene::new().await?;
    scene.keep(&wanted("s", Some("5.00")), false).await?;
    scene.keep(&wanted("s", Some("7.5")), true).await?;
    assert_eq!(scene.row(&wanted("s", None))["max_budget"], 7.5);
    scene.keep(&wanted("s", None), true).await?;
    assert_eq!(scene.row(&wanted("s", None))["max_budget"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn a_key_that_went_meanwhile_is_made_again() -> Result<()> {
    let scene = Scene::new().await?;
    let key = wanted("s", None);
    scene.keep(&key, true).await?;
    assert_eq!(scene.row(&key)["key_alias"], key.alias.as_str());
    assert_eq!(scene.stand_in.asked(), ["/key/update", "/key/generate"]);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_lost_costs_no_second_key() -> Result<()> {
    let scene = Scene::new().await?;
    let key = wanted("s", None);
    scene.stand_in.fails_with(Some(Fault::Forgets));
    let lost = scene.keep(&key, false).await.unwrap_err();
    assert_eq!(lost.reason(), Reason::GatewayUnreachable, "{lost}");
    scene.stand_in.fails_with(None);
    scene.keep(&key, false).await?;
    assert_eq!(scene.row(&key)["blocked"], false);
    Ok(())
}

#[tokio::test]
async fn a_blocked_key_keeps_what_it_spent_and_a_deleted_one_is_gone() -> Result<()> {
    let scene = Scene::new().await?;
    let key = wanted("s", Some("5"));
    let asking = scene.asking().await?;
    assert!(!asking.block(&value(&key)).await?, "there is none yet");
    scene.keep(&key, false).await?;
    assert!(asking.block(&value(&key)).await?);
    let row = scene.row(&key);
    assert_eq!(
        (&row["blocked"], &row["max_budget"], &row["spend"]),
        (&json!(true), &json!(5.0), &json!(0.0))
    );
    scene.keep(&key, true).await?;
    assert_eq!(scene.row(&key)["blocked"], false);
    for _ in 0..2 {
        asking.delete(std::slice::from_ref(&key.alias)).await?; // the second finds nothing, which is as well
    }
    assert!(scene.stand_in.keys().is_empty());
    Ok(())
}

#[tokio::test]
async fn every_alias_of_an_install_is_found_and_no_other() -> Result<()> {
    let scene = Scene::new().await?;
    let mut sessions: Vec<String> = (0..230).map(|number| format!("s{number:03}")).collect();
    for session in &sessions {
        scene.keep(&wanted(session, None), false).await?;
    }
    scene.keep(&foreign(), false).await?;
    let asking = scene.asking().await?;
    let found = asking.aliases(&key::alias_prefix(&install())).await?;
    let expected: Vec<String> = sessions.drain(..).map(|session| wanted(&session, None).alias).collect();
    assert_eq!(found, expected);
    let (gone, kept) = found.split_at(200);
    asking.delete(gone).await?;
    assert_eq!(asking.aliases(&key::alias_prefix(&install())).await?, kept);
    Ok(())
}

/// What a leader left that went before it could delete it.
#[tokio::test]
async fn a_sweep_deletes_what_no_session_has_and_leaves_the_rest() -> Result<()> {
    let scene = Scene::new().await?;
    let object = |kind: &str, uid: &str, spec: Value| {
        let metadata = json!({"name": uid, "namespace": "team-a", "uid": uid});
        json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let spec = json!({"poolRef": {"name": "pool"}, "task": {"prompt": "p"}});
    let session = |uid| serde_json::from_value::<AgentSession>(object("AgentSession", uid, spec.clone()));
    let binding: CredentialBinding = serde_json::from_value(object(
        "CredentialBinding",
        "models",
        json!({
            "credential": {"name": "KEY", "source": {"liteLLMKey": {"gateway": "main"}}}, "routes": [],
            "subjects": {"allSessions": true}, "reason": "tests",
        }),
    ))?;
    let (lives, gone) = (session("lives")?, session("gone")?);
    for session in [&lives, &gone] {
        let wanted = Wanted::of(&install(), session, &binding).context("a key")?;
        scene.keep(&wanted, false).await?;
    }
    scene.keep(&foreign(), false).await?;
    let stores = || (vec![Arc::new(lives)], vec![Arc::new(binding)]);
    let asking = scene.asking().await?;
    let swept = sweep::delete_orphans(&asking, "main", &install(), stores).await?;
    assert_eq!((swept.orphans.len(), swept.known.len()), (1, 1));
    assert!(swept.orphans[0].contains("-team-a-gone-"), "{swept:?}");
    let left = scene.stand_in.keys().len();
    assert_eq!(left, 2, "the living session's, and another install's");
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_refuses_or_is_away_says_why_and_no_key() -> Result<()> {
    let scene = Scene::new().await?;
    let key = wanted("s", Some("500"));
    let said = async || {
        let error = scene.keep(&key, false).await.unwrap_err();
        (error.reason(), berth_controller::telemetry::chain(&error))
    };
    let (refused, away) = (Reason::GatewayRefused, Reason::GatewayUnreachable);
    scene.stand_in.limit_budgets(100.0);
    let (reason, message) = said().await;
    assert_eq!(reason, refused);
    assert!(
        message.starts_with("gateway main refuses: 400 Bad Request: {'error': 'max_budget is over"),
        "{message}"
    );
    for (fault, words) in [
        (
            Fault::Away,
            "gateway main can't be asked: the connection to llm.example.com broke",
        ),
        (
            Fault::Broken,
            "gateway main fails: 500 Internal Server Error: DB not connected",
        ),
        (Fault::Other, "gateway main answers something else than LiteLLM"),
    ] {
        scene.stand_in.fails_with(Some(fault));
        let (reason, message) = said().await;
        assert_eq!(reason, away, "{message}");
        assert!(message.starts_with(words), "{message}");
    }
    scene.stand_in.fails_with(None);
    // The admin key is read anew each time.
    std::fs::write(scene.files.path().join("key"), "sk-fake-other")?;
    let (reason, message) = said().await;
    assert_eq!(reason, refused);
    assert!(
        message.contains("doesn't accept its admin key: 401 Unauthorized") && !message.contains("sk-fake"),
        "{message}"
    );
    std::fs::write(scene.files.path().join("key"), ADMIN)?;
    std::fs::write(scene.files.path().join("ca.crt"), Authority::new()?.pem)?;
    assert_eq!(said().await.0, away, "another authority's certificate");
    std::fs::remove_file(scene.files.path().join("key"))?;
    let (reason, message) = said().await;
    assert_eq!(reason, away);
    assert!(
        message.contains("the admin key of gateway main can't be read"),
        "{message}"
    );
    assert!(scene.stand_in.keys().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_gateway_is_asked_only_where_the_install_says_it_is_and_only_by_a_leader() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.gateway.addresses.clear();
    let error = scene.keep(&wanted("s", None), false).await.unwrap_err();
    let message = berth_controller::telemetry::chain(&error);
    assert!(message.contains("has an address that is Loopback"), "{message}");
    let leads = || Err(NotLeading);
    let former = Asking::begin(&scene.caller, &scene.gateway, &leads).await?;
    let key = wanted("s", None);
    let error = former.keep(&key, &value(&key), false).await.unwrap_err();
    assert!(matches!(error, GatewayError::NotLeading(_)), "{error}");
    assert_eq!(scene.stand_in.asked(), [] as [&str; 0]);
    Ok(())
}
