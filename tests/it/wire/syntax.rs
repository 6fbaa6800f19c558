//! What is refused as malformed.

use super::*;

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
