//! Logs go to standard error, a line for each change of state.

use std::io::{self, IsTerminal};

use idalloc::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. The engine of comparison logs every client that goes away.
const FILTER: &str = "info,may=off,may_minihttp=off";

/// Sends all log lines to standard error as `format` has it. To be called once.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug: please report it");
    }));
}
