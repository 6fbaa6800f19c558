//! One connection: bytes in, answers out, in order.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Slot;
use super::worker::{Watch, Worker};
use crate::http::buffer_memory::UNCOUNTED_BYTES_MAX;
use crate::http::exchange::Step;
use crate::http::handler::Waiting;
use crate::http::linger::{Linger, discard_until_closed};
use crate::http::queued::{unacknowledged_bytes, unread_bytes, unsent_bytes};
use crate::http::request::{Parser, REQUEST_BYTES_MAX};
use crate::http::response::{Answer, Delivery, LongBatch};

/// The input buffer, and the most that is received at once: so no more than this comes behind the request in hand.
const INPUT_BYTES: usize = 16 * 1024;
/// Answers are sent when so much has gathered, and before more is read. The longest answer that is not sent in pieces
/// comes on top.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Requests answered, and bytes received, before the worker's other connections have their turn: a large body is as
/// much work as many small requests.
const REQUESTS_PER_TURN: usize = 64;
const BYTES_PER_TURN: usize = 2 * INPUT_BYTES;
/// How long a client is listened to after the last answer while it sends nothing. While it does, it has as long as for a
/// whole request: HttpReadTimeout.
const LINGER_SILENCE_MAX: Duration = Duration::from_secs(1);

/// As many empty lines as may come before a request, which old clients send after a body, and the start of one more: of
/// these an idle connection keeps only how many bytes there were.
const EMPTY_LINES: &[u8] = b"\r\n\r\n\r\n\r\n\r";

/// What a connection holds while it has bytes in hand.
#[derive(Default)]
pub(super) struct Buffers {
    input: Input,
    output: Vec<u8>,
}

impl Buffers {
    /// Empties them; false when they have grown too large to keep.
    pub fn reset(&mut self) -> bool {
        self.input.clear();
        self.output.clear();
        self.input.bytes.capacity() <= INPUT_BYTES && self.output.capacity() <= 2 * OUTPUT_BYTES
    }
}

/// Received bytes, of which the first `consumed` are done with.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    consumed: usize,
}

impl Input {
    fn is_empty(&self) -> bool {
        self.consumed == self.bytes.len()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.consumed = 0;
    }

    /// Makes room for at least one more byte. The parser refuses a request before it is `REQUEST_BYTES_MAX` long.
    fn make_room(&mut self) {
        if self.consumed > 0 && self.bytes.capacity() > INPUT_BYTES {
            // What a large request needed is not filled with those behind it.
            self.forget_consumed();
            self.bytes.shrink_to(INPUT_BYTES);
        }
        if self.is_empty() {
            self.clear();
        }
        if self.bytes.len() == self.bytes.capacity() {
            self.forget_consumed();
        }
        if self.bytes.len() == self.bytes.capacity() {
            // For the largest request at once: what is not touched costs nothing, and a buffer that grows by steps leaves
            // one of each size to the allocator.
            let capacity = if self.is_full() { REQUEST_BYTES_MAX } else { INPUT_BYTES };
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }

    /// Whether more bytes take more room than most requests need.
    fn is_full(&self) -> bool {
        self.rest().len() >= INPUT_BYTES && self.rest().len() == self.bytes.capacity()
    }

    fn forget_consumed(&mut self) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
    }

    /// Keeps no more memory than it needs.
    fn shrink(&mut self) {
        self.forget_consumed();
        self.bytes.shrink_to_fit();
    }
}

/// What a connection may do until its turn is over.
struct Budget {
    requests: usize,
    bytes: usize,
}

impl Budget {
    const FULL: Self = Self { requests: REQUESTS_PER_TURN, bytes: BYTES_PER_TURN };

    fn is_spent(&self) -> bool {
        self.requests == 0 || self.bytes == 0
    }

    fn spend_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// What an idle connection has waited for.
enum Readable {
    /// Something has arrived.
    Now,
    /// The client was idle for too long.
    TooLate,
    /// The client does not take its answers, or is gone.
    Never,
}

/// What came of waiting for more of a request.
enum Received {
    /// More of it, or its end.
    Bytes,
    /// Nothing in time.
    TooLate,
    /// There is no memory to wait with, or for more of it.
    NoMemory,
}

/// What an exchange came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchanged {
    /// All that was received is answered, but for empty lines.
    Idle,
    /// The last answer is sent, or there is nobody to send it to.
    Close { linger: bool },
}

/// What the requests in hand came to.
enum Progress {
    /// More bytes are needed.
    NeedInput,
    /// It is time to send, and for the other connections' turn.
    Flush,
    /// The next answer has to wait for IDs.
    Wait(Box<Waiting>, Delivery),
    /// The next answer is sent in pieces.
    Batch(LongBatch, Delivery),
    /// The last answer is written.
    Last,
}

