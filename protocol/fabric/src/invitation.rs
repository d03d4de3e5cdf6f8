//! How a data connection proves to which session it belongs: a secret that the core told on the control connection.
//!
//! The secret itself never travels on the data connection. What does is derived from it, serves once, and only for a short
//! while; the keys of a sealed connection are derived from it too.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_protocol::time::Timestamp;
use headwater_protocol::wire::DATA_SECRET_BYTES;
use zeroize::Zeroizing;

/// How long a secret can be used.
pub const INVITATION_LIFETIME: Duration = Duration::from_secs(30);
/// Most invitations that wait at once; the oldest gives way.
pub const INVITATIONS_MAX: usize = 4096;

const PROOF_CONTEXT: &str = "headwater 2026 data connection proof";
const TO_CORE_CONTEXT: &str = "headwater 2026 data connection key to core";
const TO_JOB_CONTEXT: &str = "headwater 2026 data connection key to job";

/// Bytes of a key and of a proof.
pub const KEY_BYTES: usize = 32;

/// The secret of one data connection.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; DATA_SECRET_BYTES]>);

impl Secret {
    /// A secret of these random bytes.
    pub fn new(bytes: [u8; DATA_SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What shows that one knows it.
    pub fn proof(&self) -> [u8; KEY_BYTES] {
        blake3::derive_key(PROOF_CONTEXT, &self.0[..])
    }

    pub(crate) fn key_to_core(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        Zeroizing::new(blake3::derive_key(TO_CORE_CONTEXT, &self.0[..]))
    }

    pub(crate) fn key_to_job(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        Zeroizing::new(blake3::derive_key(TO_JOB_CONTEXT, &self.0[..]))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

struct Invitation<T> {
    secret: Secret,
    expires: Timestamp,
    whom: T,
}

/// The secrets that were told and not yet used, and whom each is for.
pub struct Invitations<T> {
    waiting: BTreeMap<u64, Invitation<T>>,
}

impl<T> Default for Invitations<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new() }
    }
}

impl<T> Invitations<T> {
    /// Lets one connection in for session `session` from `now` on. What the session was told before serves no more.
    pub fn invite(&mut self, session: u64, secret: Secret, whom: T, now: Timestamp) {
        self.waiting.retain(|_, invitation| invitation.expires > now);
        if self.waiting.len() >= INVITATIONS_MAX {
            self.waiting.pop_first();
        }
        self.waiting.insert(session, Invitation { secret, expires: now + INVITATION_LIFETIME, whom });
    }

    /// Takes the invitation of `session` if `proof` is right and in time. A wrong one leaves it: it could be anybody's.
    pub fn redeem(&mut self, session: u64, proof: &[u8; KEY_BYTES], now: Timestamp) -> Option<(Secret, T)> {
        let invitation = self.waiting.get(&session)?;
        // Equality of hashes takes the same time wherever they differ.
        let right = blake3::Hash::from_bytes(invitation.secret.proof()) == blake3::Hash::from_bytes(*proof);
        if !right || invitation.expires <= now {
            return None;
        }
        self.waiting.remove(&session).map(|invitation| (invitation.secret, invitation.whom))
    }

    /// Withdraws what `session` was told.
    pub fn withdraw(&mut self, session: u64) {
        self.waiting.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_serves_once_in_time_and_for_its_session() {
        let secret = |byte| Secret::new([byte; DATA_SECRET_BYTES]);
        let start = Timestamp::ZERO;
        let mut invitations = Invitations::default();
        invitations.invite(7, secret(1), "seven", start);
        invitations.invite(8, secret(2), "eight", start);
        assert!(invitations.redeem(7, &secret(2).proof(), start).is_none(), "another session's");
        assert!(invitations.redeem(7, &secret(1).key_to_core(), start).is_none(), "a key is no proof");
        assert_eq!(invitations.redeem(7, &secret(1).proof(), start).map(|(_, whom)| whom), Some("seven"));
        assert!(invitations.redeem(7, &secret(1).proof(), start).is_none(), "used");
        let late = start + INVITATION_LIFETIME;
        assert!(invitations.redeem(8, &secret(2).proof(), late).is_none(), "expired");
        invitations.invite(8, secret(3), "eight", late);
        invitations.withdraw(8);
        assert!(invitations.redeem(8, &secret(3).proof(), late).is_none(), "withdrawn");
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut invitations = Invitations::default();
        for session in 0..INVITATIONS_MAX as u64 + 5 {
            invitations.invite(session, Secret::new([0; DATA_SECRET_BYTES]), (), Timestamp::ZERO);
        }
        assert_eq!(invitations.waiting.len(), INVITATIONS_MAX);
    }
}
