//! Faults that were found once: symptom, cause, and what mended it.

use std::time::{Duration, Instant};

use idalloc_testing::server::{Client, Setup};

/// Symptom: a connection was never closed for being idle, and held up the end of the server.
/// Cause: tokio calls a socket readable until a read returns less than was asked for; after one that filled the buffer
/// exactly, the connection counted as busy while it waited for bytes that did not come.
/// Mended: it counts as busy only when it has received something.
#[test]
fn a_connection_that_filled_the_buffer_exactly_is_idle_afterwards() {
    const INPUT_BYTES: usize = 16 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::embedded(&dir.path().join("ids.db")).key("HttpIdleTimeout", 300).start();
    server.await_status("/health", 200);
    let request =
        |padding: usize| format!("HEAD /health HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(padding));
    let each = request(0).len();
    // Sixteen requests, which together are as long as the buffer.
    let (short, last) = (INPUT_BYTES / 16 - each, INPUT_BYTES - 15 * (INPUT_BYTES / 16) - each);
    let sent: String = (0..15).map(|_| request(short)).chain([request(last)]).collect();
    assert_eq!(sent.len(), INPUT_BYTES);
    let mut client = Client::connect(server.port());
    client.send(&sent);
    for _ in 0..16 {
        assert_eq!(client.receive_head().status, 200);
    }
    let answered = Instant::now();
    assert!(client.is_closed());
    assert!(answered.elapsed() < Duration::from_secs(3), "closed after {:?}", answered.elapsed());
}

/// Symptom: with `may_minihttp`, a request whose body never came kept its connection for ever.
/// Cause: the connection counted as at work from the head on, and who works is not idle.
/// Mended: it counts as at work when the body is there.
#[test]
fn a_body_that_never_comes_does_not_keep_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::embedded(&dir.path().join("ids.db"))
        .key("HttpEngine", "may_minihttp")
        .key("HttpReadTimeout", 300)
        .start();
    server.await_status("/health", 200);
    let mut client = server.connect();
    client.send("POST /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nabc");
    let sent = Instant::now();
    while client.try_receive(true).is_some() {}
    assert!(sent.elapsed() < Duration::from_secs(3), "closed after {:?}", sent.elapsed());
}

/// Symptom: a connection under `may_minihttp` that was in use was closed after HttpWriteTimeout.
/// Cause: "unsent" was read from SIOCOUTQ, which counts what is sent and not acknowledged yet.
/// Mended: SIOCOUTQNSD, which does not.
#[test]
fn a_busy_connection_is_not_taken_for_one_that_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::embedded(&dir.path().join("ids.db"))
        .key("HttpEngine", "may_minihttp")
        .key("HttpWriteTimeout", 500)
        .start();
    server.await_status("/health", 200);
    let mut client = server.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.get("/health").status, 200);
    }
}
