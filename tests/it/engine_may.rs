//! What is done around may_minihttp, which does not do it itself.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::server::{PATIENCE, Server, Setup};

fn start(directory: &tempfile::TempDir) -> Setup {
    Setup::embedded(&directory.path().join("ids.db")).admin().key("HttpEngine", "may_minihttp")
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn unfinished_requests_are_bounded_together_and_others_are_served() {
    const CLIENTS: usize = 200;
    const LINE_BYTES: usize = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let server = start(&directory).key("HttpBufferMemory", 4).start();
    server.await_status("/alloc?app_tag=test_business", 200);
    let mut keeps_on = server.connect();
    let begun = format!("GET /alloc HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(LINE_BYTES));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(&server)).collect();
    for client in &mut clients {
        let _ = client.write_all(begun.as_bytes());
        assert_eq!(keeps_on.get("/alloc?app_tag=test_business").status, 200);
    }
    // What is held is less than twice the budget's worth of beginnings.
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let refused = clients.iter().filter(|client| is_refused(client)).count();
        if CLIENTS - refused <= (4 << 20) / LINE_BYTES {
            break refused;
        }
        assert!(Instant::now() < deadline, "only {refused} are refused");
        thread::sleep(Duration::from_millis(20));
    };
    assert!(refused < CLIENTS, "there is memory for some");
    server.await_log("refusing with 503");
    drop(clients);
    server.await_log("there is memory");
    assert_eq!(keeps_on.get("/alloc?app_tag=test_business").status, 200);
}

/// Whether the client is turned away by now: with 503, or by an end where its bytes were on their way.
fn is_refused(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let mut answer = [0; 13];
    match client.peek(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Ok(13) => {
            assert!(answer.starts_with(b"HTTP/1.1 503 "), "{answer:?}");
            true
        }
        Ok(_) | Err(_) => true,
    }
}
