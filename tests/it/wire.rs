//! The default engine on the wire: which bytes come back for which bytes, however those arrive; and what a connection
//! may cost when its client is slow, greedy or mad.

mod faults;
mod framing;
mod limits;
mod meaning;
mod properties;
mod slow_clients;
mod syntax;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use idalloc_testing::server::{PATIENCE, Server, Setup, is_gone};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

// ---- bytes ----

const SUCCESS: &str = r#"{"resp_code":0,"msg":"success"}"#;
const NO_SUCH_PATH: &str = "no such path: there are /alloc, /segment and /health";
const ALLOW: &str = "Allow: GET, HEAD, POST, OPTIONS\r\n";
const CLOSE: &str = "Connection: close\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

const GET: &str = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
/// Ends every conversation: a connection that is in step and open answers it, and closes.
const LAST: &str = "GET /last HTTP/1.0\r\n\r\n";

const BAD_LINE_END: &str = "every line must end with CR LF";
const BAD_REQUEST_LINE: &str = "the request line must be: METHOD SP TARGET SP HTTP/1.1";
const EMPTY_LINES: &str = "more than 4 empty lines before the request line";
const BAD_NAME: &str = "a header line must be: NAME ':' VALUE, on one line";
const BAD_VALUE: &str = "a header value must not hold control characters";
const BAD_TARGET: &str = "the target must be a path and query, or an http URL, well-formed";
const REPEATED: &str = "Host, Authorization, Content-Length, Content-Type, Transfer-Encoding, Origin and Sec-Fetch-Site may be given only once";
const NO_HOST: &str = "HTTP/1.1 needs a Host header";
const BAD_HOST: &str = "Host must be empty, or a host name or address, with or without a port";
const NO_HTTP: &str = "this port speaks HTTP without TLS: a request begins with its method";
const BAD_LENGTH: &str = "Content-Length must be one decimal number";
const BAD_CODING: &str = "Transfer-Encoding must be 'chunked', in HTTP/1.1, without a Content-Length";
const BAD_CHUNK: &str = "a chunk must be: SIZE [;EXTENSIONS] CR LF DATA CR LF, with SIZE in hexadecimal";
const BAD_VERSION: &str = "the version must be HTTP/1.1 or HTTP/1.0";

/// A whole answer, with the date taken out. `headers` are those that not every answer has.
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nDate: -\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ok() -> String {
    answer("200 OK", "", SUCCESS)
}

