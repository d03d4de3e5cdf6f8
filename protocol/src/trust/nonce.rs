//! Noticing a cloned device: two machines with one key, from a copied disk image.
//!
//! Each session gives the device a nonce to keep and to show at the next. A device that shows the newest is the one we
//! know; one that shows the nonce before lost the newest, because its session died before it was stored; anything older
//! was shown by somebody already, so two hold the key.
//!
//! ```text
//!            session 1      session 2      session 3           a copy made after session 1
//! shows      (empty)        n1             n2                  n1  -> not n3, not n2: clone
//! is given   n1             n2             n3
//! ```

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;

/// The two last nonces of one device, as the core keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NonceLedger {
    /// What the last session gave; empty before the first.
    pub newest: Vec<u8>,
    /// What the device showed then; none before the first session.
    pub before: Option<Vec<u8>>,
}

/// What a shown nonce says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceVerdict {
    /// This is the device that we know.
    Known,
    /// Somebody else shows this key too.
    Clone,
}

impl NonceLedger {
    /// What `shown` says of who shows it.
    pub fn judge(&self, shown: &[u8]) -> NonceVerdict {
        if shown == self.newest || self.before.as_deref() == Some(shown) {
            NonceVerdict::Known
        } else {
            NonceVerdict::Clone
        }
    }

    /// The ledger after a session in which `shown` was accepted and `given` was handed out. It must be durable before
    /// `given` leaves the core.
    #[must_use]
    pub fn after(&self, shown: &[u8], given: [u8; NONCE_BYTES]) -> Self {
        Self { newest: given.to_vec(), before: Some(shown.to_vec()) }
    }
}
