//! Ed25519 signatures, made behind a trait so that private keys never enter pure code.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use rkyv::{Archive, Deserialize, Serialize};

use crate::id::PublicKey;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// An Ed25519 signature.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; SIGNATURE_BYTES]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

/// Something that signs with one Ed25519 key.
pub trait Signer {
    /// The key that verifies what it signs.
    fn public_key(&self) -> PublicKey;
    /// Signs `message`. Callers open it with a domain of their own, so that no signature can serve twice.
    fn sign(&self, message: &[u8]) -> Signature;
}

impl Signer for ed25519_dalek::SigningKey {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(ed25519_dalek::Signer::sign(self, message).to_bytes())
    }
}

/// A signature that the key did not make over these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the key {key} and what was signed")]
pub struct InvalidSignature {
    /// The key that was said to have signed.
    pub key: PublicKey,
}

/// Checks a signature strictly: no weak keys, no second encoding of the same signature (RFC 8032, and "Taming the many
/// EdDSAs", Chalkias et al. 2020).
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), InvalidSignature> {
    let invalid = InvalidSignature { key: *key };
    let verifying = VerifyingKey::from_bytes(&key.0).map_err(|_| invalid)?;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    verifying.verify_strict(message, &signature).map_err(|_| invalid)
}
