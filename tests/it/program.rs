//! The program from outside: its command line, its configuration, its store at start, and its end.

use idalloc_testing::on_each_engine;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::mariadb::{MariaDb, PASSWORD, free_port};
use idalloc_testing::program::{Ended, Run};
use idalloc_testing::server::{Client, PATIENCE, Server, Setup};
use mysql::Conn;
use mysql::prelude::Queryable;
use serde_json::{Value, json};

const ENGINES: [&str; 2] = ["tokio", "may_minihttp"];

on_each_engine! {
    the_json_log_is_an_object_a_line
    a_signal_ends_it_with_success_though_connections_are_open
    a_claim_under_way_is_answered_before_the_end_and_nothing_new_is_accepted
    a_claim_that_a_silent_store_leaves_waiting_is_told_before_the_end
    a_second_signal_ends_it_at_once_though_a_claim_waits
    a_server_that_is_told_to_stop_serves_on_until_its_balancers_know
    the_end_does_not_wait_for_those_who_are_not_there
    a_signal_that_comes_twice_at_once_is_one_and_an_ignored_one_is_none
}

/// A password that must not be seen.
const SECRET: &str = "hunter2";

/// More than any end takes here; a server that waits for its clients to leave takes longer (HttpIdleTimeout is 75 s).
const END_MAX: Duration = Duration::from_secs(5);

fn run(args: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    Run::new(directory.path(), args).finish()
}

