//! Bytes to [`Request`]s: HTTP/1.0 and 1.1 as RFC 9110 and RFC 9112 have it, and stricter where leniency lets two
//! parties disagree about where a request ends.
//!
//! A [`Parser`] is fed one growing buffer and answers with one request at a time. `httparse` checks the syntax of the
//! head; lines, limits, the target and the body's framing are checked here.

use std::borrow::Cow;
use std::mem::{self, MaybeUninit};
use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2};

use super::body::{Body, Media};
use super::origin::{Preflight, Sender, Site};

/// The longest request line, without its CRLF.
pub const REQUEST_LINE_BYTES_MAX: usize = 4 * 1024;

/// The longest header section, up to and including the empty line that ends it.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// The longest section of trailers.
pub const TRAILERS_BYTES_MAX: usize = 2 * 1024;

/// The most header fields of a request; the same for trailers.
pub const HEADER_FIELDS_MAX: usize = 100;

/// The longest body, after the chunks are joined.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The most parameters of a query, and of a form. To look for one costs each that comes before it.
pub const PARAMETERS_MAX: usize = 100;

/// A buffer of this size holds any request that is served: [`Parser::parse`] never asks for more.
pub const REQUEST_BYTES_MAX: usize = EMPTY_LINES_MAX * CRLF.len()
    + REQUEST_LINE_BYTES_MAX
    + CRLF.len()
    + HEADERS_BYTES_MAX
    + CHUNKS_BYTES_MAX
    + TRAILERS_BYTES_MAX;

const CRLF: &[u8] = b"\r\n";

const HEAD_BYTES_MAX: usize =
    EMPTY_LINES_MAX * CRLF.len() + REQUEST_LINE_BYTES_MAX + CRLF.len() + HEADERS_BYTES_MAX;

/// Empty lines before a request line are a habit of old clients, after a body; more than a few are not.
const EMPTY_LINES_MAX: usize = 4;

/// A chunk's size and its extensions, without the CRLF.
const CHUNK_LINE_BYTES_MAX: usize = CHUNK_SIZE_DIGITS_MAX + 256;

const CHUNK_SIZE_DIGITS_MAX: usize = 16;

/// How much of a method is looked at before its line has ended. The longest that there is has 7.
const METHOD_BYTES_CHECKED: usize = 32;

/// What frames the chunks, which is everything but their data. Bounds what a client can add to a body by tiny chunks.
const FRAMING_BYTES_MAX: usize = 8 * 1024;

const CHUNKS_BYTES_MAX: usize = BODY_BYTES_MAX + FRAMING_BYTES_MAX;

// Parser keeps offsets in 32 bits, and those in the head in 16.
const _: () = assert!(REQUEST_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);
// A chunk line that starts within FRAMING_BYTES_MAX may end in the room for trailers.
const _: () = assert!(CHUNK_LINE_BYTES_MAX + CRLF.len() <= TRAILERS_BYTES_MAX);

/// What a connection remembers of a request that has not arrived whole, so that no line is searched and no chunk is
/// moved twice. Offsets count from the first byte of the buffer.
#[derive(Debug, Default)]
pub struct Parser {
    stage: Stage,
    head: Head,
    expects_continue: bool,
    /// Everything before it is understood; in a stage made of lines, the present line starts here.
    position: u32,
    /// No line ends between `position` and here.
    scanned: u32,
    request_start: u16,
    /// Where the headers, or the trailers, start.
    section_start: u32,
    body_start: u16,
    /// Where the body ends; of a chunked one, the part that is joined so far.
    body_end: u32,
    /// What is still to come of the present chunk's data.
    chunk_bytes_left: u32,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    RequestLine,
    Headers,
    /// A body with a Content-Length, or none.
    Body,
    ChunkSize,
    ChunkData,
    ChunkEnd,
    Trailers,
    Done,
}

/// What is kept of a head while the body arrives.
#[derive(Debug, Default)]
struct Head {
    method: Method,
    version: Version,
    keep_alive: bool,
    media: Media,
    site: Site,
    preflight: Preflight,
    authorization: Span,
    host: Span,
    origin: Span,
    path_start: u16,
    path_end: u16,
    query_start: u16,
    query_end: u16,
}

/// Where a value of the head is in the buffer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// Of a value that is a part of `head`, which starts at this offset; of an empty one, anywhere.
    pub(super) fn of(value: &[u8], head: &[u8], head_start: usize) -> Self {
        if value.is_empty() {
            return Self::default();
        }
        let start = head_start + (value.as_ptr().addr() - head.as_ptr().addr());
        Self { start: start as u16, end: (start + value.len()) as u16 }
    }

    pub(super) fn of_buffer(self, buf: &[u8]) -> &[u8] {
        &buf[self.start.into()..self.end.into()]
    }
}

