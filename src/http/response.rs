//! [`Answer`]s to bytes.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::origin::Cors;
use super::request::{Method, Request, Version};
use crate::alloc::Ids;
use crate::escape;
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

const IDS_START: &[u8] = br#","ids":["#;
const IDS_END: &[u8] = b"]}";

fn write_ids(out: &mut Vec<u8>, ids: &Ids) {
    out.extend_from_slice(SUCCESS);
    out.extend_from_slice(IDS_START);
    take_ids(&mut ids.clone(), usize::MAX, out);
}

/// Moves IDs to `out` until it is `bytes_max` long, or the array is complete.
fn take_ids(ids: &mut Ids, bytes_max: usize, out: &mut Vec<u8>) {
    while let Some(range) = ids.first_mut() {
        let room = bytes_max.saturating_sub(out.len()) / ID_BYTES_MAX;
        let end = range.end.min(range.start.saturating_add_unsigned(room as u64));
        write_range(out, range.start, end);
        range.start = end;
        if !range.is_empty() {
            return;
        }
        ids.remove(0);
    }
    // A batch holds at least one ID, so this is the last comma.
    out.pop();
    out.extend_from_slice(IDS_END);
}

/// So many IDs in a row differ in their last two digits alone.
const ALIKE: i64 = 100;
/// With its comma, of 19 digits.
const ID_BYTES_MAX: usize = "9223372036854775807,".len();

/// The last two digits of an ID, and its comma.
const ENDINGS: [[u8; 3]; ALIKE as usize] = {
    let mut endings = [*b"00,"; ALIKE as usize];
    let mut number = 0;
    while number < endings.len() {
        endings[number][0] += number as u8 / 10;
        endings[number][1] += number as u8 % 10;
        number += 1;
    }
    endings
};

/// The digits of IDs without their last two, and then anything.
struct Beginning {
    bytes: [u8; ID_BYTES_MAX],
    len: usize,
}

impl Beginning {
    fn of(hundreds: i64) -> Self {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(hundreds).as_bytes();
        let mut bytes = [0; ID_BYTES_MAX];
        bytes[..digits.len()].copy_from_slice(digits);
        Self { bytes, len: digits.len() }
    }

    fn id_digits(&self) -> usize {
        self.len + 2
    }
}

/// Appends the IDs from `start` to before `end`, each with a comma.
fn write_range(out: &mut Vec<u8>, start: i64, end: i64) {
    for id in start..end.min(ALIKE) {
        write_number(out, id);
        out.push(b',');
    }
    let mut next = start.max(ALIKE);
    while next < end {
        let hundreds = next / ALIKE;
        let alike_end = end.min((hundreds + 1).saturating_mul(ALIKE));
        let first = next - hundreds * ALIKE;
        write_alike(out, hundreds, &ENDINGS[first as usize..(first + alike_end - next) as usize]);
        next = alike_end;
    }
}

/// Appends IDs that begin with the digits of `hundreds`. Each is written over the unused end of the one before it: copies
/// of a fixed length need no call.
fn write_alike(out: &mut Vec<u8>, hundreds: i64, endings: &[[u8; 3]]) {
    let beginning = Beginning::of(hundreds);
    let mut block = [0; ALIKE as usize * ID_BYTES_MAX];
    let mut rest = &mut block[..];
    for ending in endings {
        rest[..ID_BYTES_MAX].copy_from_slice(&beginning.bytes);
        rest[beginning.len..][..ending.len()].copy_from_slice(ending);
        rest = &mut rest[beginning.len + ending.len()..];
    }
    let unused = rest.len();
    out.extend_from_slice(&block[..block.len() - unused]);
}

/// The length of the body for these IDs.
fn ids_bytes(ids: &Ids) -> usize {
    let with_commas: usize = ids.iter().map(|range| digits(range) + range.len() as usize).sum();
    SUCCESS.len() + IDS_START.len() + with_commas - ",".len() + IDS_END.len()
}

