//! What the node does, second by second: measured once, kept for a while, and sent to everybody who looks on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Sse};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::Admin;
use super::answer::json;
use super::overview::TagCounts;
use super::problem::Problem;
use super::status::{epoch_ms, readiness, tag_counts};
use super::tags::rounded;
use crate::sync::lock;

/// How often a sample is taken, and how many are kept.
const PERIOD: Duration = Duration::from_secs(1);
const HISTORY_SAMPLES: usize = 300;
/// So many of them are one event: they arrive bit by bit where a proxy passes little at once.
const HISTORY_EVENT_SAMPLES: usize = 30;
/// After so long without a sample a comment is sent, so that nobody takes the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// What nginx, and proxies that do as it does, look for: do not collect the answer before it is passed on.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The most streams: they keep their connections, and the others must find a place too.
const STREAMS_MAX: usize = 32;
/// A client that falls behind by more samples misses some.
const BACKLOG_SAMPLES: usize = 16;

/// The samples of the last minutes, as JSON, and those who look on.
pub struct Events {
    history: Mutex<VecDeque<Arc<str>>>,
    live: broadcast::Sender<Arc<str>>,
    places: Arc<Semaphore>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            history: Mutex::default(),
            live: broadcast::Sender::new(BACKLOG_SAMPLES),
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

/// What one sample says.
#[derive(Debug, Serialize)]
struct Sample {
    t_ms: u64,
    ids_per_s: f64,
    requests_per_s: f64,
    /// Claims that wait now.
    waiting: usize,
    reservation_p50_ms: Option<f64>,
    reservation_p99_ms: Option<f64>,
    reservations_per_s: f64,
    connections: usize,
    health: &'static str,
    /// Why it is not ready, if it is not.
    health_detail: Option<String>,
    tags: TagCounts,
}

/// What rates are made of.
struct Counts {
    at: Instant,
    ids: u64,
    requests: u64,
    reservations: u64,
}

impl Counts {
    fn now(admin: &Admin) -> Self {
        let totals = admin.service.counters.totals();
        Self {
            at: Instant::now(),
            ids: totals.ids,
            requests: totals.requests(),
            reservations: admin.monitor.reservations().granted.count(),
        }
    }
}

impl Sample {
    fn new(admin: &Admin, before: &Counts, now: &Counts) -> Self {
        let readiness = readiness(admin);
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
        let per_s = |before: u64, now: u64| rounded(now.saturating_sub(before) as f64 / seconds);
        let latencies = admin.monitor.recent_latencies(now.at);
        Self {
            t_ms: epoch_ms(SystemTime::now()),
            ids_per_s: per_s(before.ids, now.ids),
            requests_per_s: per_s(before.requests, now.requests),
            waiting: admin.service.api.waits.waiting(),
            reservation_p50_ms: percentile_ms(&latencies, 50),
            reservation_p99_ms: percentile_ms(&latencies, 99),
            reservations_per_s: per_s(before.reservations, now.reservations),
            connections: admin.service.counters.connections.open(),
            health: readiness.name,
            health_detail: readiness.detail(),
            tags: tag_counts(admin),
        }
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed.
fn percentile_ms(sorted: &[Duration], percent: usize) -> Option<f64> {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).map(|latency| rounded(latency.as_secs_f64() * 1000.0))
}

/// Takes samples for as long as it is polled.
pub async fn sample(admin: Arc<Admin>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = Counts::now(&admin);
    loop {
        ticks.tick().await;
        let now = Counts::now(&admin);
        let measured = admin.clone();
        // It may look at all tags, which must not hold up probes.
        let sample = spawn_blocking(move || (json(&Sample::new(&measured, &before, &now)), now)).await;
        before = match sample {
            // Numbers and texts: this cannot fail.
            Ok((sample, now)) => {
                admin.events.publish(sample.unwrap_or_default().into());
                now
            }
            // It is this task that is watched over.
            Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
            // The runtime ends.
            Err(_) => return,
        };
    }
}

impl Events {
    fn publish(&self, sample: Arc<str>) {
        let mut history = lock(&self.history);
        if history.len() == HISTORY_SAMPLES {
            history.pop_front();
        }
        history.push_back(sample.clone());
        // Under the lock, so that nobody gets it twice. An error means that nobody looks on.
        let _ = self.live.send(sample);
    }

    /// All samples that are kept, and the way to those that follow.
    fn follow(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let history = lock(&self.history);
        (history.iter().cloned().collect(), self.live.subscribe())
    }
}

/// `GET /api/events`
pub async fn events(State(admin): State<Arc<Admin>>) -> Result<impl IntoResponse, Problem> {
    let place = admin.events.places.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{STREAMS_MAX} clients follow events already: try again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let (history, samples) = admin.events.follow();
    let client = Client { first: first_events(&history).into(), samples, _place: place };
    let events = unfold(client, |mut client| async {
        let event = client.next().await?;
        Some((Ok::<_, Infallible>(event), client))
    });
    let unbuffered = [(CACHE_CONTROL, "no-store, no-transform"), (ACCEL_BUFFERING, "no")];
    Ok((unbuffered, Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT))))
}

/// A comment, which has a proxy pass on the head, and the history; that is one event at least.
fn first_events(history: &[Arc<str>]) -> Vec<Event> {
    let mut events = vec![Event::default().comment("idalloc")];
    let mut add = |samples: &[Arc<str>]| {
        events.push(Event::default().event("history").data(format!("[{}]", samples.join(","))));
    };
    match history {
        [] => add(&[]),
        _ => history.chunks(HISTORY_EVENT_SAMPLES).for_each(add),
    }
    events
}

struct Client {
    first: VecDeque<Event>,
    samples: broadcast::Receiver<Arc<str>>,
    _place: OwnedSemaphorePermit,
}

impl Client {
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.first.pop_front() {
            return Some(event);
        }
        loop {
            match self.samples.recv().await {
                Ok(sample) => return Some(Event::default().event("sample").data(&*sample)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let ms: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((percentile_ms(&ms, 50), percentile_ms(&ms, 99)), (Some(50.0), Some(99.0)));
        assert_eq!(percentile_ms(&ms[..1], 50), Some(1.0));
        assert_eq!(percentile_ms(&ms[..3], 99), Some(3.0));
        assert_eq!(percentile_ms(&[], 50), None);
    }

    #[test]
    fn the_history_is_bounded_and_whoever_follows_misses_nothing_and_gets_nothing_twice() {
        let events = Events::default();
        (0..HISTORY_SAMPLES + 5).for_each(|n| events.publish(n.to_string().into()));
        let (history, mut live) = events.follow();
        let history: Vec<usize> = history.iter().map(|sample| sample.parse().unwrap()).collect();
        assert_eq!(history, (5..HISTORY_SAMPLES + 5).collect::<Vec<_>>());
        events.publish("next".into());
        assert_eq!(&*live.try_recv().unwrap(), "next");
        assert!(live.try_recv().is_err());
    }
}
