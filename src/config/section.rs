//! What a section of the configuration is made of: a row for each key.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::ConfigError;
use super::entries::Entries;

/// One key of config.json, for those who list them.
#[derive(Debug, Clone)]
pub struct Key {
    name: &'static str,
    doc: &'static str,
    about: About,
}

impl Key {
    pub(super) fn new(name: &'static str, doc: &'static str, rule: &impl Rule) -> Self {
        Self { name, doc: doc.trim(), about: rule.about() }
    }

    /// The key as it is written in config.json.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it is for.
    pub fn doc(&self) -> &'static str {
        self.doc
    }

    /// What holds where the key is absent, as text without a unit.
    pub fn default_text(&self) -> &str {
        &self.about.default
    }

    /// What the value may be, as text with its unit.
    pub fn allowed_text(&self) -> &str {
        &self.about.allowed
    }

    /// What a whole number must be in; `None`: the value is something else.
    pub fn range(&self) -> Option<RangeInclusive<u64>> {
        self.about.range.clone()
    }

    /// Whether its value is never shown.
    pub fn is_secret(&self) -> bool {
        self.about.is_secret
    }
}

/// What a rule says of the values that it allows.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub default: String,
    pub allowed: String,
    /// For whole numbers.
    pub range: Option<RangeInclusive<u64>>,
    pub is_secret: bool,
}

/// How the value of a key is read and shown. `rules.rs` has those that there are.
pub(super) trait Rule {
    /// What the value becomes.
    type Value;

    /// The value that `source` has for the key of this name, or the default.
    fn read(&self, name: &'static str, source: &Source<'_>) -> Result<Self::Value, ConfigError>;

    /// As it stands in a configuration; `***` for a secret.
    fn show(&self, value: &Self::Value) -> Value;

    fn about(&self) -> About;
}

/// What a configuration is read from.
pub(super) struct Source<'a> {
    pub entries: Entries,
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl Source<'_> {
    /// What the file gives for this key.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries.get(name)
    }
}

/// What holds where nobody gives any key.
///
/// # Panics
/// One of the keys must be given.
pub(super) fn defaults<S: Section>() -> S {
    let nothing = Source { entries: Entries::default(), env: &|_| None };
    S::read(&nothing).expect("every key has a default")
}

/// Some keys that belong together. Written with [`section!`].
pub(super) trait Section: Sized {
    fn keys() -> Vec<Key>;
    fn read(source: &Source<'_>) -> Result<Self, ConfigError>;
    /// Adds each key with its value to `shown`.
    fn show(&self, shown: &mut Map<String, Value>);
}

/// A struct with a row for each key, `/// doc`, `field: Type = "Key", rule;`, and a [`Section`] of it. In `and { ... }` come
/// the sections that are parts of it.
macro_rules! section {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $Section:ident {
            $( $(#[doc = $doc:literal])+ $field_vis:vis $field:ident: $Type:ty = $name:expr, $rule:expr; )*
        }
        $( and { $( $(#[$part_attribute:meta])* $part_vis:vis $part:ident: $Part:ty; )* } )?
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq)]
        $visibility struct $Section {
            $( $(#[doc = $doc])+ $field_vis $field: $Type, )*
            $($( $(#[$part_attribute])* $part_vis $part: $Part, )*)?
        }

        /// The rule of each key, under the name of its field.
        impl $Section {
            $( fn $field() -> impl $crate::config::section::Rule<Value = $Type> { $rule } )*
        }

        impl $crate::config::section::Section for $Section {
            fn keys() -> Vec<$crate::config::section::Key> {
                let own = vec![
                    $( $crate::config::section::Key::new($name, concat!($($doc),+), &Self::$field()), )*
                ];
                [own, $($( <$Part as $crate::config::section::Section>::keys(), )*)?].concat()
            }

            fn read(
                source: &$crate::config::section::Source<'_>,
            ) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self {
                    $( $field: $crate::config::section::Rule::read(&Self::$field(), $name, source)?, )*
                    $($( $part: $crate::config::section::Section::read(source)?, )*)?
                })
            }

            fn show(&self, shown: &mut serde_json::Map<String, serde_json::Value>) {
                $(
                    let value = $crate::config::section::Rule::show(&Self::$field(), &self.$field);
                    shown.insert($name.to_owned(), value);
                )*
                $($( $crate::config::section::Section::show(&self.$part, shown); )*)?
            }
        }
    };
}

pub(super) use section;
