//! `idalloc check`: what is found, in words.

use std::path::Path;

use idalloc::store;

use super::{RunError, load};

pub(super) fn check(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    println!("configuration: good");
    let mut store = store::open(&config.dsn, &config.table);
    let report = store.check()?;
    println!("store: {}", report.store);
    report.facts.iter().for_each(|fact| println!("  good: {fact}"));
    report.warnings.iter().for_each(|warning| println!("  warning: {warning}"));
    println!("tags: {}", store.list_tags(store::TAGS_MAX)?.len());
    Ok(())
}
