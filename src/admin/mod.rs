//! The operator's port: what is happening, for people and for machines, and the means to change it.
//!
//! It runs on the program's own thread, away from the workers of the hot port, and takes from them nothing but their
//! counts. Everything about it is bounded: connections, streams, bodies, and how long a request may take.

mod events;
mod guard;
mod metrics;
mod overview;
mod port;
mod problem;
mod status;
mod tags;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::get;

use crate::alloc::monitor::Monitor;
use crate::config::{AdminConfig, Config};
use crate::http::handler::Service;
use overview::Overview;
use problem::Problem;

pub use port::Port;

/// The longest body of a request.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a request may take, from its head to the head of its answer; longer than any store's timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What all requests share.
struct Admin {
    config: Config,
    admin: AdminConfig,
    monitor: Monitor,
    service: Arc<Service>,
    started: Instant,
    overview: Mutex<Overview>,
    events: events::Events,
}

impl Admin {
    fn new(config: Config, admin: AdminConfig, monitor: Monitor, service: Arc<Service>) -> Self {
        Self {
            overview: Mutex::new(Overview::new(monitor.clone(), admin.metrics_tags)),
            config,
            admin,
            monitor,
            service,
            started: Instant::now(),
            events: events::Events::default(),
        }
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/api/status", get(status::status))
        .route("/api/tags", get(tags::list))
        .route("/api/events", get(events::events))
        .fallback(|| async { Problem::not_found("there is no such path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(admin.clone(), guard::guard))
        .with_state(admin)
}