/// An answer that says no; the connection stays open unless `headers` say otherwise.
fn failure(status: &str, headers: &str, message: &str) -> String {
    let code = status.split(' ').next().unwrap();
    answer(status, headers, &format!(r#"{{"resp_code":{code},"msg":"{message}"}}"#))
}

/// The answer to bytes that are no request.
fn refusal(status: &str, message: &str) -> String {
    failure(status, CLOSE, message)
}

fn bad(message: &str) -> String {
    refusal("400 Bad Request", message)
}

fn not_found() -> String {
    failure("404 Not Found", "", NO_SUCH_PATH)
}

fn too_slow() -> String {
    refusal("408 Request Timeout", "the request did not arrive in time")
}

fn one_id(id: i64) -> String {
    answer("200 OK", "", &format!(r#"{{"resp_code":0,"msg":"success","id":{id}}}"#))
}

/// The answer to a HEAD.
fn without_body(answer: &str) -> String {
    let (head, _body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{head}\r\n\r\n")
}

/// A GET of /health with more header lines.
fn get_with(headers: &str) -> String {
    format!("GET /health HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

fn get_target(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn chunked(body: &str) -> String {
    format!("POST /health HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

/// What was received, as text and without dates.
fn normalised(received: &[u8]) -> String {
    let text = String::from_utf8_lossy(received);
    let mut parts = text.split("\r\nDate: ");
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (date, rest) = part.split_once("\r\n").unwrap_or((part, ""));
        assert!(httpdate::parse_http_date(date).is_ok(), "{date:?} is no date");
        normal += "\r\nDate: -\r\n";
        normal += rest;
    }
    normal
}

// ---- conversations ----

/// All that a client sends on a connection, and all that it gets back before the server closes.
struct Case {
    sent: Vec<u8>,
    expected: String,
    /// The client shuts its sending side after the last byte.
    half_close: bool,
}

/// The connection stays open and in step.
fn kept<const N: usize>(sent: impl AsRef<[u8]>, answers: [String; N]) -> Case {
    let last = refusal("404 Not Found", NO_SUCH_PATH);
    Case { expected: answers.concat() + &last, ..closed(sent, answers) }
}

/// The server closes after these answers, and takes nothing that follows for a request.
fn closed<const N: usize>(sent: impl AsRef<[u8]>, answers: [String; N]) -> Case {
    Case { sent: [sent.as_ref(), LAST.as_bytes()].concat(), expected: answers.concat(), half_close: false }
}

/// The client says no more, but listens.
fn half_closed<const N: usize>(sent: impl AsRef<[u8]>, answers: [String; N]) -> Case {
    Case { sent: sent.as_ref().to_vec(), expected: answers.concat(), half_close: true }
}

/// One way in which a case's bytes arrive.
struct Delivery<'c> {
    case: &'c Case,
    pieces: Vec<&'c [u8]>,
}

/// Whole, byte by byte, and in two parts: cut anywhere, or, when it is long, wherever something begins or ends.
fn deliveries(case: &Case) -> impl Iterator<Item = Vec<&[u8]>> {
    let (sent, bytes) = (case.sent.as_slice(), case.sent.len());
    let cuts = (1..bytes).filter(move |cut| bytes <= LONG || is_interesting(sent, *cut));
    let byte_by_byte = sent.chunks(1).collect();
    [vec![sent], byte_by_byte].into_iter().filter(|pieces| !pieces.is_empty()).chain(cuts.map(move |cut| {
        let (start, end) = sent.split_at(cut);
        vec![start, end]
    }))
}

/// Whether a long request is cut here: around its start and end, the ends of its first lines and of its head, whatever
/// the server reads at once, the limits, and at every so many bytes.
fn is_interesting(sent: &[u8], cut: usize) -> bool {
    let is_near = |place: usize| cut.abs_diff(place) <= 1;
    let line_ends = || memchr::memmem::find_iter(sent, "\r\n").take(4);
    let head_end = || memchr::memmem::find(sent, b"\r\n\r\n").map(|at| at + 4);
    cut < 24
        || sent.len() - cut < 24
        || cut.is_multiple_of(sent.len() / 16)
        || [4, 16, 32, 64].into_iter().any(|kib| is_near(kib * 1024))
        || line_ends().any(|at| is_near(at + 1))
        || head_end().is_some_and(|at| is_near(at) || is_near(at + 64 * 1024))
}

/// From here on, not every way of delivery is tried, nor waited for byte by byte.
const LONG: usize = 1024;

/// Connections that are open at once.
const BATCH: usize = 200;

const SLOW: &str = "/alloc?app_tag=slow";

/// A server with one worker, which gets what is sent in the order in which it was sent.
struct Wire {
    server: Server,
    directory: TempDir,
    probe: TcpStream,
}

/// One connection of many that are fed in turn.
struct Talk {
    stream: TcpStream,
    received: Vec<u8>,
    ended: bool,
}

impl Wire {
    fn start() -> Wire {
        Wire::with(&[])
    }

    fn with(keys: &[(&str, u64)]) -> Wire {
        let directory = tempfile::tempdir().unwrap();
        let patient = PATIENCE.as_millis() as u64;
        let setup = Setup::embedded(&directory.path().join("ids.db"))
            .key("Workers", 1)
            .key("AllocTimeout", patient)
            .key("HttpReadTimeout", patient)
            .key("HttpWriteTimeout", patient)
            .key("HttpIdleTimeout", patient);
        let server = keys.iter().fold(setup, |setup, (name, value)| setup.key(name, *value)).start();
        server.await_status("/health", 200);
        let probe = connect(server.port());
        Wire { server, directory, probe }
    }

    fn connect(&self) -> TcpStream {
        connect(self.server.port())
    }

    /// Waits until the server has read all that was sent on the connections that it knows: it has, when it answers
    /// what is sent on another one now.
    fn settle(&mut self) {
        exchange(&mut self.probe);
    }

    /// The same for connections that it might not know yet: it accepts them in order.
    fn settle_new(&mut self) {
        self.probe = self.connect();
        self.settle();
    }

    /// Checks every case in every way of delivery.
    fn converse(&mut self, cases: impl IntoIterator<Item = Case>) {
        let cases: Vec<_> = cases.into_iter().collect();
        let mut all: Vec<_> = cases
            .iter()
            .flat_map(|case| deliveries(case).map(move |pieces| Delivery { case, pieces }))
            .collect();
        // Those of many pieces go together, so that the others need not wait with them.
        all.sort_by_key(|delivery| delivery.pieces.len());
        let alike = |a: &Delivery, b: &Delivery| (a.pieces.len() <= 2) == (b.pieces.len() <= 2);
        for batch in all.chunk_by(alike).flat_map(|group| group.chunks(BATCH)) {
            for (delivery, received) in batch.iter().zip(self.deliver(batch)) {
                let Delivery { case, pieces } = delivery;
                let lengths: Vec<_> = pieces.iter().take(2).map(|piece| piece.len()).collect();
                let sent = String::from_utf8_lossy(&case.sent[..case.sent.len().min(LONG)]);
                assert_eq!(
                    received,
                    case.expected,
                    "{sent:?}, {} bytes in {} pieces, first of {lengths:?}",
                    case.sent.len(),
                    pieces.len()
                );
            }
        }
    }

    /// Sends each its next piece, lets the server read them, and so on; returns what came back on each.
    fn deliver(&mut self, batch: &[Delivery]) -> Vec<String> {
        let mut talks: Vec<_> = batch.iter().map(|_| Talk::over(self.connect())).collect();
        self.settle_new();
        let steps = batch.iter().map(|delivery| delivery.pieces.len()).max().unwrap_or_default();
        for step in 0..steps {
            for (talk, delivery) in talks.iter_mut().zip(batch) {
                if let Some(piece) = delivery.pieces.get(step) {
                    talk.send(piece);
                }
                if step + 1 == delivery.pieces.len() && delivery.case.half_close && !talk.ended {
                    talk.stream.shutdown(Shutdown::Write).unwrap();
                }
            }
            if steps <= LONG || step % 64 == 0 {
                self.settle();
                talks.iter_mut().for_each(Talk::take);
            }
        }
        talks.into_iter().map(Talk::until_end).collect()
    }

    /// A session of its own with the store's file.
    fn store(&self) -> rusqlite::Connection {
        let store = rusqlite::Connection::open(self.directory.path().join("ids.db")).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        store
    }

    /// Adds a tag whose every ID is a segment, uses up what the server has of it, and locks the store. Returns the next
    /// ID, which waits until the lock is given up.
    fn lock_slow_tag(&self) -> (rusqlite::Connection, i64) {
        let store = self.store();
        store.execute("INSERT INTO segments (app_tag, max_id, step) VALUES ('slow', 0, 1)", []).unwrap();
        self.server.await_status(SLOW, 200);
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut client = self.server.connect();
        let mut next = 2;
        while client.get("/health?app_tag=slow").status == 200 {
            next = client.get(SLOW).id() + 1;
        }
        (store, next)
    }

    /// It is alive, and nothing panicked.
    fn assert_sound(mut self) {
        exchange(&mut self.connect());
        assert!(self.server.is_running());
        self.server.signal(libc::SIGTERM);
        self.server.wait();
        let log = self.server.rest_of_log();
        assert!(!log.iter().any(|line| line.contains("panick")), "{log:?}");
    }
}

impl Talk {
    fn over(stream: TcpStream) -> Talk {
        Talk { stream, received: Vec::new(), ended: false }
    }

    /// Sends, unless the server has closed.
    fn send(&mut self, piece: &[u8]) {
        if !self.ended
            && let Err(error) = self.stream.write_all(piece)
        {
            assert!(is_gone(&error), "{error}");
            self.ended = true;
        }
    }

    /// Takes what has arrived.
    fn take(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        self.read();
        self.stream.set_nonblocking(false).unwrap();
    }

    fn read(&mut self) {
        match self.stream.read_to_end(&mut self.received) {
            Ok(_) => self.ended = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error} after {:?}", normalised(&self.received)),
        }
    }

    /// Reads until the server closes.
    fn until_end(mut self) -> String {
        self.read();
        assert!(self.ended, "it is not closed after {:?}", normalised(&self.received));
        normalised(&self.received)
    }
}

fn connect(port: u16) -> TcpStream {
    prepared(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap())
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One GET, answered well or with a refusal.
fn is_served(stream: &mut TcpStream) -> bool {
    stream.write_all(GET.as_bytes()).unwrap();
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).unwrap();
    &status == b"HTTP/1.1 200"
}

/// One GET, answered well.
fn exchange(stream: &mut TcpStream) {
    stream.write_all(GET.as_bytes()).unwrap();
    assert_eq!(receive(stream, ok().len()), ok());
}

/// Receives so many bytes; the dates, which are left out, do not count.
fn receive(stream: &mut TcpStream, normal_bytes: usize) -> String {
    let mut received = Vec::new();
    let mut normal = String::new();
    while normal.len() < normal_bytes {
        // A part of a date is none.
        let mut missing = vec![0; normal_bytes - normal.len()];
        let bytes = stream.read(&mut missing).unwrap();
        assert!(bytes > 0, "closed after {normal:?}");
        received.extend_from_slice(&missing[..bytes]);
        if received.ends_with(b"\r\n") || received.ends_with(b"}") {
            normal = normalised(&received);
        }
    }
    normal
}

const TIMEOUT: Duration = Duration::from_millis(300);
/// With two ticks of the server's clock, and what a busy machine adds.
const LATEST: Duration = Duration::from_millis(1300);

/// A server that is halted until the value is dropped: meanwhile its kernel takes what is sent.
struct Halt<'w>(&'w Server);

impl<'w> Halt<'w> {
    fn of(server: &'w Server) -> Self {
        server.signal(libc::SIGSTOP);
        let halt = Halt(server);
        let threads = format!("/proc/{}/task", server.pid());
        let is_halted = |thread: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap().contains(") T ")
        };
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_dir(&threads).unwrap().all(is_halted) {
            assert!(Instant::now() < deadline, "it does not halt");
            thread::yield_now();
        }
        halt
    }
}

impl Drop for Halt<'_> {
    fn drop(&mut self) {
        self.0.signal(libc::SIGCONT);
    }
}

/// Where two long texts part.
fn difference(received: &str, expected: &str) -> String {
    let at = received.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
    let part =
        |text: &str| String::from_utf8_lossy(&text.as_bytes()[at..text.len().min(at + 300)]).into_owned();
    format!("after {at} bytes: {:?} and not {:?}", part(received), part(expected))
}
