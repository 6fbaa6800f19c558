//! What a server keeps of tags that are gone.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::mariadb::MariaDb;
use support::server::{PATIENCE, Server, Setup};

const TAGS: usize = 20_000;
/// What 20,000 tags may leave behind: their watermarks, and what the global allocator cannot give back of pages that hold
/// something else.
const LEFT_KIB_MAX: u64 = 14 * 1024;

fn await_resident(server: &Server, kib: u64) {
    let deadline = Instant::now() + PATIENCE;
    while server.resident_kib() > kib {
        assert!(Instant::now() < deadline, "{} KiB are resident, and not {kib}", server.resident_kib());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn tags_that_were_used_and_deleted_leave_next_to_no_memory_behind() {
    let database = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=0"]);
    let server = Setup::on(&database.dsn())
        .key("WatermarkPath", "")
        .key("TagReloadSeconds", 1)
        .key("RefillThreads", 4)
        .start();
    server.await_status("/alloc?app_tag=test_business", 200);
    let before = server.resident_kib();
    let rows: Vec<_> = (0..TAGS).map(|tag| format!("('tag-{tag:05}', 0, 100)")).collect();
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
    let used = server.resident_kib();
    database.exec("DELETE FROM segments WHERE app_tag <> 'test_business'");
    server.await_log("gone=20000");
    println!("{before} KiB before, {used} KiB with {TAGS} tags");
    await_resident(&server, before + LEFT_KIB_MAX);
    println!("{} KiB after", server.resident_kib());
    assert_eq!(server.get("/alloc?app_tag=tag-00001").status, 404);
    assert_eq!(server.get("/alloc?app_tag=test_business").status, 200);
}