pub(super) struct Connection {
    /// Before the stream, so that it is free when the client sees the connection closed.
    _slot: Slot,
    stream: TcpStream,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    watch_key: usize,
    parser: Parser,
    /// A part of a request is there, and its deadline runs.
    reading: bool,
    /// What was received of the next request, while the connection is idle: so much of `EMPTY_LINES`.
    empty_line_bytes: u8,
    /// What is left of this turn. A new one begins when the connection has waited for input, or has yielded: not when
    /// all is answered, since a read that filled the buffer leaves open whether there is more.
    budget: Budget,
    /// The client has shut its sending side: what it sent is still answered.
    end_of_input: bool,
    /// Bytes of `BufferMemory` that are counted as this connection's, until the exchange is over.
    held_bytes: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.give_back();
        self.worker.unwatch(self.watch_key);
    }
}

impl Connection {
    pub fn new(stream: TcpStream, worker: Rc<Worker>, slot: Slot) -> Self {
        let (watch_key, watch) = worker.watch();
        Self {
            _slot: slot,
            stream,
            worker,
            watch,
            watch_key,
            parser: Parser::default(),
            reading: false,
            empty_line_bytes: 0,
            budget: Budget::FULL,
            end_of_input: false,
            held_bytes: 0,
        }
    }

    /// Serves the connection to its end.
    pub async fn run(mut self) {
        loop {
            // Empty lines are no reason to start anew.
            if !self.watch.is_idle() {
                self.worker.begin_idle(&self.watch);
            }
            // No buffers are held here: an idle connection costs its task and its socket.
            match self.readable().await {
                Readable::Now => {}
                Readable::TooLate => return Box::pin(self.close()).await,
                Readable::Never => return,
            }
            let mut buffers = self.worker.lend_buffers();
            buffers.input.bytes.extend_from_slice(&EMPTY_LINES[..self.empty_line_bytes.into()]);
            let exchanged = match self.receive_at_once(&mut buffers.input).await {
                None => Ok(Exchanged::Idle),
                Some(Ok(0)) => Ok(Exchanged::Close { linger: false }),
                Some(Ok(_)) => self.exchange(&mut buffers).await,
                Some(Err(error)) => Err(error),
            };
            self.worker.take_back(buffers);
            self.give_back();
            match exchanged {
                Ok(Exchanged::Idle) => {}
                // Boxed, as is the wait for IDs: a task is as large as the largest of what it may come to, for as
                // long as it lives, and 8,000 idle connections shall cost little.
                Ok(Exchanged::Close { linger: true }) => return Box::pin(self.close()).await,
                Ok(Exchanged::Close { linger: false }) | Err(_) => return,
            }
        }
    }

    /// Answers what was received, and reads on until nothing is in hand. An error means that the client is gone, or
    /// reads too slowly.
    async fn exchange(&mut self, Buffers { input, output }: &mut Buffers) -> io::Result<Exchanged> {
        let mut late = false;
        loop {
            if !self.answer_all(input, output).await? {
                return Ok(Exchanged::Close { linger: true });
            }
            if self.end_of_input {
                return Ok(Exchanged::Close { linger: false });
            }
            if EMPTY_LINES.starts_with(input.rest()) {
                self.empty_line_bytes = input.rest().len() as u8;
                self.parser = Parser::default();
                return Ok(Exchanged::Idle);
            }
            let is_late = late && self.watch.is_expired();
            let received = if is_late { Received::TooLate } else { self.receive(input, output).await? };
            let answer = match received {
                Received::Bytes => None,
                Received::TooLate => Some(self.worker.exchange.borrow_mut().handler().too_slow()),
                Received::NoMemory => Some(self.refuse_for_memory()),
            };
            if let Some(answer) = answer {
                self.worker.exchange.borrow_mut().refuse(&self.parser, input.rest(), &answer, output);
                self.send(input, output).await?;
                return Ok(Exchanged::Close { linger: true });
            }
            // What had arrived when the time was over is looked at once more. What comes then is too late.
            late = self.watch.is_expired();
        }
    }

