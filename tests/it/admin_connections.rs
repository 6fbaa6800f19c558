//! Connections to the operator's port that end early, or late.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::server::{Client, PATIENCE, Server, Setup};

/// How long a head may take to arrive there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.admin_port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn with_token(directory: &tempfile::TempDir) -> Server {
    Setup::embedded(&directory.path().join("ids.db")).admin().key("AdminToken", TOKEN).start()
}

const TOKEN: &str = "hunter2-hunter2-hunter2";

/// Clients that read nothing before they have sent all, as many are. A reset would take the answer with it.
#[test]
fn an_answer_before_the_end_of_the_request_reaches_a_client_that_sends_on() {
    const UPLOAD: usize = 20_000_000;
    const TIMES: usize = 10;
    let directory = tempfile::tempdir().unwrap();
    let server = with_token(&directory);
    let post = |headers: &str| {
        format!("POST /api/tags HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {UPLOAD}\r\n\r\n")
    };
    let json = "Content-Type: application/json\r\n";
    let early = [
        ("413", post(&format!("Authorization: Bearer {TOKEN}\r\n{json}"))),
        ("401", post(json)),
        ("403", post("Origin: http://evil.example\r\n")),
        ("400", "no request\r\n\r\n".to_owned()),
        ("431", format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(200))),
    ];
    let rest = vec![b'x'; UPLOAD];
    for (status, start) in early.iter().flat_map(|early| std::iter::repeat_n(early, TIMES)) {
        let mut stream = connect(&server);
        let sent = stream.write_all(start.as_bytes()).and_then(|()| stream.write_all(&rest));
        assert!(sent.is_ok(), "{status}: {sent:?}");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap_or_else(|error| panic!("{status}: {error}"));
        assert!(received.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{status}: {received:?}");
    }
}

#[test]
fn a_client_that_sends_on_after_the_last_answer_is_listened_to_for_a_limited_time() {
    let directory = tempfile::tempdir().unwrap();
    let server = with_token(&directory);
    let mut stream = connect(&server);
    stream.write_all(b"no request\r\n\r\n").unwrap();
    let began = Instant::now();
    while stream.write_all(b"more").is_ok() {
        assert!(began.elapsed() < HEAD_TIMEOUT + PATIENCE, "it is listened to for ever");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= HEAD_TIMEOUT, "{:?}", began.elapsed());
}

/// What has arrived is read before the time is judged: that the server was halted is not the client's fault.
#[test]
fn a_head_that_has_arrived_when_its_time_is_over_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let server = with_token(&directory);
    let get = "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.admin_port())).collect();
    for (client, begun) in clients.iter_mut().zip((0..=1).cycle()) {
        // Some are idle after an answer, and some are in the middle of a head.
        client.send(get);
        assert_eq!(client.receive().status, 200);
        client.send(&get[..begun * 20]);
    }
    // They wait for the rest by now, and their time runs.
    thread::sleep(Duration::from_millis(100));
    server.signal(libc::SIGSTOP);
    for (client, begun) in clients.iter_mut().zip((0..=1).cycle()) {
        client.send(&get[begun * 20..]);
    }
    thread::sleep(HEAD_TIMEOUT);
    server.signal(libc::SIGCONT);
    assert!(clients.iter_mut().all(|client| client.receive().status == 200));
}
