//! What went over the link so far, by reason, for `status`: kept in the catalog from time to time and at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_protocol::sync::SentByReason;
use headwater_quic::WireMeter;
use headwater_quic::session::SentAccount;

use crate::catalog::{Catalog, CatalogError};

/// The reasons, as people read them and as the catalog keeps them. The first four make up all that was sent.
const REASONS: [&str; 6] =
    ["first send", "re-sent after a cut", "retransmitted", "control", "received", "received in vain"];

/// So many more bytes are worth a write to the catalog.
const KEEP_BYTES_MIN: u64 = 1 << 20;

/// Bytes by reason, in the order of [`REASONS`].
type Counts = [u64; REASONS.len()];

/// Counts for one process.
pub(crate) struct Account {
    meter: Arc<WireMeter>,
    sent: Arc<SentAccount>,
    /// Bytes of the packets that got lost in sessions that have ended.
    lost_bytes: AtomicU64,
    /// Payload bytes that came and were of no use.
    in_vain_bytes: AtomicU64,
    /// What the catalog has of this process.
    kept: Mutex<Counts>,
}

impl Account {
    pub(super) fn new(meter: Arc<WireMeter>) -> Self {
        Self {
            meter,
            sent: SentAccount::new(),
            lost_bytes: AtomicU64::new(0),
            in_vain_bytes: AtomicU64::new(0),
            kept: Mutex::default(),
        }
    }

    /// What sessions tell what they send.
    pub(crate) fn sent(&self) -> &Arc<SentAccount> {
        &self.sent
    }

    /// A session has ended, in which packets of so many bytes got lost.
    pub(crate) fn session_ended(&self, lost_bytes: u64) {
        self.lost_bytes.fetch_add(lost_bytes, Ordering::Relaxed);
    }

    /// So many payload bytes came and were of no use.
    pub(crate) fn received_in_vain(&self, bytes: u64) {
        self.in_vain_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that was counted since the catalog was made, by reason; `lost_bytes` are those of the session that lives.
    pub(crate) fn by_reason(&self, catalog: &Catalog, lost_bytes: u64) -> Result<Vec<(String, u64)>, CatalogError> {
        let kept = self.locked();
        let (counters, now) = (catalog.counters()?, self.now(lost_bytes));
        let total = |(at, reason): (usize, &&str)| {
            let known = counters.iter().find(|(known, _)| known == reason).map_or(0, |(_, bytes)| *bytes);
            ((*reason).to_owned(), known.saturating_add_signed(more(now[at], kept[at])))
        };
        Ok(REASONS.iter().enumerate().map(total).collect())
    }

    /// Keeps what was counted, if that is `always` to be done or worth a write.
    pub(crate) fn keep(&self, catalog: &Catalog, lost_bytes: u64, always: bool) -> Result<(), CatalogError> {
        let mut kept = self.locked();
        let now = self.now(lost_bytes);
        let moved: u64 = now.iter().zip(*kept).map(|(now, kept)| now.abs_diff(kept)).sum();
        if moved == 0 || (!always && moved < KEEP_BYTES_MIN) {
            return Ok(());
        }
        let spent: [_; REASONS.len()] = std::array::from_fn(|at| (REASONS[at], more(now[at], kept[at])));
        catalog.count_bytes(&spent)?;
        *kept = now;
        Ok(())
    }

    fn now(&self, lost_bytes: u64) -> Counts {
        let counts = self.meter.counts();
        let lost_bytes = self.lost_bytes.load(Ordering::Relaxed) + lost_bytes;
        let sent = SentByReason::of(counts.sent_bytes, lost_bytes, self.sent.sent());
        let in_vain_bytes = self.in_vain_bytes.load(Ordering::Relaxed);
        [sent.first, sent.again, sent.retransmitted, sent.control, counts.received_bytes, in_vain_bytes]
    }

    fn locked(&self) -> MutexGuard<'_, Counts> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been added to a count. It may have become less: what was handed over may prove never to have left.
fn more(now: u64, kept: u64) -> i64 {
    i64::try_from(i128::from(now) - i128::from(kept)).unwrap_or(0)
}
