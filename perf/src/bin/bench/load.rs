//! Load generators, on the second core.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::server::Server;

const CORE: &str = "1";

/// As many requests as a server answers on so many connections, each with `depth` of them on their way.
#[derive(Debug, Clone, Copy)]
pub struct Closed<'a> {
    pub target: &'a str,
    pub connections: usize,
    pub depth: usize,
    pub duration: Duration,
    /// Instead of one target: a script that makes the requests, and its argument.
    pub script: Option<(&'a str, usize)>,
}

/// What came of a closed loop.
#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    pub requests_per_s: f64,
    pub user_ns: f64,
    pub system_ns: f64,
}

impl Closed<'_> {
    /// Drives `server` with wrk.
    pub fn drive(&self, server: &Server) -> Result<Throughput> {
        let seconds = self.duration.as_secs_f64();
        let (script, argument) = self.script.unwrap_or(("pipeline.lua", self.depth));
        let before = server.cpu_time()?;
        let output = Command::new("taskset")
            .args(["-c", CORE, "wrk", "-t1"])
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{}s", seconds.ceil()))
            .args(["-s", script, &server.url(self.target), "--", &argument.to_string()])
            .output()
            .context("cannot run wrk: make perf-deps")?;
        let after = server.cpu_time()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!text.contains("Non-2xx"), "wrk: {text}");
        let requests: f64 = text
            .lines()
            .find_map(|line| line.split_once(" requests in "))
            .and_then(|(count, _)| count.trim().parse().ok())
            .with_context(|| format!("wrk: {text} {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(Throughput {
            requests_per_s: requests / seconds.ceil(),
            user_ns: (after.user - before.user).as_secs_f64() * 1e9 / requests,
            system_ns: (after.system - before.system).as_secs_f64() * 1e9 / requests,
        })
    }
}

/// Latencies in milliseconds, counted from when a request was due, and not from when it could be sent.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub requests_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
}

/// Drives `server` with oha: at `rate_per_s`, or with as much as oha can.
pub fn open_loop(
    server: &Server,
    target: &str,
    rate_per_s: Option<u64>,
    duration: Duration,
) -> Result<Latency> {
    let mut command = Command::new("taskset");
    command.args(["-c", CORE, "oha", "--no-tui", "--output-format", "json", "-c", "64"]);
    command.args(["-z", &format!("{}ms", duration.as_millis())]);
    if let Some(rate) = rate_per_s {
        command.args(["--latency-correction", "-q", &rate.to_string()]);
    }
    let output = command.arg(server.url(target)).output().context("cannot run oha: make perf-deps")?;
    let answer: Value = serde_json::from_slice(&output.stdout).context("oha prints no JSON")?;
    ensure!(answer["summary"]["successRate"].as_f64() > Some(0.999), "oha: {}", answer["summary"]);
    let millis = |name: &str| {
        let seconds = answer["latencyPercentiles"][name].as_f64();
        seconds.map(|seconds| seconds * 1e3).with_context(|| format!("oha tells no {name}"))
    };
    Ok(Latency {
        requests_per_s: answer["summary"]["requestsPerSec"].as_f64().context("oha tells no rate")?,
        p50_ms: millis("p50")?,
        p99_ms: millis("p99")?,
        p999_ms: millis("p99.9")?,
        p9999_ms: millis("p99.99")?,
    })
}
