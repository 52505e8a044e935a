//! HTTP: health for the kubelet, metrics for Prometheus, webhooks from forges.
//!
//! A webhook's payload goes no further than its signature: an authentic one asks for a look at its source, nothing
//! else (DESIGN §1.2).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::git;
use crate::metrics::Metrics;
use crate::telemetry::chain;
use crate::watch::Name;

/// What handlers need: the context is there while this replica leads.
#[derive(Clone)]
pub struct Served {
    /// The active context.
    pub context: watch::Receiver<Option<Arc<Context>>>,
    /// Whether the stores are filled.
    pub ready: watch::Receiver<bool>,
    /// Every metric.
    pub metrics: Arc<Metrics>,
}

/// Health and webhooks.
pub fn public(served: Served) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/webhooks/{namespace}/{name}", post(webhook))
        .layer(DefaultBodyLimit::max(git::webhook::BODY_MAX))
        .with_state(served)
}

/// Metrics, on a port of their own.
pub fn metrics(served: Served) -> Router {
    Router::new().route("/metrics", get(text)).with_state(served)
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
}

async fn readyz(State(served): State<Served>) -> (StatusCode, &'static str) {
    if *served.ready.borrow() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "filling stores")
    }
}

async fn text(State(served): State<Served>) -> String {
    let context = served.context.borrow().clone();
    served.metrics.text(context.as_deref())
}

async fn webhook(
    State(served): State<Served>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let context = served.context.borrow().clone();
    let Some(context) = context else {
        return (StatusCode::SERVICE_UNAVAILABLE, "this replica doesn't lead");
    };
    let source = Name { namespace, name };
    match git::reconcile::webhook_is_authentic(&context, &source, &headers, &body).await {
        Ok(true) => {
            context.queues.fetches.poke(source.clone());
            context.queues.sources.poke(source);
            (StatusCode::ACCEPTED, "the source will be looked at")
        }
        // One answer for a wrong signature and for a source that isn't there: nobody learns which exist.
        Ok(false) => (StatusCode::FORBIDDEN, "no such webhook, or its signature is wrong"),
        Err(error) => {
            tracing::warn!(error = chain(&error), "webhook not checked");
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the signature couldn't be checked; try again",
            )
        }
    }
}
