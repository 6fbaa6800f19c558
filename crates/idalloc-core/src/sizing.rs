//! How much to reserve, and when: pure arithmetic over what was measured.
//!
//! A reservation is `rate x SegmentSeconds` IDs, rounded up to whole steps and kept between `step` and
//! `MaxStepFactor x step`, and to a small part of what is left below 2^63. It is due as soon as what stands by *behind* the head would not outlast
//! `LATENCIES_AHEAD` reservations. So a quiet tag reserves exactly `step` and holds two segments, and a busy one
//! asks the store about once in `SegmentSeconds`.

use std::time::{Duration, Instant};

/// What the operator decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long a segment should last at the tag's present rate: above 0.
    pub segment_seconds: f64,
    /// The most that one reservation takes, in steps: at least 1.
    pub step_factor_max: i64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { segment_seconds: 10.0, step_factor_max: 1000 }
    }
}

/// How many store latencies the segments behind the head must outlast.
pub const LATENCIES_AHEAD: f64 = 4.0;
/// The most unspent segments in a chain. Reached only when the largest reservations do not last for
/// `LATENCIES_AHEAD` reservations.
pub const CHAIN_SEGMENTS_MAX: usize = 64;

/// The shortest time over which a rate is measured: a burst of a few milliseconds is not a rate.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// What is known about a tag when its supply is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// The row's step, at least 1.
    pub step: i64,
    /// IDs handed out per second.
    pub rate_per_s: f64,
    /// How long a reservation takes.
    pub latency: Duration,
    /// Segments with unclaimed IDs.
    pub segments: usize,
    /// Unclaimed IDs behind the head segment.
    pub standby: u64,
    /// Unclaimed IDs in all.
    pub left: u64,
    /// IDs that callers are waiting for, all together.
    pub waited_for: u64,
    /// The most that one caller is waiting for.
    pub waited_for_most: u64,
    /// The most that one reservation may take: at least a step.
    pub reservation_max: i64,
}

/// How many IDs to reserve now, or `None` when the chain holds enough.
pub fn reservation(demand: &Demand, policy: &Policy) -> Option<i64> {
    is_due(demand).then(|| amount(demand, policy))
}

fn is_due(demand: &Demand) -> bool {
    if demand.left < demand.waited_for {
        // A caller who asks for more than the chain's usual limit is one who is owed an answer.
        return demand.segments < CHAIN_SEGMENTS_MAX || demand.left < demand.waited_for_most;
    }
    let ahead = demand.rate_per_s * demand.latency.as_secs_f64() * LATENCIES_AHEAD;
    demand.segments < CHAIN_SEGMENTS_MAX && (demand.standby == 0 || (demand.standby as f64) < ahead)
}

fn amount(demand: &Demand, policy: &Policy) -> i64 {
    // Float to integer casts saturate, and the clamp below bounds what they yield.
    let paced = (demand.rate_per_s * policy.segment_seconds) as u64;
    let wanted = paced.max(demand.waited_for.saturating_sub(demand.left));
    let steps_max = policy.step_factor_max.max(steps_for(demand.waited_for_most, demand.step));
    let steps_max = steps_max.min(demand.reservation_max / demand.step).max(1);
    steps_for(wanted, demand.step).clamp(1, steps_max).saturating_mul(demand.step)
}

/// The smallest number of steps that holds `ids`.
fn steps_for(ids: u64, step: i64) -> i64 {
    i64::try_from(ids.div_ceil(step.unsigned_abs().max(1))).unwrap_or(i64::MAX)
}

/// A tag's measured rate: rises at once, falls with a time constant of `segment_seconds`.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    rate_per_s: f64,
    window_start: Instant,
    handed_out_at_start: u64,
}

impl Pace {
    /// A tag that has handed out nothing.
    pub fn new(now: Instant) -> Self {
        Self { rate_per_s: 0.0, window_start: now, handed_out_at_start: 0 }
    }

    /// Takes note that `handed_out` IDs are gone since the beginning, and returns the rate in IDs per second.
    pub fn observe(&mut self, now: Instant, handed_out: u64, policy: &Policy) -> f64 {
        let window = now.saturating_duration_since(self.window_start);
        let ids = handed_out.saturating_sub(self.handed_out_at_start) as f64;
        let sample = ids / window.max(RATE_WINDOW).as_secs_f64();
        if window >= RATE_WINDOW {
            let weight_of_old = (-window.as_secs_f64() / policy.segment_seconds).exp();
            self.rate_per_s = sample.max(sample + (self.rate_per_s - sample) * weight_of_old);
            self.window_start = now;
            self.handed_out_at_start = handed_out;
        } else {
            self.rate_per_s = self.rate_per_s.max(sample);
        }
        self.rate_per_s
    }

