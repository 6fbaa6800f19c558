//! The log.

use super::rules::Choice;
use super::section::section;

section! {
    /// How the log is set up.
    pub struct LogSection {
        /// How log lines look.
        pub format: LogFormat = "LogFormat", Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line, for machines.
    Json,
}
