//! Answers as people and programs read them: tables, single blocks, or JSON, on stdout.
//!
//! Rows of one kind are collected into one table and printed when the answer ends; with `--json` each row is a line of
//! its own as it comes, and an answer that is one thing is one document.

use std::collections::BTreeMap;
use std::io::Write;

use headwater_host::output::Rows;

use super::{span, training};
use crate::control::{
    Answer, CollectionRow, DatasetRow, DeviceRow, Done, Finding, ReadRow, ReaderRow, StatusRow, TokenRow, VersionRow,
};

/// Prints the parts of one answer.
pub(super) struct Renderer<W> {
    out: W,
    json: bool,
    table: Option<Rows>,
    /// The header of the open table, where an answer can have several.
    header: Option<&'static [&'static str]>,
    rows: u64,
    bad: u64,
}

impl<W: Write> Renderer<W> {
    pub(super) fn new(out: W, json: bool) -> Self {
        Self { out, json, table: None, header: None, rows: 0, bad: 0 }
    }

    /// Takes one part of the answer.
    pub(super) fn take(&mut self, answer: &Answer) -> std::io::Result<()> {
        self.bad += match answer {
            Answer::Finding(finding) => u64::from(finding.state == "fail"),
            Answer::Damage(_) => 1,
            _ => 0,
        };
        self.rows += 1;
        if self.json { self.json_line(answer) } else { self.text(answer) }
    }

    /// Ends the answer; says how much of it was bad: failed checks, damaged chunks.
    ///
    /// That there is nothing is said only of a `whole` answer: one that broke off knows nothing of it.
    pub(super) fn finish(mut self, whole: bool) -> std::io::Result<u64> {
        self.end_table()?;
        if whole && self.rows == 0 && !self.json {
            writeln!(self.out, "none")?;
        }
        self.out.flush()?;
        Ok(self.bad)
    }

    fn end_table(&mut self) -> std::io::Result<()> {
        match self.table.take() {
            Some(table) => self.out.write_all(table.to_text().as_bytes()),
            None => Ok(()),
        }
    }

    fn json_line(&mut self, answer: &Answer) -> std::io::Result<()> {
        // The row itself, without the enum's tag: its fields are the interface.
        let mut value = serde_json::to_value(answer).map_err(std::io::Error::other)?;
        let body = match answer {
            Answer::Progress(_) => return Ok(()),
            Answer::Done(done) => serde_json::to_value(&done.fields).map_err(std::io::Error::other)?,
            _ => value["value"].take(),
        };
        writeln!(self.out, "{body}")
    }

    fn text(&mut self, answer: &Answer) -> std::io::Result<()> {
        match answer {
            Answer::Progress(_) => Ok(()),
            Answer::Status(status) => self.status(status),
            Answer::Finding(finding) => self.finding(finding),
            Answer::Token(token) => writeln!(self.out, "{}", token.token),
            Answer::TokenRow(row) => {
                self.row(&TOKEN_HEADER, token_cells(row));
                Ok(())
            }
            Answer::Device(row) => {
                self.row(&DEVICE_HEADER, device_cells(row));
                Ok(())
            }
            Answer::Dataset(row) => {
                self.row(&DATASET_HEADER, dataset_cells(row));
                Ok(())
            }
            Answer::Version(row) => {
                self.row(&VERSION_HEADER, version_cells(row));
                Ok(())
            }
            Answer::File(row) => {
                let target = row.link_target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
                let kind = match row.file_kind.as_str() {
                    "folder" => 'd',
                    "symlink" => 'l',
                    _ => '-',
                };
                writeln!(
                    self.out,
                    "{kind} {:>4} {:>14} {} {}{target}",
                    row.mode,
                    row.bytes,
                    date_ns(row.mtime_ns),
                    row.path
                )
            }
            Answer::Run(row) => writeln!(self.out, "samples {} to {}", row.first, row.end.saturating_sub(1)),
            Answer::Change(row) => {
                let mark = match row.change.as_str() {
                    "added" => '+',
                    "removed" => '-',
                    _ => '~',
                };
                writeln!(self.out, "{mark} {} ({} -> {} bytes)", row.path, row.bytes_before, row.bytes_after)
            }
            Answer::Collection(row) => {
                self.row(&COLLECTION_HEADER, collection_cells(row));
                Ok(())
            }
            Answer::Member(row) => {
                self.end_table()?;
                writeln!(self.out, "  {}@{} {}", row.dataset, row.number, short(&row.version))
            }
            Answer::Damage(row) => {
                self.row(
                    &["damaged chunk", "reason", "needed by"],
                    vec![short(&row.chunk), row.reason.clone(), row.needed_by.join(", ")],
                );
                Ok(())
            }
            Answer::Model(row) => self.table(&training::MODEL_HEADER, training::model_cells(row)),
            Answer::Tensor(row) => self.table(&training::TENSOR_HEADER, training::tensor_cells(row)),
            Answer::Update(row) => self.table(&training::UPDATE_HEADER, training::update_cells(row)),
            Answer::Federation(row) => self.table(&training::FEDERATION_HEADER, training::federation_cells(row)),
            Answer::Round(row) => self.table(&training::ROUND_HEADER, training::round_cells(row)),
            Answer::Participant(row) => self.table(&training::PARTICIPANT_HEADER, training::participant_cells(row)),
            Answer::Event(row) => writeln!(self.out, "{}  {}", date(row.at_unix_s), row.said),
            Answer::Done(Done { said, .. }) => {
                self.end_table()?;
                writeln!(self.out, "{said}")
            }
        }
    }