/// What [`Parser::parse`] made of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'b> {
    /// More bytes are needed.
    Partial {
        /// The client waits for an interim `100 Continue` before it sends the body. True at most once per request.
        expects_continue: bool,
    },
    /// The buffer starts with this request.
    Complete {
        /// The request.
        request: Request<'b>,
        /// What the request takes of the buffer, with empty lines before it and everything up to its end.
        bytes: &'b [u8],
    },
}

/// One request, as far as the API cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'b> {
    /// The method.
    pub method: Method,
    /// Decides, with `keep_alive`, what the response says about the connection.
    pub version: Version,
    /// Whether the client wants to use the connection again.
    pub keep_alive: bool,
    /// The target's path, still encoded: starts with `/`, or is `*` (OPTIONS), or `host:port` (CONNECT).
    pub path: &'b str,
    /// What follows the target's first `?`, well-formed but still encoded; see [`parameter`].
    pub query: &'b str,
    /// The value of the `Authorization` header; empty if there is none.
    pub authorization: &'b [u8],
    /// Who sends it.
    pub sender: Sender<'b>,
    /// Its body.
    pub body: Body<'b>,
}

/// The methods that HTTP defines, as far as they are told apart here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `OPTIONS`
    Options,
    /// `PUT`, `DELETE`, `PATCH`, `TRACE` and `CONNECT`: known, and never allowed.
    Other,
}

/// The protocol version whose rules a request follows; 1.2 and up follow those of 1.1.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    #[default]
    Http11,
}

/// Why a request cannot be served. The answer is the last one on its connection: where the next request would start
/// is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reject {
    /// The status code to answer with.
    pub status: u16,
    /// What is wrong and what is allowed, for the client.
    pub message: &'static str,
}

impl Reject {
    const fn new(status: u16, message: &'static str) -> Reject {
        Reject { status, message }
    }

    const BAD_LINE_END: Reject = Reject::new(400, "every line must end with CR LF");
    const BAD_REQUEST_LINE: Reject =
        Reject::new(400, "the request line must be: METHOD SP TARGET SP HTTP/1.1");
    const NO_HTTP: Reject =
        Reject::new(400, "this port speaks HTTP without TLS: a request begins with its method");
    const EMPTY_LINES: Reject = Reject::new(400, "more than 4 empty lines before the request line");
    const BAD_FIELD_NAME: Reject = Reject::new(400, "a header line must be: NAME ':' VALUE, on one line");
    const BAD_FIELD_VALUE: Reject = Reject::new(400, "a header value must not hold control characters");
    const BAD_TARGET: Reject =
        Reject::new(400, "the target must be a path and query, or an http URL, well-formed");
    const REPEATED: Reject = Reject::new(
        400,
        "Host, Authorization, Content-Length, Content-Type, Transfer-Encoding, Origin and Sec-Fetch-Site may be given only once",
    );
    const NO_HOST: Reject = Reject::new(400, "HTTP/1.1 needs a Host header");
    const BAD_HOST: Reject =
        Reject::new(400, "Host must be empty, or a host name or address, with or without a port");
    const BAD_LENGTH: Reject = Reject::new(400, "Content-Length must be one decimal number");
    const BAD_CODING: Reject =
        Reject::new(400, "Transfer-Encoding must be 'chunked', in HTTP/1.1, without a Content-Length");
    const BAD_CHUNK: Reject =
        Reject::new(400, "a chunk must be: SIZE [;EXTENSIONS] CR LF DATA CR LF, with SIZE in hexadecimal");
    const LONG_BODY: Reject = Reject::new(413, "the body is longer than 65536 bytes");
    const LONG_CHUNKS: Reject = Reject::new(413, "the body's chunks are too small for its length");
    const LONG_REQUEST_LINE: Reject = Reject::new(414, "the request line is longer than 4096 bytes");
    const BAD_EXPECTATION: Reject = Reject::new(417, "Expect must be '100-continue'");
    const LONG_HEADERS: Reject = Reject::new(431, "the headers are longer than 16384 bytes");
    const LONG_TRAILERS: Reject = Reject::new(431, "the trailers are longer than 2048 bytes");
    const MANY_HEADERS: Reject = Reject::new(431, "there are more than 100 headers or trailers");
    const UNKNOWN_METHOD: Reject = Reject::new(501, "the method is not known");
    const BAD_VERSION: Reject = Reject::new(505, "the version must be HTTP/1.1 or HTTP/1.0");
}

impl From<httparse::Error> for Reject {
    fn from(error: httparse::Error) -> Reject {
        match error {
            httparse::Error::TooManyHeaders => Reject::MANY_HEADERS,
            httparse::Error::HeaderName => Reject::BAD_FIELD_NAME,
            httparse::Error::HeaderValue => Reject::BAD_FIELD_VALUE,
            httparse::Error::NewLine => Reject::BAD_LINE_END,
            httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {
                Reject::BAD_REQUEST_LINE
            }
        }
    }
}

