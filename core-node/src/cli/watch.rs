//! `--watch`: the same question again and again, shown whenever the answer has changed.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use headwater_host::error::CodedError;
use headwater_host::output::Stdout;
use serde_json::Value;

use super::plan::Target;
use super::{ask, local, output, render};
use crate::control::Request;

/// How often is asked.
const EVERY: Duration = Duration::from_millis(500);
/// Moves to the top of a terminal and clears it.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// Asks until no run goes on.
pub(super) fn watch(target: &Target, request: &Request, json: bool) -> Result<ExitCode, CodedError> {
    let mut shown = Vec::new();
    loop {
        let mut page = Vec::new();
        let mut renderer = render::Renderer::new(&mut page, json);
        let bar = local::ProgressBar::new();
        let (mut failed, mut goes_on) = (None, false);
        ask(target, request, |value: Value| {
            goes_on |= is_running(&value);
            if failed.is_none()
                && let Err(error) = local::take(&bar, &mut renderer, value)
            {
                failed = Some(error);
            }
        })?;
        renderer.finish(true).map_err(output)?;
        if let Some(error) = failed {
            return Err(error);
        }
        if page != shown {
            let mut out = Stdout::default();
            if !json && std::io::stdout().is_terminal() {
                out.write_all(CLEAR).map_err(output)?;
            }
            out.write_all(&page).and_then(|()| out.flush()).map_err(output)?;
            shown = page;
        }
        if !goes_on {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(EVERY);
    }
}

fn is_running(answer: &Value) -> bool {
    answer["kind"] == "federation"
        && !matches!(answer["value"]["state"].as_str(), Some("finished" | "failed" | "aborted"))
}
