//! The guard against a failover: when another server answers than before, or the same after a new start, commits that it
//! acknowledged may be lost, also such as granted IDs to other nodes. From then on each row is raised, at its first
//! reservation, past everything that may have been granted of it.
//!
//! What a row owes is fixed when that is noticed: what is read of the new server later says nothing about what was lost.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{error, info, warn};

use crate::bounds::{STEP_MAX, reservation_max};
use crate::readings::Readings;
use crate::segment::IdRange;
use crate::store::server::{Continuity, Server};
use crate::store::{Floor, TagRow};
use crate::sync::lock;
use crate::tag::Tag;
use crate::watermark::{WatermarkError, Watermarks};

/// So many tags that are raised after one change of server are named in the log.
const RAISED_LOGGED_MAX: u64 = 20;

/// What is known of the server, and what rows owe since it is another.
pub(crate) struct Failover {
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
    /// The new server's table was not read yet: a row of it owes, be it known or not, unless it is in `paid`.
    is_unread: bool,
    /// The rows that were raised since the newest change, as long as `is_unread`.
    paid: HashSet<Box<str>>,
    /// Rows that were raised since the newest change.
    raised: u64,
    /// The server that the watermark file was last given, as text.
    remembered: String,
    /// The watermark file has that, and what rows owe.
    is_durable: bool,
}

/// What [`Failover::meet`] makes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// It may be used.
    Current,
    /// It is with a server that others have found replaced since the session looked.
    Left,
}

/// How much of the table was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All rows.
    Whole,
    /// Those that somebody asked for.
    Some,
}

/// What a reservation owes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Debt {
    epoch: u64,
    /// The lowest ID that it may be granted; `None`: it owes nothing.
    pub owed: Option<i64>,
}

impl Failover {
    /// The guard, with what an earlier process has left in the watermark file.
    pub fn new(steps: Option<i64>, watermarks: &Watermarks) -> Self {
        let state = if steps.is_some() { State::recalled(watermarks) } else { State::default() };
        Self { steps, state: Mutex::new(state), changes: AtomicU64::new(0), raises: AtomicU64::new(0) }
    }

    /// Has the watermarks found under every spelling of the table's name, and what an earlier process has left under another
    /// one. To be called before any server was met: what was noted by then is forgotten.
    pub fn ignore_case(&self, watermarks: &Watermarks) -> Result<(), WatermarkError> {
        watermarks.ignore_case()?;
        if !self.is_off() {
            *lock(&self.state) = State::recalled(watermarks);
        }
        Ok(())
    }

    /// Whether every server is trusted.
    pub fn is_off(&self) -> bool {
        self.steps.is_none()
    }

    /// What a row of this step, of which the IDs below `highest` may be granted, may lack at least, in IDs. Like a
    /// reservation, it is a small part of what is left: FailoverSteps times a step, both as large as may be, is a tenth.
    fn margin(&self, step: i64, highest: i64) -> i64 {
        // A row's step is what somebody wrote: one that is too large is mended later, and must not use up the tag.
        let step = step.clamp(1, STEP_MAX);
        self.steps.unwrap_or(0).saturating_mul(step).min(reservation_max(highest, step))
    }

    /// From where a reservation that owes this is granted; the tag was granted IDs up to `granted`.
    pub fn floor(&self, debt: Debt, step: i64, granted: i64) -> Floor {
        match debt.owed {
            Some(owed) => {
                let first_allowed = owed.max(granted);
                Floor::Leap { first_allowed, ahead: self.margin(step, first_allowed) }
            }
            None => Floor::Refuse(granted),
        }
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
    ) -> Met {
        if self.is_off() {
            return Met::Current;
        }
        let mut state = lock(&self.state);
        if state.met.as_ref().is_some_and(|met| Arc::ptr_eq(met, server)) {
            return Met::Current;
        }
        let continuity = state.known.as_ref().map(|known| server.continues(known));
        let is_newer = state.known.as_ref().is_none_or(|known| server.is_newer_than(known));
        match continuity {
            // Nothing changes back by it: each session that is as old would make all rows owe once more.
            Some(Continuity::Doubtful | Continuity::Lost) if !is_newer => return Met::Left,
            None | Some(Continuity::Kept) => {
                state.met = Some(server.clone());
                if is_newer {
                    state.keep(server, Owed::Same, watermarks);
                }
            }
            Some(doubtful) => {
                state.met = Some(server.clone());
                self.changes.fetch_add(1, Relaxed);
                state.epoch += 1;
                (state.is_unread, state.raised) = (true, 0);
                state.paid.clear();
                let now = Instant::now();
                for (tag, step) in tags() {
                    let granted = watermarks.get(tag).unwrap_or(0);
                    if let Some(expected) = self.expected(tag, step, granted, readings, now) {
                        state.owe(tag, expected);
                    }
                }
                told(doubtful, state.known.as_ref(), server);
                state.keep(server, Owed::Changed, watermarks);
            }
        }
        Met::Current
    }

