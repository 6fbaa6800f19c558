//! Hostile clients of all kinds at once, and honest ones that must notice nothing of it.
//!
//! Among all tests it takes seconds; `make soak` takes minutes. It ends by itself: every loop looks at the clock, and
//! nothing that a hostile client does waits for longer than a second.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use idalloc_testing::server::{Client, PATIENCE, Response, Server, Setup};
use serde_json::json;
use socket2::SockRef;

/// Few enough that the hostile clients come up against it, and that a leak of slots is noticed.
const CONNECTIONS_MAX: usize = 512;
/// Of a request that arrives slowly, and of answers that are not read.
const SERVER_PATIENCE_MS: u64 = 1000;

/// Of the operator, whose port has hostile clients too.
const TOKEN: &str = "a-token-of-the-operator";

/// Less than the hostile clients ask for.
const BUFFER_MEMORY_MIB: u64 = 4;

const HONEST_CLIENTS: usize = 4;
const PIPELINING_CLIENTS: usize = 2;
const PIPELINE_DEPTH: usize = 256;
/// Between two requests of an honest client, or two steps of a hostile one.
const PAUSE: Duration = Duration::from_millis(1);

/// Generous: the clients here take more than half of the machine, which may have other work, and a server that is not
/// optimized takes the rest. An optimized one comes to a few milliseconds.
const LATENCY_P99_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 250 });
/// What the memory may have grown by when all is over, and while it lasts. A few pages of code and of the store's that
/// were not needed before are no leak.
const GROWTH_MAX_KIB: u64 = 4 * 1024;
const PEAK_GROWTH_MAX_KIB: u64 = 64 * 1024;

/// More than minutes of all this come to; a table of bits for them has 2 GiB, and is filled from its start.
const ID_MAX: usize = 1 << 34;

/// The tag that somebody tries to use up, and what TagLimits leaves him.
const BURNED: &str = "burned";
const BURNED_IDS_PER_SECOND: u64 = 2_000;
const BURNED_STEP: u64 = 500;
/// As it is unless set.
const SEGMENT_SECONDS: u64 = 10;

const HEALTH: &str = "/health";
const ALLOC: &str = "/alloc?app_tag=test_business";

