//! Clients that allocate, for as long as they are let, from servers that come and go.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::ledger::Ledger;
use super::server::{PATIENCE, is_gone};

/// Requests that a connection sends before it reads the first answer.
const PIPELINE_DEPTH: usize = 32;
/// Small enough for a ledger to hold what a fast machine gets in minutes.
const BATCH_MAX: u64 = 100;
const LEASE_MAX: u64 = 100_000;
/// Between two leases of one client: each is a statement for the store.
const LEASE_PAUSE_MAX_MS: u64 = 100;
/// Before a client that was refused, or found nobody, tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Single IDs and batches, pipelined.
    Ids,
    /// Ranges.
    Leases,
}

/// Clients at work.
#[derive(Default)]
pub struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients of a [`Load`] have seen.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answers: AtomicU64,
    refusals: AtomicU64,
    silence: Mutex<Silence>,
}

/// Time without an ID for anybody.
#[derive(Default)]
struct Silence {
    last_answer: Option<Instant>,
    longest: Duration,
}

/// What a [`Load`] comes to.
#[derive(Debug)]
pub struct Seen {
    /// Answers with IDs.
    pub answers: u64,
    /// Answers without: 503.
    pub refusals: u64,
    /// The longest time in which no client got an ID.
    pub longest_silence: Duration,
}

impl Load {
    /// One more client, of the server that listens on `port`.
    pub fn add(&mut self, ledger: &Arc<Ledger>, port: Arc<AtomicU16>, tag: &str, wish: Wish, seed: u64) {
        let owner = format!("client {} ({wish:?})", self.clients.len());
        let (ledger, tally) = (ledger.clone(), self.tally.clone());
        let mut client =
            Client { owner, tag: tag.to_owned(), wish, ledger, tally, rng: Rng::with_seed(seed) };
        self.clients.push(thread::spawn(move || client.run(&port)));
    }

    /// Answers with IDs so far.
    pub fn answers(&self) -> u64 {
        self.tally.answers.load(Relaxed)
    }

