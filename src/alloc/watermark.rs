//! The highest end this process was ever granted for each tag.
//!
//! A reservation that starts below it was granted before, so the store has lost a commit.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::segment::IdRange;
use crate::sync::lock;

/// The watermarks of all tags, those whose rows are gone included: a row that comes back starts no lower.
#[derive(Default)]
pub struct Watermarks {
    ends: Mutex<HashMap<Box<str>, i64>>,
}

impl Watermarks {
    /// Raises the tag's watermark to the end of what the store has just granted.
    ///
    /// # Errors
    /// When the range starts below the watermark, which is returned and stays as it is: nothing of the range
    /// may be handed out.
    pub fn advance(&self, tag: &str, granted: IdRange) -> Result<(), i64> {
        let mut ends = lock(&self.ends);
        match ends.get_mut(tag) {
            Some(end) if granted.start < *end => return Err(*end),
            Some(end) => *end = granted.end,
            None => drop(ends.insert(tag.into(), granted.end)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_below_what_was_granted_before_is_refused_and_changes_nothing() {
        let marks = Watermarks::default();
        let range = |start, end| IdRange { start, end };
        assert_eq!(marks.advance("a", range(100, 200)), Ok(()));
        assert_eq!(marks.advance("b", range(0, 10)), Ok(()), "tags are apart");
        assert_eq!(marks.advance("a", range(199, 900)), Err(200));
        assert_eq!(marks.advance("a", range(200, 300)), Ok(()));
        assert_eq!(marks.advance("a", range(500, 600)), Ok(()), "another node was in between");
    }
}
