//! See [`super`].

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    method: Method,
    version: Version,
    keep_alive: bool,
    path: String,
    query: String,
    authorization: Vec<u8>,
    host: Vec<u8>,
    origin: Vec<u8>,
    site: Site,
    preflight: Preflight,
    media: Media,
    form: Vec<u8>,
}

impl From<Request<'_>> for Owned {
    fn from(request: Request) -> Owned {
        Owned {
            method: request.method,
            version: request.version,
            keep_alive: request.keep_alive,
            path: request.path.to_owned(),
            query: request.query.to_owned(),
            authorization: request.authorization.to_owned(),
            host: request.sender.host.to_owned(),
            origin: request.sender.origin.to_owned(),
            site: request.sender.site,
            preflight: request.sender.preflight,
            media: request.body.media,
            form: request.body.form().to_owned(),
        }
    }
}

/// A connection that receives, parses and consumes.
#[derive(Default)]
struct Connection {
    parser: Parser,
    buf: Vec<u8>,
    requests: Vec<Owned>,
    continues: usize,
    reject: Option<Reject>,
}

impl Connection {
    fn receive(&mut self, piece: &[u8]) {
        self.buf.extend_from_slice(piece);
        while self.reject.is_none() {
            match self.parser.parse(&mut self.buf) {
                Ok(Parsed::Complete { request, bytes }) => {
                    self.requests.push(request.into());
                    let consumed = bytes.len();
                    self.buf.drain(..consumed);
                }
                Ok(Parsed::Partial { expects_continue }) => {
                    self.continues += usize::from(expects_continue);
                    assert!(self.buf.len() < REQUEST_BYTES_MAX, "asks for more than fits");
                    return;
                }
                Err(reject) => self.reject = Some(reject),
            }
        }
    }
}

fn receive_all<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Connection {
    let mut connection = Connection::default();
    for piece in pieces {
        connection.receive(piece);
    }
    connection
}

/// The one request in `bytes`, the same whether they arrive at once or one by one.
#[track_caller]
fn parse(bytes: impl AsRef<[u8]>) -> Result<Owned, Reject> {
    let bytes = bytes.as_ref();
    let at_once = receive_all([bytes]);
    let one_by_one = receive_all(bytes.chunks(1));
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    assert_eq!(at_once.requests, one_by_one.requests, "{text}");
    assert_eq!(at_once.reject, one_by_one.reject, "{text}");
    match (at_once.reject, at_once.requests.as_slice()) {
        (Some(reject), []) => Err(reject),
        (None, [request]) if at_once.buf.is_empty() => Ok(request.clone()),
        other => panic!("not one request: {text:?} gives {other:?}, {} bytes left", at_once.buf.len()),
    }
}