fn request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn soak_time() -> Duration {
    let seconds = std::env::var("IDALLOC_SOAK_SECONDS").map_or(8, |text| text.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

#[test]
fn honest_clients_notice_nothing_of_hostile_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Setup::embedded(&dir.path().join("ids.db"))
        .key("MaxConnections", CONNECTIONS_MAX)
        .key("HttpReadTimeout", SERVER_PATIENCE_MS)
        .key("HttpWriteTimeout", SERVER_PATIENCE_MS)
        .key("HttpBufferMemory", BUFFER_MEMORY_MIB)
        .key("TagLimits", json!({BURNED: {"ids_per_second": BURNED_IDS_PER_SECOND}}))
        .admin()
        .key("AdminToken", TOKEN)
        .start();
    server.await_status(HEALTH, 200);
    let table = rusqlite::Connection::open(dir.path().join("ids.db")).unwrap();
    table.busy_timeout(PATIENCE).unwrap();
    let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, ?2)";
    table.execute(insert, (BURNED, BURNED_STEP.cast_signed())).unwrap();
    // They connect before the hostile ones: who is connected has a slot.
    let mut clients = Clients::connect(&server);
    clients.ask_until(Instant::now() + Duration::from_millis(500));
    watch(server.admin_port(), Instant::now() + Duration::from_millis(500));
    // What the operator's port needs once is no growth.
    for act in [speak_tls, upload_to_the_operator] {
        let until = Instant::now() + Duration::from_millis(500);
        act(&mut Hostile { ports: [server.port(), server.admin_port()], until, rng: Rng::with_seed(0) });
    }
    // What a first lease, and a first refusal, have the server load stays there.
    let lease = format!("/segment?app_tag={BURNED}&count={BURNED_IDS_PER_SECOND}");
    server.await_status(&lease, 200);
    server.await_status(&lease, 429);
    let resident_before = server.resident_kib();

    let began = Instant::now();
    let until = began + soak_time();
    let (latencies, resident_peak) = thread::scope(|scope| {
        let hostile: Vec<_> = (1..)
            .zip(HOSTILE)
            .map(|(seed, (name, act))| {
                let ports = [server.port(), server.admin_port()];
                let mut hostile = Hostile { ports, until, rng: Rng::with_seed(seed) };
                (name, scope.spawn(move || act(&mut hostile)))
            })
            .collect();
        let latencies = scope.spawn(|| clients.ask_until(until));
        let admin_port = server.admin_port();
        let watched = scope.spawn(move || watch(admin_port, until));
        let peak = resident_peak_kib(&server, until);
        for (name, connections) in hostile {
            let connections = connections.join().expect(name);
            println!("{connections:>9} {name}");
            assert!(connections > 0, "no {name}");
        }
        check_latencies("probes and operators", watched.join().expect("no error"));
        (latencies.join().expect("no error"), peak)
    });
    check_latencies("honest requests", latencies);
    let burned: i64 = {
        let query = "SELECT max_id FROM segments WHERE app_tag = ?1";
        table.query_row(query, [BURNED], |row| row.get(0)).unwrap()
    };
    // Beside what was handed out, what stands by: SegmentSeconds of it, twice.
    let allowed = (began.elapsed().as_secs() + 2 + 2 * SEGMENT_SECONDS) * BURNED_IDS_PER_SECOND;
    println!("{burned:>9} IDs reserved of the tag that was to be used up, {allowed} allowed");
    assert!(burned <= allowed.cast_signed(), "{burned} IDs were reserved, and {allowed} allowed");
    assert!(
        resident_peak < resident_before + PEAK_GROWTH_MAX_KIB,
        "{resident_before} to {resident_peak} KiB"
    );

    await_all_slots_free(&server, HONEST_CLIENTS + PIPELINING_CLIENTS);
    let resident_after = await_memory_returned(&server, resident_before);
    println!("resident KiB: {resident_before} before, {resident_peak} at most, {resident_after} after");
    assert_idle(&server);
    check_latencies("honest requests", clients.ask_until(Instant::now() + Duration::from_millis(100)));
    println!("{:>9} IDs, all distinct", clients.ids.count());
    let log = server.log_so_far();
    println!("{} lines of log", log.len());
    assert_eq!(log.iter().find(|line| line.contains("ERROR") || line.contains("panicked")), None);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

// ---- honest clients ----

/// Keep-alive connections that ask and check, one request at a time or pipelined.
struct Clients {
    honest: Vec<Client>,
    pipelining: Vec<Client>,
    ids: Ids,
}

/// How long those waited that ask one request at a time.
type Latencies = Vec<Duration>;

/// All IDs that were handed out, a bit for each: minutes of a flood are hundreds of millions.
#[derive(Default)]
struct Ids(Mutex<Vec<u64>>);

impl Ids {
    /// Notes the IDs of one turn of one connection, which must be new, and ascend.
    fn note(&self, ids: &[i64]) {
        assert!(ids.is_sorted(), "{ids:?}");
        let mut seen = self.0.lock().expect("no error elsewhere");
        for &id in ids {
            let index = usize::try_from(id).expect("an ID above 0");
            assert!(index < ID_MAX, "{id}: this table has handed out fewer");
            if seen.len() <= index / 64 {
                seen.resize(index / 64 + 1, 0);
            }
            assert_eq!(seen[index / 64] >> (index % 64) & 1, 0, "{id} twice");
            seen[index / 64] |= 1 << (index % 64);
        }
    }

    fn count(&self) -> u32 {
        self.0.lock().expect("no error elsewhere").iter().map(|bits| bits.count_ones()).sum()
    }
}

impl Clients {
    fn connect(server: &Server) -> Clients {
        let connect = |count| (0..count).map(|_| server.connect()).collect();
        Clients {
            honest: connect(HONEST_CLIENTS),
            pipelining: connect(PIPELINING_CLIENTS),
            ids: Ids::default(),
        }
    }

    /// Asks without an error until then; an error ends the test.
    fn ask_until(&mut self, until: Instant) -> Latencies {
        let ids = &self.ids;
        thread::scope(|scope| {
            for client in &mut self.pipelining {
                scope.spawn(move || ask_pipelined(client, ids, until));
            }
            let honest = self.honest.iter_mut().map(|client| scope.spawn(move || ask(client, ids, until)));
            let honest: Vec<_> = honest.collect();
            honest.into_iter().flat_map(|client| client.join().expect("no error")).collect()
        })
    }
}

fn ask(client: &mut Client, ids: &Ids, until: Instant) -> Latencies {
    let mut latencies = Vec::new();
    let mut last_id = 0;
    while Instant::now() < until {
        for target in [ALLOC, HEALTH] {
            let asked = Instant::now();
            let response = client.get(target);
            latencies.push(asked.elapsed());
            assert_eq!(response.status, 200, "{response:?}");
            if target == ALLOC {
                ids.note(&[response.id()]);
                assert!(response.id() > last_id, "the IDs of one connection ascend");
                last_id = response.id();
            }
            thread::sleep(PAUSE);
        }
    }
    latencies
}

fn ask_pipelined(client: &mut Client, ids: &Ids, until: Instant) {
    let requests = request(ALLOC).repeat(PIPELINE_DEPTH);
    while Instant::now() < until {
        client.send(&requests);
        let answers = receive_bodies(client.socket(), PIPELINE_DEPTH);
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), PIPELINE_DEPTH, "{answers}");
        let texts = answers.split("\"id\":").skip(1).map(|rest| rest.split('}').next().unwrap_or_default());
        ids.note(&texts.map(|text| text.parse().expect("an ID")).collect::<Vec<i64>>());
    }
}

