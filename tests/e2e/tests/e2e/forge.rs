//! The adapter for Gitea against Gitea itself: what it says of a pull request is what people did there. Berth itself has
//! no part in it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use berth_controller::forge::client::{Asking, ForgeError, Told};
use berth_controller::forge::config::{Forge, Forges};
use berth_controller::forge::{Judgement, Pull};
use berth_e2e::{Cluster, Repository, User, cluster};
use serde_json::json;
use tempfile::NamedTempFile;

/// A repository, two people, and the forge as an install has it configured.
struct Desk {
    repository: Repository,
    alice: User,
    bob: User,
    forges: Forges,
    token: NamedTempFile,
}

impl Desk {
    async fn new(purpose: &str) -> Result<Self> {
        let cluster = cluster().await?;
        let millis = jiff::Timestamp::now().as_millisecond();
        let repository = Repository::create(&cluster, &format!("forge-{purpose}-{:x}", millis & 0x00ff_ffff)).await?;
        repository.write("README.md", "hello")?;
        repository.push("Begin")?;
        let token = token(&cluster, &repository).await?;
        let forge: Forge = serde_json::from_value(json!({
            "name": "main", "type": "Gitea", "url": cluster.forge, "tokenFile": token.path(),
        }))?;
        Ok(Self {
            alice: repository.user("alice").await?,
            bob: repository.user("bob").await?,
            forges: Forges::new(vec![forge])?,
            repository,
            token,
        })
    }

    /// Alice's branch with as many commits.
    fn branch(&self, commits: usize) -> Result<String> {
        self.repository.git(&["checkout", "--quiet", "-B", "topic"])?;
        let mut head = String::new();
        for number in 0..commits {
            self.repository.write("binding.yaml", &format!("{number}"))?;
            head = self
                .repository
                .push_as(&self.alice, "topic", &format!("Change {number}"))?;
        }
        Ok(head)
    }

    async fn ask(&self, line: &[String], teams: &[&str]) -> Result<Told, ForgeError> {
        let place = self
            .forges
            .place(&self.repository.url)
            .expect("the repository is on the forge");
        let forge = self.forges.named(&place.forge).expect("it is configured");
        let teams = teams.iter().map(|team| (*team).to_owned()).collect();
        Asking::begin(forge).await?.about(&place.path, line, &teams).await
    }

    async fn pull(&self, line: &[String]) -> Result<Pull> {
        self.ask(line, &[]).await?.pull.context("a pull request")
    }
}

/// A token that may read and nothing more.
async fn token(cluster: &Cluster, repository: &Repository) -> Result<NamedTempFile> {
    let name = format!("e2e-{:x}", jiff::Timestamp::now().as_nanosecond());
    let wanted = json!({ "name": name, "scopes": ["read:repository", "read:organization"] });
    let path = format!("users/{}/tokens", cluster.forge_login.0);
    let made = repository.api("POST", &path, &wanted).await?;
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), made["sha1"].as_str().context("a token")?)?;
    Ok(file)
}

#[tokio::test]
async fn a_merge_is_read_with_its_people() -> Result<()> {
    let desk = Desk::new("merge").await?;
    let head = desk.branch(1)?;
    let number = desk.repository.open(&desk.alice, "topic").await?;
    desk.repository.approve(&desk.bob, number).await?;
    let merged = desk.repository.merge(&desk.bob, number, "merge").await?;

    let told = desk.ask(std::slice::from_ref(&merged), &[]).await?;
    let pull = told.pull.context("a pull request")?;
    assert_eq!((pull.number, &pull.head, pull.base.as_str()), (number, &head, "main"));
    assert_eq!(pull.base_repository, told.repository);
    assert_eq!(pull.merge_commit.as_ref(), Some(&merged));
    assert!(pull.merged_at.is_some());
    assert!(
        pull.url.ends_with(&format!("/{}/pulls/{number}", desk.repository.path)),
        "{}",
        pull.url
    );
    assert_eq!(pull.author.login, desk.alice.login);
    assert_eq!(pull.merger.context("a merger")?.login, desk.bob.login);
    assert_eq!(pull.committers, BTreeSet::from([desk.alice.login.clone()]));
    assert_eq!(pull.commits, BTreeSet::from([head.clone()]));
    let [review] = pull.reviews.as_slice() else {
        anyhow::bail!("{:?}", pull.reviews);
    };
    assert_eq!(
        (review.judgement, &review.commit, review.may_write),
        (Judgement::Approved, &head, true)
    );
    assert_eq!(review.user.login, desk.bob.login);
    Ok(())
}

