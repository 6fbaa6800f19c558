//! The real program on a free port, and a small HTTP client for it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rlimit::Resource;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::clock::Clock;
use super::mariadb::free_port;
use super::program::{Ended, Run};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One idalloc process. Dropping it kills it.
pub struct Server {
    child: Child,
    port: u16,
    admin_port: Option<u16>,
    log: Receiver<String>,
    _dir: TempDir,
}

/// How to start a [`Server`].
pub struct Setup {
    keys: serde_json::Map<String, Value>,
    open_files: Option<(u64, u64)>,
    ignored_signal: Option<i32>,
    with_admin: bool,
    environment: Vec<(String, OsString)>,
    stderr: Option<OwnedFd>,
}

impl Setup {
    /// A server on this store.
    pub fn on(dsn: &str) -> Setup {
        let mut keys = serde_json::Map::new();
        keys.insert("DSN".into(), dsn.into());
        keys.insert("HttpPort".into(), 0.into());
        keys.insert("HttpHost".into(), "127.0.0.1".into());
        keys.insert("Workers".into(), 2.into());
        keys.insert("AdminPort".into(), 0.into());
        // Most tests end a server with nobody left who would have to find out.
        keys.insert("DrainSeconds".into(), 0.into());
        Setup {
            keys,
            open_files: None,
            ignored_signal: None,
            with_admin: false,
            environment: Vec::new(),
            stderr: None,
        }
    }

    /// The embedded store, in this file.
    pub fn embedded(file: &Path) -> Setup {
        Setup::on(&format!("sqlite:{}", file.display()))
    }

    /// With this key of config.json.
    pub fn key(mut self, name: &str, value: impl Into<Value>) -> Setup {
        self.keys.insert(name.into(), value.into());
        self
    }

    /// With the operator's port: AdminPort if that is set, or else any free port.
    pub fn admin(mut self) -> Setup {
        self.with_admin = true;
        self
    }

    /// With these limits of open files: the soft one, and the one that it cannot exceed.
    pub fn open_files(mut self, soft: u64, hard: u64) -> Setup {
        self.open_files = Some((soft, hard));
        self
    }

    /// A process that gets an error, as from a full disk, and not a signal, when a file reaches
    /// [`Server::limit_files`].
    pub fn survives_full_disk(self) -> Setup {
        self.ignores(libc::SIGXFSZ)
    }

    /// A process that is started with this signal ignored.
    pub fn ignores(mut self, signal: i32) -> Setup {
        self.ignored_signal = Some(signal);
        self
    }

    /// With this environment variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With these clocks.
    pub fn clock(self, clock: &Clock) -> Setup {
        clock.environment().into_iter().fold(self, |setup, (name, value)| setup.env(name, value))
    }

    /// With its log written there, and not to be read by the [`Server`].
    pub fn log_to(mut self, stderr: impl Into<OwnedFd>) -> Setup {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it where it must not start, and waits for its end.
    pub fn refused(&self) -> Ended {
        self.run("serve")
    }

    /// `idalloc check` with this configuration.
    pub fn check(&self) -> Ended {
        self.run("check")
    }

    fn run(&self, command: &str) -> Ended {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("config.json");
        std::fs::write(&config, json!(self.keys).to_string()).expect("write the configuration");
        std::fs::set_permissions(config, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        Run::new(dir.path(), &[command, "--config", "config.json"]).finish()
    }

    /// Starts it, and waits until it listens.
    pub fn start(mut self) -> Server {
        let any_port = self.with_admin && self.keys["AdminPort"] == 0;
        loop {
            if any_port {
                self.keys.insert("AdminPort".into(), free_port().into());
            }
            match self.try_start() {
                Ok(server) => return server,
                // Somebody else has taken the free port meanwhile.
                Err(log) if any_port && log.iter().any(|line| line.contains("serve operators")) => {}
                Err(log) => panic!("not started; log: {log:?}"),
            }
        }
    }

    /// What it logged, if it does not start.
    fn try_start(&self) -> Result<Server, Vec<String>> {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("config.json");
        std::fs::write(&config, json!(self.keys).to_string()).expect("write the configuration");
        let mut command = Command::new(crate::program::path());
        command
            .arg("--config")
            .arg(&config)
            .current_dir(dir.path())
            .env_remove("IDALLOC_DSN")
            .env_remove("IDALLOC_ADMIN_TOKEN")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped());
        match &self.stderr {
            Some(stderr) => command.stderr(stderr.try_clone().expect("a descriptor")),
            None => command.stderr(Stdio::piped()),
        };
        if let Some((soft, hard)) = self.open_files {
            // SAFETY: one system call, which may be made between fork and exec.
            unsafe { command.pre_exec(move || Resource::NOFILE.set(soft, hard)) };
        }
        if let Some(signal) = self.ignored_signal {
            let ignore = move || {
                // SAFETY: one system call, which may be made between fork and exec; what is ignored stays so.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
                Ok(())
            };
            // SAFETY: `ignore` does nothing else.
            unsafe { command.pre_exec(ignore) };
        }
        let mut child = command.spawn().expect("start idalloc");
        let log = child.stderr.take().map_or_else(|| channel().1, follow);
        let mut started = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        output.read_line(&mut started).expect("its first line");
        let port =
            started.trim().strip_prefix("server started at: localhost:").and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let _ = child.wait();
            return Err(log.iter().collect());
        };
        let admin_port = self.with_admin.then(|| {
            let mut line = String::new();
            output.read_line(&mut line).expect("its second line");
            let port = line.trim().strip_prefix("operator's port at: localhost:");
            port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no operator's port: {line:?}"))
        });
        Ok(Server { child, port, admin_port, log, _dir: dir })
    }
}