/// Answers up to the end of so many bodies, each of which has one closing brace; headers have none.
fn receive_bodies(mut socket: &TcpStream, count: usize) -> String {
    let mut received = Vec::new();
    let mut missing = count;
    while missing > 0 {
        let mut bytes = [0; 16 * 1024];
        let length = socket.read(&mut bytes).expect("answers");
        assert!(length > 0, "closed with {missing} answers missing");
        missing -= bytes[..length].iter().filter(|&&byte| byte == b'}').count();
        received.extend_from_slice(&bytes[..length]);
    }
    String::from_utf8(received).expect("UTF-8")
}

fn check_latencies(whose: &str, mut latencies: Latencies) {
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    let [p50, p99, max] = [50, 99, 100].map(percentile);
    println!("{:>9} {whose}: p50 {p50:?}, p99 {p99:?}, max {max:?}", latencies.len());
    assert!(p99 < LATENCY_P99_MAX, "{whose}: p99 {p99:?}");
}

/// Probes of the operator's port, each on a connection of its own, and an operator, who keeps one.
fn watch(port: u16, until: Instant) -> Latencies {
    let token = format!("Authorization: Bearer {TOKEN}");
    let mut operator = Client::connect(port);
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        // Strangers that come by the hundred may take the place of a probe that has not sent its request yet: a balancer
        // asks again before it believes that a node is gone.
        let probed = probe(port).or_else(|| probe(port)).expect("two probes in a row are not answered");
        latencies.push(asked.elapsed());
        assert_eq!(probed.status, 200, "{probed:?}");
        let asked = Instant::now();
        let status = operator.ask_admin("GET", "/api/status", &[&token], "");
        latencies.push(asked.elapsed());
        assert_eq!(status.status, 200, "{status:?}");
        thread::sleep(10 * PAUSE);
    }
    latencies
}

