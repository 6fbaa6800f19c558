//! HAProxy and nginx, with the configurations of deploy/, where only the addresses are others, and what is logged where, or
//! with as little as they take.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::tools::{installed, program, text_of};
use idalloc_testing::server::{Client, PATIENCE};

const POLL: Duration = Duration::from_millis(10);
const HAPROXY_LOG: &str = "haproxy.log";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    HaProxy,
    Nginx,
    /// With its own defaults, but for how often it asks for the nodes' health.
    PlainHaProxy,
    /// With its own defaults, and no node is ever left alone.
    PlainNginx,
}

impl Kind {
    fn is_haproxy(self) -> bool {
        matches!(self, Kind::HaProxy | Kind::PlainHaProxy)
    }

    pub fn config(self) -> String {
        match self {
            Kind::HaProxy => text_of("deploy/haproxy.cfg"),
            Kind::Nginx => text_of("deploy/nginx.conf"),
            Kind::PlainHaProxy => PLAIN_HAPROXY.to_owned(),
            Kind::PlainNginx => PLAIN_NGINX.to_owned(),
        }
    }
}

const PLAIN_HAPROXY: &str = "
    global
        stats socket /run/haproxy/idalloc.sock mode 660 level admin
    defaults
        mode http
        timeout connect 5s
        timeout client 30s
        timeout server 30s
    frontend idalloc
        bind :8880
        default_backend nodes
    backend nodes
        option httpchk GET /health
        server node1 10.0.0.1:8880 check inter 1s
        server node2 10.0.0.2:8880 check inter 1s
        server node3 10.0.0.3:8880 check inter 1s
";

const PLAIN_NGINX: &str = "
    upstream idalloc {
        server 10.0.0.1:8880 max_fails=0;
        server 10.0.0.2:8880 max_fails=0;
        server 10.0.0.3:8880 max_fails=0;
        keepalive 16;
    }
    server {
        listen 8880;
        proxy_http_version 1.1;
        proxy_set_header Connection '';
        location / {
            proxy_pass http://idalloc;
        }
    }
";

/// One running balancer. Dropping it ends it.
pub struct Balancer {
    kind: Kind,
    port: u16,
    nodes: Vec<u16>,
    dir: TempDir,
    child: Child,
}

impl Balancer {
    /// Starts one in front of the nodes at these ports.
    pub fn start(kind: Kind, nodes: &[u16]) -> Balancer {
        Balancer::start_with(kind, &kind.config(), nodes)
    }

    /// Starts one with a configuration that is much like its own.
    pub fn start_with(kind: Kind, config: &str, nodes: &[u16]) -> Balancer {
        let dir = tempfile::tempdir().expect("a directory");
        let port = quiet_port();
        let command = if kind.is_haproxy() {
            haproxy(&dir, port, nodes, config)
        } else {
            nginx(&dir, port, nodes, config)
        };
        let balancer = Balancer { kind, port, nodes: nodes.to_vec(), child: spawn(kind, command), dir };
        balancer.await_that("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        balancer
    }

    /// Waits until it sends requests to this node, and the node answers them.
    pub fn await_service(&self, node: usize) {
        if self.kind.is_haproxy() {
            self.await_that("it is up", || self.column(node, "status").starts_with("UP"));
        }
        let before = self.served_by(node);
        self.await_that("it serves", || self.served_by(node) > before);
    }

    /// Waits until it has found out that this node does not serve.
    pub fn await_removal(&self, node: usize) {
        match self.kind {
            Kind::HaProxy | Kind::PlainHaProxy => {
                self.await_that("it is down", || self.column(node, "status").starts_with("DOWN"))
            }
            Kind::Nginx | Kind::PlainNginx => {
                let lines = || self.lines_with("server temporarily disabled", node);
                let before = lines();
                self.await_that("it is left alone", || lines() > before);
            }
        }
    }

    /// Whether it takes every node for one that does not serve.
    pub fn has_nobody(&self) -> bool {
        match self.kind {
            Kind::HaProxy | Kind::PlainHaProxy => {
                (0..self.nodes.len()).all(|node| self.column(node, "status").starts_with("DOWN"))
            }
            Kind::Nginx | Kind::PlainNginx => self.read("error.log").contains("no live upstreams"),
        }
    }

    /// The answers with IDs that a node has given through it.
    fn served_by(&self, node: usize) -> u64 {
        match self.kind {
            Kind::HaProxy | Kind::PlainHaProxy => self.column(node, "hrsp_2xx").parse().expect("a number"),
            Kind::Nginx | Kind::PlainNginx => {
                let own = format!("127.0.0.1:{} 200\n", self.nodes[node]);
                self.read("access.log").matches(&own).count() as u64
            }
        }
    }

    /// What HAProxy says of a node in this column of its statistics.
    fn column(&self, node: usize, name: &str) -> String {
        let mut socket = UnixStream::connect(self.dir.path().join("stats")).expect("HAProxy's socket");
        socket.write_all(b"show stat\n").expect("ask HAProxy");
        let mut table = String::new();
        socket.read_to_string(&mut table).expect("HAProxy's statistics");
        let server = format!("nodes,node{},", node + 1);
        let header = table.lines().next().expect("the header").trim_start_matches("# ");
        let row = table.lines().find(|line| line.starts_with(&server)).expect("the node's row");
        let column = header.split(',').position(|column| column == name).expect("the column");
        row.split(',').nth(column).expect("the value").to_owned()
    }

    /// Lines of nginx's log that hold `text` and name the node.
    fn lines_with(&self, text: &str, node: usize) -> usize {
        let address = format!("127.0.0.1:{}/", self.nodes[node]);
        self.read("error.log").lines().filter(|line| line.contains(text) && line.contains(&address)).count()
    }

    /// What it has logged of requests, when there is such a line with this text.
    pub fn await_request_log(&self, text: &str) -> String {
        let file = if self.kind.is_haproxy() { HAPROXY_LOG } else { "access.log" };
        self.await_that("it logs the request", || self.read(file).contains(text));
        self.read(file)
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    fn await_that(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{:?}, {what}: not so", self.kind);
            thread::sleep(POLL);
        }
    }

    /// Where clients reach it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client's connection through it.
    pub fn connect(&self) -> Client {
        Client::connect(self.port)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of {:?}:\n{}", self.kind, self.read("error.log"));
        }
        end(&mut self.child);
    }
}

