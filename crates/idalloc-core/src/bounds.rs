//! How much of the numbers below 2^63 may be taken at once, so that no slip of the hand uses up a tag.
//!
//! Nothing is taken that traffic does not ask for, beyond what stands by: so it is crashes that cost a large step, at
//! most two of it each. 2^63 IDs outlast a hundred servers that crash every hour with the largest step by five
//! thousand years, and a million IDs a second by 292,000.

/// The largest step, in IDs.
pub const STEP_MAX: i64 = 1_000_000_000;

/// How many IDs have to be left below 2^63 where a person sets a tag's `max_id` or its first ID: a million a second
/// for three thousand years.
pub const LEFT_MIN: i64 = 100_000_000_000_000_000;

/// The highest `max_id`, and the highest first ID, that a person may set.
pub const MAX_ID_MAX: i64 = i64::MAX - LEFT_MIN;

/// A reservation takes at most this part of what is left below 2^63, unless a step is more; and so do FailoverSteps.
pub const LEFT_PER_RESERVATION: i64 = 1000;

/// For its growth before a database server lost commits, a row is raised by at most this part of what is left
/// below 2^63, each time.
pub const LEFT_PER_FAILOVER: i64 = 1_000_000;

const HOURS_PER_YEAR: i64 = 366 * 24;
const SECONDS_PER_YEAR: i64 = HOURS_PER_YEAR * 3600;
const _: () = assert!(i64::MAX / (2 * STEP_MAX * 100 * HOURS_PER_YEAR) > 5000);
const _: () = assert!(LEFT_MIN / (1_000_000 * SECONDS_PER_YEAR) > 3000);
// A tag that a person has just set gets its largest step at once.
const _: () = assert!(STEP_MAX < LEFT_MIN / LEFT_PER_RESERVATION);

/// The most that one reservation may take above `max_id`, in IDs.
pub fn reservation_max(max_id: i64, step: i64) -> i64 {
    let left = i64::MAX - max_id.max(0);
    (left / LEFT_PER_RESERVATION).max(step)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_takes_a_small_part_of_what_is_left_or_a_step() {
        assert_eq!(reservation_max(0, 1), i64::MAX / 1000);
        assert_eq!(reservation_max(-5, 1), i64::MAX / 1000);
        assert_eq!(reservation_max(i64::MAX - 5_000, 1), 5);
        assert_eq!(reservation_max(i64::MAX - 5_000, 10), 10);
        assert_eq!(reservation_max(i64::MAX, 1), 1);
    }
}
