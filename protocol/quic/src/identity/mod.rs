//! Who one is: an Ed25519 key that never leaves its file, and the certificate that an authority gave for it.
//!
//! ```text
//! DIR/identity.key    PKCS#8 (DER), mode 0600, made here and never sent anywhere
//! DIR/identity.crt    the certificate (DER) for it
//! DIR/authority.crt   the authority's certificate (DER), to which peers are pinned
//! ```
//!
//! Each file is replaced in one step, so a power cut leaves the old or the new one.

mod authority;
mod files;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use headwater_protocol::id::PublicKey;
use headwater_protocol::trust::{Certificate, CertificateError, CertificateUse, Fingerprint, Signature, Signer};
use zeroize::Zeroizing;

pub use authority::{Authority, CERTIFICATE_LIFETIME};

const KEY_FILE: &str = "identity.key";
const CERTIFICATE_FILE: &str = "identity.crt";
const AUTHORITY_FILE: &str = "authority.crt";

/// RFC 8410: a PKCS#8 version 1 structure around 32 bytes of an Ed25519 seed has these bytes before them.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PKCS8_BYTES: usize = PKCS8_PREFIX.len() + 32;

/// Why an identity or an authority can't be read, made or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key file is not one.
    #[error("{} is no Ed25519 private key in PKCS#8", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read a key file.
    #[error("{} is open to others (mode {mode:o}); a private key must have mode 600", path.display())]
    KeyIsOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is an authority here already; a second one would orphan every device.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A certificate does not serve.
    #[error("the certificate does not serve")]
    Certificate(#[from] CertificateError),
    /// The certificate is for another key.
    #[error("the certificate of `{name}` is for another key than this one's")]
    OtherKey {
        /// Whose certificate it is.
        name: String,
    },
    /// The operating system gave no random bytes.
    #[error("the system gave no random bytes for a key: {0}")]
    Random(String),
    /// A certificate could not be made.
    #[error("cannot issue a certificate for `{name}`: {reason}")]
    Issue {
        /// For whom.
        name: String,
        /// What the library said.
        reason: String,
    },
}

/// An Ed25519 private key.
#[derive(Clone)]
pub struct IdentityKey(SigningKey);

impl IdentityKey {
    /// A new key.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        crate::work::fill_random(&mut seed[..]).map_err(|error| IdentityError::Random(error.to_string()))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The key of this seed, which must be as secret as the key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Self::read(&dir.join(KEY_FILE))
    }

    /// The key in `dir`, or a new one that is durable there when this returns.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        if dir.join(KEY_FILE).exists() {
            return Self::load(dir);
        }
        let key = Self::generate()?;
        key.save(dir)?;
        Ok(key)
    }

    /// Writes the key into `dir`, readable by its owner only, and syncs it.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        self.write(&dir.join(KEY_FILE))
    }

    fn read(path: &Path) -> Result<Self, IdentityError> {
        files::check_private(path)?;
        let bytes = Zeroizing::new(files::read(path)?);
        let seed = bytes.strip_prefix(&PKCS8_PREFIX).and_then(|seed| <&[u8; 32]>::try_from(seed).ok());
        let seed = seed.ok_or_else(|| IdentityError::NotAKey { path: path.to_owned() })?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    fn write(&self, path: &Path) -> Result<(), IdentityError> {
        files::write(path, &self.pkcs8()[..], files::PRIVATE_MODE)
    }

    /// A secret for one use, which the context names. Always the same for a key, and it tells nothing about the key.
    pub(crate) fn secret(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.0.as_bytes()))
    }

    pub(crate) fn pkcs8(&self) -> Zeroizing<[u8; PKCS8_BYTES]> {
        let mut bytes = Zeroizing::new([0; PKCS8_BYTES]);
        bytes[..PKCS8_PREFIX.len()].copy_from_slice(&PKCS8_PREFIX);
        bytes[PKCS8_PREFIX.len()..].copy_from_slice(self.0.as_bytes());
        bytes
    }
}

impl Signer for IdentityKey {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signer::sign(&self.0, message)
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({:?})", self.public_key())
    }
}

/// A key, the certificate for it, and the authority that gave it: all that a session needs.
#[derive(Clone)]
pub struct Identity {
    key: IdentityKey,
    certificate: Vec<u8>,
    authority: Vec<u8>,
    parsed: Certificate,
    parsed_authority: Certificate,
}

impl Identity {
    /// Puts the parts together, after checking that they belong together. Dates are not looked at.
    pub fn new(key: IdentityKey, certificate: Vec<u8>, authority: Vec<u8>) -> Result<Self, IdentityError> {
        let parsed_authority = Certificate::parse_authority(&authority)?;
        let parsed = Certificate::parse(&certificate)?;
        parsed.check_issued_by(&parsed_authority)?;
        if parsed.public_key != key.public_key() {
            return Err(IdentityError::OtherKey { name: parsed.name });
        }
        Ok(Self { key, certificate, authority, parsed, parsed_authority })
    }

    /// The identity in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let certificate = files::read(&dir.join(CERTIFICATE_FILE))?;
        let authority = files::read(&dir.join(AUTHORITY_FILE))?;
        Self::new(IdentityKey::load(dir)?, certificate, authority)
    }

    /// Whether `dir` holds an identity: a device that has joined.
    pub fn exists(dir: &Path) -> bool {
        dir.join(CERTIFICATE_FILE).exists() && dir.join(AUTHORITY_FILE).exists() && dir.join(KEY_FILE).exists()
    }

    /// Writes all three files into `dir` and syncs them; the certificate last, so that [`Identity::exists`] tells the
    /// truth after a power cut.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        self.key.save(dir)?;
        files::write(&dir.join(AUTHORITY_FILE), &self.authority, files::PUBLIC_MODE)?;
        files::write(&dir.join(CERTIFICATE_FILE), &self.certificate, files::PUBLIC_MODE)
    }

    /// The identity with a renewed certificate, once that was checked. Not yet saved.
    pub fn renewed(&self, certificate: Vec<u8>) -> Result<Self, IdentityError> {
        Self::new(self.key.clone(), certificate, self.authority.clone())
    }

    /// The name in the certificate.
    pub fn name(&self) -> &str {
        &self.parsed.name
    }

    /// The key.
    pub fn key(&self) -> &IdentityKey {
        &self.key
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        self.parsed.public_key
    }

    /// Signs with the key; see [`Signer::sign`].
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signer::sign(&self.key, message)
    }

    /// The certificate (DER).
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// What the certificate says.
    pub fn parsed(&self) -> &Certificate {
        &self.parsed
    }

    /// The authority's certificate (DER).
    pub fn authority_certificate(&self) -> &[u8] {
        &self.authority
    }

    /// What the authority's certificate says.
    pub fn authority(&self) -> &Certificate {
        &self.parsed_authority
    }

    /// The authority's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    /// Whether this is a core's identity.
    pub fn is_core(&self) -> bool {
        self.parsed.usage == CertificateUse::Core
    }
}

impl Signer for Identity {
    fn public_key(&self) -> PublicKey {
        self.parsed.public_key
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signer::sign(&self.key, message)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.parsed.name)
            .field("key", &self.parsed.public_key)
            .finish_non_exhaustive()
    }
}
