//! Whether this node can serve, in words: for probes, for the dashboard, and for the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::alloc::monitor::Monitor;
use crate::alloc::{Fault, Health};
use crate::episode::Episode;
use crate::http::handler::Service;

/// How often [`log_changes`] looks.
const PERIOD: Duration = Duration::from_secs(1);

/// A watermark file that takes so long to be written is on a disk that hangs.
const WATERMARKS_BUSY_MAX: Duration = Duration::from_secs(2);

/// Whether this node can serve, and if not, why not.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// In a word.
    pub name: &'static str,
    /// Empty if it can.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// As it is now.
    pub fn of(monitor: &Monitor, service: &Service) -> Self {
        if service.is_draining() {
            return Self::no("stopping", "this server is stopping");
        }
        match monitor.health() {
            Health::Serving => Self { name: "serving", reasons: Vec::new() },
            Health::Starting => Self::no("starting", "tags not loaded"),
            Health::Starving(reasons) => Self { name: "starving", reasons },
            Health::StoreReplaced => Self::no("store_replaced", &Fault::StoreReplaced.to_string()),
            Health::StoreAway => {
                Self::no("store_away", "the store does not answer, and no IDs are in memory")
            }
        }
    }

    fn no(name: &'static str, reason: &str) -> Self {
        Self { name, reasons: vec![reason.to_owned()] }
    }

    /// Whether it can serve.
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Why it cannot, in one text.
    pub fn detail(&self) -> Option<String> {
        (!self.is_ready()).then(|| self.reasons.join("; "))
    }
}

/// Whoever writes the file cannot tell: he hangs.
fn log_hanging_watermarks(monitor: &Monitor, hanging: &mut Episode) {
    let busy_for = monitor.watermarks_busy_for().filter(|busy_for| *busy_for >= WATERMARKS_BUSY_MAX);
    match busy_for {
        Some(busy_for) if hanging.holds(Instant::now()) => error!(
            seconds = busy_for.as_secs(),
            "the watermark file does not answer: does its disk hang? No IDs are handed out but those in memory"
        ),
        None if hanging.is_over() => info!("the watermark file answers again"),
        _ => {}
    }
}

/// As [`Readiness::of`], with all tags judged whose callers found too little: a probe judges a part of them, in turn.
async fn judge_all(monitor: &Monitor, service: &Service) -> Readiness {
    let mut readiness = Readiness::of(monitor, service);
    for _ in 1..monitor.health_looks() {
        if !readiness.is_ready() {
            break;
        }
        // With 300,000 tags this is a tenth of a second in all: probes come in between.
        tokio::task::yield_now().await;
        readiness = Readiness::of(monitor, service);
    }
    readiness
}

/// Tells the log when the node becomes unable to serve, and why, and when it can again. Ends when the server does: of that
/// the log is told by who ends it.
pub async fn log_changes(monitor: Monitor, service: Arc<Service>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut unready = Episode::default();
    let mut hanging = Episode::default();
    loop {
        ticks.tick().await;
        log_hanging_watermarks(&monitor, &mut hanging);
        if service.is_draining() {
            return;
        }
        let readiness = judge_all(&monitor, &service).await;
        match readiness.detail() {
            Some(cause) if unready.holds(Instant::now()) => {
                warn!(health = readiness.name, %cause, "this node is not ready")
            }
            None if unready.is_over() => info!("this node is ready again"),
            _ => {}
        }
    }
}
