//! Progress bars on a terminal; nothing elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::request::Progress;

/// What of a command's progress is on the terminal.
pub(super) struct Shown {
    bars: Option<(MultiProgress, RefCell<HashMap<String, ProgressBar>>)>,
}

impl Shown {
    /// Bars if stderr is a terminal and a person reads along.
    pub(super) fn new(json: bool) -> Self {
        let wanted = std::io::stderr().is_terminal() && !json;
        Self { bars: wanted.then(|| (MultiProgress::new(), RefCell::default())) }
    }

    /// Shows what the daemon said.
    pub(super) fn update(&self, value: &Value) {
        let Some((all, bars)) = &self.bars else { return };
        let Ok(progress) = serde_json::from_value::<Progress>(value.clone()) else { return };
        match progress {
            Progress::Scan { dataset, files, bytes } => {
                let mut bars = bars.borrow_mut();
                let bar = bars.entry(format!("scan {dataset}")).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new_spinner());
                    bar.set_style(style("{spinner} {prefix:28!} {msg}"));
                    bar.set_prefix(format!("scan {dataset}"));
                    bar
                });
                bar.set_message(format!("{files} files, {} read", indicatif::HumanBytes(bytes)));
                bar.tick();
            }
            Progress::Transfer { dataset, up, bytes, bytes_total, wire_bytes } => {
                let mut bars = bars.borrow_mut();
                let arrow = if up { "send" } else { "get " };
                let bar = bars.entry(format!("{arrow} {dataset}")).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(bytes_total));
                    bar.set_style(
                        style("  {prefix:28!} {bar:30} {bytes:>10} / {total_bytes:10} {msg}").progress_chars("=> "),
                    );
                    bar.set_prefix(format!("{arrow} {dataset}"));
                    bar
                });
                bar.set_length(bytes_total);
                bar.set_position(bytes);
                bar.set_message(format!("{} on the wire", indicatif::HumanBytes(wire_bytes)));
            }
            Progress::Note { text } => {
                let _ = all.println(text);
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constant")
}
