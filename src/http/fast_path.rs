//! The fast path: what a worker remembers of its last request, and all the rules for that.
//!
//! - Remembered is the last GET, byte for byte, with what it was found to mean ([`Memo`]). The same bytes mean the same for as
//!   long as the server runs: what a request means depends on its bytes and on the configuration alone.
//! - Not remembered are requests with a body, long ones, and, where tokens are asked for, all ([`may_remember`]): to compare a
//!   request with another client's takes longer the more of it is the same, and so would tell a token byte by byte.
//! - A request that has come several times in a row, and is for one ID of a tag, gets a way to that tag ([`Shortcut`]): it is
//!   then neither parsed nor is its tag looked up. It needs a plain answer, and a tag and a token without limits; whether that is so does
//!   not change.
//! - A shortcut cannot go stale: it claims from the same chain as everybody. The first claim that finds nothing ends it, whether
//!   the tag is empty or gone; so does another request, and a server that drains takes none.

use std::borrow::Cow;

use memchr::memmem;

use super::body::Body;
use super::handler::Service;
use super::origin::{Preflight, Sender, Site};
use super::request::{Method, Request, Span, Version};
use crate::alloc::tag::TagHandle;
use crate::api::Api;

/// Whether requests may be remembered at all.
#[inline]
pub fn may_remember(service: &Service) -> bool {
    service.api.access.is_none()
}

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

/// What a request that has come again comes to.
pub enum Shortcut {
    /// That is found out when it has come so many times more.
    Unknown(u32),
    /// An ID of this tag, with a plain answer.
    SingleOf(TagHandle),
    /// Anything else.
    Other,
}

/// A way to a tag is made and dropped in cache lines that all workers read: for a request that has just come twice, as
/// every fourth does where two take turns by chance, it would cost more than it saves.
const RECALLS_BEFORE_SHORTCUT: u32 = 4;

impl Default for Shortcut {
    fn default() -> Self {
        Self::Unknown(RECALLS_BEFORE_SHORTCUT)
    }
}

impl Shortcut {
    /// One ID, if the request is for one and that takes no more than an addition. `single_of` says which tag it is for one ID
    /// of, if it is, with a plain answer.
    #[inline]
    pub(super) fn take<'r>(
        &mut self,
        api: &Api,
        single_of: impl FnOnce() -> Option<Cow<'r, str>>,
    ) -> Option<i64> {
        match self {
            Self::Unknown(0) => *self = Self::find(api, single_of),
            Self::Unknown(recalls) => *recalls -= 1,
            Self::SingleOf(_) | Self::Other => {}
        }
        let Self::SingleOf(tag) = self else { return None };
        let id = api.next_id_of(tag);
        if id.is_none() {
            // The tag may be gone, and another one have its name.
            *self = Self::default();
        }
        id
    }

    #[cold]
    fn find<'r>(api: &Api, single_of: impl FnOnce() -> Option<Cow<'r, str>>) -> Self {
        match single_of() {
            None => Self::Other,
            Some(tag) => api.way_to(&tag).map_or_else(Self::default, Self::SingleOf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::{Parsed, Parser};

    #[test]
    fn a_memo_recalls_only_the_same_bytes() {
        let mut buf = b"GET /alloc?app_tag=t HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /x".to_vec();
        let same = buf.clone();
        let mut memo = Memo::<()>::default();
        assert_eq!(memo.recall(&same), None, "nothing is remembered yet");
        let Ok(Parsed::Complete { request, bytes }) = Parser::default().parse(&mut buf) else {
            panic!("whole")
        };
        memo.keep(bytes, &request);
        let recalled = memo.recall(&same).map(|(remembered, (), length)| (remembered.request(), length));
        assert_eq!(recalled, Some((request, bytes.len())));
        assert_eq!(memo.recall(&same[..bytes.len() - 1]), None, "the last byte may still differ");
        let other = b"GET /alloc?app_tag=u HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(memo.recall(other), None);
    }

    #[test]
    fn a_memo_recalls_the_token_that_came_with_these_bytes_and_for_no_other() {
        let request = |token: &str| {
            format!("GET /alloc?app_tag=t HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n")
                .into_bytes()
        };
        let bare = b"GET /alloc?app_tag=t HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
        let mut memo = Memo::<()>::default();
        for sent in [request("one"), request("two"), bare.clone()] {
            let mut buf = sent.clone();
            let Ok(Parsed::Complete { request: parsed, bytes }) = Parser::default().parse(&mut buf) else {
                panic!("whole")
            };
            memo.keep(bytes, &parsed);
            for other in [request("one"), request("two"), request("on"), request("oneone"), bare.clone()] {
                let recalled = memo.recall(&other).map(|(remembered, ..)| remembered.request());
                assert_eq!(recalled, (other == sent).then_some(parsed));
            }
        }
    }

    #[test]
    fn a_memo_keeps_what_was_made_of_a_request_until_the_next_one() {
        let mut memo = Memo::<u32>::default();
        for tag in ["a", "b"] {
            let mut buf = format!("GET /alloc?app_tag={tag} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
            let Ok(Parsed::Complete { request, bytes }) = Parser::default().parse(&mut buf) else { panic!() };
            memo.keep(bytes, &request);
            for made in 0..3 {
                let (_, shortcut, _) = memo.recall(bytes).unwrap();
                assert_eq!(*shortcut, made);
                *shortcut += 1;
            }
        }
    }

    #[test]
    fn a_memo_keeps_no_body_and_no_long_request() {
        let post = b"POST /alloc HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 9\r\n\r\napp_tag=t";
        let long = format!("GET /alloc HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(MEMO_BYTES_MAX));
        let with_length = b"GET / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab";
        let chunked =
            b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for sent in [post.to_vec(), long.into_bytes(), with_length.to_vec(), chunked.to_vec()] {
            let (mut buf, mut memo) = (sent.clone(), Memo::<()>::default());
            let Ok(Parsed::Complete { request, bytes }) = Parser::default().parse(&mut buf) else {
                panic!("whole")
            };
            memo.keep(bytes, &request);
            // What the buffer holds now is what would have been remembered.
            assert_eq!(memo.recall(bytes), None, "a memo holds short GETs without a body only");
        }
    }
}
