//! Tags from the shell, on both stores: `idalloc tag`, `schema` and `init`, beside a running server and without one.

use std::process::Stdio;
use std::time::Instant;

use idalloc_testing::mariadb::{MariaDb, PASSWORD};
use idalloc_testing::program::{Ended, Run};
use idalloc_testing::proxy::{Loss, Proxy};
use idalloc_testing::server::{PATIENCE, Server, Setup};
use idalloc_testing::terminal::Terminal;
use pty_process::blocking::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// One configuration, with a table of its own.
struct Site {
    dir: TempDir,
    dsn: String,
    table: String,
}

impl Site {
    fn mariadb(name: &str) -> Site {
        Site::new(MariaDb::shared().dsn(), &format!("shell_{name}"))
    }

    fn sqlite(_: &str) -> Site {
        Site::new("sqlite:ids.db".to_owned(), "segments")
    }

    fn new(dsn: String, table: &str) -> Site {
        let site = Site { dir: TempDir::new().expect("a directory"), dsn, table: table.to_owned() };
        site.configure(json!({"DSN": site.dsn, "table": table}));
        site
    }

    fn configure(&self, config: Value) {
        std::fs::write(self.dir.path().join("config.json"), config.to_string()).expect("configure");
    }

    /// With the table, and no tag in it.
    fn prepared(self) -> Site {
        assert_done(&self.run(&["init"]));
        self.sql(&format!("DELETE FROM {}", self.table));
        self
    }

    /// Runs one statement behind idalloc's back.
    fn sql(&self, sql: &str) {
        match self.dsn.strip_prefix("sqlite:") {
            Some(file) => {
                let file = rusqlite::Connection::open(self.dir.path().join(file)).expect("open the file");
                file.execute_batch(sql).expect(sql);
            }
            None => MariaDb::shared().exec(sql),
        }
    }

    fn run(&self, args: &[&str]) -> Ended {
        let ended = Run::new(self.dir.path(), &[args, &["--config", "config.json"]].concat()).finish();
        assert!(!format!("{ended:?}").contains(PASSWORD), "{ended:?}");
        ended
    }

