//! What an operator does to a row, from the shell and through the operator's port: which statements, in which order, and
//! what is known of them when one fails.
//!
//! Each begins with a look at the row, so an error of that changes nothing. `watermark` is what the asking server was
//! granted of the tag, where there is such a server: what goes below that would be refused, or handed out twice.

use idalloc_core::store::tag::{check_raise, check_room, check_watermark};
use idalloc_core::store::{InvalidField, StoreError, TagDetails, TagStore};

/// New values of a row; `None` leaves one as it is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// The smallest reservation, in IDs.
    pub step: Option<i64>,
    /// What the tag is for.
    pub description: Option<String>,
    /// The end of the newest reservation.
    pub max_id: Option<i64>,
}

/// How far to advance a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// As far as an operator says, who is told if the row is there already.
    To(i64),
    /// To the watermark, which the row may have passed meanwhile.
    ToWatermark(i64),
}

/// A row before and after a change. A server may have reserved from it in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// As it was.
    pub before: TagDetails,
    /// As it is.
    pub after: TagDetails,
    /// Whether `max_id` was raised, and not by a reservation.
    pub raised: bool,
}

/// Why a change was not made, or not altogether.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such row (any more).
    #[error("the table has no such tag")]
    UnknownTag,
    /// The value does not go with what is in the table, or was granted.
    #[error(transparent)]
    Conflict(InvalidField),
    /// The store did not do it.
    #[error("{}", told(cause, *part, done))]
    Store {
        /// Why.
        cause: StoreError,
        /// What was to be changed; `None`: the row was only looked at.
        part: Option<&'static str>,
        /// What was changed before.
        done: Vec<&'static str>,
    },
}

impl ChangeError {
    /// Whether something may have been changed all the same.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Store { cause, part: Some(_), .. } if is_unknown(cause))
    }
}

fn is_unknown(cause: &StoreError) -> bool {
    matches!(cause, StoreError::Unavailable(_) | StoreError::Unexpected(_))
}

fn told(cause: &StoreError, part: Option<&str>, done: &[&str]) -> String {
    let mut text = cause.to_string();
    if let Some(part) = part.filter(|_| is_unknown(cause)) {
        text += &format!("; whether {part} was changed all the same is unknown");
    }
    if !done.is_empty() {
        text += &format!("; of the tag was changed before: {}", done.join(", "));
    }
    text
}

/// The tag's row.
///
/// # Errors
/// Any [`ChangeError`] but `Conflict`.
pub fn find(store: &mut dyn TagStore, tag: &str) -> Result<TagDetails, ChangeError> {
    Row::of(store, tag).find()
}

/// Adds a row; returns it as the table has it.
///
/// # Errors
/// Any [`ChangeError`].
pub fn add(
    store: &mut dyn TagStore,
    new: &TagDetails,
    watermark: Option<i64>,
) -> Result<TagDetails, ChangeError> {
    let mut row = Row::of(store, &new.name);
    match row.find() {
        Err(ChangeError::UnknownTag) => {}
        Ok(existing) => return Err(row.error(StoreError::TagExists(existing.name), None)),
        Err(error) => return Err(error),
    }
    check_watermark("start", new.max_id, watermark).map_err(ChangeError::Conflict)?;
    row.change("the row", |store, _| store.insert(new))?;
    row.find()
}

/// Changes a row, a statement for each column: what may fail for a reason of its own goes first.
///
/// # Errors
/// Any [`ChangeError`].
pub fn change(
    store: &mut dyn TagStore,
    tag: &str,
    change: &RowChange,
    watermark: Option<i64>,
) -> Result<Changed, ChangeError> {
    let mut row = Row::of(store, tag);
    let before = row.find()?;
    if let Some(max_id) = change.max_id {
        let step = change.step.unwrap_or(before.step);
        check_target("max_id", max_id, before.max_id, step, watermark)?;
    }
    if let Some(description) = &change.description {
        row.change("description", |store, tag| store.set_description(tag, description))?;
    }
    if let Some(step) = change.step {
        row.change("step", |store, tag| store.set_step(tag, step))?;
    }
    let raised = match change.max_id {
        Some(max_id) => row.change("max_id", |store, tag| store.raise(tag, max_id))?,
        None => false,
    };
    Ok(Changed { before, after: row.find()?, raised })
}

/// Raises a row's `max_id` to where IDs were granted before, after the store has lost commits.
///
/// # Errors
/// Any [`ChangeError`].
pub fn advance(
    store: &mut dyn TagStore,
    tag: &str,
    to: Advance,
    watermark: Option<i64>,
) -> Result<Changed, ChangeError> {
    let mut row = Row::of(store, tag);
    let before = row.find()?;
    let to = match to {
        Advance::To(to) => {
            check_target("to", to, before.max_id, before.step, watermark)?;
            to
        }
        Advance::ToWatermark(watermark) => watermark,
    };
    let raised = row.change("max_id", |store, tag| store.raise(tag, to))?;
    Ok(Changed { before, after: row.find()?, raised })
}

/// Deletes a row; returns it as it was.
///
/// # Errors
/// Any [`ChangeError`] but `Conflict`.
pub fn delete(store: &mut dyn TagStore, tag: &str) -> Result<TagDetails, ChangeError> {
    let mut row = Row::of(store, tag);
    let before = row.find()?;
    row.change("the row", |store, tag| store.delete(tag))?;
    Ok(before)
}

/// Whether an operator may raise a row's `max_id` from `present` to `to`.
fn check_target(
    field: &'static str,
    to: i64,
    present: i64,
    step: i64,
    watermark: Option<i64>,
) -> Result<(), ChangeError> {
    check_raise(field, present, to)
        .and_then(|()| check_room(field, present, to, step))
        .and_then(|()| check_watermark(field, to, watermark))
        .map_err(ChangeError::Conflict)
}

/// One row, and what was done to it so far.
struct Row<'a> {
    store: &'a mut dyn TagStore,
    tag: &'a str,
    done: Vec<&'static str>,
}

impl<'a> Row<'a> {
    fn of(store: &'a mut dyn TagStore, tag: &'a str) -> Row<'a> {
        Row { store, tag, done: Vec::new() }
    }

    fn find(&mut self) -> Result<TagDetails, ChangeError> {
        let found = self.store.find(self.tag).and_then(|row| row.ok_or(StoreError::UnknownTag));
        found.map_err(|cause| self.error(cause, None))
    }

    /// Runs the statement that changes `part`.
    fn change<T>(
        &mut self,
        part: &'static str,
        statement: impl FnOnce(&mut dyn TagStore, &str) -> Result<T, StoreError>,
    ) -> Result<T, ChangeError> {
        match statement(self.store, self.tag) {
            Ok(outcome) => {
                self.done.push(part);
                Ok(outcome)
            }
            Err(cause) => Err(self.error(cause, Some(part))),
        }
    }

    fn error(&self, cause: StoreError, part: Option<&'static str>) -> ChangeError {
        match cause {
            StoreError::UnknownTag if self.done.is_empty() => ChangeError::UnknownTag,
            cause => ChangeError::Store { cause, part, done: self.done.clone() },
        }
    }
}
