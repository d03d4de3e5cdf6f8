//! Trying again while a core is away.

use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_quic::work;
use tokio::time::Instant;

/// The first pause, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long something is tried again, and how often.
#[derive(Debug)]
pub(crate) struct Retry {
    patience: Duration,
    deadline: Instant,
    pause: Duration,
}

impl Retry {
    /// Patience that begins now.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, deadline: Instant::now() + patience, pause: PAUSE_FIRST }
    }

    /// It went on: patience begins anew.
    pub(crate) fn progressed(&mut self) {
        *self = Self::new(self.patience);
    }

    /// Waits before the next try; the error if waiting doesn't help, or has lasted long enough.
    pub(crate) async fn wait_out(&mut self, error: CodedError) -> Result<(), CodedError> {
        if !may_pass(&error) || Instant::now() >= self.deadline {
            return Err(error);
        }
        tracing::info!(%error, pause = ?self.pause, "the core can't be reached, and is tried again");
        // Half of it by chance: the jobs of a cluster do not come back all at once.
        tokio::time::sleep(self.pause / 2 + self.pause.mul_f64(f64::from(work::random_byte()) / 512.0)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Whether waiting may help.
fn may_pass(error: &CodedError) -> bool {
    [&codes::CORE_UNREACHABLE, &codes::SESSION_ENDED, &codes::TOO_BUSY].into_iter().any(|code| error.is(code))
}
