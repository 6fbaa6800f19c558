//! The default engine on the wire: which bytes come back for which bytes, however those arrive; and what a connection
//! may cost when its client is slow, greedy or mad.

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

// ---- framing ----

#[test]
fn an_answer_is_these_bytes() {
    let wire = Wire::start();
    let mut stream = wire.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    let (before, rest) = received.split_once("Date: ").unwrap();
    let (date, after) = rest.split_once("\r\n").unwrap();
    assert_eq!(before, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n");
    let age = httpdate::parse_http_date(date).unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(3), "{date}");
    assert_eq!(after, "Connection: close\r\nContent-Length: 31\r\n\r\n{\"resp_code\":0,\"msg\":\"success\"}");
}

#[test]
fn the_date_goes_on() {
    let wire = Wire::start();
    let mut client = wire.server.connect();
    let mut date = || {
        let response = client.get("/health");
        httpdate::parse_http_date(&response.headers["date"]).unwrap()
    };
    let (first, deadline) = (date(), Instant::now() + PATIENCE);
    while date() < first + Duration::from_secs(2) {
        assert!(Instant::now() < deadline, "it stands still");
        thread::sleep(Duration::from_millis(50));
    }
    // Within a second and the ticks of the server's clock.
    let age = date().elapsed().unwrap();
    assert!(age < Duration::from_secs(4), "it is {age:?} late");
}

/// Segments with data that the client has received: without delay, each write is one, or several when it is long.
fn segments_received(stream: &TcpStream) -> u32 {
    // SAFETY: all of its fields are numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: both addresses are those of live values, and `length` is the length of the one that is written to.
    let done = unsafe {
        let value = (&raw mut info).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut length)
    };
    assert_eq!(done, 0);
    info.tcpi_data_segs_in
}

#[test]
fn a_request_that_comes_again_is_answered_as_the_first_time() {
    // A worker that has met a request so often goes straight to the tag.
    const TIMES: usize = 12;
    let wire = Wire::start();
    let keep_alive = "Connection: keep-alive\r\n";
    let mut ids = 1..;
    for (version, header, told) in [
        ("HTTP/1.1", "", ""),
        ("HTTP/1.0", keep_alive, keep_alive),
        ("HTTP/1.0", "", CLOSE),
        ("HTTP/1.1", CLOSE, CLOSE),
    ] {
        let request = format!("GET /alloc?app_tag=test_business {version}\r\nHost: h\r\n{header}\r\n");
        let mut stream = wire.connect();
        for id in ids.by_ref().take(TIMES) {
            let expected = one_id(id).replace("Content-Length", &format!("{told}Content-Length"));
            stream.write_all(request.as_bytes()).unwrap();
            assert_eq!(receive(&mut stream, expected.len()), expected, "{version} {header}");
            if told == CLOSE {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{version} {header}");
                stream = wire.connect();
            }
        }
    }
}

#[test]
fn the_answers_of_a_turn_leave_in_one_write() {
    const DEPTH: usize = 16;
    let wire = Wire::start();
    let mut stream = wire.connect();
    for turns in 1..=20 {
        stream.write_all(GET.repeat(DEPTH).as_bytes()).unwrap();
        assert_eq!(receive(&mut stream, DEPTH * ok().len()), ok().repeat(DEPTH));
        assert_eq!(segments_received(&stream), turns, "in as many turns");
    }
}

#[test]
fn a_body_is_read_to_its_end_and_never_taken_for_a_request() {
    let inner = "GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: h\r\n\r\n";
    let with_length = |start: &str| {
        format!("{start} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{inner}", inner.len())
    };
    let allowed = answer("200 OK", ALLOW, SUCCESS);
    let not_allowed =
        failure("405 Method Not Allowed", ALLOW, "the method is not allowed: use GET, HEAD or POST");
    let no_tag = "app_tag is missing: give it as a parameter, 1 to 128 bytes of UTF-8";
    let size = inner.len();
    Wire::start().converse([
        kept(with_length("POST /health"), [ok()]),
        kept(with_length("GET /health"), [ok()]),
        kept(with_length("HEAD /health"), [without_body(&ok())]),
        kept(with_length("OPTIONS *"), [allowed]),
        kept(with_length("POST /nowhere"), [not_found()]),
        kept(with_length("PUT /health"), [not_allowed.clone()]),
        kept(with_length("DELETE /health"), [not_allowed]),
        kept(with_length("POST /alloc"), [failure("400 Bad Request", "", no_tag)]),
        kept(with_length("POST /health") + GET, [ok(), ok()]),
        kept(chunked(&format!("{size:x}\r\n{inner}\r\n0\r\n\r\n")), [ok()]),
        kept(
            chunked(&format!("1\r\nG\r\n{:X};x=\"y\"\r\n{}\r\n000\r\n\r\n", size - 1, &inner[1..])) + GET,
            [ok(), ok()],
        ),
        kept(chunked("5\r\n0\r\n\r\n\r\n0\r\n\r\n") + GET, [ok(), ok()]),
        kept(get_with("Content-Length: 0\r\n"), [ok()]),
        kept(get_with("Content-Length: 0000000000000000000000003\r\n") + "abc", [ok()]),
        kept(chunked("0\r\n\r\n"), [ok()]),
        kept(get_with("transfer-encoding:\tChUnKeD \r\n") + "1\r\n\n\r\n0\r\n\r\n", [ok()]),
    ]);
}

/// A worker remembers a request to answer the same bytes sooner. What it remembers must be what was sent.
#[test]
fn a_chunked_request_leaves_nothing_behind_that_other_bytes_are_taken_for() {
    let head = "GET /health HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let data = "0\r\n\r\nPOST /health HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n";
    let first = format!("{head}{:x}\r\n{data}\r\n0\r\n\r\n", data.len());
    // Where the data is moved over its size, this is what the buffer holds: two requests.
    let joined = format!("{head}{data}\r\n\r\n\r\n0\r\n\r\n");
    // And this: one request whose only chunk is malformed.
    let small = format!("{head}5\r\nhello\r\n0\r\n\r\n");
    let garbled = format!("{head}hellollo\r\n0\r\n\r\n");
    Wire::start().converse([
        kept(first + &joined, [ok(), ok(), ok()]),
        closed(small + &garbled, [ok(), bad(BAD_CHUNK)]),
    ]);
}

#[test]
fn a_body_whose_end_is_in_doubt_is_refused() {
    let headers = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BAD_CODING),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BAD_CODING),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", REPEATED),
        ("Content-Length: 5\r\ncontent-length: 5\r\n", REPEATED),
        ("Content-Length: 5, 6\r\n", BAD_LENGTH),
        ("Content-Length: 5,5\r\n", BAD_LENGTH),
        ("Content-Length:\r\n", BAD_LENGTH),
        ("Content-Length: \t \r\n", BAD_LENGTH),
        ("Content-Length: -5\r\n", BAD_LENGTH),
        ("Content-Length: +5\r\n", BAD_LENGTH),
        ("Content-Length: 0x5\r\n", BAD_LENGTH),
        ("Content-Length: 5.0\r\n", BAD_LENGTH),
        ("Content-Length: 5 5\r\n", BAD_LENGTH),
        ("Content-Length: five\r\n", BAD_LENGTH),
        ("Transfer-Encoding:\r\n", BAD_CODING),
        ("Transfer-Encoding: gzip\r\n", BAD_CODING),
        ("Transfer-Encoding: identity\r\n", BAD_CODING),
        ("Transfer-Encoding: chunked, gzip\r\n", BAD_CODING),
        ("Transfer-Encoding: chunked, identity\r\n", BAD_CODING),
        ("Transfer-Encoding: gzip, chunked\r\n", BAD_CODING),
        ("Transfer-Encoding: chunked, chunked\r\n", BAD_CODING),
        ("Transfer-Encoding: xchunked\r\n", BAD_CODING),
        ("Transfer-Encoding: chunked;q=1\r\n", BAD_CODING),
        ("Transfer-Encoding: \"chunked\"\r\n", BAD_CODING),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", REPEATED),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", REPEATED),
    ];
    let huge = get_with("Content-Length: 18446744073709551621\r\n");
    let of_1_0 = "POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    Wire::start().converse(
        headers.map(|(headers, message)| closed(get_with(headers), [bad(message)])).into_iter().chain([
            closed(huge, [refusal("413 Content Too Large", "the body is longer than 65536 bytes")]),
            closed(of_1_0, [bad(BAD_CODING)]),
        ]),
    );
}

#[test]
fn a_malformed_chunk_is_refused() {
    let bodies = [
        ("\r\n", BAD_CHUNK),
        ("g\r\n", BAD_CHUNK),
        ("-1\r\n", BAD_CHUNK),
        ("+1\r\n", BAD_CHUNK),
        (" 1\r\n", BAD_CHUNK),
        ("0x1\r\n", BAD_CHUNK),
        ("1 x\r\na\r\n0\r\n\r\n", BAD_CHUNK),
        (";x\r\n", BAD_CHUNK),
        ("1;\0\r\na\r\n0\r\n\r\n", BAD_CHUNK),
        ("1;a\rb\r\na\r\n0\r\n\r\n", BAD_CHUNK),
        ("00000000000000001\r\na\r\n0\r\n\r\n", BAD_CHUNK),
        ("1\r\nab\r\n0\r\n\r\n", BAD_CHUNK),
        ("3\r\na\r\n0\r\n\r\n", BAD_CHUNK),
        ("2\r\na\r\n0\r\n\r\n", BAD_LINE_END),
        ("1\na\r\n0\r\n\r\n", BAD_LINE_END),
        ("1\r\na\n0\r\n\r\n", BAD_LINE_END),
        ("1\r\na\r\n0\n\r\n", BAD_LINE_END),
        ("0\r\n\n", BAD_LINE_END),
        ("0\r\nX: y\n\r\n", BAD_LINE_END),
        ("0\r\nX : y\r\n\r\n", BAD_NAME),
        ("0\r\n X: y\r\n\r\n", BAD_NAME),
        ("0\r\nX: y\r\n folded\r\n\r\n", BAD_NAME),
        ("0\r\nX\r\n\r\n", BAD_NAME),
        ("0\r\nX: \0\r\n\r\n", BAD_VALUE),
    ];
    let large = "the body is longer than 65536 bytes";
    Wire::start().converse(
        bodies.map(|(body, message)| closed(chunked(body), [bad(message)])).into_iter().chain(
            ["10001\r\n", "ffffffffffffffff\r\n"]
                .map(|size| closed(chunked(size), [refusal("413 Content Too Large", large)])),
        ),
    );
}

