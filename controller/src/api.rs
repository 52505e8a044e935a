//! The HTTP API (DESIGN §11): what a session has done, for people and their tools. TLS with the control stream's
//! certificate; the bearer is a Kubernetes token of audience `berth-api`, and each request is a SubjectAccessReview of its
//! own. No token is read from a URL, and no other origin may use a browser's.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::problem::Problem;
use crate::context::Context;
use crate::control::listen;
use crate::control::tls::Material;

pub mod caller;
pub mod events;
pub mod listener;
pub mod problem;
pub mod say;

/// What handlers need: the context is there while this replica leads.
#[derive(Clone)]
pub struct Served {
    /// The active context.
    context: watch::Receiver<Option<Arc<Context>>>,
    /// Readers at a time.
    readers: Arc<Semaphore>,
}

impl Served {
    /// The active context; a standby has none.
    pub fn context(&self) -> Result<Arc<Context>, Problem> {
        let none = "this replica doesn't lead; try again";
        let unavailable = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", none);
        self.context.borrow().clone().ok_or_else(unavailable)
    }
}

/// The routes.
pub fn router(context: watch::Receiver<Option<Arc<Context>>>) -> Router {
    let served = Served {
        context,
        readers: Arc::new(Semaphore::new(READERS_MAX)),
    };
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/v1/sessions/{namespace}/{name}/events", get(events::follow))
        .route("/v1/sessions/{namespace}/{name}/transcript", get(events::transcript))
        .route("/v1/sessions/{namespace}/{name}/messages", post(say::message))
        .route("/v1/sessions/{namespace}/{name}/abort", post(say::abort))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .with_state(served)
}

/// Serves until cancelled.
pub async fn serve(
    tcp: TcpListener,
    material: watch::Receiver<Arc<Material>>,
    router: Router,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let address = tcp.local_addr()?;
    let (sender, connections) = mpsc::channel(listen::HANDSHAKES_MAX);
    let accepting = listen::accept(tcp, material, |material| &material.api, sender);
    let listener = listener::Accepted { connections, address };
    let serving = axum::serve(listener, router).with_graceful_shutdown(cancel.clone().cancelled_owned());
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        () = accepting => Ok(()),
        served = async { serving.await } => served,
    }
}

async fn openapi() -> ([(&'static str, &'static str); 1], &'static str) {
    ([("content-type", "application/json")], include_str!("api/openapi.json"))
}

/// A message of 64 KiB, all of it escaped in JSON.
const BODY_MAX: usize = 512 << 10;
/// A page of each is 4 MiB at most, and goes before the next is read.
const READERS_MAX: usize = 256;
