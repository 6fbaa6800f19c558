//! The kinds of values: whole numbers, texts, choices, lists, secrets, and what has a form of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::{ConfigError, bad_value};
use super::section::{About, Rule, Source};

const MIB: usize = 1024 * 1024;

/// The default of what is empty if it is absent.
const NONE: &str = "none";

/// A whole number within a range.
pub(super) struct Integer<T> {
    /// `None`: as many as cores are available.
    default: Option<u64>,
    range: RangeInclusive<u64>,
    unit: &'static str,
    read: fn(u64) -> Option<T>,
    show: fn(&T) -> Value,
}

impl<T: TryFrom<u64> + Into<Value> + Copy> Integer<T> {
    pub fn new(default: u64, range: RangeInclusive<u64>, unit: &'static str) -> Self {
        let read = |n| T::try_from(n).ok();
        Self { default: Some(default), range, unit, read, show: |n| (*n).into() }
    }

    /// As many as cores are available, unless the file says otherwise.
    pub fn cores(range: RangeInclusive<u64>, unit: &'static str) -> Self {
        Self { default: None, ..Self::new(0, range, unit) }
    }
}

impl Integer<Duration> {
    pub fn millis(default: u64, range: RangeInclusive<u64>) -> Self {
        let show = |time: &Duration| json!(time.as_millis() as u64);
        Self { default: Some(default), range, unit: "ms", read: |n| Some(Duration::from_millis(n)), show }
    }

    pub fn seconds(default: u64, range: RangeInclusive<u64>) -> Self {
        let show = |time: &Duration| json!(time.as_secs());
        Self { default: Some(default), range, unit: "s", read: |n| Some(Duration::from_secs(n)), show }
    }
}

impl Integer<usize> {
    /// Bytes, by the MiB.
    pub fn mib(default: u64, range: RangeInclusive<u64>) -> Self {
        let read = |n| usize::try_from(n).ok().and_then(|n| n.checked_mul(MIB));
        Self { default: Some(default), range, unit: "MiB", read, show: |bytes| json!(bytes / MIB) }
    }
}

impl<T> Integer<T> {
    fn allowed(&self) -> String {
        format!("{} to {} {}", self.range.start(), self.range.end(), self.unit)
    }

    fn available_cores(&self) -> u64 {
        std::thread::available_parallelism().map_or(1, |cores| (cores.get() as u64).min(*self.range.end()))
    }
}

impl<T> Rule for Integer<T> {
    type Value = T;

    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<T, ConfigError> {
        let given = source.get(name);
        let default = || self.default.or_else(|| Some(self.available_cores()));
        let n = given.map_or_else(default, Value::as_u64).filter(|n| self.range.contains(n));
        n.and_then(self.read)
            .ok_or_else(|| bad_value(name, given, format!("a whole number, {}", self.allowed())))
    }

    fn show(&self, value: &T) -> Value {
        (self.show)(value)
    }

    fn about(&self) -> About {
        About {
            default: self.default.map_or("available cores".to_owned(), |n| n.to_string()),
            allowed: self.allowed(),
            range: Some(self.range.clone()),
            is_secret: false,
        }
    }
}

/// What `read` makes of a string.
pub(super) struct Text<T> {
    pub default: &'static str,
    pub allowed: &'static str,
    pub read: fn(&str) -> Option<T>,
    pub show: fn(&T) -> Value,
}

impl<T> Rule for Text<T> {
    type Value = T;

    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<T, ConfigError> {
        let given = source.get(name);
        let text = given.map_or(Some(self.default), Value::as_str);
        text.and_then(self.read).ok_or_else(|| bad_value(name, given, self.allowed.to_owned()))
    }

    fn show(&self, value: &T) -> Value {
        (self.show)(value)
    }

    fn about(&self) -> About {
        about(self.default, self.allowed)
    }
}

/// The address to listen on.
pub(super) fn address(default: &'static str) -> Text<IpAddr> {
    let read = |text: &str| match text {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        text => text.parse().ok(),
    };
    Text { default, allowed: "an IP address or localhost", read, show: |address| json!(address) }
}

/// One of some words, each with its meaning. The first is the default.
pub(super) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Choice<T> {
    /// The word for `value`.
    pub fn word(&self, value: T) -> &'static str {
        self.0.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| word)
    }

    fn allowed(&self) -> String {
        self.0.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ")
    }
}

impl<T: Copy + PartialEq> Rule for Choice<T> {
    type Value = T;

    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<T, ConfigError> {
        let given = source.get(name);
        let text = given.map_or(Some(self.0[0].0), Value::as_str);
        let meaning = |text| self.0.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        text.and_then(meaning).ok_or_else(|| bad_value(name, given, self.allowed()))
    }

    fn show(&self, value: &T) -> Value {
        self.word(*value).into()
    }

    fn about(&self) -> About {
        about(self.0[0].0, &self.allowed())
    }
}

/// What `read` makes of each string of an array.
pub(super) struct List {
    pub len_max: usize,
    pub allowed: &'static str,
    pub read: fn(&str) -> Option<String>,
}

impl Rule for List {
    type Value = Vec<String>;

    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<Vec<String>, ConfigError> {
        let Some(given) = source.get(name) else { return Ok(Vec::new()) };
        let items = given.as_array().filter(|items| items.len() <= self.len_max);
        items
            .and_then(|items| items.iter().map(|item| item.as_str().and_then(self.read)).collect())
            .ok_or_else(|| bad_value(name, Some(given), self.allowed.to_owned()))
    }

    fn show(&self, value: &Vec<String>) -> Value {
        json!(value)
    }

    fn about(&self) -> About {
        about(NONE, self.allowed)
    }
}

/// What may be absent, and is never shown.
pub(super) struct Secret<T> {
    pub allowed: &'static str,
    pub read: fn(&'static str, &Source<'_>) -> Result<T, ConfigError>,
    pub is_set: fn(&T) -> bool,
}

impl<T> Rule for Secret<T> {
    type Value = T;

    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<T, ConfigError> {
        (self.read)(name, source)
    }

    fn show(&self, value: &T) -> Value {
        json!((self.is_set)(value).then_some("***"))
    }

    fn about(&self) -> About {
        About { is_secret: true, ..about(NONE, self.allowed) }
    }
}

/// What has a form of its own.
pub(super) struct Custom<T> {
    pub default: &'static str,
    pub allowed: &'static str,
    pub read: fn(&'static str, &Source<'_>) -> Result<T, ConfigError>,
    pub show: fn(&T) -> Value,
}

impl<T> Rule for Custom<T> {
    type Value = T;

    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<T, ConfigError> {
        (self.read)(name, source)
    }

    fn show(&self, value: &T) -> Value {
        (self.show)(value)
    }

    fn about(&self) -> About {
        about(self.default, self.allowed)
    }
}

fn about(default: &str, allowed: &str) -> About {
    About { default: default.to_owned(), allowed: allowed.to_owned(), range: None, is_secret: false }
}

/// A name as DNS and container platforms have it, without a port, in lower case.
pub(super) fn parse_host_name(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= 253 && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}