#[test]
fn trailers_and_chunk_extensions_are_read_and_ignored() {
    Wire::start().converse([
        kept(chunked("1\r\na\r\n0\r\nX: y\r\n\r\n"), [ok()]),
        kept(chunked("1;x\r\na\r\n0;y=\"z\"\r\nX: y\r\nConnection: close\r\n\r\n") + GET, [ok(), ok()]),
        kept(
            chunked("0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: other\r\n\r\n") + GET,
            [ok(), ok()],
        ),
        kept(chunked("1 ;x\r\na\r\n0\r\n\r\n"), [ok()]),
    ]);
}

// ---- syntax ----

#[test]
fn a_malformed_line_is_refused() {
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
    let cases = [
        ("GET /health HTTP/1.1\nHost: h\r\n\r\n".to_owned(), BAD_LINE_END),
        ("GET /health HTTP/1.1\r\nHost: h\n\r\n".to_owned(), BAD_LINE_END),
        ("GET /health HTTP/1.1\r\nHost: h\r\n\n".to_owned(), BAD_LINE_END),
        ("\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), BAD_LINE_END),
        ("GET /health\rHTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), BAD_REQUEST_LINE),
        ("GET /health HTTP/1.1\r\r\nHost: h\r\n\r\n".to_owned(), BAD_REQUEST_LINE),
        ("\rGET /health HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), BAD_LINE_END),
        (get_with("X: a\rb\r\n"), BAD_VALUE),
        (get_with("X: a\r\r\n"), BAD_VALUE),
        (get_with("\rX: a\r\n"), BAD_LINE_END),
        (get_with("X: a\0b\r\n"), BAD_VALUE),
        (get_with("X: a\u{1}b\r\n"), BAD_VALUE),
        (get_with("X: a\u{7f}b\r\n"), BAD_VALUE),
        (get_with("X: a\u{1b}[0m\r\n"), BAD_VALUE),
        (get_with("X\0: a\r\n"), BAD_NAME),
        (get_with("X\u{8}: a\r\n"), BAD_NAME),
        (get_with("X : a\r\n"), BAD_NAME),
        (get_with("X\t: a\r\n"), BAD_NAME),
        (get_with("Content-Length : 5\r\n"), BAD_NAME),
        (get_with("Transfer-Encoding : chunked\r\n"), BAD_NAME),
        (get_with(" X: a\r\n"), BAD_NAME),
        (get_with("X: a\r\n folded\r\n"), BAD_NAME),
        (get_with("X: a\r\n\tfolded\r\n"), BAD_NAME),
        (get_with("X: a\r\n \r\n"), BAD_NAME),
        (get_with("X\r\n"), BAD_NAME),
        (get_with(": a\r\n"), BAD_NAME),
        (get_with("X Y: a\r\n"), BAD_NAME),
        (get_with("X(Y): a\r\n"), BAD_NAME),
        (get_with("\u{e9}: a\r\n"), BAD_NAME),
        ("GET /health HTTP/1.1\r\n Host: h\r\n\r\n".to_owned(), BAD_NAME),
        (line("GET"), BAD_REQUEST_LINE),
        (line("GET /health"), BAD_REQUEST_LINE),
        (line("GET  /health HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET /health  HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET /health HTTP/1.1 "), BAD_REQUEST_LINE),
        (line(" GET /health HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET\t/health HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET /hea lth HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET /health\0 HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET /health\u{7f} HTTP/1.1"), BAD_REQUEST_LINE),
        (line("G\u{0}T /health HTTP/1.1"), BAD_REQUEST_LINE),
        (line("G(T /health HTTP/1.1"), BAD_REQUEST_LINE),
        (line(" HTTP/1.1"), BAD_REQUEST_LINE),
        (line("GET /health?\u{ff} http/1.1"), BAD_REQUEST_LINE),
        (line("GET /health http/1.1"), BAD_REQUEST_LINE),
        (line("GET /health HTTP/1"), BAD_REQUEST_LINE),
        (line("GET /health HTTP/1.10"), BAD_REQUEST_LINE),
        (line("GET /health HTTP/11"), BAD_REQUEST_LINE),
        (line("GET /health HTTP/1.x"), BAD_REQUEST_LINE),
        (line("GET /health HTTPS/1.1"), BAD_REQUEST_LINE),
        (line("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}"), NO_HTTP),
        (line("\u{e9}"), NO_HTTP),
        (line("\u{7f}GET /health HTTP/1.1"), NO_HTTP),
    ];
    Wire::start().converse(cases.map(|(sent, message)| closed(sent, [bad(message)])));
}

/// None of these ever sends a line end, and the server does not wait for one.
#[test]
fn bytes_that_can_begin_no_request_are_refused_at_the_first() {
    let mut wire = Wire::start();
    for (first, impossible, message) in [
        ("", b"\x16" as &[u8], NO_HTTP),
        ("", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", NO_HTTP),
        ("", b"\x80", NO_HTTP),
        ("", b"\0", NO_HTTP),
        ("\r\n\r\n", b"\x16", NO_HTTP),
        (GET, b"\x16", NO_HTTP),
        ("", b" ", BAD_REQUEST_LINE),
        ("", b"(", BAD_REQUEST_LINE),
        ("AMQP", b"\0", BAD_REQUEST_LINE),
        ("GET", b"\t", BAD_REQUEST_LINE),
        ("GET\r", b"/", BAD_REQUEST_LINE),
        ("\r", b"G", BAD_LINE_END),
    ] {
        let mut talk = Talk::over(wire.connect());
        talk.send(first.as_bytes());
        wire.settle_new();
        talk.take();
        let before = if first == GET { ok() } else { String::new() };
        assert_eq!(normalised(&talk.received), before, "{first:?} may go on");
        talk.send(impossible);
        assert_eq!(talk.until_end(), before + &bad(message), "{first:?}, {impossible:?}");
    }
}

#[test]
fn what_is_unusual_but_well_formed_is_served() {
    let many = "x-1.a!#$%&'*+^_`|~: \t a\tb \t\r\nEmpty:\r\nSpace: \r\nDup: 1\r\nDup: 2\r\n";
    let mut obs_text = get_with("X: ").into_bytes();
    obs_text.truncate(obs_text.len() - 2);
    obs_text.extend(b"\x80\xff\xe9\r\n\r\n");
    Wire::start().converse([
        kept(get_with(many), [ok()]),
        kept(obs_text, [ok()]),
        kept(b"GET /health HTTP/1.1\r\nhOST:h\r\n\r\n", [ok()]),
    ]);
}

#[test]
fn a_malformed_request_is_answered_after_the_well_formed_ones_before_it() {
    let post = chunked("1\r\nx\r\n0\r\n\r\n");
    let other_version = refusal("505 HTTP Version Not Supported", BAD_VERSION);
    Wire::start().converse([
        closed(GET.to_owned() + "bad\r\n\r\n" + GET, [ok(), bad(BAD_REQUEST_LINE)]),
        closed(GET.repeat(3) + &get_with("X : y\r\n") + GET, [ok(), ok(), ok(), bad(BAD_NAME)]),
        closed(get_target("/x") + &post + GET + "\0\r\n", [not_found(), ok(), ok(), bad(NO_HTTP)]),
        closed(GET.to_owned() + "GET / HTTP/2.0\r\n" + GET, [ok(), other_version]),
    ]);
}

#[test]
fn an_answer_that_waits_for_ids_holds_up_those_behind_it() {
    let mut wire = Wire::start();
    let (store, next) = wire.lock_slow_tag();
    let mut talk = Talk::over(wire.connect());
    wire.settle_new();
    let (mut sent, mut expected) = (String::new(), String::new());
    for index in 0..1000 {
        if index % 10 == 0 {
            sent += &get_target(SLOW);
            expected += &one_id(next + index / 10);
        } else {
            sent += &get_target(&format!("/alloc?app_tag=slow&count=n{index}"));
            let message = format!("count is 'n{index}': it must be a number from 1 to 10000");
            expected += &failure("400 Bad Request", "", &message);
        }
    }
    sent += "bad\r\n";
    expected += &bad(BAD_REQUEST_LINE);
    let (first, rest) = sent.split_at(2000);
    talk.send(first.as_bytes());
    wire.settle();
    talk.take();
    assert_eq!(normalised(&talk.received), "", "nothing overtakes the first answer");
    store.execute_batch("COMMIT").unwrap();
    let (mut stream, rest) = (talk.stream.try_clone().unwrap(), rest.to_owned());
    let sender = thread::spawn(move || stream.write_all(rest.as_bytes()).unwrap());
    let received = talk.until_end();
    sender.join().unwrap();
    assert!(received == expected, "{}", difference(&received, &expected));
}

/// Where two long texts part.
fn difference(received: &str, expected: &str) -> String {
    let at = received.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
    let part =
        |text: &str| String::from_utf8_lossy(&text.as_bytes()[at..text.len().min(at + 300)]).into_owned();
    format!("after {at} bytes: {:?} and not {:?}", part(received), part(expected))
}

// ---- what a request says ----

#[test]
fn http_1_1_needs_exactly_one_valid_host() {
    let with = |headers: &str| format!("GET /health HTTP/1.1\r\n{headers}\r\n");
    let refused = [
        ("", NO_HOST),
        ("Hos: h\r\n", NO_HOST),
        ("Host: h\r\nHost: h\r\n", REPEATED),
        ("Host: h\r\nX: y\r\nhost: other\r\n", REPEATED),
        ("Host: a b\r\n", BAD_HOST),
        ("Host: a,b\r\nHost: c\r\n", REPEATED),
        ("Host: user@h\r\n", BAD_HOST),
        ("Host: h/path\r\n", BAD_HOST),
        ("Host: http://h\r\n", BAD_HOST),
        ("Host: h:80:80\r\n", BAD_HOST),
        ("Host: h:port\r\n", BAD_HOST),
        ("Host: :80\r\n", BAD_HOST),
        ("Host: h%zz\r\n", BAD_HOST),
        ("Host: h?x\r\n", BAD_HOST),
        ("Host: h#x\r\n", BAD_HOST),
        ("Host: <h>\r\n", BAD_HOST),
        ("Host: []\r\n", BAD_HOST),
        ("Host: ::1\r\n", BAD_HOST),
        ("Host: [::1\r\n", BAD_HOST),
        ("Host: [::g/]\r\n", BAD_HOST),
    ];
    let served =
        ["h", "h:80", "h:", "127.0.0.1:8880", "[::1]", "[::1]:8880", "xn--e1afmkfd.example", "a%41", ""];
    let cases = refused.map(|(headers, message)| closed(with(headers), [bad(message)]));
    let served = served.map(|host| kept(with(&format!("Host: {host}\r\n")), [ok()]));
    let of_1_0 = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n";
    let ok_1_0 = answer("200 OK", "Connection: keep-alive\r\n", SUCCESS);
    Wire::start().converse(cases.into_iter().chain(served).chain([
        kept(format!("{of_1_0}\r\n"), [ok_1_0.clone()]),
        kept(format!("{of_1_0}Host: h\r\n\r\n"), [ok_1_0.clone()]),
        kept(format!("{of_1_0}Host:\r\n\r\n"), [ok_1_0]),
        kept(with("Host:\t \r\n"), [ok()]),
        closed(with("Host:\r\nHost:\r\n"), [bad(REPEATED)]),
        closed(format!("{of_1_0}Host: a b\r\n\r\n"), [bad(BAD_HOST)]),
        closed(format!("{of_1_0}Host: h\r\nHost: h\r\n\r\n"), [bad(REPEATED)]),
    ]));
}

#[test]
fn version_and_connection_options_decide_whether_the_connection_stays_open() {
    let request = |version: &str, headers: &str| format!("GET /health {version}\r\nHost: h\r\n{headers}\r\n");
    let closing = answer("200 OK", CLOSE, SUCCESS);
    let staying = answer("200 OK", "Connection: keep-alive\r\n", SUCCESS);
    let close = [
        ("HTTP/1.1", "Connection: close\r\n"),
        ("HTTP/1.1", "connection:CLOSE\r\n"),
        ("HTTP/1.1", "Connection: keep-alive, close\r\n"),
        ("HTTP/1.1", "Connection: close, keep-alive\r\n"),
        ("HTTP/1.1", "Connection: x ,\tclose ,, y\r\n"),
        ("HTTP/1.1", "Connection: keep-alive\r\nConnection: close\r\n"),
        ("HTTP/1.1", "Connection: Upgrade, close\r\nUpgrade: h2c\r\n"),
        ("HTTP/1.0", ""),
        ("HTTP/1.0", "Connection: x\r\n"),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n"),
        ("HTTP/1.0", "Keep-Alive: timeout=5\r\n"),
    ];
    let keep = [
        ("HTTP/1.1", "", ok()),
        ("HTTP/1.1", "Connection: keep-alive\r\n", ok()),
        ("HTTP/1.1", "Connection: closed, xclose, \"close\"\r\n", ok()),
        ("HTTP/1.1", "Connection:\r\n", ok()),
        ("HTTP/1.1", "X: close\r\n", ok()),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", staying.clone()),
        ("HTTP/1.0", "Connection: x, keep-alive\r\n", staying.clone()),
    ];
    let twice = request("HTTP/1.0", "Connection: keep-alive\r\n") + &request("HTTP/1.0", "");
    let in_error = get_target("/x").replace("Host", "Connection: close\r\nHost");
    Wire::start().converse(
        close
            .map(|(version, headers)| closed(request(version, headers), [closing.clone()]))
            .into_iter()
            .chain(keep.map(|(version, headers, answer)| kept(request(version, headers), [answer])))
            .chain([
                closed(twice, [staying, closing]),
                closed(in_error, [refusal("404 Not Found", NO_SUCH_PATH)]),
            ]),
    );
}

#[test]
fn a_path_matches_its_route_exactly() {
    let elsewhere = [
        "/",
        "//health",
        "/health/",
        "/health//",
        "/./health",
        "/health/.",
        "/../health",
        "/x/../health",
        "/health/..",
        "/..",
        "/%2e%2e/health",
        "/%2fhealth",
        "/%2Fhealth",
        "/health%2f",
        "%2Fhealth",
        "/%68ealth",
        "/health%00",
        "/HEALTH",
        "/health;x",
        "/alloc/../health",
        "//h/health",
        "http://h//health",
        "http://h",
        "http://h?/health",
    ];
    let malformed = [
        "/health#x",
        "/health?x#y",
        "/#/health",
        "#/health",
        "/%",
        "/%4",
        "/%zz",
        "/health%",
        "/health%2",
        "/%g0",
        "/%0g",
        "/health?x=%",
        "/health?%zz",
        "/health?x=%4",
        "/health?%u0041",
        "health",
        "*",
        "?x",
        "h:80",
        "/\\health",
        "/<x>",
        "/\"",
        "/{x}",
        "/health?<",
        "https://h/health",
        "ftp://h/health",
        "http:/health",
        "http:///health",
        "http://user@h/health",
        "http://h h/health",
        "http://h#x",
        "http://h:x/health",
        "http://",
    ];
    let served = [
        "/health?",
        "/health?x=y",
        "/health?/../x",
        "/health?a=%41%e8",
        "http://h/health",
        "HTTP://H:80/health?x",
        "http://[::1]:8880/health",
        "http://other.example/health",
    ];
    let outcome = |target: &str| match target {
        // Two words are no target at all.
        "http://h h/health" => bad(BAD_REQUEST_LINE),
        _ => bad(BAD_TARGET),
    };
    let elsewhere = elsewhere.into_iter().filter(|target| *target != "%2Fhealth");
    Wire::start().converse(
        elsewhere
            .map(|target| kept(get_target(target), [not_found()]))
            .chain(malformed.map(|target| closed(get_target(target), [outcome(target)])))
            .chain([closed(get_target("%2Fhealth"), [bad(BAD_TARGET)])])
            .chain([closed(b"GET /health?a=\xff HTTP/1.1\r\nHost: h\r\n\r\n", [bad(BAD_TARGET)])])
            .chain(served.map(|target| kept(get_target(target), [ok()])))
            .chain([
                closed("GET http://h/health HTTP/1.1\r\n\r\n", [bad(NO_HOST)]),
                kept(
                    "GET http://h/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                    [answer("200 OK", "Connection: keep-alive\r\n", SUCCESS)],
                ),
            ]),
    );
}

#[test]
fn parameters_that_are_badly_encoded_or_too_many_are_refused() {
    let form = |body: &str| {
        let length = body.len();
        format!(
            "POST /health HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let message = "app_tag is badly encoded: after '%' go two hexadecimal digits";
    // A form is not a part of the request's syntax: the connection stays.
    let refused = ["app_tag=%", "app_tag=%4", "app_tag=%zz", "app_tag=x%g0", "%=&app_tag=x"];
    let too_many = failure("400 Bad Request", "", "there are more than 100 parameters");
    let behind = |pairs: usize| format!("{}app_tag=test_business&count=x", "b&".repeat(pairs));
    let no_number = failure("400 Bad Request", "", "count is 'x': it must be a number from 1 to 10000");
    Wire::start().converse(
        refused.map(|body| kept(form(body), [failure("400 Bad Request", "", message)])).into_iter().chain([
            kept(form("app_tag=%ff"), [failure("400 Bad Request", "", "app_tag is not UTF-8")]),
            kept(get_target(&format!("/alloc?{}", behind(98))), [no_number]),
            kept(get_target(&format!("/alloc?{}", behind(99))), [too_many.clone()]),
            kept(get_target(&format!("/alloc?{}", "&".repeat(4000))), [too_many.clone()]),
            kept(form(&"&".repeat(64 * 1024)), [too_many]),
        ]),
    );
}

#[test]
fn every_method_is_served_refused_or_unknown() {
    let request = |line: &str| format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n");
    let allowed = answer("200 OK", ALLOW, SUCCESS);
    let not_allowed =
        failure("405 Method Not Allowed", ALLOW, "the method is not allowed: use GET, HEAD or POST");
    let unknown = refusal("501 Not Implemented", "the method is not known");
    let served = [
        ("GET /health", ok()),
        ("POST /health", ok()),
        ("HEAD /health", without_body(&ok())),
        ("HEAD /x", without_body(&not_found())),
        ("OPTIONS *", allowed.clone()),
        ("OPTIONS /health", allowed.clone()),
        ("OPTIONS /alloc", allowed),
        ("OPTIONS /x", not_found()),
        ("PUT /health", not_allowed.clone()),
        ("DELETE /alloc?app_tag=test_business", not_allowed.clone()),
        ("PATCH /segment", not_allowed.clone()),
        ("TRACE /health", not_allowed.clone()),
        ("CONNECT h:80", not_allowed),
    ];
    let unknown_ones = ["BREW /health", "get /health", "GETS /health", "PROPFIND /x", "!#$ /health"];
    let malformed = ["GET *", "POST *", "OPTIONS **", "CONNECT /health", "CONNECT http://h/"];
    Wire::start().converse(
        served
            .map(|(line, answer)| kept(request(line), [answer]))
            .into_iter()
            .chain(unknown_ones.map(|line| closed(request(line), [unknown.clone()])))
            .chain(malformed.map(|line| closed(request(line), [bad(BAD_TARGET)]))),
    );
}

#[test]
fn a_head_is_answered_with_the_headers_of_the_get_and_takes_no_id() {
    let mut wire = Wire::start();
    let target = "/health?app_tag=test_business";
    // Both segments, of which nothing is ever taken here.
    let left = loop {
        let response = wire.server.await_status(target, 200);
        if response.json()["left"].as_u64().unwrap() > 100_000 {
            break response.body;
        }
    };
    let head = |target: &str| get_target(target).replacen("GET", "HEAD", 1);
    let no_tag = "app_tag is missing: give it as a parameter, 1 to 128 bytes of UTF-8";
    // Its length would be the length of an ID that nobody took.
    let unclaimed = without_body(&answer("200 OK", "", "").replace("Content-Length: 0\r\n", ""));
    let left = answer("200 OK", "", &left);
    let after = get_target(target);
    wire.converse([
        kept(head("/alloc?app_tag=test_business") + &after, [unclaimed.clone(), left.clone()]),
        kept(head("/alloc?app_tag=test_business&count=5") + &after, [unclaimed.clone(), left.clone()]),
        kept(head("/segment?app_tag=test_business&count=5") + &after, [unclaimed, left.clone()]),
        kept(head(target) + &after, [without_body(&left), left.clone()]),
        kept(head("/alloc"), [without_body(&failure("400 Bad Request", "", no_tag))]),
        kept(
            head("/health").repeat(3) + GET,
            [without_body(&ok()), without_body(&ok()), without_body(&ok()), ok()],
        ),
    ]);
    assert_eq!(wire.server.get("/alloc?app_tag=test_business").id(), 1);
}

#[test]
fn a_refused_head_has_no_body() {
    let head = |line: &str, headers: &str| format!("HEAD {line}\r\n{headers}\r\n");
    let long = format!("X: {}\r\n", "x".repeat(17_000));
    let long_headers =
        refusal("431 Request Header Fields Too Large", "the headers are longer than 16384 bytes");
    let too_long = refusal("413 Content Too Large", "the body is longer than 65536 bytes");
    let wire = &mut Wire::with(&[("HttpReadTimeout", TIMEOUT.as_millis() as u64)]);
    let mut talk = Talk::over(wire.connect());
    talk.send(b"HEAD /health HTTP/1.1\r\nHo");
    assert_eq!(talk.until_end(), without_body(&too_slow()));
    Wire::start().converse([
        closed(head("/health HTTP/1.1", ""), [without_body(&bad(NO_HOST))]),
        closed(head("/health HTTP/1.1", "X : y\r\n"), [without_body(&bad(BAD_NAME))]),
        closed(head("/%zz HTTP/1.1", "Host: h\r\n"), [without_body(&bad(BAD_TARGET))]),
        closed(head("* HTTP/1.1", "Host: h\r\n"), [without_body(&bad(BAD_TARGET))]),
        closed(head("/health HTTP/1.1", &long), [without_body(&long_headers)]),
        closed(
            GET.to_owned() + "\r\n" + &head("/ HTTP/1.1", "Host: h\r\nContent-Length: 65537\r\n"),
            [ok(), without_body(&too_long)],
        ),
        // What is no request line asks for nothing.
        closed(head("/health HTTP/2.0", ""), [refusal("505 HTTP Version Not Supported", BAD_VERSION)]),
    ]);
}

#[test]
fn only_http_1_is_spoken() {
    let version = |version: &str| format!("GET /health {version}\r\nHost: h\r\n\r\n");
    let refused = |sent: &str| closed(sent, [refusal("505 HTTP Version Not Supported", BAD_VERSION)]);
    Wire::start().converse([
        refused(&version("HTTP/2.0")),
        refused(&version("HTTP/3.0")),
        refused(&version("HTTP/0.9")),
        refused(&version("HTTP/9.9")),
        refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"),
        kept(version("HTTP/1.1"), [ok()]),
        kept(version("HTTP/1.2"), [ok()]),
        kept(version("HTTP/1.9"), [ok()]),
    ]);
}

#[test]
fn an_offer_to_upgrade_is_ignored() {
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let tls = "Connection: upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n";
    Wire::start().converse([
        kept(get_with(websocket), [ok()]),
        kept(get_with(h2c) + GET, [ok(), ok()]),
        kept(get_with(tls), [ok()]),
    ]);
}

#[test]
fn a_few_empty_lines_before_a_request_are_skipped() {
    let lines = |lines: usize| "\r\n".repeat(lines);
    let body = "POST /health HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab";
    Wire::start().converse([
        kept(lines(1) + GET, [ok()]),
        kept(lines(4) + GET, [ok()]),
        kept(format!("{body}\r\n{GET}{}{GET}", lines(4)), [ok(), ok(), ok()]),
        closed(lines(5) + GET, [bad(EMPTY_LINES)]),
        closed(GET.to_owned() + &lines(5), [ok(), bad(EMPTY_LINES)]),
        closed("\n".to_owned() + GET, [bad(BAD_LINE_END)]),
        closed(" \r\n".to_owned() + GET, [bad(BAD_REQUEST_LINE)]),
    ]);
}

#[test]
fn a_client_that_shuts_its_sending_side_gets_its_answers() {
    let mut wire = Wire::start();
    let closing = answer("200 OK", CLOSE, SUCCESS);
    let post = chunked("1\r\nx\r\n0\r\n\r\n");
    wire.converse([
        half_closed(GET, [ok()]),
        half_closed(GET.repeat(3) + &post, [ok(), ok(), ok(), ok()]),
        half_closed(get_with("Connection: close\r\n") + GET, [closing]),
        half_closed(GET.to_owned() + "GET /hea", [ok()]),
        half_closed(GET.to_owned() + &post[..post.len() - 1], [ok()]),
        half_closed(GET.to_owned() + "\r\n", [ok()]),
        half_closed(GET.to_owned() + "bad\r\n", [ok(), bad(BAD_REQUEST_LINE)]),
        half_closed("", []),
    ]);
    // The same while the answer is not known yet.
    let (store, next) = wire.lock_slow_tag();
    let mut talk = Talk::over(wire.connect());
    talk.send(get_target(SLOW).repeat(3).as_bytes());
    talk.stream.shutdown(Shutdown::Write).unwrap();
    wire.settle_new();
    talk.take();
    assert!(!talk.ended && talk.received.is_empty());
    store.execute_batch("COMMIT").unwrap();
    assert_eq!(talk.until_end(), [next, next + 1, next + 2].map(one_id).concat());
}

#[test]
fn a_client_that_waits_for_the_interim_answer_gets_it_and_then_the_final_one() {
    let mut wire = Wire::start();
    let head = |length: &str| {
        format!("POST /health HTTP/1.1\r\nHost: h\r\n{length}\r\nExpect: 100-Continue\r\n\r\n")
    };
    let bodies = [("Content-Length: 3", "abc"), ("Transfer-Encoding: chunked", "1\r\na\r\n0\r\n\r\n")];
    for (length, body) in bodies {
        let head = head(length);
        let mut ways: Vec<_> = (1..head.len()).map(|cut| vec![&head[..cut], &head[cut..]]).collect();
        ways.push(vec![&head]);
        ways.push((0..head.len()).map(|at| &head[at..=at]).collect());
        for way in ways {
            let mut talk = Talk::over(wire.connect());
            wire.settle_new();
            for piece in &way {
                talk.take();
                assert_eq!(talk.received, b"", "before {piece:?}");
                talk.send(piece.as_bytes());
                wire.settle();
            }
            talk.take();
            assert_eq!(String::from_utf8_lossy(&talk.received), CONTINUE, "{way:?}");
            for piece in body.as_bytes().chunks(1) {
                talk.send(piece);
                wire.settle();
            }
            talk.send(LAST.as_bytes());
            let last = refusal("404 Not Found", NO_SUCH_PATH);
            assert_eq!(talk.until_end(), CONTINUE.to_owned() + &ok() + &last, "{way:?}");
        }
    }
    // With the answers to what came before, and once each.
    let two = format!("{GET}{}", head("Content-Length: 3"));
    let mut talk = Talk::over(wire.connect());
    for body in ["abc", "def"] {
        talk.send(two.as_bytes());
        let expected = ok() + CONTINUE;
        assert_eq!(receive(&mut talk.stream, expected.len()), expected);
        talk.send(body.as_bytes());
        assert_eq!(receive(&mut talk.stream, ok().len()), ok());
    }
}

#[test]
fn a_client_that_does_not_wait_gets_no_interim_answer() {
    let mut wire = Wire::start();
    let expect = "Expect: 100-continue\r\n";
    let large = refusal("413 Content Too Large", "the body is longer than 65536 bytes");
    let failed = refusal("417 Expectation Failed", "Expect must be '100-continue'");
    let of_1_0 = "POST /health HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n";
    let ok_1_0 = answer("200 OK", "Connection: keep-alive\r\n", SUCCESS);
    wire.converse([
        kept(get_with(expect), [ok()]),
        kept(get_with(&format!("{expect}Content-Length: 0\r\n")), [ok()]),
        kept(format!("{of_1_0}{expect}\r\nab"), [ok_1_0.clone()]),
        kept(format!("{of_1_0}Expect: x\r\n\r\nab"), [ok_1_0]),
        closed(get_with(&format!("{expect}Content-Length: 65537\r\n")), [large]),
        closed(get_with("Expect: 200-ok\r\nContent-Length: 2\r\n"), [failed.clone()]),
        closed(get_with("Expect:\r\n"), [failed.clone()]),
        closed(get_with(&expect.repeat(2)), [failed.clone()]),
        closed(get_with("Expect: 100-continue, x\r\n"), [failed.clone()]),
        closed(GET.to_owned() + &get_with("Expect: x\r\n") + GET, [ok(), failed]),
    ]);
    // The body comes with the head, whole or in part.
    let head = get_with(&format!("{expect}Content-Length: 2\r\n"));
    for (first, rest) in [("ab", LAST.to_owned()), ("a", "b".to_owned() + LAST)] {
        let mut talk = Talk::over(wire.connect());
        talk.send(format!("{head}{first}").as_bytes());
        wire.settle_new();
        talk.send(rest.as_bytes());
        assert_eq!(talk.until_end(), ok() + &refusal("404 Not Found", NO_SUCH_PATH));
    }
}

// ---- limits ----

#[test]
fn a_request_is_served_up_to_its_limits_and_refused_beyond() {
    let target = |line_bytes: usize| {
        let fixed = "GET /health? HTTP/1.1".len();
        get_target(&format!("/health?{}", "x".repeat(line_bytes - fixed)))
    };
    let headers = |bytes: usize| {
        let fixed = "Host: h\r\nX: \r\n\r\n".len();
        get_with(&format!("X: {}\r\n", "y".repeat(bytes - fixed)))
    };
    let fields = |fields: usize| get_with(&"X: y\r\n".repeat(fields - 1));
    let length = |bytes: usize| get_with(&format!("Content-Length: {bytes}\r\n")) + &"b".repeat(bytes);
    let half = format!("8000\r\n{}\r\n", "c".repeat(0x8000));
    let trailers =
        |bytes: usize| chunked(&format!("0\r\nX: {}\r\n\r\n", "t".repeat(bytes - "X: \r\n\r\n".len())));
    let trailer_fields = |fields: usize| chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(fields)));
    let long_line = refusal("414 URI Too Long", "the request line is longer than 4096 bytes");
    let long_headers =
        refusal("431 Request Header Fields Too Large", "the headers are longer than 16384 bytes");
    let long_trailers =
        refusal("431 Request Header Fields Too Large", "the trailers are longer than 2048 bytes");
    let many_fields =
        refusal("431 Request Header Fields Too Large", "there are more than 100 headers or trailers");
    let long_body = refusal("413 Content Too Large", "the body is longer than 65536 bytes");
    let small_chunks = refusal("413 Content Too Large", "the body's chunks are too small for its length");
    Wire::start().converse([
        kept(target(4096), [ok()]),
        closed(target(4097), [long_line.clone()]),
        closed("x".repeat(5000), [long_line.clone()]),
        closed(GET.to_owned() + &target(4097), [ok(), long_line]),
        kept(headers(16 * 1024), [ok()]),
        closed(headers(16 * 1024 + 1), [long_headers.clone()]),
        closed(get_with(&"X: y\r\n".repeat(3000)), [long_headers]),
        kept(fields(100), [ok()]),
        closed(fields(101), [many_fields.clone()]),
        kept(length(64 * 1024) + GET, [ok(), ok()]),
        closed(length(64 * 1024 + 1), [long_body.clone()]),
        kept(chunked(&format!("{half}{half}0\r\n\r\n")), [ok()]),
        kept(chunked(&format!("{}0\r\n\r\n", "1\r\nc\r\n".repeat(1000))), [ok()]),
        kept(chunked(&format!("{}0\r\n\r\n", format!("80\r\n{}\r\n", "c".repeat(128)).repeat(512))), [ok()]),
        closed(chunked(&format!("{half}{half}1\r\nd\r\n0\r\n\r\n")), [long_body]),
        closed(chunked(&"1\r\nc\r\n".repeat(30_000)), [small_chunks]),
        kept(trailers(2 * 1024), [ok()]),
        closed(trailers(2 * 1024 + 1), [long_trailers]),
        kept(trailer_fields(100), [ok()]),
        closed(trailer_fields(101), [many_fields]),
    ]);
}

/// Everything a request is made of, and how it can be stretched: its start, and the bytes that are sent over and over.
const DRIBBLES: [(&str, &str); 10] = [
    ("G", "E"),
    ("GET /", "x"),
    ("GET / HTTP/1.1\r\nX: ", "x"),
    ("GET / HTTP/1.1\r\n", "X: y\r\n"),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n", "x"),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\n", "x"),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x"),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"),
    ("\r\n\r\nGET /", "x"),
];

const TIMEOUT: Duration = Duration::from_millis(300);
/// With two ticks of the server's clock, and what a busy machine adds.
const LATEST: Duration = Duration::from_millis(1300);

#[test]
fn a_request_has_to_arrive_in_time_however_it_dribbles() {
    let wire = Wire::with(&[("HttpReadTimeout", TIMEOUT.as_millis() as u64)]);
    let halted = DRIBBLES.map(|(start, _)| (start.to_owned(), "", String::new()));
    let dribbling = DRIBBLES.map(|(start, rest)| (start.to_owned(), rest, String::new()));
    let behind_another = DRIBBLES.map(|(start, rest)| (GET.to_owned() + start, rest, ok()));
    thread::scope(|scope| {
        for (start, rest, before) in halted.into_iter().chain(dribbling).chain(behind_another) {
            let mut stream = wire.connect();
            scope.spawn(move || {
                let began = Instant::now();
                stream.write_all(start.as_bytes()).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let mut rest = rest.bytes().cycle();
                let mut talk = Talk::over(stream);
                while !talk.ended && began.elapsed() < PATIENCE {
                    talk.read();
                    if let (false, Some(byte)) = (talk.ended, rest.next()) {
                        talk.send(&[byte]);
                    }
                }
                let took = began.elapsed();
                assert_eq!(normalised(&talk.received), before + &too_slow(), "{start:?}");
                assert!(took >= TIMEOUT && took < LATEST, "{start:?}: {took:?}");
            });
        }
    });
    // The deadline is that of one request: the next one has its own.
    let mut stream = wire.connect();
    let began = Instant::now();
    while began.elapsed() < 3 * TIMEOUT {
        stream.write_all(b"GET /health HTTP/1.1\r\nHo").unwrap();
        thread::sleep(TIMEOUT / 3);
        stream.write_all(b"st: h\r\n\r\n").unwrap();
        assert_eq!(receive(&mut stream, ok().len()), ok());
    }
}

#[test]
fn an_idle_connection_is_closed_quietly() {
    let wire = Wire::with(&[("HttpIdleTimeout", TIMEOUT.as_millis() as u64)]);
    // As long as the server's buffer: a read that fills it leaves open whether there is more.
    let full = |bytes: usize| {
        let start = GET.repeat(bytes / GET.len() - 2);
        let padding = bytes - start.len() - get_with("X: \r\n").len();
        start + &get_with(&format!("X: {}\r\n", "x".repeat(padding)))
    };
    let fulls = [4, 8, 16, 32, 64].map(|kib| full(kib * 1024));
    let others =
        ["", GET, "\r\n", "\r\n\r\n\r\n\r\n", "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"];
    thread::scope(|scope| {
        for sent in others.map(str::to_owned).into_iter().chain(fulls) {
            let mut talk = Talk::over(wire.connect());
            scope.spawn(move || {
                talk.send(sent.as_bytes());
                let sent_at = Instant::now();
                let received = talk.until_end();
                let took = sent_at.elapsed();
                let answers = sent.matches("HTTP/1.").count();
                assert_eq!(received.matches("HTTP/1.1 200 OK").count(), answers);
                assert_eq!(received.matches("HTTP/1.1 ").count(), answers, "{received}");
                let what = format!("{} bytes", sent.len());
                assert!(took >= TIMEOUT && took < LATEST, "{what}: {took:?}");
            });
        }
    });
}

/// The server looks at the time of a connection when all of these have arrived, and their time is over.
#[test]
fn what_has_arrived_is_read_before_its_time_is_judged() {
    const CONNECTIONS: usize = 40;
    let timeout = TIMEOUT.as_millis() as u64;
    let mut wire = Wire::with(&[("HttpReadTimeout", timeout), ("HttpIdleTimeout", timeout)]);
    let (head, rest) = GET.split_at(20);
    for (before, sent) in [("", GET), (head, rest)] {
        let mut talks: Vec<_> = (0..CONNECTIONS).map(|_| Talk::over(wire.connect())).collect();
        talks.iter_mut().for_each(|talk| exchange(&mut talk.stream));
        talks.iter_mut().for_each(|talk| talk.send(before.as_bytes()));
        wire.settle_new();
        let halt = Halt::of(&wire.server);
        thread::sleep(2 * TIMEOUT);
        talks.iter_mut().for_each(|talk| talk.send(sent.as_bytes()));
        drop(halt);
        for talk in &mut talks {
            assert_eq!(receive(&mut talk.stream, ok().len()), ok(), "after {before:?}");
        }
        // That was the last chance: what comes later is too late.
        talks.into_iter().for_each(|talk| assert_eq!(talk.until_end(), ""));
        wire.settle_new();
    }
}

#[test]
fn empty_lines_do_not_keep_an_idle_connection_open() {
    let wire = Wire::with(&[("HttpIdleTimeout", TIMEOUT.as_millis() as u64)]);
    let mut stream = wire.connect();
    exchange(&mut stream);
    let idle_since = Instant::now();
    stream.set_read_timeout(Some(TIMEOUT / 5)).unwrap();
    let mut talk = Talk::over(stream);
    // Five times as long as it may be idle, if each byte counted.
    let mut bytes = "\r\n\r\n\r\n\r\n\r".bytes();
    while !talk.ended {
        if let Some(byte) = bytes.next() {
            talk.send(&[byte]);
        }
        talk.read();
    }
    assert_eq!(normalised(&talk.received), "");
    let (took, left) = (idle_since.elapsed(), bytes.len());
    assert!(took >= TIMEOUT && left > 0, "closed after {took:?}, {left} bytes before the last");
}

#[test]
fn a_connection_too_many_gets_a_503_and_the_rest_notice_nothing() {
    let mut wire = Wire::with(&[("MaxConnections", 3)]);
    let expected = failure(
        "503 Service Unavailable",
        "Retry-After: 1\r\nConnection: close\r\n",
        "this server has as many connections as it may; try again",
    );
    // Whoever asked at the start is gone.
    wire.settle();
    let mut inside: Vec<_> = (0..2).map(|_| wire.connect()).collect();
    inside.iter_mut().for_each(exchange);
    // Whatever they have to say: a reset would take the answer with it.
    for sent in [String::new(), GET.to_owned(), GET.repeat(1000), "bad\r\n".to_owned()] {
        let mut talk = Talk::over(wire.connect());
        talk.send(sent.as_bytes());
        assert_eq!(talk.until_end(), expected);
    }
    inside.iter_mut().for_each(exchange);
    let log = wire.server.await_log("refusing with 503");
    assert!(log.contains("MaxConnections=3"), "{log}");
    drop(inside);
    wire.settle();
    exchange(&mut wire.connect());
    wire.server.await_log("all connections are accepted again");
    let log = wire.server.log_so_far();
    assert!(log.is_empty(), "it is said once: {log:?}");
}

#[test]
fn however_many_connections_are_too_many_each_gets_its_503() {
    const TOO_MANY: usize = 400;
    let mut wire = Wire::with(&[("MaxConnections", 1)]);
    // Its place may still be that of whoever asked whether the server is up.
    while !is_served(&mut wire.probe) {
        wire.probe = wire.connect();
    }
    let mut refused: Vec<_> = (0..TOO_MANY).map(|_| wire.connect()).collect();
    for stream in &mut refused {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received.starts_with(b"HTTP/1.1 503 "), "{:?}", normalised(&received));
    }
}

// ---- greedy and slow clients ----

/// The most memory of a server in a container of 128 MiB.
const CONTAINER_KIB: u64 = 128 * 1024;

/// A request whose last chunk does not come, as long as it may be.
fn unfinished_chunks() -> String {
    let chunks = largest_chunks();
    chunked(&chunks[..chunks.len() - "\r\n".len()])
}

fn no_memory() -> String {
    failure(
        "503 Service Unavailable",
        &format!("Retry-After: 1\r\n{CLOSE}"),
        "this server has no memory left for requests that are not whole; try again",
    )
}

#[test]
fn unfinished_requests_are_bounded_together_and_others_are_served() {
    const CLIENTS: usize = 2000;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let wire = Wire::start();
    let unfinished = unfinished_chunks();
    let mut refused = 0;
    let mut held = Vec::new();
    for client in 0..CLIENTS {
        let mut stream = wire.connect();
        // Fails when it is refused before it has sent all.
        let _ = stream.write_all(unfinished.as_bytes());
        held.push(stream);
        if client % 100 == 0 {
            let mut other = wire.connect();
            exchange(&mut other);
            // A small one may come in parts.
            let request = alloc_with_body(1000);
            let (start, rest) = request.split_at(500);
            other.write_all(start.as_bytes()).unwrap();
            exchange(&mut wire.connect());
            other.write_all(rest.as_bytes()).unwrap();
            assert!(receive_head(&mut other).starts_with("HTTP/1.1 200 "));
            let kib = wire.server.resident_kib();
            assert!(kib < CONTAINER_KIB, "{kib} KiB after {client} clients");
        }
    }
    for stream in &mut held {
        stream.set_nonblocking(true).unwrap();
        let mut received = vec![0; no_memory().len() + 100];
        if let Ok(bytes) = stream.read(&mut received) {
            assert_eq!(normalised(&received[..bytes]), no_memory());
            refused += 1;
        }
    }
    let kib = wire.server.resident_kib();
    println!("{kib} KiB for {CLIENTS} clients, {refused} of them refused");
    assert!(refused > CLIENTS / 2 && refused < CLIENTS, "{refused} are refused");
    wire.server.await_log("refusing with 503");
    drop(held);
    wire.server.await_log("there is memory");
    let mut talk = Talk::over(wire.connect());
    talk.send(format!("{}\r\n{LAST}", unfinished).as_bytes());
    assert!(talk.until_end().starts_with(&ok()), "they are taken again");
}

#[test]
fn unsent_answers_are_bounded_together_and_others_are_served() {
    const CLIENTS: usize = 300;
    let wire = Wire::with(&[("HttpBufferMemory", 4)]);
    wire.server.await_status("/alloc?app_tag=test_business", 200);
    let before = wire.server.resident_kib();
    let requests = BATCH_OF_1000.replace("1000", "10000").repeat(200);
    let mut greedy: Vec<_> = (0..CLIENTS).map(|_| connect_narrow(wire.server.port(), Some(1000))).collect();
    for (client, stream) in greedy.iter_mut().enumerate() {
        let _ = stream.write_all(requests.as_bytes());
        if client % 50 == 0 {
            exchange(&mut wire.connect());
        }
    }
    wire.server.await_log("refusing with 503");
    exchange(&mut wire.connect());
    let grown = wire.server.resident_kib() - before;
    println!("{grown} KiB more for {CLIENTS} clients");
    assert!(grown < 16 * 1024, "{grown} KiB");
    let reset = greedy.iter().filter(|stream| !is_open(stream)).count();
    assert!(reset > 0 && reset < CLIENTS, "{reset} are closed");
    drop(greedy);
    wire.server.await_log("there is memory");
}

/// The head of the next answer; what follows it is read too.
fn receive_head(stream: &mut TcpStream) -> String {
    let mut received = vec![0; 4096];
    let bytes = stream.read(&mut received).unwrap();
    normalised(&received[..bytes])
}

/// A connection whose client takes little at a time. Of short segments the server's system buffers few bytes, of long
/// ones megabytes.
fn connect_narrow(port: u16, segment_bytes: Option<libc::c_int>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    if let Some(bytes) = segment_bytes {
        let length = size_of_val(&bytes) as libc::socklen_t;
        // SAFETY: the value lives as long as the call, and `length` is its length.
        let done = unsafe {
            let value = (&raw const bytes).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, value, length)
        };
        assert_eq!(done, 0);
    }
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    prepared(socket.into())
}

