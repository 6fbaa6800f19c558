//! [`Answer`]s to bytes.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::request::Version;
use crate::alloc::Ids;
use crate::segment::IdRange;

/// What a request is answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// One ID.
    Id(i64),
    /// The IDs of a batch.
    Ids(Ids),
    /// A range for the client to hand out itself.
    Lease(IdRange),
    /// How many IDs are left.
    Left(u64),
    /// All is well.
    Success,
    /// All is well, and these are the methods that are allowed: an `Allow` line.
    Options(&'static str),
    /// What a GET would claim is not claimed for a HEAD, so the length of its body is not known.
    Unclaimed,
    /// The request failed.
    Error(ApiError),
}

/// Why a request failed, for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status, and the body's `resp_code`.
    pub status: u16,
    /// What is wrong and what is allowed.
    pub message: String,
    /// A header line that the status calls for.
    pub header: Option<&'static str>,
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Error(error) => error.status,
            _ => 200,
        }
    }

    /// The header line that goes with this answer alone.
    pub fn header(&self) -> Option<&'static str> {
        match self {
            Self::Options(allow) => Some(allow),
            Self::Error(error) => error.header,
            _ => None,
        }
    }

    /// Appends the JSON body to `out`.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Id(id) => write_members(out, &[(b"id", *id)]),
            Self::Ids(ids) => write_ids(out, ids),
            Self::Lease(range) => write_members(out, &[(b"start", range.start), (b"end", range.end)]),
            Self::Left(left) => write_members(out, &[(b"left", *left)]),
            Self::Success | Self::Options(_) | Self::Unclaimed => write_members::<u64>(out, &[]),
            Self::Error(error) => write_error(out, error),
        }
    }
}

const SUCCESS: &[u8] = br#"{"resp_code":0,"msg":"success""#;

fn write_members<N: itoa::Integer + Copy>(out: &mut Vec<u8>, members: &[(&[u8], N)]) {
    out.extend_from_slice(SUCCESS);
    for (name, value) in members {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name);
        out.extend_from_slice(b"\":");
        write_number(out, *value);
    }
    out.push(b'}');
}

