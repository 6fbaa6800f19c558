//! Which keys of a configuration nobody else may read.

use super::entries::Entries;
use super::store::DSN;
use super::{ConfigError, KEYS, Key};
use crate::dsn::Dsn;

/// The keys of `text`, the content of a config.json, that hold a secret: tokens, and a DSN with a password.
///
/// # Errors
/// Those of [`Config::from_json`](super::Config::from_json) for what is no configuration.
pub fn secrets_in(text: &str) -> Result<Vec<&'static str>, ConfigError> {
    let entries = Entries::parse(text)?;
    let is_secret = |key: &&Key| {
        let is_one = |value| key.is_secret() || key.name() == DSN && has_password(value);
        entries.get(key.name()).is_some_and(is_one)
    };
    Ok(KEYS.iter().filter(is_secret).map(Key::name).collect())
}

/// Whether there may be a password in it: one that is no DSN may be a slip of the pen.
fn has_password(dsn: &serde_json::Value) -> bool {
    match dsn.as_str().map(str::parse::<Dsn>) {
        Some(Ok(Dsn::MySql(dsn))) => !dsn.password.expose().is_empty(),
        Some(Ok(Dsn::Sqlite(_))) => false,
        Some(Err(_)) | None => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_and_passwords_are_secrets() {
        for (config, expected) in [
            (json!({}), &[][..]),
            (json!({"DSN": "sqlite:ids.db", "HttpPort": 1, "AdminNames": ["a"]}), &[]),
            (json!({"DSN": "root@tcp(h)/db"}), &[]),
            (json!({"DSN": "root:p@tcp(h)/db"}), &["DSN"]),
            (json!({"DSN": "root:p@tcp(h"}), &["DSN"]),
            (json!({"AdminToken": "t", "AccessTokens": {}}), &["AccessTokens", "AdminToken"]),
        ] {
            assert_eq!(secrets_in(&config.to_string()).as_deref(), Ok(expected), "{config}");
        }
        assert_eq!(secrets_in("\"root:p@tcp(h)/db\""), Err(ConfigError::NotAnObject));
    }
}
