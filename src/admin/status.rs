//! How the node is doing: for probes, and in full.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Admin;
use super::overview::TagCounts;
use crate::config::HttpEngine;
use crate::dsn::Dsn;
use crate::readiness::Readiness;
use crate::sync::lock;

/// The commit that this program was built from, where the build says so.
pub const COMMIT: Option<&str> = match option_env!("IDALLOC_COMMIT") {
    Some(commit) if !commit.is_empty() => Some(commit),
    _ => None,
};
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /livez`: the process runs.
pub async fn livez() -> Json<Value> {
    Json(json!({"live": true}))
}

/// `GET /readyz`: whether it can serve, and if not, why not.
pub async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, Json<Value>) {
    let health = readiness(&admin);
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": health.is_ready(), "not_ready": health.reasons})))
}

/// `GET /api/status`
pub async fn status(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let health = readiness(&admin);
    Json(json!({
        "version": VERSION,
        "commit": COMMIT,
        "uptime_s": admin.started.elapsed().as_secs(),
        "health": health.name,
        "health_detail": health.detail(),
        "engine": engine(&admin),
        "store": store(&admin),
        "tags": tag_counts(&admin),
        "config": admin.config.shown(),
    }))
}

/// Whether the node can serve.
pub fn readiness(admin: &Admin) -> Readiness {
    Readiness::of(&admin.monitor, &admin.service)
}

pub fn engine(admin: &Admin) -> &'static str {
    match admin.config.http_engine {
        HttpEngine::Tokio => "tokio",
        HttpEngine::MayMinihttp => "may_minihttp",
    }
}

fn store(admin: &Admin) -> Value {
    let kind = match admin.config.dsn {
        Dsn::MySql(_) => "mysql",
        Dsn::Sqlite(_) => "sqlite",
    };
    let status = admin.monitor.store();
    json!({
        "kind": kind,
        "host": status.host,
        "state": if status.answers { "answering" } else { "away" },
        "last_error": status.last_error,
        "since_ms": epoch_ms(status.since),
    })
}

/// How many tags want an operator, of how many.
pub fn tag_counts(admin: &Admin) -> TagCounts {
    let mut overview = lock(&admin.overview);
    overview.refresh(Instant::now());
    overview.counts()
}

/// Milliseconds since 1970.
pub fn epoch_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
