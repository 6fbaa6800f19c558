//! The table's rows: those that get no IDs, and those that soon will not.

use idalloc::bounds::MAX_ID_MAX;
use idalloc::escape::shown;
use idalloc::store::report::{Code, Finding};
use idalloc::store::tag::check_step;
use idalloc::store::{Rows, TagRow};

use crate::cli::tag::fault_line;

/// So many rows of a kind are shown one by one.
const SHOWN_MAX: usize = 20;

/// The rows that get no IDs.
pub(super) fn at_fault(rows: &Rows<TagRow>) -> Vec<Finding> {
    let unreadable = rows.unreadable.iter().map(|row| Finding::error(Code::RowAtFault, fault_line(row)));
    unreadable.chain(rows.iter().filter_map(fault)).collect()
}

fn fault(row: &TagRow) -> Option<Finding> {
    let found = |reason: String, remedy: &str| {
        let text = format!("the tag {}: {reason}", shown(&row.name));
        Some(Finding::error(Code::RowAtFault, text).with_remedy(remedy))
    };
    if let Err(reason) = check_step(row.step) {
        return found(reason.to_string(), "run: idalloc tag set TAG --step N");
    }
    if row.max_id < 0 {
        let reason = format!("max_id is {}, which no server takes for an ID", row.max_id);
        return found(reason, "raise it above every ID that was handed out: idalloc tag set TAG --max-id N");
    }
    if row.max_id > i64::MAX - row.step {
        let reason = format!("max_id is {}: its step of {} does not fit below 2^63", row.max_id, row.step);
        return found(reason, "if so many IDs are used up, add another tag; if not, mend it in the database");
    }
    None
}

/// The rows that were set, or have come, further than a person may set them.
pub(super) fn near_their_end(rows: &Rows<TagRow>) -> Vec<Finding> {
    let is_near = |row: &&TagRow| row.max_id > MAX_ID_MAX && fault(row).is_none();
    let warning = |row: &TagRow| {
        let left = i64::MAX - row.max_id;
        let text = format!(
            "the tag {}: max_id is {}, which leaves {left} IDs below 2^63",
            shown(&row.name),
            row.max_id
        );
        Finding::warning(Code::RowNearEnd, text)
    };
    rows.iter().filter(is_near).map(warning).collect()
}

/// The first of them, and how many more there are.
pub(super) fn first_of(mut findings: Vec<Finding>) -> Vec<Finding> {
    let more = findings.len().saturating_sub(SHOWN_MAX);
    findings.truncate(SHOWN_MAX);
    if more > 0
        && let Some(last) = findings.last().cloned()
    {
        findings.push(Finding { message: format!("and {more} more rows"), remedy: None, ..last });
    }
    findings
}