    /// Answers and sends until more input is needed. False when the last answer is sent.
    async fn answer_all(&mut self, input: &mut Input, output: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let progress = self.answer(input, output);
            self.send(input, output).await?;
            match progress {
                Progress::NeedInput => return Ok(true),
                Progress::Last => return Ok(false),
                Progress::Flush => self.end_turn(input, output).await,
                Progress::Wait(waiting, mut delivery) => {
                    let answer = if self.hold(input, output) {
                        Box::pin(self.await_ids(waiting)).await
                    } else {
                        delivery.keep_alive = false;
                        self.refuse_for_memory()
                    };
                    delivery.keep_alive &= !self.worker.is_draining();
                    let batch = self.worker.exchange.borrow_mut().encode(answer, delivery, output);
                    if let Some(batch) = batch {
                        Box::pin(self.send_batch(batch, delivery, input, output)).await?;
                    }
                    if !delivery.keep_alive {
                        self.send(input, output).await?;
                        return Ok(false);
                    }
                }
                Progress::Batch(batch, delivery) => {
                    Box::pin(self.send_batch(batch, delivery, input, output)).await?;
                    if !delivery.keep_alive {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Lets the worker's other connections have their turn. Not when there is no memory to set aside what is in hand: it is
    /// answered first.
    async fn end_turn(&mut self, input: &mut Input, output: &mut Vec<u8>) {
        self.budget = Budget::FULL;
        if self.hold(input, output) {
            tokio::task::yield_now().await;
        }
    }

    /// To be called before the connection waits with bytes in hand: has their memory counted. False when none is left, and
    /// it is more than a little.
    fn hold(&mut self, input: &mut Input, output: &mut Vec<u8>) -> bool {
        if self.hold_bytes(input.bytes.capacity() + output.capacity()) {
            return true;
        }
        input.shrink();
        output.shrink_to_fit();
        let needed = input.bytes.capacity() + output.capacity();
        needed <= UNCOUNTED_BYTES_MAX || self.hold_bytes(needed)
    }

    /// Has so many bytes counted in all; false when there are not so many left.
    fn hold_bytes(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held_bytes);
        let is_held = more == 0 || self.worker.memory.take(more);
        if is_held {
            self.held_bytes += more;
        }
        is_held
    }

    /// The answer to a request that there is no memory for.
    fn refuse_for_memory(&self) -> Answer {
        self.worker.memory.note_refusal();
        self.worker.exchange.borrow_mut().handler().no_memory()
    }

    fn give_back(&mut self) {
        if self.held_bytes > 0 {
            self.worker.memory.give_back(mem::take(&mut self.held_bytes));
        }
    }

    /// Sends a long answer, which is never whole in memory; as much work as a turn may be.
    async fn send_batch(
        &mut self,
        mut batch: LongBatch,
        delivery: Delivery,
        input: &mut Input,
        output: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.worker.exchange.borrow().encode_start(&batch, delivery, output);
        while batch.write_piece(output) {
            self.send(input, output).await?;
        }
        self.end_turn(input, output).await;
        Ok(())
    }

    /// Answers what is in hand, as far as it goes without waiting.
    fn answer(&mut self, input: &mut Input, output: &mut Vec<u8>) -> Progress {
        let worker = self.worker.clone();
        let mut exchange = worker.exchange.borrow_mut();
        while !input.is_empty() {
            if self.budget.is_spent() || output.len() >= OUTPUT_BYTES {
                return Progress::Flush;
            }
            let Input { bytes, consumed } = input;
            let rest = &mut bytes[*consumed..];
            match exchange.step(&mut self.parser, rest, consumed, output) {
                Step::Answered => self.begin_answer(),
                Step::Last => {
                    self.begin_answer();
                    return Progress::Last;
                }
                Step::Wait(waiting, delivery) => {
                    self.begin_answer();
                    return Progress::Wait(waiting, delivery);
                }
                Step::Batch(batch, delivery) => {
                    self.begin_answer();
                    return Progress::Batch(batch, delivery);
                }
                Step::NeedInput => {
                    self.begin_reading(input);
                    return Progress::NeedInput;
                }
                Step::Refused => return Progress::Last,
            }
        }
        Progress::NeedInput
    }

    /// A part of a request has arrived: the rest has to follow within the read timeout, however often this is called.
    /// Empty lines are no part of a request.
    fn begin_reading(&mut self, input: &Input) {
        if !self.reading && !EMPTY_LINES.starts_with(input.rest()) {
            self.reading = true;
            self.worker.begin(&self.watch, self.worker.limits.read_timeout);
        }
    }

    /// A whole request is taken from the input.
    fn begin_answer(&mut self) {
        self.budget.requests -= 1;
        // Idle, if this is the first request of an exchange.
        if mem::take(&mut self.reading) || self.watch.is_idle() {
            self.worker.begin_busy(&self.watch);
        }
    }

    async fn await_ids(&self, mut waiting: Box<Waiting>) -> Answer {
        let exchange = &self.worker.exchange;
        let limit = self.worker.service.api.limits.alloc_timeout;
        let answer =
            timeout(limit, poll_fn(|cx| exchange.borrow_mut().handler().poll(&mut waiting, cx))).await;
        answer.unwrap_or_else(|_| exchange.borrow_mut().handler().give_up(&waiting))
    }

    /// Waits for the next request.
    async fn readable(&mut self) -> Readable {
        let mut unsent = usize::MAX;
        loop {
            if let Some(ready) = self.readable_in_time().await {
                return if ready.is_ok() { Readable::Now } else { Readable::Never };
            }
            // What was sent may still be with the kernel. That is looked at now, when the write timeout has passed at least
            // once, as a look after each answer would cost each a system call.
            let before = mem::replace(&mut unsent, unsent_bytes(&self.stream));
            if unsent > 0 && unsent >= before {
                self.reset();
                return Readable::Never;
            }
            if !self.worker.remain_idle(&self.watch, unsent == 0) {
                return Readable::TooLate;
            }
        }
    }

    /// Waits for input; `None` when the deadline is over, and nothing has arrived by then.
    async fn readable_in_time(&mut self) -> Option<io::Result<()>> {
        let Self { stream, watch, budget, .. } = self;
        let ready = poll_fn(|cx| {
            if let Poll::Ready(ready) = stream.poll_read_ready(cx) {
                return Poll::Ready(Some(ready));
            }
            *budget = Budget::FULL;
            match watch.poll_expired(cx.waker()) {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await;
        match ready {
            // The kernel may know of bytes that the runtime has not been told of yet.
            None if unread_bytes(stream) > 0 => Some(stream.readable().await),
            ready => ready,
        }
    }

    /// Has the connection end with a reset: the kernel would keep what the client does not take for minutes otherwise.
    fn reset(&self) {
        // An error means that the client is gone already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Receives what there is. `None` when that is nothing: tokio says so only after a read that did not fill the
    /// buffer, so `readable` may be wrong once after one that did.
    async fn receive_at_once(&mut self, input: &mut Input) -> Option<io::Result<usize>> {
        input.make_room();
        let mut stream = (&mut self.stream).take(INPUT_BYTES as u64);
        let mut read = pin!(stream.read_buf(&mut input.bytes));
        let received = poll_fn(|cx| {
            Poll::Ready(match read.as_mut().poll(cx) {
                Poll::Ready(received) => Some(received),
                Poll::Pending => None,
            })
        });
        received.await.map(|received| received.inspect(|bytes| self.note_received(*bytes)))
    }

    /// Receives what there is, and waits for it if need be.
    async fn receive(&mut self, input: &mut Input, output: &mut Vec<u8>) -> io::Result<Received> {
        loop {
            let has_room = !input.is_full() || self.hold_bytes(REQUEST_BYTES_MAX + output.capacity());
            if !has_room || !self.hold(input, output) {
                return Ok(Received::NoMemory);
            }
            match self.readable_in_time().await {
                Some(ready) => ready?,
                None => return Ok(Received::TooLate),
            }
            if let Some(received) = self.receive_at_once(input).await {
                self.end_of_input = received? == 0;
                return Ok(Received::Bytes);
            }
        }
    }

    fn note_received(&mut self, bytes: usize) {
        self.worker.counters.received(bytes);
        self.budget.spend_bytes(bytes);
    }

    /// Sends all of `output`.
    async fn send(&mut self, input: &mut Input, output: &mut Vec<u8>) -> io::Result<()> {
        let mut sent = 0;
        while sent < output.len() {
            match self.stream.try_write(&output[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.worker.counters.sent(bytes);
                    sent += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // This may take a while: meanwhile nothing is kept that is not needed.
                    output.drain(..mem::take(&mut sent));
                    output.shrink_to_fit();
                    input.shrink();
                    if !self.hold(input, output) {
                        self.worker.memory.note_refusal();
                        self.reset();
                        return Err(io::ErrorKind::OutOfMemory.into());
                    }
                    self.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        output.clear();
        Ok(())
    }

    /// Waits until the client takes more; an error when there is no progress in time.
    async fn writable(&self) -> io::Result<()> {
        let (deadline, blocked_at) = (self.watch.deadline(), self.worker.now());
        let mut unacknowledged = unacknowledged_bytes(&self.stream);
        loop {
            self.worker.begin(&self.watch, self.worker.limits.write_timeout);
            let writable = poll_fn(|cx| match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(Some(ready)),
                Poll::Pending if self.watch.poll_expired(cx.waker()) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(writable) = writable.await {
                // Nothing was read meanwhile: a request that is under way has the time that it had left.
                let blocked = self.worker.now() - blocked_at;
                self.watch.set_deadline(deadline.saturating_add(blocked));
                return writable;
            }
            // The kernel calls a socket writable when a third of its buffer is free, which takes a slow reader long.
            let before = mem::replace(&mut unacknowledged, unacknowledged_bytes(&self.stream));
            if unacknowledged >= before {
                self.reset();
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Closes so that the last answer arrives: sends the end, then listens until the client has closed too.
    async fn close(mut self) {
        // An error means that the client is gone.
        if self.stream.shutdown().await.is_ok() {
            let time_max = self.worker.limits.read_timeout;
            let silence_max = LINGER_SILENCE_MAX.min(time_max);
            discard_until_closed(&self.stream, Linger { silence_max, time_max }).await;
        }
    }
}
