//! Where sessions are kept between calls, and how siblings take turns where the server grants them too few connections.
//!
//! An account may have as few as one connection. A sibling that is refused one joins a queue. While somebody queues, a
//! session is closed as soon as it is idle, and only the first of the queue connects: so everybody gets a turn. A session
//! is not handed over, because its owner may give it up after the call, for an answer that it did not ask for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use idalloc_core::sync::lock;

/// How long a session waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// The pause before the first in the queue tries again: a server takes a moment to count a closed connection out.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(2);

/// The longest such pause: others than our siblings may have the account's connections.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(100);

/// The place of one store's session while it is idle.
pub(super) struct Slot<S> {
    shared: Arc<Shared<S>>,
    id: u64,
}

/// What siblings share.
struct Shared<S> {
    state: Mutex<State<S>>,
    /// A session was closed, or somebody has left the queue.
    changed: Condvar,
    /// Has a copy in each session.
    open: Arc<()>,
    /// The log says it once.
    told_of_turns: Once,
}

struct State<S> {
    next_id: u64,
    idle: HashMap<u64, S>,
    /// Who waits for a turn, the first in front.
    queue: VecDeque<u64>,
}

/// A part of each session: as long as there is one, a sibling has a connection, or is about to.
pub(super) struct Open(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl<S> Slot<S> {
    pub(super) fn new() -> Slot<S> {
        let state = State { next_id: 1, idle: HashMap::new(), queue: VecDeque::new() };
        let shared = Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            open: Arc::new(()),
            told_of_turns: Once::new(),
        };
        Slot { shared: Arc::new(shared), id: 0 }
    }

    /// Another slot, which takes turns with this one.
    pub(super) fn sibling(&self) -> Slot<S> {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        Slot { shared: self.shared.clone(), id }
    }

    /// What was kept here, unless a sibling needed the connection.
    pub(super) fn take(&self) -> Option<S> {
        self.state().idle.remove(&self.id)
    }

    /// Keeps an idle session, or closes it if somebody waits for a turn.
    pub(super) fn keep(&self, session: S) {
        let mut state = self.state();
        let closed = if state.queue.is_empty() { state.idle.insert(self.id, session) } else { Some(session) };
        drop(state);
        if closed.is_some() {
            drop(closed);
            self.shared.changed.notify_all();
        }
    }

    /// To be made before a session, and to be part of it.
    pub(super) fn open(&self) -> Open {
        Open(self.shared.open.clone())
    }

    /// Whether there is a session here or at a sibling, idle or at work.
    pub(super) fn any_open(&self) -> bool {
        Arc::strong_count(&self.shared.open) > 1
    }

    /// Whether somebody waits for a turn, so that it is not ours.
    pub(super) fn is_queued_for(&self) -> bool {
        !self.state().queue.is_empty()
    }

    /// Waits for a turn and calls `connect` then, again as long as that returns `None`: the server grants no connection.
    /// `None` after `TURN_WAIT_MAX`.
    pub(super) fn connect_in_turn<T>(&self, mut connect: impl FnMut() -> Option<T>) -> Option<T> {
        self.shared.told_of_turns.call_once(|| {
            tracing::warn!("the account may not have as many connections as it takes: sessions take turns");
        });
        let deadline = Instant::now() + TURN_WAIT_MAX;
        self.state().queue.push_back(self.id);
        let _in_queue = InQueue(self);
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let (is_first, closed) = self.take_turn();
            drop(closed);
            if is_first && let Some(connected) = connect() {
                return Some(connected);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let state = self.state();
            let pause_max = if is_first { pause } else { left };
            let waited = self.shared.changed.wait_timeout(state, pause_max.min(left));
            let timed_out = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
            pause = if timed_out { (pause * 2).min(RETRY_PAUSE_MAX) } else { RETRY_PAUSE_MIN };
        }
    }

    /// Whether it is our turn; then an idle session of a sibling's, if there is one, has to go.
    fn take_turn(&self) -> (bool, Option<S>) {
        let mut state = self.state();
        if state.queue.front() != Some(&self.id) {
            return (false, None);
        }
        let idle = state.idle.keys().next().copied();
        (true, idle.and_then(|id| state.idle.remove(&id)))
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        lock(&self.shared.state)
    }
}

impl<S> Drop for Slot<S> {
    fn drop(&mut self) {
        let kept = self.take();
        drop(kept);
    }
}

struct InQueue<'a, S>(&'a Slot<S>);

impl<S> Drop for InQueue<'_, S> {
    fn drop(&mut self) {
        self.0.state().queue.retain(|id| *id != self.0.id);
        self.0.shared.changed.notify_all();
    }
}
