//! The servers that are measured, each a process of its own on the first core.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use procfs::process::Process;
use tempfile::TempDir;

/// What every server answers with the same bytes, or nearly.
pub const ALLOC: &str = "/alloc?app_tag=test_business";

const START_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);

/// Where the servers run; the load generators have the rest.
const CORE: &str = "0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One thread, one epoll, no parsing, a constant answer: the limit.
    Epoll,
    /// The same with httparse.
    EpollParse,
    Hyper,
    /// `return 200`.
    Nginx,
    Idalloc,
    /// idalloc with its other engine.
    MayMinihttp,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Epoll, Kind::EpollParse, Kind::Hyper, Kind::Nginx, Kind::Idalloc, Kind::MayMinihttp];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Epoll => "epoll",
            Kind::EpollParse => "epoll+httparse",
            Kind::Hyper => "hyper",
            Kind::Nginx => "nginx",
            Kind::Idalloc => "idalloc",
            Kind::MayMinihttp => "may_minihttp",
        }
    }
}

/// A running server; dropping it ends it.
pub struct Server {
    child: Child,
    pub port: u16,
    /// Its configuration and its table.
    pub dir: TempDir,
}

/// CPU time of a process.
#[derive(Debug, Clone, Copy)]
pub struct CpuTime {
    pub user: Duration,
    pub system: Duration,
}

impl Server {
    pub fn start(kind: Kind) -> Result<Server> {
        match kind {
            Kind::Idalloc => Server::idalloc(&[]),
            Kind::MayMinihttp => Server::idalloc(&[("HttpEngine", "\"may_minihttp\"")]),
            Kind::Nginx => Server::launch(tempfile::tempdir()?, |dir, port| {
                let config = dir.join("nginx.conf");
                fs::write(&config, nginx_config(dir, port))?;
                Ok(command("nginx", [&"-p" as &dyn AsRef<std::ffi::OsStr>, &dir, &"-c", &config]))
            }),
            Kind::Epoll => Server::peer("epoll", &[]),
            Kind::EpollParse => Server::peer("epoll", &["--parse"]),
            Kind::Hyper => Server::peer("hyper", &[]),
        }
    }

    /// idalloc with an embedded table of its own, and these keys (their values are JSON).
    pub fn idalloc(keys: &[(&str, &str)]) -> Result<Server> {
        Server::idalloc_in(tempfile::tempdir()?, keys)
    }

    /// The same on the table that is in `dir`, if there is one.
    pub fn idalloc_in(dir: TempDir, keys: &[(&str, &str)]) -> Result<Server> {
        Server::launch(dir, |dir, port| {
            let config = dir.join("config.json");
            let more: String = keys.iter().map(|(key, value)| format!(",\"{key}\":{value}")).collect();
            let (table, host) = (table(dir), "127.0.0.1");
            let json = format!(
                r#"{{"DSN":"sqlite:{}","HttpHost":"{host}","HttpPort":{port},"AdminPort":0,"Workers":1{more}}}"#,
                table.display()
            );
            fs::write(&config, json)?;
            Ok(command("../target/release/idalloc", [&"--config" as &dyn AsRef<std::ffi::OsStr>, &config]))
        })
    }

    fn peer(name: &str, args: &[&str]) -> Result<Server> {
        Server::launch(tempfile::tempdir()?, |_, port| {
            let mut command = command(&format!("../target/release/{name}"), []);
            command.arg(port.to_string()).args(args);
            Ok(command)
        })
    }

    fn launch(dir: TempDir, command: impl FnOnce(&Path, u16) -> Result<Command>) -> Result<Server> {
        let port = free_port()?;
        let mut command = command(dir.path(), port)?;
        let child = command.spawn().with_context(|| format!("cannot run {command:?}: make perf-deps"))?;
        let mut server = Server { child, port, dir };
        let deadline = Instant::now() + START_MAX;
        while server.get(ALLOC).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            ensure!(Instant::now() < deadline, "{command:?} does not answer");
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://127.0.0.1:{}{target}", self.port)
    }

    pub fn table(&self) -> PathBuf {
        table(self.dir.path())
    }

    /// One request on a connection of its own; an error unless the status is 200.
    pub fn get(&self, target: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET {target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        // Not every peer closes when it is asked to.
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answer = vec![0; 4096];
        let bytes = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..bytes]).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(answer)
    }

    /// Ends it as an operator does, and returns its directory.
    pub fn stop(mut self) -> Result<TempDir> {
        // SAFETY: plain system call; the child is ours and not yet reaped.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        self.child.wait()?;
        Ok(std::mem::replace(&mut self.dir, tempfile::tempdir()?))
    }

    pub fn cpu_time(&self) -> Result<CpuTime> {
        let stat = self.process()?.stat()?;
        let ticks = |ticks: u64| Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64);
        Ok(CpuTime { user: ticks(stat.utime), system: ticks(stat.stime) })
    }

    pub fn resident_kib(&self) -> Result<u64> {
        self.process()?.status()?.vmrss.context("no VmRSS")
    }

    fn process(&self) -> Result<Process> {
        Ok(Process::new(self.child.id().cast_signed())?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where idalloc keeps its table.
fn table(dir: &Path) -> PathBuf {
    dir.join("idalloc.db")
}

fn command<const N: usize>(program: &str, args: [&dyn AsRef<std::ffi::OsStr>; N]) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", CORE, program]).args(args.map(|arg| arg.as_ref().to_owned()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn nginx_config(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null;
         events {{ worker_connections 16384; }}
         http {{ access_log off; keepalive_requests 1000000000;
           server {{ listen 127.0.0.1:{port} backlog=4096;
             location / {{ default_type application/json; add_header Cache-Control no-store;
               return 200 '{{\"resp_code\":0,\"msg\":\"success\",\"id\":1234567890}}'; }} }} }}"
    )
}