/// What both commands say to this text as their configuration, and it is the same.
fn complaint_about(text: impl AsRef<[u8]>) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), text).unwrap();
    let complaint = |args: &[&str]| Run::new(directory.path(), args).finish().only_complaint().to_owned();
    let at_serve = complaint(&["--config", "config.json"]);
    assert_eq!(complaint(&["check", "--config", "config.json"]), at_serve);
    assert!(!at_serve.contains(SECRET), "{at_serve}");
    at_serve
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// Waits for something that gives no signal.
fn await_true(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

// ---- the command line ----

#[test]
fn help_and_version_are_printed() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert_holds(&help.stdout, &["serve", "check", "--config <FILE>", "idalloc.db", "8880", "IDALLOC_DSN"]);
    let version = run(&["--version"]);
    let expected = concat!("idalloc ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((version.code, version.stdout.as_str(), version.stderr.as_str()), (Some(0), expected, ""));
}

#[test]
fn an_argument_that_is_not_understood_is_named() {
    for args in [&["--prot"][..], &["stop"], &["check", "--prot"], &["--config"]] {
        let ended = run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert_holds(&ended.stderr, &[args[args.len() - 1]]);
    }
}

#[test]
fn without_a_configuration_the_store_is_a_file_in_the_working_directory() {
    let directory = tempfile::tempdir().unwrap();
    for made in ["file", "nothing"] {
        let ended = Run::new(directory.path(), &["init"]).finish();
        assert_eq!(ended.code, Some(0), "made {made}: {ended:?}");
        let ended = Run::new(directory.path(), &["check"]).finish();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert_holds(&ended.stdout, &["configuration: good", "SQLite", "idalloc.db", "tags: 1"]);
        assert!(directory.path().join("idalloc.db").is_file());
    }
}

// ---- the configuration ----

#[test]
fn every_configuration_error_names_the_key_the_value_and_what_is_allowed() {
    let dsn = format!("root:{SECRET}@tcp(127.0.0.1:3306)/id_alloc_db");
    let with = |key: &str, value: Value| complaint_about(json!({"DSN": dsn, key: value}).to_string());
    assert_holds(&with("Port", json!(1)), &["unknown key \"Port\"", "HttpPort", "TagReloadSeconds"]);
    assert_holds(&with("HttpPort", json!("8880")), &["HttpPort is \"8880\"", "0 to 65535"]);
    assert_holds(&with("HttpPort", json!(65_536)), &["HttpPort is 65536", "0 to 65535"]);
    assert_holds(&with("MaxBatch", json!(0)), &["MaxBatch is 0", "1 to 100000 IDs"]);
    assert_holds(&with("AllocTimeout", json!(-1)), &["AllocTimeout is -1", "1 to 60000 ms"]);
    assert_holds(&with("Workers", json!(1.5)), &["Workers is 1.5", "a whole number, 1 to 1024"]);
    assert_holds(&with("PreloadTags", json!(null)), &["PreloadTags is null", "0 to 1000000 tags"]);
    assert_holds(&with("table", json!(["a"])), &["table is [\"a\"]", "1 to 64 of A-Z"]);
    assert_holds(&with("table", json!("a`; DROP TABLE b")), &["table is \"a`; DROP TABLE b\"", "A-Z"]);
    assert_holds(&with("TagColumn", json!("a b")), &["TagColumn is \"a b\"", "1 to 64 of A-Z"]);
    assert_holds(&with("HttpHost", json!("example.com")), &["HttpHost is \"example.com\"", "IP address"]);
    assert_holds(&with("HttpEngine", json!("nginx")), &["HttpEngine is \"nginx\"", "tokio or may_minihttp"]);
    assert_holds(&with("LogFormat", json!("xml")), &["LogFormat is \"xml\"", "text or json"]);
    assert_holds(&with("AdminHost", json!("example.com")), &["AdminHost is \"example.com\"", "IP address"]);
    assert_holds(&with("AdminHost", json!("::")), &["AdminHost is ::", "AdminToken", "IDALLOC_ADMIN_TOKEN"]);
    assert_holds(&with("AdminPort", json!(-1)), &["AdminPort is -1", "0 to 65535"]);
    assert_holds(&with("AdminToken", json!(SECRET)), &["AdminToken is not as it must be", "16 to 256"]);
    assert_holds(&with("MetricsTags", json!(1001)), &["MetricsTags is 1001", "0 to 1000 tags"]);
    assert_holds(&with("AccessTokens", json!({SECRET: "*"})), &["AccessTokens is not as it must be"]);
}

#[test]
fn text_that_is_no_configuration_is_an_error_that_says_where() {
    let dsn = format!("root:{SECRET}@tcp(127.0.0.1:3306)/id_alloc_db");
    let twice = format!("{{\"DSN\": \"{dsn}\",\n\"table\": \"a\", \"table\": \"b\"}}");
    assert_holds(&complaint_about(twice), &["\"table\" is given twice", "line 2"]);
    let twice = format!(r#"{{"DSN": "{dsn}", "DSN": "{dsn}"}}"#);
    assert_holds(&complaint_about(twice), &["\"DSN\" is given twice"]);
    assert_holds(&complaint_about(format!("{{\"DSN\": \"{dsn}\",\n}}")), &["not valid JSON", "line 2"]);
    assert_holds(&complaint_about(format!("{{\"DSN\": \"{dsn}\"")), &["not valid JSON"]);
    assert_holds(&complaint_about(format!("\"{dsn}\"")), &["not a JSON object"]);
    assert_holds(&complaint_about(""), &["not a JSON object"]);
    assert_holds(&complaint_about(b"{\"DSN\": \"\xff\"}"), &["config.json", "UTF-8"]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    for path in ["absent.json", "."] {
        for args in [&["--config", path][..], &["serve", "--config", path], &["check", "--config", path]] {
            assert_holds(run(args).only_complaint(), &[&format!("{path}: ")]);
        }
    }
}

#[test]
fn a_dsn_that_is_none_is_an_error_without_its_password() {
    assert_holds(
        &complaint_about("{}"),
        &["DSN is missing", "user:password@tcp(host:port)/database", "sqlite:PATH"],
    );
    assert_holds(&complaint_about(json!({"DSN": [SECRET]}).to_string()), &["DSN is not a string"]);
    for (dsn, expected) in [
        ("root:hunter2@tcp(127.0.0.1:99999)/db", "host number 1 has a bad port: allowed is 1 to 65535"),
        ("root:hunter2@tcp(127.0.0.1,:3306)/db", "host number 2 is empty"),
        ("root:hunter2@udp(127.0.0.1:3306)/db", "unknown protocol"),
        ("root:hunter2@tcp(127.0.0.1:3306/db", "the address is not closed"),
        ("root:hunter2@tcp(127.0.0.1:3306)/", "the database is missing"),
        ("root:hunter2@tcp(127.0.0.1:3306)", "the database is missing"),
        ("root:hunter2/tcp(127.0.0.1:3306)/db", "unknown protocol"),
        ("root:hunter2@/db?timeout=soon", "parameter timeout is \"soon\": allowed is a duration"),
        ("root:hunter2@/db?tls=maybe", "parameter tls is \"maybe\": allowed is true"),
        ("root:hunter2@/db?bogus=1", "unknown parameter \"bogus\""),
        ("mysql://root:hunter2@127.0.0.1:x/db", "host number 1 has a bad port"),
        ("mysql://root:hunter2%@127.0.0.1/db", "the password has a bad percent-encoding"),
        ("mysql://root:hunter2", "the database is missing"),
        ("sqlite::memory:", "the path of a file"),
    ] {
        let complaint = complaint_about(json!({ "DSN": dsn }).to_string());
        assert_holds(&complaint, &["DSN: ", expected]);
    }
}

#[test]
fn the_environment_overrides_the_dsn_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = json!({"DSN": format!("root:{SECRET}@tcp(127.0.0.1:{})/db", free_port())}).to_string();
    std::fs::write(directory.path().join("config.json"), file).unwrap();
    let check = |dsn: &str| {
        let args = ["check", "--config", "config.json"];
        Run::new(directory.path(), &args).env("IDALLOC_DSN", dsn).finish()
    };
    assert_eq!(
        Run::new(directory.path(), &["init"]).env("IDALLOC_DSN", "sqlite:from-env.db").finish().code,
        Some(0)
    );
    let ended = check("sqlite:from-env.db");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_holds(&ended.stdout, &["from-env.db"]);

    let faulty = check(&format!("root:{SECRET}@tcp(127.0.0.1:0)/db"));
    assert_holds(faulty.only_complaint(), &["IDALLOC_DSN: ", "bad port"]);
    assert!(!faulty.stderr.contains(SECRET), "{faulty:?}");
    // A secret that was not delivered must not mean another store.
    assert_holds(check("").only_complaint(), &["IDALLOC_DSN: "]);

    let embedded = Run::new(directory.path(), &["check"]).env("IDALLOC_DSN", "sqlite:other.db").finish();
    assert_holds(embedded.complaint(), &["other.db", "idalloc init"]);
    assert!(!directory.path().join("idalloc.db").exists());
}

#[test]
fn the_shipped_configuration_is_the_documented_one_and_is_understood() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.json");
    let documented = r#"{
  "DSN": "root:123456@tcp(127.0.0.1:3306)/id_alloc_db",
  "table": "segments",
  "HttpPort": 8880,
  "HttpReadTimeout": 5000,
  "HttpWriteTimeout": 5000
}
"#;
    assert_eq!(std::fs::read_to_string(&shipped).unwrap(), documented);
    let directory = tempfile::tempdir().unwrap();
    let args = ["check", "--config", shipped.to_str().unwrap()];
    let ended = Run::new(directory.path(), &args).env("IDALLOC_DSN", MariaDb::shared().dsn()).finish();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_holds(&ended.stdout, &["configuration: good", "`segments`"]);
}