#[track_caller]
fn status(bytes: impl AsRef<[u8]>) -> u16 {
    match parse(bytes) {
        Ok(request) => panic!("accepted: {request:?}"),
        Err(reject) => reject.status,
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// A GET with more header lines, each ended by CRLF.
fn with_headers(version: &str, headers: &str) -> String {
    format!("GET / {version}\r\nHost: h\r\n{headers}\r\n")
}

fn chunked(body: &str) -> String {
    let form = "Content-Type: application/x-www-form-urlencoded";
    format!("POST / HTTP/1.1\r\nHost: h\r\n{form}\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn a_request_is_taken_apart() {
    let request = parse("GET /alloc?app_tag=test&n=2?3 HTTP/1.1\r\nHost: localhost:8880\r\n\r\n").unwrap();
    let expected = Owned {
        method: Method::Get,
        version: Version::Http11,
        keep_alive: true,
        path: "/alloc".into(),
        query: "app_tag=test&n=2?3".into(),
        authorization: vec![],
        host: b"localhost:8880".to_vec(),
        origin: vec![],
        site: Site::Unsaid,
        preflight: Preflight::No,
        media: Media::None,
        form: vec![],
    };
    assert_eq!(request, expected);
    let with_token = "\r\nGET / HTTP/1.1\r\nHost: h\r\nauthorization:  Bearer a-token \r\nX: y\r\n\r\n";
    assert_eq!(parse(with_token).unwrap().authorization, b"Bearer a-token");
    let twice = with_headers("HTTP/1.1", "Authorization: Bearer a\r\nAUTHORIZATION: Bearer b\r\n");
    assert_eq!(parse(twice), Err(Reject::REPEATED), "who looks at which?");
}

#[test]
fn a_head_says_who_sends_it() {
    let sent = |target: &str, headers: &str| {
        let request = parse(format!("OPTIONS {target} HTTP/1.1\r\nHost: h:1\r\n{headers}\r\n"))?;
        Ok((request.host, request.origin, request.site, request.preflight))
    };
    let (own, none) = (b"h:1".to_vec(), Vec::new());
    assert_eq!(sent("/x", ""), Ok((own.clone(), none.clone(), Site::Unsaid, Preflight::No)));
    assert_eq!(sent("*", "Origin: \r\n"), Ok((own.clone(), none.clone(), Site::Unsaid, Preflight::No)));
    let from_page = "origin:  null \r\nSEC-FETCH-SITE: cross-site\r\n";
    assert_eq!(sent("/x", from_page), Ok((own.clone(), b"null".to_vec(), Site::Other, Preflight::No)));
    // RFC 9112, 3.2.2: the authority of a URL goes before Host.
    assert_eq!(sent("http://[::1]:2?x", "").map(|sent| sent.0), Ok(b"[::1]:2".to_vec()));
    assert_eq!(sent("HTTP://other/", "").map(|sent| sent.0), Ok(b"other".to_vec()));
    let (method, private) =
        ("Access-Control-Request-Method: GET\r\n", "access-control-request-private-network: true\r\n");
    for (headers, preflight) in [
        (method.to_owned(), Preflight::Plain),
        (format!("{method}{private}"), Preflight::PrivateNetwork),
        (format!("{private}{method}"), Preflight::PrivateNetwork),
    ] {
        assert_eq!(
            sent("/x", &headers),
            Ok((own.clone(), none.clone(), Site::Unsaid, preflight)),
            "{headers}"
        );
    }
    for twice in ["Origin: a\r\norigin: a\r\n", "Sec-Fetch-Site: none\r\nSec-Fetch-Site: none\r\n"] {
        assert_eq!(sent("/x", twice), Err(Reject::REPEATED), "{twice}");
    }
    assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").unwrap().host, b"");
}

#[test]
fn methods_are_known_by_their_exact_name() {
    let method = |name| parse(format!("{name} / HTTP/1.1\r\nHost: h\r\n\r\n")).map(|request| request.method);
    assert_eq!(method("GET"), Ok(Method::Get));
    assert_eq!(method("HEAD"), Ok(Method::Head));
    assert_eq!(method("POST"), Ok(Method::Post));
    assert_eq!(method("OPTIONS"), Ok(Method::Options));
    for other in ["PUT", "DELETE", "PATCH", "TRACE"] {
        assert_eq!(method(other), Ok(Method::Other), "{other}");
    }
    for unknown in ["get", "Get", "GETS", "M-SEARCH", "G!"] {
        assert_eq!(method(unknown), Err(Reject::UNKNOWN_METHOD), "{unknown}");
    }
    for malformed in ["", " GET", "G(T", "G\tT", "G\u{e9}T"] {
        assert_eq!(method(malformed), Err(Reject::BAD_REQUEST_LINE), "{malformed}");
    }
}

#[test]
fn every_form_of_target_is_understood() {
    for (method, target, path, query) in [
        ("GET", "/", "/", ""),
        ("GET", "/?", "/", ""),
        ("GET", "//a/../b;v=1", "//a/../b;v=1", ""),
        ("GET", "/a%2Fb?c=%e8%Ae%a2", "/a%2Fb", "c=%e8%Ae%a2"),
        ("GET", "/?tag=订单&x=[{|}]^`\\", "/", "tag=订单&x=[{|}]^`\\"),
        ("GET", "http://h:80/p?q", "/p", "q"),
        ("GET", "HTTP://[::1]:8880/p", "/p", ""),
        ("GET", "http://h", "/", ""),
        ("GET", "http://h?q/?", "/", "q/?"),
        ("OPTIONS", "*", "*", ""),
        ("OPTIONS", "/p", "/p", ""),
        ("CONNECT", "h:443", "h:443", ""),
    ] {
        let request = parse(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        assert_eq!((request.path.as_str(), request.query.as_str()), (path, query), "{target}");
    }
}

#[test]
fn malformed_targets_are_rejected() {
    let targets = [
        "",
        "*",
        "p",
        "?q",
        "h:443",
        "//h\"",
        "/#f",
        "/?q#f",
        "/%",
        "/%4",
        "/%4g",
        "/%%41",
        "/?%zz",
        "/?a=%e",
        "/a b",
        "/ ",
        "/\t",
        "/\u{7f}",
        "/?\u{1}",
        "/\u{8ba2}",
        "/?<",
        "/|",
        "http:/p",
        "http://",
        "http:///p",
        "http://u@h/",
        "http://h:p/",
        "http://h\\/",
        "https://h/",
        "ftps://h/",
    ];
    for target in targets {
        assert_eq!(status(get(target)), 400, "{target}");
    }
    assert_eq!(status(b"GET /?\xe8\xae HTTP/1.1\r\nHost: h\r\n\r\n"), 400, "not UTF-8");
    assert_eq!(status("CONNECT /p HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
}

#[test]
fn later_minor_versions_are_1_1_and_other_majors_are_not_served() {
    let version = |text| parse(with_headers(text, "")).map(|request| request.version);
    assert_eq!(version("HTTP/1.0"), Ok(Version::Http10));
    for text in ["HTTP/1.1", "HTTP/1.2", "HTTP/1.9"] {
        assert_eq!(version(text), Ok(Version::Http11), "{text}");
    }
    for text in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.1"] {
        assert_eq!(version(text), Err(Reject::BAD_VERSION), "{text}");
    }
    for text in [
        "http/1.1",
        "HTTP/1",
        "HTTP/1.10",
        "HTTP/11.1",
        "HTTP/1,1",
        "HTTP/1.x",
        "HTTP/x.1",
        "HTTP/1.1 ",
        " HTTP/1.1",
        "",
    ] {
        assert_eq!(version(text), Err(Reject::BAD_REQUEST_LINE), "{text}");
    }
    assert_eq!(status("GET /\r\n\r\n"), 400);
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

#[test]
fn a_line_ends_with_crlf_and_anything_else_is_rejected_at_once() {
    for bytes in [
        "\n",
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\r\nHost: h\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "GET / HTTP/1.1\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
    ] {
        assert_eq!(status(bytes), 400, "{bytes:?}");
    }
}

#[test]
fn header_lines_are_strict() {
    for line in [
        "Name : v",
        " Name: v",
        "\tName: v",
        "Na me: v",
        ": v",
        "Name",
        "N\u{e9}: v",
        "Name: a\0b",
        "Name: a\u{1}b",
        "Name: a\u{7f}b",
        "Name: a\r\n folded",
        "Name:\r\n\tfolded",
    ] {
        assert_eq!(status(with_headers("HTTP/1.1", &format!("{line}\r\n"))), 400, "{line:?}");
    }
    for line in ["Name:", "Name:v", "Name: \t v \t ", "!#$%&'*+-.^_`|~09az: \"v\t\u{e9}\""] {
        assert!(parse(with_headers("HTTP/1.1", &format!("{line}\r\n"))).is_ok(), "{line:?}");
    }
}

#[test]
fn empty_lines_before_a_request_are_few() {
    let after = |lines| "\r\n".repeat(lines) + &get("/p?q");
    let request = parse(after(4)).unwrap();
    assert_eq!((request.path.as_str(), request.query.as_str()), ("/p", "q"));
    assert_eq!(parse(after(5)), Err(Reject::EMPTY_LINES));
}

#[test]
fn the_request_line_is_bounded() {
    let line_of = |bytes: usize| get(&format!("/{}", "p".repeat(bytes - "GET / HTTP/1.1".len())));
    assert!(parse(line_of(REQUEST_LINE_BYTES_MAX)).is_ok());
    assert_eq!(status(line_of(REQUEST_LINE_BYTES_MAX + 1)), 414);
    assert_eq!(status("x".repeat(REQUEST_LINE_BYTES_MAX + 2)), 414, "without its end");
    assert!(receive_all(["x".repeat(REQUEST_LINE_BYTES_MAX + 1).as_bytes()]).reject.is_none());
}

#[test]
fn the_header_section_is_bounded() {
    let section_of = |bytes: usize| {
        let value = "v".repeat(bytes - "Host: h\r\nX: \r\n\r\n".len());
        with_headers("HTTP/1.1", &format!("X: {value}\r\n"))
    };
    assert!(parse(section_of(HEADERS_BYTES_MAX)).is_ok());
    assert_eq!(status(section_of(HEADERS_BYTES_MAX + 1)), 431);
    let endless = format!("GET / HTTP/1.1\r\n{}", "x".repeat(HEADERS_BYTES_MAX));
    assert_eq!(status(&endless), 431, "without its end");
    assert!(receive_all([&endless.as_bytes()[..endless.len() - 1]]).reject.is_none());

    assert!(parse(with_headers("HTTP/1.1", &"X: y\r\n".repeat(HEADER_FIELDS_MAX - 1))).is_ok());
    assert_eq!(status(with_headers("HTTP/1.1", &"X: y\r\n".repeat(HEADER_FIELDS_MAX))), 431);
}

#[test]
fn host_is_needed_once_and_well_formed() {
    let host = |value: &str| parse(format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")).map(|_| ());
    for value in
        ["", " ", "h", "h:", "h:80", "1.2.3.4:80", "80", "[::1]", "[fe80::1]:80", "a-b_c.d~e%41!$&'()*+,;="]
    {
        assert_eq!(host(value), Ok(()), "{value}");
    }
    for value in [
        ":80", "h:p", "h:80:80", "::1", "[]", "[::1", "::1]", "[::1]x", "[%31]", "u@h", "h/p", "h h", "h%4",
        "é", "http://h",
    ] {
        assert_eq!(host(value), Err(Reject::BAD_HOST), "{value}");
    }
    assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(Reject::NO_HOST));
    assert_eq!(parse("GET http://h/ HTTP/1.1\r\n\r\n"), Err(Reject::NO_HOST));
    assert!(parse("GET / HTTP/1.0\r\n\r\n").is_ok());
    assert_eq!(parse("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), Err(Reject::BAD_HOST));
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        assert_eq!(parse(with_headers(version, "hOST: h\r\n")), Err(Reject::REPEATED));
    }
}

#[test]
fn a_body_is_as_long_as_content_length_says() {
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let post = |length: &str, body: &str| {
        parse(format!("POST / HTTP/1.1\r\nHost: h\r\n{form}content-LENGTH: {length}\r\n\r\n{body}"))
    };
    assert_eq!(post("4", "a=bc").unwrap().form, b"a=bc");
    assert_eq!(post("0004", "a=bc").unwrap().form, b"a=bc");
    assert_eq!(post("0", "").unwrap().form, b"");
    let longest = "x".repeat(BODY_BYTES_MAX);
    assert_eq!(post(&longest.len().to_string(), &longest).unwrap().form, longest.as_bytes());
    for length in ["65537", "18446744073709551620", "99999999999999999999999999"] {
        assert_eq!(post(length, ""), Err(Reject::LONG_BODY), "{length}");
    }
    for length in ["", "+4", "-4", "4,4", "4, 4", "4 4", "0x4", "4.", "٤"] {
        assert_eq!(post(length, ""), Err(Reject::BAD_LENGTH), "{length}");
    }
    for second in ["4", "5"] {
        assert_eq!(post(&format!("4\r\nContent-Length: {second}"), ""), Err(Reject::REPEATED));
    }
    assert_eq!(parse(format!("POST / HTTP/1.1\r\nHost: h\r\n{form}\r\n")).unwrap().form, b"", "no length");
}

#[test]
fn every_body_is_consumed_and_only_a_posted_form_is_kept() {
    let form = |method: &str, content_type: &str| {
        let head = format!("{method} / HTTP/1.1\r\nHost: h\r\n{content_type}Content-Length: 3");
        parse(format!("{head}\r\n\r\na=b")).map(|request| request.form)
    };
    for content_type in [
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "content-type:APPLICATION/X-WWW-Form-Urlencoded ; charset=UTF-8\r\n",
    ] {
        assert_eq!(form("POST", content_type), Ok(b"a=b".to_vec()), "{content_type}");
        assert_eq!(form("GET", content_type), Ok(vec![]), "{content_type}");
    }
    for content_type in ["", "Content-Type:\r\n", "Content-Type: application/json\r\n"] {
        assert_eq!(form("POST", content_type), Ok(vec![]), "{content_type}");
    }
    let twice = "Content-Type: a/b\r\n".repeat(2);
    assert_eq!(form("POST", &twice), Err(Reject::REPEATED));
}

#[test]
fn only_chunked_alone_in_1_1_frames_a_body() {
    let framing = |version, headers: &str| parse(with_headers(version, headers) + "0\r\n\r\n").map(|_| ());
    assert_eq!(framing("HTTP/1.1", "transfer-encoding: \t Chunked \t\r\n"), Ok(()));
    for (version, headers) in [
        ("HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("HTTP/1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: \r\n"),
        ("HTTP/1.1", "Transfer-Encoding: gzip\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: identity\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: gzip, chunked\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: chunked, chunked\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: chunked;q=1\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: \u{b}chunked\r\n"),
        ("HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        assert_eq!(framing(version, headers).map_err(|reject| reject.status), Err(400), "{headers:?}");
    }
}

#[test]
fn chunks_are_joined() {
    let body = "3\r\na=b\r\n00A;x=\"y\tz\";é \r\n0123456789\r\n1 ;x\r\n\n\r\n000;last\r\n";
    for trailers in ["\r\n", "X: y\r\nContent-Length: 7\r\n\r\n"] {
        let request = parse(chunked(&format!("{body}{trailers}"))).unwrap();
        assert_eq!(request.form, b"a=b0123456789\n");
    }
}

#[test]
fn malformed_chunks_and_trailers_are_rejected() {
    let long_extension = format!("1;{}\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX - 1));
    for body in [
        "\r\n",
        "g\r\n",
        "+1\r\n",
        "-1\r\n",
        " 1\r\n",
        "0x1\r\n",
        "1 \r\n",
        "1 x\r\n",
        ";x\r\n",
        "1\n",
        "1\rx\r\n",
        "1;\0\r\n",
        "1;a\rb\r\n",
        "00000000000000001\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "1\r\na\r\r",
        "2\r\na\r\n0\r\n",
        &long_extension,
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n\n",
        "0\r\nX: y\n",
    ] {
        assert_eq!(status(chunked(body)), 400, "{body:?}");
    }
    let longest_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX - 2));
    assert_eq!(parse(chunked(&longest_extension)).unwrap().form, b"a");
}

#[test]
fn chunked_bodies_are_bounded() {
    let half = format!("8000\r\n{}\r\n", "x".repeat(BODY_BYTES_MAX / 2));
    assert_eq!(parse(chunked(&format!("{half}{half}0\r\n\r\n"))).unwrap().form.len(), BODY_BYTES_MAX);
    for more in ["1\r\n", "10000\r\n", "ffffffffffffffff\r\n"] {
        assert_eq!(parse(chunked(&format!("{half}{half}{more}"))), Err(Reject::LONG_BODY), "{more}");
    }
    assert_eq!(parse(chunked("10001\r\n")), Err(Reject::LONG_BODY));
    assert_eq!(parse(chunked(&"1\r\nx\r\n".repeat(BODY_BYTES_MAX))), Err(Reject::LONG_CHUNKS));
    let trailers =
        |bytes: usize| chunked(&format!("0\r\nX: {}\r\n\r\n", "y".repeat(bytes - "X: \r\n\r\n".len())));
    assert!(parse(trailers(TRAILERS_BYTES_MAX)).is_ok());
    assert_eq!(parse(trailers(TRAILERS_BYTES_MAX + 1)), Err(Reject::LONG_TRAILERS));
    assert_eq!(status(chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(HEADER_FIELDS_MAX + 1)))), 431);
}

/// `Connection::receive` checks that no more is asked for than fits.
#[test]
fn the_largest_request_fits_the_buffer() {
    let target = "p".repeat(REQUEST_LINE_BYTES_MAX - "POST / HTTP/1.1".len());
    let headers = "Host: h\r\nTransfer-Encoding: chunked\r\nX: \r\n\r\n";
    let value = "v".repeat(HEADERS_BYTES_MAX - headers.len());
    let mut largest = format!("{}POST /{target} HTTP/1.1\r\n", "\r\n".repeat(EMPTY_LINES_MAX));
    largest += &headers.replace("X: ", &format!("X: {value}"));
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(CHUNK_LINE_BYTES_MAX - 2));
    let small_chunks = FRAMING_BYTES_MAX / chunk.len();
    let data = BODY_BYTES_MAX - small_chunks;
    largest += &format!("{data:x}\r\n{}\r\n{}", "x".repeat(data), chunk.repeat(small_chunks));
    largest += &format!("0\r\nX: {}\r\n\r\n", "v".repeat(TRAILERS_BYTES_MAX - "X: \r\n\r\n".len()));
    assert!(parse(&largest).is_ok());
    assert!(REQUEST_BYTES_MAX - largest.len() < chunk.len());
}

/// Garbles all that the parser is done with: had it to look again, it would notice.
#[test]
fn joined_chunks_are_not_looked_at_again() {
    let bytes = chunked("5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n");
    let mut parser = Parser::default();
    let mut buf = Vec::new();
    for byte in bytes.as_bytes() {
        buf.push(*byte);
        let parsed = parser.parse(&mut buf).unwrap();
        if let Parsed::Complete { request, .. } = parsed {
            assert_eq!(request.body.form(), b"hello world");
            return;
        }
        if parser.stage == Stage::ChunkData || parser.stage == Stage::ChunkSize {
            buf[parser.body_end as usize..parser.position as usize].fill(b'\n');
        }
    }
    panic!("incomplete");
}

/// The same for a line whose end is late.
#[test]
fn the_start_of_a_line_is_not_searched_again() {
    let mut parser = Parser::default();
    let mut buf = b"GET / HTTP/1.1\r\nHost: h\r\nX: 123".to_vec();
    parser.parse(&mut buf).unwrap();
    *buf.last_mut().unwrap() = b'\n';
    assert_eq!(parser.parse(&mut buf), Ok(Parsed::Partial { expects_continue: false }));
}

#[test]
fn continue_is_due_once_and_only_while_the_client_waits() {
    let continues = |pieces: &[&str]| {
        let connection = receive_all(pieces.iter().map(|piece| piece.as_bytes()));
        assert_eq!((connection.requests.len(), connection.reject), (1, None), "{pieces:?}");
        connection.continues
    };
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nexpect: 100-Continue\r\n\r\n";
    assert_eq!(continues(&[head, "a", "b"]), 1);
    assert_eq!(continues(&[&head[..40], &head[40..], "ab"]), 1);
    assert_eq!(continues(&[&head[..40], &format!("{}a", &head[40..]), "b"]), 0, "the body is on its way");
    assert_eq!(continues(&[&format!("{head}ab")]), 0);
    assert_eq!(continues(&[&head.replace("1.1", "1.0"), "ab"]), 0);
    assert_eq!(continues(&[&head.replace(": 2", ": 0")]), 0, "no body");
    let chunked_head = head.replace("Content-Length: 2", "Transfer-Encoding: chunked");
    assert_eq!(continues(&[&chunked_head, "1", "\r\na\r\n0", "\r\n\r\n"]), 1);
}

#[test]
fn other_expectations_fail_in_1_1() {
    for value in ["", "200-ok", "100-continue, x"] {
        let headers = format!("Expect: {value}\r\n");
        assert_eq!(parse(with_headers("HTTP/1.1", &headers)), Err(Reject::BAD_EXPECTATION));
        assert!(parse(with_headers("HTTP/1.0", &headers)).is_ok());
    }
    let twice = "Expect: 100-continue\r\n".repeat(2);
    assert_eq!(parse(with_headers("HTTP/1.1", &twice)), Err(Reject::BAD_EXPECTATION));
    assert!(parse(with_headers("HTTP/1.0", &twice)).is_ok());
}

#[test]
fn connection_options_decide_whether_it_is_kept() {
    for (version, headers, keep_alive) in [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
        ("HTTP/1.1", "connection: Upgrade , CLOSE\r\nUpgrade: h2c\r\n", false),
        ("HTTP/1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("HTTP/1.1", "Connection: close, keep-alive\r\n", false),
        ("HTTP/1.1", "Connection: closed\r\n", true),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection:,, Keep-Alive\r\n", true),
        ("HTTP/1.0", "Connection: keep-alive\r\nConnection: close\r\n", false),
    ] {
        let request = parse(with_headers(version, headers)).unwrap();
        assert_eq!(request.keep_alive, keep_alive, "{version} {headers:?}");
    }
}

#[test]
fn pipelined_requests_come_before_a_bad_one() {
    let bytes = get("/1") + &chunked("1\r\nx\r\n0\r\n\r\n") + "\r\n" + &get("/3") + "bad\r\n" + &get("/4");
    let connection = receive_all([bytes.as_bytes()]);
    let paths: Vec<_> = connection.requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/1", "/", "/3"]);
    assert_eq!(connection.reject, Some(Reject::BAD_REQUEST_LINE));
}

#[test]
fn messages_name_the_limits() {
    for (reject, limit) in [
        (Reject::EMPTY_LINES, EMPTY_LINES_MAX),
        (Reject::LONG_REQUEST_LINE, REQUEST_LINE_BYTES_MAX),
        (Reject::LONG_HEADERS, HEADERS_BYTES_MAX),
        (Reject::LONG_TRAILERS, TRAILERS_BYTES_MAX),
        (Reject::MANY_HEADERS, HEADER_FIELDS_MAX),
        (Reject::LONG_BODY, BODY_BYTES_MAX),
    ] {
        assert!(reject.message.contains(&format!(" {limit} ")), "{reject}");
    }
}

#[test]
fn a_parser_is_small() {
    assert!(size_of::<Parser>() <= 52, "{} bytes", size_of::<Parser>());
}

#[test]
fn the_first_value_of_a_parameter_is_decoded() {
    let value = |pairs: &'static str, name| {
        parameter(pairs.as_bytes(), name).map(|value| value.map(|bytes| bytes.into_owned()))
    };
    for (pairs, name, expected) in [
        ("", "a", None),
        ("b=1&aa=2&a%20=3", "a", None),
        ("a", "a", Some("")),
        ("a=", "a", Some("")),
        ("&&b=2&a=1=2&a=3", "a", Some("1=2")),
        ("a=+%2b%2B%e8%AE%a2%26", "a", Some(" ++订&")),
        ("app%5Ftag=x", "app_tag", Some("x")),
        ("a+b=x", "a b", Some("x")),
        ("a=1&b=%zz", "a", Some("1")),
        ("a=订", "a", Some("订")),
    ] {
        assert_eq!(value(pairs, name), Ok(expected.map(|text| text.as_bytes().to_vec())), "{pairs}");
    }
    for pairs in ["a=%", "a=%4", "a=%g0", "a=%0g", "a=x%+1", "%=1&a=2"] {
        assert_eq!(value(pairs, "a"), Err(BadParameters::Encoding), "{pairs}");
    }
    // Names are told apart to their last byte.
    for pairs in ["%61%62=1", "%6=1&a=2", "+a=1", "%61+=1"] {
        assert_ne!(value(pairs, "a"), Ok(Some(b"1".to_vec())), "{pairs}");
    }
    assert!(matches!(parameter(b"a=b", "a"), Ok(Some(Cow::Borrowed(b"b")))));
}

/// Bytes of a valid request, and what it says.
#[test]
fn parameters_are_bounded() {
    for filler in ["", "b", "b=1", "%41", "+"] {
        let pairs = |before: usize| format!("{}a=1", format!("{filler}&").repeat(before));
        let value = |pairs: &str| parameter(pairs.as_bytes(), "a").map(|value| value.map(|v| v.into_owned()));
        assert_eq!(value(&pairs(PARAMETERS_MAX - 1)), Ok(Some(b"1".to_vec())), "{filler}");
        assert_eq!(value(&pairs(PARAMETERS_MAX)), Err(BadParameters::TooMany), "{filler}");
        let longest = format!("{filler}&").repeat(BODY_BYTES_MAX / (filler.len() + 1));
        assert_eq!(value(&longest), Err(BadParameters::TooMany), "{filler}");
    }
}

fn valid_request() -> impl Strategy<Value = (Vec<u8>, Owned)> {
    let method = prop::sample::select(
        &[("GET", Method::Get), ("HEAD", Method::Head), ("POST", Method::Post), ("PUT", Method::Other)][..],
    );
    let headers = "(X-[A-Za-z0-9-]{1,9}:[ \t]?[ -~é]{0,30}\r\n){0,4}";
    let body = prop_oneof![
        Just((None, vec![])),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|body| (None, body)),
        (1usize..90, prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(bytes, body)| (Some(bytes), body)),
    ];
    let target = ("(/[a-z0-9._~-]|/%[0-9A-Fa-f]{2}){1,9}", "[a-z=&+é]{0,20}");
    let authorization = prop_oneof![Just(String::new()), "[!-~]{1,9}( [!-~]{1,20})?"];
    let media = prop::sample::select(
        &[
            ("", Media::Unsaid),
            ("application/x-www-form-urlencoded", Media::Form),
            ("APPLICATION/json; charset=utf-8", Media::Json),
            ("Multipart/form-data; boundary=x", Media::Multipart),
            ("text/plain", Media::Other),
        ][..],
    );
    let site = prop::sample::select(
        &[
            ("", Site::Unsaid),
            ("none", Site::Own),
            ("same-origin", Site::Own),
            ("same-site", Site::Other),
            ("cross-site", Site::Other),
            ("anything", Site::Other),
        ][..],
    );
    let sender = (prop_oneof![Just(String::new()), "[!-~]{1,20}"], site);
    (0..3usize, method, target, (headers, authorization), (media, sender), any::<bool>(), body).prop_map(
        |(
            empty_lines,
            (name, method),
            (path, query),
            (headers, authorization),
            ((content_type, media), (origin, (fetch_site, site))),
            close,
            (chunk_bytes, body),
        )| {
            let mut bytes = "\r\n".repeat(empty_lines).into_bytes();
            bytes.extend(format!("{name} {path}?{query} HTTP/1.1\r\n{headers}Host: h\r\n").bytes());
            for (name, value) in [
                ("Content-Type", content_type),
                ("Authorization", &authorization),
                ("oriGin", &origin),
                ("Sec-Fetch-Site", fetch_site),
            ] {
                if !value.is_empty() {
                    bytes.extend(format!("{name}: {value}\r\n").bytes());
                }
            }
            if close {
                bytes.extend(b"Connection: close\r\n");
            }
            match chunk_bytes {
                Some(chunk_bytes) => {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in body.chunks(chunk_bytes) {
                        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(CRLF);
                    }
                    bytes.extend(b"0\r\n\r\n");
                }
                None => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                    bytes.extend(&body);
                }
            }
            let has_body = method == Method::Post && !body.is_empty();
            let owned = Owned {
                method,
                version: Version::Http11,
                keep_alive: !close,
                path,
                query,
                authorization: authorization.into_bytes(),
                host: b"h".to_vec(),
                origin: origin.into_bytes(),
                site,
                preflight: Preflight::No,
                media: if has_body { media } else { Media::None },
                form: if has_body && media == Media::Form { body } else { vec![] },
            };
            (bytes, owned)
        },
    )
}

/// Bytes that look enough like HTTP to get deep into the parser.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        8 => prop::sample::select(&[
            "GET /", "POST ", "OPTIONS * ", " HTTP/1.1", " HTTP/1.0\r\n", "\r\n", "\r\n\r\n", "\r", "\n", "Host: h\r\n", ":", " ",
            "GET / HTTP/1.1\r\nHost: h\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n",
            "Connection: close\r\n", "Origin: null\r\n", "Sec-Fetch-Site: none\r\n", "Content-Type: application/json\r\n", "0\r\n\r\n", "1\r\nx\r\n", "5;x\r\n", "fffffffffffffffff", "%", "?", "http://", "[", "]",
        ][..]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    prop_oneof![
        3 => prop::collection::vec(fragment, 0..30).prop_map(|fragments| fragments.concat()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// `bytes` cut into pieces of these lengths, over and over.
fn cut<'b>(mut bytes: &'b [u8], lengths: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    for &length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

proptest! {
    #[test]
    fn any_bytes_mean_the_same_however_they_arrive(
        bytes in noise(), lengths in prop::collection::vec(1usize..40, 1..9)
    ) {
        let at_once = receive_all([&bytes[..]]);
        let in_pieces = receive_all(cut(&bytes, &lengths));
        prop_assert_eq!(at_once.requests, in_pieces.requests);
        prop_assert_eq!(at_once.reject, in_pieces.reject);
    }

    #[test]
    fn valid_requests_are_understood_however_they_arrive(
        sent in prop::collection::vec(valid_request(), 1..5), lengths in prop::collection::vec(1usize..200, 1..9)
    ) {
        let (bytes, expected): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        let connection = receive_all(cut(&bytes.concat(), &lengths));
        prop_assert_eq!(connection.requests, expected);
        prop_assert_eq!(connection.reject, None);
        prop_assert!(connection.buf.is_empty());
    }

    #[test]
    fn any_parameter_is_found_or_refused(pairs in prop::collection::vec(any::<u8>(), 0..50), value in any::<Vec<u8>>()) {
        let _ = parameter(&pairs, "a");
        let encoded = percent_encoding::percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        let pairs = format!("b=1&a={encoded}&a=2");
        prop_assert_eq!(parameter(pairs.as_bytes(), "a").unwrap().unwrap(), value);
    }
}
