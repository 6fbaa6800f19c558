//! A store that goes back: noticed while the server runs and after a restart, and mended.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use idalloc::segment::IdRange;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{Server, Setup};
use tempfile::TempDir;

const ALLOC: &str = "/alloc?app_tag=test_business";

/// A database whose row hands out ten IDs at a time, and a place for the watermark.
struct Site {
    database: MariaDb,
    dir: TempDir,
}

impl Site {
    fn new() -> Site {
        Site::on(MariaDb::start())
    }

    fn on(database: MariaDb) -> Site {
        let site = Site { database, dir: tempfile::tempdir().unwrap() };
        site.database.exec("UPDATE segments SET step = 10 WHERE app_tag = 'test_business'");
        site
    }

    fn watermark(&self) -> PathBuf {
        self.dir.path().join("watermark.db")
    }

    fn setup(&self) -> Setup {
        let path = self.watermark();
        Setup::on(&self.database.dsn())
            .key("TagReloadSeconds", 1)
            .key("WatermarkPath", path.to_str().unwrap())
    }

    /// A server that was granted at least up to 1000, and the highest end it was granted.
    fn serve_a_while(&self) -> (Server, i64) {
        let server = self.setup().start();
        server.await_status("/health", 200);
        assert_eq!(server.get(&format!("{ALLOC}&count=1000")).ids().len(), 1000);
        (server, self.settled_max_id())
    }

    /// `max_id` once no refill is under way any more.
    fn settled_max_id(&self) -> i64 {
        let mut last = 0;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            match self.database.max_id("test_business") {
                max_id if max_id == last => return max_id,
                max_id => last = max_id,
            }
        }
    }

    /// What a failover to a replica that lagged looks like.
    fn set_max_id(&self, max_id: i64) {
        self.database.exec(&format!("UPDATE segments SET max_id = {max_id} WHERE app_tag = 'test_business'"));
    }

    fn exec(&self, sql: &str) {
        self.database.exec(sql);
    }

    fn idalloc(&self, args: &[&str]) -> std::process::Output {
        self.idalloc_on("segments", args)
    }

    fn idalloc_on(&self, table: &str, args: &[&str]) -> std::process::Output {
        let config = self.dir.path().join("config.json");
        let text = serde_json::json!({
            "DSN": self.database.dsn(), "WatermarkPath": self.watermark(), "table": table,
        });
        std::fs::write(&config, text.to_string()).unwrap();
        Command::new(env!("CARGO_BIN_EXE_idalloc"))
            .args(args)
            .args([Path::new("--config"), &config])
            .env_remove("IDALLOC_DSN")
            .output()
            .unwrap()
    }
}

/// Asks until a reservation is refused: what was in memory may be served before. Returns the `max_id` that mends the row,
/// which is what was granted: on a slow machine more than it seemed to be.
fn await_fence(server: &Server, granted: i64) -> i64 {
    let refused = server.await_status(&format!("{ALLOC}&count=100"), 503);
    let remedy = refused.body.split("raise max_id to ").nth(1).unwrap_or_else(|| panic!("{refused:?}"));
    let mended = remedy.split(' ').next().unwrap().parse().unwrap();
    assert!(mended >= granted, "{refused:?}");
    server.await_status("/health", 503);
    assert_eq!(server.get(ALLOC).status, 503, "nothing in memory is handed out either");
    let line = server.await_log("the tag gets no more IDs");
    assert!(line.contains(&format!("raise max_id to {mended} or more")), "{line}");
    mended
}

#[test]
fn a_store_that_goes_back_under_a_running_server_fences_the_tag_until_the_row_is_mended() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    site.set_max_id(500);
    let granted = await_fence(&server, granted);
    assert_eq!(server.get(ALLOC).status, 503);
    assert_eq!(site.database.max_id("test_business"), 500, "a refused reservation changes nothing");
    site.set_max_id(granted + 1000);
    assert_eq!(server.await_status(ALLOC, 200).id(), granted + 1000);
    server.await_status("/health", 200);
}

/// The configuration may name the table's database, or leave that to the DSN.
#[test]
fn a_table_that_is_spelled_otherwise_is_the_same_table() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    drop(server);
    site.set_max_id(0);
    let server = site.setup().key("table", "id_alloc_db.segments").start();
    await_fence(&server, granted);
}

