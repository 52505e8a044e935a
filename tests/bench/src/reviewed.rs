//! A repository that the forge tells Berth of, and two people: what one asks for, the other approves and merges.

use anyhow::Result;
use berth_e2e::{Repository, Team, User, hook};
use jiff::Timestamp;

pub(crate) struct Reviewed {
    pub(crate) repository: Repository,
    alice: User,
    bob: User,
}

impl Reviewed {
    /// Followed by GitSource `source`, which also looks by itself this often.
    pub(crate) async fn begin(team: &Team, interval: &str) -> Result<Self> {
        let repository = Repository::create(&team.cluster, &team.namespace).await?;
        repository.write("README.md", "hello")?;
        repository.push("Begin")?;
        hook::follow(team, &repository, interval).await?;
        Ok(Self {
            alice: repository.user("alice").await?,
            bob: repository.user("bob").await?,
            repository,
        })
    }

    /// Merges a change by a pull request of this name; gives when the forge said that it is done.
    pub(crate) async fn merge(&self, topic: &str, change: impl FnOnce(&Repository) -> Result<()>) -> Result<Timestamp> {
        let repository = &self.repository;
        repository.git(&["checkout", "--quiet", "-B", topic, "main"])?;
        change(repository)?;
        let head = repository.push_as(&self.alice, topic, "Change")?;
        let number = repository.open(&self.alice, topic).await?;
        repository.listed(number, &head).await?;
        repository.approve(&self.bob, number).await?;
        let merged = repository.merged(&self.bob, number, "merge").await?;
        repository.follow()?;
        Ok(merged)
    }
}
