//! config.json -> a [`Config`] that cannot be wrong.
//!
//! Each section is a module with a row for each of its keys: name, type, range, default and what it is for. What reads,
//! shows and lists the keys follows from the rows; see `section.rs`.

mod admin_tokens;
mod allocator;
mod api;
mod entries;
mod error;
mod http;
mod limits;
mod log;
mod operator;
mod origins;
mod rules;
mod secrets;
mod section;
mod store;

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value};

pub use idalloc_store::table::{Identifier, TableSpec};

use entries::Entries;
use section::{Section as _, Source, section};

pub use admin_tokens::AdminTokens;
pub use allocator::AllocatorSection;
pub use api::{ApiLimits, ApiSection};
pub use error::ConfigError;
pub use http::{EngineLimits, HttpEngine, HttpSection};
pub use limits::{AccessScope, AccessToken, AccessTokens, RATE_MAX, RateLimit, TagLimits};
pub use log::{LogFormat, LogSection};
pub use operator::{ADMIN_TOKEN_VARIABLE, OperatorSection};
pub use origins::CorsOrigins;
pub use secrets::secrets_in;
pub use section::Key;
pub use store::{DSN_VARIABLE, StoreSection};

/// What is served when no file says otherwise.
const EMBEDDED: &str = r#"{"DSN": "sqlite:idalloc.db"}"#;

/// Every key of config.json.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(Config::keys);

section! {
    /// How this process is set up. `Debug` hides the DSN's password and the tokens.
    pub struct Config {}
    and {
        /// Where segments come from.
        pub store: StoreSection;
        /// What clients may ask for.
        pub api: ApiSection;
        /// The clients' port.
        pub http: HttpSection;
        /// What reserves segments, and hands out their IDs.
        pub allocator: AllocatorSection;
        /// The log.
        pub log: LogSection;
        /// The operator's port.
        pub operator: OperatorSection;
    }
}

impl Config {
    /// Reads the file at `path`, and the process's environment.
    ///
    /// # Errors
    /// [`ConfigError::Read`], and those of [`Self::from_json`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), reason: error.to_string() })?;
        Self::from_json(&text, &process_env)
    }

    /// The configuration of a server that was given no file: an SQLite file in the working directory unless `env`
    /// names a store, and every default.
    ///
    /// # Errors
    /// [`ConfigError::BadDsn`] if the environment's DSN is faulty.
    pub fn embedded(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::from_json(EMBEDDED, env)
    }

    /// Reads `text`, the content of a config.json; `env` gives an environment variable's value.
    ///
    /// # Errors
    /// Any [`ConfigError`] but `Read`.
    pub fn from_json(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let source = Source { entries: Entries::parse(text)?, env };
        let mut config = Self::read(&source)?;
        config.store.settle(&source);
        config.operator.settle()?;
        Ok(config)
    }

    /// Every key with its value in use, for operators. Of secrets it only says whether there are any.
    pub fn shown(&self) -> Value {
        let mut shown = Map::new();
        self.show(&mut shown);
        shown.into()
    }
}

/// The process's environment, for [`Config::embedded`] and [`Config::from_json`].
pub fn process_env(name: &str) -> Option<String> {
    // A value that is no UTF-8 must not pass for an absent one: the server would start with another store.
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod fixtures {
    use serde_json::json;

    use super::*;

    pub const FILE_DSN: &str = "sqlite:a.db";
    pub const TOKEN: &str = "0123456789abcdef";

    pub fn no_env(_: &str) -> Option<String> {
        None
    }

    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::from_json(text, &no_env)
    }

    pub fn with(name: &str, value: &Value) -> Result<Config, ConfigError> {
        parse(&json!({"DSN": FILE_DSN, name: value}).to_string())
    }

    pub fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }
}

#[cfg(test)]
mod tests;