/// About the longest body that a request may have, with as much around it.
fn largest_chunks() -> String {
    let chunk = format!("800;{}\r\n{}\r\n", "e".repeat(240), "x".repeat(0x800));
    format!("{}0\r\nX: {}\r\n\r\n", chunk.repeat(31), "y".repeat(2000))
}

const BATCH_OF_1000: &str = "GET /alloc?app_tag=test_business&count=1000 HTTP/1.1\r\nHost: h\r\n\r\n";

/// What the server's memory grows by when clients ask for `first` and then for `request` over and over, and read nothing.
fn kib_of_clients_that_never_read(clients: usize, first: &str, request: &str) -> u64 {
    let mut wire = Wire::with(&[("HttpWriteTimeout", TIMEOUT.as_millis() as u64)]);
    let longest_ids =
        "INSERT INTO segments (app_tag, max_id, step) VALUES ('long', 4000000000000000000, 1000000)";
    wire.store().execute(longest_ids, []).unwrap();
    wire.server.await_status("/alloc?app_tag=long", 200);
    // Whatever is needed once is not counted.
    for _ in 0..16 {
        let mut talk = Talk::over(wire.connect());
        talk.send(format!("{first}{request}{LAST}").as_bytes());
        assert!(talk.until_end().ends_with(&refusal("404 Not Found", NO_SUCH_PATH)));
    }
    wire.settle();
    let before = wire.server.resident_kib();
    let mut most = before;
    let requests = request.repeat(1 + 100_000 / request.len());
    let begin = first.to_owned() + &requests;
    let port = wire.server.port();
    let blocked: Vec<_> = thread::scope(|scope| {
        let flood = || {
            let mut stream = connect_narrow(port, Some(1000));
            let (began, mut progress) = (Instant::now(), Instant::now());
            stream.write_all(begin.as_bytes()).unwrap();
            // Blocks when the server reads no more, and fails when it closes.
            while began.elapsed() < PATIENCE {
                match stream.write(requests.as_bytes()) {
                    Ok(_) => progress = Instant::now(),
                    Err(error) if is_gone(&error) => return progress.elapsed(),
                    Err(error) => panic!("{error}"),
                }
            }
            panic!("the server goes on reading");
        };
        let floods: Vec<_> = (0..clients).map(|_| scope.spawn(flood)).collect();
        while !floods.iter().all(ScopedJoinHandle::is_finished) {
            most = most.max(wire.server.resident_kib());
            thread::sleep(Duration::from_millis(5));
        }
        floods.into_iter().map(|flood| flood.join().unwrap()).collect()
    });
    let longest = blocked.iter().max().unwrap();
    assert!(*longest < 2 * LATEST, "closed {longest:?} after the last byte that it took");
    exchange(&mut wire.connect());
    most - before
}