impl Parser {
    /// Looks for one request at the start of `buf`: all that the connection has received and not yet consumed.
    /// Until the request is complete `buf` may only grow at its end; chunks are joined in place.
    ///
    /// # Errors
    /// A request that cannot be served. The parser is then of no more use, nor is the connection.
    pub fn parse<'b>(&mut self, buf: &'b mut [u8]) -> Result<Parsed<'b>, Reject> {
        while self.stage != Stage::Done {
            if !self.advance(buf)? {
                let expects_continue = mem::take(&mut self.expects_continue);
                return Ok(Parsed::Partial { expects_continue });
            }
        }
        let done = mem::take(self);
        let bytes: &[u8] = &buf[..done.position as usize];
        Ok(Parsed::Complete { request: done.request(bytes)?, bytes })
    }

    /// Whether nothing of the next request was looked at yet.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        self.stage == Stage::RequestLine && self.scanned == 0
    }

    /// Whether the request that starts `buf`, and is not complete, is a HEAD: a refusal must then have no body.
    pub fn is_head(&self, buf: &[u8]) -> bool {
        self.stage != Stage::RequestLine && buf[usize::from(self.request_start)..].starts_with(b"HEAD ")
    }

    /// The head of the request that starts `buf`, and the length of its body, as far as it is known: if the head is there,
    /// and the body is not.
    pub fn head<'b>(&self, buf: &'b [u8]) -> Option<(Request<'b>, usize)> {
        let body_bytes = match self.stage {
            Stage::RequestLine | Stage::Headers | Stage::Done => return None,
            Stage::Body => self.body_end - u32::from(self.body_start),
            Stage::ChunkSize | Stage::ChunkData | Stage::ChunkEnd | Stage::Trailers => {
                self.body_end - u32::from(self.body_start) + self.chunk_bytes_left
            }
        };
        Some((self.request_without_body(buf).ok()?, body_bytes as usize))
    }

    /// Takes the next step; false while the bytes for it have not arrived.
    #[inline]
    fn advance(&mut self, buf: &mut [u8]) -> Result<bool, Reject> {
        match self.stage {
            Stage::RequestLine => self.read_request_line(buf),
            Stage::Headers => self.read_headers(buf),
            Stage::Body => Ok(self.skip_body(buf.len())),
            Stage::ChunkSize => self.read_chunk_size(buf),
            Stage::ChunkData => Ok(self.join_chunk(buf)),
            Stage::ChunkEnd => self.read_chunk_end(buf),
            Stage::Trailers => self.read_trailers(buf),
            Stage::Done => Ok(true),
        }
    }

    fn read_request_line(&mut self, buf: &mut [u8]) -> Result<bool, Reject> {
        check_beginning(&buf[self.position as usize..])?;
        let limit = self.position as usize + REQUEST_LINE_BYTES_MAX + CRLF.len();
        let Some(line) = self.next_line(buf, limit, Reject::LONG_REQUEST_LINE)? else {
            return Ok(false);
        };
        if !line.is_empty() {
            settle_version(&mut buf[line.clone()])?;
            self.request_start = line.start as u16;
            self.section_start = self.position;
            self.stage = Stage::Headers;
        } else if line.start == EMPTY_LINES_MAX * CRLF.len() {
            return Err(Reject::EMPTY_LINES);
        }
        Ok(true)
    }

    fn read_headers(&mut self, buf: &[u8]) -> Result<bool, Reject> {
        if !self.skip_section(buf, HEADERS_BYTES_MAX, Reject::LONG_HEADERS)? {
            return Ok(false);
        }
        let mut headers = [const { MaybeUninit::uninit() }; HEADER_FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let head = &buf[usize::from(self.request_start)..self.position as usize];
        parsed.parse_with_uninit_headers(head, &mut headers).map_err(|error| match error {
            httparse::Error::Token if !is_target_utf8(head) => Reject::BAD_TARGET,
            error => error.into(),
        })?;
        self.read_head(&parsed, head)?;
        // Once a part of the body is there, the client does not wait.
        self.expects_continue &= buf.len() == self.position as usize;
        Ok(true)
    }

    /// Keeps what matters of a head whose syntax is sound, and prepares for the body.
    fn read_head(&mut self, parsed: &httparse::Request, head: &[u8]) -> Result<(), Reject> {
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(Reject::BAD_REQUEST_LINE);
        };
        let outline = Outline::of(method, target, parsed.version.unwrap_or(1), parsed.headers)?;
        self.head.method = outline.method;
        self.head.version = outline.version;
        self.head.keep_alive = outline.keep_alive;
        self.head.media = outline.media;
        self.head.site = outline.site;
        self.head.preflight = outline.preflight;
        let Values { authorization, host, origin } = outline.values(parsed.headers);
        let span = |value| Span::of(value, head, usize::from(self.request_start));
        self.head.authorization = span(authorization);
        self.head.host = span(host);
        self.head.origin = span(origin);
        self.head.keep_target(usize::from(self.request_start) + method.len() + " ".len(), outline.parts);
        self.start_body(outline.framing);
        self.expects_continue = outline.expects_continue;
        Ok(())
    }

    fn start_body(&mut self, framing: Framing) {
        self.body_start = self.position as u16;
        self.body_end = self.position;
        match framing {
            Framing::Chunked => self.stage = Stage::ChunkSize,
            Framing::Length(bytes) => {
                self.body_end += bytes as u32;
                self.stage = Stage::Body;
            }
        }
    }

    fn skip_body(&mut self, received: usize) -> bool {
        let is_whole = self.body_end as usize <= received;
        if is_whole {
            self.position = self.body_end;
            self.stage = Stage::Done;
        }
        is_whole
    }

    fn read_chunk_size(&mut self, buf: &[u8]) -> Result<bool, Reject> {
        let limit = self.position as usize + CHUNK_LINE_BYTES_MAX + CRLF.len();
        let Some(line) = self.next_line(buf, limit, Reject::BAD_CHUNK)? else {
            return Ok(false);
        };
        let bytes = chunk_bytes(&buf[line])?;
        if (self.body_end - u32::from(self.body_start)) as usize + bytes > BODY_BYTES_MAX {
            return Err(Reject::LONG_BODY);
        }
        if (self.position - self.body_end) as usize + CRLF.len() > FRAMING_BYTES_MAX {
            return Err(Reject::LONG_CHUNKS);
        }
        self.chunk_bytes_left = bytes as u32;
        self.section_start = self.position;
        self.stage = if bytes == 0 { Stage::Trailers } else { Stage::ChunkData };
        Ok(true)
    }

    /// Moves what has arrived of a chunk's data to the end of the body so far.
    fn join_chunk(&mut self, buf: &mut [u8]) -> bool {
        let start = self.position as usize;
        let bytes = (buf.len() - start).min(self.chunk_bytes_left as usize);
        buf.copy_within(start..start + bytes, self.body_end as usize);
        self.move_to(start + bytes);
        self.body_end += bytes as u32;
        self.chunk_bytes_left -= bytes as u32;
        let is_whole = self.chunk_bytes_left == 0;
        if is_whole {
            self.stage = Stage::ChunkEnd;
        }
        is_whole
    }

    fn read_chunk_end(&mut self, buf: &[u8]) -> Result<bool, Reject> {
        // The limit leaves room for an empty line only.
        let limit = self.position as usize + CRLF.len();
        let line = self.next_line(buf, limit, Reject::BAD_CHUNK)?;
        if line.is_some() {
            self.stage = Stage::ChunkSize;
        }
        Ok(line.is_some())
    }

    fn read_trailers(&mut self, buf: &[u8]) -> Result<bool, Reject> {
        if !self.skip_section(buf, TRAILERS_BYTES_MAX, Reject::LONG_TRAILERS)? {
            return Ok(false);
        }
        let mut trailers = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
        let section = self.section_start as usize..self.position as usize;
        httparse::parse_headers(&buf[section], &mut trailers)?;
        self.stage = Stage::Done;
        Ok(true)
    }

    /// Moves past the empty line that ends the headers or trailers; false while that has not arrived.
    fn skip_section(&mut self, buf: &[u8], bytes_max: usize, too_long: Reject) -> Result<bool, Reject> {
        let limit = self.section_start as usize + bytes_max;
        while let Some(line) = self.next_line(buf, limit, too_long)? {
            if line.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves past the next line and says where it is, without its CRLF; `None` while its end has not arrived.
    /// A line that does not end before offset `limit` is `too_long`.
    fn next_line(
        &mut self,
        buf: &[u8],
        limit: usize,
        too_long: Reject,
    ) -> Result<Option<Range<usize>>, Reject> {
        let (start, scanned) = (self.position as usize, self.scanned as usize);
        let window = &buf[scanned..buf.len().min(limit)];
        let Some(length) = memchr(b'\n', window) else {
            self.scanned += window.len() as u32;
            return if buf.len() < limit { Ok(None) } else { Err(too_long) };
        };
        let end = scanned + length;
        self.move_to(end + 1);
        match buf[start..end] {
            [.., b'\r'] => Ok(Some(start..end - 1)),
            _ => Err(Reject::BAD_LINE_END),
        }
    }

    fn move_to(&mut self, position: usize) {
        self.position = position as u32;
        self.scanned = position as u32;
    }

    fn request<'b>(&self, buf: &'b [u8]) -> Result<Request<'b>, Reject> {
        let body = Body::new(self.head.media, &buf[self.body_start.into()..self.body_end as usize]);
        Ok(Request { body, ..self.request_without_body(buf)? })
    }

    fn request_without_body<'b>(&self, buf: &'b [u8]) -> Result<Request<'b>, Reject> {
        let head = &self.head;
        let target = &buf[head.path_start.into()..head.query_end.into()];
        let target = str::from_utf8(target).map_err(|_| Reject::BAD_TARGET)?;
        let (path, _) = target.split_at((head.path_end - head.path_start).into());
        let (_, query) = target.split_at((head.query_start - head.path_start).into());
        Ok(Request {
            method: head.method,
            version: head.version,
            keep_alive: head.keep_alive,
            path: path_or_root(path),
            query,
            authorization: head.authorization.of_buffer(buf),
            sender: Sender {
                host: head.host.of_buffer(buf),
                origin: head.origin.of_buffer(buf),
                site: head.site,
                preflight: head.preflight,
            },
            body: Body::EMPTY,
        })
    }
}

