//! How many IDs may be taken in which time: the generic cell rate algorithm (GCRA) as "virtual scheduling", ITU-T
//! Recommendation I.371, annex A.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::{RATE_MAX, RateLimit};

const NS_PER_S: u64 = 1_000_000_000;

// The costs of the largest burst at the lowest rate, and a clock's reading of centuries, fit together.
const _: () = assert!(RATE_MAX <= u64::MAX / NS_PER_S / 4);

/// A limit, and what was taken lately. In no interval it lets more IDs pass than its burst and what the interval earns.
///
/// It is one number: the time at which all that was taken will have been earned (GCRA's theoretical arrival time). Relaxed is
/// enough for it, because nothing else is learned from it, and the proof asks for no order of clocks: each taking adds
/// its cost to the number, which is never below the taker's time before, and never more than a burst's cost above it after. So
/// the costs of all takers whose times lie in an interval are at most that of a burst and the interval.
#[derive(Debug)]
pub struct Limiter {
    limit: RateLimit,
    /// On the clock of those who take, which begins at 0.
    earned_at_ns: AtomicU64,
}

/// Why nothing is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is more than may be taken at once, ever.
    OverBurst,
    /// It may be taken after so long, if nobody else takes any.
    For(Duration),
}

/// What was taken, so that it can be given back.
#[derive(Debug)]
pub struct Taken {
    before_ns: u64,
    after_ns: u64,
}

