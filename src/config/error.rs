//! What may be wrong with a configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::operator::{ADMIN_TOKEN_VARIABLE, TOKEN_ALLOWED};
use super::store::{DSN_ALLOWED, DSN_VARIABLE};
use super::{KEYS, Key};
use crate::dsn::DsnError;

/// What is wrong with a configuration. No text quotes a DSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Not JSON, or a key is given twice; says the line and the column.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// Valid or not, the text is no object.
    #[error("not a JSON object: it must begin with a brace")]
    NotAnObject,
    /// No such key.
    #[error("unknown key {name:?}: allowed are {}", known_names())]
    UnknownKey {
        /// The key.
        name: String,
    },
    /// A value of the wrong type, or out of range.
    #[error("{name} is {value}: allowed is {allowed}")]
    BadValue {
        /// The key.
        name: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What it may be, with its unit.
        allowed: String,
    },
    /// A secret value of the wrong type, or out of range.
    #[error("{origin} is not as it must be: allowed is {allowed}")]
    BadSecret {
        /// Where it stands: the key, or the environment variable.
        origin: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// Something is wrong with a limit, or with a token that has one: where, and what is allowed. No token is quoted.
    #[error("{0}")]
    BadLimit(String),
    /// Who can reach the operator's port could do anything with it.
    #[error(
        "AdminHost is {host}, which others can reach: set AdminToken to {} (or set {ADMIN_TOKEN_VARIABLE}, or AdminTokens), or AdminPort to 0 for no operator's port",
        TOKEN_ALLOWED
    )]
    AdminTokenMissing {
        /// `AdminHost`.
        host: IpAddr,
    },
    /// Neither the file nor the environment names a store.
    #[error("DSN is missing: it must be {} (or set {DSN_VARIABLE})", DSN_ALLOWED)]
    DsnMissing,
    /// The DSN is no string.
    #[error("DSN is not a string: it must be {}", DSN_ALLOWED)]
    DsnNotText,
    /// The DSN is a string, but not a DSN.
    #[error("{origin}: {reason}")]
    BadDsn {
        /// Where it stands: the key, or the environment variable.
        origin: &'static str,
        /// What is wrong with it.
        reason: DsnError,
    },
}

fn known_names() -> String {
    KEYS.iter().map(Key::name).collect::<Vec<_>>().join(", ")
}

pub(super) fn bad_value(name: &'static str, given: Option<&Value>, allowed: String) -> ConfigError {
    ConfigError::BadValue { name, value: given.map_or("absent".to_owned(), Value::to_string), allowed }
}