    /// What a command prints that succeeds.
    fn output(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_done(&ended);
        ended.stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.output(&[args, &["--json"]].concat());
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    fn serve(&self, reload_seconds: u64) -> Server {
        let dsn = match self.dsn.strip_prefix("sqlite:") {
            Some(file) => format!("sqlite:{}", self.dir.path().join(file).display()),
            None => self.dsn.clone(),
        };
        Setup::on(&dsn).key("table", self.table.as_str()).key("TagReloadSeconds", reload_seconds).start()
    }
}

fn assert_done(ended: &Ended) {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// Makes two tests of each function: one for each store.
macro_rules! on_both_stores {
    ($($test:ident)*) => {
        mod on_mariadb {
            $(#[test] fn $test() { super::$test(super::Site::mariadb(stringify!($test))); })*
        }
        mod on_sqlite {
            $(#[test] fn $test() { super::$test(super::Site::sqlite(stringify!($test))); })*
        }
    };
}

on_both_stores! {
    init_makes_the_table_once_and_says_so
    the_schema_makes_a_table_that_passes_the_check
    a_tag_lives_from_add_to_delete
    a_description_is_kept_where_there_is_a_column_for_it
    the_list_is_searched_and_sorted_and_aligned
    text_that_would_steer_the_terminal_is_quoted
    what_cannot_be_done_is_said_on_stderr_and_changes_nothing
    values_that_are_not_allowed_are_a_usage_error
    a_failure_names_what_was_changed_before
    delete_asks_on_a_terminal_and_refuses_without_one
    a_reader_that_leaves_is_no_error
    a_new_tag_is_served_at_once
    a_new_step_counts_once_the_table_is_read
    a_deleted_tag_is_gone_once_the_table_is_read
    a_raised_max_id_is_skipped_by_a_running_server
}

fn init_makes_the_table_once_and_says_so(site: Site) {
    let made = site.output(&["init"]);
    assert_holds(&made, &[&format!("table {}: created", site.table), "next: idalloc tag add TAG --step N"]);
    site.output(&["tag", "add", "orders", "--step", "10"]);
    let found = site.output(&["init"]);
    assert_eq!(found.matches("is there already, nothing changed").count(), 2, "{found}");
    assert!(!found.contains("created"), "{found}");
    assert_eq!(site.json(&["tag", "show", "orders"])["step"], 10);
    assert_done(&site.run(&["check"]));
}

fn the_schema_makes_a_table_that_passes_the_check(site: Site) {
    let sql = site.output(&["schema"]);
    for _ in ["made", "found"] {
        sql.split(";\n").filter(|text| !text.trim().is_empty()).for_each(|statement| site.sql(statement));
    }
    assert_done(&site.run(&["check"]));
    assert_eq!(site.json(&["tag", "list"]), json!([]));
}

fn a_tag_lives_from_add_to_delete(site: Site) {
    let site = site.prepared();
    let added = site.output(&["tag", "add", "orders", "--step", "10"]);
    assert_eq!(added, "added \"orders\": step 10, first ID 1\n");
    let tag = |step: i64, max_id: &str| json!({"app_tag": "orders", "step": step, "max_id": max_id, "description": null});
    assert_eq!(site.json(&["tag", "show", "orders"]), tag(10, "1"));
    assert_eq!(
        site.output(&["tag", "show", "orders"]),
        "app_tag      orders\nstep         10\nmax_id       1\ndescription  -\n"
    );
    let changed = site.output(&["tag", "set", "orders", "--step", "20", "--max-id", "500"]);
    assert_eq!(changed, "changed \"orders\": step 20 (was 10), max_id 500 (was 1)\n");
    assert_eq!(site.json(&["tag", "set", "orders", "--max-id", "500"]), tag(20, "500"));
    assert_eq!(site.json(&["tag", "advance", "orders", "--to", "600"]), tag(20, "600"));
    // It is there already.
    let advanced = site.output(&["tag", "advance", "orders", "--to", "600"]);
    assert_eq!(advanced, "max_id of \"orders\" is 600\n");

    let big = site.json(&["tag", "add", "big", "--step", "5", "--start", "9123372036854775807"]);
    assert_eq!(big["max_id"], "9123372036854775807");
    assert_eq!(site.json(&["tag", "list"]), json!([big, tag(20, "600")]));
    assert_holds(&site.output(&["tag", "delete", "orders", "--yes"]), &["deleted \"orders\"", "600"]);
    assert_eq!(site.json(&["tag", "list"]), json!([big]));
}

fn a_description_is_kept_where_there_is_a_column_for_it(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "plain", "--step", "1"]);
    for args in [
        &["tag", "set", "plain", "--step", "2", "--description", "why"][..],
        &["tag", "add", "orders", "--step", "1", "--description", "why"],
    ] {
        let ended = site.run(args);
        let complaint = ended.only_complaint();
        assert_holds(complaint, &["description is \"why\": ", "ALTER TABLE"]);
    }
    assert_eq!(site.json(&["tag", "list"])[0]["step"], 1, "nothing was changed");
    site.sql(&format!("ALTER TABLE {} ADD COLUMN description TEXT", site.table));
    site.output(&["tag", "add", "orders", "--step", "1", "--description", "of the shop"]);
    assert_eq!(site.json(&["tag", "show", "orders"])["description"], "of the shop");
    let changed = site.output(&["tag", "set", "orders", "--description", "of both shops"]);
    assert_eq!(changed, "changed \"orders\": description set\n");
    assert_holds(&site.output(&["tag", "show", "orders"]), &["description  of both shops"]);
    let table = "APP_TAG  STEP  MAX_ID  DESCRIPTION\norders      1       1  of both shops\nplain       1       1  -\n";
    assert_eq!(site.output(&["tag", "list"]), table);
}

fn the_list_is_searched_and_sorted_and_aligned(site: Site) {
    let site = site.prepared();
    assert_eq!(site.output(&["tag", "list"]), "APP_TAG  STEP  MAX_ID\n");
    for (tag, step, start) in [("Orders", "7", "5"), ("invoices", "100000", "70"), ("back-orders", "30", "6")]
    {
        site.output(&["tag", "add", tag, "--step", step, "--start", start]);
    }
    let rows =
        ["Orders            7       5\n", "back-orders      30       6\n", "invoices     100000      70\n"];
    let listed = |order: [usize; 3]| {
        order.iter().fold("APP_TAG        STEP  MAX_ID\n".to_owned(), |text, &row| text + rows[row])
    };
    assert_eq!(site.output(&["tag", "list"]), listed([0, 1, 2]));
    assert_eq!(site.output(&["tag", "list", "--sort", "app_tag"]), listed([0, 1, 2]));
    assert_eq!(site.output(&["tag", "list", "--sort", "step"]), listed([2, 1, 0]));
    assert_eq!(site.output(&["tag", "list", "--sort", "max_id"]), listed([2, 1, 0]));
    for (tag, day) in [("Orders", 2), ("invoices", 1), ("back-orders", 3)] {
        let table = &site.table;
        site.sql(&format!(
            "UPDATE {table} SET update_time = '2001-01-0{day} 00:00:00' WHERE app_tag = '{tag}'"
        ));
    }
    assert_eq!(site.output(&["tag", "list", "--sort", "recent"]), listed([1, 0, 2]));
    let found = site.json(&["tag", "list", "--search", "ORDER"]);
    let found: Vec<&str> =
        found.as_array().expect("an array").iter().filter_map(|t| t["app_tag"].as_str()).collect();
    assert_eq!(found, ["Orders", "back-orders"]);
    assert_eq!(site.json(&["tag", "list", "--search", "%"]), json!([]));
}

fn text_that_would_steer_the_terminal_is_quoted(site: Site) {
    // ESC, the C1 form of it, and a mark that turns the direction of writing.
    const NAME: &str = "\u{1b}[2J\u{9b}2J\u{202e}";
    let site = site.prepared();
    site.sql(&format!("INSERT INTO {} (app_tag, max_id, step) VALUES ('{NAME}', 0, 1)", site.table));
    let is_harmless = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}');
    for command in [&["tag", "list", "--json"][..], &["tag", "show", NAME, "--json"]] {
        let output = site.output(command);
        assert!(is_harmless(&output), "{output:?}");
        let printed: Value = serde_json::from_str(&output).expect("JSON");
        let tag = printed.get(0).unwrap_or(&printed);
        assert_eq!(tag["app_tag"], NAME, "a program reads the same name");
    }
    let unknown = site.run(&["tag", "show", &format!("{NAME}\u{fe0f}")]);
    assert!(is_harmless(&unknown.stderr) && unknown.stderr.contains(r"\u{fe0f}"), "{unknown:?}");
    for command in [&["tag", "list"][..], &["tag", "show", NAME], &["tag", "delete", NAME, "--yes"]] {
        let output = site.output(command);
        assert!(output.contains(r#""\u{1b}[2J\u{9b}2J\u{202e}""#) && is_harmless(&output), "{output:?}");
    }
}

fn what_cannot_be_done_is_said_on_stderr_and_changes_nothing(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "10", "--start", "500"]);
    let before = site.json(&["tag", "list"]);
    for (args, expected) in [
        (&["add", "orders", "--step", "1"][..], &["tag \"orders\" exists already"][..]),
        (
            &["set", "orders", "--step", "11", "--max-id", "499"],
            &["max_id is 499: the table has 500, and max_id only goes up"],
        ),
        (&["advance", "orders", "--to", "499"], &["to is 499: the table has 500, and max_id only goes up"]),
        (
            &["set", "orders", "--max-id", "9223372036854775807"],
            &[
                "max_id is 9223372036854775807: allowed is up to 9123372036854775807, which leaves 100000000000000000 IDs",
            ],
        ),
        (&["show", "Orders"], &["no tag \"Orders\" in ", &site.table, "idalloc tag list"]),
        (&["show", ""], &["no tag \"\" in "]),
        (&["set", "order", "--step", "1"], &["no tag \"order\" in "]),
        (&["delete", "order", "--yes"], &["no tag \"order\" in "]),
        (&["advance", "order", "--to", "5"], &["no tag \"order\" in "]),
    ] {
        let ended = site.run(&[&["tag"], args].concat());
        assert_holds(ended.only_complaint(), expected);
    }
    assert_eq!(site.json(&["tag", "list"]), before);
    site.configure(json!({"DSN": site.dsn, "table": site.table, "HttpPort": -1}));
    for args in [&["tag", "list"][..], &["schema"], &["init"]] {
        assert_holds(site.run(args).only_complaint(), &["HttpPort is -1"]);
    }
}

fn values_that_are_not_allowed_are_a_usage_error(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "10"]);
    let long = "x".repeat(129);
    for (args, expected) in [
        (&["tag", "add", "a"][..], "--step <N>"),
        (&["tag", "add", "--step", "1"], "<TAG>"),
        (&["tag", "add", "", "--step", "1"], "app_tag is \"\": allowed is 1 to 128 bytes"),
        (&["tag", "add", &long, "--step", "1"], "(129 bytes): allowed is 1 to 128 bytes"),
        (&["tag", "add", "..", "--step", "1"], "app_tag is \"..\": allowed is"),
        (&["tag", "add", "a\n", "--step", "1"], "app_tag is \"a\\n\": allowed is"),
        (&["tag", "add", "a", "--step", "0"], "step is 0: allowed is 1 to 1000000000"),
        (&["tag", "add", "a", "--step", "-1"], "step is -1: allowed is 1 to 1000000000"),
        (&["tag", "add", "a", "--step", "1e3"], "allowed is a whole number, 1 to 1000000000"),
        (
            &["tag", "add", "a", "--step", "9000000000000000000"],
            "step is 9000000000000000000: allowed is 1 to 1000000000",
        ),
        (&["tag", "add", "a", "--step", "9223372036854775808"], "allowed is a whole number"),
        (
            &["tag", "add", "a", "--step", "1", "--start", "0"],
            "start is 0: allowed is 1 to 9123372036854775807",
        ),
        (
            &["tag", "add", "a", "--step", "1", "--description", "a\nb"],
            "description is \"a\\nb\": allowed is",
        ),
        (&["tag", "set", "orders"], "--step <N>|--max-id <MAX_ID>|--description <TEXT>"),
        (&["tag", "set", "orders", "--step", "0"], "step is 0: allowed is 1 to"),
        (&["tag", "set", "orders", "--max-id", "0"], "max_id is 0: allowed is 1 to"),
        (&["tag", "advance", "orders", "--to", "-5"], "max_id is -5: allowed is 1 to"),
        (&["tag", "list", "--sort", "age"], "[possible values: app_tag, max_id, step, recent]"),
        (&["tag", "drop", "orders"], "drop"),
    ] {
        let ended = site.run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert_holds(&ended.stderr, &[expected]);
    }
    let tag = json!({"app_tag": "orders", "step": 10, "max_id": "1", "description": null});
    assert_eq!(site.json(&["tag", "list"]), json!([tag]));
}