/// nginx as it comes, with one server, before an operator's port. Dropping it ends it.
pub struct Nginx {
    child: Child,
    pub port: u16,
    _dir: TempDir,
}

impl Nginx {
    /// With these locations.
    pub fn start(locations: &str) -> Nginx {
        let dir = tempfile::tempdir().expect("a directory");
        let port = quiet_port();
        let server = format!("server {{ listen 127.0.0.1:{port}; {locations} }}");
        fs::write(dir.path().join("idalloc.conf"), server).expect("write the configuration");
        let nginx = Nginx { child: spawn(Kind::Nginx, nginx_in(&dir)), port, _dir: dir };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            thread::sleep(POLL);
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// nginx's workers end with their master only if it is asked to end.
fn end(child: &mut Child) {
    // SAFETY: plain system call; the child is ours and not yet reaped, so the pid is still its.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    let _ = child.wait();
}

fn haproxy(dir: &TempDir, port: u16, nodes: &[u16], config: &str) -> Command {
    let socket = dir.path().join("stats");
    let config = with_addresses(config, port, nodes)
        .replace("/run/haproxy/idalloc.sock", socket.to_str().expect("UTF-8"))
        .replace("log stdout format raw local0 notice", "log stdout format raw local0 info");
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, config).expect("write the configuration");
    let mut command = program("haproxy");
    command.arg("-db").arg("-f").arg(file);
    command.stdout(File::create(dir.path().join(HAPROXY_LOG)).expect("a log"));
    command
}

fn nginx(dir: &TempDir, port: u16, nodes: &[u16], config: &str) -> Command {
    let config =
        with_addresses(config, port, nodes).replace("/var/log/nginx/idalloc.access.log", "access.log");
    fs::write(dir.path().join("idalloc.conf"), config).expect("write the configuration");
    nginx_in(dir)
}

/// With the servers of the directory's idalloc.conf.
fn nginx_in(dir: &TempDir) -> Command {
    // What a distribution's nginx.conf has around conf.d/.
    let whole = "
        daemon off;
        worker_processes 2;
        pid nginx.pid;
        error_log error.log warn;
        events {}
        http {
            log_format upstreams '$upstream_addr $upstream_status';
            access_log access.log upstreams;
            include idalloc.conf;
        }";
    fs::write(dir.path().join("nginx.conf"), whole).expect("write the configuration");
    let mut command = program("nginx");
    command.arg("-p").arg(dir.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
    command
}

/// The configuration with the nodes, and the port to listen on, of this machine.
fn with_addresses(config: &str, port: u16, nodes: &[u16]) -> String {
    let mut config = config.replace("bind :8880", &format!("bind 127.0.0.1:{port}"));
    config = config.replace("listen 8880;", &format!("listen 127.0.0.1:{port};"));
    for (index, node) in nodes.iter().enumerate() {
        let address = format!("10.0.0.{}:8880", index + 1);
        assert!(config.contains(&address), "no {address} in the configuration");
        config = config.replace(&address, &format!("127.0.0.1:{node}"));
    }
    config
}

/// Starts a process that is asked to end when this thread ends without having done so.
fn spawn(kind: Kind, mut command: Command) -> Child {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    // SAFETY: one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    installed(&format!("{kind:?}"), command.spawn())
}

/// A free port that the system gives nobody who asks for any: a node that is away must find it free when it comes back,
/// and who tries to connect meanwhile must not be connected to itself.
pub fn quiet_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the ports given out");
    let lowest = range.split_whitespace().next().and_then(|port| port.parse().ok()).expect("a port");
    let any = || fastrand::u16(10_000.min(lowest - 1)..lowest);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(any).take(1000).find(is_free).expect("a free port")
}
