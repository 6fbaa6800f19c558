//! `idalloc check`: what it says of the account, the rows, the files and the ports, in words and as JSON.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use idalloc::store::report::Code;
use idalloc_testing::mariadb::{MariaDb, free_port, server_account};
use idalloc_testing::program::{Ended, Run};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "hunter2-hunter2-hunter2";

/// A directory with a configuration in it.
struct Site(TempDir);

impl Site {
    fn new(keys: Value) -> Site {
        let site = Site(TempDir::new().expect("a directory"));
        chmod(site.path(), 0o700);
        let mut config = json!({"HttpHost": "127.0.0.1", "DSN": "sqlite:ids.db"});
        config.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
        fs::write(site.path().join("config.json"), config.to_string()).expect("configure");
        site
    }

    /// With the embedded store in it.
    fn embedded(keys: Value) -> Site {
        let site = Site::new(keys);
        assert_eq!(site.run(&["init"]).code, Some(0));
        site
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, args: &[&str]) -> Ended {
        let ended = Run::new(self.path(), &[args, &["--config", "config.json"]].concat()).finish();
        assert!(!format!("{ended:?}").contains(SECRET), "{ended:?}");
        ended
    }

    /// Whether it is passed, and what it says for programs. For people it says the same.
    fn check(&self) -> Report {
        let (words, ended) = (self.run(&["check"]), self.run(&["check", "--json"]));
        assert_eq!((words.code, &words.stderr), (ended.code, &ended.stderr));
        let report = Report::of(&ended);
        for finding in &report.findings {
            let told = format!("{}{}", words.stdout, words.stderr);
            let message = finding["message"].as_str().expect("a text");
            let is_heading = matches!(finding["code"].as_str(), Some("configuration" | "store" | "rows"));
            assert!(is_heading || told.contains(message), "{message:?} is not in: {told}");
        }
        report
    }
}

/// What programs are told.
#[derive(Debug)]
struct Report {
    code: Option<i32>,
    result: String,
    findings: Vec<Value>,
}

impl Report {
    fn of(ended: &Ended) -> Report {
        let report: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        let findings = report["findings"].as_array().expect("findings").clone();
        let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        for finding in &findings {
            let members: Vec<_> = finding.as_object().expect("an object").keys().collect();
            assert_eq!(members, ["code", "message", "remedy", "severity"]);
            assert!(codes.iter().any(|code| finding["code"] == *code), "{finding}");
            assert!(["ok", "warning", "error"].iter().any(|severity| finding["severity"] == *severity));
        }
        Report { code: ended.code, result: report["result"].as_str().expect("a result").to_owned(), findings }
    }

    /// The messages and remedies with this severity and code.
    fn all(&self, severity: &str, code: &str) -> Vec<(&str, &str)> {
        let found = self.findings.iter().filter(|it| it["severity"] == severity && it["code"] == code);
        found
            .map(|it| (it["message"].as_str().expect("a text"), it["remedy"].as_str().unwrap_or("")))
            .collect()
    }

    /// The only one.
    fn one(&self, severity: &str, code: &str) -> (&str, &str) {
        let found = self.all(severity, code);
        assert_eq!(found.len(), 1, "{severity} {code}: {self:?}");
        found[0]
    }