fn a_failure_names_what_was_changed_before(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "10"]);
    let table = &site.table;
    match site.dsn.starts_with("sqlite:") {
        true => site.sql(&format!(
            "CREATE TRIGGER t BEFORE UPDATE OF max_id ON {table} BEGIN SELECT RAISE(ABORT, 'not today'); END"
        )),
        false => site.sql(&format!(
            "CREATE TRIGGER t_{table} BEFORE UPDATE ON {table} FOR EACH ROW IF NEW.max_id <> OLD.max_id THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'; END IF"
        )),
    }
    let ended = site.run(&["tag", "set", "orders", "--step", "20", "--max-id", "500"]);
    assert_holds(
        ended.only_complaint(),
        &["not today", "max_id was changed all the same is unknown", "of the tag was changed before: step"],
    );
    assert_eq!(site.json(&["tag", "show", "orders"])["step"], 20);
}

/// Runs a command on a terminal of its own, types `keys` when it has shown `prompt`, and returns its exit code and what
/// is on the terminal then.
fn on_a_terminal(site: &Site, args: &[&str], prompt: &str, keys: &str) -> (Option<i32>, String) {
    let command = Command::new(env!("CARGO_BIN_EXE_idalloc")).env_remove("IDALLOC_DSN");
    let mut terminal = Terminal::start(command.current_dir(site.dir.path()).args(args), 20, 200);
    terminal.await_text(prompt);
    terminal.type_text(keys);
    let status = terminal.wait();
    (status.code(), terminal.text())
}