    /// Adds to the table with this header; where another is open, that one ends.
    fn table(&mut self, header: &'static [&'static str], cells: Vec<String>) -> std::io::Result<()> {
        if self.header.is_some_and(|open| open != header) {
            self.end_table()?;
            writeln!(self.out)?;
        }
        self.header = Some(header);
        self.row(header, cells);
        Ok(())
    }

    fn row(&mut self, header: &[&str], cells: Vec<String>) {
        self.table.get_or_insert_with(|| Rows::new(header)).add(cells);
    }

    fn finding(&mut self, finding: &Finding) -> std::io::Result<()> {
        writeln!(self.out, "{:>4}  {}: {}", finding.state, finding.what, finding.found)?;
        if finding.hint.is_empty() { Ok(()) } else { writeln!(self.out, "{:>4}  hint: {}", "", finding.hint) }
    }

    fn reader(&mut self, reader: &ReaderRow) -> std::io::Result<()> {
        let out = &mut self.out;
        let user = if reader.user.is_empty() { String::new() } else { format!(" of {}", reader.user) };
        let why =
            if reader.why_not_rdma.is_empty() { String::new() } else { format!(" (no RDMA: {})", reader.why_not_rdma) };
        writeln!(
            out,
            "job        {}{user} ({}) from {}: {}{why}, {} out, waited {} ms, for {}",
            or_dash(&reader.job),
            reader.token,
            reader.address,
            or_dash(&reader.plane),
            bytes(reader.bytes),
            reader.waited_ms,
            span::show(reader.since_s)
        )?;
        for ReadRow { dataset, samples, epoch, rank, world_size, turn, turns, position, .. } in &reader.reads {
            match epoch {
                Some(epoch) => writeln!(
                    out,
                    "           {dataset}: epoch {epoch}, rank {rank} of {world_size}, {turn} of {turns} samples, at position {position}"
                )?,
                None => writeln!(out, "           {dataset}: {samples} samples, order not declared")?,
            }
        }
        Ok(())
    }

    fn status(&mut self, status: &StatusRow) -> std::io::Result<()> {
        let out = &mut self.out;
        writeln!(out, "core       {} (release {}), up {}", status.name, status.release, span::show(status.up_s))?;
        writeln!(out, "listens    {} for devices, {} for metrics", status.listen, or_dash(&status.admin))?;
        writeln!(out, "devices    {} known, {} connected", status.devices, status.connected)?;
        writeln!(out, "datasets   {} in {} versions", status.datasets, status.versions)?;
        writeln!(
            out,
            "store      {} chunks, {} in {} packs on disk, {} plain, {} free",
            status.chunks,
            bytes(status.stored_bytes),
            status.packs,
            bytes(status.plain_bytes),
            bytes(status.disk_free_bytes)
        )?;
        if status.damaged_chunks > 0 {
            writeln!(out, "damage     {} chunks are damaged; `core-node verify` names them", status.damaged_chunks)?;
        }
        writeln!(out, "wire in    {}", by_reason(&status.wire_in))?;
        writeln!(out, "wire out   {}", by_reason(&status.wire_out))?;
        for session in &status.sessions {
            writeln!(
                out,
                "session    {} from {}: {}, {} in, {} out, {} ms, for {}",
                session.device,
                session.address,
                session.doing,
                bytes(session.in_bytes),
                bytes(session.out_bytes),
                session.round_trip_ms,
                span::show(session.since_s)
            )?;
        }
        for reader in &status.readers {
            self.reader(reader)?;
        }
        let out = &mut self.out;
        for worker in &status.workers {
            writeln!(out, "worker     {}: {}; last: {}", worker.name, worker.state, or_dash(&worker.last))?;
        }
        for error in &status.errors {
            writeln!(
                out,
                "error      [{}] {} ({}, {} ago, {} times)",
                error.code,
                error.message,
                error.whom,
                span::show(error.ago_s),
                error.count
            )?;
        }
        Ok(())
    }
}

