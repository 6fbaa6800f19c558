//! What must hold of the request parser for any bytes, in whatever pieces they arrive. The fuzzer looks for bytes that
//! prove it wrong; the tests, which include this file, try those of the corpus.

use idalloc::http::body::Media;
use idalloc::http::fast_path::Memo;
use idalloc::http::origin::{Preflight, Sender, Site};
use idalloc::http::request::{Method, Parsed, Parser, REQUEST_BYTES_MAX, Reject, Request, Version};

/// What is tried: lengths of pieces, a byte each, up to the first line feed; what a connection receives, after it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'i> {
    /// The lengths, which are gone through over and over.
    pub lengths: &'i [u8],
    /// What is received.
    pub bytes: &'i [u8],
}

impl<'i> From<&'i [u8]> for Input<'i> {
    fn from(input: &'i [u8]) -> Self {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        Self { lengths: &input[..end], bytes: input.get(end + 1..).unwrap_or_default() }
    }
}

impl<'i> Input<'i> {
    /// The bytes cut into pieces of the given lengths; one piece without any.
    fn pieces(&self) -> Vec<&'i [u8]> {
        let mut lengths = self.lengths.iter().cycle().map(|length| usize::from(*length).max(1));
        let (mut pieces, mut rest) = (Vec::new(), self.bytes);
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
            pieces.push(piece);
            rest = others;
        }
        pieces
    }

    /// What is received when nothing new comes: the last bytes again, as many as the first length says.
    fn filler(&self) -> &'i [u8] {
        let length = self.lengths.first().map_or(1, |length| usize::from(*length).max(1));
        &self.bytes[self.bytes.len().saturating_sub(length)..]
    }
}

/// What a connection makes of what it receives.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was asked.
    pub requests: Vec<Asked>,
    /// What these requests take of the bytes.
    pub consumed: usize,
    /// Why there are no more.
    pub reject: Option<Reject>,
}

/// A [`Request`] that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
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
    body: Vec<u8>,
}

impl From<&Request<'_>> for Asked {
    fn from(request: &Request<'_>) -> Self {
        let Sender { host, origin, site, preflight } = request.sender;
        Self {
            method: request.method,
            version: request.version,
            keep_alive: request.keep_alive,
            path: request.path.to_owned(),
            query: request.query.to_owned(),
            authorization: request.authorization.to_owned(),
            host: host.to_owned(),
            origin: origin.to_owned(),
            site,
            preflight,
            media: request.body.media,
            body: request.body.bytes.to_owned(),
        }
    }
}

/// Receives, parses and consumes as an engine does.
#[derive(Default)]
struct Connection {
    parser: Parser,
    memo: Option<Memo<()>>,
    buffer: Vec<u8>,
    outcome: Outcome,
    /// The client was told to go on with the present request.
    continued: bool,
}

impl Connection {
    fn receive(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        while self.outcome.reject.is_none() && !self.buffer.is_empty() && self.advance() {}
    }

    /// Takes the next request; false when it is not there yet.
    fn advance(&mut self) -> bool {
        let received = self.buffer.len();
        if self.parser.is_fresh()
            && let Some((remembered, (), bytes)) =
                self.memo.as_mut().and_then(|memo| memo.recall(&self.buffer))
        {
            self.outcome.requests.push((&remembered.request()).into());
            return self.consume(bytes);
        }
        match self.parser.parse(&mut self.buffer) {
            Ok(Parsed::Complete { request, bytes }) => {
                self.outcome.requests.push((&request).into());
                if let Some(memo) = &mut self.memo {
                    memo.keep(bytes, &request);
                }
                let consumed = bytes.len();
                self.consume(consumed)
            }
            Ok(Parsed::Partial { expects_continue }) => {
                assert!(received < REQUEST_BYTES_MAX, "asks for more than any request may have");
                assert!(!(expects_continue && self.continued), "tells the client twice to go on");
                self.continued |= expects_continue;
                false
            }
            Err(reject) => {
                assert!((400..600).contains(&reject.status) && !reject.message.is_empty(), "{reject:?}");
                self.outcome.reject = Some(reject);
                false
            }
        }
    }

    fn consume(&mut self, bytes: usize) -> bool {
        assert!((1..=self.buffer.len()).contains(&bytes), "{bytes} of {} bytes", self.buffer.len());
        self.buffer.drain(..bytes);
        self.outcome.consumed += bytes;
        self.continued = false;
        true
    }
}

fn receive<'i>(pieces: impl IntoIterator<Item = &'i [u8]>, memo: Option<Memo<()>>) -> Connection {
    let mut connection = Connection { memo, ..Connection::default() };
    for piece in pieces {
        connection.receive(piece);
    }
    connection
}

/// What whole `bytes` mean; panics when they mean something else to a connection that remembers requests.
pub fn meaning(bytes: &[u8]) -> Outcome {
    let whole = receive([bytes], None).outcome;
    let remembered = receive([bytes], Some(Memo::default())).outcome;
    assert_eq!(whole, remembered, "remembering requests changes what they mean: {}", shown(bytes));
    whole
}

/// Panics when `pieces` mean anything but `whole`.
pub fn check_pieces<'i>(pieces: impl IntoIterator<Item = &'i [u8]> + Clone, whole: &Outcome) {
    let in_pieces = receive(pieces.clone(), Some(Memo::default())).outcome;
    assert!(in_pieces == *whole, "{:?} gives {in_pieces:?} and not {whole:?}", {
        pieces.into_iter().map(shown).collect::<Vec<_>>()
    });
}

/// Panics unless `input` means the same whole, in its pieces and byte by byte, and is decided when the buffer is full.
pub fn check(input: &[u8]) {
    let input = Input::from(input);
    let whole = meaning(input.bytes);
    check_pieces(input.pieces(), &whole);
    check_pieces(input.bytes.chunks(1), &whole);
    let mut connection = receive([input.bytes], None);
    if connection.outcome.reject.is_none() && !connection.buffer.is_empty() {
        let missing = REQUEST_BYTES_MAX - connection.buffer.len();
        let rest: Vec<_> = input.filler().iter().copied().cycle().take(missing).collect();
        connection.receive(&rest);
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
