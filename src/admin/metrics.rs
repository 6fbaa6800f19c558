//! `GET /metrics`: figures as Prometheus scrapes them.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use super::Admin;
use super::overview::{OTHERS, Overview, Series};
use super::problem::Problem;
use super::status::{COMMIT, VERSION, engine, readiness};
use crate::alloc::monitor::FAILURE_KINDS;
use crate::alloc::skipped::REASONS;
use crate::api::admission::LimitedBy;
use crate::config::HttpEngine;
use crate::counters::{BOUNDS_US, HistogramReading};
use crate::escape::shown;
use crate::http::buffer_memory::BufferMemory;
use crate::http::counters::Purpose;
use crate::http::response::STATUSES;
use crate::logging;

/// `GET /metrics`
pub async fn metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let lane = admin.clone();
    lane.figures.run(move || all(&admin)).await
}

fn all(admin: &Admin) -> Response {
    let mut families = Vec::new();
    server_families(admin, &mut families);
    port_families(admin, &mut families);
    allocator_families(admin, &mut families);
    tag_families(admin, &mut families);
    families.extend(ProcessCollector::for_self().collect());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&families, &mut text) {
        Ok(()) => ([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => {
            let message = format!("the figures cannot be written: {error}");
            Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

/// Labels of one series.
type Labels<'a> = &'a [(&'a str, &'a str)];

fn metric(labels: Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(labels.iter().map(pair).collect());
    metric
}

fn counted(labels: Labels<'_>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = metric(labels);
    metric.set_counter(counter);
    metric
}

fn gauged(labels: Labels<'_>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = metric(labels);
    metric.set_gauge(gauge);
    metric
}

fn timed(reading: &HistogramReading) -> Metric {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let bucket = |(bound, count): (&u64, &u64)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(cumulative);
        bucket
    };
    // The encoder adds the bucket that has no bound.
    histogram.set_bucket(BOUNDS_US.iter().zip(&reading.counts).map(bucket).collect());
    histogram.set_sample_count(reading.count());
    histogram.set_sample_sum(reading.sum_us as f64 / 1e6);
    let mut metric = metric(&[]);
    metric.set_histogram(histogram);
    metric
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, metrics)
}

fn gauge(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

fn server_families(admin: &Admin, families: &mut Vec<MetricFamily>) {
    let counters = &admin.service.counters;
    let totals = counters.totals();
    let requests = Purpose::ALL.iter().zip(&totals.answers).flat_map(|(purpose, counts)| {
        // Those that never were would be 60 lines of zeros.
        let seen = STATUSES.iter().zip(counts).filter(|(_, count)| **count > 0);
        seen.map(|((status, _), count)| {
            counted(&[("route", purpose.name()), ("code", &status.to_string())], *count)
        })
    });
    let requests: Vec<_> = requests.collect();
    if !requests.is_empty() {
        families.push(counter("idalloc_http_requests_total", "Requests answered.", requests));
    }
    let limited = LimitedBy::ALL.iter().zip(totals.limited);
    families.push(counter(
        "idalloc_http_requests_limited_total",
        "Requests for IDs that got 429, by the limit that they were over: their tag's, or their token's.",
        limited.map(|(by, count)| counted(&[("by", by.name())], count)).collect(),
    ));
    if admin.config.http.engine == HttpEngine::Tokio {
        for (name, help, bytes) in [
            ("idalloc_http_received_bytes_total", "Bytes received from clients.", totals.bytes_received),
            ("idalloc_http_sent_bytes_total", "Bytes sent to clients.", totals.bytes_sent),
        ] {
            families.push(counter(name, help, vec![counted(&[], bytes)]));
        }
    }
    if let Some(buffers) = counters.buffers() {
        families.extend(buffer_families(buffers));
    }
    let connections = &counters.connections;
    families.extend([
        gauge(
            "idalloc_http_connections",
            "Connections that are open.",
            vec![gauged(&[], connections.open() as f64)],
        ),
        counter(
            "idalloc_http_connections_accepted_total",
            "Connections accepted and served.",
            vec![counted(&[], connections.accepted())],
        ),
        counter(
            "idalloc_http_connections_refused_total",
            "Connections refused with 503 because there were MaxConnections.",
            vec![counted(&[], connections.refused())],
        ),
        gauge(
            "idalloc_claims_waiting",
            "Claims that wait for IDs.",
            vec![gauged(&[], admin.service.api.waits.waiting() as f64)],
        ),
        family(
            "idalloc_claim_wait_seconds",
            "How long claims waited that found no IDs in memory.",
            MetricType::HISTOGRAM,
            vec![timed(&admin.service.api.waits.durations())],
        ),
        gauge(
            "idalloc_ready",
            "Whether this node can serve: 1, or 0.",
            vec![gauged(&[], f64::from(u8::from(readiness(admin).is_ready())))],
        ),
        counter(
            "idalloc_log_lines_dropped_total",
            "Lines of the log that could not be written.",
            vec![counted(&[], logging::lines_dropped())],
        ),
        gauge(
            "idalloc_build_info",
            "What is running; always 1.",
            vec![gauged(
                &[("version", VERSION), ("commit", COMMIT.unwrap_or("unknown")), ("engine", engine(admin))],
                1.0,
            )],
        ),
    ]);
}

fn buffer_families(buffers: &BufferMemory) -> [MetricFamily; 3] {
    [
        gauge(
            "idalloc_http_buffer_bytes",
            "Bytes that unfinished requests and unsent answers take.",
            vec![gauged(&[], buffers.bytes_held() as f64)],
        ),
        gauge(
            "idalloc_http_buffer_limit_bytes",
            "HttpBufferMemory: how many they may take.",
            vec![gauged(&[], buffers.bytes_max() as f64)],
        ),
        counter(
            "idalloc_http_buffer_refusals_total",
            "Requests refused with 503, and connections closed, because HttpBufferMemory was used up.",
            vec![counted(&[], buffers.refusals())],
        ),
    ]
}

/// The operator's port itself.
fn port_families(admin: &Admin, families: &mut Vec<MetricFamily>) {
    let (places, denials) = (&admin.places, &admin.denials);
    families.extend([
        gauge(
            "idalloc_admin_connections",
            "Connections to the operator's port: those of operators, and of others.",
            vec![
                gauged(&[("from", "operators")], places.operators() as f64),
                gauged(&[("from", "others")], places.strangers() as f64),
            ],
        ),
        counter(
            "idalloc_admin_connections_refused_total",
            "Connections to the operator's port that were closed for want of places; of others the oldest silent one.",
            vec![
                counted(&[("from", "operators")], places.operators_refused()),
                counted(&[("from", "others")], places.strangers_closed()),
            ],
        ),
        counter(
            "idalloc_admin_denied_total",
            "Requests to the operator's port without an operator's token: with a wrong one, or with none.",
            vec![
                counted(&[("token", "wrong")], denials.wrong_token()),
                counted(&[("token", "none")], denials.without_token()),
            ],
        ),
    ]);
}

fn allocator_families(admin: &Admin, families: &mut Vec<MetricFamily>) {
    let reservations = admin.monitor.reservations();
    let failed = FAILURE_KINDS.iter().zip(reservations.failed);
    let mut results = vec![counted(&[("result", "ok")], reservations.granted.count())];
    results.extend(failed.map(|(kind, count)| counted(&[("result", kind)], count)));
    let skipped = REASONS.iter().zip(admin.monitor.skipped());
    let skipped = skipped.map(|((_, reason), ids)| counted(&[("reason", reason)], ids));
    families.extend([
        counter("idalloc_reservations_total", "Reservations, by what the store made of them.", results),
        family(
            "idalloc_reservation_duration_seconds",
            "How long reservations took that the store granted.",
            MetricType::HISTOGRAM,
            vec![timed(&reservations.granted)],
        ),
        counter(
            "idalloc_fences_total",
            "Tags that were fenced because the store had gone back.",
            vec![counted(&[], reservations.fences)],
        ),
        counter(
            "idalloc_server_changes_total",
            "Times that another database server answered than before, or the same after a new start.",
            vec![counted(&[], reservations.server_changes)],
        ),
        counter(
            "idalloc_failover_raises_total",
            "Tags that were raised past all that may have been granted, because another server answers.",
            vec![counted(&[], reservations.failover_raises)],
        ),
        counter(
            "idalloc_ids_skipped_total",
            "IDs that were reserved, or may have been, and that nobody will be given, by reason.",
            skipped.collect(),
        ),
        gauge(
            "idalloc_segment_seconds",
            "SegmentSeconds: for how long a reservation of a busy tag is to last.",
            vec![gauged(&[], f64::from(admin.config.allocator.segment_seconds))],
        ),
        gauge(
            "idalloc_store_up",
            "Whether the store answers: 1, or 0.",
            vec![gauged(&[], f64::from(u8::from(admin.monitor.store().answers)))],
        ),
    ]);
}

fn tag_families(admin: &Admin, families: &mut Vec<MetricFamily>) {
    admin.look(|overview| families_of_tags(admin, overview, families));
}

fn families_of_tags(admin: &Admin, overview: &Overview, families: &mut Vec<MetricFamily>) {
    let now = Instant::now();
    let counts = overview.counts();
    let states = [
        ("fenced", counts.fenced),
        ("broken", counts.broken),
        ("exhausted", counts.exhausted),
        ("starving", counts.starving),
        ("serving", counts.serving),
        ("idle", counts.idle),
    ];
    let states = states.map(|(state, tags)| gauged(&[("state", state)], tags as f64));
    families.push(gauge("idalloc_tags", "Tags, by how they are doing.", states.into()));

    let (own, others) = overview.series();
    let all = own.iter().map(|(line, series)| (line.tag.name(), *series)).chain([(OTHERS, others)]);
    let series = |value: fn(&[(&str, &str)], &Series) -> Metric| {
        all.clone().map(|(name, series)| value(&[("app_tag", &shown(name))], &series)).collect::<Vec<_>>()
    };
    families.extend([
        counter(
            "idalloc_ids_issued_total",
            "IDs handed out. Tags beyond the MetricsTags with the most traffic are summed.",
            series(|labels, series| counted(labels, series.issued)),
        ),
        gauge(
            "idalloc_ids_left",
            "IDs in memory.",
            series(|labels, series| gauged(labels, series.left as f64)),
        ),
        gauge(
            "idalloc_chain_segments",
            "Segments with IDs in memory.",
            series(|labels, series| gauged(labels, series.segments as f64)),
        ),
    ]);
    let newest = own.iter().filter_map(|(line, _)| {
        let amount = admin.monitor.figures(&line.tag, now).newest?.amount;
        Some(gauged(&[("app_tag", &shown(line.tag.name()))], amount as f64))
    });
    let newest: Vec<_> = newest.collect();
    if !newest.is_empty() {
        families.push(gauge("idalloc_last_reservation_ids", "IDs in the newest reservation.", newest));
    }
}
