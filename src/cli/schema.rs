//! `idalloc schema` and `idalloc init`: the SQL, and the table that it makes.

use std::path::Path;

use idalloc::store::{self, Created};

use super::{RunError, load, output};

/// Prints the SQL for the store of the configuration.
pub(super) fn schema(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    Ok(output::print(&store::backend(&config.store.dsn, &config.store.table).schema())?)
}

/// Makes what is not there, and says what that was.
pub(super) fn init(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    let backend = store::backend(&config.store.dsn, &config.store.table);
    let created = backend.session().create_table()?;
    let table = format!("table {}", config.store.table.name.as_str());
    let first_row = backend.first_tag().map(|tag| format!(", with the tag {tag}")).unwrap_or_default();
    output::print(&report(created, &backend.place(), &table, &first_row))?;
    Ok(())
}

fn report(created: Created, database: &str, table: &str, first_row: &str) -> String {
    let outcome = |made, and: &str| {
        if made { format!("created{and}") } else { "is there already, nothing changed".to_owned() }
    };
    let next = if created.table {
        "next: idalloc tag add TAG --step N"
    } else {
        "`idalloc check` says whether it can be served"
    };
    format!(
        "{database}: {}\n{table}: {}\n{next}",
        outcome(created.database, ""),
        outcome(created.table, first_row)
    )
}
