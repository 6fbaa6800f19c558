//! `idalloc tag`: the rows of the table, straight in the store.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::CellAlignment::{Left, Right};
use idalloc::bounds::{MAX_ID_MAX, STEP_MAX};
use idalloc::config::Config;
use idalloc::escape::{shown, visible};
use idalloc::store::change::{self, ChangeError, Changed, RowChange};
use idalloc::store::tag::{check_description, check_max_id, check_new_name, check_start, check_step};
use idalloc::store::{self, InvalidField, Rows, StoreError, TagDetails, TagStore, UnreadableRow};
use serde_json::{Value, json};

use super::output::{Column, complain, print, print_json, table};
use super::{ConfigArg, RunError, load, watermarks};

/// When a server acts on what these commands do.
pub(super) const NOTICE: &str = "\
These commands go straight to the store, whether or not a server is running. A running server acts on a change
  - at once when it is asked for the tag, if the tag is new, or was fenced or broken and is mended;
  - after it has read the table, which is every TagReloadSeconds, if a step was set or a tag was deleted;
  - from its next reservation on, if max_id was raised: IDs in memory are handed out first.";

#[derive(Debug, Subcommand)]
pub(super) enum TagCommand {
    /// List the tags
    List(List),
    /// Show one tag
    Show(Show),
    /// Add a tag
    Add(Add),
    /// Change a tag's step or description, or raise its max_id
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set(Set),
    /// Delete a tag
    Delete(Delete),
    /// Raise a tag's max_id to where IDs were granted before, after the store has lost commits
    Advance(Advance),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only tags that hold this text, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// The order
    #[arg(long, value_name = "KEY", default_value = "app_tag")]
    sort: Sort,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    /// By name
    #[value(name = "app_tag")]
    AppTag,
    /// The largest first
    #[value(name = "max_id")]
    MaxId,
    /// The largest first
    Step,
    /// The most recently used first, where the table records that
    Recent,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The tag
    tag: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The tag: 1 to 128 bytes
    #[arg(value_parser = parse_name)]
    tag: String,
    /// The smallest reservation, in IDs, up to 1000000000: what a quiet tag takes at once, and how large a gap a crash may leave
    #[arg(long, value_name = "N", value_parser = parse_step, allow_negative_numbers = true)]
    step: i64,
    /// The first ID
    #[arg(long, value_name = "ID", default_value = "1", value_parser = parse_start, allow_negative_numbers = true)]
    start: i64,
    /// What the tag is for, where the table has a column `description`
    #[arg(long, value_name = "TEXT", value_parser = parse_description)]
    description: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// The tag
    tag: String,
    /// The smallest reservation, in IDs
    #[arg(long, value_name = "N", group = "change", value_parser = parse_step, allow_negative_numbers = true)]
    step: Option<i64>,
    /// The end of the newest reservation: the IDs below it are never handed out again. It only goes up
    #[arg(long, value_name = "MAX_ID", group = "change", value_parser = parse_max_id, allow_negative_numbers = true)]
    max_id: Option<i64>,
    /// What the tag is for, where the table has a column `description`
    #[arg(long, value_name = "TEXT", group = "change", value_parser = parse_description)]
    description: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The tag
    tag: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Args)]
pub(super) struct Advance {
    /// The tag
    tag: String,
    /// The max_id to raise it to; without it, what the watermark file says, when no server uses it
    #[arg(long, value_name = "MAX_ID", value_parser = parse_max_id, allow_negative_numbers = true)]
    to: Option<i64>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Print JSON; max_id as a string, because JavaScript's numbers do not hold it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(command: TagCommand) -> Result<(), RunError> {
    match command {
        TagCommand::List(args) => list(&args),
        TagCommand::Show(args) => show(&args),
        TagCommand::Add(args) => add(&args),
        TagCommand::Set(args) => set(&args),
        TagCommand::Delete(args) => delete(&args),
        TagCommand::Advance(args) => advance(&args),
    }
}

// ---- arguments ----

fn parse_name(text: &str) -> Result<String, InvalidField> {
    check_new_name(text).map(|()| text.to_owned())
}

fn parse_description(text: &str) -> Result<String, InvalidField> {
    check_description(text).map(|()| text.to_owned())
}

