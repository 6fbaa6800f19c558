//! Where segments come from, and where it is remembered what was granted.

use std::path::PathBuf;

use serde_json::json;

use idalloc_store::table::{Identifier, TableSpec};

use super::error::ConfigError;
use super::rules::{Choice, Custom, Text};
use super::section::{Source, section};
use crate::dsn::Dsn;

/// The environment variable that overrides the key `DSN`, so that a password need not be in a file.
pub const DSN_VARIABLE: &str = "IDALLOC_DSN";

pub(super) const DSN: &str = "DSN";
pub(super) const DSN_ALLOWED: &str = "a DSN such as user:password@tcp(host:port)/database or sqlite:PATH";
const WATERMARK_PATH: &str = "WatermarkPath";

section! {
    /// How the store is set up.
    pub struct StoreSection {
        /// Where the table is.
        pub dsn: Dsn = DSN, Custom {
            default: "none: required",
            allowed: DSN_ALLOWED,
            read: read_dsn,
            show: |dsn| dsn.to_string().into(),
        };
        /// The table's name.
        pub table: TableSpec = "table", Text {
            default: "segments",
            allowed: "table or database.table, each 1 to 64 of A-Z a-z 0-9 _ $",
            read: parse_table,
            show: |table| table.shown().into(),
        };
        /// The tag's column: `biz_tag` works for a go-id-alloc or Leaf table as it is.
        pub(super) tag_column: Identifier = "TagColumn", Text {
            default: "app_tag",
            allowed: "1 to 64 of A-Z a-z 0-9 _ $",
            read: Identifier::new,
            show: |column| column.as_str().into(),
        };
        /// Where it remembers what it was granted; with the embedded store only if set.
        // The embedded store's file shares the fate of this one.
        pub watermark_path: Option<PathBuf> = WATERMARK_PATH, Text {
            default: "idalloc-watermark.db",
            allowed: "a file of this server's own, or empty for none",
            read: parse_optional_path,
            show: |path| json!(path),
        };
        /// Whether the embedded file may be on a network or FUSE file system.
        pub(super) any_file_system: bool = "AllowUnreliableFileSystem", Choice(&[("no", false), ("yes", true)]);
    }
}

impl StoreSection {
    /// Carries out what some keys say of others.
    pub(super) fn settle(&mut self, source: &Source<'_>) {
        self.table.tag_column.clone_from(&self.tag_column);
        self.any_file_system &= self.dsn.is_embedded();
        self.dsn.set_any_file_system(self.any_file_system);
        if self.dsn.is_embedded() && source.get(WATERMARK_PATH).is_none() {
            self.watermark_path = None;
        }
    }
}

fn read_dsn(name: &'static str, source: &Source<'_>) -> Result<Dsn, ConfigError> {
    let in_file = match source.get(name) {
        Some(value) => Some(value.as_str().ok_or(ConfigError::DsnNotText)?),
        None => None,
    };
    // An empty variable overrides, and fails, too: a secret that was not delivered must stop the server, since
    // another store would hand out IDs that are taken.
    let in_env = (source.env)(DSN_VARIABLE);
    let (origin, text) = match (&in_env, in_file) {
        (Some(text), _) => (DSN_VARIABLE, text.as_str()),
        (None, Some(text)) => (name, text),
        (None, None) => return Err(ConfigError::DsnMissing),
    };
    text.parse().map_err(|reason| ConfigError::BadDsn { origin, reason })
}

fn parse_table(text: &str) -> Option<TableSpec> {
    let (database, name) = match text.split_once('.') {
        Some((database, name)) => (Some(Identifier::new(database)?), Identifier::new(name)?),
        None => (None, Identifier::new(text)?),
    };
    Some(TableSpec { database, name, ..TableSpec::default() })
}

/// Empty text is no path.
fn parse_optional_path(text: &str) -> Option<Option<PathBuf>> {
    let fits = !text.chars().any(char::is_control);
    fits.then(|| (!text.is_empty()).then(|| text.into()))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::fixtures::{parse, with};
    use super::*;

    #[test]
    fn the_watermark_is_kept_beside_a_database_and_beside_the_embedded_store_only_if_asked_for() {
        let path = |text: &str| parse(text).unwrap().store.watermark_path;
        assert_eq!(path(r#"{"DSN": "/db"}"#), Some("idalloc-watermark.db".into()));
        assert_eq!(path(r#"{"DSN": "/db", "WatermarkPath": ""}"#), None);
        assert_eq!(path(r#"{"DSN": "sqlite:a"}"#), None);
        assert_eq!(path(r#"{"DSN": "sqlite:a", "WatermarkPath": "w"}"#), Some("w".into()));
    }

    #[test]
    fn only_the_embedded_store_has_a_file_system() {
        for (dsn, shown) in [("sqlite:a.db", "yes"), ("/db", "no")] {
            let text = format!(r#"{{"DSN": "{dsn}", "AllowUnreliableFileSystem": "yes"}}"#);
            let config = parse(&text).unwrap();
            assert_eq!(config.shown()["AllowUnreliableFileSystem"], shown, "{dsn}");
            assert_eq!(config.store.dsn.allows_any_file_system(), shown == "yes", "{dsn}");
        }
    }

    #[test]
    fn names_are_quoted_for_sql() {
        let table = |name| with("table", &json!(name)).unwrap().store.table.quoted();
        assert_eq!(table("segments"), "`segments`");
        assert_eq!(table("ids.segments"), "`ids`.`segments`");
        assert_eq!(Identifier::new("app_tag").unwrap().quoted(), "`app_tag`");
    }

    #[test]
    fn the_environment_overrides_the_dsn() {
        let env = |name: &str| (name == "IDALLOC_DSN").then(|| "sqlite:env.db".to_owned());
        let from_env = Dsn::Sqlite("env.db".into());
        for text in ["{}", r#"{"DSN": "sqlite:a.db"}"#, r#"{"DSN": "faulty"}"#] {
            assert_eq!(Config::from_json(text, &env).unwrap().store.dsn, from_env, "{text}");
        }
        assert_eq!(Config::embedded(&env).unwrap().store.dsn, from_env);
        let empty = Config::embedded(&|_| Some(String::new()));
        assert!(matches!(empty, Err(ConfigError::BadDsn { origin: "IDALLOC_DSN", .. })), "{empty:?}");
    }

    #[test]
    fn a_dsn_is_never_shown() {
        for text in [
            r#"{"DSN": ["u:hunter2@tcp(h)/db"]}"#,
            r#"{"DSN": "u:hunter2@tcp(h:x)/db"}"#,
            r#"{"DSN": "u:hunter2@tcp(h)/db", "HttpPort": -1}"#,
            r#"{"DSN": "u:hunter2@tcp(h)/db" "#,
            r#"{"DSN": "u:hunter2@tcp(h)/db"}"#,
        ] {
            let shown = match parse(text) {
                Ok(config) => format!("{config:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
