//! A private MariaDB server per test or per test binary: own data, own socket, a free port of 127.0.0.1.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use tempfile::TempDir;

/// The password of `root@127.0.0.1`.
pub const PASSWORD: &str = "123456";

const INSTALL_HINT: &str = "install it: apt-get install mariadb-server (make test does)";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(5);
const PORT_TRIES: usize = 10;

/// Must be the same for the template and for the servers that run on its copies.
pub const LOG_FILE_SIZE: &str = "--innodb-log-file-size=16M";

/// A running server with schema.sql loaded. Dropping it kills the server and removes its data.
pub struct MariaDb {
    dir: TempDir,
    port: u16,
    extra_args: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl MariaDb {
    /// Starts a server.
    pub fn start() -> MariaDb {
        MariaDb::start_with(&[])
    }

    /// Starts a server with more options on its command line.
    pub fn start_with(extra_args: &[&str]) -> MariaDb {
        let dir = TempDir::with_prefix("idalloc-db-").expect("a temporary directory");
        copy_template(&dir.path().join("data"));
        if let Some(account) = server_account() {
            chown(dir.path(), Some(account.uid), Some(account.gid)).expect("chown");
        }
        let extra_args = extra_args.iter().map(|arg| arg.to_string()).collect();
        let mut server = MariaDb { dir, port: 0, extra_args, child: Mutex::new(None) };
        for _ in 0..PORT_TRIES {
            server.port = free_port();
            // Between the probe and the server's bind another process may take the port.
            if server.launch() {
                server.load_schema();
                return server;
            }
        }
        panic!("no free port in {PORT_TRIES} tries:\n{}", server.log());
    }

    /// A server that all tests of this binary share; it ends with the test process.
    pub fn shared() -> &'static MariaDb {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Statics are not dropped. (If the process is killed, PR_SET_PDEATHSIG ends the server.)
            extern "C" fn clean_up() {
                if let Some(server) = SHARED.get() {
                    server.kill();
                    let _ = fs::remove_dir_all(server.dir.path());
                }
            }
            // SAFETY: registers a function that lives as long as the process.
            unsafe { libc::atexit(clean_up) };
            MariaDb::start()
        })
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix domain socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// A DSN in go-sql-driver's form.
    pub fn dsn(&self) -> String {
        format!("root:{PASSWORD}@tcp(127.0.0.1:{})/id_alloc_db", self.port)
    }

    /// A connection of the test's own, to the database `id_alloc_db`.
    pub fn conn(&self) -> Conn {
        let mut conn = self.connect().expect("connect to the test's server");
        conn.query_drop("USE id_alloc_db").expect("use id_alloc_db");
        conn
    }

    /// A transaction that holds the tag's row until it is dropped.
    pub fn lock_row(&self, tag: &str) -> Conn {
        let mut conn = self.conn();
        conn.query_drop("BEGIN").expect("begin");
        conn.query_drop(format!("SELECT * FROM segments WHERE app_tag = '{tag}' FOR UPDATE")).expect("lock");
        conn
    }

    /// Runs one statement in the database `id_alloc_db`.
    pub fn exec(&self, sql: &str) {
        self.conn().query_drop(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// `max_id` of a tag in the table `segments`.
    pub fn max_id(&self, tag: &str) -> i64 {
        let found = self.conn().exec_first("SELECT max_id FROM segments WHERE app_tag = ?", (tag,));
        found.expect("select max_id").unwrap_or_else(|| panic!("no row for {tag}"))
    }

    /// Ends the server as a crash does (SIGKILL) and waits for its end.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Shuts the server down cleanly and waits for its end.
    pub fn stop(&self) {
        self.signal(libc::SIGTERM);
        if let Some(mut child) = self.lock().take() {
            child.wait().expect("wait for mariadbd");
        }
    }

    /// Starts the server again, on the same port and data.
    pub fn restart(&self) {
        self.kill();
        assert!(self.launch(), "port {} is taken:\n{}", self.port, self.log());
    }

    /// Halts the server (SIGSTOP): connections are accepted by the kernel, answered by nobody.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let pid = self.lock().as_ref().map(|child| child.id()).expect("a running server");
        // SAFETY: the child is ours and not yet reaped; without a status to write, no memory is touched.
        unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), libc::WUNTRACED) };
    }

    /// Ends a [`pause`](MariaDb::pause).
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: i32) {
        let child = self.lock();
        let pid = child.as_ref().map(Child::id).expect("a running server");
        // SAFETY: plain system call; the child is ours and not yet reaped, so the pid is still its.
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }

    /// Starts the process and waits until it answers. False if the port was taken.
    fn launch(&self) -> bool {
        let dir = self.dir.path();
        let mut command = server_command();
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--tmpdir={}", dir.display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--log-error={}", dir.join("log.err").display()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", LOG_FILE_SIZE])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=1"])
            .args(&self.extra_args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _ = fs::remove_file(dir.join("log.err"));
        let child = spawn(command).unwrap_or_else(|e| panic!("cannot run mariadbd ({e}); {INSTALL_HINT}"));
        *self.lock() = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        // The socket is in our own directory, so whoever answers there is this server.
        while let Err(error) = self.connect() {
            let ended = self.lock().as_mut().and_then(|child| child.try_wait().ok()).flatten();
            match ended {
                Some(_) if self.log().contains("Address already in use") => return false,
                Some(status) => panic!("mariadbd ended with {status}:\n{}", self.log()),
                None => assert!(Instant::now() < deadline, "mariadbd: {error}:\n{}", self.log()),
            }
            thread::sleep(START_POLL);
        }
        true
    }

    fn connect(&self) -> Result<Conn, mysql::Error> {
        let socket = self.socket().display().to_string();
        Conn::new(OptsBuilder::new().user(Some("root")).socket(Some(socket)).prefer_socket(false))
    }

    /// Runs schema.sql, as an operator may at any time, and gives root its password.
    pub fn load_schema(&self) {
        const SCHEMA: &str = include_str!("../../../schema.sql");
        let grants = format!(
            "SET STATEMENT sql_log_bin = 0 FOR CREATE OR REPLACE USER root@127.0.0.1 IDENTIFIED BY '{PASSWORD}';\n\
             SET STATEMENT sql_log_bin = 0 FOR GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n"
        );
        let mut conn = self.connect().expect("connect to the new server");
        for sql in [grants.as_str(), SCHEMA].iter().flat_map(|text| text.split(";\n")) {
            if !sql.trim().is_empty() {
                conn.query_drop(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
        }
    }

    /// What mariadbd said. A name without an extension would be given one, `.err`.
    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log.err")).unwrap_or_default()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("the listener's address").port()
}

/// An account of the system.
#[derive(Clone, Copy)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// The account that mariadbd, which refuses to be root, runs as; none if we are not root ourselves.
pub fn server_account() -> Option<Account> {
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    static ACCOUNT: OnceLock<Account> = OnceLock::new();
    let account = ACCOUNT.get_or_init(|| {
        let name = CString::new("mysql").expect("no NUL");
        // SAFETY: called once, from here only; the result is copied before anything can overwrite it.
        let entry = unsafe { libc::getpwnam(name.as_ptr()).as_ref() };
        let entry = entry.unwrap_or_else(|| panic!("no account `mysql`; {INSTALL_HINT}"));
        Account { uid: entry.pw_uid, gid: entry.pw_gid }
    });
    Some(*account)
}

/// A command that runs mariadbd.
pub fn server_command() -> Command {
    // Debian's sbin is not in every user's PATH.
    let sbin = Path::new("/usr/sbin/mariadbd");
    Command::new(if sbin.is_file() { sbin } else { Path::new("mariadbd") })
}

/// Starts a process that dies with us. The kernel ties it to the thread that forked it, hence a thread of its own,
/// which lives as long as the process.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    if let Some(account) = server_account() {
        command.uid(account.uid).gid(account.gid);
    }
    // SAFETY: one async-signal-safe system call. It comes after the change of user, which would undo it.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
    let (reply, result) = mpsc::channel();
    spawner.send((command, reply)).expect("the spawner runs");
    result.recv().expect("the spawner answers")
}

