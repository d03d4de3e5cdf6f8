//! Progress bars on stderr, only where a person can see them.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);
const BYTES_STYLE: &str = "{msg:28!} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
const COUNT_STYLE: &str = "{msg:28!} [{bar:30}] {pos}/{len} {per_sec} {eta}";
const SPINNER_STYLE: &str = "{spinner} {msg}";

/// A progress bar; without a terminal it shows nothing.
#[derive(Debug)]
pub struct ProgressBar(indicatif::ProgressBar);

impl ProgressBar {
    /// A bar that counts bytes.
    pub fn bytes(total: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Some(total), BYTES_STYLE, message)
    }

    /// A bar that counts things.
    pub fn count(total: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Some(total), COUNT_STYLE, message)
    }

    /// A sign of life, where the end is not known.
    pub fn spinner(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(None, SPINNER_STYLE, message)
    }

    fn new(total: Option<u64>, style: &str, message: impl Into<Cow<'static, str>>) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = indicatif::ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(message);
        if total.is_none() && !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Sets how much is done of how much.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Changes what stands beside the bar.
    pub fn message(&self, message: impl Into<Cow<'static, str>>) {
        self.0.set_message(message);
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
