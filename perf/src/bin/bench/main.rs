//! Measures idalloc beside its peers: see perf/README.md. Run by perf/bench.sh, in perf/.

mod cases;
mod goals;
mod load;
mod micro;
mod server;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use perf::Report;

/// Measures idalloc beside its peers, and says which goals are met
#[derive(Debug, Parser)]
struct Args {
    /// Fewer and shorter rounds: under three minutes once all is built
    #[arg(long)]
    quick: bool,
    /// The result's name: results/NAME.json
    #[arg(long, default_value = "latest")]
    name: String,
    /// Only cases whose name holds this; goals of the others are missing from the table
    #[arg(long)]
    only: Option<String>,
    /// Rounds in which the servers take turns
    #[arg(long)]
    rounds: Option<usize>,
    /// How long a server is driven in a round
    #[arg(long)]
    seconds: Option<u64>,
}

/// How much is measured.
pub struct Plan {
    pub rounds: usize,
    pub duration: Duration,
    pub quick: bool,
    only: Option<String>,
}

impl Plan {
    /// Whether a case is wanted; if so, says that it begins.
    pub fn begins(&self, case: &str) -> bool {
        let wanted = self.only.as_ref().is_none_or(|only| case.contains(only.as_str()));
        if wanted {
            eprintln!("{case} ..");
        }
        wanted
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let seconds = args.seconds.unwrap_or(if args.quick { 1 } else { 2 });
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    // Eight thousand connections take as many files, in the server and in the load generator.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let plan = Plan { rounds, duration: Duration::from_secs(seconds), quick: args.quick, only: args.only };
    let mut report = Report {
        machine: machine()?,
        commit: said_by("git", &["describe", "--always", "--dirty", "--abbrev=12"])?,
        date: said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?,
        rounds,
        seconds,
        ..Report::default()
    };
    cases::run(&plan, &mut report)?;
    micro::run(&plan, &mut report)?;
    report.goals = goals::judge(&report);
    print(&report);
    fs::create_dir_all("results")?;
    let path = format!("results/{}.json", args.name);
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n").with_context(|| path.clone())?;
    eprintln!("written to perf/{path}");
    Ok(())
}

fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?;
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!("{cores} cores of {model}, Linux {}", said_by("uname", &["-r"])?))
}

fn said_by(program: &str, args: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn print(report: &Report) {
    println!("{}; {}; commit {}", report.machine, report.date, report.commit);
    println!("medians of {} rounds of {} s\n", report.rounds, report.seconds);
    println!(
        "{:<22} {:<15} {:>11} {:>8} {:>10} {:>8} {:>9}",
        "case", "server", "requests/s", "user ns", "system ns", "cpu ns", "RSS KiB"
    );
    for row in &report.throughput {
        println!(
            "{:<22} {:<15} {:>11.0} {:>8.0} {:>10.0} {:>8.0} {:>9.0}",
            row.case,
            row.server,
            row.requests_per_s,
            row.user_ns,
            row.system_ns,
            row.cpu_ns,
            row.resident_kib
        );
    }
    println!(
        "\n{:<22} {:<15} {:>11} {:>8} {:>8} {:>8} {:>8}",
        "latency, ms", "server", "requests/s", "p50", "p99", "p99.9", "p99.99"
    );
    for row in &report.latency {
        println!(
            "{:<22} {:<15} {:>11.0} {:>8.2} {:>8.2} {:>8.2} {:>8.2}",
            row.case, row.server, row.rate_per_s, row.p50_ms, row.p99_ms, row.p999_ms, row.p9999_ms
        );
    }
    println!();
    report.figures.iter().for_each(|(name, figure)| println!("{figure:>14.2} {name}"));
    println!("\n{:<7} {:<48} {:<44} figure", "", "what", "goal");
    for goal in &report.goals {
        let met = if goal.met { "met" } else { "MISSED" };
        println!("{met:<7} {:<48} {:<44} {}", goal.what, goal.goal, goal.figure);
    }
}