/// What a head says whose syntax is sound: for an engine that parses heads by itself.
pub struct Outline<'b> {
    method: Method,
    version: Version,
    target: &'b str,
    parts: Target,
    keep_alive: bool,
    media: Media,
    site: Site,
    preflight: Preflight,
    framing: Framing,
    expects_continue: bool,
    /// Which header each is.
    authorization: Option<usize>,
    host: Option<usize>,
    origin: Option<usize>,
}

/// Values of a head, each empty if it is not there.
#[derive(Debug, Default, Clone, Copy)]
pub struct Values<'v> {
    /// That of `Authorization`.
    pub authorization: &'v [u8],
    /// The target's authority, or else the value of `Host`.
    pub host: &'v [u8],
    /// That of `Origin`.
    pub origin: &'v [u8],
}

impl<'b> Outline<'b> {
    /// Checks everything about a head that [`Parser::parse`] checks, but for its syntax and its size.
    ///
    /// # Errors
    /// As for [`Parser::parse`].
    pub fn of(
        method_name: &str,
        target: &'b str,
        minor_version: u8,
        headers: &[httparse::Header<'_>],
    ) -> Result<Self, Reject> {
        let method = method_named(method_name)?;
        let version = if minor_version == 0 { Version::Http10 } else { Version::Http11 };
        let parts = split_target(method_name, target.as_bytes())?;
        let mut fields = Fields::default();
        for header in headers {
            fields.add(header.name, header.value)?;
        }
        fields.check_host(version)?;
        let index = |value: Option<&[u8]>| {
            value.and_then(|value| headers.iter().position(|header| std::ptr::eq(header.value, value)))
        };
        Ok(Self {
            method,
            version,
            target,
            parts,
            keep_alive: fields.keep_alive(version),
            media: if method == Method::Post { Media::of(fields.content_type) } else { Media::None },
            site: fields.fetch_site.map_or(Site::Unsaid, Site::of),
            preflight: fields.preflight,
            framing: fields.framing(version)?,
            expects_continue: fields.expects_continue(version)?,
            authorization: index(fields.authorization),
            host: index(fields.host),
            origin: index(fields.origin),
        })
    }

    /// The length of the body; `None` when it comes in chunks.
    pub fn body_bytes(&self) -> Option<usize> {
        match self.framing {
            Framing::Length(bytes) => Some(bytes),
            Framing::Chunked => None,
        }
    }

    /// The values among the headers that the outline was made of.
    pub fn values<'v>(&self, headers: &[httparse::Header<'v>]) -> Values<'v>
    where
        'b: 'v,
    {
        let value = |index: Option<usize>| {
            index.and_then(|index| headers.get(index)).map_or(&[][..], |header| header.value)
        };
        let host = match self.parts.authority.is_empty() {
            true => value(self.host),
            false => &self.target.as_bytes()[self.parts.authority.clone()],
        };
        Values { authorization: value(self.authorization), host, origin: value(self.origin) }
    }

    /// The request, given those values and its body.
    pub fn request(&self, values: Values<'b>, body: &'b [u8]) -> Request<'b> {
        let Values { authorization, host, origin } = values;
        Request {
            method: self.method,
            version: self.version,
            keep_alive: self.keep_alive,
            path: path_or_root(&self.target[self.parts.path.clone()]),
            query: &self.target[self.parts.query.clone()],
            authorization,
            sender: Sender { host, origin, site: self.site, preflight: self.preflight },
            body: Body::new(self.media, body),
        }
    }
}