// ---- the store ----

#[test]
fn check_says_what_it_found_in_mariadb() {
    let database = MariaDb::shared();
    // An account as README has it.
    database.exec(&format!("CREATE USER idalloc@'%' IDENTIFIED BY '{SECRET}'"));
    database.exec("GRANT SELECT, UPDATE ON id_alloc_db.segments TO idalloc@'%'");
    database.exec("GRANT SLAVE MONITOR ON *.* TO idalloc@'%'");
    let dsn = database.dsn().replace(&format!("root:{PASSWORD}"), &format!("idalloc:{SECRET}"));
    let ended = Setup::on(&dsn).check();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let at = format!("at 127.0.0.1:{}", MariaDb::shared().port());
    assert_holds(&ended.stdout, &["configuration: good", "store: MariaDB 1", &at, "tags: 1"]);
    assert_holds(&ended.stdout, &["good: `segments` has the columns `app_tag`, max_id and step"]);
    assert_holds(&ended.stdout, &["good: the engine is InnoDB", "good: innodb_flush_log_at_trx_commit is 1"]);
    assert!(!ended.stdout.contains("warning") && !ended.stdout.contains(SECRET), "{ended:?}");
}

#[test]
fn check_warns_of_settings_that_lose_commits() {
    let database = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=0"]);
    let ended = Setup::on(&database.dsn()).check();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let warning = ended.stdout.lines().find(|line| line.contains("warning")).expect("a warning");
    assert_holds(
        warning,
        &["innodb_flush_log_at_trx_commit is 0", "SET GLOBAL innodb_flush_log_at_trx_commit = 1;"],
    );
}

