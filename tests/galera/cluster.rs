//! A Galera cluster of three nodes on 127.0.0.1, with data of its own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use tempfile::TempDir;

use idalloc_testing::mariadb::{
    LOG_FILE_SIZE, PASSWORD, copy_template, server_account, server_command, spawn,
};

pub const NODES: usize = 3;

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// A node that joins copies all data if it was away for too long.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const PORT_TRIES: usize = 1000;

pub struct Cluster {
    nodes: Vec<GaleraNode>,
    _dir: TempDir,
}

/// One mariadbd.
struct GaleraNode {
    number: usize,
    dir: PathBuf,
    ports: Ports,
    child: Mutex<Option<Child>>,
}

#[derive(Clone, Copy)]
struct Ports {
    sql: u16,
    /// Between the nodes.
    group: u16,
    /// Where it receives what it missed ...
    increment: u16,
    /// ... or everything.
    snapshot: u16,
}

/// What its own log of transactions makes a node remember: the cluster's history, and how much of it.
struct Position {
    history: String,
    /// -1 if it is not known.
    transactions: i64,
}

impl Cluster {
    /// Starts all nodes, and runs schema.sql.
    pub fn start() -> Cluster {
        assert!(Path::new(PROVIDER).is_file(), "no {PROVIDER}; install galera-4 (make galera does)");
        let dir = TempDir::with_prefix("idalloc-galera-").expect("a temporary directory");
        own(dir.path());
        let nodes = (0..NODES).map(|number| GaleraNode::new(number, dir.path())).collect();
        let cluster = Cluster { nodes, _dir: dir };
        copy_template(&cluster.nodes[0].data());
        cluster.nodes[0].launch(&cluster.address(), &["--wsrep-new-cluster"]);
        cluster.nodes[0].load_schema();
        for node in &cluster.nodes[1..] {
            fs::create_dir(node.data()).expect("a directory for data");
            own(&node.data());
            node.launch(&cluster.address(), &[]);
        }
        cluster.await_whole();
        cluster
    }

    /// A DSN of all nodes, this one first.
    pub fn dsn(&self, first: usize) -> String {
        let in_turn = self.nodes.iter().cycle().skip(first).take(NODES);
        let hosts: Vec<_> = in_turn.map(|node| format!("127.0.0.1:{}", node.ports.sql)).collect();
        format!("root:{PASSWORD}@tcp({})/id_alloc_db?timeout=1s&readTimeout=4s", hosts.join(","))
    }