/// Only a URL has no path, as in `http://host?query`.
fn path_or_root(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

impl Head {
    fn keep_target(&mut self, target_start: usize, target: Target) {
        let offset = |index| (target_start + index) as u16;
        self.path_start = offset(target.path.start);
        self.path_end = offset(target.path.end);
        self.query_start = offset(target.query.start);
        self.query_end = offset(target.query.end);
    }
}

/// Refuses bytes that can begin no request, whatever follows them: who sends those, such as a client that speaks TLS, may
/// send no line end for a long time. Of a method, only so many bytes are looked at each time.
#[inline]
fn check_beginning(received: &[u8]) -> Result<(), Reject> {
    if received.starts_with(b"GET ") || received.starts_with(b"POST ") {
        return Ok(());
    }
    let looked_at = &received[..received.len().min(METHOD_BYTES_CHECKED)];
    match looked_at.iter().position(|byte| !is_token(*byte)).map(|at| (at, looked_at[at])) {
        None | Some((1.., b' ')) => Ok(()),
        // Whether the line ends well is found out where it ends.
        Some((_, b'\n')) => Ok(()),
        Some((at, b'\r')) => match looked_at.get(at + 1) {
            None | Some(b'\n') => Ok(()),
            Some(_) if at == 0 => Err(Reject::BAD_LINE_END),
            Some(_) => Err(Reject::BAD_REQUEST_LINE),
        },
        Some((0, byte)) if byte.is_ascii_control() || !byte.is_ascii() => Err(Reject::NO_HTTP),
        Some(_) => Err(Reject::BAD_REQUEST_LINE),
    }
}

/// Whether a method may have this byte: RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Checks the version at the end of a request line. Minor versions above 1 mean what 1.1 means and are made that,
/// because `httparse` knows no other.
fn settle_version(line: &mut [u8]) -> Result<(), Reject> {
    match line.last_chunk_mut() {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            *minor = (*minor).min(b'1');
            if *major == b'1' { Ok(()) } else { Err(Reject::BAD_VERSION) }
        }
        _ => Err(Reject::BAD_REQUEST_LINE),
    }
}