    fn is_passed_without_warnings(&self) -> bool {
        self.code == Some(0) && self.result == "ok"
    }
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

// ---- the account ----

/// A configuration with an account of its own that has these privileges.
fn account(user: &str, grants: &[&str]) -> Site {
    let database = MariaDb::shared();
    database.exec(&format!("CREATE USER '{user}'@'%' IDENTIFIED BY '{SECRET}'"));
    for grant in grants {
        database.exec(&format!("GRANT {grant}"));
    }
    Site::new(json!({"DSN": format!("{user}:{SECRET}@tcp(127.0.0.1:{})/id_alloc_db", database.port())}))
}

#[test]
fn an_account_that_has_what_it_needs_passes() {
    let grants = ["SELECT, UPDATE ON id_alloc_db.segments TO least", "SLAVE MONITOR ON *.* TO least"];
    let report = account("least", &grants).check();
    assert!(report.is_passed_without_warnings(), "{report:?}");
    assert_eq!(report.one("ok", "account").0, "the account may do no more than idalloc needs");
    MariaDb::shared().exec("GRANT INSERT, DELETE ON id_alloc_db.* TO least");
}

/// As the image makes it: MARIADB_USER, with MARIADB_DATABASE.
#[test]
fn the_account_of_the_compose_file_has_what_it_needs() {
    const GRANTS: &str = include_str!("../../deploy/docker-grants.sql");
    let database = MariaDb::start();
    database.exec(&format!("CREATE USER 'idalloc'@'%' IDENTIFIED BY '{SECRET}'"));
    database.exec(r"GRANT ALL ON `id\_alloc\_db`.* TO 'idalloc'@'%'");
    let dsn = format!("idalloc:{SECRET}@tcp(127.0.0.1:{})/id_alloc_db", database.port());
    let site = Site::new(json!({ "DSN": dsn }));
    site.check().one("warning", "account");
    let lines = GRANTS.lines().filter(|line| !line.starts_with("--"));
    lines.for_each(|statement| database.exec(statement));
    let report = site.check();
    assert!(report.is_passed_without_warnings(), "{report:?}");
    for args in [&["tag", "add", "orders", "--step", "10"][..], &["tag", "delete", "orders", "--yes"]] {
        assert_eq!(site.run(args).code, Some(0), "{args:?}");
    }
}

#[test]
fn an_account_that_may_do_too_much_is_a_warning_with_the_grants_that_do() {
    for (number, (grant, expected)) in [
        ("DROP, CREATE ON id_alloc_db.*", "DROP on `id_alloc_db`.*, CREATE on `id_alloc_db`.*"),
        ("FILE ON *.*", "FILE on *.*"),
        ("ALL PRIVILEGES ON id_alloc_db.*", "ALL PRIVILEGES on `id_alloc_db`.*"),
        ("SELECT ON *.*", "SELECT on *.*"),
    ]
    .into_iter()
    .enumerate()
    {
        let user = format!("much{number}");
        let least = format!("SELECT, UPDATE ON id_alloc_db.segments TO {user}");
        let site = account(
            &user,
            &[&least, &format!("SLAVE MONITOR ON *.* TO {user}"), &format!("{grant} TO {user}")],
        );
        let report = site.check();
        assert_eq!((report.code, report.result.as_str()), (Some(0), "warning"));
        let (message, remedy) = report.one("warning", "account");
        let privileges = message.strip_prefix("the account may do more than idalloc needs: ").expect(message);
        let sorted = |text: &str| {
            let mut names: Vec<_> = text.split(", ").map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(sorted(privileges), sorted(expected));
        assert_holds(remedy, &["GRANT SELECT, UPDATE ON `id_alloc_db`.`segments` TO"]);
    }
    let report =
        account("granter", &["SELECT, UPDATE ON id_alloc_db.segments TO granter WITH GRANT OPTION"]).check();
    assert_holds(report.one("warning", "account").0, &["GRANT OPTION on `id_alloc_db`.`segments`"]);
}

#[test]
fn an_account_that_a_read_only_server_listens_to_is_a_warning_of_its_own_and_the_remedy_ends_it() {
    let database = MariaDb::start();
    let site = Site::new(json!({"DSN": database.dsn()}));
    let report = site.check();
    let warnings = report.all("warning", "account");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_holds(warnings[0].0, &["ALL PRIVILEGES on *.*", "read-only still takes its writes"]);
    assert_holds(warnings[1].0, &["GRANT OPTION on *.*"]);
    let (_, sql) = warnings[0].1.split_once("run: ").expect("statements");
    for statement in sql.split_once("; and put").expect("its end").0.split("; ") {
        database.exec(statement);
    }
    let dsn = format!("idalloc:a-password@tcp(127.0.0.1:{})/id_alloc_db", database.port());
    let report = Site::new(json!({"DSN": dsn})).check();
    report.one("ok", "account");
    for (user, privilege) in [("super", "SUPER"), ("reader", "READ_ONLY ADMIN")] {
        database.exec(&format!("CREATE USER {user} IDENTIFIED BY 'p'"));
        database.exec(&format!("GRANT SELECT, UPDATE ON id_alloc_db.segments TO {user}"));
        database.exec(&format!("GRANT {privilege} ON *.* TO {user}"));
        let dsn = format!("{user}:p@tcp(127.0.0.1:{})/id_alloc_db", database.port());
        let report = Site::new(json!({"DSN": dsn})).check();
        assert_holds(report.one("warning", "account").0, &[privilege, "read-only still takes its writes"]);
    }
}

#[test]
fn what_a_role_gives_is_looked_at_too() {
    let database = MariaDb::shared();
    database.exec("CREATE ROLE powers");
    database.exec("GRANT SELECT, UPDATE, DROP ON id_alloc_db.* TO powers");
    let site = account("player", &["powers TO player"]);
    database.exec("SET DEFAULT ROLE powers FOR player");
    let report = site.check();
    assert_holds(report.one("warning", "account").0, &["DROP on `id_alloc_db`.*"]);
    assert_holds(report.one("ok", "account").0, &["has roles"]);
}

#[test]
fn an_account_that_lacks_what_it_needs_is_an_error() {
    let report = account("reads", &["SELECT ON id_alloc_db.segments TO 'reads'@'%'"]).check();
    assert_eq!((report.code, report.result.as_str()), (Some(1), "error"));
    assert_holds(
        report.one("error", "store").0,
        &["UPDATE command denied", "run: GRANT UPDATE ON `segments` TO"],
    );
}

/// MariaDB knows no such plugin, and says of an account what it was told.
#[test]
fn an_account_whose_password_a_server_may_ask_for_is_warned_of_before_it_does() {
    let database = MariaDb::start();
    database.exec(&format!("CREATE USER asked@'%' IDENTIFIED BY '{SECRET}'"));
    database.exec("GRANT SELECT, UPDATE ON id_alloc_db.segments TO asked");
    database.exec(
        "UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.auth_or', JSON_ARRAY(JSON_OBJECT(), \
         JSON_OBJECT('plugin', 'caching_sha2_password', 'authentication_string', ''))) WHERE User = 'asked'",
    );
    database.exec("FLUSH PRIVILEGES");
    let check = |params: &str, place: String| {
        Site::new(json!({"DSN": format!("asked:{SECRET}@{place}/id_alloc_db{params}")})).check()
    };
    let tcp = || format!("tcp(127.0.0.1:{})", database.port());
    let report = check("", tcp());
    let (message, remedy) = report.one("warning", "password");
    assert_holds(message, &["caching_sha2_password", "is refused access"]);
    assert_holds(remedy, &["tls=true", "serverPubKey="]);
    let report = check("", format!("unix({})", database.socket().display()));
    assert_eq!(report.all("warning", "password"), []);
}

// ---- the rows ----

#[test]
fn rows_that_get_no_ids_are_errors_and_only_the_first_are_shown() {
    let database = MariaDb::start();
    let site = Site::new(json!({"DSN": database.dsn()}));
    database.exec(
        "INSERT INTO segments (app_tag, max_id, step) VALUES ('negative', -5, 10), ('stepless', 1, 0), \
         ('spent', 9223372036854775800, 10), ('fine', 1, 1)",
    );
    let report = site.check();
    assert_eq!((report.code, report.result.as_str()), (Some(1), "error"));
    let faults = report.all("error", "row-at-fault");
    assert_eq!(faults.len(), 3, "{faults:?}");
    for (tag, reason) in [
        ("negative", "max_id is -5"),
        ("stepless", "step is 0: allowed is 1 to 1000000000"),
        ("spent", "max_id is 9223372036854775800: its step of 10 does not fit below 2^63"),
    ] {
        let (message, remedy) = faults.iter().find(|(message, _)| message.contains(tag)).expect(tag);
        assert!(message.contains(reason) && !remedy.is_empty(), "{message}; {remedy}");
    }
    assert_holds(report.one("error", "rows").0, &["3 rows of the table get no IDs"]);
    database.exec("DELETE FROM segments WHERE app_tag IN ('negative', 'stepless')");
    database.exec("UPDATE segments SET max_id = 9223372036854000000 WHERE app_tag = 'spent'");
    let report = site.check();
    assert_eq!(report.code, Some(0));
    assert_holds(report.one("warning", "row-near-end").0, &["spent", "leaves 775807 IDs"]);
    database
        .exec("INSERT INTO segments (app_tag, max_id, step) SELECT CONCAT('t', seq), 1, 0 FROM seq_1_to_500");
    let report = site.check();
    let faults = report.all("error", "row-at-fault");
    assert_eq!(faults.len(), 21, "{faults:?}");
    assert_eq!(faults[20].0, "and 480 more rows");
    assert_holds(report.one("error", "rows").0, &["500 rows of the table get no IDs"]);
}

#[test]
fn what_a_row_holds_cannot_steer_a_terminal_or_break_the_json() {
    let site = Site::embedded(json!({}));
    let file = rusqlite::Connection::open(site.path().join("ids.db")).expect("open");
    let name = "x\n  good: forged\u{1b}[2J\u{202e}";
    file.execute("INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 1, 0)", [name]).expect("insert");
    let (words, json) = (site.run(&["check"]), site.run(&["check", "--json"]));
    for ended in [&words, &json] {
        let is_foul = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!ended.stdout.contains(is_foul), "{ended:?}");
    }
    assert!(!words.stdout.lines().any(|line| line.trim() == "good: forged"), "{words:?}");
    assert_holds(Report::of(&json).one("error", "row-at-fault").0, &["forged"]);
}

// ---- files ----

#[test]
fn a_configuration_with_secrets_that_others_can_read_is_warned_of() {
    let site = Site::embedded(json!({"AdminToken": SECRET, "AccessTokens": {SECRET: "*"}}));
    let config = site.path().join("config.json");
    chmod(&config, 0o644);
    // Nobody else gets into its directory.
    assert_holds(site.check().one("ok", "configuration-file").0, &["holds secrets, and not every account"]);
    chmod(site.path(), 0o755);
    let report = site.check();
    assert_eq!(report.code, Some(0));
    let (message, remedy) = report.one("warning", "configuration-file");
    assert_holds(message, &["(mode 644)", "can be read by every account", "AccessTokens, AdminToken"]);
    let command = remedy.strip_prefix("run: ").expect("a command");
    assert!(
        Command::new("sh").args(["-c", command]).current_dir(site.path()).status().expect("sh").success()
    );
    assert_eq!(fs::metadata(&config).expect("the file").permissions().mode() & 0o777, 0o640);
    site.check().one("ok", "configuration-file");
    chmod(&config, 0o646);
    assert_holds(site.check().one("warning", "configuration-file").0, &["can be changed by every account"]);
}

#[test]
fn a_configuration_without_secrets_may_be_read_by_all() {
    let site = Site::embedded(json!({}));
    chmod(site.path(), 0o755);
    chmod(&site.path().join("config.json"), 0o444);
    assert_holds(site.check().one("ok", "configuration-file").0, &["holds no secrets"]);
    // What the environment has instead of the file is not in the file.
    let args = ["check", "--json", "--config", "config.json"];
    let ended = Run::new(site.path(), &args).env("IDALLOC_ADMIN_TOKEN", SECRET).finish();
    assert_holds(Report::of(&ended).one("ok", "configuration-file").0, &["holds no secrets"]);
}

#[test]
fn a_symbolic_link_to_a_file_that_servers_write_is_warned_of() {
    let site = Site::embedded(json!({"WatermarkPath": "marks.db"}));
    let report = site.check();
    report.one("ok", "watermark-file");
    assert!(report.all("warning", "database-file").is_empty(), "{report:?}");
    fs::create_dir(site.path().join("real")).expect("mkdir");
    for (name, code) in [("marks.db", "watermark-file"), ("ids.db", "database-file")] {
        let (link, target) = (site.path().join(name), site.path().join("real").join(name));
        let _ = fs::rename(&link, &target);
        symlink(&target, &link).expect("a link");
        let report = site.check();
        assert_eq!(report.code, Some(0), "{report:?}");
        let (message, remedy) = report.one("warning", code);
        assert_holds(message, &[name, "a symbolic link to", target.to_str().expect("UTF-8")]);
        assert_holds(remedy, &["name the file itself"]);
    }
}

#[test]
fn files_that_others_can_write_are_warned_of() {
    let site = Site::embedded(json!({"WatermarkPath": "marks/marks.db"}));
    chmod(site.path(), 0o755);
    let marks = site.path().join("marks");
    fs::create_dir(&marks).expect("mkdir");
    chmod(&site.path().join("ids.db"), 0o666);
    chmod(&marks, 0o777);
    let report = site.check();
    assert_eq!(report.code, Some(0));
    assert_holds(report.one("warning", "database-file").0, &["ids.db can be changed by every account"]);
    assert_holds(report.one("warning", "watermark-file").0, &["can be replaced by every account"]);
    // As /tmp is.
    chmod(&marks, 0o1777);
    site.check().one("ok", "watermark-file");
}

#[test]
fn a_place_where_the_account_cannot_write_is_warned_of() {
    let site = Site::embedded(json!({"WatermarkPath": "locked/marks.db"}));
    let locked = site.path().join("locked");
    fs::create_dir(&locked).expect("mkdir");
    chmod(&locked, 0o555);
    // Root may write anywhere, so another account asks: with a program that it gets at.
    let program = site.path().join("idalloc");
    fs::copy(env!("CARGO_BIN_EXE_idalloc"), &program).expect("copy the program");
    chmod(site.path(), 0o755);
    chmod(&site.path().join("config.json"), 0o644);
    let mut command = Command::new(&program);
    command
        .args(["check", "--json", "--config", "config.json"])
        .current_dir(site.path())
        .env_remove("IDALLOC_DSN");
    if let Some(account) = server_account() {
        command.uid(account.uid).gid(account.gid);
    }
    let output = command.output().expect("run the check");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let ended =
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    let report = Report::of(&ended);
    let (message, remedy) = report.one("warning", "watermark-file");
    assert_holds(message, &["cannot write in the directory of locked/marks.db", "Permission denied"]);
    assert_holds(remedy, &["WatermarkPath"]);
    chmod(&locked, 0o755);
}

// ---- ports ----

#[test]
fn a_port_that_is_open_to_others_without_tokens_is_warned_of() {
    let check = |keys: Value| Site::embedded(keys).check();
    let report = check(json!({"HttpHost": "0.0.0.0", "HttpPort": 8880}));
    assert_eq!(report.code, Some(0));
    let (message, remedy) = report.one("warning", "clients-port");
    assert_holds(message, &["0.0.0.0:8880", "asks for no token"]);
    assert_holds(remedy, &["AccessTokens", "HttpHost"]);
    for keys in [
        json!({"HttpHost": "127.0.0.1"}),
        json!({"HttpHost": "::1"}),
        json!({"HttpHost": "::", "AccessTokens": {SECRET: "*"}}),
    ] {
        check(keys).one("ok", "clients-port");
    }
    for (keys, expected) in [
        (json!({}), "127.0.0.1:8881 is open to every account of this machine"),
        (json!({"AdminHost": "::", "AdminToken": SECRET}), "[::]:8881 asks for a token"),
        (json!({"AdminPort": 0}), "there is no operator's port"),
    ] {
        assert_holds(check(keys).one("ok", "operators-port").0, &[expected]);
    }
}

// ---- for programs ----

#[test]
fn programs_are_told_of_what_ends_the_check_too() {
    let report = |site: Site, code: &str| -> String {
        let report = site.check();
        assert_eq!((report.code, report.result.as_str()), (Some(1), "error"));
        report.one("error", code).0.to_owned()
    };
    assert_holds(&report(Site::new(json!({"HttpPort": -1})), "configuration"), &["HttpPort is -1"]);
    let port = free_port();
    let dsn = format!("root:{SECRET}@tcp(127.0.0.1:{port})/id_alloc_db");
    assert_holds(&report(Site::new(json!({ "DSN": dsn })), "store"), &["unreachable", &port.to_string()]);
    assert_holds(&report(Site::new(json!({})), "store"), &["idalloc init"]);
    let dsn = MariaDb::shared().dsn();
    let missing = Site::new(json!({"DSN": dsn, "table": "nowhere"}));
    assert_holds(&report(missing, "table"), &["CREATE TABLE"]);
    let args = ["check", "--json", "--config", "config.json", "--unknown"];
    let ended = Run::new(Path::new("/"), &args).finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
}

#[test]
fn the_help_says_what_the_exit_codes_mean() {
    let help = Run::new(Path::new("/"), &["check", "--help"]).finish();
    assert_eq!(help.code, Some(0));
    let words: Vec<_> = help.stdout.split_whitespace().collect();
    assert_holds(
        &words.join(" "),
        &["--json", "exits with 0 if all is good, or if there are warnings only", "with 1 if", "with 2 if"],
    );
}