fn delete_asks_on_a_terminal_and_refuses_without_one(site: Site) {
    const END_OF_FILE: &str = "\u{4}";
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "10", "--start", "500"]);
    let delete = ["tag", "delete", "orders", "--config", "config.json"];
    let ended = site.run(&["tag", "delete", "orders"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    assert_holds(&ended.stderr, &["idalloc: there is no terminal to ask on: give --yes"]);
    let question = "Delete the tag \"orders\" (step 10, max_id 500)? [y/N] ";
    for answer in ["n\n", "\n", "orders\n", END_OF_FILE] {
        let (code, shown) = on_a_terminal(&site, &delete, question, answer);
        assert_eq!(code, Some(1), "{shown}");
        assert_holds(&shown, &["idalloc: \"orders\" is not deleted"]);
        assert_eq!(site.json(&["tag", "show", "orders"])["max_id"], "500");
    }
    let (code, shown) = on_a_terminal(&site, &delete, question, "y\n");
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(site.json(&["tag", "list"]), json!([]));
    // Nothing is asked about what is not there.
    let (code, shown) = on_a_terminal(&site, &delete, "no tag", "");
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("no tag \"orders\"") && !shown.contains('?'), "{shown}");
}

fn a_reader_that_leaves_is_no_error(site: Site) {
    let site = site.prepared();
    for args in [&["tag", "list"][..], &["tag", "list", "--json"], &["schema"], &["check"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_idalloc"));
        command.args(args).args(["--config", "config.json"]).current_dir(site.dir.path());
        command.env_remove("IDALLOC_DSN").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start idalloc");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

fn a_new_tag_is_served_at_once(site: Site) {
    let site = site.prepared();
    let server = site.serve(3600);
    assert_eq!(server.get("/alloc?app_tag=orders").status, 404);
    site.output(&["tag", "add", "orders", "--step", "10", "--start", "500"]);
    assert_eq!(server.await_status("/alloc?app_tag=orders", 200).id(), 500);
}

fn a_new_step_counts_once_the_table_is_read(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "1"]);
    let server = site.serve(1);
    assert_eq!(server.get("/alloc?app_tag=orders").id(), 1);
    site.output(&["tag", "set", "orders", "--step", "1000000"]);
    let max_id =
        || site.json(&["tag", "show", "orders"])["max_id"].as_str().map(|id| id.parse::<i64>().unwrap());
    let deadline = Instant::now() + PATIENCE;
    while max_id() < Some(1_000_000) {
        assert!(Instant::now() < deadline, "the step stays: {:?}", max_id());
        server.get("/alloc?app_tag=orders");
    }
}

fn a_deleted_tag_is_gone_once_the_table_is_read(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "1000"]);
    let server = site.serve(1);
    assert_eq!(server.get("/alloc?app_tag=orders").id(), 1);
    site.output(&["tag", "delete", "orders", "--yes"]);
    server.await_status("/alloc?app_tag=orders", 404);
}

