//! What is measured over sockets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perf::{Latency, Report, Throughput};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::Plan;
use crate::load::{self, Closed};
use crate::server::{ALLOC, Kind, Server};

const CONNECTIONS: usize = 64;
const IDLE_CONNECTIONS: usize = 8000;
const TAGS: usize = 100_000;
/// The case of large answers, and the IDs in each.
pub const BATCHES: &str = "batches of 1000";
pub const BATCH_IDS: f64 = 1000.0;
/// To serve from memory alone: a tag reserves no more than its step.
const NO_GROWTH: (&str, &str) = ("MaxStepFactor", "1");

pub fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let all: Vec<_> = Kind::ALL.into_iter().filter(|kind| *kind != Kind::EpollParse).collect();
    measure(plan, report, "plain", CONNECTIONS, 1, &all)?;
    for connections in [1, 1000, IDLE_CONNECTIONS] {
        // What the goal does not ask about is left to full runs.
        let servers = [Kind::Epoll, Kind::Idalloc, Kind::Hyper];
        let servers = if plan.quick { &servers[..2] } else { &servers };
        measure(plan, report, &format!("connections {connections}"), connections, 1, servers)?;
    }
    let depths: &[usize] = if plan.quick { &[16, 64] } else { &[1, 4, 16, 64] };
    for &depth in depths {
        let servers = [Kind::EpollParse, Kind::Hyper, Kind::Nginx, Kind::Idalloc, Kind::MayMinihttp];
        measure(plan, report, &format!("pipelined {depth}"), CONNECTIONS, depth, &servers)?;
    }
    batches(plan, report)?;
    latencies(plan, report)?;
    many_tags(plan, report)?;
    idle_connections(plan, report)?;
    store_work(plan, report)?;
    start(plan, report)
}

/// Requests for single IDs: the servers take turns, round by round.
fn measure(
    plan: &Plan,
    report: &mut Report,
    case: &str,
    connections: usize,
    depth: usize,
    kinds: &[Kind],
) -> Result<()> {
    if !plan.begins(case) {
        return Ok(());
    }
    // To connect is work too, which a short round would count among the requests.
    let duration = plan.duration * if connections > 1000 { 4 } else { 1 };
    let load = Closed { target: ALLOC, connections, depth, duration, script: None };
    let start = |kind: &Kind| Ok((kind.name(), Server::start(*kind)?));
    in_turns(plan, report, case, &load, &kinds.iter().map(start).collect::<Result<Vec<_>>>()?)
}

