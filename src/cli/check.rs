//! `idalloc check`: what is found, in words or as JSON.

mod places;
mod ports;
mod report;
mod rows;

use std::path::Path;

use clap::Args;
use idalloc::store;
use idalloc::store::report::{Code, Finding};

use self::report::Report;
use super::{ConfigArg, RunError, load};

/// What the exit codes say.
pub(super) const NOTICE: &str = "\
It exits with 0 if all is good, or if there are warnings only; with 1 if the configuration, the store or a row is at fault; with 2 if \
the command line is. Run it as the account that the server runs as, and in its working directory: it looks at what that account may do \
with the files.";

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Print JSON: an object with the worst severity (ok, warning or error) as its result, and its findings, each with a severity, a
    /// code, a message and, where there is something to do, a remedy
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn check(args: &Check) -> Result<(), RunError> {
    let mut report = Report::new(args.json);
    let outcome = look(args.config.config.as_deref(), &mut report);
    report.end(outcome)
}

fn look(file: Option<&Path>, report: &mut Report) -> Result<(), RunError> {
    let config = load(file)?;
    report.begin("configuration: good", Finding::ok(Code::Configuration, "the configuration is good"))?;
    report.add(file.and_then(places::configuration))?;
    report.add(ports::look(&config))?;
    report.add(config.store.watermark_path.iter().flat_map(|path| places::watermark(path)))?;
    let backend = store::backend(&config.store.dsn, &config.store.table);
    if let Some(path) = backend.file() {
        report.add(places::database(path))?;
    }
    let mut store = backend.session();
    let found = store.check()?;
    report.begin(&format!("store: {}", found.store), Finding::ok(Code::Store, found.store.as_str()))?;
    report.add(found.findings)?;
    report.add(store.check_account()?)?;
    let rows = store.list_tags(store::TAGS_MAX)?;
    let total = rows.total();
    report.begin(&format!("tags: {total}"), Finding::ok(Code::Rows, format!("{total} rows were read")))?;
    let at_fault = rows::at_fault(&rows);
    let count = at_fault.len();
    report.add(rows::first_of(at_fault))?;
    report.add(rows::first_of(rows::near_their_end(&rows)))?;
    if count > 0 { Err(RunError::RowsAtFault(count)) } else { Ok(()) }
}
