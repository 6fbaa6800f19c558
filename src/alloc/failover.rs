//! The guard against a failover: when another server answers than before, or the same after a new start, commits that it
//! acknowledged may be lost, also such as granted IDs to other nodes. From then on each row is raised, at its first
//! reservation, past everything that may have been granted of it.
//!
//! What a row owes is fixed when that is noticed: what is read of the new server later says nothing about what was lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{error, info, warn};

use super::readings::Readings;
use super::tag::Tag;
use super::watermark::Watermarks;
use crate::segment::IdRange;
use crate::store::TagRow;
use crate::store::server::{Continuity, Server};
use crate::sync::lock;

/// So many tags that are raised after one change of server are named in the log.
const RAISED_LOGGED_MAX: u64 = 20;

/// What is known of the server, and what rows owe since it is another.
pub(super) struct Failover {
    /// How far a row is raised beyond what was seen of it, in steps; `None`: every server is trusted.
    steps: Option<i64>,
    state: Mutex<State>,
    /// How often another server answered, or the same after a new start.
    changes: AtomicU64,
    /// How many rows were raised for that.
    raises: AtomicU64,
}

#[derive(Default)]
struct State {
    known: Option<Server>,
    /// The newest look that was compared with that.
    met: Option<Arc<Server>>,
    /// Counts the changes of this process.
    epoch: u64,
    /// The `max_id` from which each row is reserved next. A row that owes nothing is not in it.
    owed: HashMap<Box<str>, i64>,
    /// The new server's table was not read yet: it may have rows that were never read before.
    is_unread: bool,
    /// Rows that were raised since the newest change.
    raised: u64,
    /// The watermark file knows the server.
    is_durable: bool,
}

/// How much of the table was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All rows.
    Whole,
    /// Those that somebody asked for.
    Some,
}

/// What a reservation owes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debt {
    epoch: u64,
    /// The lowest ID that it may be granted; `None`: it owes nothing.
    pub owed: Option<i64>,
}

impl Failover {
    /// The guard, with what an earlier process has left in the watermark file.
    pub fn new(steps: Option<i64>, watermarks: &Watermarks) -> Self {
        let (known, owed) = match steps {
            Some(_) => watermarks.recall(),
            None => (None, HashMap::new()),
        };
        let state = State { known: known.as_deref().and_then(Server::from_text), owed, ..State::default() };
        Self { steps, state: Mutex::new(state), changes: AtomicU64::new(0), raises: AtomicU64::new(0) }
    }

    /// Whether every server is trusted.
    pub fn is_off(&self) -> bool {
        self.steps.is_none()
    }

    /// What a row of this step may lack at least, in IDs.
    pub fn margin(&self, step: i64) -> i64 {
        self.steps.unwrap_or(0).saturating_mul(step.max(1))
    }

    /// How far the log was when an earlier process last read the table.
    pub fn known_position(&self) -> Option<String> {
        lock(&self.state).known.as_ref().map(|known| known.position.to_text())
    }

    /// Takes note of the server that answers; `tags` are those that may have been granted from, with their steps. What
    /// rows owe is known when this returns.
    pub fn meet<'a>(
        &self,
        server: &Arc<Server>,
        tags: impl FnOnce() -> Vec<(&'a str, i64)>,
        readings: &Readings,
        watermarks: &Watermarks,
    ) {
        if self.is_off() {
            return;
        }
        let mut state = lock(&self.state);
        if state.met.as_ref().is_some_and(|met| Arc::ptr_eq(met, server)) {
            return;
        }
        let continuity = state.known.as_ref().map(|known| server.continues(known));
        state.met = Some(server.clone());
        match continuity {
            None => state.keep(server, Owed::Same, watermarks),
            Some(Continuity::Kept) => {
                let is_newer = |known: &Server| server.looked_at >= known.looked_at;
                if state.known.as_ref().is_some_and(is_newer) {
                    state.keep(server, Owed::Same, watermarks);
                }
            }
            Some(doubtful) => {
                self.changes.fetch_add(1, Relaxed);
                state.epoch += 1;
                (state.is_unread, state.raised) = (true, 0);
                let now = Instant::now();
                for (tag, step) in tags() {
                    let granted = watermarks.get(tag);
                    let margin = self.margin(step);
                    if let Some(expected) = readings.expected(tag, granted, margin, now) {
                        state.owe(tag, expected);
                    }
                }
                told(doubtful, state.known.as_ref(), server);
                state.keep(server, Owed::Changed, watermarks);
            }
        }
    }