#[test]
fn check_says_what_it_found_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ids.db");
    let dsn = format!("sqlite:{}", file.display());
    assert_eq!(Run::new(directory.path(), &["init"]).env("IDALLOC_DSN", dsn).finish().code, Some(0));
    let ended = Setup::embedded(&file).check();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_holds(
        &ended.stdout,
        &["configuration: good", "store: SQLite 3.", file.to_str().unwrap(), "tags: 1"],
    );
    assert_holds(&ended.stdout, &["good: journal_mode is wal", "good: synchronous is FULL"]);
}

/// What `check` and `serve` say to a store that somebody has to mend; both in words that do not give the password away.
fn complaints(setup: impl Fn() -> Setup) -> [String; 2] {
    let checked = setup().check();
    let served = setup().refused();
    for ended in [&checked, &served] {
        let secret = [SECRET, PASSWORD].iter().find(|secret| format!("{ended:?}").contains(*secret));
        assert_eq!(secret, None, "{ended:?}");
        assert!(!ended.stdout.contains("started"), "{ended:?}");
    }
    assert_eq!(checked.stderr.lines().count(), 1, "{checked:?}");
    [checked.complaint().to_owned(), served.complaint().to_owned()]
}

/// The statement that a complaint tells the operator to run.
fn remedy(complaint: &str) -> &str {
    complaint.split_once("run: ").unwrap_or_else(|| panic!("no statement in: {complaint}")).1
}

#[test]
fn a_missing_table_is_refused_with_the_statement_that_makes_it() {
    let database = MariaDb::shared();
    let setup = || Setup::on(&database.dsn()).key("table", "never_made");
    for complaint in complaints(setup) {
        assert_holds(&complaint, &["never_made", "CREATE TABLE IF NOT EXISTS `never_made` ("]);
        database.exec(remedy(&complaint));
        let ended = setup().check();
        assert_eq!(ended.code, Some(0), "after that statement: {ended:?}");
        database.exec("DROP TABLE never_made");
    }
}

#[test]
fn a_narrow_column_is_refused_with_the_statement_that_widens_it() {
    let database = MariaDb::shared();
    let setup = || Setup::on(&database.dsn()).key("table", "narrow_columns");
    let create = "CREATE TABLE narrow_columns (app_tag VARCHAR(32) PRIMARY KEY, max_id INT NOT NULL, step INT NOT NULL)";
    database.exec(create);
    for complaint in complaints(setup) {
        assert_holds(&complaint, &["max_id is INT", "ALTER TABLE `narrow_columns` MODIFY max_id BIGINT"]);
    }
    database.exec(remedy(setup().check().complaint()));
    let ended = setup().check();
    assert_eq!(ended.code, Some(0), "after that statement: {ended:?}");
}

