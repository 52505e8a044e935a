//! The HTTP API (DESIGN §11): what a session has done, for people and their tools. TLS with the control stream's
//! certificate; the bearer is a Kubernetes token of audience `berth-api`, and each request is a SubjectAccessReview of its
//! own. No token is read from a URL, and no other origin may use a browser's.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::control::listen;
use crate::control::tls::Material;

pub mod caller;
pub mod events;
pub mod listener;
pub mod problem;

/// What handlers need: the context is there while this replica leads.
#[derive(Clone)]
pub struct Served {
    /// The active context.
    pub context: watch::Receiver<Option<Arc<Context>>>,
    /// Readers at a time.
    readers: Arc<Semaphore>,
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

/// A page of each is 4 MiB at most, and goes before the next is read.
const READERS_MAX: usize = 256;