#[test]
fn a_client_that_never_reads_costs_at_most_256_kib_and_is_closed() {
    const CLIENTS: usize = 64;
    let alloc = |count: u64, body: &str| {
        format!("POST /alloc?app_tag=long&count={count} HTTP/1.1\r\nHost: h\r\n{body}")
    };
    let chunks = largest_chunks();
    let body = format!("Transfer-Encoding: chunked\r\n\r\n{chunks}");
    let floods = [
        ("answers of 20 KB", String::new(), alloc(1000, "\r\n")),
        ("the largest answers", String::new(), alloc(10_000, "\r\n")),
        ("the longest bodies and the largest answers", String::new(), alloc(10_000, &body)),
        ("the longest body, then the largest answers", chunked(&chunks), alloc(10_000, "\r\n")),
    ];
    let kib = floods.map(|(what, first, request)| {
        (what, kib_of_clients_that_never_read(CLIENTS, &first, &request) / CLIENTS as u64)
    });
    println!("KiB per client: {kib:?}");
    assert!(kib.iter().all(|(_, kib)| *kib < 256), "KiB per client: {kib:?}");
}

/// All of them fit into what the kernel buffers, so that the server has nothing left to send, and waits for a request.
#[test]
fn a_client_that_does_not_take_what_the_kernel_holds_is_closed() {
    let wire = Wire::with(&[("HttpWriteTimeout", TIMEOUT.as_millis() as u64)]);
    let narrow = |requests: usize| {
        let mut stream = connect_narrow(wire.server.port(), None);
        stream.write_all(BATCH_OF_1000.repeat(requests).as_bytes()).unwrap();
        stream
    };
    let (mut silent, mut slow, idle) = (narrow(60), narrow(60), wire.connect());
    let began = Instant::now();
    // One takes nothing, until it is told that it is too late; another takes a little, time and again.
    silent.set_nonblocking(true).unwrap();
    let mut taken = vec![0; 4096];
    while is_open(&silent) {
        assert!(began.elapsed() < PATIENCE, "it stays open");
        thread::sleep(TIMEOUT / 10);
        assert!(slow.read(&mut taken).unwrap() > 0);
    }
    assert!(began.elapsed() >= TIMEOUT);
    let mut received = Vec::new();
    let ended = silent.read_to_end(&mut received);
    assert!(
        ended.is_err_and(|error| is_gone(&error)),
        "with a reset, so that the kernel does not keep the rest"
    );
    // Nothing of this is about clients that took all they were sent.
    exchange(&mut { idle });
}