    /// Callers had to wait, so what was handed out says less than what was asked for: assume twice as much,
    /// up to the rate for which the largest reservation would do.
    pub fn starved(&mut self, step: i64, policy: &Policy) {
        let served_by_largest = step as f64 * policy.step_factor_max as f64 / policy.segment_seconds;
        self.rate_per_s = self.rate_per_s.max((self.rate_per_s * 2.0).min(served_by_largest));
    }
}

/// The latency of reservations: the slowest of the last hundred, which is no less than their p99.
#[derive(Debug)]
pub struct Latency {
    samples: [Duration; Self::SAMPLES],
    next: usize,
}

impl Latency {
    const SAMPLES: usize = 100;

    /// No sample yet.
    pub fn new() -> Self {
        Self { samples: [Duration::ZERO; Self::SAMPLES], next: 0 }
    }

    /// Takes note of one reservation.
    pub fn observe(&mut self, latency: Duration) {
        self.samples[self.next] = latency;
        self.next = (self.next + 1) % Self::SAMPLES;
    }

    /// The slowest of the samples kept; zero before the first.
    pub fn p99(&self) -> Duration {
        self.samples.iter().copied().max().unwrap_or_default()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{CHAIN_SEGMENTS_MAX, Demand, Duration, Instant, Latency, Pace, Policy};
    use proptest::prelude::*;

    /// With the policy that holds unless the operator says otherwise.
    fn reservation(demand: &Demand) -> Option<i64> {
        super::reservation(demand, &Policy::default())
    }

    const POLICY: Policy = Policy { segment_seconds: 10.0, step_factor_max: 1000 };

    const QUIET: Demand = Demand {
        step: 1000,
        rate_per_s: 0.0,
        latency: Duration::from_millis(1),
        segments: 0,
        standby: 0,
        left: 0,
        waited_for: 0,
        waited_for_most: 0,
        reservation_max: i64::MAX,
    };

    #[test]
    fn a_quiet_tag_reserves_exactly_step_and_holds_two_segments() {
        assert_eq!(reservation(&QUIET), Some(1000));
        assert_eq!(reservation(&Demand { segments: 1, left: 1000, ..QUIET }), Some(1000));
        assert_eq!(reservation(&Demand { segments: 2, standby: 1000, left: 2000, ..QUIET }), None);
        assert_eq!(reservation(&Demand { segments: 2, standby: 1000, left: 1001, ..QUIET }), None);
    }

    #[test]
    fn a_busy_tag_reserves_ten_seconds_in_whole_steps_up_to_the_factor() {
        let busy = Demand { rate_per_s: 50_000.0, ..QUIET };
        assert_eq!(reservation(&busy), Some(500_000));
        assert_eq!(reservation(&Demand { rate_per_s: 50_000.01, ..busy }), Some(500_000));
        assert_eq!(reservation(&Demand { rate_per_s: 50_001.0, ..busy }), Some(501_000));
        assert_eq!(reservation(&Demand { rate_per_s: 1e9, ..busy }), Some(1_000_000));
        assert_eq!(
            reservation(&Demand { rate_per_s: f64::INFINITY, step: i64::MAX, ..busy }),
            Some(i64::MAX)
        );
    }

    #[test]
    fn a_slow_store_is_asked_earlier() {
        let demand = Demand { rate_per_s: 10_000.0, segments: 2, standby: 5_000, left: 6_000, ..QUIET };
        assert_eq!(reservation(&demand), None);
        let slow = Demand { latency: Duration::from_millis(200), ..demand };
        assert_eq!(reservation(&slow), Some(100_000), "5,000 IDs do not outlast 4 x 200 ms at 10,000/s");
    }

    #[test]
    fn waiting_callers_are_provided_for_in_one_reservation() {
        let hungry = Demand { step: 1, waited_for: 200, waited_for_most: 1, ..QUIET };
        assert_eq!(reservation(&hungry), Some(200));
        let batch = Demand { step: 1, waited_for: 10_000, waited_for_most: 10_000, ..QUIET };
        assert_eq!(reservation(&batch), Some(10_000), "one large caller may exceed the factor");
        let full = Demand { segments: CHAIN_SEGMENTS_MAX, left: 9_999, standby: 9_000, ..batch };
        assert!(reservation(&full).is_some(), "and the chain's limit");
    }

    #[test]
    fn near_the_end_a_reservation_takes_no_more_than_it_may() {
        let near = Demand { rate_per_s: 50_000.0, reservation_max: 7_999, ..QUIET };
        assert_eq!(reservation(&near), Some(7_000), "whole steps");
        assert_eq!(reservation(&Demand { reservation_max: 1, ..near }), Some(1000), "but one");
        let batch = Demand { waited_for: 100_000, waited_for_most: 100_000, ..near };
        assert_eq!(reservation(&batch), Some(7_000), "a batch may be of many segments");
    }

    #[test]
    fn the_rate_rises_at_once_and_falls_slowly() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut pace = Pace::new(start);
        assert_eq!(pace.observe(at(0.01), 200, &POLICY), 200.0, "a burst counts as spread over a second");
        assert_eq!(pace.observe(at(1.0), 10_000, &POLICY), 10_000.0);
        let falling = pace.observe(at(11.0), 10_000, &POLICY);
        assert!((3_600.0..3_700.0).contains(&falling), "1/e after a time constant, not {falling}");
        assert!(pace.observe(at(3600.0), 10_001, &POLICY) < 1.0, "an hour later it is forgotten");
        assert!(pace.observe(at(3601.0), 110_001, &POLICY) >= 100_000.0, "and rises at once");
    }