fn write_ids(out: &mut Vec<u8>, ids: &Ids) {
    out.extend_from_slice(SUCCESS);
    out.extend_from_slice(br#","ids":["#);
    for id in ids.iter().flat_map(|range| range.start..range.end) {
        write_number(out, id);
        out.push(b',');
    }
    // A batch holds at least one ID, so this is the last comma.
    out.pop();
    out.extend_from_slice(b"]}");
}

fn write_error(out: &mut Vec<u8>, error: &ApiError) {
    out.extend_from_slice(br#"{"resp_code":"#);
    write_number(out, error.status);
    out.extend_from_slice(br#","msg":"#);
    // What the client sent is quoted in the message, so it is escaped.
    out.extend_from_slice(serde_json::Value::from(error.message.as_str()).to_string().as_bytes());
    out.push(b'}');
}

fn write_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Every status that is used here, with its reason phrase; success is the first.
pub const STATUSES: [(u16, &str); 15] = [
    (200, "OK"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (408, "Request Timeout"),
    (413, "Content Too Large"),
    (414, "URI Too Long"),
    (417, "Expectation Failed"),
    (431, "Request Header Fields Too Large"),
    (500, "Internal Server Error"),
    (501, "Not Implemented"),
    (503, "Service Unavailable"),
    (505, "HTTP Version Not Supported"),
];

/// The reason phrase of a status that is used here.
pub fn reason(status: u16) -> &'static str {
    STATUSES.iter().find(|(known, _)| *known == status).map_or("Unknown", |(_, reason)| reason)
}

/// How an answer is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Decides what has to be said about the connection.
    pub version: Version,
    /// Whether the connection stays open afterwards.
    pub keep_alive: bool,
    /// The request was a HEAD: the headers only.
    pub head_only: bool,
}

/// Writes whole responses; one for each worker.
pub struct Encoder {
    /// The head of a plain success up to the value of Content-Length, with the present date.
    success_head: Vec<u8>,
    date: String,
    date_second: u64,
    body: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder whose date is the present one.
    pub fn new() -> Self {
        let mut encoder =
            Self { success_head: Vec::new(), date: String::new(), date_second: u64::MAX, body: Vec::new() };
        encoder.set_date(SystemTime::now());
        encoder
    }

    /// Brings the `Date` header up to date; made anew once a second, however often this is called.
    pub fn set_date(&mut self, now: SystemTime) {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second == self.date_second {
            return;
        }
        self.date_second = second;
        self.date.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.date, "{}", httpdate::HttpDate::from(now));
        self.success_head.clear();
        write_head_start(&mut self.success_head, 200, &self.date);
        self.success_head.extend_from_slice(CONTENT_LENGTH);
    }

    /// Appends one response to `out`.
    #[inline]
    pub fn encode(&mut self, answer: &Answer, delivery: Delivery, out: &mut Vec<u8>) {
        const PLAIN: Delivery = Delivery { version: Version::Http11, keep_alive: true, head_only: false };
        match answer {
            Answer::Id(id) if delivery == PLAIN => self.encode_id(*id, out),
            _ => self.encode_any(answer, delivery, out),
        }
    }

    fn encode_id(&self, id: i64, out: &mut Vec<u8>) {
        const BODY_START: &[u8] = br#"{"resp_code":0,"msg":"success","id":"#;
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(id).as_bytes();
        out.reserve(self.success_head.len() + 8 + BODY_START.len() + digits.len());
        out.extend_from_slice(&self.success_head);
        write_number(out, BODY_START.len() + digits.len() + 1);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(BODY_START);
        out.extend_from_slice(digits);
        out.push(b'}');
    }

    fn encode_any(&mut self, answer: &Answer, delivery: Delivery, out: &mut Vec<u8>) {
        self.body.clear();
        answer.write_body(&mut self.body);
        // Exactly: to double the room for the longest batch would cost a client who does not read 200 KB more.
        out.reserve_exact(HEAD_BYTES + self.body.len());
        write_head_start(out, answer.status(), &self.date);
        if let Some(line) = answer.header() {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        match (delivery.keep_alive, delivery.version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        if *answer != Answer::Unclaimed {
            out.extend_from_slice(CONTENT_LENGTH);
            write_number(out, self.body.len());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !delivery.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// More than the head of any answer takes.
const HEAD_BYTES: usize = 320;

const CONTENT_LENGTH: &[u8] = b"Content-Length: ";

fn write_head_start(out: &mut Vec<u8>, status: u16, date: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, status);
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    for line in COMMON_HEADERS {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The header lines of every answer. A cached ID would be a duplicate ID.
pub const COMMON_HEADERS: [&str; 2] = ["Content-Type: application/json", "Cache-Control: no-store"];

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;
    use std::time::{Duration, UNIX_EPOCH};

    const PLAIN: Delivery = Delivery { version: Version::Http11, keep_alive: true, head_only: false };

    fn body(answer: &Answer) -> String {
        let mut out = Vec::new();
        answer.write_body(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn encoded(answer: &Answer, delivery: Delivery) -> String {
        let mut encoder = Encoder::new();
        encoder.set_date(UNIX_EPOCH + Duration::from_secs(784_111_777));
        let mut out = Vec::new();
        encoder.encode(answer, delivery, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn error(message: &str) -> Answer {
        Answer::Error(ApiError { status: 503, message: message.into(), header: Some("Retry-After: 1") })
    }

    #[test]
    fn bodies_are_exact() {
        assert_eq!(
            body(&Answer::Id(i64::MAX)),
            r#"{"resp_code":0,"msg":"success","id":9223372036854775807}"#
        );
        let ids = smallvec![IdRange { start: 9, end: 11 }, IdRange { start: 20, end: 21 }];
        assert_eq!(body(&Answer::Ids(ids)), r#"{"resp_code":0,"msg":"success","ids":[9,10,20]}"#);
        let lease = IdRange { start: 1, end: 1001 };
        assert_eq!(body(&Answer::Lease(lease)), r#"{"resp_code":0,"msg":"success","start":1,"end":1001}"#);
        assert_eq!(body(&Answer::Left(199996)), r#"{"resp_code":0,"msg":"success","left":199996}"#);
        assert_eq!(body(&Answer::Success), r#"{"resp_code":0,"msg":"success"}"#);
        assert_eq!(body(&error("no \"x\"\n")), r#"{"resp_code":503,"msg":"no \"x\"\n"}"#);
    }

    #[test]
    fn the_short_way_and_the_long_way_say_the_same() {
        let mut encoder = Encoder::new();
        let (mut short, mut long) = (Vec::new(), Vec::new());
        for id in [1, 99, 1_000_000_007, i64::MAX] {
            encoder.encode(&Answer::Id(id), PLAIN, &mut short);
            encoder.encode_any(&Answer::Id(id), PLAIN, &mut long);
        }
        assert_eq!(short, long);
    }

    #[test]
    fn a_response_is_whole() {
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 38\r\n\r\n\
            {\"resp_code\":0,\"msg\":\"success\",\"id\":7}";
        assert_eq!(encoded(&Answer::Id(7), PLAIN), expected);
    }

    #[test]
    fn the_connection_header_follows_version_and_wish() {
        let with = |version, keep_alive| encoded(&Answer::Id(7), Delivery { version, keep_alive, ..PLAIN });
        assert!(!with(Version::Http11, true).contains("Connection"));
        assert!(with(Version::Http11, false).contains("\r\nConnection: close\r\n"));
        assert!(with(Version::Http10, true).contains("\r\nConnection: keep-alive\r\n"));
        assert!(with(Version::Http10, false).contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn an_error_has_its_header_and_a_head_has_no_body() {
        let head = encoded(&error("no"), Delivery { head_only: true, ..PLAIN });
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains("\r\nRetry-After: 1\r\n") && head.contains("\r\nContent-Length: 28\r\n"));
        assert!(head.ends_with("\r\n\r\n"));
        let unclaimed = encoded(&Answer::Unclaimed, Delivery { head_only: true, ..PLAIN });
        assert!(unclaimed.starts_with("HTTP/1.1 200 OK\r\n") && !unclaimed.contains("Content-Length"));
    }

    #[test]
    fn the_date_changes_with_the_second() {
        let mut encoder = Encoder::new();
        let mut dates = Vec::new();
        for millis in [0, 999, 1000] {
            encoder.set_date(UNIX_EPOCH + Duration::from_millis(millis));
            dates.push(encoder.date.clone());
        }
        assert_eq!(dates[0], "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!((&dates[1], dates[2].as_str()), (&dates[0], "Thu, 01 Jan 1970 00:00:01 GMT"));
    }
}
