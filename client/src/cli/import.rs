//! `import`: a folder becomes a version.

use headwater_host::config::HumanBytes;
use headwater_host::error::CodedError;
use headwater_host::progress::ProgressBar;
use serde_json::{Value, json};

use super::say;
use crate::{Import, ImportProgress, Options};

pub(super) async fn run(options: &Options, import: &Import, json: bool) -> Result<(), CodedError> {
    let reading = ProgressBar::spinner(format!("reading {}", import.folder.display()));
    let sending = std::sync::OnceLock::new();
    let told = move |progress| match progress {
        ImportProgress::Reading { paths, bytes } => {
            reading.message(format!("reading: {paths} files, {}", HumanBytes(bytes)));
        }
        ImportProgress::Sending { bytes, total } => {
            sending.get_or_init(|| ProgressBar::bytes(total, "sending")).set(bytes, total);
        }
    };
    let imported = crate::import(options, import, told).await?;
    let (name, report) = (&import.dataset, &imported.report);
    let left_out = match report.deferred_count + report.skipped_count {
        0 => String::new(),
        count => format!("; {count} files were left out (see --json)"),
    };
    let said = if imported.is_new {
        format!(
            "`{name}@{}` has {} files of {}; {} were sent{left_out}",
            imported.number,
            imported.files,
            HumanBytes(imported.bytes),
            HumanBytes(imported.wire_bytes)
        )
    } else {
        format!("`{name}@{}` is as the folder is: nothing changed{left_out}", imported.number)
    };
    let mut document = json!({
        "dataset": name,
        "number": imported.number,
        "is_new": imported.is_new,
        "version": imported.version.to_string(),
        "files": imported.files,
        "bytes": imported.bytes,
        "wire_bytes": imported.wire_bytes,
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "files_read": report.files_read,
        "bytes_read": report.bytes_read,
        "deferred": report.deferred,
        "skipped": report.skipped,
    });
    if let Some(samples) = imported.samples {
        document["samples"] = Value::from(samples);
    }
    say(json, &document, &said)
}
