//! Wiring of `run`: clients, stores, listeners; then wait for the Lease, reconcile while it is held, and end.
//!
//! A replica that loses the Lease ends its process: nothing of a former leader is left to act (DESIGN §2).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_egress::address::Vetting;
use berth_outbound::dial::Dialer;
use berth_outbound::post::Caller;
use berth_outbound::resolve::Resolver;
use berth_outbound::tls::UpstreamTls;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::Config;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api;
use crate::cli::Run;
use crate::context::{Clock, Context};
use crate::control::identity::Prover;
use crate::control::listen;
use crate::control::registry::Registry;
use crate::control::server::ControlService;
use crate::control::session_link::SessionsOnPods;
use crate::control::tls::{self, Material};
use crate::events::{self, Events};
use crate::feedback;
use crate::feedback::run::Said;
use crate::forge::config::Forges;
use crate::gateway::config::Gateways;
use crate::gateway::keys::Keys;
use crate::git::reconcile::Sources;
use crate::grant::allot::Allotments;
use crate::grant::evidence::ask::Evidence;
use crate::grant::github::GitHub;
use crate::grant::oauth2::OAuth2;
use crate::grant::recorder::Recorder;
use crate::grant::secrets::Secrets;
use crate::lease::{Elector, Leadership};
use crate::metrics::Metrics;
use crate::session::own_claims::OwnClaims;
use crate::session::proposal::Proposals;
use crate::session::runs::Runs;
use crate::session::spend::Spend;
use crate::settings::{Deadlines, Settings};
use crate::store::allotment::Allotting;
use crate::store::checkpoint::Checkpoints;
use crate::store::events::{EventQueue, EventWriter};
use crate::store::figure::Figures;
use crate::store::input::Inputs;
use crate::store::read::Reader;
use crate::store::retention;
use crate::store::session::SessionRow;
use crate::store::uses::UseWriter;
use crate::store::writer::ProjectionWriter;
use crate::watch::{Caches, Name, Queues};
use crate::work::Pokes;
use crate::written::Written;
use crate::{gateway, git, grant, http, pool, session, store, work};

/// Runs until SIGTERM or the loss of the Lease.
pub async fn run(args: Run) -> anyhow::Result<()> {
    let config = Config::infer().await.context("failed to find the API server")?;
    let client = Client::try_from(config.clone()).context("failed to make a client of the API server")?;
    let now = Clock.now();
    let material = watch::Sender::new(Arc::new(tls::load(&client, &args.namespace, now).await?));
    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    tracker.spawn(cancel_at_signal(cancel.clone())?);
    let identity = format!("{}_{:08x}", args.pod_name, rand::random::<u32>());
    // Its own connection: behind hundreds of other requests it would wait too long.
    let alone = Client::try_from(config.clone()).context("failed to make a client of the API server")?;
    let (elector, leadership) = Elector::new(alone, &args.namespace, identity);
    let mut replica = Replica {
        database: args.database_url.as_deref().map(store::open).transpose()?,
        reader: args.database_url.as_deref().map(store::open).transpose()?,
        queues: Queues::default(),
        metrics: Arc::new(Metrics::default()),
        context: watch::Sender::new(None),
        ready: watch::Sender::new(false),
        client,
        config,
        leadership,
        args,
        cancel,
        tracker,
    };
    replica.listen(material.subscribe()).await?;
    let caches = Caches::start(&replica.client, &replica.queues, &replica.tracker, &replica.cancel);
    let certificates = material.subscribe();
    let kept = tls::keep(
        replica.client.clone(),
        replica.args.namespace.clone(),
        material,
        replica.cancel.clone(),
    );
    replica.tracker.spawn(kept);
    let led = replica.serve(elector, caches, certificates).await;
    replica.cancel.cancel();
    // Streams hold the context, and what waits for its last user would wait for them.
    replica.context.send_replace(None);
    replica.tracker.close();
    if tokio::time::timeout(DRAIN, replica.tracker.wait()).await.is_err() {
        tracing::warn!("tasks still ran after the drain time");
    }
    led
}

