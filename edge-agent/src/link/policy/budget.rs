//! The month's bytes.

/// What a connection may still cost while it is closed: the link closes so many bytes before the limit.
pub const CLOSING_BYTES: u64 = 1 << 20;

/// What may be spent in a month, sent and received together, with all headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// In a month.
    pub month_bytes: u64,
    /// So many of them are for model updates alone.
    pub reserve_bytes: u64,
}

impl Budget {
    /// The least that a month must have beside the reserve, for anything to move.
    pub const BYTES_MIN: u64 = 10 * CLOSING_BYTES;

    /// Whether no more may be spent. What counts is what the month has without the reserve, but for a model update.
    pub fn is_spent(&self, spent_bytes: u64, is_model_update: bool) -> bool {
        self.left(spent_bytes, is_model_update) == 0
    }

    /// What may still be spent.
    pub fn left(&self, spent_bytes: u64, is_model_update: bool) -> u64 {
        self.open_bytes(is_model_update).saturating_sub(CLOSING_BYTES).saturating_sub(spent_bytes)
    }

    /// After how many bytes more the socket itself lets nothing out, however late it is noticed that all is spent. The other
    /// half of what closing may cost is for what is still received.
    pub fn left_at_socket(&self, spent_bytes: u64, is_model_update: bool) -> u64 {
        self.open_bytes(is_model_update).saturating_sub(CLOSING_BYTES / 2).saturating_sub(spent_bytes)
    }

    fn open_bytes(&self, is_model_update: bool) -> u64 {
        self.month_bytes.saturating_sub(if is_model_update { 0 } else { self.reserve_bytes })
    }
}
