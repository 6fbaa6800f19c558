//! The SQL of schema.sql, under the names of the configuration.

use crate::dsn::MySqlDsn;
use crate::table::{Identifier, TableSpec};

const SCHEMA: &str = include_str!("../../schema.sql");

/// The SQL that makes the database and the table.
pub fn schema(dsn: &MySqlDsn, spec: &TableSpec) -> String {
    let database = database(spec, &dsn.database);
    let name = format!("{database}.{}", spec.name.quoted());
    let table = create_table(&name, &spec.tag_column.quoted());
    format!("{}\n\n{table}\n", create_database(&database))
}

/// The name of the table's database for SQL. A DSN may name any, one with a backtick too.
pub(super) fn database(spec: &TableSpec, dsn_database: &str) -> String {
    let own = spec.database.as_ref().map(Identifier::quoted);
    own.unwrap_or_else(|| format!("`{}`", dsn_database.replace('`', "``")))
}

/// The `CREATE DATABASE` of schema.sql under another name.
pub(super) fn create_database(database: &str) -> String {
    statement("CREATE DATABASE", |name| (name == "id_alloc_db").then_some(database))
}

/// The `CREATE TABLE` of schema.sql under other names.
pub(super) fn create_table(table: &str, tag: &str) -> String {
    statement("CREATE TABLE", |name| match name {
        "segments" => Some(table),
        "app_tag" => Some(tag),
        _ => None,
    })
}

/// The statement of schema.sql that begins so, with those names replaced for which there is another.
fn statement<'a>(beginning: &str, other_name: impl Fn(&str) -> Option<&'a str>) -> String {
    let found = SCHEMA.split(";\n").find_map(|text| text.find(beginning).map(|at| &text[at..]));
    let mut renamed = String::new();
    // Every other part is a name between backticks.
    for (index, part) in found.unwrap_or_default().split('`').enumerate() {
        match other_name(part) {
            Some(other) => renamed += other,
            None if index % 2 == 1 => renamed.extend(["`", part, "`"]),
            None => renamed += part,
        }
    }
    renamed + ";"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_schema_are_replaced_once_and_quoted() {
        let name = |text| Identifier::new(text).expect("an identifier");
        let mut spec = TableSpec { database: None, name: name("app_tag"), tag_column: name("segments") };
        let Ok(crate::dsn::Dsn::MySql(dsn)) = "u:p@tcp(h)/a`b".parse() else { panic!("a DSN") };
        let sql = schema(&dsn, &spec);
        assert!(
            sql.starts_with("CREATE DATABASE IF NOT EXISTS `a``b` DEFAULT CHARACTER SET utf8mb4;\n\n"),
            "{sql}"
        );
        assert!(
            sql.contains("\nCREATE TABLE IF NOT EXISTS `a``b`.`app_tag` (\n  `segments` VARCHAR(32) "),
            "{sql}"
        );
        assert!(sql.ends_with("\n  PRIMARY KEY (`segments`)\n) ENGINE = InnoDB;\n"), "{sql}");
        spec.database = Some(name("ids"));
        assert!(schema(&dsn, &spec).starts_with("CREATE DATABASE IF NOT EXISTS `ids` "));
    }
}