    /// Waits until the clients have got IDs again, from now on.
    pub fn await_answers(&self) {
        let (before, deadline) = (self.answers(), Instant::now() + PATIENCE);
        while self.answers() < before + 2 * self.clients.len() as u64 {
            assert!(Instant::now() < deadline, "no IDs");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the clients. A client that saw anything but IDs, a 503, or the end of a connection fails the test.
    pub fn stop(self) -> Seen {
        self.tally.stop.store(true, Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client"));
        let silence = self.tally.silence.lock().unwrap_or_else(PoisonError::into_inner);
        Seen {
            answers: self.tally.answers.load(Relaxed),
            refusals: self.tally.refusals.load(Relaxed),
            longest_silence: silence.longest,
        }
    }
}

impl Tally {
    fn answered(&self) {
        self.answers.fetch_add(1, Relaxed);
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = silence.last_answer.replace(now).map_or(Duration::ZERO, |last| now - last);
        silence.longest = silence.longest.max(since);
    }
}

struct Client {
    owner: String,
    tag: String,
    wish: Wish,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    rng: Rng,
}

/// Why a client leaves a connection.
enum Leave {
    Refused,
    Closed,
}

impl Client {
    fn run(&mut self, port: &AtomicU16) {
        while !self.tally.stop.load(Relaxed) {
            // Port 0 is nobody's.
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port.load(Relaxed))) {
                self.use_up(Connection::new(stream));
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// Allocates until the server refuses, or is gone.
    fn use_up(&mut self, mut connection: Connection) {
        let mut highest = 0;
        while !self.tally.stop.load(Relaxed) {
            let counts = self.next_counts();
            connection.send(&counts.iter().map(|count| self.request(*count)).collect::<String>());
            for count in counts {
                match self.receive(&mut connection, count, &mut highest) {
                    Ok(()) => self.tally.answered(),
                    Err(Leave::Refused) => {
                        self.tally.refusals.fetch_add(1, Relaxed);
                        return;
                    }
                    Err(Leave::Closed) => return,
                }
            }
            if self.wish == Wish::Leases {
                thread::sleep(Duration::from_millis(self.rng.u64(0..=LEASE_PAUSE_MAX_MS)));
            }
        }
    }

    /// How many IDs to ask for, request by request.
    fn next_counts(&mut self) -> Vec<u64> {
        let rng = &mut self.rng;
        match self.wish {
            Wish::Leases => vec![rng.u64(1..=LEASE_MAX)],
            Wish::Ids => (0..PIPELINE_DEPTH)
                .map(|_| if rng.u8(..) < 32 { rng.u64(2..=BATCH_MAX) } else { 1 })
                .collect(),
        }
    }

    fn request(&self, count: u64) -> String {
        let tag = &self.tag;
        let target = match (self.wish, count) {
            (Wish::Leases, _) => format!("/segment?app_tag={tag}&count={count}"),
            (Wish::Ids, 1) => format!("/alloc?app_tag={tag}"),
            (Wish::Ids, _) => format!("/alloc?app_tag={tag}&count={count}"),
        };
        format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
    }

    /// Enters the IDs of the next answer. Those of one connection ascend, but for leases.
    fn receive(&self, connection: &mut Connection, count: u64, highest: &mut i64) -> Result<(), Leave> {
        let owner = &self.owner;
        if connection.closes {
            return Err(Leave::Closed);
        }
        let (status, body) = connection.receive().ok_or(Leave::Closed)?;
        if status == 503 {
            // This store loses no commit, so that no tag may ever be at fault.
            assert!(!body.contains("max_id"), "{owner}: {body}");
            return Err(Leave::Refused);
        }
        assert_eq!(status, 200, "{owner}: {body}");
        let ranges = granted(body).unwrap_or_else(|| panic!("{owner}: {body}"));
        let ids: u64 = ranges.iter().map(|range| range.end.abs_diff(range.start)).sum();
        assert_eq!(ids, count, "{owner}: {body}");
        for range in ranges {
            if self.wish == Wish::Ids {
                assert!(range.start > *highest, "{owner}: {range:?} after {highest}");
                *highest = range.end - 1;
            }
            self.ledger.enter(range, owner);
        }
        Ok(())
    }
}

/// The IDs of an answer that is exactly as documented, as ranges.
fn granted(body: &str) -> Option<Vec<Range<i64>>> {
    let rest = body.strip_prefix(r#"{"resp_code":0,"msg":"success","#)?.strip_suffix('}')?;
    if let Some(id) = rest.strip_prefix(r#""id":"#) {
        return Some(append(Vec::new(), id.parse().ok()?));
    }
    if let Some(ids) = rest.strip_prefix(r#""ids":["#).and_then(|ids| ids.strip_suffix(']')) {
        return ids
            .split(',')
            .map(|id| id.parse().ok())
            .try_fold(Vec::new(), |ids, id| Some(append(ids, id?)));
    }
    let (start, end) = rest.strip_prefix(r#""start":"#)?.split_once(r#","end":"#)?;
    let lease = start.parse().ok()?..end.parse().ok()?;
    Some(vec![lease])
}

/// Adds an ID to the ranges, to the last one if it follows on it.
fn append(mut ranges: Vec<Range<i64>>, id: i64) -> Vec<Range<i64>> {
    match ranges.last_mut().filter(|last| last.end == id) {
        Some(last) => last.end += 1,
        None => ranges.push(id..id + 1),
    }
    ranges
}

/// A connection to a server that may end at any byte.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Where in `received` the next answer begins.
    at: usize,
    /// The newest answer said that it is the last.
    closes: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).expect("set nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("set a timeout");
        Connection { stream, received: Vec::new(), at: 0, closes: false }
    }

    fn send(&mut self, requests: &str) {
        match self.stream.write_all(requests.as_bytes()) {
            Err(error) if !is_gone(&error) => panic!("cannot send: {error}"),
            // If the server is gone, there may still be a last answer to read.
            _ => {}
        }
    }

    /// The next answer's status and body. `None` when the connection ends before it does.
    fn receive(&mut self) -> Option<(u16, &str)> {
        let (head_end, body_end) = loop {
            match self.next_answer() {
                Some(ends) => break ends,
                None => self.read_more()?,
            }
        };
        let head = text(&self.received[self.at..head_end]);
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        self.closes = header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.at = body_end;
        Some((status.expect("a status"), text(&self.received[head_end..body_end])))
    }

    /// Where the next answer's head and body end, if all of it is there.
    fn next_answer(&self) -> Option<(usize, usize)> {
        let unread = &self.received[self.at..];
        let head_bytes = unread.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = text(&unread[..head_bytes]);
        let length = header(head, "content-length").and_then(|value| value.parse::<usize>().ok());
        let length = length.unwrap_or_else(|| panic!("no Content-Length: {head}"));
        let body_end = self.at + head_bytes + length;
        (body_end <= self.received.len()).then_some((self.at + head_bytes, body_end))
    }

    fn read_more(&mut self) -> Option<()> {
        self.received.drain(..self.at);
        self.at = 0;
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(bytes) => {
                self.received.extend_from_slice(&buffer[..bytes]);
                Some(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(()),
            Err(error) if is_gone(&error) => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value).next()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}
