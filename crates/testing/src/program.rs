//! The program run to its end: `check`, and everything that `serve` refuses to start with.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::server::PATIENCE;

/// The program that cargo has built beside the test that runs: in the directory above.
///
/// # Panics
/// It is not there.
pub fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let directory =
        test.parent().and_then(Path::parent).expect("in target/debug/deps or target/release/deps");
    let program = directory.join("idalloc");
    assert!(program.exists(), "{} is not built: run cargo build first", program.display());
    program
}

/// One run of idalloc.
pub struct Run {
    command: Command,
}

/// What it left behind.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// `idalloc` with these arguments, in `directory`, and without the variables that it reads.
    pub fn new(directory: &Path, args: &[&str]) -> Run {
        let mut command = Command::new(crate::program::path());
        command.args(args).current_dir(directory).env_remove("RUST_LOG");
        command.env_remove("IDALLOC_DSN").env_remove("IDALLOC_ADMIN_TOKEN");
        Run { command }
    }

    /// With this environment variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Run {
        self.command.env(name, value.into());
        self
    }

    /// Runs it until it ends by itself; a run that does not is ended, and fails the test.
    pub fn finish(mut self) -> Ended {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("start idalloc");
        let stdout = read_all(child.stdout.take().expect("its output"));
        let stderr = read_all(child.stderr.take().expect("its errors"));
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().expect("its status") {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => break None,
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let (stdout, stderr) = (stdout.join().expect("its output"), stderr.join().expect("its errors"));
        let status = status.unwrap_or_else(|| panic!("{:?} does not end: {stdout}{stderr}", self.command));
        Ended { code: status.code(), stdout, stderr }
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("UTF-8");
        text
    })
}

impl Ended {
    /// The complaint that it ended with: exit code 1, and `idalloc: ` before the last line on stderr.
    pub fn complaint(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        let last = self.stderr.lines().next_back().and_then(|line| line.strip_prefix("idalloc: "));
        last.unwrap_or_else(|| panic!("no complaint: {self:?}"))
    }

    /// The same when there must be nothing else: one line on stderr, none on stdout.
    pub fn only_complaint(&self) -> &str {
        assert_eq!((self.stdout.as_str(), self.stderr.lines().count()), ("", 1), "{self:?}");
        self.complaint()
    }
}
