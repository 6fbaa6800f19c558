//! What holds for any request.

use super::*;

/// A request whose answer is always the same, and that answer.
fn request() -> impl Strategy<Value = (Vec<u8>, String)> {
    let no_number = "count is 'x': it must be a number from 1 to 10000";
    let not_allowed =
        failure("405 Method Not Allowed", ALLOW, "the method is not allowed: use GET, HEAD or POST");
    let start = prop::sample::select(vec![
        ("GET /health", ok()),
        ("GET http://h/health?x=%41", ok()),
        ("POST /health", ok()),
        ("HEAD /health", without_body(&ok())),
        ("HEAD /x", without_body(&not_found())),
        ("GET //health", not_found()),
        ("OPTIONS *", answer("200 OK", ALLOW, SUCCESS)),
        ("PUT /health", not_allowed),
        ("GET /alloc?app_tag=a&count=x", failure("400 Bad Request", "", no_number)),
    ]);
    let data = prop::collection::vec(any::<u8>(), 0..80);
    let body = prop_oneof![
        2 => Just(String::new()).prop_map(|none| (none, Vec::new())),
        1 => data.clone().prop_map(|data| (format!("Content-Length: {}\r\n", data.len()), data)),
        1 => (data, 1usize..20).prop_map(|(data, size)| {
            let mut chunks = Vec::new();
            for chunk in data.chunks(size) {
                write!(chunks, "{:x}\r\n", chunk.len()).unwrap();
                chunks.extend_from_slice(chunk);
                chunks.extend_from_slice(b"\r\n");
            }
            chunks.extend_from_slice(b"0\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunks)
        }),
    ];
    let headers = "(X-[A-Za-z0-9-]{1,9}:[ \t]?[ -~]{0,30}\r\n){0,3}";
    (0..3usize, start, headers, body).prop_map(|(lines, (start, answer), headers, (framing, body))| {
        let empty_lines = "\r\n".repeat(lines);
        let head = format!("{empty_lines}{start} HTTP/1.1\r\n{headers}Host: h\r\n{framing}\r\n");
        ([head.as_bytes(), &body].concat(), answer)
    })
}

#[test]
fn valid_requests_are_answered_the_same_however_they_are_cut() {
    let mut wire = Wire::start();
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let strategy = (prop::collection::vec(request(), 1..8), prop::collection::vec(1usize..60, 1..6));
    let wire = std::cell::RefCell::new(&mut wire);
    TestRunner::new(config)
        .run(&strategy, |(requests, lengths)| {
            let (sent, answers): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
            let case = kept(sent.concat(), [answers.concat()]);
            let mut pieces = Vec::new();
            let mut rest = case.sent.as_slice();
            for length in lengths.into_iter().cycle() {
                let (piece, others) = rest.split_at(length.min(rest.len()));
                pieces.push(piece);
                rest = others;
                if rest.is_empty() {
                    break;
                }
            }
            let ways = [vec![case.sent.as_slice()], pieces].map(|pieces| Delivery { case: &case, pieces });
            for received in wire.borrow_mut().deliver(&ways) {
                if received != case.expected {
                    return Err(TestCaseError::fail(difference(&received, &case.expected)));
                }
            }
            Ok(())
        })
        .unwrap();
}
