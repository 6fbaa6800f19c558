//! A look at a server: who it is, since when it runs, how far its log is, and whether it is somebody's replica.

use std::time::{Duration, Instant};

use mysql::{MySqlError, Row};

use super::conn::Conn;
use super::rows;
use idalloc_core::store::server::{Position, Server};

/// What the account may not see.
const DENIED: [u16; 3] = [1142, 1227, 1370];

/// A statement that this server does not know.
const SYNTAX: u16 = 1064;

/// Whether a server applies what another has done, and would lose what it does itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replication {
    /// It does not.
    Stopped,
    /// It does, or is about to.
    Running,
    /// The account may not look.
    Hidden,
}

/// What a look found.
pub(super) struct Look {
    pub(super) server: Server,
    pub(super) replication: Replication,
}

/// Looks at the server.
pub(super) fn look(conn: &mut Conn) -> Result<Look, mysql::Error> {
    let began_at = Some(Instant::now());
    let variables = Pairs(rows(
        conn,
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'server_uuid', 'hostname', 'port', 'server_id', \
         'log_bin', 'log_slave_updates', 'gtid_binlog_pos', 'gtid_current_pos', 'gtid_binlog_state', 'gtid_slave_pos')",
        (),
    )?);
    // Any of its servers answers for all of them: what is committed is on most of its stores.
    if variables.get("version").contains("TiDB") {
        let server = Server {
            id: "TiDB".into(),
            node: String::new(),
            started_s: None,
            uptime: Duration::ZERO,
            position: Position::Unknown,
            began_at,
            looked_at: Some(Instant::now()),
        };
        return Ok(Look { server, replication: Replication::Stopped });
    }
    let started_s = started(conn)?;
    let status = Pairs(rows(
        conn,
        "SHOW GLOBAL STATUS WHERE Variable_name IN \
         ('Uptime', 'Slaves_running', 'wsrep_cluster_state_uuid', 'wsrep_last_committed')",
        (),
    )?);
    let itself = match variables.get("server_uuid") {
        "" => ["hostname", "port", "server_id"].map(|name| variables.get(name)).join(":"),
        uuid => uuid.to_owned(),
    };
    let uptime = Duration::from_secs(status.get("Uptime").parse().unwrap_or(0));
    let cluster = status.get("wsrep_cluster_state_uuid");
    let (id, node, position) = match cluster {
        "" => (itself, String::new(), position(conn, &variables)?),
        cluster => {
            let committed = status.get("wsrep_last_committed").parse().ok();
            (cluster.to_owned(), itself, committed.map_or(Position::Unknown, Position::Galera))
        }
    };
    let server = Server { id, node, started_s, uptime, position, began_at, looked_at: Some(Instant::now()) };
    let replication = replication(conn, variables.get("version"), status.get("Slaves_running"))?;
    Ok(Look { server, replication })
}

/// When the server started, by its own clock. `UUID_SHORT` has it in its middle: exactly, and in one statement, so that a
/// server that is started anew within a second or two is noticed as well.
fn started(conn: &mut Conn) -> Result<Option<i64>, mysql::Error> {
    match rows::<(u64,)>(conn, "SELECT (UUID_SHORT() >> 24) & 0xFFFFFFFF", ()) {
        Ok(found) => Ok(found.first().map(|(started_s,)| started_s.cast_signed())),
        // Not every database that speaks the protocol has it.
        Err(mysql::Error::MySqlError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn position(conn: &mut Conn, variables: &Pairs) -> Result<Position, mysql::Error> {
    if !variables.get("server_uuid").is_empty() {
        // As a variable that is shown it may be cut short.
        let executed = rows::<(String,)>(conn, "SELECT @@GLOBAL.gtid_executed", ());
        return match executed {
            Ok(found) => Ok(found
                .into_iter()
                .next()
                .map_or(Position::Unknown, |(executed,)| Position::MySql(executed.replace('\n', "")))),
            Err(mysql::Error::MySqlError(_)) => Ok(Position::Unknown),
            Err(error) => Err(error),
        };
    }
    let is_on = |name| variables.get(name) == "ON";
    let current = match variables.get("gtid_current_pos") {
        "" => variables.get("gtid_binlog_pos"),
        current => current,
    };
    if current.is_empty() {
        return Ok(Position::Unknown);
    }
    Ok(Position::MariaDb {
        current: current.to_owned(),
        known: [variables.get("gtid_binlog_state"), variables.get("gtid_slave_pos")].join(","),
        logs_all: is_on("log_bin") && is_on("log_slave_updates"),
    })
}

fn replication(conn: &mut Conn, version: &str, running: &str) -> Result<Replication, mysql::Error> {
    let statements: &[&str] = if version.contains("MariaDB") {
        &["SHOW ALL SLAVES STATUS"]
    } else {
        &["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"]
    };
    for statement in statements {
        match rows::<Row>(conn, statement, ()) {
            Ok(channels) => {
                let is_running = channels.iter().any(runs);
                return Ok(if is_running { Replication::Running } else { Replication::Stopped });
            }
            Err(mysql::Error::MySqlError(MySqlError { code: SYNTAX, .. })) => {}
            Err(mysql::Error::MySqlError(error)) if DENIED.contains(&error.code) => break,
            Err(error) => return Err(error),
        }
    }
    // MariaDB tells everybody how many threads apply what others have done.
    Ok(match running.parse::<u64>() {
        Ok(0) => Replication::Hidden,
        Ok(_) => Replication::Running,
        Err(_) => Replication::Hidden,
    })
}

/// Whether a thread of this channel runs. Group replication has channels of its own, which run in each member.
fn runs(channel: &Row) -> bool {
    let column = |names: &[&str]| {
        names.iter().find_map(|name| channel.get_opt::<String, _>(*name)?.ok()).unwrap_or_default()
    };
    let is_running = |names: &[&str]| !matches!(column(names).as_str(), "" | "No");
    !column(&["Channel_Name", "Channel_name"]).starts_with("group_replication_")
        && (is_running(&["Slave_IO_Running", "Replica_IO_Running"])
            || is_running(&["Slave_SQL_Running", "Replica_SQL_Running"]))
}

/// Names and values.
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}
