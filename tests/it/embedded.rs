//! The embedded file: one file under one name, or no IDs; and never a new one in the place of one that was there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::ledger::Ledger;
use idalloc_testing::program::Run;
use idalloc_testing::server::{Client, PATIENCE, Server, Setup};
use tempfile::TempDir;

const ALLOC: &str = "/alloc?app_tag=test_business";

/// How soon a server stops whose file is not where it was: it looks twice a second, and a busy machine takes its time.
const NOTICED_MAX: Duration = Duration::from_secs(5);

/// How long a clean end may take, as the README has it, and what a busy machine takes beside.
const CLEAN_END_MAX: Duration = Duration::from_secs(8 + 4);

/// A directory with a file `ids.db` in it, once a server has started on it.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Site {
        Site { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, name: &str) -> Server {
        let server = Setup::embedded(&self.path(name)).start();
        server.await_status("/health", 200);
        server
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Something mounted at a path until it is dropped.
struct Mount {
    point: PathBuf,
}

impl Mount {
    fn new(command: &str, args: &[&str], point: &Path) -> Mount {
        let output = Command::new(command).args(args).arg(point).output();
        let output = output.unwrap_or_else(|error| {
            panic!("cannot run {command} ({error}); `sh tests/install-deps.sh` installs what the tests need")
        });
        assert!(
            output.status.success(),
            "{command} {args:?} fails, and the test needs to mount (as root, with /dev/fuse): {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Mount { point: point.to_owned() }
    }

    fn bind(from: &Path, to: &Path) -> Mount {
        Mount::new("mount", &["--bind", from.to_str().unwrap()], to)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.point).status();
    }
}

/// `serve` and `check` refuse this configuration, and say all of this.
fn assert_refused(setup: &Setup, parts: &[&str]) {
    for ended in [setup.refused(), setup.check()] {
        let complaint = ended.complaint();
        for part in parts {
            assert!(complaint.contains(part), "no {part:?} in: {complaint}");
        }
    }
}

/// Waits until a server hands nothing more out, and says why everywhere.
fn await_stop(server: &Server, path: &Path) {
    let since = Instant::now();
    let refused = server.await_status(ALLOC, 503);
    assert!(since.elapsed() < NOTICED_MAX, "{:?}", since.elapsed());
    assert!(refused.body.contains("was moved, removed or replaced while it ran"), "{refused:?}");
    assert!(!refused.body.contains('/'), "clients learn of no path: {refused:?}");
    let health = server.get("/health");
    assert!(health.status == 503 && health.body.contains("moved, removed or replaced"), "{health:?}");
    let line = server.await_log("no more IDs are handed out");
    assert!(line.contains(path.to_str().unwrap()), "{line}");
    assert_eq!(server.get(&format!("{ALLOC}&count=10")).status, 503);
    assert_eq!(server.get("/segment?app_tag=test_business&count=10").status, 503);
}

#[test]
fn a_file_with_two_names_is_refused_under_both() {
    let site = Site::new();
    let first = site.start("one.db");
    fs::hard_link(site.path("one.db"), site.path("two.db")).unwrap();
    for name in ["two.db", "one.db"] {
        let ends = ["has 2 names (hard links)", name];
        assert_refused(&Setup::embedded(&site.path(name)), &ends);
    }
    assert_eq!(first.get(ALLOC).status, 200, "who has opened it before goes on");
    drop(first);
    fs::remove_file(site.path("two.db")).unwrap();
    site.start("one.db");
}

#[test]
fn a_file_that_is_a_mount_point_is_refused() {
    let site = Site::new();
    let first = site.start("one.db");
    fs::write(site.path("two.db"), "").unwrap();
    let mount = Mount::bind(&site.path("one.db"), &site.path("two.db"));
    assert_refused(&Setup::embedded(&site.path("two.db")), &["the file itself is a mount point", "two.db"]);
    drop(mount);
    assert_eq!(first.get(ALLOC).status, 200);
}

/// With the directory come the journal and the shared memory.
#[test]
fn a_directory_under_two_paths_holds_one_file() {
    let site = Site::new();
    for name in ["one", "two"] {
        fs::create_dir(site.path(name)).unwrap();
    }
    let _mount = Mount::bind(&site.path("one"), &site.path("two"));
    let servers = ["one/ids.db", "two/ids.db"].map(|name| site.start(name));
    let ledger = Ledger::default();
    for round in 0..20 {
        for (index, server) in servers.iter().enumerate() {
            for id in server.get(&format!("{ALLOC}&count=10000")).ids() {
                ledger.enter(id..id + 1, &format!("server {index}, round {round}"));
            }
        }
    }
    let sums = ledger.sums();
    assert_eq!((sums.ids, sums.duplicates), (2 * 20 * 10_000, 0), "{sums:?}");
}

#[test]
fn a_file_system_of_which_others_may_not_see_the_locks_is_refused_unless_told_otherwise() {
    let site = Site::new();
    for name in ["under", "over"] {
        fs::create_dir(site.path(name)).unwrap();
    }
    let _mount = Mount::new("bindfs", &[site.path("under").to_str().unwrap()], &site.path("over"));
    let setup = || Setup::embedded(&site.path("over/ids.db"));
    let refused = setup().refused();
    for part in ["FUSE", "AllowUnreliableFileSystem", "over/ids.db"] {
        assert!(refused.complaint().contains(part), "{refused:?}");
    }
    assert!(!site.path("under/ids.db").exists(), "nothing is made there");
    let server = setup().key("AllowUnreliableFileSystem", "yes").start();
    assert_eq!(server.await_status(ALLOC, 200).id(), 1);
    drop(server);
    assert_refused(&setup(), &["FUSE", "AllowUnreliableFileSystem"]);
    let checked = setup().key("AllowUnreliableFileSystem", "yes").check();
    assert!(
        checked.code == Some(0) && checked.stdout.contains("warning: the file is on FUSE"),
        "{checked:?}"
    );
}

#[test]
fn a_file_that_a_reboot_would_take_is_warned_of() {
    let site = Site::new();
    fs::create_dir(site.path("ram")).unwrap();
    let _mount = Mount::new("mount", &["-t", "tmpfs", "none"], &site.path("ram"));
    let server = site.start("ram/ids.db");
    assert_eq!(server.get(ALLOC).id(), 1);
    let checked = Setup::embedded(&site.path("ram/ids.db")).check();
    assert!(
        checked.code == Some(0) && checked.stdout.contains("warning: the file is on tmpfs"),
        "{checked:?}"
    );
}

/// Symptom: the server went on granting from a file that nobody else could see, and another one, on a new file of that
/// name, granted the same.
#[test]
fn a_file_that_is_removed_stops_the_server_and_no_other_begins_anew_by_chance() {
    let site = Site::new();
    let server = site.start("ids.db");
    assert_eq!(server.get(ALLOC).id(), 1);
    fs::remove_file(site.path("ids.db")).unwrap();
    await_stop(&server, &site.path("ids.db"));
    let complaint = Setup::embedded(&site.path("ids.db")).refused();
    for part in ["no such file", "ids.db-wal", "Put the file back"] {
        assert!(complaint.complaint().contains(part), "{complaint:?}");
    }
    assert!(!site.path("ids.db").exists());
    // Whoever removes these too wants to begin anew. The first server stays as it is.
    fs::remove_file(site.path("ids.db-wal")).unwrap();
    fs::remove_file(site.path("ids.db-shm")).unwrap();
    let second = site.start("ids.db");
    assert_eq!(second.get(ALLOC).id(), 1);
    assert_eq!(server.get(ALLOC).status, 503, "even though there is such a file again");
    let mut server = server;
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    assert_eq!(second.get(ALLOC).id(), 2, "the end of the first does nothing to the second's file");
}

#[test]
fn a_file_that_another_takes_the_place_of_stops_the_server() {
    let site = Site::new();
    let server = site.start("ids.db");
    drop(site.start("other.db"));
    fs::rename(site.path("other.db"), site.path("ids.db")).unwrap();
    await_stop(&server, &site.path("ids.db"));
}

/// Processes that have the database in common, and not these, see nothing of each other.
#[test]
fn a_journal_or_shared_memory_that_is_not_the_one_that_is_open_stops_the_server() {
    for ending in ["-wal", "-shm"] {
        let site = Site::new();
        let server = site.start("ids.db");
        let path = site.path(&format!("ids.db{ending}"));
        fs::rename(&path, site.path("away")).unwrap();
        fs::copy(site.path("away"), &path).unwrap();
        await_stop(&server, &path);
    }
}

/// Symptom: the server made an empty table beside the renamed one, and began with 1 again.
#[test]
fn a_table_that_is_renamed_is_not_made_anew() {
    let site = Site::new();
    let server = site.start("ids.db");
    let mut last = server.get(ALLOC).id();
    let file = rusqlite::Connection::open(site.path("ids.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute("ALTER TABLE segments RENAME TO kept", []).unwrap();
    // What is in memory was granted, and is handed out.
    let mut client = server.connect();
    loop {
        let response = client.get(&format!("{ALLOC}&count=10000"));
        if response.status == 503 {
            break;
        }
        let ids = response.ids();
        assert!(ids[0] > last, "{ids:?} after {last}");
        last = ids[ids.len() - 1];
    }
    let tables: i64 = file
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
    let line = server.await_log("the store does not answer");
    assert!(line.contains("only kept") && line.contains("idalloc init"), "{line}");
    let both_ways_out = ["has no table `segments`, only kept", "set table to", "idalloc init"];
    assert_refused(&Setup::embedded(&site.path("ids.db")), &both_ways_out);
    file.execute("ALTER TABLE kept RENAME TO segments", []).unwrap();
    assert!(server.await_status(ALLOC, 200).id() > last);
}

#[test]
fn a_file_of_no_bytes_is_no_new_file_and_is_left_alone() {
    let site = Site::new();
    let path = site.path("ids.db");
    fs::write(&path, "").unwrap();
    assert_refused(&Setup::embedded(&path), &["has no table `segments`, nor any other", "idalloc init"]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(site.names(), ["ids.db"]);
    let init = Run::new(site.dir.path(), &["init"]).env("IDALLOC_DSN", "sqlite:ids.db").finish();
    assert_eq!(init.code, Some(0), "{init:?}");
    assert_eq!(site.start("ids.db").get(ALLOC).id(), 1);
}

#[test]
fn no_command_but_init_and_serve_makes_a_file() {
    let site = Site::new();
    for args in [
        &["check"][..],
        &["tag", "list"],
        &["tag", "show", "t"],
        &["tag", "add", "t", "--step", "1"],
        &["tag", "advance", "t", "--to", "5"],
        &["tag", "delete", "t", "--yes"],
    ] {
        let ended = Run::new(site.dir.path(), args).finish();
        let complaint = ended.complaint();
        assert!(
            complaint.contains("idalloc.db") && complaint.contains("`idalloc init` makes it"),
            "{ended:?}"
        );
        assert_eq!(site.names(), [""; 0], "{args:?}");
    }
}

/// The process's threads, stopped while one of them holds the lock that a writer takes.
fn stop_in_a_commit(server: &Server, shared_memory: &Path) {
    let inode = fs::metadata(shared_memory).unwrap().ino();
    let holds = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let (pid, file) = (format!(" WRITE {} ", server.pid()), format!(":{inode} 120 "));
        locks.lines().any(|line| line.contains(&pid) && line.contains(&file))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        server.signal(libc::SIGSTOP);
        // Twice: what is in a system call comes out of it before it stops.
        if holds() && {
            thread::sleep(Duration::from_millis(50));
            holds()
        } {
            return;
        }
        server.signal(libc::SIGCONT);
        assert!(Instant::now() < deadline, "it is never in a commit");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_process_that_is_stopped_in_a_commit_is_named_and_holds_up_no_end() {
    let site = Site::new();
    let setup = || Setup::embedded(&site.path("ids.db")).key("MaxStepFactor", 1).key("AllocTimeout", 1000);
    drop(site.start("ids.db"));
    let file = rusqlite::Connection::open(site.path("ids.db")).unwrap();
    file.execute("UPDATE segments SET step = 1", []).unwrap();
    drop(file);
    let (stopped, mut other) = (setup().start(), setup().start());
    stopped.await_status("/health", 200);
    other.await_status("/health", 200);
    let ledger = Ledger::default();
    let enter = |port: u16, owner: &str| {
        let response = Client::connect(port).get(ALLOC);
        if response.status == 200 {
            ledger.enter(response.id()..response.id() + 1, owner);
        }
        response.status
    };
    let (done, port) = (AtomicBool::new(false), stopped.port());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    enter(port, "the one that is stopped");
                }
            });
        }
        stop_in_a_commit(&stopped, &site.path("ids.db-shm"));
        while enter(other.port(), "the other") == 200 {}
        let line = other.await_log("is stopped");
        assert!(
            line.contains(&format!("process {}", stopped.pid())) && line.contains("kill -CONT"),
            "{line}"
        );
        let told = Instant::now();
        other.signal(libc::SIGTERM);
        assert!(other.wait().success());
        assert!(told.elapsed() < CLEAN_END_MAX, "{:?}", told.elapsed());
        stopped.signal(libc::SIGCONT);
        stopped.await_status(ALLOC, 200);
        let third = setup().start();
        third.await_status("/health", 200);
        for _ in 0..20 {
            enter(third.port(), "a third");
        }
        done.store(true, Relaxed);
    });
    assert_eq!(ledger.sums().duplicates, 0, "{:?}", ledger.sums());
}