#[tokio::test]
async fn a_squash_and_a_rebase_are_found_by_the_commits_that_they_made() -> Result<()> {
    let desk = Desk::new("styles").await?;
    desk.branch(2)?;
    let number = desk.repository.open(&desk.alice, "topic").await?;
    let squashed = desk.repository.merge(&desk.bob, number, "squash").await?;
    assert_eq!(
        desk.pull(std::slice::from_ref(&squashed)).await?.merge_commit,
        Some(squashed)
    );

    // What is on the branch meanwhile makes the rebase write the commits anew.
    desk.repository.git(&["checkout", "--quiet", "-B", "other", "HEAD~1"])?;
    for name in ["one", "two"] {
        desk.repository.write(name, name)?;
        desk.repository.push_as(&desk.alice, "other", name)?;
    }
    let number = desk.repository.open(&desk.alice, "other").await?;
    let last = desk.repository.merge(&desk.bob, number, "rebase").await?;
    let first = desk.repository.git(&["rev-parse", "HEAD~1"])?.trim().to_owned();
    let pull = desk.pull(&[first, last.clone()]).await?;
    assert_eq!((pull.number, pull.merge_commit), (number, Some(last)));
    Ok(())
}

#[tokio::test]
async fn a_commit_that_was_pushed_has_no_pull_request() -> Result<()> {
    let desk = Desk::new("push").await?;
    let pushed = desk.repository.push("Pushed")?;
    assert_eq!(desk.ask(&[pushed], &[]).await?.pull, None);
    Ok(())
}

#[tokio::test]
async fn reviews_are_weighed_as_the_forge_weighs_them() -> Result<()> {
    let desk = Desk::new("reviews").await?;
    desk.branch(1)?;
    let number = desk.repository.open(&desk.alice, "topic").await?;
    let stranger = desk.repository.stranger("eve").await?;
    desk.repository.approve(&stranger, number).await?;
    desk.repository.approve(&desk.bob, number).await?;
    let reviews = format!("repos/{}/pulls/{number}/reviews", desk.repository.path);
    let listed = desk.repository.api("GET", &reviews, &json!({})).await?;
    let bobs = listed
        .as_array()
        .context("reviews")?
        .iter()
        .find(|review| review["user"]["login"] == desk.bob.login.as_str());
    let id = bobs.context("Bob's review")?["id"].clone();
    desk.repository
        .api(
            "POST",
            &format!("{reviews}/{id}/dismissals"),
            &json!({ "message": "no" }),
        )
        .await?;
    let merged = desk.repository.merge(&desk.bob, number, "merge").await?;

    let pull = desk.pull(&[merged]).await?;
    let said: Vec<(String, Judgement, bool)> = pull
        .reviews
        .iter()
        .map(|review| (review.user.login.clone(), review.judgement, review.may_write))
        .collect();
    let expected = [
        (stranger.login, Judgement::Approved, false),
        (desk.bob.login.clone(), Judgement::Withdrawn, true),
    ];
    assert_eq!(said, expected);
    Ok(())
}

#[tokio::test]
async fn who_is_in_a_team_is_asked_of_the_forge() -> Result<()> {
    let desk = Desk::new("teams").await?;
    let organization = format!("{}-org", desk.repository.path.rsplit('/').next().unwrap_or_default());
    desk.repository
        .api("POST", "orgs", &json!({ "username": organization }))
        .await?;
    let team = json!({ "name": "Security", "permission": "read", "units": ["repo.code"] });
    let made = desk
        .repository
        .api("POST", &format!("orgs/{organization}/teams"), &team)
        .await?;
    let member = format!("teams/{}/members/{}", made["id"], desk.bob.login);
    desk.repository.api("PUT", &member, &json!({})).await?;
    desk.branch(1)?;
    let number = desk.repository.open(&desk.alice, "topic").await?;
    desk.repository.approve(&desk.bob, number).await?;
    let merged = desk.repository.merge(&desk.bob, number, "merge").await?;

    let (security, other) = (format!("{organization}/security"), format!("{organization}/other"));
    let told = desk.ask(&[merged], &[&security, &other, "nobody/security"]).await?;
    assert_eq!(told.teams[&security], BTreeSet::from([desk.bob.login.to_lowercase()]));
    assert!(told.teams[&other].is_empty() && told.teams["nobody/security"].is_empty());
    Ok(())
}

#[tokio::test]
async fn a_token_that_isnt_one_is_an_error_that_says_so() -> Result<()> {
    let desk = Desk::new("token").await?;
    std::fs::write(desk.token.path(), "fake-token")?;
    let error = desk.ask(&["c0ffee".to_owned()], &[]).await.err().context("an error")?;
    assert!(matches!(error, ForgeError::Refused { .. }), "{error}");
    assert!(!error.to_string().contains("fake-token"), "{error}");
    Ok(())
}
