//! The table at the end.

use std::time::Duration;

use comfy_table::{CellAlignment, Table as Grid, presets};

use super::watch::Counters;

/// One stage of the demo.
pub(super) struct Row {
    stage: &'static str,
    files: u64,
    bytes: u64,
    spent: Counters,
    took: Duration,
}

impl Row {
    /// A stage that moved `files` files of `bytes` bytes.
    pub(super) fn new(stage: &'static str, files: u64, bytes: u64, spent: &Counters, took: Duration) -> Self {
        Self { stage, files, bytes, spent: spent.clone(), took }
    }
}

/// The table, and the notes under it.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Table {
    pub(super) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The table as text.
    pub(super) fn text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "stage",
            "files",
            "bytes",
            "on the wire",
            "saved: dedup",
            "deltas",
            "compression",
            "time",
        ]);
        for row in &self.rows {
            grid.add_row([
                row.stage.to_owned(),
                row.files.to_string(),
                bytes_text(row.bytes),
                bytes_text(row.spent.wire_in + row.spent.wire_out),
                bytes_text(row.spent.saved_dedup),
                bytes_text(row.spent.saved_delta),
                bytes_text(row.spent.saved_compression),
                format!("{:.1} s", row.took.as_secs_f64()),
            ]);
        }
        for column in grid.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        grid.to_string()
    }
}

/// Bytes for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