/// Whether the target of a request line is UTF-8: `httparse` refuses another as if it were the method.
fn is_target_utf8(head: &[u8]) -> bool {
    head.split(|&byte| byte == b' ').nth(1).is_none_or(|target| str::from_utf8(target).is_ok())
}

fn method_named(name: &str) -> Result<Method, Reject> {
    match name {
        "GET" => Ok(Method::Get),
        "HEAD" => Ok(Method::Head),
        "POST" => Ok(Method::Post),
        "OPTIONS" => Ok(Method::Options),
        "PUT" | "DELETE" | "PATCH" | "TRACE" | "CONNECT" => Ok(Method::Other),
        _ => Err(Reject::UNKNOWN_METHOD),
    }
}

/// Where a request target has its parts. The authority is empty but for a URL.
struct Target {
    authority: Range<usize>,
    path: Range<usize>,
    query: Range<usize>,
}

/// Takes apart each form of target that RFC 9112 section 3.2 gives the method.
fn split_target(method: &str, target: &[u8]) -> Result<Target, Reject> {
    let end = target.len();
    let whole = Target { authority: 0..0, path: 0..end, query: end..end };
    match (method, target) {
        ("OPTIONS", b"*") => return Ok(whole),
        ("CONNECT", _) if is_authority(target) => return Ok(whole),
        ("CONNECT", _) => return Err(Reject::BAD_TARGET),
        _ => {}
    }
    let path_start = path_start(target)?;
    let path_end = memchr(b'?', target).unwrap_or(end);
    let query_start = end.min(path_end + 1);
    if is_made_of(PATH, &target[path_start..path_end]) && is_made_of(QUERY, &target[query_start..]) {
        let authority_start = if path_start == 0 { 0 } else { SCHEME.len() };
        Ok(Target {
            authority: authority_start..path_start,
            path: path_start..path_end,
            query: query_start..end,
        })
    } else {
        Err(Reject::BAD_TARGET)
    }
}

const SCHEME: &[u8] = b"http://";

/// Where the path starts: at once, or behind the authority of a URL, where it may be missing.
fn path_start(target: &[u8]) -> Result<usize, Reject> {
    if target.starts_with(b"/") {
        return Ok(0);
    }
    let (scheme, rest) = target.split_at_checked(SCHEME.len()).ok_or(Reject::BAD_TARGET)?;
    let authority_bytes = memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    if scheme.eq_ignore_ascii_case(SCHEME) && is_authority(&rest[..authority_bytes]) {
        Ok(SCHEME.len() + authority_bytes)
    } else {
        Err(Reject::BAD_TARGET)
    }
}

