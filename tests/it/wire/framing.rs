//! Where a request ends, and what comes back.

use super::*;

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