/// Symptom: under another spelling the watermark was not found, and a row that had gone back was served.
#[test]
fn a_table_whose_name_differs_in_case_is_the_same_where_the_server_says_so() {
    let site = Site::on(MariaDb::start_with(&["--lower-case-table-names=1"]));
    let (server, granted) = site.serve_a_while();
    drop(server);
    site.set_max_id(0);
    // As a version left it that did not ask the server, beside marks of another table.
    std::fs::remove_file(site.watermark()).unwrap();
    let (former, other) = ("ID_alloc_db/`SEGMENTS`", "id_alloc_db/`others`");
    let marks = idalloc::store::watermark::open;
    let highest = granted + 5000;
    for (table, end) in [(other, 7), (former, highest)] {
        let granted = IdRange { start: 0, end };
        marks(&site.watermark(), table).unwrap().advance("test_business", granted).unwrap();
    }
    for table in ["SEGMENTS", "ID_ALLOC_DB.Segments", "segments"] {
        let server = site.setup().key("table", table).start();
        let mended = await_fence(&server, highest);
        assert!(mended >= highest, "{table}: {mended}");
        drop(server);
        site.set_max_id(0);
    }
    assert_eq!(marks(&site.watermark(), other).unwrap().get("test_business"), Some(7));
    assert!(marks(&site.watermark(), former).unwrap().get("test_business") >= Some(highest));
    // The shell's command finds it too.
    site.exec("UPDATE segments SET max_id = 1 WHERE app_tag = 'test_business'");
    let output = site.idalloc_on("SEGMENTS", &["tag", "advance", "test_business"]);
    assert!(output.status.success(), "{output:?}");
    assert!(site.database.max_id("test_business") >= highest);
}

/// Symptom: the server wrote on into a file without a name, and IDs came again after a restart.
#[test]
fn a_watermark_file_that_is_removed_or_replaced_is_written_anew() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    drop(server);
    let old = site.dir.path().join("old.db");
    std::fs::copy(site.watermark(), &old).unwrap();
    type Harm = fn(&Path, &Path);
    let harms: [Harm; 5] = [
        |path, _| std::fs::remove_file(path).unwrap(),
        |path, _| std::fs::rename(path, path.with_extension("away")).unwrap(),
        |path, _| std::fs::write(path, "").unwrap(),
        // In place, and by another file of that name.
        |path, old| assert!(std::fs::copy(old, path).unwrap() > 0),
        |path, old| {
            std::fs::copy(old, path.with_extension("copy")).unwrap();
            std::fs::rename(path.with_extension("copy"), path).unwrap();
        },
    ];
    let mut granted = granted;
    for (index, harm) in harms.into_iter().enumerate() {
        site.set_max_id(granted);
        let server = site.setup().start();
        server.await_status("/health", 200);
        assert_eq!(server.get(&format!("{ALLOC}&count=1000")).ids().len(), 1000);
        granted = site.settled_max_id();
        // Nobody reserves meanwhile: it is found out all the same.
        harm(&site.watermark(), &old);
        server.await_log("is written anew, from memory");
        drop(server);
        site.set_max_id(0);
        let server = site.setup().start();
        let mended = await_fence(&server, granted);
        assert!(mended >= granted, "harm {index}: {mended} is below {granted}");
        granted = mended;
    }
}

/// A disk that hangs: nobody answers for the file any more. The log says what is the matter, and the process ends.
#[test]
fn a_watermark_file_on_a_disk_that_hangs_is_named_and_holds_up_no_end() {
    let site = Site::new();
    let disk = Disk::mount(site.dir.path());
    let path = disk.point.join("watermark.db");
    let mut server = site.setup().key("WatermarkPath", path.to_str().unwrap()).start();
    server.await_status("/health", 200);
    assert_eq!(server.get(&format!("{ALLOC}&count=10")).ids().len(), 10);
    site.settled_max_id();
    disk.signal(libc::SIGSTOP);
    let mut client = server.connect();
    while client.get(&format!("{ALLOC}&count=100")).status == 200 {}
    server.await_log("the watermark file does not answer: does its disk hang?");
    server.await_status("/health", 503);
    let told = Instant::now();
    server.signal(libc::SIGTERM);
    server.await_log("the end takes too long, as when a disk hangs");
    assert!(told.elapsed() < Duration::from_secs(8 + 4), "{:?}", told.elapsed());
    // What the kernel itself waits for, as here for the close of the file, no signal ends before the disk answers.
    disk.signal(libc::SIGCONT);
    assert!(server.wait().success());
}

