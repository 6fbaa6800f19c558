//! What a test of many random rounds takes from the environment, and how it pauses.

use std::str::FromStr;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

/// The value of a variable, or `default` where it is not set.
pub fn from_env<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}"))
}

/// Sleeps for up to this long.
pub fn rest(rng: &mut Rng, most_ms: u64) {
    thread::sleep(Duration::from_millis(rng.u64(0..=most_ms)));
}
