//! What a server keeps of tags that are gone.

use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{PATIENCE, Server, Setup};

const TAGS: usize = 20_000;
/// What the driver reads into, for each session with the database. It fills up from statement to statement and stays.
const SESSION_KIB: u64 = 4 * 1024;
/// What the tags may leave behind: their watermarks and readings, and pages that the global allocator keeps.
const LEFT_KIB_MAX: u64 = 4 * 1024;

/// Waits until no more than this is resident, and returns what is.
fn await_resident(server: &Server, kib: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let resident = server.resident_kib();
        if resident <= kib {
            return resident;
        }
        assert!(Instant::now() < deadline, "{resident} KiB are resident, and not {kib}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Adds the tags, takes an ID of each, and deletes them.
fn come_and_go(database: &MariaDb, server: &Server) {
    let rows: Vec<_> = (0..TAGS).map(|tag| format!("('tag-{tag:05}', 1000000, 100)")).collect();
    database.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES {}", rows.join(", ")));
    server.await_log("new=20000");
    thread::scope(|scope| {
        for part in 0..8 {
            let mut client = server.connect();
            scope.spawn(move || {
                for tag in (part..TAGS).step_by(8) {
                    let response = client.get(&format!("/alloc?app_tag=tag-{tag:05}"));
                    assert_eq!(response.status, 200, "{response:?}");
                }
            });
        }
    });
    println!("{} KiB with {TAGS} tags", server.resident_kib());
    database.exec("DELETE FROM segments WHERE app_tag <> 'test_business'");
    server.await_log("gone=20000");
}

#[test]
fn tags_that_were_used_and_deleted_leave_next_to_no_memory_behind() {
    let database = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=0"]);
    let server = Setup::on(&database.dsn())
        .key("WatermarkPath", "")
        .key("OnRegression", "advance")
        .key("TagReloadSeconds", 1)
        .key("RefillThreads", 1)
        .start();
    server.await_status("/alloc?app_tag=test_business", 200);
    let before = server.resident_kib();
    // One session reserves, and one reads the table.
    let most = before + 2 * SESSION_KIB + LEFT_KIB_MAX;
    for _ in 0..3 {
        come_and_go(&database, &server);
        println!("{before} KiB before, {} KiB after", await_resident(&server, most));
    }
    assert_eq!(server.get("/alloc?app_tag=tag-00001").status, 404);
    assert_eq!(server.get("/alloc?app_tag=test_business").status, 200);
}
