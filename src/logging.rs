//! Logs go to standard error, a line for each change of state.
//!
//! Whoever logs must not wait for the one who reads: a pipe may stall, and a disk may be full. So lines go into memory, and
//! a thread of its own writes them. What does not fit, or cannot be written, is dropped and counted.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, FormatFields};

use crate::config::LogFormat;
use crate::escape;
use crate::supervise;
use crate::sync::lock;

/// What is logged unless `RUST_LOG` says otherwise. The engine of comparison logs every client that goes away.
const FILTER: &str = "info,may=off,may_minihttp=off";
/// The most that waits to be written: some thousand lines.
pub const BACKLOG_BYTES_MAX: usize = 128 * 1024;
/// The backlog keeps so much memory when it is empty.
const BACKLOG_BYTES_KEPT: usize = 16 * 1024;
/// How long the end of the program may wait for the last lines to be written.
pub const FLUSH_MAX: Duration = Duration::from_secs(1);
/// The pause before another try where standard error was made one that does not block, and is not ready.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Lines that were not written. There is one log, so there is one count.
static LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines of the log were dropped, since the start.
pub fn lines_dropped() -> u64 {
    // Relaxed: a count, no more.
    LINES_DROPPED.load(Relaxed)
}

fn note_dropped(lines: u64) {
    LINES_DROPPED.fetch_add(lines, Relaxed);
}

/// The running log. Dropping it waits until the last lines are written, for at most [`FLUSH_MAX`].
pub struct Log(Arc<Backlog>);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.await_written(FLUSH_MAX);
    }
}

/// Sends all log lines to standard error as `format` has it. To be called once.
///
/// # Errors
/// The system has no threads or file descriptors left.
pub fn start(format: LogFormat) -> io::Result<Log> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let backlog = Arc::new(Backlog::default());
    // Not through `io::stderr`: its lock would be held for as long as a write takes.
    let mut out = Output::new(File::from(io::stderr().as_fd().try_clone_to_owned()?));
    let written = backlog.clone();
    supervise::spawn("idalloc-log", move || write_lines(&written, &mut out))?;
    let lines = backlog.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Lines { backlog: lines.clone(), format })
        .with_ansi(io::stderr().is_terminal())
        // They would be printed, and printing to a closed pipe panics.
        .log_internal_errors(false)
        .with_target(false);
    match format {
        LogFormat::Text => builder.fmt_fields(text_fields()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug: please report it");
    }));
    Ok(Log(backlog))
}

/// The fields of an event, all on its one line: what others wrote can neither begin a line nor steer a terminal.
fn text_fields() -> impl for<'a> FormatFields<'a> {
    let field = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let value = escape::visible(&value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    });
    field.delimited(" ")
}

/// Lines that wait to be written.
#[derive(Default)]
struct Backlog {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Some were taken, and are not written yet.
    writing: bool,
}

impl Backlog {
    /// Adds one line, or drops it.
    fn add(&self, line: &[u8]) {
        let mut waiting = lock(&self.waiting);
        if waiting.text.len() + line.len() > BACKLOG_BYTES_MAX {
            drop(waiting);
            return note_dropped(1);
        }
        waiting.text.extend_from_slice(line);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for lines, and swaps them with `spare`, which is empty.
    fn take(&self, spare: &mut Vec<u8>) {
        let mut waiting = lock(&self.waiting);
        waiting.writing = false;
        self.written.notify_all();
        while waiting.text.is_empty() {
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.writing = true;
        std::mem::swap(&mut waiting.text, spare);
    }

    fn await_written(&self, limit: Duration) {
        let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
        // However it ends, the program ends now.
        let _ = self.written.wait_timeout_while(lock(&self.waiting), limit, unwritten);
    }
}

/// What the subscriber writes to, a whole line at a time.
struct Lines {
    backlog: Arc<Backlog>,
    format: LogFormat,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (self.format, std::str::from_utf8(line)) {
            (LogFormat::Json, Ok(text)) => self.backlog.add(escape::json(text).as_bytes()),
            // Its fields are escaped.
            _ => self.backlog.add(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes. It never ends.
fn write_lines(backlog: &Backlog, out: &mut Output<File>) {
    let mut lines = Vec::new();
    let mut told = 0;
    loop {
        lines.clear();
        lines.shrink_to(BACKLOG_BYTES_KEPT);
        backlog.take(&mut lines);
        let all_written = out.write_lines(&lines);
        let dropped = lines_dropped();
        if all_written && dropped != told {
            told = dropped;
            // Should this line be dropped too, the count goes up, and it is told again.
            warn!(
                dropped,
                "the log could not be written fast enough, or not at all: so many lines of it are missing"
            );
        }
    }
}

struct Output<W> {
    to: W,
    /// The last thing written is the beginning of a line.
    torn: bool,
}

impl<W: Write> Output<W> {
    fn new(to: W) -> Self {
        Self { to, torn: false }
    }

    /// Writes whole lines; counts those that cannot be written, and says whether there were none.
    fn write_lines(&mut self, lines: &[u8]) -> bool {
        let mut rest = lines;
        if !self.torn || self.write(b"\n") == 1 {
            let (written, unwritten) = lines.split_at(self.write(lines));
            self.torn = written.last().is_some_and(|byte| *byte != b'\n');
            rest = unwritten;
        }
        note_dropped(rest.iter().filter(|byte| **byte == b'\n').count() as u64);
        rest.is_empty()
    }

    /// How much could be written.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.to.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
                Err(_) => break,
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and is full then.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len().min(self.1 - self.0.len()) {
                0 => Err(io::ErrorKind::StorageFull.into()),
                free => self.0.write(&bytes[..free]),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_fills_costs_the_lines_that_do_not_fit_and_joins_no_two() {
        let mut out = Output::new(Disk(Vec::new(), 10));
        let before = lines_dropped();
        assert!(out.write_lines(b"one\ntwo\n"));
        assert!(!out.write_lines(b"three\nfour\n"));
        assert!(!out.write_lines(b"five\n"), "not even the end of the torn line");
        // At least: there is one count, and other tests run.
        assert!(lines_dropped() - before >= 3);
        out.to.1 = 100;
        assert!(out.write_lines(b"six\n"));
        assert_eq!(out.to.0, b"one\ntwo\nth\nsix\n");
    }

    #[test]
    fn the_backlog_is_bounded_and_says_when_it_is_written() {
        let backlog = Backlog::default();
        backlog.await_written(Duration::MAX);
        let before = lines_dropped();
        let line = [b'x'; 1000];
        (0..2000).for_each(|_| backlog.add(&line));
        assert_eq!(lock(&backlog.waiting).text.len(), BACKLOG_BYTES_MAX / 1000 * 1000);
        assert!(lines_dropped() - before >= 2000 - (BACKLOG_BYTES_MAX / 1000) as u64);
        backlog.await_written(Duration::from_millis(1));
        backlog.take(&mut Vec::new());
        assert!(lock(&backlog.waiting).text.is_empty() && lock(&backlog.waiting).writing);
    }
}
