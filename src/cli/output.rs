//! What commands print: tables, JSON, and text that is not to be trusted.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

/// Blanks between two columns.
const GAP: u16 = 2;
/// See [`complain`].
const COMPLAINT_MAX: Duration = Duration::from_secs(1);

/// One column of a table.
pub(super) struct Column {
    pub title: &'static str,
    pub alignment: CellAlignment,
}

/// Prints to the standard output. Who reads it may have seen enough: that is no error.
///
/// # Errors
/// It cannot be written.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints JSON, for people too.
///
/// # Errors
/// It cannot be written.
pub(super) fn print_json(value: &Value) -> io::Result<()> {
    print(&format!("{value:#}"))
}

/// Prints a complaint to the standard error. That need not be read: it is no error if it is closed or full, and a pipe that
/// nobody empties holds the program up for [`COMPLAINT_MAX`] at most.
pub fn complain(text: &str) {
    let line = format!("idalloc: {text}\n");
    let print = |line: &str| drop(io::stderr().write_all(line.as_bytes()));
    let (done, printed) = mpsc::channel::<()>();
    let for_thread = line.clone();
    let thread = thread::Builder::new().name("idalloc-stderr".to_owned()).spawn(move || {
        let _done = done;
        print(&for_thread);
    });
    match thread {
        // Whether it is printed or late: what comes next does not depend on it.
        Ok(_) => drop(printed.recv_timeout(COMPLAINT_MAX)),
        Err(_) => print(&line),
    }
}

/// Aligned columns without lines: the same for a terminal, a pipe and a file.
pub(super) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|column| column.title));
    table.add_rows(rows);
    for (column, layout) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, GAP)).set_cell_alignment(layout.alignment);
    }
    table.trim_fmt()
}

/// Text of somebody else's as it is, or quoted where it could pass for something else: a control character would
/// steer the terminal, a blank at the end would not be seen.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    let is_printable = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1;
    if !text.is_empty() && text.trim() == text && text.chars().all(is_printable) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("{text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_steer_the_terminal_is_quoted() {
        for plain in ["orders", "o'neil \"x\" \\", "🦀 crab", "für 订单"] {
            assert_eq!(shown(plain), plain);
        }
        for (odd, expected) in [
            ("", r#""""#),
            (" a", r#"" a""#),
            ("a\n", r#""a\n""#),
            ("\u{1b}[2J", r#""\u{1b}[2J""#),
            ("\u{202e}a", r#""\u{202e}a""#),
        ] {
            assert_eq!(shown(odd), expected);
        }
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let left = Column { title: "TAG", alignment: CellAlignment::Left };
        let right = Column { title: "STEP", alignment: CellAlignment::Right };
        let rows = [vec!["订单".into(), "5".into()], vec!["a".into(), "100000".into()]];
        assert_eq!(table(&[left, right], rows), "TAG     STEP\n订单       5\na     100000");
    }
}
