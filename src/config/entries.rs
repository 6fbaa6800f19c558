//! The object in a config.json: known keys only, each at most once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{ConfigError, KEYS};

/// The keys that the file gives, with their values.
#[derive(Default)]
pub(super) struct Entries(Map<String, Value>);

impl Entries {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        // serde_json's own complaint would quote the value, and a lone string may well be a DSN.
        if !text.trim_start().starts_with('{') {
            return Err(ConfigError::NotAnObject);
        }
        let entries: Self =
            serde_json::from_str(text).map_err(|error| ConfigError::Json(error.to_string()))?;
        match entries.0.keys().find(|name| KEYS.iter().all(|key| key.name() != *name)) {
            Some(name) => Err(ConfigError::UnknownKey { name: name.clone() }),
            None => Ok(entries),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Refuses a key that is given twice, of which `serde_json` alone would drop the first silently.
struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Map::new();
        while let Some((name, Member(value))) = map.next_entry::<String, Member>()? {
            if entries.contains_key(&name) {
                return Err(A::Error::custom(format!("key {name:?} is given twice")));
            }
            entries.insert(name, value);
        }
        Ok(Entries(entries))
    }
}

/// The value of a key. In an object, too, a key that is given twice is refused; it may be a token, so it is not named.
struct Member(Value);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor).map(Member)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Member(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Member(value))) = map.next_entry::<String, Member>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a key of an inner object is given twice"));
            }
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{message, parse};
    use super::*;

    #[test]
    fn an_unknown_key_is_named_beside_the_known_ones() {
        let message = message(r#"{"DSN": "sqlite:a.db", "httpPort": 1}"#);
        assert!(
            message.starts_with("unknown key \"httpPort\": allowed are DSN, table, TagColumn, "),
            "{message}"
        );
        assert!(KEYS.iter().all(|key| message.contains(key.name())), "{message}");
    }

    #[test]
    fn faults_in_the_json_are_located() {
        assert_eq!(
            message("{\"table\": \"a\",\n \"table\": \"b\"}"),
            "not valid JSON: key \"table\" is given twice at line 2 column 14"
        );
        assert_eq!(message("{\"table\": \"a\",\n}"), "not valid JSON: trailing comma at line 2 column 1");
        assert!(message("{} x").contains("line 1 column 4"));
        for text in ["", "[]", "3", "\"u:hunter2@/db\""] {
            assert_eq!(parse(text), Err(ConfigError::NotAnObject), "{text}");
        }
    }
}