/// A file system that a process answers for, so that it can be made to hang.
struct Disk {
    process: std::process::Child,
    point: PathBuf,
}

impl Disk {
    fn mount(directory: &Path) -> Disk {
        let (under, point) = (directory.join("under"), directory.join("disk"));
        for path in [&under, &point] {
            std::fs::create_dir(path).unwrap();
        }
        let command = Command::new("bindfs").arg("-f").args([&under, &point]).spawn();
        let process = command.unwrap_or_else(|error| {
            panic!("cannot run bindfs ({error}); `sh tests/install-deps.sh` installs what the tests need")
        });
        let mut disk = Disk { process, point };
        std::fs::write(under.join("here"), "").unwrap();
        let began = Instant::now();
        while !disk.point.join("here").exists() {
            let ended = disk.process.try_wait().unwrap();
            assert!(ended.is_none(), "bindfs ends with {ended:?}: it takes /dev/fuse, and root");
            assert!(began.elapsed() < idalloc_testing::server::PATIENCE, "bindfs mounts nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        disk
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child was not waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(self.process.id().cast_signed(), signal) }, 0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.signal(libc::SIGCONT);
        let _ = Command::new("umount").arg("--lazy").arg(&self.point).status();
        let _ = self.process.wait();
    }
}

#[test]
fn a_watermark_file_that_knows_only_other_tables_is_pointed_out() {
    let site = Site::new();
    drop(site.serve_a_while());
    site.database.exec("CREATE TABLE renamed LIKE segments");
    let server = site.setup().key("table", "renamed").start();
    let line = server.await_log("knows nothing of this table");
    for name in ["id_alloc_db/`renamed`", "id_alloc_db/`segments`", "watermark.db"] {
        assert!(line.contains(name), "{line}");
    }
    drop(server);
    let server = site.setup().start();
    server.await_status("/health", 200);
    assert!(server.log_so_far().iter().all(|line| !line.contains("knows nothing")));
}

/// The reservation that finds it out would end above the watermark, and the row would look mended by it.
#[test]
fn a_small_step_back_is_not_mended_by_the_reservation_that_finds_it_out() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    site.set_max_id(granted - 1);
    let mended = await_fence(&server, granted);
    let began = Instant::now();
    // Two listings at least.
    while began.elapsed() < Duration::from_millis(2500) {
        assert_eq!(server.get(ALLOC).status, 503);
    }
    assert_eq!(site.database.max_id("test_business"), granted - 1, "a refused reservation changes nothing");
    site.set_max_id(mended);
    assert_eq!(server.await_status(ALLOC, 200).id(), mended);
}

/// One of two servers was granted more than the other. What the one is refused must not mend the row for the other,
/// which would hand out again what the one did.
#[test]
fn a_fence_is_not_opened_by_another_servers_refused_reservations() {
    let site = Site::new();
    let setup = |name: &str| {
        let path = site.dir.path().join(name);
        Setup::on(&site.database.dsn())
            .key("TagReloadSeconds", 1)
            .key("WatermarkPath", path.to_str().unwrap())
    };
    let lower = setup("lower.db").start();
    let mut ids = lower.get(&format!("{ALLOC}&count=100")).ids();
    let lower_granted = site.settled_max_id();
    let upper = setup("upper.db").start();
    ids.extend(upper.get(&format!("{ALLOC}&count=5000")).ids());
    let granted = site.settled_max_id();
    site.set_max_id(lower_granted - 1);
    let granted = await_fence(&upper, granted);
    await_fence(&lower, lower_granted);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        for server in [&upper, &lower] {
            assert_eq!(server.get(ALLOC).status, 503);
        }
    }
    assert_eq!(site.database.max_id("test_business"), lower_granted - 1);
    site.set_max_id(granted);
    for server in [&lower, &upper] {
        ids.push(server.await_status(ALLOC, 200).id());
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "no ID twice");
}