fn parse_step(text: &str) -> Result<i64, String> {
    parse_number(text, STEP_MAX, check_step)
}

fn parse_start(text: &str) -> Result<i64, String> {
    parse_number(text, MAX_ID_MAX, check_start)
}

fn parse_max_id(text: &str) -> Result<i64, String> {
    parse_number(text, i64::MAX, check_max_id)
}

fn parse_number(text: &str, max: i64, check: fn(i64) -> Result<(), InvalidField>) -> Result<i64, String> {
    let number = text.parse().map_err(|_| format!("allowed is a whole number, 1 to {max}"))?;
    check(number).map(|()| number).map_err(|error| error.to_string())
}

// ---- the commands ----

fn list(args: &List) -> Result<(), RunError> {
    let mut store = open(&args.common.config)?.store;
    let rows = store.list_details(store::TAGS_MAX)?;
    if rows.total() == store::TAGS_MAX {
        complain(&format!("the table holds more tags; these are the first {}", store::TAGS_MAX));
    }
    let Rows { readable: mut tags, unreadable: mut broken } = rows;
    if let Some(text) = &args.search {
        let text = text.to_lowercase();
        tags.retain(|tag| tag.name.to_lowercase().contains(&text));
        broken.retain(|row| row.name.as_ref().is_none_or(|name| name.to_lowercase().contains(&text)));
    }
    match args.sort {
        Sort::AppTag => tags.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::MaxId => tags.sort_by(|a, b| largest_first(a, b, |tag| tag.max_id)),
        Sort::Step => tags.sort_by(|a, b| largest_first(a, b, |tag| tag.step)),
        Sort::Recent => {}
    }
    if args.common.json {
        let broken = broken.iter().map(|row| json!({ "app_tag": row.name, "fault": row.reason }));
        return Ok(print_json(&tags.iter().map(tag_json).chain(broken).collect())?);
    }
    for row in &broken {
        complain(&fault_line(row));
    }
    let mut columns = vec![
        Column { title: "APP_TAG", alignment: Left },
        Column { title: "STEP", alignment: Right },
        Column { title: "MAX_ID", alignment: Right },
    ];
    let has_description = tags.iter().any(|tag| tag.description.is_some());
    columns.extend(has_description.then_some(Column { title: "DESCRIPTION", alignment: Left }));
    let row = |tag: &TagDetails| {
        let mut row = vec![shown(&tag.name).into_owned(), tag.step.to_string(), tag.max_id.to_string()];
        row.extend(has_description.then(|| shown_description(tag).into_owned()));
        row
    };
    Ok(print(&table(&columns, tags.iter().map(row)))?)
}

/// A row that is in no table of ours, in words.
pub(super) fn fault_line(UnreadableRow { name, reason }: &UnreadableRow) -> String {
    match name {
        Some(name) => format!("the row of the tag {} cannot be read: {reason}", shown(name)),
        None => format!("a row cannot be served: {reason}"),
    }
}

fn shown_description(tag: &TagDetails) -> Cow<'_, str> {
    tag.description.as_deref().filter(|text| !text.is_empty()).map_or(Cow::Borrowed("-"), shown)
}

fn largest_first(a: &TagDetails, b: &TagDetails, number: impl Fn(&TagDetails) -> i64) -> Ordering {
    number(b).cmp(&number(a)).then_with(|| a.name.cmp(&b.name))
}

fn show(args: &Show) -> Result<(), RunError> {
    let tag = open(&args.common.config)?.find(&args.tag)?;
    if args.common.json {
        return Ok(print_json(&tag_json(&tag))?);
    }
    let mut lines = vec![
        format!("app_tag      {}", shown(&tag.name)),
        format!("step         {}", tag.step),
        format!("max_id       {}", tag.max_id),
        format!("description  {}", shown_description(&tag)),
    ];
    if let Err(fault) = check_step(tag.step) {
        lines.push(format!("fault        {fault}"));
    }
    Ok(print(&lines.join("\n"))?)
}

fn add(args: &Add) -> Result<(), RunError> {
    let new = TagDetails::new(&args.tag, args.step, args.start, args.description.as_deref())
        .map_err(StoreError::from)?;
    let added = open(&args.common.config)?.ask(&args.tag, |store| change::add(store, &new, None))?;
    if args.common.json {
        return Ok(print_json(&tag_json(&added))?);
    }
    Ok(print(&format!("added {:?}: step {}, first ID {}", new.name, new.step, args.start))?)
}