/// One replica, active or standing by.
struct Replica {
    client: Client,
    config: Config,
    args: Run,
    database: Option<PgPool>,
    /// Connections for people who read the record.
    reader: Option<PgPool>,
    queues: Queues,
    metrics: Arc<Metrics>,
    context: watch::Sender<Option<Arc<Context>>>,
    ready: watch::Sender<bool>,
    leadership: Leadership,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Replica {
    /// Health, metrics and control streams answer on a standby too: each says what it is.
    async fn listen(&mut self, material: watch::Receiver<Arc<Material>>) -> anyhow::Result<()> {
        let Run {
            http_address,
            metrics_address,
            control_address,
            api_address,
            ..
        } = &self.args;
        let bind = async |address| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("failed to listen on {address}"))
        };
        let (public, metrics) = (bind(http_address).await?, bind(metrics_address).await?);
        let (control, api) = (bind(control_address).await?, bind(api_address).await?);
        let served = http::Served {
            context: self.context.subscribe(),
            ready: self.ready.subscribe(),
            metrics: Arc::clone(&self.metrics),
        };
        self.tracker
            .spawn(http::serve(public, http::public(served.clone()), self.cancel.clone()));
        self.tracker
            .spawn(http::serve(metrics, http::metrics(served), self.cancel.clone()));
        let router = api::router(self.context.subscribe());
        self.tracker
            .spawn(api::serve(api, material.clone(), router, self.cancel.clone()));
        let service = ControlService::new(self.context.subscribe());
        self.tracker
            .spawn(listen::serve(control, material, service, self.cancel.clone()));
        Ok(())
    }

    /// Stands by, leads, and says why it ended.
    async fn serve(
        &self,
        mut elector: Elector,
        caches: Arc<Caches>,
        material: watch::Receiver<Arc<Material>>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = self.cancel.cancelled() => return Ok(()),
            filled = caches.ready() => filled.context("a store was closed")?,
        }
        self.ready.send_replace(true);
        tracing::info!("standing by");
        if !elector.acquire(&self.cancel).await {
            return Ok(());
        }
        tracing::info!(epoch = self.leadership.epoch(), "leading");
        // The Lease is renewed while everything else starts.
        let (stopped, led) = tokio::join!(elector.hold(&self.cancel), async {
            let led = self.lead(caches, material).await;
            if led.is_err() {
                self.cancel.cancel();
            }
            led
        });
        led?;
        if !stopped {
            bail!("the Lease is lost");
        }
        self.stand_down().await;
        elector.release().await;
        Ok(())
    }

    /// Reconciles stop before the Lease is given up, so that two never write.
    async fn stand_down(&self) {
        if let Some(context) = self.context.send_replace(None) {
            context.registry.clear();
        }
        self.tracker.close();
        drop(tokio::time::timeout(DRAIN, self.tracker.wait()).await);
    }

    async fn lead(&self, caches: Arc<Caches>, material: watch::Receiver<Arc<Material>>) -> anyhow::Result<()> {
        let runs = Runs::default();
        let (event_writer, event_queue) = EventWriter::new(&runs);
        let (events, event_log) = Events::new(&self.args.pod_name);
        let context = Arc::new(Context {
            client: self.client.clone(),
            prover: Prover::new(self.client.clone()),
            caches,
            queues: self.queues.clone(),
            registry: Registry::default(),
            sessions_on_pods: SessionsOnPods::default(),
            runs,
            pools: pool::reconcile::Pools::default(),
            sources: Sources::new(self.config.clone(), &self.args.cache_dir),
            written: Written::default(),
            written_bindings: Written::default(),
            written_policies: Written::default(),
            written_pools: Written::default(),
            secrets: Secrets::default(),
            github: self.github()?,
            install_key: material.borrow().install_key.clone(),
            evidence: self.evidence()?,
            feedback: Said::default(),
            spend: Spend::default(),
            figures: Figures::new(self.reader.clone()),
            allotments: Allotments::new(Allotting::new(self.reader.clone())),
            oauth2: self.oauth2()?,
            gateway_keys: self.gateway_keys()?,
            uses: UseWriter::new(
                self.leadership.epoch(),
                self.database.is_some(),
                self.metrics.uses.clone(),
            ),
            recorder: Recorder::new(
                self.database.clone(),
                i64::try_from(self.leadership.epoch()).unwrap_or(i64::MAX),
                &self.args.pod_name,
            ),
            checkpoints: Checkpoints::new(self.database.clone()),
            inputs: Inputs::new(self.reader.clone()),
            reader: Reader::new(self.reader.clone()),
            own_claims: OwnClaims::default(),
            proposals: Proposals::default(),
            projection: ProjectionWriter::default(),
            event_writer,
            events,
            metrics: Arc::clone(&self.metrics),
            settings: self.settings(),
            leadership: self.leadership.clone(),
            clock: Clock,
            material: material.clone(),
            serving_since: Timestamp::now(),
        });
        self.record(&context, event_queue);
        self.tracker.spawn(events::write(self.client.clone(), event_log));
        self.work(&context);
        if !context.gateway_keys.gateways.all().is_empty() {
            let swept = gateway::sweep::keep(Arc::clone(&context), self.cancel.clone());
            self.tracker.spawn(swept);
            let compared = gateway::figure::keep(Arc::clone(&context), self.cancel.clone());
            self.tracker.spawn(compared);
        }
        poke_all(&context);
        self.tracker
            .spawn(bring_bundles(Arc::clone(&context), material, self.cancel.clone()));
        self.context.send_replace(Some(context));
        self.take_the_service().await.context("failed to label the active pod")
    }

    fn github(&self) -> anyhow::Result<GitHub> {
        let ca = self.args.github_ca.as_ref().map(std::fs::read_to_string).transpose();
        let ca = ca.context("failed to read the GitHub API's certificates")?;
        Ok(GitHub::new(self.args.github_api.clone(), ca.as_deref())?)
    }

    fn evidence(&self) -> anyhow::Result<Evidence> {
        let forges = self.args.forges.as_deref().map(Forges::load).transpose()?;
        Ok(Evidence::new(forges.unwrap_or_default(), self.args.signers.clone()))
    }

    fn oauth2(&self) -> anyhow::Result<OAuth2> {
        let tls = UpstreamTls::new(&self.args.token_ca).context("failed to read the token endpoints' certificates")?;
        let caller = Caller::new(self.dialer(tls)?, self.args.token_networks.clone());
        Ok(OAuth2::new(caller))
    }

    fn gateway_keys(&self) -> anyhow::Result<Keys> {
        let gateways = self.args.gateways.as_deref().map(Gateways::load).transpose()?;
        let tls = UpstreamTls::new(&[]).context("failed to configure TLS")?;
        let caller = Caller::new(self.dialer(tls)?, Vec::new());
        Ok(Keys::new(gateways.unwrap_or_default(), caller))
    }

    /// For what Secrets are sent to.
    fn dialer(&self, tls: UpstreamTls) -> anyhow::Result<Dialer> {
        let cluster = self.args.cluster_cidrs.iter().map(|network| network.parse());
        let vetting = Vetting {
            cluster: cluster.collect::<Result<_, _>>().context("BERTH_CLUSTER_CIDRS")?,
            own: Vec::new(),
        };
        let resolver = Resolver::new(HashMap::new(), vetting).context("failed to read the name servers")?;
        Ok(Dialer::new(resolver, tls))
    }

    fn settings(&self) -> Settings {
        Settings {
            git_networks: self.args.git_networks.clone(),
            namespace: self.args.namespace.clone(),
            sidecar_image: self.args.sidecar_image.clone(),
            runner_image: self.args.runner_image.clone(),
            image_pull_policy: self.args.image_pull_policy.clone(),
            control_url: self.args.control_url.clone(),
            cluster_cidrs: self.args.cluster_cidrs.clone(),
            deadlines: Deadlines::default(),
            default_policy: self.args.default_policy.into(),
        }
    }

    /// The record follows: every session once, then what changes.
    fn record(&self, context: &Arc<Context>, event_queue: EventQueue) {
        self.tracker
            .spawn(event_queue.run(self.database.clone(), self.cancel.clone()));
        let Some(database) = self.database.clone() else {
            tracing::warn!("no database is configured: no record is kept");
            return;
        };
        let epoch = i64::try_from(self.leadership.epoch()).unwrap_or(i64::MAX);
        self.tracker.spawn(
            context
                .projection
                .clone()
                .run(database.clone(), epoch, self.cancel.clone()),
        );
        if self.args.retention_days > 0 {
            let kept = retention::run(database.clone(), self.args.retention_days, self.cancel.clone());
            self.tracker.spawn(kept);
        }
        self.tracker
            .spawn(context.uses.clone().run(database, self.cancel.clone()));
        self.tracker
            .spawn(context.checkpoints.clone().sweep(self.cancel.clone()));
        let sessions = context.caches.sessions.state();
        context.projection.rebuild(
            sessions
                .iter()
                .filter_map(|session| SessionRow::from_session(session))
                .collect(),
        );
    }

    fn work(&self, context: &Arc<Context>) {
        let Queues {
            sessions,
            pools,
            sources,
            grants,
            policies,
            fetches,
            feedback: pull_requests,
            deleted,
        } = self.queues.clone();
        let (spawn, cancel) = (&self.tracker, &self.cancel);
        let with = |context: &Arc<Context>| Arc::clone(context);
        let it = with(context);
        spawn.spawn(work::run(sessions, SESSIONS_AT_ONCE, cancel.clone(), move |name| {
            session::reconcile(with(&it), name)
        }));
        let it = with(context);
        spawn.spawn(work::run(pools, POOLS_AT_ONCE, cancel.clone(), move |name| {
            pool::reconcile::reconcile(with(&it), name)
        }));
        let it = with(context);
        spawn.spawn(work::run(sources, SOURCES_AT_ONCE, cancel.clone(), move |name| {
            git::reconcile::reconcile(with(&it), name)
        }));
        let it = with(context);
        spawn.spawn(work::run(grants, GRANTS_AT_ONCE, cancel.clone(), move |namespace| {
            grant::reconcile::reconcile(with(&it), namespace)
        }));
        let it = with(context);
        spawn.spawn(work::run(policies, GRANTS_AT_ONCE, cancel.clone(), move |name| {
            grant::policy::reconcile(with(&it), name)
        }));
        let it = with(context);
        let fetch = move |name| git::reconcile::fetch_beside(with(&it), name);
        spawn.spawn(work::run(fetches, SOURCES_AT_ONCE, cancel.clone(), fetch));
        let it = with(context);
        let speak = move |name| feedback::run::reconcile(with(&it), name);
        spawn.spawn(work::run(pull_requests, FORGES_AT_ONCE, cancel.clone(), speak));
        let it = with(context);
        spawn.spawn(work::run(
            deleted,
            SESSIONS_AT_ONCE,
            cancel.clone(),
            move |uid: String| std::future::ready(session::forget(&it, &uid)),
        ));
    }

    /// The Service selects the label of the active replica: ours gets it, every other pod loses it.
    async fn take_the_service(&self) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.args.namespace);
        let label = |value: serde_json::Value| {
            Patch::Merge(serde_json::json!({ "metadata": { "labels": { berth_crds::label::ACTIVE: value } } }))
        };
        let params = PatchParams::default();
        let former = ListParams::default().labels(&format!("{}=true", berth_crds::label::ACTIVE));
        for pod in api
            .list(&former)
            .await?
            .items
            .iter()
            .filter(|pod| pod.name_any() != self.args.pod_name)
        {
            match api
                .patch(&pod.name_any(), &params, &label(serde_json::Value::Null))
                .await
            {
                Err(kube::Error::Api(status)) if status.reason == "NotFound" => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        api.patch(&self.args.pod_name, &params, &label("true".into()))
            .await
            .map(drop)
    }
}

