//! The trace of a run: a line for each thing that happens, hashed as it goes, so that two runs can be told to be the same.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Where lines of a trace go.
pub type TraceSink = Box<dyn FnMut(&str) + Send>;

/// The trace of a run.
pub(super) struct Trace {
    began: Instant,
    state: Mutex<State>,
}

struct State {
    hasher: blake3::Hasher,
    sink: Option<TraceSink>,
    lines: u64,
}

impl Trace {
    /// An empty trace that begins now.
    pub(super) fn new(sink: Option<TraceSink>) -> Self {
        let state = State { hasher: blake3::Hasher::new(), sink, lines: 0 };
        Self { began: Instant::now(), state: Mutex::new(state) }
    }

    /// Milliseconds since the run began.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something happened.
    pub(super) fn line(&self, text: &str) {
        let line = format!("{:>9} {text}\n", self.now_ms());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines += 1;
        state.hasher.update(line.as_bytes());
        if let Some(sink) = &mut state.sink {
            sink(line.trim_end());
        }
    }

    /// A datagram moved: there are many.
    pub(super) fn bytes(&self, text: impl FnOnce() -> String) {
        self.line(&text());
    }

    /// The hash of all lines, and how many there were.
    pub(super) fn hash(&self) -> (String, u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.hasher.finalize().to_hex()[..16].to_owned(), state.lines)
    }
}