fn follow(log: ChildStderr) -> Receiver<String> {
    let (lines, received) = channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    received
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on no file of this process can be written beyond so many bytes; `None`: as many as it likes.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.unwrap_or(libc::RLIM_INFINITY);
        // The hard limit stays: only root may raise that again.
        let limits = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
        let pid = self.child.id().cast_signed();
        // SAFETY: `limits` lives for the call, and the child is ours and not yet reaped.
        let result = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limits, std::ptr::null_mut()) };
        assert_eq!(result, 0, "prlimit: {}", std::io::Error::last_os_error());
    }

    /// The operator's port, for a server that was set up with one.
    pub fn admin_port(&self) -> u16 {
        self.admin_port.expect("a server with an operator's port")
    }

    /// A connection to the operator's port.
    pub fn admin(&self) -> Client {
        Client::connect(self.admin_port())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection of its own.
    pub fn connect(&self) -> Client {
        Client::connect(self.port)
    }

    /// One GET on a connection of its own.
    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    /// The status and body of one GET, to compare with what was expected.
    pub fn ask(&self, target: &str) -> (u16, String) {
        let response = self.get(target);
        (response.status, response.body)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: `kill` touches no memory; the process is a child that was not waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the signal is sent");
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// The memory that it occupies now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse().ok());
        kib.unwrap_or_else(|| panic!("no VmRSS: {status}"))
    }

    /// The CPU time that it has used, in its own code and in the kernel.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("its status");
        // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th field after it.
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
        // SAFETY: `sysconf` touches no memory.
        let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64)
    }

    /// Changes its limit of open files while it runs.
    pub fn limit_open_files(&self, soft: u64) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        let mut before = (0, 0);
        rlimit::prlimit(pid, Resource::NOFILE, None, Some((&mut before.0, &mut before.1)))
            .and_then(|()| rlimit::prlimit(pid, Resource::NOFILE, Some((soft, before.1)), None))
            .expect("the limit is changed");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "idalloc does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a log line that holds `text`, and returns it.
    pub fn await_log(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line of the log holds {text:?}");
    }

    /// The lines of the log that were not looked at yet.
    pub fn log_so_far(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    /// The rest of the log, when the process has ended.
    pub fn rest_of_log(&self) -> Vec<String> {
        self.log.iter().collect()
    }

    /// Waits until a GET is answered with 200 and this body.
    pub fn await_answer(&self, target: &str, body: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(target);
            if answer == (200, body.to_owned()) {
                return;
            }
            assert!(Instant::now() < deadline, "{target} stays at {answer:?}");
            thread::yield_now();
        }
    }

    /// Waits until a GET is answered with this status.
    pub fn await_status(&self, target: &str, status: u16) -> Response {
        let mut client = self.connect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = client.get(target);
            if response.status == status {
                return response;
            }
            assert!(Instant::now() < deadline, "{target} stays at {}: {}", response.status, response.body);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of idalloc, {:?}:", self.child.try_wait());
            self.log.try_iter().for_each(|line| eprintln!("  {line}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Response {
    /// The one ID of the body.
    pub fn id(&self) -> i64 {
        self.json()["id"].as_i64().unwrap_or_else(|| panic!("no ID: {self:?}"))
    }

    /// The IDs of a batch.
    pub fn ids(&self) -> Vec<i64> {
        let ids = self.json()["ids"].clone();
        serde_json::from_value::<Vec<Value>>(ids)
            .unwrap_or_else(|_| panic!("no IDs: {self:?}"))
            .iter()
            .map(|id| id.as_i64().expect("an ID"))
            .collect()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Client {
    pub fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        stream.set_nodelay(true).expect("set nodelay");
        Client { stream: BufReader::new(stream) }
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.receive()
    }

    /// One request to the operator's port, with these headers beside Host, and this body if it is not empty.
    pub fn ask_admin(&mut self, method: &str, target: &str, headers: &[&str], body: &str) -> Response {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.send(&format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{length}\r\n{body}"));
        self.receive()
    }

    /// One GET from the operator's port.
    pub fn get_admin(&mut self, target: &str) -> Response {
        self.ask_admin("GET", target, &[], "")
    }

    /// One GET on a connection that the server may close, and before the first byte of an answer only: `None` then.
    /// An answer that breaks off fails the test.
    pub fn try_get(&mut self, target: &str) -> Option<Response> {
        self.try_ask(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// The same with any request.
    pub fn try_ask(&mut self, request: &str) -> Option<Response> {
        // Even if this fails, there may be a last answer to read.
        let _ = self.stream.get_mut().write_all(request.as_bytes());
        match self.stream.fill_buf() {
            Ok([]) => None,
            Ok(_) => Some(self.try_receive(true).expect("a whole response")),
            Err(error) if is_gone(&error) => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The socket, for what is no request.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &str) {
        self.stream.get_mut().write_all(bytes.as_bytes()).expect("send");
    }

    /// Shuts the sending side.
    pub fn finish(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).expect("shut down");
    }

    pub fn receive(&mut self) -> Response {
        self.try_receive(true).expect("a response")
    }

    /// The answer to a HEAD: no body follows, whatever Content-Length says.
    pub fn receive_head(&mut self) -> Response {
        self.try_receive(false).expect("a response")
    }

    /// `None` when the server closes first.
    pub fn try_receive(&mut self, with_body: bool) -> Option<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let mut headers = HashMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers
            .get("content-length")
            .filter(|_| with_body)
            .map_or(0, |length| length.parse().unwrap_or_else(|_| panic!("Content-Length is {length:?}")));
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some(Response { status, headers, body: String::from_utf8(body).expect("UTF-8") })
    }

    /// Whether the server closes, with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                Some(line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no CRLF: {line:?}")).to_owned())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line: {error}"),
        }
    }
}

/// Whether the other side has closed the connection.
pub fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
