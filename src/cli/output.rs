//! What commands print: lines, tables and JSON. All of it goes through `escape`: what is in the table is not to be trusted.

use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use idalloc::escape;
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

/// Prints lines to the standard output; a line feed of somebody else's is to be escaped before.
///
/// # Errors
/// It cannot be written.
pub(super) fn print(text: &str) -> io::Result<()> {
    let lines: Vec<_> = text.trim_end_matches('\n').split('\n').map(escape::visible).collect();
    write(&lines.join("\n"))
}

/// Who reads it may have seen enough: that is no error.
fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints JSON, for people too.
///
/// # Errors
/// It cannot be written.
pub(super) fn print_json(value: &Value) -> io::Result<()> {
    write(&escape::json(&format!("{value:#}")))
}

/// Prints a complaint to the standard error. That need not be read: it is no error if it is closed or full, and a pipe that
/// nobody empties holds the program up for [`COMPLAINT_MAX`] at most.
pub fn complain(text: &str) {
    let line = format!("idalloc: {}\n", escape::visible(text));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let left = Column { title: "TAG", alignment: CellAlignment::Left };
        let right = Column { title: "STEP", alignment: CellAlignment::Right };
        let rows = [vec!["订单".into(), "5".into()], vec!["a".into(), "100000".into()]];
        assert_eq!(table(&[left, right], rows), "TAG     STEP\n订单       5\na     100000");
    }
}
