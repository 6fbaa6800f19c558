//! `idalloc tag`: the rows of the table, one by one.

use std::path::Path;

use clap::Subcommand;
use idalloc::store::{self, StoreError};

use super::{ConfigArg, RunError, load, watermarks};

#[derive(Debug, Subcommand)]
pub(super) enum TagCommand {
    /// Raise a tag's max_id to where IDs were granted before, after the store has lost commits
    Advance {
        /// The tag
        tag: String,
        /// The max_id to raise it to; without it, what the watermark file says, when no server uses it
        #[arg(long, value_name = "MAX_ID", value_parser = clap::value_parser!(i64).range(1..))]
        to: Option<i64>,
        #[command(flatten)]
        config: ConfigArg,
    },
}

pub(super) fn run(command: TagCommand) -> Result<(), RunError> {
    match command {
        TagCommand::Advance { tag, to, config } => advance(config.config.as_deref(), &tag, to),
    }
}

fn advance(file: Option<&Path>, tag: &str, to: Option<i64>) -> Result<(), RunError> {
    let config = load(file)?;
    let known = || watermarks(&config)?.get(tag).ok_or_else(|| RunError::NoWatermark(tag.to_owned()));
    let to = to.map_or_else(known, Ok)?;
    let mut store = store::open(&config.dsn, &config.table);
    store.raise(tag, to)?;
    let rows = store.list_tags(store::TAGS_MAX)?;
    let row = rows.iter().find(|row| row.name == tag).ok_or(StoreError::UnknownTag)?;
    println!("max_id of {tag:?} is {}", row.max_id);
    Ok(())
}