/// Whether the server has not closed it, whatever there is to read.
fn is_open(stream: &TcpStream) -> bool {
    let mut polled = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: `polled` is one record, and lives as long as the call.
    assert!(unsafe { libc::poll(&mut polled, 1, 0) } >= 0);
    polled.revents == 0
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gets_all_its_answers() {
    const ANSWERS: usize = 1000;
    let wire = Wire::with(&[("HttpWriteTimeout", 500)]);
    let mut stream = connect_narrow(wire.server.port(), None);
    let mut sending = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        sending.write_all(BATCH_OF_1000.repeat(ANSWERS).as_bytes())?;
        sending.write_all(LAST.as_bytes())
    });
    // For several times as long as the server would wait for a client that takes nothing.
    let began = Instant::now();
    let (mut received, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    while began.elapsed() < Duration::from_secs(3) {
        let bytes = stream.read(&mut buffer).unwrap();
        assert!(bytes > 0, "closed after {} bytes and {:?}", received.len(), began.elapsed());
        received.extend_from_slice(&buffer[..bytes]);
        thread::sleep(Duration::from_millis(20));
    }
    let slowly = received.len();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    let text = String::from_utf8(received).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), ANSWERS);
    assert!(slowly < text.len(), "it was slow to the end");
}

/// Clients that read nothing before they have sent all, as many are. A reset would take the answer with it.
#[test]
fn an_answer_before_the_end_of_the_request_reaches_a_client_that_sends_on() {
    const UPLOAD: usize = 20_000_000;
    const TIMES: usize = 20;
    let token = serde_json::json!({"a-long-random-token-1": "*"});
    let directory = tempfile::tempdir().unwrap();
    let server = Setup::embedded(&directory.path().join("ids.db")).key("AccessTokens", token).start();
    let head = |start: &str, bytes: usize| format!("{start}\r\nContent-Length: {bytes}\r\n\r\n");
    let post = "POST /alloc?app_tag=a HTTP/1.1\r\nHost: h";
    let closing = "GET /alloc?app_tag=a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let early = [
        ("413", head(post, UPLOAD)),
        ("413", chunked("ffffffff\r\n")),
        ("400", head("POST /health HTTP/1.1\r\nBad : h", UPLOAD)),
        ("400", "\x16\x03".to_owned()),
        ("401", closing.to_owned()),
        ("414", "x".repeat(5000)),
        ("417", head("POST / HTTP/1.1\r\nHost: h\r\nExpect: x", 60_000)),
        ("431", get_with(&"X: y\r\n".repeat(200))),
        ("501", head("BREW / HTTP/1.1\r\nHost: h", UPLOAD)),
        ("505", head("POST / HTTP/2.0\r\nHost: h", UPLOAD)),
    ];
    let rest = vec![b'x'; UPLOAD];
    let mut uploads: Vec<_> = std::iter::repeat_n(&early[0], TIMES).chain(&early).collect();
    while let Some((status, start)) = uploads.pop() {
        let mut stream = connect(server.port());
        let sent = stream.write_all(start.as_bytes()).and_then(|()| stream.write_all(&rest));
        assert!(sent.is_ok(), "{status}: {sent:?}");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{status}");
    }
}