    #[test]
    fn starving_doubles_the_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.observe(start + Duration::from_secs(1), 1000, &POLICY);
        pace.starved(1000, &POLICY);
        assert_eq!(pace.observe(start + Duration::from_millis(1001), 1000, &POLICY), 2000.0);
        (0..2000).for_each(|_| pace.starved(1000, &POLICY));
        assert_eq!(
            pace.observe(start + Duration::from_millis(1002), 1000, &POLICY),
            100_000.0,
            "but not for ever"
        );
    }

    #[test]
    fn the_latency_is_that_of_the_slowest_of_the_last_hundred() {
        let mut latency = Latency::new();
        assert_eq!(latency.p99(), Duration::ZERO);
        latency.observe(Duration::from_millis(200));
        (0..99).for_each(|_| latency.observe(Duration::from_millis(1)));
        assert_eq!(latency.p99(), Duration::from_millis(200));
        latency.observe(Duration::from_millis(1));
        assert_eq!(latency.p99(), Duration::from_millis(1));
    }

    fn demands() -> impl Strategy<Value = Demand> {
        let chain = (0..=CHAIN_SEGMENTS_MAX, 0..u64::MAX / 4, 0..u64::MAX / 4);
        (1..=i64::MAX, prop_oneof![0.0..1e12, Just(f64::INFINITY)], 0..10_000u64, chain, 0..1u64 << 40)
            .prop_map(|(step, rate_per_s, latency_ms, (segments, standby, head), waited_for)| Demand {
                step,
                rate_per_s,
                latency: Duration::from_millis(latency_ms),
                segments,
                standby,
                left: standby + head,
                waited_for,
                waited_for_most: waited_for.min(1_000_000),
                reservation_max: i64::MAX,
            })
    }

    proptest! {
        #[test]
        fn a_reservation_is_positive_and_bounded_by_step_and_factor(demand in demands()) {
            if let Some(amount) = reservation(&demand) {
                prop_assert!(amount >= demand.step);
                prop_assert!(amount == i64::MAX || amount % demand.step == 0);
                let largest = i128::from(demand.step) * i128::from(POLICY.step_factor_max)
                    .max(i128::from(demand.waited_for_most) + i128::from(demand.step));
                prop_assert!(i128::from(amount) <= largest);
            }
        }

        #[test]
        fn a_faster_tag_never_reserves_less(demand in demands(), factor in 1.0..100.0f64) {
            let faster = Demand { rate_per_s: demand.rate_per_s * factor, ..demand };
            prop_assert!(reservation(&demand) <= reservation(&faster));
        }

        #[test]
        fn nobody_waits_beside_a_chain_that_asks_for_nothing(demand in demands()) {
            let satisfied = demand.left >= demand.waited_for || demand.segments >= CHAIN_SEGMENTS_MAX;
            prop_assert!(reservation(&demand).is_some() || satisfied);
        }
    }
}