fn a_raised_max_id_is_skipped_by_a_running_server(site: Site) {
    let site = site.prepared();
    site.output(&["tag", "add", "orders", "--step", "1"]);
    let server = site.serve(3600);
    assert_eq!(server.get("/alloc?app_tag=orders").id(), 1);
    site.output(&["tag", "set", "orders", "--max-id", "1000000"]);
    let deadline = Instant::now() + PATIENCE;
    while server.get("/alloc?app_tag=orders").id() < 1_000_000 {
        assert!(Instant::now() < deadline, "max_id is never reached");
    }
}

// ---- what only MariaDB has ----

#[test]
fn init_makes_the_database_too() {
    let dsn = MariaDb::shared().dsn().replace("id_alloc_db", "made_by_init");
    let site = Site::new(dsn, "ids");
    site.configure(json!({"DSN": site.dsn, "table": site.table, "TagColumn": "biz_tag"}));
    let made = site.output(&["init"]);
    assert_holds(&made, &["database made_by_init: created\ntable ids: created\nnext: "]);
    assert_eq!(site.json(&["tag", "list"]), json!([]));
    assert_eq!(site.json(&["tag", "add", "orders", "--step", "5"])["app_tag"], "orders");

    site.configure(json!({"DSN": site.dsn, "table": "made_by_init_too.ids"}));
    assert_holds(&site.output(&["init"]), &["database made_by_init_too: created\ntable ids: created\n"]);
    assert_holds(&site.output(&["schema"]), &["`made_by_init_too`.`ids`", "`app_tag`"]);
}

