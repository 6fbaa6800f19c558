//! Faults of the machine.

use super::*;

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
