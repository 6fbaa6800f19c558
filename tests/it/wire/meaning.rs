//! What headers and methods mean.

use super::*;

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
