//! A review on the real forge is what makes a binding grant; every way around it is refused with its reason.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::{CredentialBinding, Evidence, Grant};
use berth_e2e::audit::BERTH;
use berth_e2e::{Repository, Team, User, cluster};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::{Config, KubeConfigOptions};
use serde_json::{Value, json};

/// A namespace whose policy wants one approval, its repository, and two people.
pub(crate) struct Desk {
    pub(crate) team: Team,
    pub(crate) repository: Repository,
    pub(crate) alice: User,
    pub(crate) bob: User,
}

impl Desk {
    pub(crate) async fn new(purpose: &str) -> Result<Self> {
        Self::in_mode("Apply", purpose, &json!({ "review": { "minApprovals": 1 } })).await
    }

    /// With a GitSource in this mode and this `require` in the policy.
    pub(crate) async fn in_mode(mode: &str, purpose: &str, require: &Value) -> Result<Self> {
        let team = Team::create(&cluster().await?, purpose).await?;
        team.offer("forge", "fake-value", "api.example.com").await?;
        team.policy(json!({
            "allow": [{ "name": "api", "hosts": ["api.example.com"] }],
            "require": require,
        }))
        .await?;
        let repository = Repository::create(&team.cluster, &team.namespace).await?;
        repository.write("README.md", "hello")?;
        repository.push("Begin")?;
        team.source_in_mode(mode, "source", &repository.url).await?;
        Ok(Self {
            alice: repository.user("alice").await?,
            bob: repository.user("bob").await?,
            team,
            repository,
        })
    }

    /// Alice's branch with a binding for these methods; gives its head.
    pub(crate) fn ask_for(&self, name: &str, methods: &[&str]) -> Result<String> {
        self.repository.git(&["checkout", "--quiet", "-B", name])?;
        self.write(name, methods)?;
        self.repository.push_as(&self.alice, name, &format!("Ask for {name}"))
    }

    pub(crate) fn write(&self, name: &str, methods: &[&str]) -> Result<()> {
        self.repository
            .write(&format!("{name}.yaml"), &binding(name, methods).to_string())
    }

    /// Opened by Alice, approved by Bob and merged by him; gives the merge commit.
    pub(crate) async fn review(&self, name: &str, methods: &[&str]) -> Result<String> {
        self.ask_for(name, methods)?;
        let number = self.repository.open(&self.alice, name).await?;
        self.repository.approve(&self.bob, number).await?;
        self.repository.merge(&self.bob, number, "merge").await
    }

    /// Waits until the binding says that, and gives it.
    pub(crate) async fn says(&self, name: &str, reason: &str) -> Result<CredentialBinding> {
        self.team
            .wait::<CredentialBinding>(name, reason, SAID, |binding| {
                let status = binding.status.clone().unwrap_or_default();
                let current = Some(status.observed_generation) == binding.metadata.generation;
                current
                    && status
                        .conditions
                        .iter()
                        .any(|it| it.type_ == "Ready" && it.reason == reason)
            })
            .await
    }

    /// The grant once it is in force.
    pub(crate) async fn granted(&self, name: &str) -> Result<Grant> {
        let binding = self.says(name, "Granted").await?;
        binding.status.and_then(|status| status.grant).context("a grant")
    }

    pub(crate) async fn end(self) -> Result<()> {
        self.team.end_policy().await?;
        self.team.end().await
    }
}

pub(crate) fn binding(name: &str, methods: &[&str]) -> Value {
    let route = json!({
        "name": "api", "host": "api.example.com", "methods": methods,
        "inject": { "header": { "name": "Authorization", "forms": ["Bearer {}"] } },
    });
    let credential = json!({
        "name": name.to_uppercase(), "source": { "secretRef": { "name": "forge", "key": "token" } },
    });
    let spec = json!({
        "credential": credential, "subjects": { "allSessions": true }, "routes": [route], "reason": "e2e",
    });
    json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "CredentialBinding", "metadata": { "name": name }, "spec": spec })
}

