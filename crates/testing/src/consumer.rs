//! A client that enters every ID that it gets, and goes on when there are none for a while.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::server::{Client, PATIENCE};

/// What a request may ask for.
const BATCH_MAX: i64 = 10_000;
/// Before it asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// A client of one server, for one tag.
pub struct Consumer<'a> {
    client: Client,
    port: u16,
    tag: &'a str,
    ledger: &'a Ledger,
}

impl<'a> Consumer<'a> {
    pub fn new(port: u16, tag: &'a str, ledger: &'a Ledger) -> Consumer<'a> {
        Consumer { client: Client::connect(port), port, tag, ledger }
    }

    /// Takes so many IDs, however long the database is away. Says why if the tag is fenced.
    pub fn take(&mut self, count: i64) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let target = format!("/alloc?app_tag={}&count={count}", self.tag);
        loop {
            let answer = self.client.get(&target);
            match answer.status {
                200 => {
                    for ids in ranges(&answer.ids()) {
                        self.ledger.enter(ids, &format!("the server at {}", self.port));
                    }
                    return Ok(());
                }
                503 if answer.body.contains("max_id") => return Err(answer.body),
                // The row may be on its way to the listing.
                _ => assert!(Instant::now() < deadline, "{answer:?}"),
            }
            if answer.headers.get("connection").is_some_and(|value| value == "close") {
                self.client = Client::connect(self.port);
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// Takes what the server has in memory, and so many IDs more.
    pub fn use_up(&mut self, more: i64) -> Result<(), String> {
        let health = self.client.get(&format!("/health?app_tag={}", self.tag));
        // 503: not before it has been granted some.
        let left = if health.status == 200 { health.json()["left"].as_i64().expect("a number") } else { 0 };
        let mut rest = left + more;
        while rest > 0 {
            let count = rest.min(BATCH_MAX);
            self.take(count)?;
            rest -= count;
        }
        Ok(())
    }
}

/// Ascending IDs as ranges.
fn ranges(ids: &[i64]) -> Vec<Range<i64>> {
    let adjoining = ids.chunk_by(|a, b| a + 1 == *b);
    adjoining.map(|ids| ids[0]..ids[ids.len() - 1] + 1).collect()
}
