//! Noticing a cloned device: two machines with one key, from a copied disk image.
//!
//! Each session gives the device a nonce to keep and to show at the next. A device that shows the newest is the one we
//! know. One that shows again what it showed before lost what it was given since, because its session died before that was
//! stored, or dials several times at once because its link is silent: it may then have kept any of those nonces. What it
//! showed before that may be a hello of such a race that was long on its way, and is answered, but moves nothing: those who
//! showed something newer are known as before. Anything older was shown by somebody already, so two hold the key.
//!
//! ```text
//!            session 1      session 2      session 3      session 4           a copy made after session 1
//! shows      (empty)        n1             n2             n3                  n1  -> not n4, n3 or n2: clone
//! is given   n1             n2             n3             n4
//! ```
//!
//! A nonce opens with its number in that series. One with a higher number than the ledger's newest was given by a ledger that
//! is lost: the core was restored from a backup, and the device is no clone for that.

/// Bytes of a nonce: its number, big-endian, and random ones.
pub const NONCE_BYTES: usize = NUMBER_BYTES + NONCE_RANDOM_BYTES;
/// Random bytes of a nonce.
pub const NONCE_RANDOM_BYTES: usize = 8;
const NUMBER_BYTES: usize = 8;

/// Nonces that one device may have been given in answer to the same one; of more, the oldest are lost. A race has a handful
/// of hellos, and those of the races before that came to nothing may still arrive.
const GIVEN_MAX: usize = 16;

/// The last nonces of one device, as the core keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NonceLedger {
    /// What the device showed before that; the same at first.
    pub older: Option<Vec<u8>>,
    /// What the device showed last; none before the first session.
    pub before: Option<Vec<u8>>,
    /// What it was given since it showed that for the first time, the newest last; empty before the first session.
    pub given: Vec<Vec<u8>>,
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
        let is_first = self.given.is_empty() && shown.is_empty();
        let is_given = self.given.iter().any(|given| given == shown);
        if is_first || is_given || self.was_shown(shown) || number_of(shown) > number_of(self.newest()) {
            NonceVerdict::Known
        } else {
            NonceVerdict::Clone
        }
    }

    /// The ledger after a session in which `shown` was accepted and the next nonce, made with `random`, was handed out: it
    /// is the newest now. The ledger must be durable before that leaves the core.
    #[must_use]
    pub fn after(&self, shown: &[u8], random: [u8; NONCE_RANDOM_BYTES]) -> Self {
        let number = number_of(self.newest()).max(number_of(shown)).unwrap_or(0).saturating_add(1);
        let next = [number.to_be_bytes(), random].concat();
        if !self.was_shown(shown) {
            let older = self.before.clone().unwrap_or_else(|| shown.to_vec());
            return Self { older: Some(older), before: Some(shown.to_vec()), given: vec![next] };
        }
        let mut after = self.clone();
        after.given.push(next);
        let lost = after.given.len().saturating_sub(GIVEN_MAX);
        after.given.drain(..lost);
        after
    }

    /// Whether it is one of the last two that were shown.
    fn was_shown(&self, shown: &[u8]) -> bool {
        [&self.before, &self.older].into_iter().any(|known| known.as_deref() == Some(shown))
    }

    /// The nonce that was handed out last; empty before the first session.
    pub fn newest(&self) -> &[u8] {
        self.given.last().map_or(&[], Vec::as_slice)
    }
}

/// Whether `nonce` was given before `than`. Of several sessions that a device begins at once the answers may come in any order,
/// and it must keep the newest.
pub fn is_older_nonce(nonce: &[u8], than: &[u8]) -> bool {
    number_of(nonce).zip(number_of(than)).is_some_and(|(number, than)| number < than)
}

/// The number of a nonce; none if it is empty, or no nonce.
fn number_of(nonce: &[u8]) -> Option<u64> {
    let nonce: &[u8; NONCE_BYTES] = nonce.try_into().ok()?;
    nonce.first_chunk().map(|number| u64::from_be_bytes(*number))
}
