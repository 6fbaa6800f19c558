//! The server that granted what the watermarks say, and what rows owe since it is another: in the same file.

use tracing::debug;

use super::file::{File, Owed};
use super::{WatermarkError, Watermarks};

impl Watermarks {
    /// The server that an earlier process remembered, and what rows owed then.
    pub fn recall(&self) -> (Option<String>, Owed) {
        self.with_file(|file| file.as_ref().map_or_else(|| (None, Owed::new()), File::recall))
    }

    /// Remembers the server and, if given, what rows owe, all of it or none; says whether that is durable. If not, the
    /// next start finds the server that was remembered before, and takes this one for another: that is safe.
    pub fn remember(&self, server: &str, owed: Option<&Owed>) -> bool {
        self.try_with_file("the database server is not remembered", |file| file.remember(server, owed))
    }

    /// The tag owes nothing any more.
    pub fn forget_debt(&self, tag: &str) {
        self.try_with_file("a tag will be raised once more after a restart", |file| file.forget_debt(tag));
    }

    fn try_with_file(
        &self,
        otherwise: &str,
        work: impl FnOnce(&mut File) -> Result<(), WatermarkError>,
    ) -> bool {
        let done = self.with_file(|file| file.as_mut().map_or(Ok(()), work));
        if let Err(cause) = &done {
            debug!(%cause, "the watermark file cannot be written: {otherwise}");
        }
        done.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_its_debts_outlive_the_process_and_are_of_one_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let open = |scope| Watermarks::open(&path, scope).unwrap();
        let marks = open("one");
        assert_eq!(marks.recall(), (None, Owed::new()));
        assert!(marks.remember("zeroth", Some(&Owed::from([("a".into(), 5), ("b".into(), 7)]))));
        assert!(marks.remember("first", None));
        marks.forget_debt("a");
        drop(marks);
        assert_eq!(open("two").recall(), (None, Owed::new()), "another table's");
        let marks = open("one");
        assert_eq!(marks.recall(), (Some("first".to_owned()), Owed::from([("b".into(), 7)])));
        assert!(marks.remember("second", Some(&Owed::from([("c".into(), 9)]))));
        drop(marks);
        assert_eq!(open("one").recall(), (Some("second".to_owned()), Owed::from([("c".into(), 9)])));
    }
}
