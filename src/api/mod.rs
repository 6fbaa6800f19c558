//! What can be asked, whatever the protocol: a [`Command`] goes in, a [`Reply`] or an [`Error`] comes out.
//!
//! A protocol turns bytes into commands, and replies into bytes. Who may ask, for what and how much is decided here, once. This
//! module knows no status code, no header and no body.

pub mod access;
pub mod admission;
mod error;
pub mod rate_limit;
pub mod values;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use crate::alloc::tag::TagHandle;
use crate::alloc::{AllocError, Fault, Granted, Handle, Health, Ids, Outcome, Pending, Want};
use crate::config::{ApiLimits, ApiSection};
use crate::segment::IdRange;

use access::{Access, Grant};
use admission::Admission;
use waits::Wait;

pub use error::{Error, ErrorKind};
pub use waits::Waits;

/// What can be asked. A `tag` is one that [`values::tag`] allows, a `count` one that [`values::count`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// One ID.
    NextId {
        /// Of this tag.
        tag: &'a str,
    },
    /// IDs, in as many ranges as it takes.
    Batch {
        /// Of this tag.
        tag: &'a str,
        /// So many: 1 to `batch_max` of the limits.
        count: u64,
    },
    /// A range that the caller hands out itself.
    Lease {
        /// Of this tag.
        tag: &'a str,
        /// So long: 1 to `lease_max` of the limits.
        count: u64,
    },
    /// How many IDs are in memory. Takes none.
    Left {
        /// Of this tag.
        tag: &'a str,
    },
}

impl<'a> Command<'a> {
    fn tag(&self) -> &'a str {
        match self {
            Self::NextId { tag } | Self::Batch { tag, .. } | Self::Lease { tag, .. } | Self::Left { tag } => {
                tag
            }
        }
    }

    /// How many IDs it takes.
    fn ids(&self) -> u64 {
        match self {
            Self::NextId { .. } => 1,
            Self::Batch { count, .. } | Self::Lease { count, .. } => *count,
            Self::Left { .. } => 0,
        }
    }

    fn want(&self) -> Want {
        match self {
            Self::NextId { .. } => Want::Ids(1),
            Self::Batch { count, .. } => Want::Ids(*count),
            Self::Lease { count, .. } => Want::Lease(*count),
            Self::Left { .. } => Want::Left,
        }
    }
}

/// What is granted.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// The one ID.
    Id(i64),
    /// The IDs of a batch.
    Ids(Ids),
    /// The range of a lease.
    Lease(IdRange),
    /// How many IDs are left in memory: at least 1.
    Left(u64),
}

/// What a command comes to.
pub enum Asked {
    /// The end of it.
    Now(Result<Reply, Error>),
    /// To be polled with [`Api::poll`] for at most `alloc_timeout` of the limits, then [`Api::give_up`].
    Later(Waiting),
}

/// A command that waits for IDs.
pub struct Waiting {
    pending: Pending,
    tag: Box<str>,
    is_single: bool,
    _wait: Wait,
}

/// Who asks: what the token is good for, or nobody in particular where no tokens are asked for.
#[derive(Clone, Copy)]
pub struct Caller<'a>(Option<&'a Grant>);

/// What all workers share, whatever they speak.
#[derive(Debug)]
pub struct Service {
    /// What a command may ask for.
    pub limits: ApiLimits,
    /// Set when the server is told to stop: from then on it is not healthy, and commands are served on.
    pub draining: AtomicBool,
    /// Who may have IDs; `None`: everybody.
    pub access: Option<Access>,
    /// How many IDs may be taken; `None`: as many as are asked for.
    pub admission: Option<Admission>,
    /// Commands that had to wait.
    pub waits: Arc<Waits>,
}

impl Service {
    /// As the configuration has it.
    pub fn new(config: &ApiSection) -> Self {
        Self {
            limits: config.limits,
            draining: AtomicBool::default(),
            access: config.tokens.as_ref().map(Access::new),
            admission: Admission::new(config),
            waits: Arc::default(),
        }
    }

    /// Whether the server was told to stop: every answer is then the last on its connection.
    pub fn is_draining(&self) -> bool {
        // Relaxed: nothing else is learned from it, and a request more or less does not matter.
        self.draining.load(Relaxed)
    }

    /// Who has `token`; if no tokens are asked for, it is not looked at.
    ///
    /// # Errors
    /// There is no such token, or none was given.
    #[inline]
    pub fn caller(&self, token: Option<&[u8]>) -> Result<Caller<'_>, Error> {
        match &self.access {
            None => Ok(Caller(None)),
            Some(access) => {
                let grant = token.and_then(|token| access.grant(token)).ok_or_else(Error::no_token)?;
                Ok(Caller(Some(grant)))
            }
        }
    }

    /// Whether what `caller` takes of `tag` is limited, so that each command must be looked at.
    pub fn is_limited(&self, caller: Caller<'_>, tag: &str) -> bool {
        self.admission.as_ref().is_some_and(|admission| admission.limits(tag, caller.0))
    }
}

impl Default for Service {
    /// Everybody may have as many IDs as they ask for.
    fn default() -> Self {
        Self::new(&ApiSection::default())
    }
}

impl Caller<'_> {
    /// Looks whether the caller may have IDs of `tag`. Whether there is such a tag is not looked at before.
    ///
    /// # Errors
    /// The token is not for this tag.
    #[inline]
    pub fn insist_on(self, tag: &str) -> Result<(), Error> {
        if self.0.is_none_or(|grant| grant.allows(tag)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forbidden, format!("the token is not for app_tag '{tag}'")))
    }
}