/// Whether `text` is `host[:port]` with a host: a name, an IPv4 address, or an IP literal in brackets.
fn is_authority(text: &[u8]) -> bool {
    let port_digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let before_port = text[..text.len() - port_digits].strip_suffix(b":");
    match before_port.unwrap_or(text) {
        [] | [b'[', b']'] => false,
        [b'[', literal @ .., b']'] => is_made_of(IP_LITERAL, literal),
        name => is_made_of(HOST, name),
    }
}

/// How a body's end is found.
enum Framing {
    /// After so many bytes.
    Length(usize),
    Chunked,
}

/// The header fields that change how a request is served.
#[derive(Default)]
struct Fields<'b> {
    host: Option<&'b [u8]>,
    content_length: Option<&'b [u8]>,
    content_type: Option<&'b [u8]>,
    transfer_encoding: Option<&'b [u8]>,
    expect: Option<&'b [u8]>,
    authorization: Option<&'b [u8]>,
    origin: Option<&'b [u8]>,
    fetch_site: Option<&'b [u8]>,
    preflight: Preflight,
    close: bool,
    persist: bool,
}

impl<'b> Fields<'b> {
    fn add(&mut self, name: &str, value: &'b [u8]) -> Result<(), Reject> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // Most names are of no interest, and their length alone tells.
        let slot = match name.len() {
            4 if is("Host") => &mut self.host,
            6 if is("Expect") => {
                // Two of them are a list, which is another expectation.
                self.expect = Some(if self.expect.is_some() { b"" } else { value });
                return Ok(());
            }
            6 if is("Origin") => &mut self.origin,
            10 if is("Connection") => {
                self.add_connection_options(value);
                return Ok(());
            }
            12 if is("Content-Type") => &mut self.content_type,
            13 if is("Authorization") => &mut self.authorization,
            14 if is("Content-Length") => &mut self.content_length,
            14 if is("Sec-Fetch-Site") => &mut self.fetch_site,
            17 if is("Transfer-Encoding") => &mut self.transfer_encoding,
            29 if is("Access-Control-Request-Method") => {
                self.add_preflight(Preflight::Plain);
                return Ok(());
            }
            38 if is("Access-Control-Request-Private-Network") => {
                self.add_preflight(Preflight::PrivateNetwork);
                return Ok(());
            }
            _ => return Ok(()),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Reject::REPEATED),
        }
    }

    fn add_connection_options(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.persist |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// What is asked for in two headers, in either order.
    fn add_preflight(&mut self, asked: Preflight) {
        if self.preflight != Preflight::PrivateNetwork {
            self.preflight = asked;
        }
    }

    fn check_host(&self, version: Version) -> Result<(), Reject> {
        match self.host {
            // Empty is what a client says whose target has no authority: RFC 9112, 3.2.
            Some(host) if host.is_empty() || is_authority(host) => Ok(()),
            Some(_) => Err(Reject::BAD_HOST),
            None if version == Version::Http10 => Ok(()),
            None => Err(Reject::NO_HOST),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (self.persist || version == Version::Http11)
    }

    /// Exactly one way to find the body's end, or none of it is trusted: request smuggling lives on the difference.
    fn framing(&self, version: Version) -> Result<Framing, Reject> {
        match (self.transfer_encoding, self.content_length) {
            (None, None) => Ok(Framing::Length(0)),
            (None, Some(length)) => body_bytes(length).map(Framing::Length),
            (Some(coding), None) if version == Version::Http11 && coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Framing::Chunked)
            }
            _ => Err(Reject::BAD_CODING),
        }
    }

    fn expects_continue(&self, version: Version) -> Result<bool, Reject> {
        match self.expect {
            Some(value) if version == Version::Http11 => {
                if value.eq_ignore_ascii_case(b"100-continue") {
                    Ok(true)
                } else {
                    Err(Reject::BAD_EXPECTATION)
                }
            }
            _ => Ok(false),
        }
    }
}

/// The value of a Content-Length.
fn body_bytes(value: &[u8]) -> Result<usize, Reject> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::BAD_LENGTH);
    }
    let add_digit = |bytes: usize, digit: &u8| bytes.saturating_mul(10).saturating_add((digit - b'0').into());
    match value.iter().fold(0, add_digit) {
        bytes @ ..=BODY_BYTES_MAX => Ok(bytes),
        _ => Err(Reject::LONG_BODY),
    }
}

/// The size in a chunk's first line. Extensions are skipped.
fn chunk_bytes(line: &[u8]) -> Result<usize, Reject> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    let has_extensions = extensions.trim_ascii_start().starts_with(b";");
    let is_sound = (extensions.is_empty() || has_extensions) && !extensions.iter().any(is_control);
    if !(1..=CHUNK_SIZE_DIGITS_MAX).contains(&digits) || !is_sound {
        return Err(Reject::BAD_CHUNK);
    }
    let values = size.iter().filter_map(|&digit| hex_value(digit));
    match values.fold(0, |bytes: usize, value| bytes.saturating_mul(16) | usize::from(value)) {
        bytes @ ..=BODY_BYTES_MAX => Ok(bytes),
        _ => Err(Reject::LONG_BODY),
    }
}

