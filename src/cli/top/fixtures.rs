//! Answers of an operator's port, for tests.

use std::time::Instant;

use serde_json::{Value, json};

use super::app::{App, Message};

pub fn app(now: Instant) -> App {
    let status = json!({
        "version": "0.1.0", "commit": null, "uptime_s": 11_580, "health": "serving", "engine": "tokio",
        "store": {"kind": "mysql", "host": "10.0.0.1:3306", "state": "answering", "last_error": null, "since_ms": 1}
    });
    App::new("127.0.0.1:8881", serde_json::from_value(status).expect("a status"), now)
}

/// One second in which `ids_per_s` IDs were handed out.
pub fn sample(ids_per_s: f64) -> Message {
    Message::Sample(Box::new(serde_json::from_value(sample_json(ids_per_s)).expect("a sample")))
}

pub fn history(rates: &[f64]) -> Message {
    let samples = rates.iter().map(|rate| sample_json(*rate)).collect();
    Message::History(serde_json::from_value(samples).expect("samples"))
}

pub fn sample_json(ids_per_s: f64) -> Value {
    json!({
        "t_ms": 1_700_000_000_000_u64, "ids_per_s": ids_per_s, "requests_per_s": 812.0, "waiting": 3,
        "reservation_p50_ms": 0.8, "reservation_p99_ms": 12.345, "reservations_per_s": 1.5, "connections": 64,
        "health": "serving", "health_detail": null,
        "tags": {"total": 100_000, "fenced": 1, "broken": 0, "exhausted": 0, "starving": 2}
    })
}

pub fn tag(name: &str, state: &str) -> Value {
    let fault =
        (state == "fenced").then_some("its max_id in the table is below 500; raise max_id to 500 or more");
    json!({
        "app_tag": name, "step": 1000, "state": state, "fault": fault,
        "rate_per_s": 1234.5, "left": "199996", "supply_s": 162.0, "segments": 2, "last_amount": 100_000,
        "last_reserved_at_ms": 1_699_999_995_000_u64, "issued": "9007199254740993"
    })
}

/// A page of these tags, of `total`, that answers what the app asks for now.
pub fn page(app: &App, total: usize, tags: &[Value]) -> Message {
    let page = json!({"total": total, "offset": app.query.offset, "limit": app.query.limit, "tags": tags});
    Message::Page(app.query.clone(), serde_json::from_value(page).expect("a page"))
}