    /// Past everything that may have been granted of a row of this step by now; `None`: it was never read.
    fn expected(&self, tag: &str, step: i64, granted: i64, readings: &Readings, now: Instant) -> Option<i64> {
        readings.expected(tag, granted, |highest| self.margin(step, highest), now)
    }

    /// What a row owes that nobody has met since the newest change, and of which the IDs below `granted` may be granted.
    fn owed_if_new(&self, tag: &str, step: i64, granted: i64, readings: &Readings) -> i64 {
        let expected = self.expected(tag, step, granted, readings, Instant::now());
        expected.unwrap_or_else(|| granted.saturating_add(self.margin(step, granted)))
    }

    /// Takes note of the rows as `server` has them. After a change of server, those that did not owe then owe as well. What
    /// was read of them before is in `readings`.
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
        if !state.is_unread {
            return;
        }
        for row in rows {
            if state.is_new(&row.name) {
                let base = watermarks.get(&row.name).unwrap_or(0).max(row.max_id).max(0);
                state.owe(&row.name, self.owed_if_new(&row.name, row.step, base, readings));
            }
        }
        // Others may have met another server while this one was read.
        if extent == Extent::Whole && state.met.as_ref().is_some_and(|met| met.is(server)) {
            (state.is_unread, state.paid) = (false, HashSet::new());
        }
        state.keep(server, Owed::Changed, watermarks);
    }

    /// What the tag's next reservation owes; it was granted IDs up to `granted`.
    pub fn debt(&self, tag: &Tag, granted: i64, readings: &Readings) -> Debt {
        let state = lock(&self.state);
        let owed = match state.is_new(tag.name()) {
            true => Some(self.owed_if_new(tag.name(), tag.step(), granted, readings)),
            false => state.owed.get(tag.name()).copied(),
        };
        Debt { epoch: state.epoch, owed }
    }

    /// The lowest ID that the tag's next reservation may be granted of a row at `max_id`; it was granted IDs up to `granted`.
    pub fn first_grantable(&self, tag: &Tag, max_id: i64, granted: i64, readings: &Readings) -> i64 {
        match self.floor(self.debt(tag, granted, readings), tag.step(), granted) {
            Floor::Leap { first_allowed, ahead } => first_allowed.max(max_id.saturating_add(ahead)),
            Floor::Refuse(_) | Floor::Raise(_) => max_id,
        }
    }

    /// A reservation that paid this debt was granted, and is durable in the watermark file.
    pub fn paid(&self, tag: &Tag, debt: Debt, granted: IdRange, watermarks: &Watermarks) {
        let mut state = lock(&self.state);
        if debt.epoch != state.epoch {
            // The server that granted it has been left since: what it granted may be lost as well.
            state.owe(tag.name(), granted.end.saturating_add(self.margin(tag.step(), granted.end)));
            state.is_durable = false;
            return;
        }
        let Some(owed) = debt.owed else { return };
        state.owed.remove(tag.name());
        if state.is_unread {
            state.paid.insert(tag.name().into());
        }
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
    /// What an earlier process has left in the watermark file.
    fn recalled(watermarks: &Watermarks) -> State {
        let (known, owed) = watermarks.recall();
        State {
            known: known.as_deref().and_then(Server::from_text),
            owed,
            remembered: known.unwrap_or_default(),
            ..State::default()
        }
    }

    fn owe(&mut self, tag: &str, first_allowed: i64) {
        let owed = self.owed.entry(tag.into()).or_insert(first_allowed);
        *owed = first_allowed.max(*owed);
    }

    /// Whether the row owes because nobody has met it since the newest change.
    fn is_new(&self, tag: &str) -> bool {
        self.is_unread && !self.owed.contains_key(tag) && !self.paid.contains(tag)
    }

    /// Remembers the server, and what rows owe. Until that is durable, and the new server's table was read, the next start
    /// finds the old server in the file, and begins anew.
    fn keep(&mut self, server: &Arc<Server>, owed: Owed, watermarks: &Watermarks) {
        if self.known.as_ref().is_none_or(|known| server.is_newer_than(known)) {
            self.known = Some((**server).clone());
        }
        let text = match &self.known {
            Some(known) if !self.is_unread => known.to_text(),
            _ => self.remembered.clone(),
        };
        if owed == Owed::Same && text == self.remembered && self.is_durable {
            return;
        }
        let with_owed = owed == Owed::Changed || !self.is_durable;
        self.is_durable = watermarks.remember(&text, with_owed.then_some(&self.owed));
        self.remembered = text;
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::Disk;
    use crate::sizing::Policy;
    use crate::store::server::Position;

    const STEPS: i64 = 10;
    const STEP: i64 = 100;
    const MARGIN: i64 = STEPS * STEP;

    /// A look at the server of this name, now.
    fn look(name: &str) -> Arc<Server> {
        let now = Some(Instant::now());
        Arc::new(Server {
            id: name.to_owned(),
            node: String::new(),
            started_s: Some(1),
            uptime: Duration::from_secs(100),
            position: Position::Unknown,
            began_at: now,
            looked_at: now,
        })
    }

    fn tag(name: &str) -> Tag {
        Tag::new(name, STEP, Policy::default(), Instant::now())
    }

    fn row(name: &str, max_id: i64) -> TagRow {
        TagRow { name: name.to_owned(), step: STEP, max_id }
    }

    struct Node {
        failover: Failover,
        readings: Readings,
        watermarks: Watermarks,
    }

    impl Node {
        fn new(watermarks: Watermarks) -> Self {
            let failover = Failover::new(Some(STEPS), &watermarks);
            Self { failover, readings: Readings::default(), watermarks }
        }

        fn meet(&self, server: &Arc<Server>, known: &[&'static str]) -> Met {
            let tags = || known.iter().map(|tag| (*tag, STEP)).collect();
            self.failover.meet(server, tags, &self.readings, &self.watermarks)
        }

        fn read(&self, server: &Arc<Server>, rows: &[TagRow], extent: Extent) {
            self.failover.read(server, rows, extent, &self.readings, &self.watermarks);
            self.readings.note(rows.iter().map(|row| (row.name.as_str(), row.max_id)), Instant::now());
        }

        fn owed(&self, name: &str) -> Option<i64> {
            self.failover.debt(&tag(name), 0, &self.readings).owed
        }

        fn pay(&self, name: &str) {
            let debt = self.failover.debt(&tag(name), 0, &self.readings);
            let start = debt.owed.expect("it owes");
            let granted = IdRange { start, end: start + STEP };
            self.failover.paid(&tag(name), debt, granted, &self.watermarks);
        }
    }

    #[test]
    fn a_session_with_a_server_that_was_left_does_not_make_it_the_one_again() {
        let node = Node::new(Watermarks::default());
        let (first, second) = (look("first"), look("second"));
        assert_eq!(node.meet(&first, &[]), Met::Current);
        assert_eq!(node.meet(&second, &[]), Met::Current);
        assert_eq!(node.meet(&first, &[]), Met::Left);
        assert_eq!((node.meet(&second, &[]), node.failover.counts().0), (Met::Current, 1));
        assert_eq!(node.meet(&look("first"), &[]), Met::Current, "this one has asked since");
        assert_eq!(node.failover.counts().0, 2);
    }

    #[test]
    fn a_row_owes_whoever_met_the_new_server_first_and_whenever_it_was_first_read() {
        let node = Node::new(Watermarks::default());
        let first = look("first");
        node.meet(&first, &[]);
        node.read(&first, &[row("known", 5000)], Extent::Whole);
        assert_eq!(node.owed("known"), None);
        // Another session meets the second server while these rows, one of them new, are on their way from the first.
        let (second, another_session) = (look("second"), look("second"));
        node.meet(&second, &["known"]);
        node.read(&first, &[row("known", 5000), row("new", 7000)], Extent::Whole);
        assert_eq!(node.owed("known"), Some(5000 + MARGIN));
        assert_eq!(node.owed("new"), Some(7000 + MARGIN));
        assert_eq!(node.owed("never read"), Some(MARGIN));
        ["known", "new"].iter().for_each(|tag| node.pay(tag));
        let rows = [row("known", 3000), row("new", 3000), row("newest", 3000)];
        node.meet(&another_session, &[]);
        node.read(&second, &rows, Extent::Whole);
        assert_eq!(["known", "new", "newest"].map(|tag| node.owed(tag)), [None, None, Some(3000 + MARGIN)]);
        assert_eq!(node.owed("added later"), None);
    }

    /// As one that a listing has just found, or whose row was gone for a moment.
    #[test]
    fn a_row_that_was_not_among_the_tags_at_the_change_owes_what_was_read_of_it() {
        let node = Node::new(Watermarks::default());
        let (first, second) = (look("first"), look("second"));
        node.meet(&first, &[]);
        node.read(&first, &[row("a", 5000), row("b", 5000)], Extent::Whole);
        node.meet(&second, &[]);
        assert_eq!(node.owed("a"), Some(5000 + MARGIN), "before the new server's table was read");
        node.read(&second, &[row("b", 3000)], Extent::Some);
        assert_eq!(node.owed("b"), Some(5000 + MARGIN), "after it was");
    }

    #[test]
    fn what_was_paid_to_a_server_that_was_left_is_owed_to_the_next() {
        let node = Node::new(Watermarks::default());
        let (first, second, third) = (look("first"), look("second"), look("third"));
        node.meet(&first, &[]);
        node.read(&first, &[row("a", 5000)], Extent::Whole);
        node.meet(&second, &["a"]);
        let debt = node.failover.debt(&tag("a"), 0, &node.readings);
        // While the reservation is on its way.
        node.meet(&third, &["a"]);
        let granted = IdRange { start: 5000 + MARGIN, end: 5000 + MARGIN + STEP };
        node.failover.paid(&tag("a"), debt, granted, &node.watermarks);
        assert_eq!(node.owed("a"), Some(granted.end + MARGIN));
    }

    #[test]
    fn a_restart_before_the_new_servers_table_was_read_begins_anew() {
        let disk = Disk::default();
        let open = || Node::new(disk.open("table"));
        let node = open();
        node.meet(&look("first"), &[]);
        node.meet(&look("second"), &[]);
        drop(node);
        let node = open();
        let second = look("second");
        node.meet(&second, &[]);
        assert_eq!((node.failover.counts().0, node.owed("tag")), (1, Some(MARGIN)));
        node.read(&second, &[row("tag", 50)], Extent::Whole);
        drop(node);
        let node = open();
        node.meet(&look("second"), &[]);
        assert_eq!((node.failover.counts().0, node.owed("tag")), (0, Some(50 + MARGIN)));
    }

    #[test]
    fn what_was_left_under_another_spelling_of_the_table_counts() {
        let disk = Disk::default();
        let open = |scope| Node::new(disk.open(scope));
        let node = open("Orders");
        node.meet(&look("first"), &[]);
        let second = look("second");
        node.meet(&second, &[]);
        node.read(&second, &[row("tag", 50), row("other", 70)], Extent::Whole);
        drop(node);
        let node = open("Orders");
        node.failover.ignore_case(&node.watermarks).unwrap();
        node.meet(&look("second"), &[]);
        assert_eq!((node.failover.counts().0, node.owed("tag")), (0, Some(50 + MARGIN)));
        node.pay("tag");
        node.meet(&look("third"), &[]);
        assert_eq!((node.failover.counts().0, node.owed("new")), (1, Some(MARGIN)), "the server was known");
        drop(node);
        let node = open("orders");
        assert_eq!(node.owed("other"), Some(70 + MARGIN), "what is remembered later takes no debt away");
    }

    #[test]
    fn a_change_of_server_takes_a_small_part_of_what_is_left_or_a_step() {
        let watermarks = Watermarks::default();
        let failover = Failover::new(Some(1_000_000_000), &watermarks);
        assert_eq!(failover.margin(5, 0), 5_000_000_000);
        assert_eq!(failover.margin(STEP_MAX, 0), i64::MAX / 1000);
        assert_eq!(failover.margin(i64::MAX, 0), i64::MAX / 1000, "a step that is to be mended");
        assert_eq!(failover.margin(0, 0), 1_000_000_000);
        assert_eq!(failover.margin(10, i64::MAX - 50_000), 50);
        assert_eq!(failover.margin(10, i64::MAX - 50), 10);
        let node = Node { failover, readings: Readings::default(), watermarks };
        let (first, second) = (look("first"), look("second"));
        node.meet(&first, &[]);
        let rows = ["known", "new"].map(|name| TagRow { step: STEP_MAX, ..row(name, 0) });
        node.read(&first, &rows[..1], Extent::Whole);
        node.failover.meet(&second, || vec![("known", STEP_MAX)], &node.readings, &node.watermarks);
        node.read(&second, &rows, Extent::Whole);
        for row in &rows {
            let tag = Tag::new(&row.name, STEP_MAX, Policy::default(), Instant::now());
            let debt = node.failover.debt(&tag, 0, &node.readings);
            let part = i64::MAX / 1000;
            assert_eq!(debt.owed, Some(part), "{}", row.name);
            let floor = node.failover.floor(debt, STEP_MAX, 0);
            assert_eq!(floor, Floor::Leap { first_allowed: part, ahead: (i64::MAX - part) / 1000 });
        }
    }
}
