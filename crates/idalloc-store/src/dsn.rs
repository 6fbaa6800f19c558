//! DSN text -> which store, where, and how.
//!
//! | form | names |
//! | --- | --- |
//! | `[user[:password]@][protocol[(address)]]/database[?param=value&..]` | MySQL, as go-sql-driver writes it |
//! | `mysql://[user[:password]@]host[:port][,host[:port]..]/database[?param=value&..]` | MySQL, as a URL |
//! | `sqlite:PATH`, `sqlite://PATH` | one SQLite file |
//!
//! In go-sql-driver's form user and password are taken as they stand, in the URL they are percent-decoded; the
//! database and the parameters are percent-decoded in both. Any character may be part of a password, because the
//! **last** `@` of the text ends the credentials: an `@` further right, in a parameter, is written `%40`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(feature = "mysql")]
pub use crate::mysql::dsn::{Endpoint, MySqlDsn, Tls};

/// Which store, where, and how. `Display` is for logs: it shows neither user nor password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dsn {
    /// A MySQL or MariaDB server, or several that stand in for each other.
    #[cfg(feature = "mysql")]
    MySql(MySqlDsn),
    /// An SQLite file.
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteDsn),
}

/// Which SQLite file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteDsn {
    /// Its path.
    pub path: PathBuf,
    /// Whether it may be on a file system whose locks and shared memory are not to be relied on.
    pub any_file_system: bool,
}

impl<P: Into<PathBuf>> From<P> for SqliteDsn {
    /// On a file system that can be relied on.
    fn from(path: P) -> Self {
        Self { path: path.into(), any_file_system: false }
    }
}

/// Text that `Debug` hides and that has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who logs in with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What is wrong with a DSN. Only parameters are quoted, and only once the text before them is well-formed: in a
/// malformed DSN the password may be anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// Nothing follows the last `/`, or there is none.
    #[error(
        "the database is missing: write `user:password@tcp(host:port)/database`, \
         `mysql://user:password@host:port/database` or `sqlite:PATH` (an `@` in a parameter is written %40)"
    )]
    MissingDatabase,
    /// What stands between the credentials and the database is no known protocol.
    #[error(
        "unknown protocol: between the last `@` and the `/` before the database write `tcp(host:port)`, \
         `unix(path)` or nothing (an `@` in a parameter is written %40)"
    )]
    UnknownProtocol,
    /// The address lacks its closing parenthesis.
    #[error("the address is not closed: write `tcp(host:port)/database` or `unix(path)/database`")]
    AddressNotClosed,
    /// No host before the port, or between two commas.
    #[error("host number {number} is empty: write `host`, `host:port` or `[IPv6 address]:port`")]
    EmptyHost {
        /// Which one of the list, from 1.
        number: usize,
    },
    /// Neither a name nor an address.
    #[error(
        "host number {number} is neither a name of letters, digits, `.`, `-` and `_` nor an address such as `[::1]`"
    )]
    BadHost {
        /// Which one of the list, from 1.
        number: usize,
    },
    /// No port number.
    #[error(
        "host number {number} has a bad port: allowed is 1 to 65535 (write an IPv6 address as `[::1]:3306`)"
    )]
    BadPort {
        /// Which one of the list, from 1.
        number: usize,
    },
    /// A `%` that no two hexadecimal digits follow, or bytes that are no UTF-8.
    #[error("the {part} has a bad percent-encoding: allowed is UTF-8, a percent sign itself is written %25")]
    BadPercentEncoding {
        /// The part of the DSN, or the parameter.
        part: String,
    },
    /// A character that would cut the text short on its way to the server, or forge a line in a log.
    #[error("the {part} has a control character")]
    ControlCharacter {
        /// The part of the DSN.
        part: &'static str,
    },
    /// A parameter's value is not one of those allowed.
    #[error("parameter {name} is {value:?}: allowed is {allowed}")]
    BadParam {
        /// The parameter.
        name: String,
        /// Its value, decoded.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// No such parameter.
    #[error(
        "unknown parameter {0:?}: allowed are timeout, readTimeout, writeTimeout, tls, tls-ca, serverPubKey and, without \
             effect, go-sql-driver's others"
    )]
    UnknownParam(String),
    /// `tls-ca` beside a `tls` that verifies nothing.
    #[error("parameter tls-ca needs tls=true: with any other value no certificate is verified")]
    UnusedTlsCa,
    /// `serverPubKey` beside a `tls` that gives the password to whoever speaks TLS.
    #[error(
        "parameter serverPubKey needs tls=false, or tls=true: with any other value the server may be anybody's, and gets \
         the password through TLS, without that key"
    )]
    UnusedServerKey,
    /// The store would not be one file that is still there after a restart.
    #[error(
        "sqlite: needs the path of a file, without parameters; not `:memory:` nor a `file:` URI, \
         since a store that forgets hands out the same IDs again"
    )]
    BadSqlitePath,
    /// A kind of store that this program was built without.
    #[error("this program was built without {kind}")]
    NotBuilt {
        /// The kind.
        kind: &'static str,
    },
}