/// Copies an installed data directory: several times faster than installing one for each server.
pub fn copy_template(to: &Path) {
    let template = template();
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(&template).arg(to).status();
    assert!(status.expect("run cp").success(), "cp {} failed", template.display());
}

/// The data directory as installed, made by the first test on this machine and for this version of MariaDB.
fn template() -> PathBuf {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(make_template).clone()
}

fn make_template() -> PathBuf {
    let version = server_command().arg("--version").output();
    let version = version.unwrap_or_else(|e| panic!("cannot run mariadbd ({e}); {INSTALL_HINT}"));
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.split_whitespace().nth(2).expect("a version after `mariadbd Ver`");
    // SAFETY: plain system call.
    let uid = unsafe { libc::geteuid() };
    let name = format!("idalloc-db-template-{version}-{uid}");
    let template = std::env::temp_dir().join(&name);
    let lock = std::env::temp_dir().join(name + ".lock");
    let lock = File::create(lock).expect("create the template's lock file");
    lock.lock().expect("lock the template");
    if !template.is_dir() {
        install(&template);
    }
    template
}

fn install(template: &Path) {
    let unfinished = TempDir::with_prefix("idalloc-db-install-").expect("a temporary directory");
    let data = unfinished.path().join("data");
    if let Some(account) = server_account() {
        chown(unfinished.path(), Some(account.uid), Some(account.gid)).expect("chown");
    }
    let mut command = Command::new("mariadb-install-db");
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display())).args([
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        LOG_FILE_SIZE,
    ]);
    if server_account().is_some() {
        command.arg("--user=mysql");
    }
    let output =
        command.output().unwrap_or_else(|e| panic!("cannot run mariadb-install-db ({e}); {INSTALL_HINT}"));
    assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&data, template).expect("move the template into place");
}
