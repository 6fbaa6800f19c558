//! AdminToken and AdminTokens: who may use the operator's port, and under which name the log knows them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use subtle::ConstantTimeEq as _;

use super::ConfigError;
use super::limits::is_token;
use super::operator::{ADMIN_TOKEN, ADMIN_TOKEN_VARIABLE, ADMIN_TOKENS, TOKEN_ALLOWED, TOKENS_ALLOWED};
use super::section::Source;
use crate::dsn::Secret;

const TOKENS_MAX: usize = 100;
const NAME_BYTES: std::ops::RangeInclusive<usize> = 1..=64;

/// The operators' tokens. `Debug` hides them.
#[derive(Clone, PartialEq, Default)]
pub struct AdminTokens(pub(super) Vec<(Arc<str>, Secret)>);

impl AdminTokens {
    /// Whether nobody needs a token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds AdminToken, and refuses a token that has two names.
    pub(super) fn add(&mut self, token: Option<Secret>) -> Result<(), ConfigError> {
        self.0.splice(..0, token.map(|token| (ADMIN_TOKEN.into(), token)));
        let distinct: BTreeSet<_> = self.0.iter().map(|(_, token)| token.expose()).collect();
        if distinct.len() < self.0.len() { Err(bad_tokens()) } else { Ok(()) }
    }

    /// Whether there is one of another name.
    pub fn has_other_than(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| **known != *name)
    }

    /// Whose token this is. All are compared, each in constant time: how long it takes says nothing but how many there are
    /// of this length.
    pub fn name_of(&self, given: &[u8]) -> Option<&Arc<str>> {
        let is_it = |secret: &Secret| bool::from(given.ct_eq(secret.expose().as_bytes()));
        self.0.iter().fold(None, |found, (name, secret)| if is_it(secret) { Some(name) } else { found })
    }
}

impl fmt::Debug for AdminTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// AdminToken, of the environment or of the file.
pub(super) fn read_token(name: &'static str, source: &Source<'_>) -> Result<Option<Secret>, ConfigError> {
    // As with the DSN, a secret that was not delivered must not mean that none is needed.
    let (origin, value) = match ((source.env)(ADMIN_TOKEN_VARIABLE), source.get(name)) {
        (Some(text), _) => (ADMIN_TOKEN_VARIABLE, Value::from(text)),
        (None, Some(value)) => (name, value.clone()),
        (None, None) => return Ok(None),
    };
    let token = value.as_str().filter(|text| is_token(text)).map(Secret::new);
    token.map(Some).ok_or(ConfigError::BadSecret { origin, allowed: TOKEN_ALLOWED })
}

/// AdminTokens.
pub(super) fn read_tokens(name: &'static str, source: &Source<'_>) -> Result<AdminTokens, ConfigError> {
    let tokens = source.get(name).map_or_else(|| Some(Vec::new()), named);
    tokens.map(AdminTokens).ok_or_else(bad_tokens)
}

/// Neither names nor tokens are quoted: who mixes them up has given a token as a name.
fn bad_tokens() -> ConfigError {
    ConfigError::BadSecret { origin: ADMIN_TOKENS, allowed: TOKENS_ALLOWED }
}

/// `None` if anything about it is not as it must be.
fn named(value: &Value) -> Option<Vec<(Arc<str>, Secret)>> {
    let tokens = value.as_object().filter(|tokens| (1..=TOKENS_MAX).contains(&tokens.len()))?;
    let entry = |(name, token): (&String, &Value)| {
        let token = token.as_str().filter(|token| is_token(token))?;
        is_name(name).then(|| (name.as_str().into(), Secret::new(token)))
    };
    tokens.iter().map(entry).collect()
}

/// As in the log: no quotes, and no name that AdminToken goes by.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    NAME_BYTES.contains(&text.len()) && text.bytes().all(allowed) && text != ADMIN_TOKEN
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::Config;
    use super::*;

    const TOKEN: &str = "hunter2-hunter2-hunter2";
    const OTHER: &str = "hunter3-hunter3-hunter3";

    fn tokens(keys: Value, env: Option<&str>) -> Result<AdminTokens, String> {
        let mut text = json!({"DSN": "sqlite:a.db"});
        text.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let env = |name: &str| env.filter(|_| name == ADMIN_TOKEN_VARIABLE).map(str::to_owned);
        let config = Config::from_json(&text.to_string(), &env);
        config.map(|config| config.operator.tokens).map_err(|error| error.to_string())
    }

    #[test]
    fn each_token_has_its_name() {
        let given = tokens(json!({"AdminToken": TOKEN, "AdminTokens": {"ann": OTHER}}), None).unwrap();
        let name_of = |token: &str| given.name_of(token.as_bytes()).map(|name| name.to_string());
        assert_eq!((name_of(TOKEN), name_of(OTHER)), (Some("AdminToken".into()), Some("ann".into())));
        for wrong in ["", &TOKEN[1..], &format!("{OTHER}x"), &OTHER.to_uppercase()] {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
        assert!(!format!("{given:?}").contains("hunter"), "{given:?}");
        let only = tokens(json!({"AdminTokens": {"ann": OTHER}}), None).unwrap();
        assert!(!only.is_empty() && only.has_other_than("AdminToken"));
        let both = tokens(json!({"AdminTokens": {"ann": OTHER}}), Some(TOKEN)).unwrap();
        assert_eq!(both.name_of(TOKEN.as_bytes()).map(|name| &**name), Some("AdminToken"));
        assert!(tokens(json!({}), None).unwrap().is_empty());
    }

    #[test]
    fn names_and_tokens_are_checked_and_never_shown() {
        let many: Map<String, Value> =
            (0..=TOKENS_MAX).map(|n| (format!("n{n}"), json!(format!("{TOKEN}{n}")))).collect();
        let long = "x".repeat(65);
        for bad in [
            json!(null),
            json!(TOKEN),
            json!([TOKEN]),
            json!({}),
            json!({"ann": "hunter2"}),
            json!({"ann": 1}),
            json!({"": TOKEN}),
            json!({"an n": TOKEN}),
            json!({"\u{e4}": TOKEN}),
            json!({&long: TOKEN}),
            json!({"AdminToken": TOKEN}),
            json!({"ann": TOKEN, "bob": TOKEN}),
            json!({"ann": OTHER, "bob": TOKEN}),
            json!({TOKEN: "ann"}),
            json!(many),
        ] {
            let error = tokens(json!({"AdminToken": OTHER, "AdminTokens": bad}), None).unwrap_err();
            assert!(error.starts_with("AdminTokens is not as it must be: allowed is an object"), "{error}");
            assert!(!error.contains("hunter"), "{error}");
        }
    }

    #[test]
    fn named_tokens_are_enough_where_others_can_reach_the_port() {
        assert!(tokens(json!({"AdminHost": "0.0.0.0", "AdminTokens": {"ann": TOKEN}}), None).is_ok());
        let error = tokens(json!({"AdminHost": "0.0.0.0"}), None).unwrap_err();
        assert!(error.contains("AdminTokens"), "{error}");
    }
}
