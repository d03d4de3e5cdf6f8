//! `sample` and `doctor`.

use headwater_host::error::{CodedError, codes, printable};
use serde_json::json;

use super::{say, transport};
use crate::{Client, Options};

/// Bytes of a file that are shown.
const SHOWN_BYTES: usize = 24;

pub(super) async fn samples(client: &Client, name: &str, numbers: &[u64], json: bool) -> Result<(), CodedError> {
    let dataset = client.dataset(name).await?;
    let batch = dataset.read_with_paths(numbers).await?;
    for sample in batch.samples() {
        let sample = sample?;
        for field in sample.fields() {
            let path = printable(&String::from_utf8_lossy(field.name));
            let head = &field.bytes[..field.bytes.len().min(SHOWN_BYTES)];
            let shown = match std::str::from_utf8(head) {
                Ok(text) => printable(text),
                Err(_) => data_encoding::HEXLOWER.encode(head),
            };
            let document = json!({ "sample": sample.number(), "path": path, "bytes": field.size, "head": shown });
            say(json, &document, &format!("{:>10}  {:>12}  {path}  {shown}", sample.number(), field.size))?;
        }
    }
    Ok(())
}

/// Goes the way of a job, and says at each step how it went.
pub(super) async fn doctor(options: Options, json: bool) -> Result<(), CodedError> {
    let cores = options.token.addresses.join(", ");
    let step = |name: &str, fine: bool, detail: &str| {
        let document = json!({ "check": name, "ok": fine, "detail": detail });
        say(json, &document, &format!("{}  {name}: {detail}", if fine { "ok  " } else { "BAD " }))
    };
    step("token", true, &format!("{} for the core at {cores}", options.token.digest().shared_name()))?;
    let client = match Client::connect(options).await {
        Ok(client) => client,
        Err(error) => {
            step("connection", false, &error.message)?;
            return Err(error);
        }
    };
    step("connection", true, "the core answers, over UDP and TCP")?;
    match client.rdma() {
        Ok(device) => step("RDMA device", true, &device.said)?,
        Err(why) => step("RDMA device", true, &format!("none: {why}"))?,
    }
    let stats = client.stats().await;
    step("transport", true, &transport(&stats))?;
    let listed = client.datasets().await;
    client.close().await;
    let count = listed?.len();
    step("rights", count > 0, &format!("{count} datasets can be read"))?;
    if count > 0 {
        return Ok(());
    }
    Err(CodedError::new(&codes::NOT_FOUND, "this token reads no dataset")
        .with_hint("the core has none yet, or the token was made without `--read PATTERN`"))
}
