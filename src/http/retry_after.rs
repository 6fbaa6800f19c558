//! The header line that says when to try again.

use std::sync::LazyLock;

/// Who has to wait for longer asks again after an hour: the message says how long it is.
const RETRY_AFTER_S_MAX: u64 = 3600;

/// A header line, without making one each time: the engines take lines that last.
pub(super) fn retry_after(seconds: u64) -> &'static str {
    const WIDTH: usize = "Retry-After: 3600".len();
    static LINES: LazyLock<String> = LazyLock::new(|| {
        (0..=RETRY_AFTER_S_MAX)
            .map(|seconds| format!("{:WIDTH$}", format!("Retry-After: {seconds}")))
            .collect()
    });
    let start = usize::try_from(seconds.min(RETRY_AFTER_S_MAX)).unwrap_or(0) * WIDTH;
    LINES[start..start + WIDTH].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_second_of_an_hour() {
        assert_eq!(retry_after(1), "Retry-After: 1");
        assert_eq!(retry_after(59), "Retry-After: 59");
        assert_eq!(retry_after(3600), "Retry-After: 3600");
        assert_eq!(retry_after(u64::MAX), "Retry-After: 3600");
    }
}