#[test]
fn a_user_who_may_not_change_is_told_which_right_is_missing() {
    let server = MariaDb::shared();
    let site = Site::mariadb("guarded").prepared();
    site.output(&["tag", "add", "orders", "--step", "10"]);
    server.exec("CREATE USER looker@127.0.0.1 IDENTIFIED BY 'l'");
    server.exec("GRANT SELECT, UPDATE ON id_alloc_db.shell_guarded TO looker@127.0.0.1");
    let dsn = site.dsn.replace(&format!("root:{PASSWORD}"), "looker:l");
    site.configure(json!({"DSN": dsn, "table": site.table}));
    assert_eq!(site.json(&["tag", "list"])[0]["app_tag"], "orders");
    site.output(&["tag", "set", "orders", "--step", "20"]);
    for (args, right) in [
        (&["tag", "add", "b", "--step", "1"][..], "INSERT command denied"),
        (&["tag", "delete", "orders", "--yes"], "DELETE command denied"),
    ] {
        assert_holds(site.run(args).only_complaint(), &["store refuses access", right]);
    }
    assert_done(&site.run(&["init"]));
    site.configure(json!({"DSN": dsn, "table": "shell_missing"}));
    assert_holds(site.run(&["init"]).only_complaint(), &["store refuses access", "CREATE command denied"]);
}

#[test]
fn a_change_whose_outcome_is_unknown_is_said_to_be() {
    let site = Site::mariadb("silent").prepared();
    site.output(&["tag", "add", "orders", "--step", "10"]);
    let port = MariaDb::shared().port();
    let proxy = Proxy::before(port, " SET step");
    proxy.lose(Some(Loss::Closed));
    let behind_proxy = site.dsn.replace(&port.to_string(), &proxy.port().to_string());
    site.configure(json!({"DSN": behind_proxy, "table": site.table}));
    let ended = site.run(&["tag", "set", "orders", "--step", "20"]);
    assert_holds(
        ended.only_complaint(),
        &["store unreachable", "whether step was changed all the same is unknown", "idalloc tag show"],
    );
    // Nothing is in doubt where the store was not even reached.
    site.configure(json!({"DSN": "root:x@tcp(127.0.0.1:1)/db", "table": site.table}));
    let ended = site.run(&["tag", "add", "b", "--step", "20"]);
    assert!(!ended.only_complaint().contains("unknown"), "{ended:?}");
}