#[tokio::test]
async fn a_reviewed_merge_grants_and_says_who_approved() -> Result<()> {
    let desk = Desk::new("reviewed").await?;
    let merged = desk.review("a", &["GET", "PUT"]).await?;
    let grant = desk.granted("a").await?;
    assert_eq!(grant.commit.as_ref(), Some(&merged));
    assert!(
        grant.pull_request.as_ref().is_some_and(|url| url.ends_with("/pulls/1")),
        "{grant:?}"
    );
    assert_eq!(grant.author.as_ref(), Some(&desk.alice.login));
    let approvers: Vec<&String> = grant.approvers.iter().map(|approval| &approval.user).collect();
    assert_eq!(approvers, [&desk.bob.login]);
    assert_eq!(grant.evidence, [Evidence::Branch, Evidence::Reviewed]);

    // Narrowed by a push: what was approved covers it. Widened by a push: nothing does.
    desk.write("a", &["GET"])?;
    desk.repository.push("Narrow")?;
    let narrowed = desk
        .team
        .wait::<CredentialBinding>("a", "a narrower grant", SAID, |binding| {
            let now = binding.status.as_ref().and_then(|status| status.grant.as_ref());
            now.is_some_and(|now| now.fingerprint != grant.fingerprint)
        });
    let narrowed = narrowed
        .await?
        .status
        .and_then(|status| status.grant)
        .context("a grant")?;
    assert_eq!((narrowed.commit, narrowed.granted_at), (grant.commit, grant.granted_at));
    desk.write("a", &["GET", "PUT"])?;
    desk.repository.push("Widen")?;
    let widened = desk.says("a", "NoPullRequest").await?;
    assert!(widened.status.is_some_and(|status| status.grant.is_none()));
    desk.end().await
}

#[tokio::test]
async fn a_push_without_a_pull_request_grants_nothing_whatever_its_status_says() -> Result<()> {
    let desk = Desk::new("pushed").await?;
    desk.write("a", &["GET"])?;
    let commit = desk.repository.push("Take it")?;
    desk.says("a", "NoPullRequest").await?;
    let forged = json!({
        "fingerprint": "00", "commit": commit, "evidence": ["Branch", "Reviewed"], "pullRequest": "https://forge.example.com/1",
        "approvers": [{ "user": desk.bob.login, "commit": commit }], "seal": "00",
    });
    // As the one user whom admission lets write it.
    let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(BERTH.to_owned());
    let as_berth: Api<CredentialBinding> = Api::namespaced(Client::try_from(config)?, &desk.team.namespace);
    let mut binding = desk.team.api::<CredentialBinding>().get("a").await?;
    binding.status.as_mut().context("a status")?.grant = Some(serde_json::from_value(forged)?);
    as_berth.replace_status("a", &PostParams::default(), &binding).await?;
    let refused = desk.team.wait::<CredentialBinding>("a", "no grant", SAID, |binding| {
        binding.status.as_ref().is_some_and(|status| status.grant.is_none())
    });
    let conditions = refused.await?.status.context("a status")?.conditions;
    assert!(
        conditions
            .iter()
            .any(|it| it.type_ == "Active" && it.status == "False" && it.reason == "NoPullRequest")
    );
    desk.end().await
}

#[tokio::test]
async fn who_had_a_part_in_it_approves_nothing() -> Result<()> {
    let desk = Desk::new("self").await?;
    desk.ask_for("a", &["GET"])?;
    let number = desk.repository.open(&desk.alice, "a").await?;
    desk.repository.write("why.md", "because")?;
    let why = desk.repository.push_as(&desk.bob, "a", "Say why")?;
    desk.repository.listed(number, &why).await?;
    desk.repository.approve(&desk.bob, number).await?;
    desk.repository.merge(&desk.bob, number, "merge").await?;
    desk.says("a", "SelfApproval").await?;
    desk.end().await
}

#[tokio::test]
async fn what_changed_after_the_review_grants_nothing_and_an_approval_of_it_does() -> Result<()> {
    let desk = Desk::new("changed").await?;
    desk.ask_for("a", &["GET"])?;
    let number = desk.repository.open(&desk.alice, "a").await?;
    desk.repository.approve(&desk.bob, number).await?;
    desk.write("a", &["GET", "DELETE"])?;
    let more = desk.repository.push_as(&desk.alice, "a", "And more")?;
    desk.repository.listed(number, &more).await?;
    desk.repository.merge(&desk.bob, number, "squash").await?;
    desk.says("a", "ChangedAfterReview").await?;

    // Taken back, and asked for again as it is meant.
    desk.repository.remove("a.yaml")?;
    desk.repository.push("Take it back")?;
    desk.ask_for("a", &["GET", "DELETE"])?;
    let number = desk.repository.open(&desk.alice, "a").await?;
    desk.repository.approve(&desk.bob, number).await?;
    desk.repository.merge(&desk.bob, number, "squash").await?;
    let grant = desk.granted("a").await?;
    assert!(
        grant
            .pull_request
            .is_some_and(|url| url.ends_with(&format!("/pulls/{number}")))
    );
    desk.end().await
}

#[tokio::test]
async fn the_same_document_pushed_again_is_not_approved_again() -> Result<()> {
    let desk = Desk::new("spent").await?;
    desk.review("a", &["GET"]).await?;
    desk.granted("a").await?;
    desk.repository.remove("a.yaml")?;
    desk.repository.push("Take it back")?;
    desk.write("a", &["GET"])?;
    desk.repository.push("The same again")?;
    desk.says("a", "NoPullRequest").await?;
    desk.end().await
}