/// The digits of all the IDs of a range.
fn digits(range: &IdRange) -> usize {
    let (mut start, mut sum) = (range.start, 0);
    while start < range.end {
        let digits = start.ilog10() + 1;
        let end = range.end.min(10_i64.checked_pow(digits).unwrap_or(i64::MAX));
        sum += digits as usize * (end - start) as usize;
        start = end;
    }
    sum
}

fn write_error(out: &mut Vec<u8>, error: &ApiError) {
    out.extend_from_slice(br#"{"resp_code":"#);
    write_number(out, error.status);
    out.extend_from_slice(br#","msg":"#);
    // What the client sent is quoted in the message: it must not end the string, nor steer the terminal it is read on.
    let message = serde_json::Value::from(error.message.as_str()).to_string();
    out.extend_from_slice(escape::json(&message).as_bytes());
    out.push(b'}');
}

fn write_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Every status that is used here, with its reason phrase; success is the first.
pub const STATUSES: [(u16, &str); 18] = [
    (200, "OK"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (408, "Request Timeout"),
    (413, "Content Too Large"),
    (414, "URI Too Long"),
    (415, "Unsupported Media Type"),
    (417, "Expectation Failed"),
    (421, "Misdirected Request"),
    (429, "Too Many Requests"),
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
    /// What lets a page of another origin read it.
    pub cors: Option<&'static Cors>,
}

impl Delivery {
    /// Nothing has to be said about the connection.
    pub const PLAIN: Self = Self { version: Version::Http11, keep_alive: true, head_only: false, cors: None };

    /// The last answer on its connection, to nobody in particular.
    pub const LAST: Self = Self { keep_alive: false, ..Self::PLAIN };

    /// How the answer to `request` is delivered, if the server goes on, and no page of another origin asks.
    pub fn of(request: &Request<'_>) -> Self {
        let head_only = request.method == Method::Head;
        Self { version: request.version, keep_alive: request.keep_alive, head_only, cors: None }
    }
}

/// A batch whose answer is long, which is written in pieces: a client who does not read costs one of them.
#[derive(Debug)]
pub struct LongBatch {
    ids: Ids,
    body_bytes: usize,
}

/// Answers up to this length are written at once.
const PIECE_BYTES: usize = 32 * 1024;

impl LongBatch {
    /// The batch of a long answer, or another answer as it is.
    pub fn of(answer: Answer) -> Result<Self, Answer> {
        let Answer::Ids(ids) = answer else { return Err(answer) };
        match ids_bytes(&ids) {
            ..=PIECE_BYTES => Err(Answer::Ids(ids)),
            body_bytes => Ok(Self { ids, body_bytes }),
        }
    }

    /// Fills `out` with the next piece of the body; false when there is none.
    pub fn write_piece(&mut self, out: &mut Vec<u8>) -> bool {
        let is_left = !self.ids.is_empty();
        if is_left {
            out.reserve(PIECE_BYTES.saturating_sub(out.len()) + IDS_END.len());
            take_ids(&mut self.ids, PIECE_BYTES, out);
        }
        is_left
    }
}

/// Writes whole responses; one for each worker.
pub struct Encoder {
    date: String,
    date_second: u64,
    single: Single,
    body: Vec<u8>,
}

/// What plain responses with one ID have in common.
struct Single {
    /// A response for each number of digits that an ID may have.
    samples: [Sample; ID_BYTES_MAX],
    /// The newest ID without its last two digits, which the next one mostly shares; 0 when there is none.
    hundreds: i64,
    beginning: Beginning,
}

/// A response, and then anything: copies of a fixed length are the fastest.
#[derive(Clone, Copy)]
struct Sample {
    bytes: [u8; SINGLE_BYTES_MAX],
    /// Where its ID is; 0 when there is no response yet.
    id_at: usize,
}

/// The longest ID makes it 189.
const SINGLE_BYTES_MAX: usize = 192;

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder whose date is the present one.
    pub fn new() -> Self {
        let single = Single {
            samples: [Sample { bytes: [0; SINGLE_BYTES_MAX], id_at: 0 }; ID_BYTES_MAX],
            hundreds: 0,
            beginning: Beginning::of(0),
        };
        let mut encoder = Self { date: String::new(), date_second: u64::MAX, single, body: Vec::new() };
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
        self.single.hundreds = 0;
        self.single.samples.iter_mut().for_each(|sample| sample.id_at = 0);
    }

    /// Appends one response to `out`.
    pub fn encode(&mut self, answer: &Answer, delivery: Delivery, out: &mut Vec<u8>) {
        match answer {
            Answer::Id(id) if delivery == Delivery::PLAIN => self.encode_id(*id, out),
            _ => self.encode_any(answer, delivery, out),
        }
    }

    /// Appends the response with this ID to `out`, for a connection of HTTP/1.1 that stays open.
    #[inline]
    pub fn encode_id(&mut self, id: i64, out: &mut Vec<u8>) {
        debug_assert!(id > 0, "{id} is no ID");
        let hundreds = id / ALIKE;
        if hundreds == 0 {
            return self.encode_any(&Answer::Id(id), Delivery::PLAIN, out);
        }
        if hundreds != self.single.hundreds {
            self.set_hundreds(hundreds, out);
        }
        let Single { samples, beginning, .. } = &self.single;
        let sample = &samples[beginning.id_digits()];
        let id_at = out.len() + sample.id_at;
        out.extend_from_slice(&sample.bytes);
        out[id_at..id_at + ID_BYTES_MAX].copy_from_slice(&beginning.bytes);
        let end = id_at + beginning.id_digits();
        let [tens, ones, _] = ENDINGS[(id % ALIKE) as usize];
        out[end - 2..=end].copy_from_slice(&[tens, ones, b'}']);
        out.truncate(end + 1);
    }

    /// Makes ready for IDs that begin with the digits of `hundreds`; `out` is left as it is.
    fn set_hundreds(&mut self, hundreds: i64, out: &mut Vec<u8>) {
        self.single.hundreds = hundreds;
        self.single.beginning = Beginning::of(hundreds);
        if self.single.samples[self.single.beginning.id_digits()].id_at == 0 {
            self.make_sample(out);
        }
    }

    #[cold]
    fn make_sample(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        self.encode_any(&Answer::Id(self.single.hundreds * ALIKE), Delivery::PLAIN, out);
        let id_digits = self.single.beginning.id_digits();
        let sample = &mut self.single.samples[id_digits];
        let response = &out[start..];
        sample.bytes[..response.len()].copy_from_slice(response);
        sample.id_at = response.len() - id_digits - "}".len();
        out.truncate(start);
    }

    // Not a part of the short way, which would pay for the registers that this one needs.
    #[inline(never)]
    fn encode_any(&mut self, answer: &Answer, delivery: Delivery, out: &mut Vec<u8>) {
        self.body.clear();
        answer.write_body(&mut self.body);
        out.reserve(HEAD_BYTES + self.body.len());
        let body_bytes = (*answer != Answer::Unclaimed).then_some(self.body.len());
        self.write_head(answer.status(), answer.header(), delivery, body_bytes, out);
        if !delivery.head_only {
            out.extend_from_slice(&self.body);
        }
    }

    /// Appends the response to a long batch up to its first ID: [`LongBatch::write_piece`] writes the rest.
    pub fn encode_start(&self, batch: &LongBatch, delivery: Delivery, out: &mut Vec<u8>) {
        self.write_head(200, None, delivery, Some(batch.body_bytes), out);
        out.extend_from_slice(SUCCESS);
        out.extend_from_slice(IDS_START);
    }

    fn write_head(
        &self,
        status: u16,
        header: Option<&str>,
        delivery: Delivery,
        body_bytes: Option<usize>,
        out: &mut Vec<u8>,
    ) {
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
        out.extend_from_slice(self.date.as_bytes());
        out.extend_from_slice(b"\r\n");
        for line in header.into_iter().chain(delivery.cors.map(Cors::lines)) {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        match (delivery.keep_alive, delivery.version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        if let Some(bytes) = body_bytes {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// More than the head of most answers takes.
const HEAD_BYTES: usize = 320;

/// The header lines of every answer. A cached ID would be a duplicate ID.
pub const COMMON_HEADERS: [&str; 2] = ["Content-Type: application/json", "Cache-Control: no-store"];

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;
    use std::time::{Duration, UNIX_EPOCH};

    const PLAIN: Delivery = Delivery::PLAIN;

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

    #[test]
    fn a_time_without_a_date_is_dated_with_the_nearest() {
        let mut encoder = Encoder::new();
        for (time, date) in [
            (UNIX_EPOCH - Duration::from_secs(1 << 40), "Thu, 01 Jan 1970 00:00:00 GMT"),
            (UNIX_EPOCH + Duration::from_secs(1 << 40), "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            encoder.set_date(time);
            assert_eq!(encoder.date, date);
        }
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
    fn ids_are_written_as_anybody_would_write_them() {
        let starts = [1, 9, 95, 99, 100, 101, 995, 9_950, 1_234_567, 10_i64.pow(18) - 150, i64::MAX - 250];
        for (start, len) in
            starts.into_iter().flat_map(|start| [1, 2, 99, 100, 101, 250].map(|len| (start, len)))
        {
            let (start, end) = (start, start + len);
            let mut out = b"[".to_vec();
            write_range(&mut out, start, end);
            let plainly: String = (start..end).map(|id| format!("{id},")).collect();
            assert_eq!(String::from_utf8(out).unwrap(), format!("[{plainly}"), "{start}..{end}");
        }
    }

    #[test]
    fn a_long_batch_in_pieces_is_the_answer_at_once() {
        let pieces = |ranges: &[(i64, i64)]| {
            let ids: Ids = ranges.iter().map(|&(start, end)| IdRange { start, end }).collect();
            let mut encoder = Encoder::new();
            let (mut at_once, mut in_pieces, mut longest) = (Vec::new(), Vec::new(), 0);
            encoder.encode(&Answer::Ids(ids.clone()), PLAIN, &mut at_once);
            let mut batch = LongBatch::of(Answer::Ids(ids)).expect("a long batch");
            let mut piece = Vec::new();
            encoder.encode_start(&batch, PLAIN, &mut piece);
            while batch.write_piece(&mut piece) {
                longest = longest.max(piece.len());
                in_pieces.append(&mut piece);
            }
            assert!(in_pieces == at_once, "{ranges:?}");
            assert!(longest <= PIECE_BYTES + IDS_END.len(), "{ranges:?}: {longest} bytes");
        };
        pieces(&[(i64::MAX - 10_000, i64::MAX)]);
        pieces(&[(1, 20_000)]);
        pieces(&[
            (5, 15),
            (999_000, 1_001_000),
            (9, 10),
            (1_000_000_000_000_000_000, 1_000_000_000_000_009_000),
        ]);
        // To the last byte.
        for ids in 1600..1700 {
            let answer = Answer::Ids(smallvec![IdRange { start: i64::MAX - ids, end: i64::MAX }]);
            assert_eq!(LongBatch::of(answer).is_ok(), ids * 20 + 39 > PIECE_BYTES as i64, "{ids}");
        }
        assert_eq!(LongBatch::of(Answer::Success).unwrap_err(), Answer::Success);
    }

    #[test]
    fn the_short_way_and_the_long_way_say_the_same() {
        let mut encoder = Encoder::new();
        let (mut short, mut long) = (Vec::new(), Vec::new());
        let ids = [1, 99, 100, 109, 1_000, 999, 1_000_000_007, 1_000_000_008, 1_000_000_108, i64::MAX, 234];
        for (second, id) in (1..).zip(ids.into_iter().chain(ids)) {
            encoder.set_date(UNIX_EPOCH + Duration::from_secs(second / 5));
            encoder.encode(&Answer::Id(id), PLAIN, &mut short);
            encoder.encode_any(&Answer::Id(id), PLAIN, &mut long);
        }
        assert_eq!(String::from_utf8(short), String::from_utf8(long));
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
