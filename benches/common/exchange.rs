//! From bytes to bytes, as a worker of the default engine does it, without a socket.

use std::sync::Arc;

use idalloc::alloc::Allocator;
use idalloc::http::exchange::Step;
use idalloc::http::handler::{Handler, Service};
use idalloc::http::request::Parser;

use super::{endless_allocator, load};

/// The tag that requests ask for.
pub const TAG: &str = "tag-0";

/// One worker's state, and one connection's.
pub struct Exchange {
    // Its threads live as long as it does.
    _allocator: Allocator,
    exchange: idalloc::http::exchange::Exchange,
    parser: Parser,
    output: Vec<u8>,
}

impl Exchange {
    pub fn new() -> Exchange {
        let allocator = endless_allocator(1);
        let mut handle = allocator.handle();
        load(&mut handle, TAG);
        let handler = Handler::new(handle, Arc::new(Service::default()));
        Exchange {
            _allocator: allocator,
            exchange: idalloc::http::exchange::Exchange::new(handler),
            parser: Parser::default(),
            output: Vec::with_capacity(64 * 1024),
        }
    }

    /// Answers every request of `input`, and returns the answers.
    pub fn answer(&mut self, input: &mut [u8]) -> &[u8] {
        self.output.clear();
        let mut consumed = 0;
        while consumed < input.len() {
            let rest = &mut input[consumed..];
            match self.exchange.step(&mut self.parser, rest, &mut consumed, &mut self.output) {
                Step::Answered | Step::Last => {}
                Step::Batch(mut batch, delivery) => {
                    self.exchange.encode_start(&batch, delivery, &mut self.output);
                    let mut piece = Vec::new();
                    while batch.write_piece(&mut piece) {
                        self.output.append(&mut piece);
                    }
                }
                Step::Wait(..) | Step::NeedInput | Step::Refused => {
                    panic!("whole requests, and there are IDs")
                }
            }
        }
        &self.output
    }
}

/// The requests that the benches send, by name: (name, requests in it, bytes).
pub fn traffic() -> Vec<(&'static str, u64, String)> {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:8880\r\n\r\n");
    let alloc = get(&format!("/alloc?app_tag={TAG}"));
    let browser = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101\r\nAccept: */*\r\n\
                   Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\r\n";
    let wordy = alloc.trim_end().to_owned() + "\r\n" + browser;
    let form = format!("app_tag={TAG}");
    let post = format!(
        "POST /alloc HTTP/1.1\r\nHost: 127.0.0.1:8880\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    vec![
        ("the same GET again", 1, alloc.clone()),
        ("the same GET again, 16 deep", 16, alloc.repeat(16)),
        // Each is another than the one before, so each is parsed.
        ("another GET each time", 2, alloc.clone() + &wordy),
        ("a POST with a form", 1, post),
        ("a batch of 1000", 1, get(&format!("/alloc?app_tag={TAG}&count=1000"))),
        ("a malformed tag", 1, get("/alloc?app_tag=")),
    ]
}
