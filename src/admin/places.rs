//! Places for the port's connections: some for operators, who have shown who they are, and some for strangers.
//!
//! Whoever comes is a stranger and finds a place: if there is none, the stranger loses its place that has been silent for
//! the longest time. So nobody keeps probes out by connections alone. A stranger whose request may see more than probes do
//! becomes an operator; operators are never closed for others, and cannot take the strangers' places.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::episode::Recurrence;
use crate::sync::lock;

/// The most connections of each kind.
const STRANGERS_MAX: usize = 64;
pub(super) const OPERATORS_MAX: usize = 64;
/// The most connections.
pub(super) const CONNECTIONS_MAX: usize = STRANGERS_MAX + OPERATORS_MAX;

/// All places.
pub(super) struct Places {
    /// By the order in which they came.
    strangers: Mutex<BTreeMap<u64, Stranger>>,
    operators: Arc<Semaphore>,
    next_number: AtomicU64,
    /// Connections of strangers that were closed for others.
    strangers_closed: AtomicU64,
    /// Requests that would have made one operator more than there are places.
    operators_refused: AtomicU64,
    closing: Mutex<Recurrence>,
}

struct Stranger {
    /// A request of it is being answered. If not, it is silent, even in the middle of a request's head.
    is_answered: bool,
    close: Arc<Notify>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            strangers: Mutex::default(),
            operators: Arc::new(Semaphore::new(OPERATORS_MAX)),
            next_number: AtomicU64::new(0),
            strangers_closed: AtomicU64::new(0),
            operators_refused: AtomicU64::new(0),
            closing: Mutex::default(),
        }
    }
}

impl Places {
    /// A place for a connection that has just come.
    pub fn enter(self: &Arc<Self>) -> Arc<Place> {
        let number = self.next_number.fetch_add(1, Relaxed);
        let close = Arc::new(Notify::new());
        let mut strangers = lock(&self.strangers);
        if strangers.len() >= STRANGERS_MAX {
            self.close_one(&mut strangers);
        }
        strangers.insert(number, Stranger { is_answered: false, close: close.clone() });
        drop(strangers);
        Arc::new(Place { places: self.clone(), number, close, as_operator: OnceLock::new() })
    }

    /// Closes the oldest silent stranger, or the oldest of all if each is being answered.
    fn close_one(&self, strangers: &mut BTreeMap<u64, Stranger>) {
        let silent = strangers.iter().find(|(_, stranger)| !stranger.is_answered);
        let Some(number) = silent.or_else(|| strangers.iter().next()).map(|(number, _)| *number) else {
            return;
        };
        if let Some(stranger) = strangers.remove(&number) {
            stranger.close.notify_one();
        }
        self.strangers_closed.fetch_add(1, Relaxed);
        if let Some(closed) = lock(&self.closing).happens(Instant::now()) {
            warn!(
                closed,
                connections = STRANGERS_MAX,
                "too many connections to the operator's port have not shown a token: the oldest silent ones are closed"
            );
        }
    }

    /// Connections that ever came.
    pub fn entered(&self) -> u64 {
        self.next_number.load(Relaxed)
    }

    pub fn strangers(&self) -> usize {
        lock(&self.strangers).len()
    }

    pub fn operators(&self) -> usize {
        OPERATORS_MAX - self.operators.available_permits()
    }

    pub fn strangers_closed(&self) -> u64 {
        self.strangers_closed.load(Relaxed)
    }

    pub fn operators_refused(&self) -> u64 {
        self.operators_refused.load(Relaxed)
    }
}

/// One connection's place, free again when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    close: Arc<Notify>,
    as_operator: OnceLock<OwnedSemaphorePermit>,
}

impl Place {
    /// Ends when another gets this place.
    pub async fn lost(&self) {
        self.close.notified().await;
    }

    /// Makes the connection an operator's; `false` if there are too many of them.
    pub fn admit(&self) -> bool {
        if self.as_operator.get().is_some() {
            return true;
        }
        let Ok(permit) = self.places.operators.clone().try_acquire_owned() else {
            self.places.operators_refused.fetch_add(1, Relaxed);
            return false;
        };
        // A connection's requests come one after the other.
        let _ = self.as_operator.set(permit);
        lock(&self.places.strangers).remove(&self.number);
        true
    }

    /// A request is being answered until what this returns is dropped.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.set_answered(true);
        Answering(self.clone())
    }

    fn set_answered(&self, is_answered: bool) {
        if let Some(stranger) = lock(&self.places.strangers).get_mut(&self.number) {
            stranger.is_answered = is_answered;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.strangers).remove(&self.number);
    }
}

/// See [`Place::answering`].
pub(super) struct Answering(Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set_answered(false);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn is_lost(place: &Place) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_silent_stranger_goes_first_and_an_operator_never() {
        let places = Arc::new(Places::default());
        let mut held: Vec<_> = (0..STRANGERS_MAX).map(|_| places.enter()).collect();
        let answering = held[0].answering();
        assert!(held[1].admit() && places.operators() == 1);
        held.push(places.enter());
        assert_eq!(places.strangers_closed(), 0, "the operator has left a place");
        held.push(places.enter());
        let lost: Vec<_> = held.iter().map(|place| is_lost(place)).collect();
        assert_eq!(lost.iter().position(|lost| *lost), Some(2), "0 is answered, 1 is an operator");
        assert_eq!((places.strangers_closed(), places.strangers()), (1, STRANGERS_MAX));
        drop(answering);
        held.push(places.enter());
        assert!(is_lost(&held[0]) && !is_lost(&held[1]));
        // When each is being answered it is the oldest, so that a probe finds a place all the same.
        let _answering: Vec<_> = held.iter().map(|place| place.answering()).collect();
        held.push(places.enter());
        assert!(is_lost(&held[3]));
    }

    #[test]
    fn operators_are_bounded_and_free_their_places() {
        let places = Arc::new(Places::default());
        let mut held: Vec<_> = (0..OPERATORS_MAX).map(|_| places.enter()).collect();
        assert!(held.iter().all(|place| place.admit() && place.admit()));
        let late = places.enter();
        assert!(!late.admit() && places.operators_refused() == 1);
        held.pop();
        assert!(late.admit());
        drop((held, late));
        assert_eq!((places.operators(), places.strangers()), (0, 0));
    }
}