fn is_control(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}

const HOST: u8 = 1;
const IP_LITERAL: u8 = 2;
const PATH: u8 = 4;
const QUERY: u8 = 8;
/// Every byte but `%`, which promises two hexadecimal digits.
const LITERAL: u8 = 16;

/// Where a byte may stand, by RFC 3986. The query also takes what browsers and `curl` send as it is.
const fn classes_of(byte: u8) -> u8 {
    match byte {
        b'%' => HOST | PATH | QUERY,
        b'A'..=b'Z'
        | b'a'..=b'z'
        | b'0'..=b'9'
        | b'-'
        | b'.'
        | b'_'
        | b'~'
        | b'!'
        | b'$'
        | b'&'
        | b'\''
        | b'('
        | b')'
        | b'*'
        | b'+'
        | b','
        | b';'
        | b'=' => LITERAL | HOST | IP_LITERAL | PATH | QUERY,
        b':' => LITERAL | IP_LITERAL | PATH | QUERY,
        b'@' | b'/' => LITERAL | PATH | QUERY,
        b'?' | b'[' | b']' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => LITERAL | QUERY,
        _ => LITERAL,
    }
}

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = classes_of(byte as u8);
        byte += 1;
    }
    classes
};

/// Whether every byte of `text` is of the class, and every `%` starts an encoded byte.
fn is_made_of(class: u8, text: &[u8]) -> bool {
    let common = text.iter().fold(u8::MAX, |common, &byte| common & CLASSES[usize::from(byte)]);
    common & class != 0 && (common & LITERAL != 0 || is_encoded_well(text))
}

fn is_encoded_well(text: &[u8]) -> bool {
    memchr_iter(b'%', text).all(|percent| encoded_byte(&text[percent + 1..]).is_some())
}

/// The byte that two hexadecimal digits at the start of `text` stand for.
fn encoded_byte(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = *text else { return None };
    Some(hex_value(high)? << 4 | hex_value(low)?)
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Why a parameter cannot be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParameters {
    /// A `%` that two hexadecimal digits do not follow.
    #[error("after '%' go two hexadecimal digits")]
    Encoding,
    /// More than [`PARAMETERS_MAX`].
    #[error("there are more than {PARAMETERS_MAX} parameters")]
    TooMany,
}

/// The first value of a parameter in `pairs`, which is `application/x-www-form-urlencoded`: a [`Request::query`] or
/// a [`Body::form`]. Decoded, it is any bytes; a name without `=` has the empty value.
///
/// # Errors
/// The value, or a name before it, is not well-formed; or there are too many names before it. What follows is not
/// looked at.
pub fn parameter<'a>(pairs: &'a [u8], name: &str) -> Result<Option<Cow<'a, [u8]>>, BadParameters> {
    for (index, pair) in pairs.split(|&byte| byte == b'&').enumerate() {
        if index == PARAMETERS_MAX {
            return Err(BadParameters::TooMany);
        }
        let name_bytes = memchr(b'=', pair).unwrap_or(pair.len());
        if is_name(&pair[..name_bytes], name.as_bytes())? {
            return decode(pair.get(name_bytes + 1..).unwrap_or_default()).map(Some);
        }
    }
    Ok(None)
}

/// Whether `encoded` stands for `name`. All of it is looked at, so that what is not well-formed is found.
fn is_name(encoded: &[u8], name: &[u8]) -> Result<bool, BadParameters> {
    if encoded == name || !is_encoded(encoded) {
        return Ok(encoded == name);
    }
    let (mut wanted, mut same) = (name.iter(), true);
    for byte in decoded_bytes(encoded) {
        let byte = byte?;
        same &= wanted.next() == Some(&byte);
    }
    Ok(same && wanted.next().is_none())
}

fn decode(text: &[u8]) -> Result<Cow<'_, [u8]>, BadParameters> {
    if !is_encoded(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    for byte in decoded_bytes(text) {
        decoded.push(byte?);
    }
    Ok(Cow::Owned(decoded))
}

fn is_encoded(text: &[u8]) -> bool {
    memchr2(b'%', b'+', text).is_some()
}

fn decoded_bytes(text: &[u8]) -> impl Iterator<Item = Result<u8, BadParameters>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        Some(match byte {
            b'%' => {
                rest = &tail[tail.len().min(2)..];
                encoded_byte(tail).ok_or(BadParameters::Encoding)
            }
            b'+' => Ok(b' '),
            literal => Ok(*literal),
        })
    })
}

#[cfg(test)]
mod tests;
