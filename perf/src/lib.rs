//! The form of perf/results/*.json.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A run of the harness.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub machine: String,
    pub commit: String,
    pub date: String,
    pub rounds: usize,
    pub seconds: u64,
    pub throughput: Vec<Throughput>,
    pub latency: Vec<Latency>,
    /// Figures that are measured once, by name.
    pub figures: BTreeMap<String, f64>,
    pub goals: Vec<Goal>,
}

/// Medians over the rounds of one server in one case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Throughput {
    pub case: String,
    pub server: String,
    pub connections: usize,
    pub depth: usize,
    pub requests_per_s: f64,
    pub user_ns: f64,
    pub system_ns: f64,
    pub cpu_ns: f64,
    pub resident_kib: f64,
}

/// Medians over the rounds of one server at one rate, in an open loop.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    pub case: String,
    pub server: String,
    pub rate_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
}

/// A goal, and what was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Goal {
    pub what: String,
    pub goal: String,
    pub figure: String,
    pub met: bool,
}

impl Report {
    /// The medians of a server in a case.
    pub fn of(&self, case: &str, server: &str) -> Option<&Throughput> {
        self.throughput.iter().find(|row| row.case == case && row.server == server)
    }
}
