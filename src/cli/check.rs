//! `idalloc check`: what is found, in words.

use std::path::Path;

use idalloc::escape::{shown, visible};
use idalloc::store::tag::check_step;
use idalloc::store::{self, Rows, TagRow};

use super::output::print;
use super::tag::fault_line;
use super::{RunError, load};

/// The most rows at fault that are shown one by one.
const FAULTS_SHOWN_MAX: usize = 100;

pub(super) fn check(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    print("configuration: good")?;
    let mut store = store::open(&config.dsn, &config.table);
    let report = store.check()?;
    let mut lines = vec![format!("store: {}", visible(&report.store))];
    lines.extend(report.facts().iter().map(|fact| format!("  good: {}", visible(fact))));
    lines.extend(report.warnings().iter().map(|warning| format!("  warning: {}", visible(warning))));
    print(&lines.join("\n"))?;
    let rows = store.list_tags(store::TAGS_MAX)?;
    print(&format!("tags: {}", rows.total()))?;
    let faults = faults(&rows);
    if faults.is_empty() {
        return Ok(());
    }
    for fault in faults.iter().take(FAULTS_SHOWN_MAX) {
        print(&format!("  fault: {}", visible(fault)))?;
    }
    Err(RunError::RowsAtFault(faults.len()))
}

/// The rows that get no IDs, in words.
fn faults(rows: &Rows<TagRow>) -> Vec<String> {
    let unreadable = rows.unreadable.iter().map(fault_line);
    let steps = rows.iter().filter_map(|row| {
        let fault = check_step(row.step).err()?;
        Some(format!("the tag {}: {fault}", shown(&row.name)))
    });
    unreadable.chain(steps).collect()
}
