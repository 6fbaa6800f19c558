//! Where segments come from: a table with one row per tag.
//!
//! A [`SegmentStore`] is one session with the store. It blocks, so it belongs to one thread, and it
//! (re)connects by itself: a caller only ever sees the result of what it asked for.

pub mod report;
pub mod rows;
pub mod server;
pub mod tag;

use std::sync::Arc;

use self::report::Finding;
use self::server::Server;

pub use report::StoreReport;
pub use rows::{Rows, UnreadableRow};
pub use tag::{InvalidField, TagDetails};

/// The most rows that [`SegmentStore::list_tags`] is ever asked for; a table may hold more, the rest is not served.
pub const TAGS_MAX: usize = 1_000_000;

/// The most tags that [`SegmentStore::look_up`] is ever asked for at once.
pub const LOOK_UP_MAX: usize = 256;

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// The tag, exactly as stored.
    pub name: String,
    /// The row's smallest reservation, in IDs; what the operator wrote, so it may be zero or negative.
    pub step: i64,
    /// The end of the newest reservation.
    pub max_id: i64,
}

/// The end of the newest range that a row was reserved, which nobody was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest<'a> {
    /// The row's tag.
    pub tag: &'a str,
    /// The range's end, and the row's `max_id` unless others have changed it.
    pub end: i64,
    /// What `max_id` goes down to.
    pub first_unclaimed: i64,
}

/// What a reservation does with a row whose `max_id` is lower than it may be. Neither number is negative: no row that
/// was ever handed out from is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// A row below this stays as it is: the reservation is refused.
    Refuse(i64),
    /// A row below this is raised to it, and reserved from there.
    Raise(i64),
    /// The row is raised by so many IDs, and to this at least, and reserved from there.
    Leap {
        /// The lowest ID that may be granted.
        first_allowed: i64,
        /// What the row may lack.
        ahead: i64,
    },
}

impl Floor {
    /// The lowest ID that may be granted.
    #[must_use]
    pub fn first_allowed(self) -> i64 {
        match self {
            Self::Refuse(first) | Self::Raise(first) | Self::Leap { first_allowed: first, .. } => {
                first.max(0)
            }
        }
    }

    /// The lowest `max_id` of a row that may be reserved from.
    #[must_use]
    pub fn max_id_min(self) -> i64 {
        match self {
            Self::Refuse(_) => self.first_allowed(),
            Self::Raise(_) | Self::Leap { .. } => i64::MIN,
        }
    }

    /// By how much the row is raised in any case, beside what is reserved.
    #[must_use]
    pub fn ahead(self) -> i64 {
        match self {
            Self::Refuse(_) | Self::Raise(_) => 0,
            Self::Leap { ahead, .. } => ahead.max(0),
        }
    }
}

/// One session with the store, used by one thread.
pub trait SegmentStore: Send {
    /// The host that the session is connected to; `None` if it is not, or if the store has no hosts.
    fn host(&self) -> Option<&str> {
        None
    }

    /// The server that the session is with; opens one if there is none. The next reservation is made there or not at all:
    /// [`StoreError::Contended`] if it has to go elsewhere. `None` for a store that has no servers.
    ///
    /// # Errors
    /// Those of opening a session.
    fn server(&mut self) -> Result<Option<Arc<Server>>, StoreError> {
        Ok(None)
    }

    /// How far the log of the server was that this table was last read from, in an earlier process: a host that lacks
    /// that is used only if there is no other.
    fn recall(&mut self, _position: &str) {}

    /// From now on, for all sessions: a host will do, though it replicates another or lacks what was seen.
    fn trust_every_server(&mut self) {}

    /// Drops the session, so that the next call opens a new one: no answer that is still on its way to the old one
    /// can be taken for that to a later statement. Does nothing where there is nothing on the way, as in a file.
    fn forget_session(&mut self) {}

    /// From now on, a row that another transaction has locked is [`StoreError::Contended`] at once instead of after a
    /// wait, or after the shortest that the store knows. Does nothing unless a store overrides it.
    fn fail_fast_on_locks(&mut self) {}

    /// From now on the caller tries again by itself, so a file's lock is waited for only briefly: who holds it is soon
    /// named. Does nothing unless a store overrides it.
    fn expect_retries(&mut self) {}

