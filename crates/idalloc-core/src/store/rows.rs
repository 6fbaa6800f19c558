//! The rows of a table as they were read, and those among them that cannot be read, or not be asked for.

use std::ops::Deref;

use super::TagRow;
use super::tag::TAG_BYTES_MAX;

/// What a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows<T> {
    /// The rows that can be read.
    pub readable: Vec<T>,
    /// The others.
    pub unreadable: Vec<UnreadableRow>,
}

/// A row of which something is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRow {
    /// The tag; `None` if nobody can ask for it.
    pub name: Option<String>,
    /// What is wrong, which names the tag as far as it can be shown if `name` does not.
    pub reason: String,
}

impl<T> Rows<T> {
    /// No rows.
    #[must_use]
    pub fn new() -> Rows<T> {
        Rows { readable: Vec::new(), unreadable: Vec::new() }
    }

    /// Adds one row.
    pub fn push(&mut self, row: Result<T, UnreadableRow>) {
        match row {
            Ok(row) => self.readable.push(row),
            Err(row) => self.unreadable.push(row),
        }
    }

    /// How many rows there are in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.readable.len() + self.unreadable.len()
    }
}

impl Rows<TagRow> {
    /// Those of exactly these tags: a column's collation may take others for the same.
    #[must_use]
    pub fn only(mut self, tags: &[&str]) -> Self {
        self.readable.retain(|row| tags.contains(&row.name.as_str()));
        self.unreadable.retain(|row| row.name.as_deref().is_some_and(|name| tags.contains(&name)));
        self
    }
}

impl<T> Default for Rows<T> {
    fn default() -> Rows<T> {
        Rows::new()
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(readable: Vec<T>) -> Rows<T> {
        Rows { readable, unreadable: Vec::new() }
    }
}

impl<T> Deref for Rows<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.readable
    }
}

impl<T> IntoIterator for Rows<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.readable.into_iter()
    }
}

/// Looks whether the tag in a row can be asked for.
///
/// # Errors
/// It cannot.
pub fn askable_name(name: &str) -> Result<(), UnreadableRow> {
    match name.len() {
        1..=TAG_BYTES_MAX => Ok(()),
        bytes => Err(UnreadableRow {
            name: None,
            reason: format!(
                "the tag {} has {bytes} bytes; allowed is 1 to {TAG_BYTES_MAX}",
                super::tag::quoted(name)
            ),
        }),
    }
}

/// A row whose tag is no text.
#[must_use]
pub fn no_text(bytes: &[u8]) -> UnreadableRow {
    let shown = super::tag::quoted(&String::from_utf8_lossy(bytes));
    UnreadableRow { name: None, reason: format!("the tag {shown} is no UTF-8") }
}

/// A row without a tag.
#[must_use]
pub fn null_tag() -> UnreadableRow {
    UnreadableRow { name: None, reason: "the tag of a row is NULL".to_owned() }
}
