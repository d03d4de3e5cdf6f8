//! What commands print: data on stdout, as a table for people or as JSON for programs. Nothing depends on colour.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::error::printable;

/// How a command prints its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    People,
    /// One JSON document, or one a line where data streams.
    Json,
}

impl Format {
    /// The format that the `--json` flag asks for.
    pub fn of_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::People }
    }
}

/// A table in the making: a heading and rows of cells.
#[derive(Debug)]
pub struct Rows {
    table: Table,
}

impl Rows {
    /// A table with these column headings; those that begin with `>` are aligned to the right, for numbers.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { table }
    }

    /// Adds a row. Control characters, which names from afar may hold, are replaced.
    pub fn add<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(cells.into_iter().map(|cell| printable(cell.as_ref())));
    }

    /// The table as text, each line ending without blanks.
    pub fn to_text(&self) -> String {
        self.table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}

/// Standard output as commands write it. That its reader has closed the pipe is no error: whoever pipes into `head` has seen
/// enough. What is written from then on goes nowhere.
#[derive(Debug, Default)]
pub struct Stdout {
    reader_is_gone: bool,
}

impl Stdout {
    /// Whether nobody reads any more.
    pub fn reader_is_gone(&self) -> bool {
        self.reader_is_gone
    }

    fn unless_gone<T>(&mut self, otherwise: T, work: impl FnOnce(&mut io::Stdout) -> io::Result<T>) -> io::Result<T> {
        if self.reader_is_gone {
            return Ok(otherwise);
        }
        match work(&mut io::stdout()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_is_gone = true;
                Ok(otherwise)
            }
            other => other,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_gone(bytes.len(), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_gone((), Write::flush)
    }
}

/// Prints `data` as JSON, or as the text that `text` makes of it. That the reader has closed the pipe is no error.
pub fn print<T: Serialize + ?Sized>(format: Format, data: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
    write_to(&mut Stdout::default(), format, data, text)
}

fn write_to<T: Serialize + ?Sized>(
    out: &mut impl Write,
    format: Format,
    data: &T,
    text: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    let mut shown = match format {
        Format::Json => serde_json::to_string_pretty(data).map_err(io::Error::other)?,
        Format::People => text(data),
    };
    if !shown.is_empty() && !shown.ends_with('\n') {
        shown.push('\n');
    }
    out.write_all(shown.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_defuse() {
        let mut rows = Rows::new(&["NAME", ">FILES"]);
        rows.add(["cam/a", "12"]);
        rows.add(["evil\x1b[2J", "3"]);
        assert_eq!(rows.to_text(), "NAME      FILES\ncam/a        12\nevil\u{fffd}[2J      3\n");
    }

    #[test]
    fn data_is_json_where_asked() {
        let mut out = Vec::new();
        write_to(&mut out, Format::Json, &[1, 2], |_| unreachable!()).unwrap();
        write_to(&mut out, Format::People, &[1, 2], |data| format!("{} things", data.len())).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "[\n  1,\n  2\n]\n2 things\n");
    }
}