fn probe(port: u16) -> Option<Response> {
    Client::connect(port).try_ask("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

// ---- hostile clients ----

type Act = fn(&mut Hostile) -> usize;

/// Each kind has a thread, and counts the connections that it made.
const HOSTILE: [(&str, Act); 12] = [
    ("requests that dribble in", dribble),
    ("clients that do not read", read_nothing),
    ("bodies that do not end", leave_bodies_unfinished),
    ("uploads that nobody takes", upload),
    ("clients that send garbage", send_garbage),
    ("resets", reset),
    ("half-closes", half_close),
    ("clients of a crowd that leaves", crowd),
    ("clients that speak TLS", speak_tls),
    ("strangers on the operator's port", be_silent_to_the_operator),
    ("uploads to the operator's port", upload_to_the_operator),
    ("clients that lease without end", burn),
];

/// A thread that means no good.
struct Hostile {
    /// That of the clients, and the operator's.
    ports: [u16; 2],
    until: Instant,
    rng: Rng,
}

/// One of many connections that are held for as long as the server bears them.
struct Held {
    stream: TcpStream,
    index: usize,
    sent: usize,
}

impl Hostile {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// A connection on which nothing waits long; `None` when the system has no more, or the server is behind.
    fn connect(&self) -> Option<TcpStream> {
        Self::connect_to(self.ports[0])
    }

    fn connect_to(port: u16) -> Option<TcpStream> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        stream.set_write_timeout(Some(Duration::from_millis(100))).ok()?;
        Some(stream)
    }

    /// The same thread, against the operator's port.
    fn at_the_operators_port(&mut self) -> Hostile {
        Hostile { ports: [self.ports[1]; 2], until: self.until, rng: self.rng.fork() }
    }

    /// Holds `count` connections, and takes a step on each in turn; one that fails is replaced.
    fn hold(&mut self, count: usize, mut step: impl FnMut(&mut Held) -> io::Result<()>) -> usize {
        let mut held = Vec::new();
        let mut made = 0;
        while self.goes_on() {
            while held.len() < count
                && let Some(stream) = self.connect()
                && stream.set_nonblocking(true).is_ok()
            {
                held.push(Held { stream, index: made, sent: 0 });
                made += 1;
            }
            held.retain_mut(|one| step(one).is_ok());
            thread::sleep(5 * PAUSE);
        }
        made
    }

    /// Does something on one connection after the other.
    fn repeat(&mut self, mut act: impl FnMut(&mut Hostile, TcpStream)) -> usize {
        let mut made = 0;
        while self.goes_on() {
            if let Some(stream) = self.connect() {
                act(self, stream);
                made += 1;
            }
            thread::sleep(PAUSE);
        }
        made
    }
}

/// Requests of which a byte arrives now and then: in a header, in a body, in a chunk. They have no end.
fn dribble(hostile: &mut Hostile) -> usize {
    const BEGINNINGS: [&str; 3] = [
        "GET /health HTTP/1.1\r\nHost: test\r\nX: ",
        "POST /alloc HTTP/1.1\r\nHost: test\r\nContent-Length: 60000\r\n\r\napp_tag=",
        "POST /alloc HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
    ];
    hostile.hold(128, |one| {
        let beginning = BEGINNINGS[one.index % BEGINNINGS.len()].as_bytes();
        let byte = beginning.get(one.sent).copied().unwrap_or(b'x');
        one.sent += 1;
        one.stream.write_all(&[byte])
    })
}

/// As many requests as can be sent, each for 20 KB of IDs, which one client in two never reads, and the other a byte
/// at a time.
fn read_nothing(hostile: &mut Hostile) -> usize {
    let request = request("/alloc?app_tag=test_business&count=1000");
    hostile.hold(16, |one| {
        if one.sent == 0 {
            SockRef::from(&one.stream).set_recv_buffer_size(4096)?;
        }
        if one.index % 2 == 0 {
            unless_blocked(one.stream.read(&mut [0]))?;
        }
        for _ in 0..32 {
            one.sent += unless_blocked(one.stream.write(&request.as_bytes()[one.sent % request.len()..]))?;
        }
        Ok(())
    })
}

/// Chunks without a last one, as many as are taken: together far more than HttpBufferMemory.
fn leave_bodies_unfinished(hostile: &mut Hostile) -> usize {
    const HEAD: &str = "POST /alloc HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("800;{}\r\n{}\r\n", "e".repeat(200), "x".repeat(0x800));
    let body = format!("{HEAD}{}", chunk.repeat(31));
    hostile.hold(128, |one| {
        one.sent += unless_blocked(one.stream.write(&body.as_bytes()[one.sent..]))?;
        // An answer is a refusal.
        match one.stream.peek(&mut [0]) {
            Ok(_) => Err(ErrorKind::ConnectionAborted.into()),
            Err(error) => unless_blocked(Err(error)).map(drop),
        }
    })
}

/// Bodies that are too long: whoever sends all of one sees that it is, or that the server was full.
fn upload(hostile: &mut Hostile) -> usize {
    const UPLOAD: usize = 4_000_000;
    let head = format!("POST /alloc HTTP/1.1\r\nHost: test\r\nContent-Length: {UPLOAD}\r\n\r\n");
    let mut answered = 0;
    let made = hostile.repeat(|_, mut stream| {
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[b'x'; UPLOAD]));
        let received = read_rest(&mut stream);
        assert_http(&received);
        answered += usize::from(sent.is_ok() && received.starts_with(b"HTTP/1.1 413 "));
    });
    assert!(answered > 0, "{made} uploads, and no answer");
    made
}

/// That nothing could be done at once is no error.
fn unless_blocked(done: io::Result<usize>) -> io::Result<usize> {
    done.or_else(|error| if error.kind() == ErrorKind::WouldBlock { Ok(0) } else { Err(error) })
}