#[test]
fn a_wrong_password_is_refused_and_not_shown() {
    let port = MariaDb::shared().port();
    let setup = || Setup::on(&format!("root:{SECRET}@tcp(127.0.0.1:{port})/id_alloc_db"));
    for complaint in complaints(setup) {
        assert_holds(&complaint, &["refuses access", &format!("127.0.0.1:{port}"), "Access denied"]);
    }
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ids.db");
    rusqlite::Connection::open(&file)
        .and_then(|file| file.execute_batch("CREATE TABLE segments (app_tag TEXT PRIMARY KEY, step INTEGER)"))
        .unwrap();
    for complaint in complaints(|| Setup::embedded(&file)) {
        assert_holds(&complaint, &["has no column max_id", "ALTER TABLE `segments` ADD COLUMN max_id"]);
    }
    let text = directory.path().join("text.db");
    std::fs::write(&text, "no database at all ".repeat(100)).unwrap();
    let ended = Setup::embedded(&text).check();
    assert_holds(ended.complaint(), &[text.to_str().unwrap(), "not a database"]);
}

#[test]
fn check_names_a_store_that_it_cannot_reach() {
    let port = free_port();
    let ended = Setup::on(&format!("root:{SECRET}@tcp(127.0.0.1:{port})/id_alloc_db")).check();
    assert_holds(ended.complaint(), &["store unreachable", &format!("127.0.0.1:{port}")]);
    assert!(!format!("{ended:?}").contains(SECRET), "{ended:?}");
    let ended = Setup::embedded(Path::new("/nonexistent/ids.db")).check();
    assert_holds(ended.complaint(), &["/nonexistent/ids.db"]);
}

#[test]
fn schema_sql_may_be_run_again_and_leaves_rows_alone() {
    let database = MariaDb::start();
    database.exec("UPDATE segments SET max_id = 5000, step = 7 WHERE app_tag = 'test_business'");
    database.exec("INSERT INTO segments (app_tag, max_id, step) VALUES ('mine', 42, 9)");
    let rows = || -> Vec<(String, i64, i64, String)> {
        let sql = "SELECT app_tag, max_id, step, CAST(update_time AS CHAR) FROM segments ORDER BY app_tag";
        database.conn().query(sql).unwrap()
    };
    let before = rows();
    database.load_schema();
    assert_eq!(rows(), before);
    assert_eq!(before.len(), 2);
}

// ---- the port ----

#[test]
fn a_port_in_use_is_an_error_whichever_engine_has_it_and_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let setup = |engine: &str| Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
    for first in ENGINES {
        let server = setup(first).start();
        for second in ENGINES {
            for host in ["127.0.0.1", "0.0.0.0"] {
                let ended = setup(second).key("HttpPort", server.port()).key("HttpHost", host).refused();
                let address = format!("{host}:{}", server.port());
                assert_holds(ended.complaint(), &[&address, "in use"]);
                assert_eq!(ended.stdout, "", "{second} beside {first}");
            }
        }
        assert_eq!(server.get("/health").status, 200);
    }
}

// ---- the log ----

fn the_json_log_is_an_object_a_line(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("LogFormat", "json");
    let mut server = setup.key("HttpEngine", engine).key("MaxConnections", 1).start();
    let one = server.connect();
    // One too many is worth a warning, which quotes MaxConnections.
    await_true("a refusal", || server.connect().try_get("/health").is_some_and(|r| r.status == 503));
    drop(one);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let log = server.rest_of_log();
    let is_object = |line: &String| matches!(serde_json::from_str(line), Ok(Value::Object(_)));
    assert_eq!(log.iter().find(|line| !is_object(line)), None);
    let find = |message: &str| -> Value {
        let line = log.iter().find(|line| line.contains(message));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no {message:?} in {log:?}"))).unwrap()
    };
    assert_eq!(find("no more connections")["level"], "WARN");
    assert_eq!(find("no more connections")["MaxConnections"], 1);
    assert_eq!(find("stopped")["level"], "INFO");
}

// ---- the end ----

fn a_signal_ends_it_with_success_though_connections_are_open(engine: &str) {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
        let mut server = setup.start();
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        for client in &mut clients[..10] {
            assert_eq!(client.get("/alloc?app_tag=test_business").status, 200);
        }
        let signalled = Instant::now();
        server.signal(signal);
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{engine}: {status}");
        assert!(signalled.elapsed() < END_MAX, "{engine}: {:?}", signalled.elapsed());
        assert!(clients.iter_mut().all(Client::is_closed), "{engine}: closed, without a word");
        let log = server.rest_of_log();
        assert!(log.last().is_some_and(|line| line.contains("stopped")), "{log:?}");
    }
}