#[test]
fn a_client_that_sends_on_after_the_last_answer_is_listened_to_for_a_limited_time() {
    let wire = Wire::with(&[("HttpReadTimeout", TIMEOUT.as_millis() as u64)]);
    for pause in [Duration::ZERO, TIMEOUT / 10] {
        let mut stream = wire.connect();
        stream.write_all(b"bad\r\n").unwrap();
        let began = Instant::now();
        while stream.write_all(b"more").is_ok() {
            assert!(began.elapsed() < PATIENCE, "it is listened to for ever");
            thread::sleep(pause);
        }
        let took = began.elapsed();
        assert!(took >= TIMEOUT && took < LATEST, "{took:?}");
    }
}

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

/// A request for one ID, as long as this.
fn alloc_of(bytes: usize) -> String {
    let request = |x: usize| {
        format!("GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(x))
    };
    request(bytes - request(0).len())
}

/// A request for one ID, with a body as long as this.
fn alloc_with_body(bytes: usize) -> String {
    let head = "POST /alloc?app_tag=test_business HTTP/1.1\r\nHost: h\r\n";
    format!("{head}Content-Length: {bytes}\r\n\r\n{}", "b".repeat(bytes))
}

/// IDs tell in which order requests were handled, whatever the time that took.
#[test]
fn a_turn_is_so_many_requests_or_so_many_bytes_and_no_more() {
    let mut wire = Wire::start();
    wire.server.await_status("/alloc?app_tag=test_business", 200);
    let floods = [
        ("small requests", alloc_of(100), 500, 64),
        // 64 of them are what the server reads at once.
        ("requests that fill the buffer", alloc_of(256), 200, 64),
        ("requests with a body", alloc_with_body(1024), 60, 32),
    ];
    for (what, request, requests, turn) in floods {
        let (mut flood, mut honest) = (wire.server.connect(), wire.server.connect());
        wire.settle_new();
        let halt = Halt::of(&wire.server);
        flood.send(&request.repeat(requests));
        honest.send(&alloc_of(100));
        drop(halt);
        let first = flood.receive().id();
        let between = honest.receive().id() - first;
        assert!((1..=turn).contains(&between), "{what}: {between} of {requests} before another's");
    }
}

#[test]
fn one_clients_flood_does_not_delay_another() {
    let form = |body: &str| {
        let head = "POST /health HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let padding = 256 - get_with("X: \r\n").len();
    let mut wire = Wire::start();
    for (what, request, answers) in [
        ("small requests", GET.to_owned(), 5000),
        ("requests that fill the buffer", get_with(&format!("X: {}\r\n", "x".repeat(padding))), 5000),
        ("a form of empty parameters", form(&"&".repeat(64 * 1024)), 100),
        ("a form of encoded names", form(&"%41&".repeat(16 * 1024)), 100),
    ] {
        let mut waits = waits_beside(&mut wire, &request, answers);
        waits.sort();
        let p99 = waits[waits.len() * 99 / 100];
        println!("{what}: {p99:?}");
        assert!(p99 < Duration::from_millis(50), "{what}: {p99:?}; at most {:?}", waits[waits.len() - 1]);
    }
}

/// How long one client waits while another floods the server with `request`, which is answered so often at least.
fn waits_beside(wire: &mut Wire, request: &str, answers_min: usize) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    let mut flood = wire.connect();
    let mut drain = flood.try_clone().unwrap();
    let mut honest = wire.connect();
    wire.settle_new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let requests = request.repeat(1 + 100_000 / request.len());
            while !stop.load(Relaxed) {
                flood.write_all(requests.as_bytes()).unwrap();
            }
            flood.shutdown(Shutdown::Write).unwrap();
        });
        let answered = scope.spawn(move || {
            let mut received = Vec::new();
            drain.read_to_end(&mut received).unwrap();
            memchr::memmem::find_iter(&received, "HTTP/1.1 ").count()
        });
        let waits = (0..500)
            .map(|_| {
                let began = Instant::now();
                exchange(&mut honest);
                began.elapsed()
            })
            .collect();
        stop.store(true, Relaxed);
        let answered = answered.join().unwrap();
        assert!(answered >= answers_min, "{answered} answers are no flood");
        waits
    })
}

