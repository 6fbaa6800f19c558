//! The goals, and whether they are met.

use perf::{Goal, Report};

use crate::cases::{BATCH_IDS, BATCHES};
use crate::micro::figure;

/// Of every goal whose case was measured.
pub fn judge(report: &Report) -> Vec<Goal> {
    let cpu = |case: &str, server: &str| report.of(case, server).map(|row| row.cpu_ns);
    let value = |name: &str| report.figures.get(name).copied();
    let ns = |group, function| value(&figure(group, function));
    let p999 = |case: &str| report.latency.iter().find(|row| row.case == case).map(|row| row.p999_ms);
    let mut goals = Vec::new();
    let mut goal = |what: &str, goal: &str, figure: Option<f64>, unit: &str, max: f64| {
        if let Some(value) = figure {
            let figure = format!("{value:.2}{unit}");
            goals.push(Goal { what: what.to_owned(), goal: goal.to_owned(), figure, met: value <= max });
        }
    };
    let one = ratio(ns("one thread", "claim"), ns("one thread", "bare fetch_add"));
    goal("claim, one thread", "<= 1.15x a bare fetch_add", one, "x", 1.15);
    // A claim may take many IDs; this is about claims of one.
    goal("claim, one thread", ">= 300 M IDs/s: <= 3.33 ns", ns("one thread", "claim"), " ns", 3.33);
    let two = ratio(ns("two threads on one tag", "claim"), ns("two threads on one tag", "bare fetch_add"));
    goal("claim, two threads on one tag", "<= 1.3x a bare contended fetch_add", two, "x", 1.3);
    goal(
        "handler, bytes to bytes",
        "<= 150 ns a request",
        ns("bytes to bytes", "the same GET again"),
        " ns",
        150.0,
    );
    let plain = cpu("plain", "idalloc");
    goal(
        "plain keep-alive, 64 connections",
        "<= 1.10x epoll's CPU",
        ratio(plain, cpu("plain", "epoll")),
        "x",
        1.10,
    );
    for peer in ["hyper", "may_minihttp", "nginx"] {
        let below = ratio(plain, cpu("plain", peer));
        goal("plain keep-alive, 64 connections", &format!("below {peer}"), below, "x", 1.0);
    }
    let each = report.of("pipelined 16", "idalloc").map(|row| 1e9 / row.requests_per_s);
    goal("pipelined 16, client included", ">= 1 M requests/s: <= 1000 ns", each, " ns", 1000.0);
    for case in ["pipelined 16", "pipelined 64"] {
        let ours = cpu(case, "idalloc");
        goal(case, "<= 1.15x epoll with httparse", ratio(ours, cpu(case, "epoll+httparse")), "x", 1.15);
        goal(case, "<= 0.85x may_minihttp", ratio(ours, cpu(case, "may_minihttp")), "x", 0.85);
        goal(case, "<= 0.55x hyper", ratio(ours, cpu(case, "hyper")), "x", 0.55);
    }
    let most = ratio(cpu("connections 8000", "idalloc"), plain);
    goal("8,000 connections", "<= 1.5x the CPU at 64", most, "x", 1.5);
    goal("batches of 1000", "<= 12 ns an ID", cpu(BATCHES, "idalloc").map(|ns| ns / BATCH_IDS), " ns", 12.0);
    let switching = ratio(p999("half, two segments/s"), p999("half, constant"));
    goal("p99.9 at half rate, two segments a second", "<= 1.2x a constant answer", switching, "x", 1.2);
    let resident = value("100,000 tags: KiB resident, in use").or(value("100,000 tags: KiB resident, known"));
    goal("100,000 tags", "<= 100 MB resident", resident.map(|kib| kib * 1024.0 / 1e6), " MB", 100.0);
    let started = value("100,000 tags: ms from start to first ID");
    goal("100,000 tags", "start to serving < 3 s", started, " ms", 3000.0);
    let served =
        ratio(value("tags in turn, 100,000: cpu ns a request"), value("tags in turn, 1: cpu ns a request"));
    goal("100,000 tags in turn, a request", "<= 1.3x one tag", served, "x", 1.3);
    let claimed = ratio(
        ns("an ID by the tag's name", "100000 tags in turn"),
        ns("an ID by the tag's name", "1 tags in turn"),
    );
    goal("100,000 tags in turn, the claim alone", "<= 1.3x one tag", claimed, "x", 1.3);
    let idle = value("8000 idle connections: KiB").map(|kib| kib * 1024.0 / 1e6);
    goal("8,000 idle connections", "<= 16 MB", idle, " MB", 16.0);
    goal("store work at 1 M IDs/s", "< 5 reservations/s", value("store work: reservations/s"), "/s", 5.0);
    goal("start to first ID, embedded", "<= 50 ms", value("start: ms to the first ID"), " ms", 50.0);
    goals
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs?)
}