    /// Takes note of the rows as `server` has them. After a change of server, those that were never read before owe as well.
    pub fn read(
        &self,
        server: &Arc<Server>,
        rows: &[TagRow],
        extent: Extent,
        readings: &Readings,
        watermarks: &Watermarks,
    ) {
        if self.is_off() {
            return;
        }
        let mut state = lock(&self.state);
        if !state.is_unread || !state.met.as_ref().is_some_and(|met| Arc::ptr_eq(met, server)) {
            return;
        }
        state.is_unread = extent == Extent::Some;
        let unread = rows.iter().filter(|row| readings.highest(&row.name).is_none());
        for row in unread {
            let base = watermarks.get(&row.name).unwrap_or(0).max(row.max_id).max(0);
            state.owe(&row.name, base.saturating_add(self.margin(row.step)));
        }
        state.keep(server, Owed::Changed, watermarks);
    }

    /// What the tag's next reservation owes.
    pub fn debt(&self, tag: &str) -> Debt {
        let state = lock(&self.state);
        Debt { epoch: state.epoch, owed: state.owed.get(tag).copied() }
    }

    /// A reservation that paid this debt was granted, and is durable in the watermark file.
    pub fn paid(&self, tag: &Tag, debt: Debt, granted: IdRange, watermarks: &Watermarks) {
        let mut state = lock(&self.state);
        if debt.epoch != state.epoch {
            // The server that granted it has been left since: what it granted may be lost as well.
            state.owe(tag.name(), granted.end.saturating_add(self.margin(tag.step())));
            state.is_durable = false;
            return;
        }
        let Some(owed) = debt.owed else { return };
        state.owed.remove(tag.name());
        watermarks.forget_debt(tag.name());
        state.raised += 1;
        self.raises.fetch_add(1, Relaxed);
        if state.raised <= RAISED_LOGGED_MAX {
            info!(
                tag = tag.name(),
                owed,
                first = granted.start,
                "after the change of server, the tag goes on here"
            );
        }
        if state.raised == RAISED_LOGGED_MAX {
            info!("more tags that go on elsewhere are only counted");
        }
    }

    /// How often another server answered, and how many rows were raised for that.
    pub fn counts(&self) -> (u64, u64) {
        (self.changes.load(Relaxed), self.raises.load(Relaxed))
    }
}

/// Whether what rows owe is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owed {
    Same,
    Changed,
}

impl State {
    fn owe(&mut self, tag: &str, first_allowed: i64) {
        let owed = self.owed.entry(tag.into()).or_insert(first_allowed);
        *owed = first_allowed.max(*owed);
    }

    /// Remembers the server, and what rows owe. Until that is durable, the next start finds the old server in the file,
    /// and begins anew.
    fn keep(&mut self, server: &Arc<Server>, owed: Owed, watermarks: &Watermarks) {
        let text = server.to_text();
        let before = self.known.replace((**server).clone());
        let is_same = before.is_some_and(|before| before.to_text() == text);
        if owed == Owed::Same && is_same && self.is_durable {
            return;
        }
        let with_owed = owed == Owed::Changed || !self.is_durable;
        self.is_durable = watermarks.remember(&text, with_owed.then_some(&self.owed));
    }
}

fn told(continuity: Continuity, known: Option<&Server>, server: &Server) {
    let before = known.map(|known| known.id.as_str()).unwrap_or_default();
    let seen = known.map(|known| known.position.to_text()).unwrap_or_default();
    match continuity {
        Continuity::Lost => error!(
            before,
            server = server.id,
            seen,
            position = server.position.to_text(),
            "the database has lost commits that it had acknowledged: every tag goes on past all that may have been granted"
        ),
        Continuity::Doubtful | Continuity::Kept => warn!(
            before,
            server = server.id,
            "another database server answers, or it was started anew, and may have lost commits: every tag goes on past all \
             that may have been granted"
        ),
    }
}
