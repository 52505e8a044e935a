//! What the reconcilers share: clients, stores, streams and the clock; assembled by `run`.

use std::sync::Arc;

use berth_crds::{AgentPool, AgentSession, CredentialBinding, GrantPolicy};
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use crate::control::identity::Prover;
use crate::control::registry::Registry;
use crate::control::session_link::SessionsOnPods;
use crate::control::tls::Material;
use crate::events::Events;
use crate::feedback::run::Said;
use crate::gateway::keys::Keys;
use crate::git::reconcile::Sources;
use crate::grant::allot::Allotments;
use crate::grant::evidence::ask::Evidence;
use crate::grant::github::GitHub;
use crate::grant::oauth2::OAuth2;
use crate::grant::offer::InstallKey;
use crate::grant::recorder::Recorder;
use crate::grant::secrets::Secrets;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::pool::reconcile::Pools;
use crate::session::own_claims::OwnClaims;
use crate::session::proposal::Proposals;
use crate::session::runs::Runs;
use crate::session::spend::Spend;
use crate::settings::Settings;
use crate::store::checkpoint::Checkpoints;
use crate::store::events::EventWriter;
use crate::store::figure::Figures;
use crate::store::input::Inputs;
use crate::store::read::Reader;
use crate::store::revision::RevisionRow;
use crate::store::session::SessionRow;
use crate::store::uses::UseWriter;
use crate::store::writer::ProjectionWriter;
use crate::watch::{Caches, Queues};
use crate::written::Written;

/// What the reconcilers share.
pub struct Context {
    /// Client with this process's own rights.
    pub client: Client,
    /// The stores.
    pub caches: Arc<Caches>,
    /// The queues.
    pub queues: Queues,
    /// Attached streams.
    pub registry: Registry,
    /// Proves identities.
    pub prover: Prover,
    /// Which session each pod was assigned to.
    pub sessions_on_pods: SessionsOnPods,
    /// What runners told.
    pub runs: Runs,
    /// What is remembered of pools.
    pub pools: Pools,
    /// Sessions as just written.
    pub written: Written<AgentSession>,
    /// Bindings as just written.
    pub written_bindings: Written<CredentialBinding>,
    /// Pools as just written.
    pub written_pools: Written<AgentPool>,
    /// Policies as just written.
    pub written_policies: Written<GrantPolicy>,
    /// Claims as just made and given back.
    pub own_claims: OwnClaims,
    /// What sessions with a budget have spent.
    pub spend: Spend,
    /// What sessions hold of their namespaces' budgets.
    pub allotments: Allotments,
    /// What gateways say that sessions have spent.
    pub figures: Figures,
    /// What would allow requests that were refused.
    pub proposals: Proposals,
    /// What is remembered of sources.
    pub sources: Sources,
    /// Rows of sessions and revisions for Postgres.
    pub projection: ProjectionWriter,
    /// Events for Postgres.
    pub event_writer: EventWriter,
    /// Secrets that bindings name.
    pub secrets: Secrets,
    /// Tokens of GitHub Apps.
    pub github: GitHub,
    /// What is known of evidence.
    pub evidence: Evidence,
    /// What was said on pull requests.
    pub feedback: Said,
    /// Tokens of OAuth 2.0 clients.
    pub oauth2: OAuth2,
    /// Keys of model gateways.
    pub gateway_keys: Keys,
    /// Key of this install.
    pub install_key: InstallKey,
    /// Uses of credentials for Postgres.
    pub uses: UseWriter,
    /// Writes down what is granted.
    pub recorder: Recorder,
    /// Checkpoints of sessions.
    pub checkpoints: Checkpoints,
    /// What people say to sessions.
    pub inputs: Inputs,
    /// Reads the record, for people.
    pub reader: Reader,
    /// Kubernetes Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What the install decided.
    pub settings: Settings,
    /// Whether this replica leads.
    pub leadership: Leadership,
    /// The clock.
    pub clock: Clock,
    /// Certificates of the control stream.
    pub material: watch::Receiver<Arc<Material>>,
    /// Since when this leader serves.
    pub serving_since: Timestamp,
}

/// Another replica leads, or may lead by now.
#[derive(Debug, thiserror::Error)]
#[error("the Lease isn't held")]
pub struct NotLeading;

impl Context {
    /// Looks at the Lease's clock; before every write and push.
    pub fn check_leading(&self) -> Result<(), NotLeading> {
        if self.leadership.is_held() {
            Ok(())
        } else {
            Err(NotLeading)
        }
    }

    /// CA bundle that pods verify the control stream with, PEM.
    pub fn ca_bundle(&self) -> String {
        self.material.borrow().ca.clone()
    }

    /// Since when this leader serves streams.
    pub fn serving_since(&self) -> Timestamp {
        self.serving_since
    }

    /// Tells Postgres of a source's tip, when it is there.
    pub fn record_revision(&self, row: RevisionRow) {
        self.projection.put_revision(row);
    }

    /// Changes whenever events may have become acknowledgeable.
    pub fn projection_commits(&self) -> watch::Receiver<()> {
        self.event_writer.commits()
    }

    /// Projects a session into Postgres, when it is there.
    pub fn record_session(&self, session: &AgentSession) {
        if let Some(row) = SessionRow::from_session(session) {
            self.projection.put(row);
        }
    }
}

/// Reads the wall clock, in one place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// The time now.
    pub fn now(self) -> Timestamp {
        Timestamp::now()
    }
}
