//! What a session must be like for its statements to mean what they say. A new one has the server's defaults, and what
//! `init_connect` or a proxy made of them; so all that a statement relies on is set, and looked at afterwards.

use super::conn::Conn;
use super::{Failure, StoreError, rows};

/// How the server reads what we send, and writes what it answers.
const NAMES: &str = "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci";

/// That of InnoDB unless set otherwise: what another has not committed is not seen, and every form of the binary log
/// does with it.
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// How long a statement waits for a locked row or table, in seconds: no longer than MySQL makes it wait at least. A
/// server's defaults, 50 s and a day, would hold up the thread that serves the other tags.
const LOCK_WAIT_SECONDS: &str = "1";

/// The shortest wait that a server takes, in seconds, in SQL: none at all on MariaDB. MySQL's and TiDB's is 1.
const LOCK_WAIT_SECONDS_MIN: &str = "IF(VERSION() LIKE '%MariaDB%', 0, 1)";

/// No limit, to variables that have one.
const NO_LIMIT: &str = "18446744073709551615";

/// What is set, in SQL; in this order, because a change of `max_join_size` changes `sql_big_selects`.
const SETTINGS: [(&str, &str); 8] = [
    ("sql_mode", "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"),
    ("autocommit", "1"),
    ("sql_select_limit", NO_LIMIT),
    ("max_join_size", NO_LIMIT),
    ("sql_big_selects", "1"),
    ("sql_safe_updates", "0"),
    ("sql_auto_is_null", "0"),
    // That of a row's update_time, if it is a DATETIME: local time goes back once a year.
    ("time_zone", "'+00:00'"),
];

/// MariaDB's limit of a statement's time, which other servers do not have; our deadline is the limit.
const MARIADB_ONLY: &str = "/*M! , max_statement_time = 0 */";

/// What has to be found afterwards; a server need not have all of these variables.
const EXPECTED: [(&str, &str); 15] = [
    ("character_set_client", "utf8mb4"),
    ("character_set_connection", "utf8mb4"),
    ("character_set_results", "utf8mb4"),
    ("collation_connection", "utf8mb4_general_ci"),
    ("sql_mode", "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"),
    ("autocommit", "ON"),
    ("sql_select_limit", NO_LIMIT),
    ("max_join_size", NO_LIMIT),
    ("sql_big_selects", "ON"),
    ("sql_safe_updates", "OFF"),
    ("sql_auto_is_null", "OFF"),
    ("time_zone", "+00:00"),
    ("tx_isolation", "REPEATABLE-READ"),
    ("transaction_isolation", "REPEATABLE-READ"),
    // Nobody's but an operator's to set: what is not in the binary log, no replica ever has.
    ("sql_log_bin", "ON"),
];

/// Makes a new session what it must be.
pub(super) fn prepare(conn: &mut Conn, place: &str, waits_for_locks: bool) -> Result<(), Failure> {
    let mut refused = Vec::new();
    conn.query_drop(NAMES)?;
    let lock_wait_seconds = if waits_for_locks { LOCK_WAIT_SECONDS } else { LOCK_WAIT_SECONDS_MIN };
    let settings = SETTINGS.iter().map(|(name, value)| format!("{name} = {value}")).chain([
        format!("innodb_lock_wait_timeout = {lock_wait_seconds}"),
        format!("lock_wait_timeout = {lock_wait_seconds}"),
    ]);
    let settings: Vec<String> = settings.collect();
    if let Err(error) = conn.query_drop(format!("SET SESSION {} {MARIADB_ONLY}", settings.join(", "))) {
        // Which of them is it? One that the server does not have is not missed.
        insist_on_an_answer(error)?;
        for setting in &settings {
            if let Err(error) = conn.query_drop(format!("SET SESSION {setting}")) {
                refused.push(insist_on_an_answer(error)?);
            }
        }
    }
    if let Err(error) = conn.query_drop(ISOLATION) {
        refused.push(insist_on_an_answer(error)?);
    }
    verify(conn, place, &refused)
}

/// What the server said; an error if it was not the server.
fn insist_on_an_answer(error: mysql::Error) -> Result<String, mysql::Error> {
    match error {
        mysql::Error::MySqlError(error) => Ok(error.message),
        error => Err(error),
    }
}

/// The waits for locks: none may be longer than we ask for.
const LOCK_WAITS: [&str; 2] = ["innodb_lock_wait_timeout", "lock_wait_timeout"];

fn verify(conn: &mut Conn, place: &str, refused: &[String]) -> Result<(), Failure> {
    let names = EXPECTED.iter().map(|(name, _)| *name).chain(LOCK_WAITS);
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    let sql = format!("SHOW SESSION VARIABLES WHERE Variable_name IN ({})", names.join(", "));
    let found: Vec<(String, String)> = rows(conn, sql, ())?;
    let is_wrong = |(name, value): &&(String, String)| {
        EXPECTED.iter().any(|(expected, wanted)| name == expected && !same(value, wanted))
            || (LOCK_WAITS.contains(&name.as_str()) && !matches!(value.as_str(), "0" | LOCK_WAIT_SECONDS))
    };
    let mut wrong: Vec<String> =
        found.iter().filter(is_wrong).map(|(name, value)| format!("{name} is {value}")).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.sort_unstable();
    let mut text = format!(
        "{place}: the session is not what its statements rely on, and could not be set: {}; see init_connect, the \
         account's privileges, and what is between here and there",
        wrong.join(", ")
    );
    if !refused.is_empty() {
        text += &format!(" ({})", refused.join("; "));
    }
    Err(StoreError::Schema(text).into())
}

/// Whether a variable has the value, a set of flags in any order.
fn same(value: &str, wanted: &str) -> bool {
    let flags = |text: &str| {
        let mut flags: Vec<String> = text.split(',').map(str::to_ascii_uppercase).collect();
        flags.sort_unstable();
        flags
    };
    flags(value) == flags(wanted)
}
