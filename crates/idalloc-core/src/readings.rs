//! What was read of the table's rows, and how fast they grew: so that a row that has lost commits is known for one.
//!
//! A tag is known by a hash of its name, because there may be a million of them. Two that share one share the higher
//! reading: that makes gaps, and no duplicates.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::bounds::LEFT_PER_FAILOVER;
use crate::sync::lock;

/// All nodes together may take so many times what the fastest growth between two readings makes them expect.
const HEADROOM: f64 = 2.0;

/// How much of the fastest growth is forgotten from one reading to the next.
const FADING: f32 = 0.9;

/// Times are kept in 32 bits: enough for eight years.
const TICKS_PER_S: u32 = 16;

/// The shortest time over which growth is measured.
const SPAN_TICKS_MIN: u32 = TICKS_PER_S / 2;

/// The readings of all rows.
pub(crate) struct Readings {
    hasher: RandomState,
    began: Instant,
    rows: Mutex<HashMap<u64, Reading, RandomState>>,
}

/// What is known of one row.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// The highest `max_id` that was ever read, or granted here.
    highest: i64,
    /// The fastest growth lately, in IDs per second.
    growth_per_s: f32,
    /// When it was read last, in ticks since the beginning.
    at: u32,
}

impl Default for Readings {
    fn default() -> Self {
        Self { hasher: RandomState::default(), began: Instant::now(), rows: Mutex::default() }
    }
}

impl Readings {
    /// Takes note of rows as they were read at `at`: name and `max_id` each.
    pub fn note<'a>(&self, rows: impl IntoIterator<Item = (&'a str, i64)>, at: Instant) {
        let at = self.ticks(at);
        let mut known = lock(&self.rows);
        for (name, max_id) in rows {
            let key = self.hasher.hash_one(name);
            let reading = known.entry(key).or_insert(Reading { highest: max_id, growth_per_s: 0.0, at });
            reading.update(max_id, at);
        }
    }

    /// The highest `max_id` that was ever read of the row. It may have gone down since for a good reason: what is not
    /// handed out is given back.
    pub fn highest(&self, tag: &str) -> Option<i64> {
        lock(&self.rows).get(&self.hasher.hash_one(tag)).map(|reading| reading.highest)
    }

    /// Past everything that all nodes may have been granted by now: the highest of what was read and `granted`, and what
    /// may have been taken since, but at least the margin above that highest. `None`: the row was never read.
    pub fn expected(
        &self,
        tag: &str,
        granted: i64,
        margin: impl FnOnce(i64) -> i64,
        now: Instant,
    ) -> Option<i64> {
        let reading = *lock(&self.rows).get(&self.hasher.hash_one(tag))?;
        let elapsed_s = f64::from(self.ticks(now).saturating_sub(reading.at)) / f64::from(TICKS_PER_S);
        let highest = reading.highest.max(granted).max(0);
        // A row also grows by a leap after a change of server, and when an operator raises it. Without a limit, a database
        // that is started anew again and again would make each leap a multiple of the one before.
        let taken_max = (i64::MAX - highest) / LEFT_PER_FAILOVER;
        // A cast from floating point saturates.
        let taken = taken_max.min((f64::from(reading.growth_per_s) * elapsed_s * HEADROOM) as i64);
        Some(highest.saturating_add(margin(highest).max(taken)))
    }

    fn ticks(&self, at: Instant) -> u32 {
        let ticks = at.saturating_duration_since(self.began).as_millis() * u128::from(TICKS_PER_S) / 1000;
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

impl Reading {
    fn update(&mut self, max_id: i64, at: u32) {
        let ticks = at.saturating_sub(self.at).max(SPAN_TICKS_MIN);
        let grown = max_id.saturating_sub(self.highest).max(0);
        let growth_per_s = (grown as f64 * f64::from(TICKS_PER_S) / f64::from(ticks)) as f32;
        self.growth_per_s = growth_per_s.max(self.growth_per_s * FADING);
        self.highest = max_id.max(self.highest);
        self.at = at.max(self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_highest_reading_of_each_row_is_kept() {
        let readings = Readings::default();
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        readings.note([("a", 5), ("b", -1)], later(0));
        readings.note([("a", 3), ("b", 7)], later(1));
        assert_eq!(["a", "b", "c"].map(|tag| readings.highest(tag)), [Some(5), Some(7), None]);
    }

    #[test]
    fn what_is_expected_follows_from_the_growth_and_the_time_since_the_reading() {
        let readings = Readings::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in 1..=10 {
            readings
                .note([("busy", 1000 * i64::try_from(seconds).expect("small")), ("quiet", 50)], at(seconds));
        }
        assert_eq!(readings.expected("quiet", 0, |_| 100, at(3600)), Some(150), "at least the margin");
        assert_eq!(readings.expected("quiet", 500, |_| 100, at(10)), Some(600), "from what was granted here");
        assert_eq!(readings.expected("busy", 0, |_| 100, at(10)), Some(10_100));
        let expected = readings.expected("busy", 0, |_| 100, at(20)).expect("it was read");
        assert!((29_900..=30_100).contains(&expected), "{expected}");
        assert_eq!(readings.expected("other", 0, |_| 100, at(10)), None);
        assert_eq!(readings.expected("busy", 0, |_| i64::MAX, at(10)), Some(i64::MAX));
    }

    #[test]
    fn leaps_do_not_use_up_a_tag_whose_database_is_started_anew_again_and_again() {
        let readings = Readings::default();
        let start = Instant::now();
        let mut max_id = 1_000_000;
        for outage in 0..1000_u64 {
            let at = |seconds: u64| start + Duration::from_secs(outage * 600 + seconds);
            readings.note([("a", max_id)], at(10));
            max_id = readings.expected("a", 0, |_| 1000, at(600)).expect("it was read");
        }
        assert!(max_id < i64::MAX / 500, "{max_id}");
    }
}
