//! What a worker remembers of its last request.

use memchr::memmem;

use super::{Method, Request, Span, Version};
use crate::http::body::Body;
use crate::http::origin::{Preflight, Sender, Site};

/// The last GET of a worker, taken apart. Most clients send the same bytes over and over, and what the same bytes
/// mean need not be found out twice. `S` is what the server made of it: the default until it has looked.
#[derive(Debug, Default)]
pub struct Memo<S> {
    remembered: Remembered,
    shortcut: S,
}

/// The request of a [`Memo`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    bytes: Vec<u8>,
    path: String,
    query: String,
    authorization: Span,
    host: Span,
    origin: Span,
    site: Site,
    preflight: Preflight,
    version: Version,
    keep_alive: bool,
}

/// A longer request is not remembered: comparing it would cost as much as it saves.
pub(super) const MEMO_BYTES_MAX: usize = 512;

impl<S: Default> Memo<S> {
    /// The request at the start of `buf`, where a request must start, what was made of it, and its length: if it is the one
    /// remembered.
    #[inline]
    pub fn recall(&mut self, buf: &[u8]) -> Option<(&Remembered, &mut S, usize)> {
        let bytes = &self.remembered.bytes;
        if bytes.is_empty() || !buf.starts_with(bytes) {
            return None;
        }
        Some((&self.remembered, &mut self.shortcut, bytes.len()))
    }

    /// Remembers what `bytes`, a whole request, were found to mean: `request` is borrowed from them. One with a body is not remembered: where chunks
    /// were joined, `bytes` are not what was sent, and might be what another client sends and means otherwise.
    pub fn keep(&mut self, bytes: &[u8], request: &Request<'_>) {
        let ends_with_head = || memmem::find(bytes, b"\r\n\r\n").is_some_and(|at| at + 4 == bytes.len());
        if request.method != Method::Get || bytes.len() > MEMO_BYTES_MAX || !ends_with_head() {
            return;
        }
        self.shortcut = S::default();
        self.remembered.set(bytes, request);
    }
}

impl Remembered {
    /// The request. Made only when it is needed: who takes a shortcut does without.
    #[inline]
    pub fn request(&self) -> Request<'_> {
        Request {
            method: Method::Get,
            version: self.version,
            keep_alive: self.keep_alive,
            path: &self.path,
            query: &self.query,
            authorization: self.authorization.of_buffer(&self.bytes),
            sender: Sender {
                host: self.host.of_buffer(&self.bytes),
                origin: self.origin.of_buffer(&self.bytes),
                site: self.site,
                preflight: self.preflight,
            },
            body: Body::EMPTY,
        }
    }

    fn set(&mut self, bytes: &[u8], request: &Request<'_>) {
        let Sender { host, origin, site, preflight } = request.sender;
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.path.clear();
        self.path.push_str(request.path);
        self.query.clear();
        self.query.push_str(request.query);
        self.authorization = Span::of(request.authorization, bytes, 0);
        self.host = Span::of(host, bytes, 0);
        self.origin = Span::of(origin, bytes, 0);
        self.site = site;
        self.preflight = preflight;
        self.version = request.version;
        self.keep_alive = request.keep_alive;
    }
}