fn a_server_that_is_told_to_stop_serves_on_until_its_balancers_know(engine: &str) {
    const DRAIN: Duration = Duration::from_secs(3);
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
        let mut server = setup.key("DrainSeconds", DRAIN.as_secs()).start();
        server.await_status("/health", 200);
        let mut open = server.connect();
        let mut next = open.get("/alloc?app_tag=test_business").id();
        let mut idle = server.connect();
        assert_eq!(idle.get("/health").status, 200);
        server.signal(signal);
        let signalled = Instant::now();
        server.await_log("stopping");
        let mut served = 0;
        while signalled.elapsed() < DRAIN - Duration::from_millis(500) {
            let health = server.get("/health");
            assert_eq!(
                (health.status, &*health.headers["connection"]),
                (503, "close"),
                "{engine}: {health:?}"
            );
            for client in [&mut open, &mut server.connect()] {
                let Some(response) = client.try_get("/alloc?app_tag=test_business") else { continue };
                assert_eq!(response.headers["connection"], "close", "{engine}: {response:?}");
                next += 1;
                assert_eq!(response.id(), next, "{engine}");
                assert!(client.is_closed(), "{engine}");
                served += 1;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert!(served > 5, "{engine}: {served} served");
        // Nobody was told on this one.
        let response = idle.get("/alloc?app_tag=test_business");
        assert_eq!((response.id(), &*response.headers["connection"]), (next + 1, "close"), "{engine}");
        assert_eq!(server.wait().code(), Some(0), "{engine}");
        assert!(signalled.elapsed() >= DRAIN && signalled.elapsed() < DRAIN + END_MAX, "{engine}");
    }
}

fn the_end_does_not_wait_for_those_who_are_not_there(engine: &str) {
    let start = || {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
        let server = setup.key("DrainSeconds", 600).start();
        server.await_status("/health", 200);
        (directory, server)
    };
    let (_directory, mut server) = start();
    server.signal(libc::SIGTERM);
    let signalled = Instant::now();
    // A balancer's probe each second is somebody.
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(1));
        assert_eq!(server.get("/health").status, 503, "{engine}");
    }
    assert_eq!(server.wait().code(), Some(0), "{engine}");
    let (took, least) = (signalled.elapsed(), Duration::from_secs(5));
    assert!(took >= least && took < least + END_MAX, "{engine}: {took:?}");
    // Who sits at a terminal does not wait for balancers.
    let (_directory, mut server) = start();
    let _client = server.connect();
    server.signal(libc::SIGINT);
    let signalled = Instant::now();
    assert_eq!(server.wait().code(), Some(0), "{engine}");
    assert!(signalled.elapsed() < Duration::from_secs(2), "{engine}: {:?}", signalled.elapsed());
}

fn a_signal_that_comes_twice_at_once_is_one_and_an_ignored_one_is_none(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
    let mut server = setup.key("DrainSeconds", 1).ignores(libc::SIGHUP).start();
    server.await_status("/health", 200);
    // As under nohup.
    server.signal(libc::SIGHUP);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.get("/health").status, 200, "{engine}");
    server.signal(libc::SIGTERM);
    server.await_log("stopping");
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGINT);
    assert_eq!(server.wait().code(), Some(0), "{engine}");
    let log = server.rest_of_log();
    assert!(!log.iter().any(|line| line.contains("second signal")), "{engine}: {log:?}");
    assert!(log.iter().any(|line| line.contains("stopped")), "{engine}: {log:?}");
}

/// A server on a table whose one row is locked by `lock`, and a claim that waits for it.
struct Stuck {
    database: MariaDb,
    server: Server,
    lock: Conn,
    claim: Client,
}

