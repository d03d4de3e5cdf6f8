//! `import`: a folder becomes a version.

use headwater_host::config::HumanBytes;
use headwater_host::error::CodedError;
use headwater_host::progress::ProgressBar;
use serde_json::json;

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
    let left_out = report.left_out();
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
    let mut document = report.import_fields();
    document["dataset"] = json!(name);
    document["number"] = json!(imported.number);
    document["is_new"] = json!(imported.is_new);
    document["version"] = json!(imported.version.to_string());
    document["files"] = json!(imported.files);
    document["bytes"] = json!(imported.bytes);
    document["wire_bytes"] = json!(imported.wire_bytes);
    if let Some(samples) = imported.samples {
        document["samples"] = json!(samples);
    }
    say(json, &document, &said)
}
