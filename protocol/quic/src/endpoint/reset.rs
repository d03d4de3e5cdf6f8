//! Telling devices that a core was restarted.
//!
//! A core that was killed knows nothing of its connections when it is back, and its devices would wait for it until their
//! patience ends. QUIC's answer is the stateless reset (RFC 9000, section 10.3): a packet for an unknown connection is
//! answered with a token that only the one who gave the connection its id can know. For this the ids and the tokens must
//! come out the same after a restart, so they are made with secrets that are derived from the core's key.

use std::sync::Arc;
use std::time::Duration;

use quinn::EndpointConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn_proto::HashedConnectionIdGenerator;
use zeroize::Zeroizing;

use crate::identity::Identity;

/// Names the secrets.
const TOKEN_CONTEXT: &str = "headwater quic 2026 stateless reset token";
const ID_CONTEXT: &str = "headwater quic 2026 connection id";
/// Least time between two resets: a fleet that knocks at a core that was restarted is told within seconds, and a flood of forged
/// packets gets little out of it, since an answer is shorter than what it answers.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Makes an endpoint recognise, and reset, connections that an earlier process with the same identity had.
pub(super) fn remember_across_restarts(config: &mut EndpointConfig, identity: &Identity) {
    let key = identity.key();
    let id_secret = key.secret(ID_CONTEXT);
    let id_key = u64::from_le_bytes(*id_secret.first_chunk().expect("8 of 32 bytes"));
    config
        .reset_key(Arc::new(ResetKey(key.secret(TOKEN_CONTEXT))))
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)))
        .min_reset_interval(INTERVAL_MIN);
}

/// Makes tokens: BLAKE3 with a key.
struct ResetKey(Zeroizing<[u8; 32]>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // Compared in constant time.
        if blake3::keyed_hash(&self.0, data) == blake3::Hash::from_bytes(signature) { Ok(()) } else { Err(CryptoError) }
    }
}
