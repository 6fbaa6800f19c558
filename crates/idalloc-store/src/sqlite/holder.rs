//! Who holds the lock that a session waited for in vain.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::file::companions;

/// Where the kernel tells all locks that this process may know of.
const LOCKS: &str = "/proc/locks";

/// The bytes of the shared memory that whoever writes, or recovers the journal, has locked (`WAL_WRITE_LOCK`,
/// `WAL_RECOVER_LOCK`).
const WRITER_BYTES: [u64; 2] = [120, 122];

/// The process that keeps others from writing to the database at `path`, in words; none if nobody does any more, or if it
/// cannot be known, as in another container.
pub(super) fn lock_holder(path: &Path) -> Option<String> {
    let [_, shared_memory] = companions(path);
    let locks = fs::read_to_string(LOCKS).ok()?;
    let of_writer = |lock: &Lock| WRITER_BYTES.iter().any(|byte| (lock.first..=lock.last).contains(byte));
    let pid = find(&locks, &shared_memory, of_writer).or_else(|| find(&locks, path, |_| true))?;
    Some(describe(pid))
}

/// One exclusive lock.
struct Lock {
    pid: u32,
    first: u64,
    last: u64,
}

/// Who has an exclusive lock on the file at `path`, of those that are `wanted`.
fn find(locks: &str, path: &Path, wanted: impl Fn(&Lock) -> bool) -> Option<u32> {
    let found = fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", found.ino());
    locks.lines().filter_map(|line| exclusive_lock(line, &file)).find(wanted).map(|lock| lock.pid)
}

/// `1: POSIX  ADVISORY  WRITE 4711 fe:00:1234 120 120`; who waits for a lock has an arrow before the kind.
fn exclusive_lock(line: &str, file: &str) -> Option<Lock> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, "POSIX" | "OFDLCK", _, "WRITE", pid, on, first, last] = fields[..] else { return None };
    let last = if last == "EOF" { u64::MAX } else { last.parse().ok()? };
    (on == file).then_some(Lock { pid: pid.parse().ok()?, first: first.parse().ok()?, last })
}

fn describe(pid: u32) -> String {
    if pid == std::process::id() {
        return "another session of this process holds the lock".to_owned();
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `4711 (its name) S ..`: the name may hold anything.
    let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    match name {
        Some((name, rest)) if rest.trim_start().starts_with(['T', 't']) => format!(
            "process {pid} ({name:?}) holds the lock, and is stopped: \
             let it go on (kill -CONT {pid}), or end it (kill -KILL {pid})"
        ),
        Some((name, _)) => format!("process {pid} ({name:?}) holds the lock"),
        None => format!("process {pid} holds the lock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_is_read_and_nothing_else() {
        let read = |line| exclusive_lock(line, "fe:00:12").map(|lock| (lock.pid, lock.first, lock.last));
        assert_eq!(read("1: POSIX  ADVISORY  WRITE 47 fe:00:12 120 120"), Some((47, 120, 120)));
        assert_eq!(read("1: POSIX  ADVISORY  WRITE 47 fe:00:12 0 EOF"), Some((47, 0, u64::MAX)));
        for other in [
            "1: POSIX  ADVISORY  READ 47 fe:00:12 120 120",
            "1: POSIX  ADVISORY  WRITE 47 fe:00:13 120 120",
            "1: FLOCK  ADVISORY  WRITE 47 fe:00:12 0 EOF",
            "1: -> POSIX  ADVISORY  WRITE 47 fe:00:12 120 120",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