impl FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        #[cfg_attr(not(feature = "sqlite"), expect(unused_variables, reason = "no file is opened"))]
        if let Some(path) = text.strip_prefix("sqlite:") {
            #[cfg(feature = "sqlite")]
            return parse_sqlite_path(path).map(|path| Self::Sqlite(path.into()));
            #[cfg(not(feature = "sqlite"))]
            return Err(DsnError::NotBuilt { kind: "SQLite" });
        }
        #[cfg(feature = "mysql")]
        return Ok(Self::MySql(text.parse()?));
        #[cfg(not(feature = "mysql"))]
        Err(DsnError::NotBuilt { kind: "MySQL" })
    }
}

impl Dsn {
    /// Whether the store is a file, which no other server has.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(_) => false,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => true,
        }
    }

    /// Whether a file may be on a file system whose locks and shared memory are not to be relied on.
    #[must_use]
    pub fn allows_any_file_system(&self) -> bool {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(_) => false,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(dsn) => dsn.any_file_system,
        }
    }

    /// Sets that, where the store is a file.
    #[cfg_attr(not(feature = "sqlite"), expect(unused_variables, reason = "there are no files"))]
    pub fn set_any_file_system(&mut self, allowed: bool) {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(_) => {}
            #[cfg(feature = "sqlite")]
            Self::Sqlite(dsn) => dsn.any_file_system = allowed,
        }
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(dsn) => write!(f, "{dsn}"),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(dsn) => write!(f, "sqlite {}", dsn.path.display()),
        }
    }
}

#[cfg(feature = "sqlite")]
fn parse_sqlite_path(text: &str) -> Result<PathBuf, DsnError> {
    let path = text.strip_prefix("//").unwrap_or(text);
    if path.is_empty() || path == ":memory:" || path.starts_with("file:") || path.contains('?') {
        return Err(DsnError::BadSqlitePath);
    }
    Ok(without_controls("path", path.to_owned())?.into())
}

pub(crate) fn without_controls(part: &'static str, text: String) -> Result<String, DsnError> {
    if text.contains(char::is_control) { Err(DsnError::ControlCharacter { part }) } else { Ok(text) }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn sqlite_takes_one_file() {
        for (text, path) in [
            ("sqlite:ids.db", "ids.db"),
            ("sqlite:/var/ids.db", "/var/ids.db"),
            ("sqlite:///var/ids.db", "/var/ids.db"),
            ("sqlite://ids.db", "ids.db"),
            ("sqlite:./:memory:", "./:memory:"),
        ] {
            assert_eq!(text.parse(), Ok(Dsn::Sqlite(path.into())), "{text}");
        }
        for text in [
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite://:memory:",
            "sqlite:file::memory:",
            "sqlite:a?mode=memory",
        ] {
            assert_eq!(text.parse::<Dsn>(), Err(DsnError::BadSqlitePath), "{text}");
        }
    }
}