/// The server's CPU time for these bytes when each comes alone.
fn cpu_time_byte_by_byte(wire: &mut Wire, bytes: &str) -> Duration {
    let mut talk = Talk::over(wire.connect());
    wire.settle_new();
    let before = wire.server.cpu_time();
    for piece in bytes.as_bytes().chunks(1) {
        talk.send(piece);
        wire.settle();
    }
    let spent = wire.server.cpu_time() - before;
    talk.take();
    assert!(!talk.ended, "{bytes:?} is refused");
    spent
}

#[test]
fn a_part_of_a_header_is_not_looked_at_twice() {
    const BYTES: usize = 15 * 1024;
    let mut wire = Wire::start();
    let start = "GET /health HTTP/1.1\r\nHost: h\r\n";
    let stretched = |line: &str| {
        let repeated = line.repeat(BYTES / line.len());
        format!("{start}X: {repeated}")
    };
    // What as many bytes cost in small requests, is what they may cost in a large one.
    let small = cpu_time_byte_by_byte(&mut wire, &GET.repeat(BYTES / GET.len()));
    let field = format!("{}\r\nX: ", "y".repeat(200));
    for large in [stretched("y"), stretched(&field)] {
        let spent = cpu_time_byte_by_byte(&mut wire, &large);
        let limit = small * 5 / 4 + Duration::from_millis(50);
        assert!(spent < limit, "{spent:?} and not {small:?}: {:?}..", &large[..300]);
    }
}

#[test]
fn an_idle_connection_costs_at_most_2_kib() {
    idle_connections_cost_at_most_2_kib(8000, "", "");
}

#[test]
fn an_idle_connection_costs_no_more_for_its_empty_lines_nor_for_a_large_request_before() {
    idle_connections_cost_at_most_2_kib(1000, "", "\r");
    idle_connections_cost_at_most_2_kib(500, &chunked(&largest_chunks()), "\r\n\r\n\r");
}

/// Of connections that have sent a large request, if any, then a small one, and then this.
fn idle_connections_cost_at_most_2_kib(connections: usize, large: &str, rest: &str) {
    let (_, files) = rlimit::Resource::NOFILE.get().unwrap();
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let connections = connections.min(files as usize / 2);
    let mut wire = Wire::start();
    let open = |wire: &Wire| {
        let mut stream = wire.connect();
        if !large.is_empty() {
            stream.write_all(large.as_bytes()).unwrap();
            assert_eq!(receive(&mut stream, ok().len()), ok());
        }
        stream.write_all(format!("{GET}{rest}").as_bytes()).unwrap();
        assert_eq!(receive(&mut stream, ok().len()), ok());
        stream
    };
    let _warm: Vec<_> = (0..64).map(|_| open(&wire)).collect();
    let before = wire.server.resident_kib();
    let mut idle: Vec<_> = (0..connections).map(|_| open(&wire)).collect();
    wire.settle();
    let kib = wire.server.resident_kib().saturating_sub(before);
    assert!(kib <= 2 * connections as u64, "{kib} KiB for {connections} connections");
    if rest.ends_with('\r') {
        idle.iter_mut().for_each(|stream| stream.write_all(b"\n").unwrap());
    }
    idle.iter_mut().step_by(100).for_each(exchange);
}

// ---- faults ----

