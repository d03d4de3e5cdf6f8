//! Who may do what: tokens, roles, access rules, certificates, clone detection, and which revision two releases speak.
//!
//! All of it is pure. Keys stay outside, behind [`Signer`]; the time of a decision comes in as an argument, and only the
//! core's clock is ever asked: a device's may be years off.

mod access;
mod certificate;
mod grant;
mod nonce;
mod revision;
mod role;
mod signature;
#[cfg(test)]
mod tests;
mod token;

pub use access::{Access, AccessRule, AccessRules, DatasetFacts, LabelSelector, SelectorError};
pub use certificate::{CERTIFICATE_BYTES_MAX, Certificate, CertificateError, CertificateUse, Fingerprint};
pub use grant::{Admission, NameGrants, PriorJoin, TOKEN_PATTERNS_MAX, TokenGrant, TokenRefusal};
pub use nonce::{NONCE_BYTES, NONCE_RANDOM_BYTES, NonceLedger, NonceVerdict, is_older_nonce};
pub use revision::{RevisionMismatch, negotiate};
pub use role::{Action, ParseRoleError, Principal, Role};
pub use signature::{InvalidSignature, SIGNATURE_BYTES, Signature, Signer, verify};
pub use token::{SecretDigest, TOKEN_ADDRESSES_MAX, TOKEN_SECRET_BYTES, Token, TokenError, is_address};