/// Random bytes, some after the beginning of a request, or after a whole one.
fn send_garbage(hostile: &mut Hostile) -> usize {
    const BEGINNINGS: [&str; 5] = [
        "",
        "GET /health HTTP/1.1\r\nHost: test\r\n",
        "GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\n\r\n",
        "POST /alloc HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n",
        "POST /alloc HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    hostile.repeat(|hostile, mut stream| {
        let mut bytes = BEGINNINGS[hostile.rng.usize(..BEGINNINGS.len())].as_bytes().to_vec();
        let length = hostile.rng.usize(..8192);
        bytes.extend((0..length).map(|_| hostile.rng.u8(..)));
        let _ = stream.write_all(&bytes);
        assert_http(&read_rest(&mut stream));
    })
}

/// What still arrives: to the end, to an error, or until nothing comes any more.
fn read_rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    received
}

/// Whatever was sent, what comes back is HTTP.
fn assert_http(received: &[u8]) {
    let is_http = received.is_empty() || received.starts_with(b"HTTP/1.1 ");
    assert!(is_http, "{:?}", String::from_utf8_lossy(received));
}

/// Connections that are reset: with nothing sent, in a request, or with answers on their way.
fn reset(hostile: &mut Hostile) -> usize {
    let requests = request(ALLOC).repeat(100);
    hostile.repeat(|hostile, mut stream| {
        let _ = stream.write_all(&requests.as_bytes()[..hostile.rng.usize(..requests.len())]);
        if hostile.rng.bool() {
            let _ = stream.read(&mut [0; 100]);
        }
        // To linger for no time is to send a reset instead of an end.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    })
}

/// Requests after which the sending side is shut: all are answered, unless there was no slot.
fn half_close(hostile: &mut Hostile) -> usize {
    let mut served_at_all = false;
    let made = hostile.repeat(|hostile, mut stream| {
        let count = hostile.rng.usize(1..10);
        let sent = stream.write_all(request(ALLOC).repeat(count).as_bytes());
        if sent.and_then(|()| stream.shutdown(Shutdown::Write)).is_err() {
            return;
        }
        // The answers may be slow to come on a busy machine.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let received = read_rest(&mut stream);
        assert_http(&received);
        let answers = String::from_utf8_lossy(&received);
        let served = answers.matches("HTTP/1.1 200 ").count();
        let refused = answers.starts_with("HTTP/1.1 503 ") || answers.is_empty();
        assert!(served == count || refused, "{served} of {count}: {answers}");
        served_at_all |= served > 0;
    });
    assert!(served_at_all, "{made} half-closed connections, and no answer");
    made
}

/// Leases of a tag as fast as they can be asked for, of all sizes: the most that its limit lets through at once, and small
/// ones that each want a reservation.
fn burn(hostile: &mut Hostile) -> usize {
    let lease = |count| request(&format!("/segment?app_tag={BURNED}&count={count}"));
    let requests = [2, BURNED_STEP - 1, BURNED_STEP + 1, BURNED_IDS_PER_SECOND].map(lease).concat();
    let (mut served, mut limited) = (0, 0);
    let made = hostile.repeat(|_, mut stream| {
        let sent = stream.write_all(requests.repeat(25).as_bytes());
        if sent.and_then(|()| stream.shutdown(Shutdown::Write)).is_err() {
            return;
        }
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let received = read_rest(&mut stream);
        assert_http(&received);
        let answers = String::from_utf8_lossy(&received);
        served += answers.matches("HTTP/1.1 200 ").count();
        limited += answers.matches("HTTP/1.1 429 ").count();
    });
    assert!(served > 0 && limited > served, "{made} clients got {served} leases and {limited} refusals");
    made
}

/// More connections at once than there are slots; they leave without a word.
fn crowd(hostile: &mut Hostile) -> usize {
    let mut made = 0;
    while hostile.goes_on() {
        let crowd: Vec<_> = (0..CONNECTIONS_MAX).map_while(|_| hostile.connect()).collect();
        made += crowd.len();
        // Without this, the system runs out of ports: an end, unlike a reset, keeps one for a minute.
        crowd.iter().skip(8).for_each(|stream| {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        });
        drop(crowd);
        thread::sleep(Duration::from_millis(500));
    }
    made
}

/// The beginning of what a client sends that takes the port for one of TLS.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// Clients that begin with TLS, on either port: they learn that it is HTTP, at once and whole.
fn speak_tls(hostile: &mut Hostile) -> usize {
    let mut told = [0; 2];
    let made = hostile.repeat(|hostile, stream| {
        drop(stream);
        let port = hostile.rng.usize(..2);
        let Some(mut stream) = Hostile::connect_to(hostile.ports[port]) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let rest = vec![b'x'; hostile.rng.usize(..1000)];
        let _ = stream.write_all(TLS_HELLO).and_then(|()| stream.write_all(&rest));
        let received = read_rest(&mut stream);
        assert_http(&received);
        told[port] += usize::from(received.starts_with(b"HTTP/1.1 400 "));
    });
    assert!(told.iter().all(|told| *told > 0), "{told:?} of {made}");
    made
}

/// More than there are places for strangers: they say nothing, or a byte of a head now and then, and come back.
fn be_silent_to_the_operator(hostile: &mut Hostile) -> usize {
    const HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ";
    // So that some hundred come each second.
    hostile.at_the_operators_port().hold(68, |one| {
        if one.sent == 0 {
            // An end, unlike a reset, would keep a port of this system for a minute.
            SockRef::from(&one.stream).set_linger(Some(Duration::ZERO))?;
        }
        if one.index % 2 == 0 {
            one.stream.write_all(&[HEAD.get(one.sent).copied().unwrap_or(b'x')])?;
        }
        one.sent += 1;
        match one.stream.peek(&mut [0]) {
            Ok(_) => Err(ErrorKind::ConnectionAborted.into()),
            Err(error) => unless_blocked(Err(error)).map(drop),
        }
    })
}

/// Bodies that strangers may not send, and such that are too long for anybody: whoever sends all of one is told.
fn upload_to_the_operator(hostile: &mut Hostile) -> usize {
    const UPLOAD: usize = 1_000_000;
    let head = |token: &str| {
        format!(
            "POST /api/tags HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {UPLOAD}\r\n\r\n"
        )
    };
    let heads = [(head(TOKEN), "HTTP/1.1 413 "), (head("no-token-of-anybody"), "HTTP/1.1 401 ")];
    let mut answered = 0;
    let made = hostile.at_the_operators_port().repeat(|hostile, mut stream| {
        let (head, expected) = hostile.rng.choice(&heads).expect("one of them");
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[b'x'; UPLOAD]));
        let received = read_rest(&mut stream);
        assert_http(&received);
        answered += usize::from(sent.is_ok() && received.starts_with(expected.as_bytes()));
    });
    assert!(answered > 0, "{made} uploads, and no answer");
    made
}