/// No row is ever negative, so one that is was set by hand, and no server may take it for a new one.
#[test]
fn a_negative_max_id_fences_every_server_that_sees_it() {
    let site = Site::new();
    let busy = site.setup().start();
    assert_eq!(busy.get(&format!("{ALLOC}&count=100")).ids().len(), 100);
    let granted = site.settled_max_id();
    let other = site.dir.path().join("other.db");
    let quiet = site.setup().key("WatermarkPath", other.to_str().unwrap()).key("PreloadTags", 0).start();
    quiet.await_status("/health", 200);
    site.set_max_id(-5);
    await_fence(&quiet, 0);
    let granted = await_fence(&busy, granted);
    // One that has never seen anything else can only say so.
    let last = site.dir.path().join("last.db");
    let new = site.setup().key("WatermarkPath", last.to_str().unwrap()).start();
    let refused = new.await_status(ALLOC, 503);
    assert!(refused.body.contains("its max_id is negative in the table"), "{refused:?}");
    assert_eq!(site.database.max_id("test_business"), -5, "a refused reservation changes nothing");
    site.set_max_id(granted);
    let ids = [&new, &quiet, &busy].map(|server| server.await_status(ALLOC, 200).id());
    assert!(ids.iter().all(|id| *id >= granted), "{ids:?}");
}

#[test]
fn a_restart_does_not_forget_and_tag_advance_mends_the_row() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    drop(server);
    site.set_max_id(0);
    let server = site.setup().start();
    let granted = await_fence(&server, granted);
    let output = site.idalloc(&["tag", "advance", "test_business"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains("another process uses the watermark file"),
        "{message}"
    );
    drop(server);
    let output = site.idalloc(&["tag", "advance", "test_business"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(site.database.max_id("test_business"), granted);
    assert_eq!(site.setup().start().await_status(ALLOC, 200).id(), granted);
}

#[test]
fn tag_advance_works_beside_a_running_server_when_told_where_to() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    site.set_max_id(0);
    let granted = await_fence(&server, granted);
    let output = site.idalloc(&["tag", "advance", "test_business", "--to", &granted.to_string()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(server.await_status(ALLOC, 200).id(), granted);
    let output = site.idalloc(&["tag", "advance", "nobody", "--to", "5"]);
    assert!(!output.status.success(), "no such row");
}

#[test]
fn on_regression_advance_goes_on_by_itself() {
    let site = Site::new();
    let (server, granted) = site.serve_a_while();
    drop(server);
    site.set_max_id(0);
    let server = site.setup().key("OnRegression", "advance").start();
    assert_eq!(server.await_status(ALLOC, 200).id(), granted);
    server.await_log("the store has gone back");
}

#[test]
fn a_clean_restart_is_not_fenced_by_what_it_gave_back() {
    let site = Site::new();
    for round in 0..3 {
        let mut server = site.setup().start();
        server.await_status("/health", 200);
        assert_eq!(server.get(ALLOC).id(), round + 1);
        server.signal(libc::SIGTERM);
        assert!(server.wait().success());
    }
}

#[test]
fn two_servers_on_one_file_are_an_error() {
    let site = Site::new();
    let _first = site.setup().start();
    let output = site.idalloc(&["serve"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(message.contains("another process uses the watermark file"), "{message}");
}

/// What is granted and cannot be made durable is not handed out, and not asked for again and again either.
#[test]
fn a_watermark_file_that_cannot_be_written_stops_the_tag_until_it_can_and_no_longer() {
    let site = Site::new();
    let server = site.setup().survives_full_disk().start();
    server.await_status("/health", 200);
    let mut ids = server.get(&format!("{ALLOC}&count=1000")).ids();
    let before = site.settled_max_id();
    server.limit_files(Some(0));
    let mut client = server.connect();
    loop {
        let response = client.get(ALLOC);
        if response.status == 503 {
            break;
        }
        ids.push(response.id());
        assert!(response.id() < before, "what comes must be durable: {before} was granted before");
    }
    server.await_log("the watermark file cannot be written");
    server.await_status("/health", 503);
    let granted = site.settled_max_id();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(site.database.max_id("test_business"), granted, "one reservation is kept, no more are made");
    server.limit_files(None);
    ids.push(server.await_status(ALLOC, 200).id());
    assert_eq!(ids.last(), Some(&before), "what was kept is handed out: no gap");
    server.await_log("the watermark file can be written again");
    server.await_status("/health", 200);
    ids.extend(server.get(&format!("{ALLOC}&count=1000")).ids());
    assert!(ids.is_sorted_by(|a, b| a < b), "no ID twice");
    let mut server = server;
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(site.database.max_id("test_business"), ids.last().unwrap() + 1, "the rest is given back");
    let server = site.setup().start();
    assert_eq!(server.await_status(ALLOC, 200).id(), ids.last().unwrap() + 1);
}