/// A worker's end: commands in, replies out.
pub struct Api {
    handle: Handle,
    service: Arc<Service>,
}

impl Api {
    /// An end that claims through `handle`.
    pub fn new(handle: Handle, service: Arc<Service>) -> Self {
        Self { handle, service }
    }

    /// As [`Handle::forget_gone`].
    pub fn forget_gone(&mut self) -> bool {
        self.handle.forget_gone()
    }

    /// Does what `command` says, or begins to wait for it.
    #[inline]
    pub fn ask(&mut self, caller: Caller<'_>, command: Command<'_>) -> Asked {
        if let Err(error) = self.admit(caller, command) {
            return Asked::Now(Err(error));
        }
        if let Command::NextId { tag } = command
            && let Some(id) = self.handle.next_id(tag)
        {
            return Asked::Now(Ok(Reply::Id(id)));
        }
        self.claim(command)
    }

    /// Looks whether the caller may have the tag, and has the limits of the tag and of the token take the IDs.
    #[inline]
    fn admit(&self, caller: Caller<'_>, command: Command<'_>) -> Result<(), Error> {
        caller.insist_on(command.tag())?;
        match &self.service.admission {
            Some(admission) if command.ids() > 0 => {
                admission.take(command.tag(), caller.0, command.ids(), |tag| self.handle.is_listed(tag))
            }
            _ => Ok(()),
        }
    }

    fn claim(&mut self, command: Command<'_>) -> Asked {
        let is_single = matches!(command, Command::NextId { .. });
        match self.handle.claim(command.tag(), command.want()) {
            Outcome::Granted(granted) => Asked::Now(reply(granted, is_single, command.tag())),
            Outcome::Pending(pending) => {
                let tag = command.tag().into();
                Asked::Later(Waiting { pending, tag, is_single, _wait: self.service.waits.begin() })
            }
        }
    }

    /// Looks whether `waiting` can be answered now; if not, the waker of `cx` is woken when to look again.
    pub fn poll(&mut self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<Result<Reply, Error>> {
        let Waiting { pending, tag, is_single, .. } = waiting;
        self.handle.poll(pending, cx).map(|result| match result {
            Ok(granted) => reply(granted, *is_single, tag),
            Err(error) => Err(claim_error(&error, tag)),
        })
    }

    /// Why a command that has waited for as long as it may gets nothing.
    pub fn give_up(&self, waiting: &Waiting) -> Error {
        let waited_ms = self.service.limits.alloc_timeout.as_millis();
        Error::unavailable(format!("no IDs for app_tag '{}' within {waited_ms} ms; try again", waiting.tag))
    }

    /// Whether the node can serve. Only who `may_know` is told which tags starve.
    ///
    /// # Errors
    /// It cannot, for this reason.
    pub fn health(&self, may_know: bool) -> Result<(), Error> {
        if self.service.is_draining() {
            return Err(Error::unavailable(AllocError::Closed.to_string()));
        }
        match self.handle.health() {
            Health::Serving => Ok(()),
            Health::Starting => {
                Err(Error::unavailable("this server is starting: its tags are not loaded yet"))
            }
            // Nobody needs a token for this, so not everybody may be meant to know the names.
            Health::Starving(_) if !may_know || self.service.access.is_some() => {
                Err(Error::unavailable("an app_tag has no IDs left"))
            }
            Health::Starving(complaints) => Err(Error::unavailable(complaints.join("; "))),
            Health::StoreReplaced => Err(Error::unavailable(Fault::StoreReplaced.to_string())),
            Health::StoreAway => {
                Err(Error::unavailable("no IDs are in memory, and the store does not answer"))
            }
        }
    }

    // ---- for the fast path ----

    /// A way to a tag that was claimed from before, for [`Self::next_id_of`].
    pub fn way_to(&self, tag: &str) -> Option<TagHandle> {
        self.handle.way_to(tag)
    }

    /// One ID, if that takes no more than an addition. Who asks, and how much, is not looked at.
    #[inline]
    pub fn next_id_of(&self, tag: &mut TagHandle) -> Option<i64> {
        self.handle.next_id_of(tag)
    }
}

fn reply(granted: Granted, is_single: bool, tag: &str) -> Result<Reply, Error> {
    match granted {
        Granted::Left(0) => Err(Error::unavailable(format!("app_tag '{tag}' has no IDs left"))),
        Granted::Left(left) => Ok(Reply::Left(left)),
        Granted::Lease(range) => Ok(Reply::Lease(range)),
        Granted::Ids(ids) => match ids.first() {
            Some(first) if is_single => Ok(Reply::Id(first.start)),
            _ => Ok(Reply::Ids(ids)),
        },
    }
}

fn claim_error(error: &AllocError, tag: &str) -> Error {
    match error {
        AllocError::UnknownTag => Error::new(
            ErrorKind::UnknownTag,
            format!("app_tag '{tag}' is unknown: the table has no row for it"),
        ),
        AllocError::Closed => Error::unavailable(error.to_string()),
        AllocError::StoreAway | AllocError::Fault(_) | AllocError::LeaseTooLarge => {
            Error::unavailable(format!("app_tag '{tag}' gets no IDs: {error}"))
        }
    }
}