// ---- the server afterwards ----

fn resident_peak_kib(server: &Server, until: Instant) -> u64 {
    let mut peak = 0;
    while Instant::now() < until {
        peak = peak.max(server.resident_kib());
        thread::sleep(Duration::from_millis(50));
    }
    peak
}

/// Waits until exactly as many clients can connect as there are slots that are not `taken`.
fn await_all_slots_free(server: &Server, taken: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut clients: Vec<_> = (taken..CONNECTIONS_MAX).map(|_| server.connect()).collect();
        let is_served =
            |client: &mut Client| client.try_get(HEALTH).is_some_and(|response| response.status == 200);
        let served = clients.iter_mut().filter_map(|client| is_served(client).then_some(())).count();
        if served == clients.len() {
            let one_more = server.connect().try_get(HEALTH).map(|response| response.status);
            assert_eq!(one_more, Some(503), "there are more slots than MaxConnections");
            return;
        }
        assert!(Instant::now() < deadline, "{} slots do not come free", clients.len() - served);
        drop(clients);
        thread::sleep(Duration::from_millis(100));
    }
}

/// The memory when it is back where it was; the allocator takes its time to return it to the system.
fn await_memory_returned(server: &Server, before: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = server.resident_kib();
        if now <= before + GROWTH_MAX_KIB {
            return now;
        }
        assert!(Instant::now() < deadline, "resident KiB: {before} before, {now} after");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A connection that is gone but not forgotten by its task would keep a worker busy.
fn assert_idle(server: &Server) {
    let before = server.cpu_time();
    thread::sleep(Duration::from_secs(1));
    let spent = server.cpu_time() - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} of CPU time in a second without a request");
}
