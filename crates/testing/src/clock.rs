//! Clocks of a server that a test sets, and that fail in a thread of its choice, as no real clock does: the server's code
//! has no place that panics on request. A small library (`clock.c`) is loaded into the process before libc.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::{NamedTempFile, TempDir};

/// The clocks of one server.
pub struct Clock {
    control: NamedTempFile,
}

/// Where `struct control` of `clock.c` has its fields.
const WALL_OFFSET_AT: u64 = 0;
const MONOTONIC_OFFSET_AT: u64 = 8;
const FAILURES_AT: u64 = 16;
const THREAD_AT: u64 = 24;
const CONTROL_BYTES: u64 = 56;
/// Linux keeps so many bytes of a thread's name.
const NAME_BYTES_MAX: usize = 15;

impl Default for Clock {
    /// Clocks that are right.
    fn default() -> Clock {
        let control = NamedTempFile::new().expect("a file");
        control.as_file().set_len(CONTROL_BYTES).expect("its length");
        Clock { control }
    }
}

impl Clock {
    /// What the server's environment must have.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", library()), ("IDALLOC_TEST_CLOCK", self.control.path().to_owned())]
    }

    /// Sets the wall clock to so many seconds after 1970, or before if negative.
    pub fn set_wall(&self, epoch_s: i64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a sane clock");
        self.write(WALL_OFFSET_AT, &(epoch_s - now.as_secs() as i64).to_ne_bytes());
    }

    /// Moves the clock that time is measured by.
    pub fn move_monotonic(&self, seconds: i64) {
        self.write(MONOTONIC_OFFSET_AT, &seconds.to_ne_bytes());
    }

    /// Has the next so many looks at a clock fail in the thread of this name: Rust's standard library panics then.
    pub fn fail(&self, thread: &str, failures: i64) {
        let mut name = [0; 32];
        let kept = &thread.as_bytes()[..thread.len().min(NAME_BYTES_MAX)];
        name[..kept.len()].copy_from_slice(kept);
        self.write(THREAD_AT, &name);
        self.write(FAILURES_AT, &failures.to_ne_bytes());
    }

    /// How many failures are still to come.
    pub fn failures_left(&self) -> i64 {
        let mut left = [0; 8];
        self.file().read_exact_at(&mut left, FAILURES_AT).expect("read the control file");
        i64::from_ne_bytes(left)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.file().write_all_at(bytes, at).expect("write the control file");
    }

    fn file(&self) -> &File {
        self.control.as_file()
    }
}

/// Compiled once by each test program.
fn library() -> PathBuf {
    static LIBRARY: OnceLock<TempDir> = OnceLock::new();
    let name = "clock.so";
    let dir = LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(dir.path().join(name));
        let output = command.arg(source).output().expect("a C compiler (Debian: build-essential)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir
    });
    dir.path().join(name)
}
