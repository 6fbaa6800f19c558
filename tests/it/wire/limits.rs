//! How long requests and their parts may be.

use super::*;

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