impl Limiter {
    /// A limiter of which nothing was taken.
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, earned_at_ns: AtomicU64::new(0) }
    }

    /// What it keeps to.
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Looks whether so many IDs could be taken now.
    pub fn check(&self, ids: u64, now_ns: u64) -> Result<(), Refused> {
        self.after(self.earned_at_ns.load(Relaxed), ids, now_ns).map(drop)
    }

    /// Takes so many IDs (at least 1), or none.
    pub fn take(&self, ids: u64, now_ns: u64) -> Result<Taken, Refused> {
        let mut before_ns = self.earned_at_ns.load(Relaxed);
        loop {
            let after_ns = self.after(before_ns, ids, now_ns)?;
            match self.earned_at_ns.compare_exchange_weak(before_ns, after_ns, Relaxed, Relaxed) {
                Ok(_) => return Ok(Taken { before_ns, after_ns }),
                Err(present_ns) => before_ns = present_ns,
            }
        }
    }

    /// Undoes the taking, unless somebody has taken since: who did may have been let through because of the time that
    /// has passed, which would then be counted twice.
    pub fn give_back(&self, taken: Taken) {
        let Taken { before_ns, after_ns } = taken;
        let _ = self.earned_at_ns.compare_exchange(after_ns, before_ns, Relaxed, Relaxed);
    }

    /// Whether it is as good as a new one.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.earned_at_ns.load(Relaxed) <= now_ns
    }

    fn after(&self, before_ns: u64, ids: u64, now_ns: u64) -> Result<u64, Refused> {
        if ids > self.limit.burst {
            return Err(Refused::OverBurst);
        }
        let after_ns = before_ns.max(now_ns) + self.cost_ns(ids);
        match after_ns.saturating_sub(now_ns + self.cost_ns(self.limit.burst)) {
            0 => Ok(after_ns),
            wait_ns => Err(Refused::For(Duration::from_nanos(wait_ns))),
        }
    }

    /// How long so many IDs take to be earned; rounded up, so that many small requests get no more than one large one.
    fn cost_ns(&self, ids: u64) -> u64 {
        (ids * NS_PER_S).div_ceil(self.limit.ids_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use std::time::Instant;

    fn limiter(ids_per_second: u64, burst: u64) -> Limiter {
        Limiter::new(RateLimit { ids_per_second, burst })
    }

    fn secs(n: u64) -> u64 {
        n * NS_PER_S
    }

    /// Whether no interval between two times holds more than the burst and what it earns.
    fn assert_bounded(limit: RateLimit, mut admitted: Vec<(u64, u64)>) -> Result<(), TestCaseError> {
        admitted.sort_unstable();
        for first in 0..admitted.len() {
            let mut ids = 0;
            for &(at, more) in &admitted[first..] {
                ids += u128::from(more);
                let elapsed_ns = u128::from(at - admitted[first].0);
                // A nanosecond more, because costs are whole ones.
                let earned = (elapsed_ns + 1) * u128::from(limit.ids_per_second) / u128::from(NS_PER_S);
                let most = u128::from(limit.burst) + earned;
                prop_assert!(ids <= most, "{ids} IDs in {elapsed_ns} ns, {limit:?}");
            }
        }
        Ok(())
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        let magnitude = || prop_oneof![1..=10_u64, 1..=10_000_u64, 1..=RATE_MAX];
        (magnitude(), magnitude()).prop_map(|(ids_per_second, burst)| RateLimit { ids_per_second, burst })
    }

    /// Times, clocks that go back included, and parts of the burst.
    fn schedule() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
        let pause_ns = prop_oneof![Just(0), 0..1000_u64, 0..secs(3), 0..secs(1 << 20)];
        proptest::collection::vec((pause_ns, 1..=1000_u64, proptest::bool::weighted(0.2)), 1..100)
    }

    proptest! {
        #[test]
        fn no_interval_holds_more_than_the_burst_and_what_it_earns(
            limit in limits(), schedule in schedule(), late in 0..secs(2), undo in 0..10_usize,
        ) {
            let limiter = Limiter::new(limit);
            let (mut now, mut admitted) = (0, Vec::new());
            for (turn, (pause, permille, is_late)) in schedule.into_iter().enumerate() {
                now += pause;
                // Some looked at the clock a while before they take.
                let at = if is_late { now - late.min(now) } else { now };
                let ids = (limit.burst * permille / 1000).max(1);
                let checked = limiter.check(ids, at);
                let taken = limiter.take(ids, at);
                prop_assert_eq!(checked, taken.as_ref().map(|_| ()).map_err(|refused| *refused));
                match taken {
                    Ok(taken) if turn % 10 == undo => limiter.give_back(taken),
                    Ok(_) => admitted.push((at, ids)),
                    Err(Refused::For(wait)) => {
                        // It is said exactly when it is possible again.
                        let then = at + u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(limiter.check(ids, then - 1).is_err());
                        prop_assert!(limiter.check(ids, then).is_ok());
                    }
                    Err(Refused::OverBurst) => prop_assert!(false, "within the burst"),
                }
            }
            assert_bounded(limit, admitted)?;
        }

        #[test]
        fn what_is_earned_can_be_taken(limit in limits(), pause in 0..secs(100)) {
            let limiter = Limiter::new(limit);
            prop_assert!(limiter.take(limit.burst, 0).is_ok());
            prop_assert!(limiter.check(1, 0).is_err());
            let earned = u128::from(pause) * u128::from(limit.ids_per_second) / u128::from(NS_PER_S);
            let earned = u64::try_from(earned).unwrap_or(u64::MAX).min(limit.burst);
            // Less one, because the cost of the burst was rounded up.
            if earned > 1 {
                prop_assert!(limiter.take(earned - 1, pause).is_ok(), "{earned}");
            }
        }

        #[test]
        fn what_is_given_back_is_there_again(limit in limits(), at in 0..secs(100)) {
            let limiter = Limiter::new(limit);
            let taken = limiter.take(limit.burst, at).unwrap();
            prop_assert!(!limiter.is_idle(at));
            limiter.give_back(taken);
            prop_assert!(limiter.is_idle(at) && limiter.take(limit.burst, at).is_ok());
        }
    }

    #[test]
    fn threads_together_get_no_more_than_one() {
        const THREADS: usize = 4;
        for limit in [(1_000, 10), (1_000_000, 1), (50_000_000, 1_000)] {
            let limiter = limiter(limit.0, limit.1);
            let (all, start) = (Mutex::new(Vec::new()), Instant::now());
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (limiter, all) = (&limiter, &all);
                    scope.spawn(move || {
                        let mut admitted = Vec::new();
                        for turn in 0..2_000_u64 {
                            let now = start.elapsed().as_nanos() as u64;
                            let ids = 1 + (turn + thread as u64) % limiter.limit().burst.min(7);
                            match limiter.take(ids, now) {
                                Ok(taken) if turn % 5 == 0 => limiter.give_back(taken),
                                Ok(_) => admitted.push((now, ids)),
                                Err(_) => std::thread::yield_now(),
                            }
                        }
                        all.lock().unwrap().extend(admitted);
                    });
                }
            });
            // What could not be given back was not handed out either: fewer are admitted, never more.
            assert_bounded(limiter.limit(), all.into_inner().unwrap()).unwrap();
        }
    }

    #[test]
    fn threads_that_take_at_the_same_time_do_not_overwrite_each_other() {
        const BURST: u64 = 400_000;
        let limiter = limiter(1, BURST);
        let admitted: u64 = std::thread::scope(|scope| {
            let take = || (0..).take_while(|_| limiter.take(1, 0).is_ok()).count() as u64;
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, BURST);
    }

    #[test]
    fn what_others_took_meanwhile_is_not_given_back() {
        let limiter = limiter(1, 10);
        let taken = limiter.take(4, 0).unwrap();
        limiter.take(2, 0).unwrap();
        limiter.give_back(taken);
        assert_eq!(limiter.check(5, 0), Err(Refused::For(Duration::from_secs(1))));
    }

    #[test]
    fn the_extremes_fit() {
        let century = secs(100 * 365 * 24 * 3600);
        let slow = limiter(1, RATE_MAX);
        slow.take(RATE_MAX, century).unwrap();
        assert_eq!(slow.check(RATE_MAX, century), Err(Refused::For(Duration::from_secs(RATE_MAX))));
        assert_eq!(slow.check(RATE_MAX + 1, century), Err(Refused::OverBurst));
        assert_eq!(slow.check(u64::MAX, century), Err(Refused::OverBurst));
        let fast = limiter(RATE_MAX, 1);
        fast.take(1, century).unwrap();
        assert_eq!(fast.check(1, century), Err(Refused::For(Duration::from_nanos(1))));
    }
}
