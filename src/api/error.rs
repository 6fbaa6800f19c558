//! Why a command gets nothing.

use super::admission::LimitedBy;

/// An error, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind of error it is: a protocol has a code for each.
    pub kind: ErrorKind,
    /// What is wrong, and what is allowed. Quotes no token.
    pub message: String,
}

/// The kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A value is missing, or not allowed.
    Invalid,
    /// A token is needed.
    NoToken,
    /// The token is not for this tag.
    Forbidden,
    /// There is no such tag.
    UnknownTag,
    /// Too much was taken lately.
    Limited {
        /// Which limit that is over.
        by: LimitedBy,
        /// When to try again.
        retry_after_s: u64,
    },
    /// This server cannot serve this now; another one may.
    Unavailable,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A value is missing, or not allowed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// This server cannot serve this now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub(super) fn no_token() -> Self {
        let message = "a token is needed: give it as Authorization: Bearer, or as the parameter token";
        Self::new(ErrorKind::NoToken, message)
    }
}
