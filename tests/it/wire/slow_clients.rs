//! Greedy and slow clients.

use super::*;

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
