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
//!
//! A nonce opens with its number in that series. One with a higher number than the ledger's newest was given by a ledger that
//! is lost: the core was restored from a backup, and the device is no clone for that.

/// Bytes of a nonce: its number, big-endian, and random ones.
pub const NONCE_BYTES: usize = NUMBER_BYTES + NONCE_RANDOM_BYTES;
/// Random bytes of a nonce.
pub const NONCE_RANDOM_BYTES: usize = 8;
const NUMBER_BYTES: usize = 8;

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
        if shown == self.newest || self.before.as_deref() == Some(shown) || number_of(shown) > number_of(&self.newest) {
            NonceVerdict::Known
        } else {
            NonceVerdict::Clone
        }
    }

    /// The ledger after a session in which `shown` was accepted and the next nonce, made with `random`, was handed out: it
    /// is the newest now. The ledger must be durable before that leaves the core.
    #[must_use]
    pub fn after(&self, shown: &[u8], random: [u8; NONCE_RANDOM_BYTES]) -> Self {
        let number = number_of(&self.newest).max(number_of(shown)).unwrap_or(0).saturating_add(1);
        Self { newest: [number.to_be_bytes(), random].concat(), before: Some(shown.to_vec()) }
    }
}

/// The number of a nonce; none if it is empty, or no nonce.
fn number_of(nonce: &[u8]) -> Option<u64> {
    let nonce: &[u8; NONCE_BYTES] = nonce.try_into().ok()?;
    nonce.first_chunk().map(|number| u64::from_be_bytes(*number))
}