/// A new leader looks at everything once.
fn poke_all(context: &Context) {
    let Context { caches, queues, .. } = context;
    poke_each(&caches.pools, &queues.pools);
    poke_each(&caches.sources, &queues.sources);
    let bindings = caches.bindings.state();
    let namespaces = bindings.iter().filter_map(|binding| binding.namespace());
    namespaces.for_each(|namespace| queues.grants.poke(namespace));
    poke_each(&caches.policies, &queues.policies);
    poke_each(&caches.sessions, &queues.sessions);
}

/// A changed bundle goes to the namespace of every pool.
async fn bring_bundles(context: Arc<Context>, mut material: watch::Receiver<Arc<Material>>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = material.changed() => if changed.is_err() { return },
        }
        poke_each(&context.caches.pools, &context.queues.pools);
    }
}

fn poke_each<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>, queue: &Pokes<Name>) {
    store.state().iter().for_each(|object| queue.poke(Name::of(&**object)));
}

fn cancel_at_signal(cancel: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = cancel.cancelled() => {}
        }
        cancel.cancel();
    })
}

/// Identity chains are read for at most 32 sessions at a time (DESIGN §5.3).
const SESSIONS_AT_ONCE: usize = 64;
const POOLS_AT_ONCE: usize = 8;
/// Conversations about pull requests, each of a source.
const FORGES_AT_ONCE: usize = 4;
/// Namespaces; a look reads Secrets and pushes.
const GRANTS_AT_ONCE: usize = 8;
/// Each look is a child process that may use a core; one more looks into pull requests.
const SOURCES_AT_ONCE: usize = 3;
/// Within the pod's grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(8);