#[tokio::test]
async fn a_source_out_of_reach_ends_its_grants_where_a_policy_says_so() -> Result<()> {
    let team = Team::create(&cluster().await?, "stale").await?;
    team.offer("forge", "fake-value", "api.example.com").await?;
    team.policy(json!({
        "allow": [{ "name": "api", "hosts": ["api.example.com"] }],
        "require": { "onStale": { "after": "30s", "action": "Deny" } },
    }))
    .await?;
    let repository = Repository::create(&team.cluster, &team.namespace).await?;
    repository.write("a.yaml", &binding("a", &["GET"]).to_string())?;
    repository.push("Grant")?;
    team.source("source", &repository.url).await?;
    let says = async |reason: &str| {
        let ready = |binding: &CredentialBinding| {
            let status = binding.status.clone().unwrap_or_default();
            status
                .conditions
                .iter()
                .any(|it| it.type_ == "Ready" && it.reason == reason)
        };
        team.wait::<CredentialBinding>("a", reason, SAID, ready).await
    };
    says("Granted").await?;
    // The forge asks for a login that the source hasn't got.
    let path = format!("repos/{}", repository.path);
    repository.api("PATCH", &path, &json!({ "private": true })).await?;
    let stale = says("SourceStale").await?;
    assert!(
        stale.status.is_some_and(|status| status.grant.is_some()),
        "what is proven stays"
    );
    repository.api("PATCH", &path, &json!({ "private": false })).await?;
    says("Granted").await?;
    team.end_policy().await?;
    team.end().await
}

#[tokio::test]
async fn a_rewound_branch_brings_nothing_back() -> Result<()> {
    let desk = Desk::new("rewound").await?;
    let merged = desk.review("a", &["GET"]).await?;
    desk.granted("a").await?;
    desk.repository.remove("a.yaml")?;
    let taken_back = desk.repository.push("Take it back")?;
    desk.team
        .source_says("source", "the revert", |source| {
            let attempted = source
                .status
                .as_ref()
                .and_then(|status| status.last_attempted_revision.clone());
            attempted.is_some_and(|attempted| attempted.ends_with(&taken_back))
        })
        .await?;
    desk.repository.git(&["reset", "--quiet", "--hard", &merged])?;
    desk.repository
        .git(&["push", "--quiet", "--force", "origin", "HEAD:main"])?;
    desk.says("a", "Rewound").await?;
    desk.end().await
}

/// Two looks of the source, 5 s apart, and the looks at the forge, 10, 20 and 40 s apart, that one which is busy needs
/// until it has written a merge down; the machine is shared, and nothing here is about speed.
pub(crate) const SAID: Duration = Duration::from_mins(3);

/// Commits everything with this key's signature, and pushes it.
fn push_signed(desk: &Desk, key: &Path, subject: &str) -> Result<()> {
    let repository = &desk.repository;
    let signing = format!("user.signingkey={}", key.display());
    repository.git(&["add", "--all"])?;
    let with = ["-c", "gpg.format=ssh", "-c", &signing];
    repository.git(&[&with[..], &["commit", "--quiet", "-S", "--message", subject]].concat())?;
    repository.git(&["push", "--quiet", "origin", "HEAD:main"]).map(drop)
}

#[tokio::test]
async fn a_commit_that_a_person_signed_grants_and_no_other() -> Result<()> {
    let desk = Desk::new("signed").await?;
    desk.team.end_policy().await?;
    desk.team
        .policy(json!({
            "allow": [{ "name": "api", "hosts": ["api.example.com"] }], "require": { "signedCommits": true },
        }))
        .await?;
    desk.write("a", &["GET"])?;
    desk.repository.push("Ask without a signature")?;
    desk.says("a", "Unsigned").await?;

    // Anybody has a key; the install knows Alice's.
    let folder = tempfile::tempdir()?;
    let other = folder.path().join("other");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other)
        .status()?;
    anyhow::ensure!(made.success(), "no key");
    desk.write("b", &["GET"])?;
    push_signed(&desk, &other, "Ask with some key")?;
    desk.says("b", "Unsigned").await?;

    let alices = desk.team.cluster.folder.join("pki/alice");
    desk.write("c", &["GET"])?;
    push_signed(&desk, &alices, "Ask with a person's key")?;
    let grant = desk.granted("c").await?;
    assert_eq!(grant.evidence, [Evidence::Branch, Evidence::Signed]);
    assert_eq!(grant.signer.as_deref(), Some("alice@example.com"));

    // What is signed is the commit that brought it: a wider one without a signature undoes that.
    desk.write("c", &["GET", "POST"])?;
    desk.repository.push("Widen without a signature")?;
    desk.says("c", "Unsigned").await?;
    desk.end().await
}