fn stuck(engine: &str, alloc_timeout_ms: u64) -> Stuck {
    let database = MariaDb::start();
    let lock = database.lock_row("test_business");
    let server = Setup::on(&format!("{}?timeout=1s&readTimeout=5s", database.dsn()))
        .key("HttpEngine", engine)
        .key("PreloadTags", 0)
        .key("AllocTimeout", alloc_timeout_ms)
        .start();
    server.await_status("/health", 200);
    let mut claim = server.connect();
    claim.send("GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut observer = database.conn();
    await_true("the claim reaches the table", || {
        let waiting =
            "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'UPDATE `segments`%'";
        observer.query_first::<u64, _>(waiting).unwrap() == Some(1)
    });
    Stuck { database, server, lock, claim }
}

/// Asks on an open connection until the server says that it stops, which must be its last word on it.
fn assert_told_to_leave(client: &mut Client, engine: &str) {
    let deadline = Instant::now() + END_MAX;
    let health = loop {
        let response = client.try_get("/health").expect("an answer before the end");
        if response.status != 200 {
            break response;
        }
        assert!(Instant::now() < deadline, "{engine}: /health stays at 200");
    };
    assert_eq!((health.status, &*health.headers["retry-after"]), (503, "1"), "{engine}");
    assert_eq!(health.headers.get("connection").map(String::as_str), Some("close"), "{engine}: {health:?}");
    assert!(client.is_closed(), "{engine}");
}

fn a_claim_under_way_is_answered_before_the_end_and_nothing_new_is_accepted(engine: &str) {
    let Stuck { database, mut server, lock, mut claim } = stuck(engine, 60_000);
    let mut open: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut open {
        assert_eq!(client.get("/health").status, 200);
    }
    let signalled = Instant::now();
    server.signal(libc::SIGTERM);
    thread::scope(|scope| {
        for client in &mut open {
            scope.spawn(move || assert_told_to_leave(client, engine));
        }
    });
    assert!(signalled.elapsed() < Duration::from_secs(1), "{engine}: {:?}", signalled.elapsed());

    await_true("new connections are refused", || {
        let connected = TcpStream::connect(("127.0.0.1", server.port()));
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(server.is_running(), "{engine}: it waits for the claim");
    drop(lock);
    let unlocked = Instant::now();
    let response = claim.receive();
    assert_eq!(response.id(), 1, "{engine}");
    assert_eq!(
        response.headers.get("connection").map(String::as_str),
        Some("close"),
        "{engine}: {response:?}"
    );
    assert!(claim.is_closed(), "{engine}");
    assert_eq!(server.wait().code(), Some(0), "{engine}");
    assert!(unlocked.elapsed() < END_MAX, "{engine}: {:?}", unlocked.elapsed());
    assert!(database.max_id("test_business") > 1, "{engine}");
}

fn a_claim_that_a_silent_store_leaves_waiting_is_told_before_the_end(engine: &str) {
    let Stuck { database, mut server, lock, mut claim } = stuck(engine, 1000);
    database.pause();
    let signalled = Instant::now();
    server.signal(libc::SIGTERM);
    let response = claim.receive();
    assert_eq!((response.status, &*response.headers["retry-after"]), (503, "1"), "{engine}: {response:?}");
    assert_eq!(
        response.headers.get("connection").map(String::as_str),
        Some("close"),
        "{engine}: {response:?}"
    );
    assert!(claim.is_closed(), "{engine}");
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{engine}: {status}");
    // The claim's time, and the statement's.
    assert!(signalled.elapsed() < Duration::from_secs(10), "{engine}: {:?}", signalled.elapsed());
    database.resume();
    drop(lock);
}

fn a_second_signal_ends_it_at_once_though_a_claim_waits(engine: &str) {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let Stuck { mut server, mut claim, lock, .. } = stuck(engine, 60_000);
        server.signal(libc::SIGTERM);
        server.await_log("stopping");
        // One that comes sooner is the same.
        thread::sleep(Duration::from_millis(150));
        assert!(server.is_running(), "{engine}: it waits for the claim");
        let signalled = Instant::now();
        server.signal(second);
        server.wait();
        assert!(signalled.elapsed() < Duration::from_secs(1), "{engine}: {:?}", signalled.elapsed());
        assert!(claim.is_closed(), "{engine}: it was not answered");
        drop(lock);
    }
}