const TOKEN_HEADER: [&str; 8] = ["id", "uses left", "ends in", "role", "labels", "write", "read", "names"];
const DEVICE_HEADER: [&str; 9] =
    ["device", "state", "release", "seen", "backlog", "oldest unsent", "free disk", "labels", "last error"];
const DATASET_HEADER: [&str; 7] = ["dataset", "writer", "newest", "versions", "files", "bytes", "tags"];
const VERSION_HEADER: [&str; 7] = ["version", "id", "committed", "origin", "files", "bytes", "tags"];
const COLLECTION_HEADER: [&str; 7] = ["collection", "number", "members", "match", "labels", "every", "keeps"];

fn token_cells(row: &TokenRow) -> Vec<String> {
    vec![
        row.id.clone(),
        row.uses_left.to_string(),
        span::show(row.expires_in_s),
        row.role.clone(),
        labels(&row.labels),
        or_dash(&row.write.join(" ")).to_owned(),
        or_dash(&row.read.join(" ")).to_owned(),
        or_dash(&row.names).to_owned(),
    ]
}

fn device_cells(row: &DeviceRow) -> Vec<String> {
    let unsent = if row.backlog_bytes == 0 { "-".to_owned() } else { span::show(row.oldest_unsent_s) };
    vec![
        row.name.clone(),
        row.state.clone(),
        or_dash(&row.release).to_owned(),
        row.seen_ago_s.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", span::show(seconds))),
        bytes(row.backlog_bytes),
        unsent,
        bytes(row.disk_free_bytes),
        labels(&row.labels),
        or_dash(&row.last_error).to_owned(),
    ]
}

fn dataset_cells(row: &DatasetRow) -> Vec<String> {
    vec![
        row.name.clone(),
        row.writer.clone(),
        format!("@{} {}", row.number, short(&row.version)),
        row.versions.to_string(),
        row.files.to_string(),
        bytes(row.bytes),
        or_dash(&row.tags.iter().map(|(tag, number)| format!("{tag}=@{number}")).collect::<Vec<_>>().join(" "))
            .to_owned(),
    ]
}

fn version_cells(row: &VersionRow) -> Vec<String> {
    vec![
        format!("{}@{}", row.dataset, row.number),
        short(&row.version),
        date(row.committed_unix_s),
        row.origin.clone(),
        row.files.to_string(),
        bytes(row.bytes),
        or_dash(&row.tags.join(" ")).to_owned(),
    ]
}

fn collection_cells(row: &CollectionRow) -> Vec<String> {
    vec![
        row.name.clone(),
        row.number.to_string(),
        row.members.to_string(),
        row.matching.clone(),
        labels(&row.labels),
        row.every_s.map_or_else(|| "-".to_owned(), span::show),
        row.keep.map_or_else(|| "all".to_owned(), |keep| keep.to_string()),
    ]
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    or_dash(&labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")).to_owned()
}

fn by_reason(reasons: &BTreeMap<String, u64>) -> String {
    let total: u64 = reasons.values().sum();
    let parts: Vec<_> = reasons.iter().map(|(reason, count)| format!("{reason} {}", bytes(*count))).collect();
    format!("{} ({})", bytes(total), parts.join(", "))
}

pub(super) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(super) fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// `count` bytes in the unit that people would say.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn date_ns(nanos: i64) -> String {
    date(u64::try_from(nanos / 1_000_000_000).unwrap_or(0))
}

/// `seconds` since the Unix epoch as a date in UTC.
pub(super) fn date(seconds: u64) -> String {
    // Days to a civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let clamped = seconds.min(253_402_300_799);
    let days = clamped / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let time = clamped % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_sizes_read_well() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(1_767_225_599), "2025-12-31 23:59:59");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn json_rows_are_bare() {
        let mut out = Vec::new();
        let mut renderer = Renderer::new(&mut out, true);
        renderer
            .take(&Answer::Member(crate::control::MemberRow { dataset: "a".into(), number: 2, version: "f".into() }))
            .expect("memory");
        renderer.finish(true).expect("memory");
        assert_eq!(String::from_utf8(out).expect("text"), "{\"dataset\":\"a\",\"number\":2,\"version\":\"f\"}\n");
    }
}
