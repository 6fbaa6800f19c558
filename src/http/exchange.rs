//! From bytes to bytes, without a socket: what a client sent becomes what it gets back. An engine moves the bytes, and
//! keeps time; the benches and tests need neither.

use std::time::SystemTime;

use super::fast_path::{Memo, Shortcut, may_remember};
use super::handler::{Handler, Reply, Waiting};
use super::request::{Parsed, Parser};
use super::response::{Answer, Delivery, Encoder, LongBatch};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the connections of one worker share.
pub struct Exchange {
    handler: Handler,
    encoder: Encoder,
    memo: Memo<Shortcut>,
}

/// What [`Exchange::step`] came to.
pub enum Step {
    /// The next request is answered.
    Answered,
    /// The next request is answered, and that is the last answer of its connection.
    Last,
    /// The answer to the next request has to wait for IDs.
    Wait(Box<Waiting>, Delivery),
    /// The answer to the next request is sent in pieces.
    Batch(LongBatch, Delivery),
    /// More bytes are needed.
    NeedInput,
    /// The next request is refused before it is whole, with the last answer of its connection.
    Refused,
}

/// What the request comes to that the worker remembers. Not a part of [`Step`]: 64 requests deep, a single ID that is passed
/// on in as large a value takes 58 ns of user time and not 48.
enum Recalled {
    /// This ID, in a plain answer.
    Single(i64),
    Other(Reply, Delivery),
}

impl Exchange {
    /// An exchange that answers by `handler`.
    pub fn new(handler: Handler) -> Self {
        Self { handler, encoder: Encoder::new(), memo: Memo::default() }
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut Handler {
        &mut self.handler
    }

    /// Sets the time that answers are dated with.
    pub fn set_date(&mut self, now: SystemTime) {
        self.encoder.set_date(now);
    }

    /// Has the request answered that starts `input`, and adds to `consumed` what it takes of that. `parser` is the
    /// connection's, and remembers what it has seen of a request that is not whole.
    #[inline]
    pub fn step(
        &mut self,
        parser: &mut Parser,
        input: &mut [u8],
        consumed: &mut usize,
        output: &mut Vec<u8>,
    ) -> Step {
        match self.recalled(parser, input, consumed) {
            Some(Recalled::Single(id)) => {
                self.encoder.encode_id(id, output);
                return Step::Answered;
            }
            Some(Recalled::Other(reply, delivery)) => return self.answer(reply, delivery, output),
            None => {}
        }
        match parser.parse(input) {
            Ok(Parsed::Complete { request, bytes }) => {
                *consumed += bytes.len();
                if may_remember(self.handler.service()) {
                    self.memo.keep(bytes, &request);
                }
                let delivery = self.handler.service().delivery(&request);
                let reply = self.handler.handle(&request);
                self.answer(reply, delivery, output)
            }
            Ok(Parsed::Partial { expects_continue }) => {
                self.wait_for_rest(parser, input, expects_continue, output)
            }
            Err(reject) => {
                let answer = self.handler.rejected(reject);
                self.refuse(parser, input, &answer, output);
                Step::Refused
            }
        }
    }

    /// Has the next request answered, if it is the one that the worker remembers.
    #[inline]
    fn recalled(&mut self, parser: &Parser, input: &[u8], consumed: &mut usize) -> Option<Recalled> {
        if !parser.is_fresh() {
            return None;
        }
        let (remembered, shortcut, length) = self.memo.recall(input)?;
        *consumed += length;
        Some(match self.handler.take_single(|| remembered.request(), shortcut) {
            Some(id) => Recalled::Single(id),
            None => {
                let request = remembered.request();
                let delivery = self.handler.service().delivery(&request);
                Recalled::Other(self.handler.handle(&request), delivery)
            }
        })
    }

    /// A request is not whole: refuses it if its body must not be taken, and has the client go on otherwise.
    fn wait_for_rest(
        &mut self,
        parser: &Parser,
        input: &[u8],
        expects_continue: bool,
        output: &mut Vec<u8>,
    ) -> Step {
        let refusal = parser.head(input).and_then(|(head, bytes)| self.handler.refuse_body(&head, bytes));
        if let Some(answer) = refusal {
            self.refuse(parser, input, &answer, output);
            return Step::Refused;
        }
        if expects_continue {
            output.extend_from_slice(CONTINUE);
        }
        Step::NeedInput
    }

    #[inline]
    fn answer(&mut self, reply: Reply, delivery: Delivery, output: &mut Vec<u8>) -> Step {
        match reply {
            Reply::Now(answer @ Answer::Ids(_)) => {
                if let Some(batch) = self.encode(answer, delivery, output) {
                    return Step::Batch(batch, delivery);
                }
            }
            Reply::Now(answer) => self.encoder.encode(&answer, delivery, output),
            Reply::Later(waiting) => return Step::Wait(waiting, delivery),
        }
        if delivery.keep_alive { Step::Answered } else { Step::Last }
    }

    /// Writes the answer, unless it is a batch that is to be sent in pieces: that is returned.
    pub fn encode(&mut self, answer: Answer, delivery: Delivery, output: &mut Vec<u8>) -> Option<LongBatch> {
        match LongBatch::of(answer) {
            Ok(batch) => Some(batch),
            Err(answer) => {
                self.encoder.encode(&answer, delivery, output);
                None
            }
        }
    }

    /// Writes the start of a long answer.
    pub fn encode_start(&self, batch: &LongBatch, delivery: Delivery, output: &mut Vec<u8>) {
        self.encoder.encode_start(batch, delivery, output);
    }

    /// Writes the last answer of a connection, to the request that starts `input` and is not whole.
    pub fn refuse(&mut self, parser: &Parser, input: &[u8], answer: &Answer, output: &mut Vec<u8>) {
        let head = parser.head(input);
        let cors = head.and_then(|(head, _)| self.handler.service().gate.cors(&head));
        let delivery = Delivery { head_only: parser.is_head(input), cors, ..Delivery::LAST };
        self.encoder.encode(answer, delivery, output);
    }
}