    /// Whether the store takes names of tables, and of databases, that differ only in upper and lower case for the same.
    ///
    /// # Errors
    /// Those of every call.
    fn ignores_case(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Looks whether what the session has open still is what others open under the same name. Asks the operating system
    /// and not the store, so it costs next to nothing. Does nothing unless a store overrides it.
    ///
    /// # Errors
    /// [`StoreError::Replaced`].
    fn verify(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Looks whether the table can be served: it is there, its columns are wide enough, and the settings
    /// that make a commit durable are on.
    ///
    /// # Errors
    /// [`StoreError::Schema`] quotes the statement that mends the table; the others as for every call.
    fn check(&mut self) -> Result<StoreReport, StoreError>;

    /// The first `limit` rows, the most recently used first where the table records that.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UnknownTag` and `Overflow`.
    fn list_tags(&mut self, limit: usize) -> Result<Rows<TagRow>, StoreError>;

    /// The rows of these tags, at most [`LOOK_UP_MAX`]; none for one that the table does not have.
    ///
    /// # Errors
    /// Those of [`Self::list_tags`].
    fn look_up(&mut self, tags: &[&str]) -> Result<Rows<TagRow>, StoreError> {
        Ok(self.list_tags(TAGS_MAX)?.only(tags))
    }

    /// Raises the row's `max_id` by `amount` IDs (at least 1) and returns its new value: the granted range is
    /// `[returned - amount, returned)`, and does not start below `floor`. Returns only after the store acknowledged
    /// the commit.
    ///
    /// # Errors
    /// [`StoreError::GoneBack`] where `floor` refuses the row, which then stays as it is.
    /// After any error the caller owns nothing. Where the outcome is unknown (`Unavailable`, `Unexpected`) the
    /// range may have been reserved in the store all the same; it is then a gap.
    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError>;

    /// Whether the newest reservation failed and may have been made all the same: it was sent, and what came of it is
    /// unknown.
    fn is_in_doubt(&self) -> bool {
        false
    }

    /// Lowers each row's `max_id` from `end` to `first_unclaimed`, if it still is `end`, all of them in one statement or
    /// transaction. Says of each whether it did; false also where that is not known for sure. The tags ascend and differ.
    ///
    /// # Errors
    /// Any [`StoreError`]; the IDs are then a gap, never a duplicate. Nothing was changed after `Contended` and
    /// `UnknownTag`; after the others that is unknown, and the same must not be asked again: a row may have been lowered,
    /// and raised to where it was by somebody else.
    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError>;
}

/// The operator's end of the store: its rows one by one. Tags are compared byte by byte, whatever the column's
/// collation says.
///
/// A change is made by one statement, whose outcome is unknown after `Unavailable` and `Unexpected`. Servers notice it
/// when they read the table next.
pub trait TagStore: SegmentStore {
    /// To be called when the session was idle: one that has ended meanwhile, or whose host takes no writes any more, is
    /// left, and the next call connects anew.
    fn refresh(&mut self) {}

    /// The tag's row.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`]; any other but `UnknownTag` and `Overflow`.
    fn find(&mut self, tag: &str) -> Result<Option<TagDetails>, StoreError>;

    /// The first `limit` rows, as [`SegmentStore::list_tags`] has them, with their descriptions.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UnknownTag` and `Overflow`.
    fn list_details(&mut self, limit: usize) -> Result<Rows<TagDetails>, StoreError>;

    /// Adds a row. A description of `None` leaves it to the column's default.
    ///
    /// # Errors
    /// [`StoreError::TagExists`]; [`StoreError::Invalid`] where a column does not hold the value, or is not there.
    fn insert(&mut self, tag: &TagDetails) -> Result<(), StoreError>;

    /// Raises the row's `max_id` to `to`, if it is below; says whether it did.
    ///
    /// # Errors
    /// Any [`StoreError`]; the row is then as it was, or raised all the same.
    fn raise(&mut self, tag: &str, to: i64) -> Result<bool, StoreError>;

    /// Sets the row's `step`, which must be 1 or more.
    ///
    /// # Errors
    /// [`StoreError::UnknownTag`]; [`StoreError::Invalid`] where the column does not hold the value.
    fn set_step(&mut self, tag: &str, step: i64) -> Result<(), StoreError>;

    /// Sets the row's `description`.
    ///
    /// # Errors
    /// [`StoreError::UnknownTag`]; [`StoreError::Invalid`] where the column does not hold the value, or is not there.
    fn set_description(&mut self, tag: &str, description: &str) -> Result<(), StoreError>;

    /// Deletes the row.
    ///
    /// # Errors
    /// [`StoreError::UnknownTag`].
    fn delete(&mut self, tag: &str) -> Result<(), StoreError>;

    /// Looks whether the account may do more than idalloc needs. Nothing to look at unless a store overrides it.
    ///
    /// # Errors
    /// Those of every call.
    fn check_account(&mut self) -> Result<Vec<Finding>, StoreError> {
        Ok(Vec::new())
    }

    /// Makes a database that is a file, with its table, if there is no such file; says whether it did. What a server does at
    /// its start, and only then: a file that goes missing later must not begin anew.
    ///
    /// # Errors
    /// Those of every call.
    fn create_missing_file(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Makes the database and the table where they are not there; what is there stays as it is.
    ///
    /// # Errors
    /// Those of every call; what was made before stays.
    fn create_table(&mut self) -> Result<Created, StoreError>;
}

/// What [`TagStore::create_table`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The database, or the file.
    pub database: bool,
    /// The table.
    pub table: bool,
}

/// Why the store did not do what it was asked. The texts are for logs and for `idalloc check`, never for clients;
/// they may name a host, never a user's password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not connected, connection lost, or no answer in time: the session is dropped and the outcome is unknown.
    #[error("store unreachable: {0}")]
    Unavailable(String),
    /// This host takes no writes (a replica, or a primary after a failover): the next host is tried.
    #[error("store is read-only: {0}")]
    ReadOnly(String),
    /// Rolled back in favour of somebody else (deadlock, lock wait, not ready): the same may be tried again.
    #[error("store is busy: {0}")]
    Contended(String),
    /// No row has this tag.
    #[error("no row for this tag")]
    UnknownTag,
    /// The row is below the floor of a reservation, and was left as it is.
    #[error("max_id is {max_id}, below what was granted before")]
    GoneBack {
        /// The row's present value.
        max_id: i64,
    },
    /// The tag's row is there, and something in it is not what it must be.
    #[error("the table has a row for this tag that cannot be read: {0}")]
    Unreadable(String),
    /// `max_id` plus the amount would not fit 64 bits.
    #[error("max_id is {max_id}: the amount asked for does not fit below 2^63")]
    Overflow {
        /// The row's present value; `i64::MAX - max_id` IDs are left.
        max_id: i64,
    },
    /// A row has this tag already, or one that the column's collation takes for the same.
    #[error("tag {0:?} exists already")]
    TagExists(String),
    /// A value that the row may not have, or that its column does not hold.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The table or a column is not as it must be; says which statement mends it.
    #[error("{0}")]
    Schema(String),
    /// The database file may be used by others who do not share its locks: it is not opened.
    #[error("{0}")]
    Unsafe(String),
    /// The path does not lead to the database file that is open: what was granted from it may be granted again by whoever
    /// uses the other one.
    #[error("{0}")]
    Replaced(String),
    /// The store refuses these credentials, or this database.
    #[error("store refuses access: {0}")]
    Denied(String),
    /// An answer that makes no sense here; what it granted is discarded.
    #[error("unexpected answer from the store: {0}")]
    Unexpected(String),
}

impl StoreError {
    /// Whether it is the answer of a store that is as it should be, so that the session may go on.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Contended(_)
            | Self::UnknownTag
            | Self::GoneBack { .. }
            | Self::Unreadable(_)
            | Self::Overflow { .. }
            | Self::TagExists(_)
            | Self::Invalid(_) => true,
            Self::Unavailable(_)
            | Self::ReadOnly(_)
            | Self::Schema(_)
            | Self::Unsafe(_)
            | Self::Replaced(_)
            | Self::Denied(_)
            | Self::Unexpected(_) => false,
        }
    }
}
