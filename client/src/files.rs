//! Files of a version by their paths: listing them, and reading large ones piece by piece.

use std::fmt;
use std::ops::Range;

use futures_util::{StreamExt, stream};
use headwater_host::error::{CodedError, codes};
use serde_json::{Value, json};

use crate::client::Client;
use crate::dataset::Dataset;

/// Bytes of a file that are asked for at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces of a file that are under way.
const PIECES_AHEAD: usize = 4;

/// A file of a version, as a listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) size: u64,
    pub(crate) row: Value,
}

/// A dataset that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetEntry {
    /// Its name.
    pub name: String,
    /// The number of its newest version.
    pub number: u64,
    /// Files of that version.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A file, folder or link of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `file`, `folder` or `symlink`.
    pub kind: String,
    /// Bytes of a file.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
}

impl Client {
    /// The datasets that this client may read, by name.
    pub async fn datasets(&self) -> Result<Vec<DatasetEntry>, CodedError> {
        let mut found = Vec::new();
        let take = |part: Value| {
            let row = &part["value"];
            let number = |key: &str| row[key].as_u64().unwrap_or_default();
            if let Some(name) = row["name"].as_str() {
                let name = name.to_owned();
                found.push(DatasetEntry {
                    name,
                    number: number("number"),
                    files: number("files"),
                    bytes: number("bytes"),
                });
            }
        };
        self.command(&json!({ "command": "dataset-list", "pattern": null }), take).await?;
        Ok(found)
    }

    /// The files, folders and links of `version` (as `cameras@7`) at or below the path `under`, in path order; all of them where it
    /// is empty.
    pub async fn files(&self, version: &str, under: &str) -> Result<Vec<FileEntry>, CodedError> {
        let mut found = Vec::new();
        let take = |file: Listed| {
            let mtime_ns = file.row["mtime_ns"].as_i64().unwrap_or_default();
            found.push(FileEntry { path: file.path, kind: file.kind, bytes: file.size, mtime_ns });
        };
        self.list(version, under, take).await?;
        Ok(found)
    }

    /// The files of `version` at or below `under`.
    pub(crate) async fn list(
        &self,
        version: &str,
        under: &str,
        mut take: impl FnMut(Listed),
    ) -> Result<(), CodedError> {
        let request = json!({ "command": "dataset-files", "version": version, "under": under, "limit": 0 });
        let one = |part: Value| {
            let row = part.get("value").cloned().unwrap_or_default();
            let text = |key: &str| row.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
            if let (Some(path), Some(kind)) = (text("path"), text("file_kind")) {
                take(Listed { path, kind, size: row.get("bytes").and_then(Value::as_u64).unwrap_or_default(), row });
            }
        };
        self.command(&request, one).await
    }
}

/// Which samples are read. One that has several fields passes with any of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// One of them has to match a file of the sample, as `train/**` or `**/*.png` (`*` stays within a folder); none: all do.
    pub patterns: Vec<String>,
    /// Labels, and what each may be; all of them have to fit. `.cls` is a field that is the label, `.json:sky.rain` a place in one that is
    /// JSON, where of a list one member has to fit.
    pub labels: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lead = "";
        if !self.patterns.is_empty() {
            write!(f, "has a file that matches {}", self.patterns.join(" or "))?;
            lead = " and ";
        }
        for (label, values) in &self.labels {
            write!(f, "{lead}is labelled `{label}` = {}", values.join(" or "))?;
            lead = " and ";
        }
        Ok(())
    }
}

impl Dataset {
    /// Which of its samples pass `filter`: runs of neighbours, ascending, as [`Reading::kept`](crate::order::Reading) takes them. An error if
    /// there are none.
    pub async fn select(&self, filter: &Filter) -> Result<Vec<Range<u64>>, CodedError> {
        let labels: Vec<_> = filter
            .labels
            .iter()
            .map(|(label, values)| match label.split_once(':') {
                Some((field, key)) => json!({ "field": field, "key": key, "values": values }),
                None => json!({ "field": label, "values": values }),
            })
            .collect();
        let (mut runs, mut before): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
        for member in self.members() {
            let version = format!("{}@{}", member.version.dataset, member.version.number);
            let mut request = json!({ "command": "dataset-select", "version": version, "patterns": filter.patterns });
            if !labels.is_empty() {
                request["labels"] = json!(labels);
            }
            let take = |part: Value| {
                let number = |key: &str| part["value"][key].as_u64();
                if let (Some(first), Some(end)) = (number("first"), number("end")) {
                    let run = before + first..before + end;
                    match runs.last_mut() {
                        Some(last) if last.end == run.start => last.end = run.end,
                        _ => runs.push(run),
                    }
                }
            };
            self.client().command(&request, take).await?;
            before += member.samples;
        }
        if runs.is_empty() {
            let message = format!("no sample of `{}` {filter}", self.label());
            return Err(CodedError::new(&codes::NOT_FOUND, message).with_hint(
                "`*` stays within a folder: say `**/*.png` for all folders; `headwater ls NAME@VERSION` lists paths, and `headwater sample` \
                 shows labels",
            ));
        }
        Ok(runs)
    }

    /// Reads a file from its start to its end, piece by piece; several pieces are under way.
    pub(crate) async fn read_file(
        &self,
        path: &[u8],
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<u64, CodedError> {
        let first = self.read_range(path, 0, PIECE_BYTES).await?;
        let field =
            |batch: &crate::Batch| batch.sample(0).map(|sample| sample.fields().next().map_or(0, |field| field.size));
        let size = field(&first)?;
        let failed = |error| CodedError::io(&codes::WRITE_FAILED, "the bytes can't be written", error);
        take(first.sample(0)?.bytes()).map_err(failed)?;
        drop(first);
        let offsets =
            (1..size.div_ceil(PIECE_BYTES)).map(|piece| self.read_range(path, piece * PIECE_BYTES, PIECE_BYTES));
        let mut pieces = stream::iter(offsets).buffered(PIECES_AHEAD);
        while let Some(piece) = pieces.next().await {
            take(piece?.sample(0)?.bytes()).map_err(failed)?;
        }
        Ok(size)
    }
}