/// Reports the medians of each server; the first round warms up.
fn in_turns(
    plan: &Plan,
    report: &mut Report,
    case: &str,
    load: &Closed<'_>,
    servers: &[(&str, Server)],
) -> Result<()> {
    let mut samples = vec![Vec::new(); servers.len()];
    for round in 0..=plan.rounds {
        for ((_, server), samples) in servers.iter().zip(&mut samples) {
            let sample = load.drive(server)?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    for ((name, server), samples) in servers.iter().zip(samples) {
        let of = |pick: fn(&load::Throughput) -> f64| median(samples.iter().map(pick).collect());
        report.throughput.push(Throughput {
            case: case.to_owned(),
            server: (*name).to_owned(),
            connections: load.connections,
            depth: load.depth,
            requests_per_s: of(|sample| sample.requests_per_s),
            user_ns: of(|sample| sample.user_ns),
            system_ns: of(|sample| sample.system_ns),
            cpu_ns: of(|sample| sample.user_ns + sample.system_ns),
            resident_kib: server.resident_kib()? as f64,
        });
    }
    Ok(())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn batches(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.begins(BATCHES) {
        return Ok(());
    }
    let target = format!("{ALLOC}&count={BATCH_IDS}");
    let load =
        Closed { target: &target, connections: CONNECTIONS, depth: 1, duration: plan.duration, script: None };
    in_turns(plan, report, BATCHES, &load, &[(Kind::Idalloc.name(), Server::start(Kind::Idalloc)?)])
}

/// In an open loop: IDs while segments change twice a second, beside the constant answer of `/health`, at half of what
/// the generator can drive; in full runs also at other rates, and the peers.
fn latencies(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.begins("latency") {
        return Ok(());
    }
    let saturating = {
        let server = Server::start(Kind::Idalloc)?;
        load::open_loop(&server, ALLOC, None, plan.duration)?.requests_per_s
    };
    report.figures.insert("open loop: requests/s that oha can drive".to_owned(), saturating);
    let half = (saturating / 2.0) as u64;
    let switching = Server::idalloc_in(with_rows(&[("test_business", half as i64 / 2)])?, &[NO_GROWTH])?;
    let mut targets = vec![
        ("half, constant", "idalloc", &switching, "/health", half),
        ("half, two segments/s", "idalloc", &switching, ALLOC, half),
    ];
    let peers =
        if plan.quick { &[][..] } else { &[Kind::Epoll, Kind::Hyper, Kind::Nginx, Kind::MayMinihttp] };
    let peers: Vec<_> =
        peers.iter().map(|kind| Ok((kind.name(), Server::start(*kind)?))).collect::<Result<_>>()?;
    if !plan.quick {
        for (case, percent) in [("rate 25 %", 25), ("rate 50 %", 50), ("rate 75 %", 75), ("rate 90 %", 90)] {
            let rate = (saturating * f64::from(percent) / 100.0) as u64;
            targets.push((case, "idalloc", &switching, ALLOC, rate));
            targets.extend(peers.iter().map(|(name, server)| (case, *name, server, ALLOC, rate)));
        }
    }
    let mut samples = vec![Vec::new(); targets.len()];
    for _ in 0..plan.rounds {
        for ((_, _, server, target, rate), samples) in targets.iter().zip(&mut samples) {
            samples.push(load::open_loop(server, target, Some(*rate), plan.duration * 2)?);
        }
    }
    for ((case, server, ..), samples) in targets.iter().zip(samples) {
        let of = |pick: fn(&load::Latency) -> f64| median(samples.iter().map(pick).collect());
        report.latency.push(Latency {
            case: (*case).to_owned(),
            server: (*server).to_owned(),
            rate_per_s: of(|sample| sample.requests_per_s),
            p50_ms: of(|sample| sample.p50_ms),
            p99_ms: of(|sample| sample.p99_ms),
            p999_ms: of(|sample| sample.p999_ms),
            p9999_ms: of(|sample| sample.p9999_ms),
        });
    }
    Ok(())
}

/// A directory with a table that a server made, and these rows besides.
fn with_rows<S: AsRef<str>>(rows: &[(S, i64)]) -> Result<TempDir> {
    let dir = Server::start(Kind::Idalloc)?.stop()?;
    let mut table = Connection::open(dir.path().join("idalloc.db"))?;
    let insert = table.transaction()?;
    for (tag, step) in rows {
        insert.execute(
            "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, ?2)
             ON CONFLICT (app_tag) DO UPDATE SET step = excluded.step",
            (tag.as_ref(), step),
        )?;
    }
    insert.commit()?;
    Ok(dir)
}

/// How a server with very many tags starts, how large it is, and what a claim of any of them costs.
fn many_tags(plan: &Plan, report: &mut Report) -> Result<()> {
    let case = "many tags";
    if !plan.begins(case) {
        return Ok(());
    }
    let rows: Vec<_> = (0..TAGS).map(|index| (format!("tag-{index}"), 1_000_000)).collect();
    let dir = with_rows(&rows)?;
    let began = Instant::now();
    let many = Server::idalloc_in(dir, &[])?;
    report
        .figures
        .insert("100,000 tags: ms from start to first ID".to_owned(), began.elapsed().as_secs_f64() * 1e3);
    report.figures.insert("100,000 tags: KiB resident, known".to_owned(), many.resident_kib()? as f64);
    if plan.quick {
        return Ok(());
    }
    load_all(&many)?;
    report.figures.insert("100,000 tags: KiB resident, in use".to_owned(), many.resident_kib()? as f64);
    let one = Server::idalloc_in(with_rows(&rows[..1])?, &[])?;
    let drive = |tags| Closed {
        target: "/",
        connections: CONNECTIONS,
        depth: 1,
        duration: plan.duration,
        script: Some(("tags.lua", tags)),
    };
    let (mut costs_of_one, mut costs_of_many) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (server, tags, costs) in [(&one, 1, &mut costs_of_one), (&many, TAGS, &mut costs_of_many)] {
            let sample = drive(tags).drive(server)?;
            costs.push(sample.user_ns + sample.system_ns);
        }
    }
    report.figures.insert("tags in turn, 1: cpu ns a request".to_owned(), median(costs_of_one));
    report.figures.insert("tags in turn, 100,000: cpu ns a request".to_owned(), median(costs_of_many));
    Ok(())
}

/// Asks for an ID of every tag, pipelined.
fn load_all(server: &Server) -> Result<()> {
    const DEPTH: usize = 100;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    for first in (0..TAGS).step_by(DEPTH) {
        let requests: String = (first..first + DEPTH)
            .map(|tag| format!("GET /alloc?app_tag=tag-{tag} HTTP/1.1\r\nHost: bench\r\n\r\n"))
            .collect();
        stream.write_all(requests.as_bytes())?;
        let (mut missing, mut buffer) = (DEPTH, [0; 64 * 1024]);
        while missing > 0 {
            let bytes = stream.read(&mut buffer)?;
            ensure!(bytes > 0, "closed");
            missing -= buffer[..bytes].iter().filter(|byte| **byte == b'}').count();
        }
    }
    Ok(())
}

fn idle_connections(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.begins("idle connections") {
        return Ok(());
    }
    let server = Server::start(Kind::Idalloc)?;
    let before = server.resident_kib()?;
    let ask = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
        write!(stream, "GET {ALLOC} HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        ensure!(stream.read(&mut [0; 1024])? > 0, "no answer");
        Ok(stream)
    };
    let connections = (0..IDLE_CONNECTIONS).map(ask).collect::<Result<Vec<_>>>()?;
    let grown = server.resident_kib()? - before;
    report.figures.insert(format!("{} idle connections: KiB", connections.len()), grown as f64);
    Ok(())
}

/// Reservations at a million IDs a second, as the table shows them.
fn store_work(plan: &Plan, report: &mut Report) -> Result<()> {
    const RATE: u64 = 10_000;
    const BATCH: f64 = 100.0;
    if !plan.begins("store work") {
        return Ok(());
    }
    let server = Server::start(Kind::Idalloc)?;
    let table = Connection::open(server.table())?;
    let (warm_up, watched) = (Duration::from_secs(3), Duration::from_secs(if plan.quick { 4 } else { 20 }));
    let (ids_per_s, max_ids) = thread::scope(|scope| -> Result<_> {
        let target = format!("{ALLOC}&count={BATCH}");
        let server = &server;
        let load = scope.spawn(move || load::open_loop(server, &target, Some(RATE), warm_up + watched));
        thread::sleep(warm_up);
        let mut max_ids = BTreeSet::new();
        let began = Instant::now();
        while began.elapsed() < watched {
            max_ids.insert(table.query_row(
                "SELECT max_id FROM segments WHERE app_tag = 'test_business'",
                (),
                |row| row.get::<_, i64>(0),
            )?);
            thread::sleep(Duration::from_millis(5));
        }
        let load = load.join().ok().context("the load panicked")??;
        Ok((load.requests_per_s * BATCH, max_ids.len()))
    })?;
    report.figures.insert("store work: IDs/s".to_owned(), ids_per_s);
    report
        .figures
        .insert("store work: reservations/s".to_owned(), (max_ids - 1) as f64 / watched.as_secs_f64());
    Ok(())
}

/// From the process's start to its first ID, on a table that is there.
fn start(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.begins("start") {
        return Ok(());
    }
    let mut dir = Server::start(Kind::Idalloc)?.stop()?;
    let mut times_ms = Vec::new();
    for _ in 0..plan.rounds.max(5) {
        let began = Instant::now();
        let server = Server::idalloc_in(dir, &[])?;
        times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        dir = server.stop()?;
    }
    report.figures.insert("start: ms to the first ID".to_owned(), median(times_ms));
    Ok(())
}
