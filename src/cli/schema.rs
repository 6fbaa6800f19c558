//! `idalloc schema` and `idalloc init`: the SQL, and the table that it makes.

use std::path::Path;

use idalloc::dsn::Dsn;
use idalloc::store::{self, Created};

use super::{RunError, load, output};

/// Prints the SQL for the store of the configuration.
pub(super) fn schema(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    Ok(output::print(&store::schema(&config.dsn, &config.table))?)
}

/// Makes what is not there, and says what that was.
pub(super) fn init(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    let created = store::open(&config.dsn, &config.table).create_table()?;
    let (database, first_row) = match &config.dsn {
        Dsn::MySql(dsn) => {
            let own = config.table.database.as_ref().map(|database| database.as_str());
            (format!("database {}", own.unwrap_or(&dsn.database)), "")
        }
        Dsn::Sqlite(dsn) => (format!("file {}", dsn.path.display()), ", with the tag test_business"),
    };
    let table = format!("table {}", config.table.name.as_str());
    output::print(&report(created, &database, &table, first_row))?;
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
