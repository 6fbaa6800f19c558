//! Two MariaDB servers, a primary and its asynchronous replica, that change places at each failover.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mysql::prelude::Queryable;

use super::mariadb::{MariaDb, PASSWORD};

/// The account of the servers under test. It may do what the README asks for, and no more: read_only holds for it.
const ACCOUNT: &str = "idalloc";

/// How long a replica may take for what it lacks.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// Both keep a binary log, and are read-only when they start, as the guide for operators has it.
pub struct Pair {
    hosts: [MariaDb; 2],
    primary: AtomicUsize,
    /// What the new primary had at the newest promotion.
    promoted: Mutex<Option<Snapshot>>,
}

/// The table at a position of the log.
struct Snapshot {
    rows: Vec<(String, i64, i64)>,
    position: String,
}

impl Pair {
    pub fn start() -> Pair {
        let start = |id: &str| {
            let host = MariaDb::start_with(&[
                "--log-bin=binlog",
                "--log-slave-updates=ON",
                "--sync-binlog=1",
                "--read-only=ON",
                "--skip-slave-start",
                &format!("--server-id={id}"),
            ]);
            host.exec(&format!(
                "SET STATEMENT sql_log_bin = 0 FOR CREATE USER {ACCOUNT}@127.0.0.1 IDENTIFIED BY '{PASSWORD}'"
            ));
            host.exec(&format!(
                "SET STATEMENT sql_log_bin = 0 FOR GRANT SELECT, UPDATE ON segments TO {ACCOUNT}@127.0.0.1"
            ));
            // Both have run schema.sql: a history of its own for each.
            host.exec("RESET MASTER");
            host
        };
        let pair =
            Pair { hosts: ["1", "2"].map(start), primary: AtomicUsize::new(0), promoted: Mutex::default() };
        pair.primary().set_read_only(false);
        pair.replica().follow(pair.primary(), "");
        pair
    }

    pub fn primary(&self) -> &MariaDb {
        &self.hosts[self.primary.load(Relaxed)]
    }

    pub fn replica(&self) -> &MariaDb {
        &self.hosts[1 - self.primary.load(Relaxed)]
    }

    /// The ports of both, the first primary's first, whoever is the primary now.
    pub fn ports(&self) -> [u16; 2] {
        [0, 1].map(|host| self.hosts[host].port())
    }

    /// Lets the servers under test see on both hosts whether replication is running.
    pub fn show_replication(&self) {
        for host in &self.hosts {
            host.exec(&format!(
                "SET STATEMENT sql_log_bin = 0 FOR GRANT SLAVE MONITOR ON *.* TO {ACCOUNT}@127.0.0.1"
            ));
        }
    }

    /// Waits until the replica has all that the primary has.
    pub fn await_replication(&self) {
        let position = self.primary().variable("gtid_binlog_pos");
        let wait = format!("SELECT MASTER_GTID_WAIT('{position}', {})", CATCH_UP_MAX.as_secs());
        let waited: Option<i64> = self.replica().conn().query_first(wait).expect("wait for the replica");
        assert_eq!(waited, Some(0), "the replica does not get to {position}");
    }

    /// From now on the replica lags.
    pub fn stop_replication(&self) {
        self.replica().exec("STOP SLAVE");
    }

    /// Ends a [`stop_replication`](Pair::stop_replication).
    pub fn start_replication(&self) {
        self.replica().exec("START SLAVE");
    }

    /// Makes the replica the primary, with what it has. What became of the old one is another matter.
    pub fn promote(&self) {
        let heir = self.replica();
        heir.exec("STOP SLAVE");
        heir.exec("RESET SLAVE ALL");
        let snapshot = heir.snapshot();
        *self.promoted.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        heir.set_read_only(false);
        self.primary.fetch_xor(1, Relaxed);
    }

    /// Starts the old primary again, which was killed, and makes it a replica of the new one, as if it had been copied
    /// from it: what it had committed and not passed on is gone.
    pub fn rebuild_replica(&self) {
        let old = self.replica();
        old.restart();
        self.make_replica();
    }

    /// The same with one that runs, and may have been written to.
    pub fn make_replica(&self) {
        let old = self.replica();
        let promoted = self.promoted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Snapshot { rows, position } = promoted.expect("a promotion");
        let mut conn = old.conn();
        conn.query_drop("SET GLOBAL read_only = 1").expect("set read_only");
        conn.query_drop("SET SESSION sql_log_bin = 0").expect("set sql_log_bin");
        conn.query_drop("DELETE FROM segments").expect("empty the table");
        conn.exec_batch("INSERT INTO segments (app_tag, max_id, step) VALUES (?, ?, ?)", rows)
            .expect("copy the table");
        conn.query_drop("RESET MASTER").expect("forget the log");
        old.follow(self.primary(), &position);
    }
}

impl MariaDb {
    /// The address with an account to which read_only applies, in go-sql-driver's form. `ports` are those of servers of a
    /// [`Pair`], or of what stands before them.
    pub fn dsn_of_ports(ports: &[u16]) -> String {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let timeouts = "timeout=1s&readTimeout=2s&writeTimeout=1s";
        format!("{ACCOUNT}:{PASSWORD}@tcp({})/id_alloc_db?{timeouts}", hosts.join(","))
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.exec(&format!("SET GLOBAL read_only = {}", u8::from(read_only)));
    }

    /// A global variable.
    pub fn variable(&self, name: &str) -> String {
        let value = self.conn().query_first(format!("SELECT @@GLOBAL.{name}")).expect("select a variable");
        value.expect("a row")
    }

    /// Becomes a replica of `primary`, from this position of its log on.
    fn follow(&self, primary: &MariaDb, position: &str) {
        self.exec(&format!("SET GLOBAL gtid_slave_pos = '{position}'"));
        self.exec(&format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'root', \
             MASTER_PASSWORD = '{PASSWORD}', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1",
            primary.port()
        ));
        self.exec("START SLAVE");
    }

    /// While nobody writes.
    fn snapshot(&self) -> Snapshot {
        let rows = self.conn().query("SELECT app_tag, max_id, step FROM segments").expect("read the table");
        Snapshot { rows, position: self.variable("gtid_current_pos") }
    }
}
