//! How the node is doing: for probes, and in full.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Admin;
use super::answer::Json;
use super::guard::Caller;
use super::overview::{Overview, TagCounts};
use super::problem::Problem;
use crate::api::admission::LimitedBy;
use crate::readiness::Readiness;

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

/// `GET /readyz`: whether it can serve, and for operators, if not, why not: the reasons name tags and numbers.
pub async fn readyz(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
) -> (StatusCode, Json<Value>) {
    let health = readiness(&admin);
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!({"ready": health.is_ready()});
    if caller.is_operator {
        answer["not_ready"] = json!(health.reasons);
    }
    (status, Json(answer))
}

/// `GET /api/status`
pub async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Problem> {
    let lane = admin.clone();
    lane.figures.run(move || Json(status_of(&admin))).await
}

fn status_of(admin: &Admin) -> Value {
    let health = readiness(admin);
    json!({
        "version": VERSION,
        "commit": COMMIT,
        "uptime_s": admin.started.elapsed().as_secs(),
        "health": health.name,
        "health_detail": health.detail(),
        "engine": engine(admin),
        "store": store(admin),
        "tags": tag_counts(admin),
        "requests_limited": requests_limited(admin),
        "config": admin.config.shown(),
    })
}

/// Whether the node can serve.
pub fn readiness(admin: &Admin) -> Readiness {
    Readiness::of(&admin.monitor, &admin.service)
}

pub fn engine(admin: &Admin) -> &'static str {
    admin.config.http.engine.name()
}

fn store(admin: &Admin) -> Value {
    let status = admin.monitor.store();
    json!({
        "kind": admin.sessions.store_kind(),
        "host": status.host,
        "state": if status.answers { "answering" } else { "away" },
        "last_error": status.last_error,
        "since_ms": epoch_ms(status.since),
    })
}

/// How many requests for IDs got 429, by the limit that they were over.
fn requests_limited(admin: &Admin) -> Value {
    let limited = admin.service.counters.totals().limited;
    LimitedBy::ALL.iter().zip(limited).map(|(by, count)| (by.name().to_owned(), json!(count))).collect()
}

/// How many tags want an operator, of how many.
pub fn tag_counts(admin: &Admin) -> TagCounts {
    admin.look(Overview::counts)
}

/// Milliseconds since 1970.
pub fn epoch_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
