//! What criterion measures, in this very run.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use perf::Report;
use serde_json::Value;

use crate::Plan;
use crate::cases::median;

/// The benches that goals are about: group and function.
const BENCHES: [(&str, &str); 12] = [
    ("one thread", "bare fetch_add"),
    ("one thread", "claim"),
    ("one thread", "a mutex and a range"),
    ("two threads on one tag", "bare fetch_add"),
    ("two threads on one tag", "claim"),
    ("an ID by the tag's name", "100000 bare fetch_add in turn"),
    ("an ID by the tag's name", "1 names looked up in turn, no claim"),
    ("an ID by the tag's name", "100000 names looked up in turn, no claim"),
    ("an ID by the tag's name", "1 tags in turn"),
    ("an ID by the tag's name", "100000 tags in turn"),
    ("bytes to bytes", "the same GET again"),
    ("bytes to bytes", "a batch of 1000"),
];

/// The name of a bench among the report's figures, in nanoseconds.
pub fn figure(group: &str, function: &str) -> String {
    format!("{group}: {function}, ns")
}

/// In rounds, as everything else: two threads that contend are noisy on a shared machine.
pub fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.begins("micro") {
        return Ok(());
    }
    let mut samples = vec![Vec::new(); BENCHES.len()];
    // Shorter measurements than half a second are over before two threads have met.
    let (rounds, seconds) = if plan.quick { (1, "0.5") } else { (plan.rounds, "1") };
    for _ in 0..rounds {
        measure(seconds)?;
        for ((group, function), samples) in BENCHES.into_iter().zip(&mut samples) {
            samples.push(estimate(group, function)?);
        }
    }
    for ((group, function), samples) in BENCHES.into_iter().zip(samples) {
        report.figures.insert(figure(group, function), median(samples));
    }
    Ok(())
}

fn measure(seconds: &str) -> Result<()> {
    let status = Command::new("cargo")
        .args(["bench", "--quiet", "--locked", "--manifest-path", "../Cargo.toml"])
        .args(["--bench", "claim", "--bench", "http"])
        .args(["--", "--noplot", "--warm-up-time", "0.2", "--measurement-time", seconds])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo bench: {status}");
    Ok(())
}

/// The median that criterion has just written down, in nanoseconds.
fn estimate(group: &str, function: &str) -> Result<f64> {
    let path = format!("../target/criterion/{group}/{function}/new/estimates.json");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let estimates: Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"].as_f64().context("no median")
}
