//! `idalloc check`: what is found, in words.

use std::path::Path;

use idalloc::store;

use super::output::print;
use super::{RunError, load};

pub(super) fn check(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    print("configuration: good")?;
    let mut store = store::open(&config.dsn, &config.table);
    let report = store.check()?;
    let mut lines = vec![format!("store: {}", report.store)];
    lines.extend(report.facts.iter().map(|fact| format!("  good: {fact}")));
    lines.extend(report.warnings.iter().map(|warning| format!("  warning: {warning}")));
    print(&lines.join("\n"))?;
    Ok(print(&format!("tags: {}", store.list_tags(store::TAGS_MAX)?.len()))?)
}
