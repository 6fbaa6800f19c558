//! What clients lose when a connection ends, beside nginx in the same run: it has the same races with them, and is the
//! yardstick.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::balancer::quiet_port;
use super::tools::{installed, program};
use idalloc_testing::server::{PATIENCE, Server, Setup};

/// nginx by itself, which answers every request. Dropping it ends it.
struct Nginx {
    port: u16,
    child: Child,
    _directory: TempDir,
}

impl Nginx {
    fn start(settings: &str) -> Nginx {
        let directory = tempfile::tempdir().expect("a directory");
        let port = quiet_port();
        let config = format!(
            "daemon off; worker_processes 2; pid nginx.pid; error_log error.log warn; events {{}}
             http {{
                 access_log off;
                 server {{
                     listen 127.0.0.1:{port};
                     {settings}
                     location / {{ return 200 '{{}}'; }}
                 }}
             }}"
        );
        fs::write(directory.path().join("nginx.conf"), config).expect("write the configuration");
        let mut command = program("nginx");
        command.arg("-p").arg(directory.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let nginx = Nginx { port, child: installed("nginx", command.spawn()), _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked to end.
        // SAFETY: plain system call; the child is ours and not yet reaped, so the pid is still its.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

fn serving(setup: Setup) -> Server {
    let server = setup.start();
    server.await_status("/health", 200);
    server
}

// ---- requests that meet the end of an idle connection ----

const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 25;
const REQUESTS_EACH: usize = 30;
/// So much more than nginx may be lost by chance: whether a request and the end cross on their way is.
const LOST_BY_CHANCE: usize = 5;

#[test]
fn no_more_requests_meet_the_end_of_an_idle_connection_than_with_nginx() {
    let nginx = Nginx::start("keepalive_timeout 1s;");
    for engine in ["tokio", "may_minihttp"] {
        let directory = tempfile::tempdir().expect("a directory");
        let server = serving(
            Setup::embedded(&directory.path().join("ids.db"))
                .key("HttpEngine", engine)
                .key("HttpIdleTimeout", IDLE_TIMEOUT.as_millis() as u64),
        );
        let ports = [server.port(), nginx.port];
        let lost = ports.map(|_| AtomicUsize::new(0));
        thread::scope(|scope| {
            for (port, lost) in ports.into_iter().zip(&lost) {
                for client in 0..CONNECTIONS {
                    scope.spawn(move || lost.fetch_add(requests_lost(port, client), Relaxed));
                }
            }
        });
        let [ours, nginxs] = lost.map(AtomicUsize::into_inner);
        let all = CONNECTIONS * REQUESTS_EACH;
        eprintln!("{engine}: of {all} requests each, {ours} are lost here and {nginxs} with nginx");
        assert!(ours <= nginxs + LOST_BY_CHANCE, "{engine}: {ours} and {nginxs} of {all}");
    }
}

/// How many of a client's requests get no answer, though the connection was open when they were sent.
fn requests_lost(port: u16, client: usize) -> usize {
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_nodelay(true).expect("set nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        stream
    };
    let (mut stream, mut lost) = (connect(), 0);
    for request in 0..REQUESTS_EACH {
        // Around the end, which the server looks for at its own times.
        let pause_ms = 990 + (client * REQUESTS_EACH + request * 7) as u64 % 80;
        if is_closed(&stream) {
            stream = connect();
        }
        if !is_answered(&mut stream) {
            lost += 1;
            stream = connect();
            assert!(is_answered(&mut stream), "on a new connection");
        }
        thread::sleep(Duration::from_millis(pause_ms));
    }
    lost
}

fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set nonblocking");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("set blocking");
    !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn is_answered(stream: &mut TcpStream) -> bool {
    const POST: &str = "POST /health HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\na=b";
    let mut received = Vec::new();
    let mut bytes = [0; 1024];
    if stream.write_all(POST.as_bytes()).is_err() {
        return false;
    }
    while !received.ends_with(b"}") {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return false,
            Ok(length) => received.extend_from_slice(&bytes[..length]),
        }
    }
    true
}

// ---- uploads that are refused before their end ----

const UPLOADS: usize = 20;

const NODE: &str = r#"
const http = require("http");
const body = Buffer.alloc(20000000, "x");
const upload = (port) => new Promise((resolve) => {
  const request = http.request({ port, method: "POST", path: "/alloc", agent: false });
  request.on("response", (response) => { response.resume(); response.on("end", () => resolve(response.statusCode)); });
  request.on("error", (error) => resolve(error.code));
  request.end(body);
});
(async () => {
  for (let i = 0; i < Number(process.argv[3]); i++) console.log(await upload(process.argv[2]));
})();
"#;

const GO: &str = r#"
package main

import ("bytes"; "fmt"; "io"; "net/http"; "os"; "strconv")

func main() {
	times, _ := strconv.Atoi(os.Args[2])
	body := bytes.Repeat([]byte("x"), 20000000)
	for i := 0; i < times; i++ {
		response, err := http.Post("http://127.0.0.1:" + os.Args[1] + "/alloc", "text/plain", bytes.NewReader(body))
		if err != nil {
			fmt.Println(err)
			continue
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(response.StatusCode)
	}
}
"#;

#[test]
fn clients_in_node_and_go_see_that_an_upload_is_too_long() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = serving(Setup::embedded(&directory.path().join("ids.db")));
    let nginx = Nginx::start("client_max_body_size 64k;");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("write a program");
        path
    };
    let (node, go) = (file("upload.js", NODE), file("upload.go", GO));
    for (name, args, path) in [("node", &[][..], node), ("go", &["run"][..], go)] {
        let statuses = |port: u16| {
            let mut command = program(name);
            command.args(args).arg(&path).args([port.to_string(), UPLOADS.to_string()]);
            command.env("GOCACHE", directory.path().join("go")).env("GOFLAGS", "-mod=mod");
            let output = installed(name, command.output());
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let lines = String::from_utf8(output.stdout).expect("UTF-8");
            lines.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let seen = |statuses: &[String]| statuses.iter().filter(|status| *status == "413").count();
        let (ours, nginxs) = (statuses(server.port()), statuses(nginx.port));
        eprintln!("{name}: of {UPLOADS}, {} see a 413 here and {} with nginx", seen(&ours), seen(&nginxs));
        assert_eq!(seen(&ours), UPLOADS, "{name}: {ours:?}");
    }
}
