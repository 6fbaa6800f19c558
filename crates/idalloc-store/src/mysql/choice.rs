//! On which of the DSN's hosts sessions belong.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use idalloc_core::sync::lock;

/// What all sessions of a server know of the hosts, by their places in the DSN.
///
/// They stay together: a listing is to show the rows that reservations raise. So who has got through to another host
/// takes the others along, at their next calls; nobody is sent to a host that did not answer a moment ago.
pub(super) struct HostChoice {
    state: Mutex<State>,
}

struct State {
    /// Where sessions belong: the host that was reached last.
    current: usize,
    first_tried: Instant,
    vetted: Vec<bool>,
    /// How far the log was when the table was last read.
    position: String,
    /// The hosts' logs were compared with each other.
    is_compared: bool,
    /// A host will do, whatever its log and its replication.
    trusts_every_server: bool,
}

impl HostChoice {
    pub(super) fn new(hosts: usize, now: Instant) -> HostChoice {
        HostChoice {
            state: Mutex::new(State {
                current: 0,
                first_tried: now,
                vetted: vec![false; hosts],
                position: String::new(),
                is_compared: false,
                trusts_every_server: false,
            }),
        }
    }

    /// Where sessions belong.
    pub(super) fn current(&self) -> usize {
        self.state().current
    }

    /// The hosts in the order in which a session tries them that has left one, or none.
    pub(super) fn order(&self, left: Option<usize>) -> impl Iterator<Item = usize> + use<> {
        let state = self.state();
        let (current, hosts) = (state.current, state.vetted.len());
        // If the others have moved on already, it is where they are.
        let start = current + usize::from(left == Some(current));
        (0..hosts).map(move |turn| (start + turn) % hosts)
    }

    /// A connect to `host` begins.
    pub(super) fn trying(&self, host: usize, now: Instant) {
        if host == 0 {
            self.state().first_tried = now;
        }
    }

    /// `host` is reached, and will do.
    pub(super) fn reached(&self, host: usize) {
        self.state().current = host;
    }

    /// Whether sessions are on a stand-in, and the first host was not tried for as long as `stay`.
    pub(super) fn is_return_due(&self, stay: Duration, now: Instant) -> bool {
        let state = self.state();
        state.current != 0 && now.saturating_duration_since(state.first_tried) >= stay
    }

    /// Whether the table on `host` was found to be as it must be.
    pub(super) fn is_vetted(&self, host: usize) -> bool {
        self.state().vetted[host]
    }

    /// The table on `host` is, or may not be any more, as it must be.
    pub(super) fn set_vetted(&self, host: usize, vetted: bool) {
        self.state().vetted[host] = vetted;
    }

    /// How far the log was when the table was last read.
    pub(super) fn position(&self) -> String {
        self.state().position.clone()
    }

    /// The table was read, at a server whose log was as far as this.
    pub(super) fn set_position(&self, position: String) {
        if !position.is_empty() {
            self.state().position = position;
        }
    }

    /// Whether the hosts' logs were compared with each other.
    pub(super) fn is_compared(&self) -> bool {
        self.state().is_compared
    }

    /// They were.
    pub(super) fn set_compared(&self) {
        self.state().is_compared = true;
    }

    /// Whether a host will do, whatever its log and its replication.
    pub(super) fn trusts_every_server(&self) -> bool {
        self.state().trusts_every_server
    }

    /// From now on, it will.
    pub(super) fn trust_every_server(&self) {
        self.state().trusts_every_server = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(choice: &HostChoice, left: Option<usize>) -> Vec<usize> {
        choice.order(left).collect()
    }

    #[test]
    fn a_session_begins_where_the_others_are_unless_that_is_what_it_left() {
        let choice = HostChoice::new(3, Instant::now());
        assert_eq!(order(&choice, None), [0, 1, 2]);
        assert_eq!(order(&choice, Some(0)), [1, 2, 0]);
        choice.reached(1);
        assert_eq!(choice.current(), 1);
        // It left the first as well, but the others have moved on.
        assert_eq!(order(&choice, Some(0)), [1, 2, 0]);
        assert_eq!(order(&choice, Some(1)), [2, 0, 1]);
        choice.reached(2);
        assert_eq!(order(&choice, Some(2)), [0, 1, 2]);
        assert_eq!(order(&HostChoice::new(1, Instant::now()), Some(0)), [0]);
    }

    #[test]
    fn the_first_host_is_due_only_from_a_stand_in_and_only_now_and_then() {
        let stay = Duration::from_secs(30);
        let start = Instant::now();
        let choice = HostChoice::new(2, start);
        let later = start + stay;
        assert!(!choice.is_return_due(stay, later), "it is there");
        choice.reached(1);
        assert!(!choice.is_return_due(stay, later - Duration::from_millis(1)));
        assert!(choice.is_return_due(stay, later));
        choice.trying(1, later);
        assert!(choice.is_return_due(stay, later), "that was another");
        choice.trying(0, later);
        assert!(!choice.is_return_due(stay, later));
        assert!(choice.is_return_due(stay, later + stay));
        choice.reached(0);
        assert!(!choice.is_return_due(stay, later + stay));
    }

    #[test]
    fn each_host_is_vetted_by_itself() {
        let choice = HostChoice::new(2, Instant::now());
        choice.set_vetted(1, true);
        assert_eq!([choice.is_vetted(0), choice.is_vetted(1)], [false, true]);
        choice.set_vetted(1, false);
        assert!(!choice.is_vetted(1));
    }
}
