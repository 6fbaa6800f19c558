//! The server that granted what the watermarks say, and what rows owe since it is another: in the same file.

use std::collections::HashMap;

use redb::{Database, ReadableDatabase, TableDefinition};
use tracing::{debug, warn};

use super::{File, WatermarkError, Watermarks, key};
use crate::sync::lock;

/// The server of each scope, as text.
const SERVERS: TableDefinition<&str, &str> = TableDefinition::new("servers");
/// The `max_id` from which rows are reserved next, by scope and tag, which a NUL parts.
const OWED: TableDefinition<&str, i64> = TableDefinition::new("owed");

/// What rows owe, by tag.
type Owed = HashMap<Box<str>, i64>;

impl Watermarks {
    /// The server that an earlier process remembered, and what rows owed then.
    pub fn recall(&self) -> (Option<String>, Owed) {
        let mut file = lock(&self.file);
        let recalled = file.as_mut().map_or_else(|| Ok((None, Owed::new())), File::recall);
        recalled.unwrap_or_else(|cause| {
            warn!(%cause, "the watermark file does not say which server it is of");
            (None, Owed::new())
        })
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
        let mut file = lock(&self.file);
        let Some(file) = file.as_mut() else { return true };
        let done = work(file);
        if let Err(cause) = &done {
            // redb refuses everything after an error, until the file is opened anew.
            file.database = None;
            debug!(%cause, "the watermark file cannot be written: {otherwise}");
        }
        done.is_ok()
    }
}

impl File {
    fn recall(&mut self) -> Result<(Option<String>, Owed), WatermarkError> {
        let prefix = key(&self.scope, "");
        let scope = self.scope.clone();
        let database = self.database()?;
        make_tables(database)?;
        let reading = database.begin_read()?;
        let server = reading.open_table(SERVERS)?.get(scope.as_str())?.map(|text| text.value().to_owned());
        let mut owed = Owed::new();
        for entry in reading.open_table(OWED)?.range(prefix.as_str()..)? {
            let (key, first_allowed) = entry?;
            let Some(tag) = key.value().strip_prefix(&*prefix) else { break };
            owed.insert(tag.into(), first_allowed.value());
        }
        Ok((server, owed))
    }

    fn remember(&mut self, server: &str, owed: Option<&Owed>) -> Result<(), WatermarkError> {
        let prefix = key(&self.scope, "");
        let scope = self.scope.clone();
        let writing = self.database()?.begin_write()?;
        {
            writing.open_table(SERVERS)?.insert(scope.as_str(), server)?;
            if let Some(owed) = owed {
                let mut table = writing.open_table(OWED)?;
                table.retain(|key, _| !key.starts_with(&prefix))?;
                for (tag, first_allowed) in owed {
                    table.insert(key(&scope, tag).as_str(), *first_allowed)?;
                }
            }
        }
        Ok(writing.commit()?)
    }

    fn forget_debt(&mut self, tag: &str) -> Result<(), WatermarkError> {
        let key = key(&self.scope, tag);
        let writing = self.database()?.begin_write()?;
        writing.open_table(OWED)?.remove(key.as_str())?;
        Ok(writing.commit()?)
    }
}

fn make_tables(database: &Database) -> Result<(), WatermarkError> {
    let writing = database.begin_write()?;
    writing.open_table(SERVERS)?;
    writing.open_table(OWED)?;
    Ok(writing.commit()?)
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