    /// Runs one statement on the first node, which has seen everything by then that any node has acknowledged.
    pub fn exec(&self, sql: &str) -> Option<i64> {
        let mut conn = self.nodes[0].connect().expect("connect to the first node");
        conn.query_drop("SET SESSION wsrep_sync_wait = 15").expect("set wsrep_sync_wait");
        conn.query_drop("USE id_alloc_db").expect("use id_alloc_db");
        conn.query_first(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// How many statements that change rows a node was sent.
    pub fn updates(&self, node: usize) -> u64 {
        self.nodes[node].status("Com_update").and_then(|count| count.parse().ok()).expect("Com_update")
    }

    /// Ends a node as a crash does.
    pub fn kill(&self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a node that was killed, while others run, and waits until it has caught up.
    pub fn rejoin(&self, node: usize) {
        let node = &self.nodes[node];
        let position = node.recover(&self.address());
        node.launch(&self.address(), &[&position.as_argument()]);
        self.await_whole();
    }

    /// Halts a node (SIGSTOP).
    pub fn pause(&self, node: usize) {
        self.nodes[node].signal(libc::SIGSTOP);
    }

    /// Ends a [`pause`](Cluster::pause), and waits until the node has caught up. The others must have left it behind.
    pub fn resume(&self, node: usize) {
        self.nodes[node].signal(libc::SIGCONT);
        self.await_whole();
    }

    /// Starts all nodes after all were killed: first the one that knows most.
    pub fn recover(&self) {
        let positions: Vec<_> = self.nodes.iter().map(|node| node.recover(&self.address())).collect();
        let most_advanced = (0..NODES).max_by_key(|node| positions[*node].transactions).expect("a node");
        let first = &self.nodes[most_advanced];
        first.allow_bootstrap();
        let argument = positions[most_advanced].as_argument();
        first.launch(&self.address(), &["--wsrep-new-cluster", &argument]);
        for number in (0..NODES).filter(|number| *number != most_advanced) {
            self.nodes[number].launch(&self.address(), &[&positions[number].as_argument()]);
        }
        self.await_whole();
    }

    /// Waits until every node sees every node: one that was halted says what was so before, for a moment.
    fn await_whole(&self) {
        self.nodes.iter().for_each(|node| node.await_synced(NODES));
    }

    fn address(&self) -> String {
        let members: Vec<_> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.group)).collect();
        format!("--wsrep-cluster-address=gcomm://{}", members.join(","))
    }
}

impl GaleraNode {
    fn new(number: usize, cluster_dir: &Path) -> GaleraNode {
        let dir = cluster_dir.join(format!("n{number}"));
        fs::create_dir(&dir).expect("a directory");
        own(&dir);
        GaleraNode { number, dir, ports: Ports::free(), child: Mutex::new(None) }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn socket(&self) -> String {
        self.dir.join("sock").display().to_string()
    }

    /// A mariadbd on this node's data, with the cluster's address.
    fn command(&self, cluster: &str) -> Command {
        let dir = &self.dir;
        let mut command = server_command();
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data().display()))
            .arg(format!("--tmpdir={}", dir.display()))
            .arg(format!("--socket={}", self.socket()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--log-error={}", dir.join("log.err").display()))
            .arg(format!("--port={}", self.ports.sql))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", LOG_FILE_SIZE])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=1"])
            .args(["--binlog-format=ROW", "--default-storage-engine=InnoDB", "--innodb-autoinc-lock-mode=2"])
            .arg(cluster)
            .args(["--wsrep-on=ON", "--wsrep-cluster-name=idalloc", "--wsrep-sst-method=rsync"])
            .arg(format!("--wsrep-provider={PROVIDER}"))
            .arg(format!("--wsrep-node-name=n{}", self.number))
            .arg(format!("--wsrep-node-address=127.0.0.1:{}", self.ports.group))
            .arg(format!("--wsrep-sst-receive-address=127.0.0.1:{}", self.ports.snapshot))
            .arg(format!("--wsrep-provider-options={}", self.provider_options()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn provider_options(&self) -> String {
        let Ports { group, increment, .. } = self.ports;
        format!(
            "base_host=127.0.0.1;base_port={group};gmcast.listen_addr=tcp://127.0.0.1:{group};\
             ist.recv_addr=127.0.0.1:{increment};gcache.size=16M;pc.recovery=FALSE"
        )
    }

    /// Starts it, and waits until it takes part.
    fn launch(&self, cluster: &str, more: &[&str]) {
        let mut command = self.command(cluster);
        command.args(more);
        *self.lock() = Some(spawn(command).expect("run mariadbd"));
        self.await_synced(1);
    }

    /// Waits until it takes part in a cluster of so many nodes at least.
    fn await_synced(&self, nodes: usize) {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        while !self.is_synced(nodes) {
            let ended = self.lock().as_mut().and_then(|child| child.try_wait().ok()).flatten();
            assert!(ended.is_none(), "node {} ended with {ended:?}:\n{}", self.number, self.log());
            assert!(Instant::now() < deadline, "node {} does not join:\n{}", self.number, self.log());
            thread::sleep(POLL);
        }
    }

    fn is_synced(&self, nodes: usize) -> bool {
        let is = |name, wanted: &str| self.status(name).is_some_and(|value| value == wanted);
        let size = self.status("wsrep_cluster_size").and_then(|size| size.parse().ok());
        is("wsrep_ready", "ON")
            && is("wsrep_local_state_comment", "Synced")
            && size.is_some_and(|size: usize| size >= nodes)
    }

    /// A variable of its status; none if it does not answer.
    fn status(&self, name: &str) -> Option<String> {
        let row = self.connect().ok()?.query_first(format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        row.ok()?.map(|(_, value): (String, String)| value)
    }

    /// Finds out what it remembers, while it does not run.
    fn recover(&self, cluster: &str) -> Position {
        let mut command = self.command(cluster);
        command.arg("--wsrep-recover");
        let status = spawn(command).and_then(|mut child| child.wait()).expect("run mariadbd");
        let position = Some(self.log()).filter(|_| status.success()).and_then(|log| Position::from_log(&log));
        position.unwrap_or_else(|| panic!("mariadbd --wsrep-recover: {status}:\n{}", self.log()))
    }

    /// Says of this node, which was not the last to be stopped cleanly, that it may be the first to start.
    fn allow_bootstrap(&self) {
        let path = self.data().join("grastate.dat");
        let state = fs::read_to_string(&path).expect("grastate.dat");
        fs::write(path, state.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1")).expect("grastate.dat");
    }

    fn connect(&self) -> Result<Conn, mysql::Error> {
        let opts = OptsBuilder::new().user(Some("root")).socket(Some(self.socket())).prefer_socket(false);
        Conn::new(opts.read_timeout(Some(Duration::from_secs(10))))
    }

    fn load_schema(&self) {
        const SCHEMA: &str = include_str!("../../schema.sql");
        let grants = format!(
            "CREATE OR REPLACE USER root@127.0.0.1 IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n"
        );
        let mut conn = self.connect().expect("connect to the first node");
        for sql in [grants.as_str(), SCHEMA].iter().flat_map(|text| text.split(";\n")) {
            if !sql.trim().is_empty() {
                conn.query_drop(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
        }
    }

    fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: i32) {
        let child = self.lock();
        let pid = child.as_ref().map(Child::id).expect("a running node");
        // SAFETY: plain system call; the child is ours and not yet reaped, so the pid is still its.
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log.err")).unwrap_or_default()
    }
}

impl Drop for GaleraNode {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Position {
    /// Of the last line that ends with `Recovered position: HISTORY:TRANSACTIONS`.
    fn from_log(log: &str) -> Option<Position> {
        let position = log.lines().rev().find_map(|line| Some(line.split_once("Recovered position: ")?.1))?;
        let (history, transactions) = position.trim().split_once(':')?;
        let transactions = transactions.split(',').next()?.parse().ok()?;
        Some(Position { history: history.to_owned(), transactions })
    }

    fn as_argument(&self) -> String {
        format!("--wsrep-start-position={}:{}", self.history, self.transactions)
    }
}

impl Ports {
    fn free() -> Ports {
        let [sql, group, increment, snapshot] = [(); 4].map(|()| free_fixed_port());
        Ports { sql, group, increment, snapshot }
    }
}

/// A port that is free, and below those that the system gives to outgoing connections: it is bound again and again.
fn free_fixed_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000));
    ports.take(PORT_TRIES).find(is_free).expect("a free port")
}

/// Hands a directory to the account that mariadbd runs as.
fn own(path: &Path) {
    if let Some(account) = server_account() {
        chown(path, Some(account.uid), Some(account.gid)).expect("chown");
    }
}
