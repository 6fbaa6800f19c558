//! The operator's port: what is happening, for people and for machines, and the means to change it.
//!
//! It runs on the program's own thread, away from the workers of the hot port, and takes from them nothing but their
//! counts. What takes long is done on other threads, so that probes are answered at once. Everything about it is bounded:
//! connections, streams, bodies, and how long a request may take.

mod answer;
mod changes;
mod dashboard;
mod eager;
mod events;
mod guard;
mod input;
mod lane;
mod metrics;
mod openapi;
mod overview;
mod places;
mod port;
mod problem;
mod sessions;
mod status;
mod tags;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{MethodRouter, get, post};

use crate::alloc::monitor::Monitor;
use crate::config::Config;
use crate::http::handler::Service;
use crate::store::Backend;
use guard::Denials;
use lane::Lane;
use overview::Overview;
use places::Places;
use problem::Problem;
use sessions::Sessions;

pub use port::Port;

/// The most files that the port has open: its connections, and its sessions with the store, each of which may be a database
/// and its journal.
pub const FILES_MAX: usize = places::CONNECTIONS_MAX + 2 * sessions::SESSIONS_MAX;

/// The longest body of a request.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a request may take, from its head to the head of its answer; longer than any store's timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What all requests share.
struct Admin {
    config: Config,
    monitor: Monitor,
    service: Arc<Service>,
    started: Instant,
    overview: RwLock<Overview>,
    /// Of pages of tags, and of all other figures that take long: a search does not hold up a scrape.
    lists: Lane,
    figures: Lane,
    events: events::Events,
    places: Arc<Places>,
    denials: Denials,
    sessions: Sessions,
}

impl Admin {
    fn new(config: Config, backend: Arc<dyn Backend>, monitor: Monitor, service: Arc<Service>) -> Self {
        Self {
            overview: RwLock::new(Overview::new(monitor.clone(), config.operator.metrics_tags)),
            lists: Lane::default(),
            figures: Lane::default(),
            places: Arc::default(),
            denials: Denials::default(),
            sessions: Sessions::new(backend),
            config,
            monitor,
            service,
            started: Instant::now(),
            events: events::Events::default(),
        }
    }

    /// Looks at all tags as they are now, or were a moment ago. May take a while.
    fn look<T>(&self, look: impl FnOnce(&Overview) -> T) -> T {
        let now = Instant::now();
        let overview = self.overview.read().unwrap_or_else(PoisonError::into_inner);
        if overview.is_fresh(now) {
            return look(&overview);
        }
        drop(overview);
        self.overview.write().unwrap_or_else(PoisonError::into_inner).refresh(now);
        look(&self.overview.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Every path of the API, with its methods; `openapi.json` says the same.
fn routes() -> [(&'static str, MethodRouter<Arc<Admin>>); 11] {
    [
        ("/livez", get(status::livez)),
        ("/readyz", get(status::readyz)),
        ("/metrics", get(metrics::metrics)),
        ("/api/status", get(status::status)),
        ("/api/events", get(events::events)),
        ("/api/tags", get(tags::list).post(changes::add)),
        ("/api/tags/{tag}", get(changes::show).patch(changes::change).delete(changes::delete)),
        ("/api/tags/{tag}/advance", post(changes::advance)),
        ("/api/tag", get(changes::show).patch(changes::change).delete(changes::delete)),
        ("/api/tag/advance", post(changes::advance)),
        ("/api/openapi.json", get(openapi::openapi)),
    ]
}

fn router(admin: Arc<Admin>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .route("/", get(dashboard::page))
        .route("/assets/{*path}", get(dashboard::asset))
        .fallback(|| async { Problem::not_found("there is no such path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(admin.clone(), guard::guard))
        .with_state(admin)
}
