//! Where idalloc's IDs come from: one row per tag, in MySQL/MariaDB or in an embedded SQLite file; and the watermark file,
//! which knows what was granted before.
//!
//! [`backend()`] is the store that a [`dsn::Dsn`] names, which opens sessions; [`watermark::open`] opens the file. Each kind of
//! store is a module, a [`Backend`], a variant of [`dsn::Dsn`] and a feature of this crate.

mod backend;
pub mod change;
pub mod dsn;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod table;
pub mod watermark;

use std::ops::RangeInclusive;

use idalloc_core::store::{Floor, StoreError};

pub use backend::{Backend, backend};

/// What `max_id` a row may have for `amount` IDs to be reserved of it.
fn allowed_max_ids(amount: i64, floor: Floor) -> Result<RangeInclusive<i64>, StoreError> {
    if amount < 1 {
        return Err(StoreError::Unexpected(format!("asked to reserve {amount} IDs")));
    }
    let end_max = i64::MAX - amount;
    if !matches!(floor, Floor::Refuse(_)) && floor.first_allowed() > end_max {
        return Err(StoreError::Overflow { max_id: floor.first_allowed() });
    }
    Ok(floor.max_id_min()..=end_max.saturating_sub(floor.ahead()))
}

/// Tells why a reservation changed no row, though there is one, with this `max_id` a moment later.
fn why_not_reserved(max_id: i64, allowed: &RangeInclusive<i64>, ahead: i64) -> StoreError {
    if max_id < *allowed.start() {
        StoreError::GoneBack { max_id }
    } else if max_id > *allowed.end() {
        StoreError::Overflow { max_id: max_id.saturating_add(ahead) }
    } else {
        StoreError::Contended("the row changed meanwhile".into())
    }
}

/// What to tell who adds a row to a table with a column that must be given, and is not one of ours.
const NEEDS_DEFAULT: &str = "a column that idalloc does not write needs a default";

/// What to tell who gives a description to a table that has no column for it.
fn no_description_column(table: &str, column_type: &str) -> String {
    format!("{table} has no such column; run: ALTER TABLE {table} ADD COLUMN description {column_type};")
}