#[test]
fn running_out_of_files_is_logged_once_costs_no_cpu_and_passes() {
    let mut wire = Wire::start();
    let mut inside: Vec<_> = (0..10).map(|_| wire.connect()).collect();
    inside.iter_mut().for_each(exchange);
    // None more than are open now.
    wire.server.limit_open_files(10);
    let mut outside: Vec<_> = (0..50).map(|_| wire.connect()).collect();
    wire.server.await_log("cannot accept connections; trying again");
    let (began, before) = (Instant::now(), wire.server.cpu_time());
    while began.elapsed() < Duration::from_secs(1) {
        inside.iter_mut().for_each(exchange);
        thread::sleep(Duration::from_millis(100));
    }
    let spent = wire.server.cpu_time() - before;
    assert!(spent < Duration::from_millis(150), "{spent:?} of CPU time in {:?}", began.elapsed());
    let log = wire.server.log_so_far();
    assert!(!log.iter().any(|line| line.contains("accept")), "{log:?}");
    // Those that waited are served, without anything that the server would have to be told.
    wire.server.limit_open_files(1000);
    wire.server.await_log("accepting connections again");
    outside.iter_mut().for_each(exchange);
    inside.iter_mut().for_each(exchange);
    wire.settle();
    wire.assert_sound();
}

#[test]
fn a_low_limit_of_files_is_heeded_from_the_start() {
    const FILES: u64 = 64;
    const CLIENTS: usize = 80;
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("Workers", 1);
    let server = setup.open_files(FILES / 2, FILES).start();
    let warning = server.await_log("MaxConnections exceeds the limit of open files");
    assert!(warning.contains("files=64") && warning.contains("MaxConnections=16384"), "{warning}");
    server.await_status("/health", 200);
    // More than there are files for. All of them get an answer, if not all the same.
    let before = server.cpu_time();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.port())).collect();
    let began = Instant::now();
    let (served, refused) = served_and_refused(&mut clients);
    assert!(served >= 16 && refused > 0, "{served} served, {refused} refused");
    let spent = server.cpu_time() - before;
    let limit = Duration::from_millis(500) + began.elapsed() / 5;
    assert!(spent < limit, "{spent:?} of CPU time in {:?}", began.elapsed());
    drop(clients);
    server.await_log("accepting connections again");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = connect(server.port());
        let mut status = [0; 12];
        let sent = stream.write_all(GET.as_bytes());
        if sent.and_then(|()| stream.read_exact(&mut status)).is_ok() && &status == b"HTTP/1.1 200" {
            break;
        }
        assert!(Instant::now() < deadline, "it does not recover");
    }
}

/// Asks on each connection: how many are served, and how many are one too many.
fn served_and_refused(clients: &mut [TcpStream]) -> (usize, usize) {
    let (mut served, mut refused) = (0, 0);
    for stream in clients {
        // Who is refused may be told before this is sent.
        let _ = stream.write_all(GET.as_bytes());
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        match &status {
            b"HTTP/1.1 200" => served += 1,
            b"HTTP/1.1 503" => refused += 1,
            other => panic!("{:?}", String::from_utf8_lossy(other)),
        }
    }
    (served, refused)
}

#[test]
fn the_files_that_workers_need_are_no_connections() {
    const CLIENTS: usize = 700;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("Workers", 128);
    let mut server = setup.open_files(1024, 1024).start();
    server.await_status("/health", 200);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.port())).collect();
    let (served, refused) = served_and_refused(&mut clients);
    assert!(served >= 200 && refused > 0, "{served} served, {refused} refused");
    server.signal(libc::SIGTERM);
    server.wait();
    let log = server.rest_of_log();
    assert!(!log.iter().any(|line| line.contains("cannot accept")), "{log:?}");
}

/// Bytes that look enough like HTTP to get somewhere.
fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    const FRAGMENTS: [&str; 30] = [
        "GET /health HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /health HTTP/1.1\r\n",
        "GET /",
        "POST /health HTTP/1.1\r\nHost: h\r\n",
        "HEAD ",
        "OPTIONS * ",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        " HTTP/2.0\r\n",
        "Host: h\r\n",
        "Content-Length: ",
        "Content-Length: 5\r\n\r\n",
        "Content-Length: 60000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Expect: 100-continue\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "\r\n",
        "\r\n\r\n",
        "\r",
        "\n",
        "0\r\n\r\n",
        "1\r\nx\r\n",
        "5;x\r\n",
        "ffffffff\r\n",
        "%",
        "http://[",
        ":",
        " ",
    ];
    let mut bytes = Vec::new();
    for _ in 0..random.usize(0..20) {
        match random.usize(0..10) {
            0 => bytes.extend((0..random.usize(0..40)).map(|_| random.u8(..))),
            _ => bytes.extend_from_slice(FRAGMENTS[random.usize(0..FRAGMENTS.len())].as_bytes()),
        }
    }
    bytes
}

const SEED: u64 = 0x1d_a110c;

#[test]
fn random_bytes_hang_no_connection() {
    let timeout = TIMEOUT.as_millis() as u64;
    let wire = Wire::with(&[("HttpReadTimeout", timeout), ("HttpIdleTimeout", timeout)]);
    let mut random = fastrand::Rng::with_seed(SEED);
    for _ in 0..4 {
        let mut talks = Vec::new();
        for _ in 0..BATCH {
            let bytes = garbage(&mut random);
            let mut talk = Talk::over(wire.connect());
            talk.send(&bytes);
            talks.push((bytes, talk));
        }
        let sent_at = Instant::now();
        for (bytes, talk) in talks {
            let received = talk.until_end();
            let took = sent_at.elapsed();
            let sent = String::from_utf8_lossy(&bytes);
            // One deadline may follow another, when something was answered in between.
            assert!(took < 2 * LATEST, "{took:?}: {sent:?}");
            let begins = received.is_empty() || received.starts_with("HTTP/1.1 ");
            assert!(begins, "{sent:?} is answered with {received:?}");
        }
    }
    wire.assert_sound();
}

#[test]
fn no_way_to_leave_takes_a_place_along() {
    const PLACES: usize = 4;
    let wire = Wire::with(&[("MaxConnections", PLACES as u64), ("HttpReadTimeout", 300)]);
    let port = wire.server.port();
    let Wire { server: _server, directory: _directory, probe } = wire;
    drop(probe);
    let mut random = fastrand::Rng::with_seed(SEED);
    for _ in 0..200 {
        let mut talk = Talk::over(connect(port));
        talk.send(&garbage(&mut random));
        match random.u8(0..4) {
            // At once, with or without a reset.
            0 => {}
            1 => SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).unwrap(),
            2 => _ = talk.stream.shutdown(Shutdown::Write),
            _ => _ = talk.stream.shutdown(Shutdown::Both),
        }
    }
    let mut honest: Vec<TcpStream> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while honest.len() < PLACES {
        let mut stream = connect(port);
        let mut status = [0; 12];
        let sent = stream.write_all(GET.as_bytes());
        match sent.and_then(|()| stream.read_exact(&mut status)) {
            Ok(()) if &status == b"HTTP/1.1 200" => honest.push(stream),
            _ => assert!(Instant::now() < deadline, "{} of {PLACES} places are left", honest.len()),
        }
    }
}

// ---- properties ----

/// A request whose answer is always the same, and that answer.
fn request() -> impl Strategy<Value = (Vec<u8>, String)> {
    let no_number = "count is 'x': it must be a number from 1 to 10000";
    let not_allowed =
        failure("405 Method Not Allowed", ALLOW, "the method is not allowed: use GET, HEAD or POST");
    let start = prop::sample::select(vec![
        ("GET /health", ok()),
        ("GET http://h/health?x=%41", ok()),
        ("POST /health", ok()),
        ("HEAD /health", without_body(&ok())),
        ("HEAD /x", without_body(&not_found())),
        ("GET //health", not_found()),
        ("OPTIONS *", answer("200 OK", ALLOW, SUCCESS)),
        ("PUT /health", not_allowed),
        ("GET /alloc?app_tag=a&count=x", failure("400 Bad Request", "", no_number)),
    ]);
    let data = prop::collection::vec(any::<u8>(), 0..80);
    let body = prop_oneof![
        2 => Just(String::new()).prop_map(|none| (none, Vec::new())),
        1 => data.clone().prop_map(|data| (format!("Content-Length: {}\r\n", data.len()), data)),
        1 => (data, 1usize..20).prop_map(|(data, size)| {
            let mut chunks = Vec::new();
            for chunk in data.chunks(size) {
                write!(chunks, "{:x}\r\n", chunk.len()).unwrap();
                chunks.extend_from_slice(chunk);
                chunks.extend_from_slice(b"\r\n");
            }
            chunks.extend_from_slice(b"0\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunks)
        }),
    ];
    let headers = "(X-[A-Za-z0-9-]{1,9}:[ \t]?[ -~]{0,30}\r\n){0,3}";
    (0..3usize, start, headers, body).prop_map(|(lines, (start, answer), headers, (framing, body))| {
        let empty_lines = "\r\n".repeat(lines);
        let head = format!("{empty_lines}{start} HTTP/1.1\r\n{headers}Host: h\r\n{framing}\r\n");
        ([head.as_bytes(), &body].concat(), answer)
    })
}

#[test]
fn valid_requests_are_answered_the_same_however_they_are_cut() {
    let mut wire = Wire::start();
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let strategy = (prop::collection::vec(request(), 1..8), prop::collection::vec(1usize..60, 1..6));
    let wire = std::cell::RefCell::new(&mut wire);
    TestRunner::new(config)
        .run(&strategy, |(requests, lengths)| {
            let (sent, answers): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
            let case = kept(sent.concat(), [answers.concat()]);
            let mut pieces = Vec::new();
            let mut rest = case.sent.as_slice();
            for length in lengths.into_iter().cycle() {
                let (piece, others) = rest.split_at(length.min(rest.len()));
                pieces.push(piece);
                rest = others;
                if rest.is_empty() {
                    break;
                }
            }
            let ways = [vec![case.sent.as_slice()], pieces].map(|pieces| Delivery { case: &case, pieces });
            for received in wire.borrow_mut().deliver(&ways) {
                if received != case.expected {
                    return Err(TestCaseError::fail(difference(&received, &case.expected)));
                }
            }
            Ok(())
        })
        .unwrap();
}
