//! The callers who are parked at a tag, in the order in which they came, and what each waits for.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::segment::IdRange;

/// Names one parked caller of one tag.
pub type WaiterId = u64;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// At least so many IDs in the chain.
    Supply(u64),
    /// So many in one contiguous range, reserved for this caller alone.
    Lease(u64),
}

/// What has become of a lease that a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    /// Nothing yet.
    Pending,
    /// This range, until its caller takes it.
    Ready(IdRange),
    /// Nothing, ever: so many are not left below 2^63.
    TooLarge,
}

impl Lease {
    /// Takes the range out, if it is there.
    fn take(&mut self) -> Option<IdRange> {
        let Lease::Ready(range) = *self else { return None };
        *self = Lease::Pending;
        Some(range)
    }
}

struct Waiter {
    waker: Waker,
    need: Need,
    lease: Lease,
}

/// All of them.
#[derive(Default)]
pub(super) struct Waiters {
    /// IDs ascend, so the order is that in which they came.
    by_id: BTreeMap<WaiterId, Waiter>,
    last_id: WaiterId,
}

impl Waiters {
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn contains(&self, id: WaiterId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Parks a caller, or renews what is known of one. Who has an ID keeps it, and with it the place in the order.
    pub fn register(&mut self, need: Need, waker: &Waker, id: &mut Option<WaiterId>) {
        let id = *id.get_or_insert_with(|| {
            self.last_id += 1;
            self.last_id
        });
        self.by_id.insert(id, Waiter { waker: waker.clone(), need, lease: Lease::Pending });
    }

    /// Forgets a caller. Returns the range that was reserved for it, if it did not take that.
    pub fn leave(&mut self, id: WaiterId) -> Option<IdRange> {
        let waiter = self.by_id.remove(&id);
        if self.by_id.is_empty() {
            // An emptied map keeps room for eleven: in each of a hundred thousand tags.
            self.by_id = BTreeMap::new();
        }
        waiter?.lease.take()
    }

    /// How many IDs each caller needs who waits for the chain.
    pub fn supplies(&self) -> impl Iterator<Item = u64> {
        self.by_id.values().filter_map(|waiter| match waiter.need {
            Need::Supply(ids) => Some(ids),
            Need::Lease(_) => None,
        })
    }

    /// How many IDs the callers need together who wait for the chain.
    pub fn supply_total(&self) -> u64 {
        self.supplies().fold(0, u64::saturating_add)
    }

    /// The lease that has waited longest for its range: whose it is, and its size.
    pub fn first_lease(&self) -> Option<(WaiterId, u64)> {
        self.by_id.iter().find_map(|(id, waiter)| match (waiter.need, waiter.lease) {
            (Need::Lease(ids), Lease::Pending) => Some((*id, ids)),
            _ => None,
        })
    }

    /// Tells a caller, if it still waits, what has become of its lease.
    pub fn resolve(&mut self, id: WaiterId, lease: Lease) {
        if let Some(waiter) = self.by_id.get_mut(&id) {
            waiter.lease = lease;
            waiter.waker.wake_by_ref();
        }
    }

    /// The range reserved for a caller, once it is there.
    pub fn take_lease(&mut self, id: WaiterId) -> Option<IdRange> {
        self.by_id.get_mut(&id)?.lease.take()
    }

    /// Takes back every range that was reserved and that its caller has not taken.
    pub fn take_all_leases(&mut self) -> impl Iterator<Item = IdRange> {
        self.by_id.values_mut().filter_map(|waiter| waiter.lease.take())
    }

    /// Whether this caller was told that its lease is too large.
    pub fn is_too_large(&self, id: WaiterId) -> bool {
        self.by_id.get(&id).is_some_and(|waiter| waiter.lease == Lease::TooLarge)
    }

    /// Waiters stay registered until they leave by themselves: one that is dropped before it runs takes
    /// nobody's wake-up with it.
    pub fn wake_all(&self) {
        self.by_id.values().for_each(|waiter| waiter.waker.wake_by_ref());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    const RANGE: IdRange = IdRange { start: 1, end: 6 };

    fn add(waiters: &mut Waiters, need: Need) -> WaiterId {
        let mut id = None;
        waiters.register(need, Waker::noop(), &mut id);
        id.expect("it has an ID now")
    }

    #[test]
    fn who_registers_again_keeps_the_place_and_changes_the_need() {
        let mut waiters = Waiters::default();
        let first = add(&mut waiters, Need::Lease(5));
        let second = add(&mut waiters, Need::Lease(6));
        assert_ne!(first, second);
        waiters.register(Need::Lease(7), Waker::noop(), &mut Some(first));
        assert_eq!(waiters.first_lease(), Some((first, 7)));
        assert_eq!(waiters.leave(first), None);
        assert_eq!(waiters.first_lease(), Some((second, 6)));
        assert!(!waiters.contains(first) && waiters.contains(second));
        assert!(add(&mut waiters, Need::Lease(5)) > second, "an ID is not used twice");
    }

    #[test]
    fn supplies_are_counted_without_leases() {
        let mut waiters = Waiters::default();
        assert!(waiters.is_empty());
        for need in [Need::Supply(3), Need::Lease(100), Need::Supply(4)] {
            add(&mut waiters, need);
        }
        assert_eq!(waiters.supplies().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(waiters.supply_total(), 7);
        add(&mut waiters, Need::Supply(u64::MAX));
        assert_eq!(waiters.supply_total(), u64::MAX);
        assert!(!waiters.is_empty());
    }

    #[test]
    fn a_lease_that_is_resolved_is_not_the_first_any_more() {
        let mut waiters = Waiters::default();
        let [ready, too_large, pending] = [1, 2, 3].map(|ids| add(&mut waiters, Need::Lease(ids)));
        waiters.resolve(ready, Lease::Ready(RANGE));
        waiters.resolve(too_large, Lease::TooLarge);
        assert_eq!(waiters.first_lease(), Some((pending, 3)));
        let told = [ready, too_large, pending].map(|id| waiters.is_too_large(id));
        assert_eq!(told, [false, true, false]);
        waiters.resolve(pending + 1, Lease::TooLarge);
        assert!(!waiters.is_too_large(pending + 1), "nobody waits under that ID");
    }

    #[test]
    fn a_range_is_taken_once_whoever_takes_it() {
        let ready = || {
            let mut waiters = Waiters::default();
            let id = add(&mut waiters, Need::Lease(5));
            waiters.resolve(id, Lease::Ready(RANGE));
            (waiters, id)
        };
        let (mut waiters, id) = ready();
        assert_eq!((waiters.take_lease(id), waiters.take_lease(id)), (Some(RANGE), None));
        assert_eq!(waiters.leave(id), None, "its caller has it");
        let (mut waiters, id) = ready();
        assert_eq!((waiters.leave(id), waiters.leave(id)), (Some(RANGE), None));
        let (mut waiters, id) = ready();
        add(&mut waiters, Need::Lease(5));
        assert_eq!(waiters.take_all_leases().collect::<Vec<_>>(), [RANGE]);
        assert_eq!(waiters.take_lease(id), None, "it was taken back");
    }

    #[test]
    fn a_resolved_lease_wakes_its_caller_and_new_ids_wake_all() {
        let mut waiters = Waiters::default();
        let wakes = [(); 2].map(|()| Arc::new(Wakes::default()));
        let ids = wakes.each_ref().map(|wakes| {
            let mut id = None;
            waiters.register(Need::Lease(5), &Waker::from(wakes.clone()), &mut id);
            id.expect("it has an ID now")
        });
        let counts = || wakes.each_ref().map(|wakes| wakes.0.load(Relaxed));
        waiters.resolve(ids[1], Lease::Ready(RANGE));
        assert_eq!(counts(), [0, 1]);
        waiters.wake_all();
        waiters.wake_all();
        assert_eq!(counts(), [2, 3], "they stay registered");
    }
}
