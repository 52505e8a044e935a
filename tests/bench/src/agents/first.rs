//! From a commit to the agent's first request, in a warm pod and in a new one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_crds::Phase;
use berth_e2e::agent::{Agent, World};
use berth_e2e::{Repository, hook};
use berth_gallery::played_model;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Asked, asked_after, between, timed, told, warm};
use crate::report::{Row, percentile};

#[derive(Default)]
struct Times {
    started: Vec<Duration>,
    asked: Vec<Duration>,
}

pub(super) async fn measure(agent: &'static Agent, n: u32) -> Result<Vec<Row>> {
    let (model, asked) = timed(played_model::answer());
    let world = World::with_model(agent, model, &[]).await?;
    let repository = Repository::create(&world.team.cluster, &world.team.namespace).await?;
    repository.write("README.md", "hello")?;
    repository.push("Begin")?;
    hook::follow(&world.team, &repository, "1h").await?;
    let cold = rounds(&world, (&repository, &asked), 0, n).await?;
    let warm = rounds(&world, (&repository, &asked), 1, n).await?;
    world.team.end_policy().await?;
    world.team.end().await?;
    let median = |times: &[Duration]| percentile(times, 50);
    let figure = |what: &str| format!("{}: commit to {what}, p50 (n={n})", agent.image);
    let row = |what: &str, of: fn(&Times) -> &[Duration]| {
        Row::new(figure(what), median(of(&warm)), "ms").beside("in a new pod", median(of(&cold)))
    };
    Ok(vec![
        row("the program's start", |times| &times.started),
        row("its first request", |times| &times.asked),
    ])
}

async fn rounds(world: &World, (repository, asked): (&Repository, &Asked), replicas: u16, n: u32) -> Result<Times> {
    let (team, mut times) = (&world.team, Times::default());
    for round in 0..n {
        warm(team, "pool", replicas).await?;
        let name = format!("s{replicas}-{round}");
        let mut session = world.session("hello");
        session["metadata"]["name"] = name.clone().into();
        repository.write(&format!("{name}.yaml"), &session.to_string())?;
        repository.push(&name)?;
        let committed = Timestamp::now();
        times
            .asked
            .push(between(committed, asked_after(asked, committed).await?));
        let session = team.phase(&name, Phase::Succeeded).await?;
        let started = told(team, &session.uid().context("a uid")?, "started", 1).await?;
        times.started.push(between(committed, started));
    }
    Ok(times)
}