fn set(args: &Set) -> Result<(), RunError> {
    let wish = RowChange { step: args.step, description: args.description.clone(), max_id: args.max_id };
    let mut table = open(&args.common.config)?;
    let Changed { before, after, .. } =
        table.ask(&args.tag, |store| change::change(store, &args.tag, &wish, None))?;
    if args.common.json {
        return Ok(print_json(&tag_json(&after))?);
    }
    let mut changes = Vec::new();
    if args.description.is_some() {
        changes.push("description set".to_owned());
    }
    if args.step.is_some() {
        changes.push(format!("step {} (was {})", after.step, before.step));
    }
    if args.max_id.is_some() {
        changes.push(format!("max_id {} (was {})", after.max_id, before.max_id));
    }
    Ok(print(&format!("changed {:?}: {}", args.tag, changes.join(", ")))?)
}

fn delete(args: &Delete) -> Result<(), RunError> {
    let mut table = open(&args.config)?;
    if !args.yes {
        confirm(&table.find(&args.tag)?)?;
    }
    let tag = table.ask(&args.tag, |store| change::delete(store, &args.tag))?;
    Ok(print(&format!(
        "deleted {:?}. Should it ever come back, its first ID must not be below its max_id, {}, or IDs repeat",
        tag.name, tag.max_id
    ))?)
}

/// Asks whether to delete the tag; an error if not.
fn confirm(tag: &TagDetails) -> Result<(), RunError> {
    if !io::stdin().is_terminal() {
        return Err(RunError::NobodyToAsk);
    }
    let mut out = io::stderr().lock();
    let question =
        format!("Delete the tag {:?} (step {}, max_id {})? [y/N] ", tag.name, tag.step, tag.max_id);
    write!(out, "{}", visible(&question))?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(RunError::NotDeleted(tag.name.clone())),
    }
}

fn advance(args: &Advance) -> Result<(), RunError> {
    let mut table = open(&args.common.config)?;
    let to = match args.to {
        Some(to) => change::Advance::To(to),
        None => change::Advance::ToWatermark(table.watermark(&args.tag)?),
    };
    let tag = table.ask(&args.tag, |store| change::advance(store, &args.tag, to, None))?.after;
    if args.common.json {
        return Ok(print_json(&tag_json(&tag))?);
    }
    Ok(print(&format!("max_id of {:?} is {}", tag.name, tag.max_id))?)
}

fn tag_json(tag: &TagDetails) -> Value {
    json!({
        "app_tag": tag.name,
        "step": tag.step,
        "max_id": tag.max_id.to_string(),
        "description": tag.description,
    })
}

// ---- the store ----

/// The configured table.
struct TagTable {
    config: Config,
    store: Box<dyn TagStore>,
}

fn open(arg: &ConfigArg) -> Result<TagTable, RunError> {
    let config = load(arg.config.as_deref())?;
    let store = store::backend(&config.store.dsn, &config.store.table).session();
    Ok(TagTable { config, store })
}

impl TagTable {
    fn find(&mut self, tag: &str) -> Result<TagDetails, RunError> {
        self.ask(tag, |store| change::find(store, tag))
    }

    /// Asks something of the store that has to do with `tag`.
    fn ask<T>(
        &mut self,
        tag: &str,
        ask: impl FnOnce(&mut dyn TagStore) -> Result<T, ChangeError>,
    ) -> Result<T, RunError> {
        ask(&mut *self.store).map_err(|error| match error {
            ChangeError::UnknownTag => {
                RunError::UnknownTag { tag: tag.to_owned(), table: self.config.store.table.quoted() }
            }
            error => RunError::Change(error),
        })
    }

    /// What was granted of the tag before to servers with this configuration.
    fn watermark(&mut self, tag: &str) -> Result<i64, RunError> {
        let watermarks = watermarks(&self.config)?;
        if self.store.ignores_case()? {
            let path = self.config.store.watermark_path.clone().unwrap_or_default();
            watermarks.ignore_case().map_err(|cause| RunError::Watermark { path, cause })?;
        }
        watermarks.get(tag).ok_or_else(|| RunError::NoWatermark(tag.to_owned()))
    }
}
