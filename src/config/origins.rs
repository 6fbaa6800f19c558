//! CorsOrigins and HttpNames: whose pages may use the port for clients, and what it is called.

use std::net::Ipv6Addr;

use serde_json::{Value, json};

use super::error::{ConfigError, bad_value};
use super::rules::{List, parse_host_name};
use super::section::{Rule as _, Source};

const ENTRIES_MAX: usize = 100;
/// All origins.
const ALL: &str = "*";
/// As long as the longest host name, with the longest scheme that anybody has, and a port.
const ORIGIN_BYTES_MAX: usize = 300;

pub(super) const ORIGINS: List = List {
    len_max: ENTRIES_MAX,
    allowed: "an array of up to 100 origins such as https://app.example.com:8443, or [\"*\"] for all",
    read: parse_origin_or_all,
};
pub(super) const NAMES: List = List {
    len_max: ENTRIES_MAX,
    allowed: "an array of up to 100 host names and IP addresses, without ports",
    read: parse_name,
};

/// Which pages may use the port for clients, beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Those of these origins, as browsers write them.
    Listed(Vec<String>),
    /// All of them.
    All,
}

impl CorsOrigins {
    /// As the configuration has them.
    pub fn shown(&self) -> Value {
        match self {
            Self::Listed(origins) => json!(origins),
            Self::All => json!([ALL]),
        }
    }
}

/// CorsOrigins: `*` must be alone.
pub(super) fn read_origins(name: &'static str, source: &Source<'_>) -> Result<CorsOrigins, ConfigError> {
    let origins = ORIGINS.read(name, source)?;
    match origins.iter().any(|origin| origin == ALL) {
        false => Ok(CorsOrigins::Listed(origins)),
        true if origins.len() == 1 => Ok(CorsOrigins::All),
        true => Err(bad_value(name, source.get(name), ORIGINS.allowed.to_owned())),
    }
}

fn parse_origin_or_all(text: &str) -> Option<String> {
    if text == ALL { Some(text.to_owned()) } else { parse_origin(text) }
}

/// A host name, with a dot at its end or without, or an address; IPv6 with brackets or without.
fn parse_name(text: &str) -> Option<String> {
    let literal = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match literal.parse::<Ipv6Addr>() {
        Ok(address) => Some(format!("[{address}]")),
        Err(_) => parse_host_name(text.strip_suffix('.').unwrap_or(text)),
    }
}

/// `scheme://host[:port]`, as a browser writes it: in lower case, without the port that the scheme has anyway.
fn parse_origin(text: &str) -> Option<String> {
    let (scheme, authority) = text.split_once("://").filter(|_| text.len() <= ORIGIN_BYTES_MAX)?;
    let is_in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(is_in_scheme) {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    let (host, port) = match authority.rsplit_once(':').filter(|_| !authority.ends_with(']')) {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (authority, None),
    };
    let host = match host.strip_prefix('[') {
        Some(literal) => format!("[{}]", literal.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => parse_host_name(host)?,
    };
    Some(match (scheme.as_str(), port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    })
}

fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn with(name: &str, value: Value) -> Result<Config, String> {
        let text = json!({"DSN": "sqlite:a.db", name: value}).to_string();
        Config::from_json(&text, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_perhaps_a_port() {
        let origins = |value: Value| with("CorsOrigins", value).map(|config| config.http.cors_origins);
        for (given, expected) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com", "https://app.example.com"),
            ("https://a:443", "https://a"),
            ("https://a:80", "https://a:80"),
            ("http://a:80", "http://a"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:65535", "http://127.0.0.1:65535"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[0:0::1]", "http://[::1]"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(origins(json!([given])), Ok(CorsOrigins::Listed(vec![expected.into()])), "{given}");
        }
        assert_eq!(origins(json!([])), Ok(CorsOrigins::Listed(vec![])));
        assert_eq!(origins(json!(["*"])), Ok(CorsOrigins::All));
        let long = format!("https://{}", "x".repeat(64));
        for bad in [
            json!("*"),
            json!("https://a"),
            json!(null),
            json!([1]),
            json!([""]),
            json!(["null"]),
            json!(["a"]),
            json!(["//a"]),
            json!(["://a"]),
            json!(["1://a"]),
            json!(["ht tp://a"]),
            json!(["https://"]),
            json!(["https://a/"]),
            json!(["https://a/path"]),
            json!(["https://a?x"]),
            json!(["https://a#x"]),
            json!(["https://u@a"]),
            json!(["https://*.a"]),
            json!(["https://a:"]),
            json!(["https://a:0"]),
            json!(["https://a:080"]),
            json!(["https://a:+80"]),
            json!(["https://a:65536"]),
            json!(["https://[::1"]),
            json!(["https://::1"]),
            json!(["https://[::g]"]),
            json!(["https://a\r\nX: y"]),
            json!(["https://\u{fc}"]),
            json!([long]),
            json!(["*", "https://a"]),
            json!(["*", "*"]),
            json!(vec!["https://a"; 101]),
        ] {
            let expected = format!("CorsOrigins is {bad}: allowed is {}", ORIGINS.allowed);
            assert_eq!(origins(bad), Err(expected));
        }
    }

    #[test]
    fn a_name_of_the_port_is_a_host_name_or_an_address() {
        let names = |value: Value| with("HttpNames", value).map(|config| config.http.names);
        for (given, expected) in [
            ("Ids.Example.com", "ids.example.com"),
            ("ids.example.com.", "ids.example.com"),
            ("localhost", "localhost"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "[::1]"),
            ("[0:0::1]", "[::1]"),
        ] {
            assert_eq!(names(json!([given])), Ok(vec![expected.into()]), "{given}");
        }
        assert_eq!(names(json!([])), Ok(vec![]));
        for bad in [
            json!("a"),
            json!([1]),
            json!([""]),
            json!(["."]),
            json!(["a.."]),
            json!(["a:8880"]),
            json!(["[::1]:8880"]),
            json!(["[::1"]),
            json!(["http://a"]),
            json!(["*"]),
            json!(["*.a"]),
            json!(vec!["a"; 101]),
        ] {
            let expected = format!("HttpNames is {bad}: allowed is {}", NAMES.allowed);
            assert_eq!(names(bad), Err(expected));
        }
    }
}
