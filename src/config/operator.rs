//! The operator's port: where it listens, and who may use it.

use std::net::IpAddr;

use super::admin_tokens::{self, AdminTokens};
use super::error::ConfigError;
use super::rules::{Integer, List, Secret, address, parse_host_name};
use super::section::section;
use crate::dsn;

/// The environment variable that overrides the key `AdminToken`, so that it need not be in a file.
pub const ADMIN_TOKEN_VARIABLE: &str = "IDALLOC_ADMIN_TOKEN";

pub(super) const ADMIN_TOKEN: &str = "AdminToken";
pub(super) const ADMIN_TOKENS: &str = "AdminTokens";
pub(super) const TOKEN_ALLOWED: &str = "16 to 256 visible ASCII characters";
pub(super) const TOKENS_ALLOWED: &str = "an object of 1 to 100 names, each 1 to 64 of A-Z a-z 0-9 . _ @ - and not AdminToken, each with a token of its own, 16 to 256 visible ASCII characters";

section! {
    /// How the operator's port is set up.
    pub struct OperatorSection {
        /// The operator's port: the address to listen on; one that others can reach needs AdminToken.
        pub host: IpAddr = "AdminHost", address("127.0.0.1");
        /// The operator's port.
        pub port: u16 = "AdminPort", Integer::new(8881, 0..=65_535, "(0: none)");
        /// What an operator must present; `IDALLOC_ADMIN_TOKEN` overrides it.
        pub(super) token: Option<dsn::Secret> = ADMIN_TOKEN, Secret {
            allowed: TOKEN_ALLOWED,
            read: admin_tokens::read_token,
            is_set: Option::is_some,
        };
        /// More operators' tokens, by name: the log says whose token made a change.
        // With AdminToken under its own name. There is one when others can reach the port.
        pub tokens: AdminTokens = ADMIN_TOKENS, Secret {
            allowed: TOKENS_ALLOWED,
            read: admin_tokens::read_tokens,
            is_set: |tokens| tokens.has_other_than(ADMIN_TOKEN),
        };
        /// The operator's port: its names besides its IP addresses and localhost; requests under another name are
        /// refused.
        // In lower case.
        pub names: Vec<String> = "AdminNames", List {
            len_max: 100,
            allowed: "an array of up to 100 host names",
            read: parse_host_name,
        };
        /// The most tags with their own series in `/metrics`; the others are summed.
        pub metrics_tags: usize = "MetricsTags", Integer::new(50, 0..=1000, "tags");
    }
}

impl OperatorSection {
    /// Whether there is an operator's port.
    pub fn is_on(&self) -> bool {
        self.port != 0
    }

    /// Puts all tokens together, and refuses a port that would be everybody's.
    pub(super) fn settle(&mut self) -> Result<(), ConfigError> {
        self.tokens.add(self.token.clone())?;
        if self.is_on() && self.tokens.is_empty() && !self.host.is_loopback() {
            return Err(ConfigError::AdminTokenMissing { host: self.host });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Config;
    use super::super::fixtures::{FILE_DSN, TOKEN};
    use super::*;
    use crate::dsn::Secret;

    fn operator(keys: Value, env: Option<&str>) -> Result<OperatorSection, String> {
        let mut text = json!({"DSN": FILE_DSN});
        text.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let env = |name: &str| env.filter(|_| name == "IDALLOC_ADMIN_TOKEN").map(str::to_owned);
        Config::from_json(&text.to_string(), &env)
            .map(|config| config.operator)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_operators_port_needs_a_token_where_others_can_reach_it() {
        for (host, others_can) in [
            ("localhost", false),
            ("127.0.0.9", false),
            ("::1", false),
            ("0.0.0.0", true),
            ("10.0.0.1", true),
        ] {
            let with = |token: Value| operator(json!({"AdminHost": host, "AdminToken": token}), None);
            assert!(with(TOKEN.into()).is_ok(), "{host}");
            let without = operator(json!({"AdminHost": host}), None);
            assert_eq!(without.is_err(), others_can, "{host}: {without:?}");
            let error = without.err().unwrap_or_default();
            assert!(!others_can || error.contains(host) && error.contains("IDALLOC_ADMIN_TOKEN"), "{error}");
            let off =
                operator(json!({"AdminHost": host, "AdminPort": 0}), None).map(|operator| operator.is_on());
            assert_eq!(off, Ok(false), "{host}");
        }
    }

    #[test]
    fn the_names_of_the_operators_port_are_host_names() {
        let long = "x".repeat(63);
        let names =
            |names: Value| operator(json!({"AdminNames": names}), None).map(|operator| operator.names);
        assert_eq!(operator(json!({}), None).unwrap().names, [""; 0]);
        assert_eq!(names(json!([])), Ok(vec![]));
        for good in ["a", "Ids.Example.com", "idalloc-0.idalloc-nodes.default.svc", &long] {
            assert_eq!(names(json!([good])), Ok(vec![good.to_lowercase()]));
        }
        let many = vec!["a"; 101];
        for bad in [
            json!("a"),
            json!([1]),
            json!([""]),
            json!(["a."]),
            json!(["a..b"]),
            json!(["-a"]),
            json!(["a-"]),
            json!(["a:8881"]),
            json!(["http://a"]),
            json!(["*.example.com"]),
            json!(["\u{fc}"]),
            json!([format!("{long}x")]),
            json!([format!("{long}.{long}.{long}.{long}")]),
            json!(many),
        ] {
            let expected = format!("AdminNames is {bad}: allowed is an array of up to 100 host names");
            assert_eq!(names(bad), Err(expected));
        }
    }

    #[test]
    fn the_operators_token_is_checked_never_shown_and_overridden_by_the_environment() {
        let token = |keys, env| operator(keys, env).map(|operator| operator.tokens);
        let only = |token: &str| AdminTokens(vec![("AdminToken".into(), Secret::new(token))]);
        assert_eq!(token(json!({"AdminToken": TOKEN}), None), Ok(only(TOKEN)));
        let from_env = "a token of the environment".replace(' ', "-");
        assert_eq!(token(json!({"AdminToken": TOKEN}), Some(&from_env)), Ok(only(&from_env)));
        let long = "x".repeat(256);
        assert!(token(json!({"AdminToken": long}), None).is_ok());
        let expected = "AdminToken is not as it must be: allowed is 16 to 256 visible ASCII characters";
        for bad in
            [json!("0123456789abcde"), json!(format!("{long}x")), json!("0123456789 abcdef"), json!(null)]
        {
            assert_eq!(token(json!({"AdminToken": bad}), None), Err(expected.to_owned()), "{bad}");
        }
        for bad in ["", "0123456789abcd\u{e9}"] {
            let expected = expected.replace("AdminToken", "IDALLOC_ADMIN_TOKEN");
            assert_eq!(token(json!({"AdminToken": TOKEN}), Some(bad)), Err(expected), "{bad:?}");
        }
    }
}
