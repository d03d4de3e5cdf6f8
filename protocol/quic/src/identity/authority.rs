//! The core's small certificate authority.
//!
//! It signs certificates directly, for cores and devices, which differ in their extended key usage: a device's can't pose
//! as a core's. Its own certificate's BLAKE3 is the fingerprint in every token.

use std::path::Path;
use std::time::{Duration, SystemTime};

use headwater_protocol::id::PublicKey;
use headwater_protocol::trust::{Certificate, Fingerprint, Signer};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SerialNumber, SignatureAlgorithm,
};

use super::{Identity, IdentityError, IdentityKey, files};
use crate::work;

const KEY_FILE: &str = "authority.key";
const CERTIFICATE_FILE: &str = "authority.crt";

/// How long a device's or core's certificate is valid. Nothing refuses an expired one; a core renews when less than a third
/// is left.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(365 * 24);
/// How long the authority's certificate is valid.
const AUTHORITY_VALIDITY: Duration = Duration::from_hours(100 * 365 * 24);
/// How far back a certificate's validity begins.
const BACKDATED: Duration = Duration::from_hours(24);

/// A certificate authority in a folder: `authority.key` (mode 0600) and `authority.crt`.
pub struct Authority {
    key: IdentityKey,
    certificate: Vec<u8>,
    parsed: Certificate,
}

impl Authority {
    /// Makes an authority in `dir`, named for people, and syncs it. Refuses if there is one. A key that is there without its
    /// certificate is kept: devices know the authority by its key.
    pub fn create(dir: &Path, name: &str) -> Result<Self, IdentityError> {
        let path = dir.join(CERTIFICATE_FILE);
        if path.exists() {
            return Err(IdentityError::Exists { path });
        }
        let key_path = dir.join(KEY_FILE);
        let key = if key_path.exists() {
            IdentityKey::read(&key_path)?
        } else {
            let key = IdentityKey::generate()?;
            key.write(&key_path)?;
            key
        };
        let authority = Self::from_key(key, name)?;
        files::write(&path, &authority.certificate, files::PUBLIC_MODE)?;
        Ok(authority)
    }

    /// The authority in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key = IdentityKey::read(&dir.join(KEY_FILE))?;
        let certificate = files::read(&dir.join(CERTIFICATE_FILE))?;
        let parsed = Certificate::parse_authority(&certificate)?;
        if parsed.public_key != key.public_key() {
            return Err(IdentityError::OtherKey { name: parsed.name });
        }
        Ok(Self { key, certificate, parsed })
    }

    /// The authority in `dir`, or a new one.
    pub fn load_or_create(dir: &Path, name: &str) -> Result<Self, IdentityError> {
        if dir.join(CERTIFICATE_FILE).exists() { Self::load(dir) } else { Self::create(dir, name) }
    }

    pub(super) fn from_key(key: IdentityKey, name: &str) -> Result<Self, IdentityError> {
        let mut params = params(name, AUTHORITY_VALIDITY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&CertificateKey::from(&key)).map_err(|error| issue_error(name, &error))?;
        let certificate = certificate.der().to_vec();
        let parsed = Certificate::parse_authority(&certificate)?;
        Ok(Self { key, certificate, parsed })
    }

    /// The authority's certificate (DER).
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// What the authority's certificate says, for checking what others show.
    pub fn parsed(&self) -> &Certificate {
        &self.parsed
    }

    /// What tokens pin: BLAKE3 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A certificate (DER) for a device's key that is valid for the usual time.
    pub fn issue_device(&self, key: &PublicKey, name: &str) -> Result<Vec<u8>, IdentityError> {
        self.issue_device_for(key, name, CERTIFICATE_LIFETIME)
    }

    /// A certificate (DER) for a device's key that is valid for `lifetime` from now on: at joining, and again for renewal.
    pub fn issue_device_for(&self, key: &PublicKey, name: &str, lifetime: Duration) -> Result<Vec<u8>, IdentityError> {
        self.issue(key, name, ExtendedKeyUsagePurpose::ClientAuth, BACKDATED + lifetime)
    }

    /// A certificate (DER) for a core's key.
    pub fn issue_core(&self, key: &PublicKey, name: &str) -> Result<Vec<u8>, IdentityError> {
        self.issue(key, name, ExtendedKeyUsagePurpose::ServerAuth, BACKDATED + CERTIFICATE_LIFETIME)
    }

    /// The core's own identity in `dir`: what is there, renewed if it is due, or a new one. It is saved when this returns.
    pub fn core_identity(&self, dir: &Path, name: &str) -> Result<Identity, IdentityError> {
        let key = IdentityKey::load_or_create(dir)?;
        // A damaged certificate is no reason to stop: there will be another in a moment.
        if let Ok(identity) = Identity::load(dir) {
            let ours = identity.authority_certificate() == self.certificate && identity.is_core();
            if ours && identity.name() == name && !identity.parsed().wants_renewal(unix_now_s()) {
                return Ok(identity);
            }
        }
        let certificate = self.issue_core(&key.public_key(), name)?;
        let identity = Identity::new(key, certificate, self.certificate.clone())?;
        identity.save(dir)?;
        Ok(identity)
    }

    /// A certificate that ended long ago, as a device that was off for years shows.
    #[cfg(test)]
    pub(crate) fn issue_expired(&self, key: &PublicKey, name: &str, usage: ExtendedKeyUsagePurpose) -> Vec<u8> {
        self.issue(key, name, usage, Duration::ZERO).expect("a certificate")
    }

    fn issue(
        &self,
        key: &PublicKey,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        validity: Duration,
    ) -> Result<Vec<u8>, IdentityError> {
        let mut params = params(name, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        // The authority's parameters are not kept: an issuer needs only its name and how it may use its key.
        let mut authority = CertificateParams::default();
        authority.distinguished_name = common_name(&self.parsed.name);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::new(authority, CertificateKey::from(&self.key));
        let certificate = params
            .signed_by(&CertificatePublicKey(*key), &issuer)
            .map_err(|error| issue_error(name, &error))?
            .der()
            .to_vec();
        Certificate::parse(&certificate)?.check_issued_by(&self.parsed)?;
        Ok(certificate)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.parsed.name)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// The core's clock, in seconds since the Unix epoch.
fn unix_now_s() -> i64 {
    work::wall_clock().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn params(name: &str, validity: Duration) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    // Its start lies a day back, so that a clock that is set back a little does not make a certificate from the future.
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_now_s() as u64);
    params.not_before = now - BACKDATED;
    params.not_after = params.not_before + validity;
    let mut serial = [0u8; 16];
    work::fill_random(&mut serial).map_err(|error| IdentityError::Random(error.to_string()))?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn issue_error(name: &str, error: &rcgen::Error) -> IdentityError {
    IdentityError::Issue { name: name.to_owned(), reason: error.to_string() }
}

/// Our key as rcgen wants one.
struct CertificateKey<'a> {
    key: &'a IdentityKey,
    public: CertificatePublicKey,
}

impl<'a> From<&'a IdentityKey> for CertificateKey<'a> {
    fn from(key: &'a IdentityKey) -> Self {
        Self { key, public: CertificatePublicKey(key.public_key()) }
    }
}

struct CertificatePublicKey(PublicKey);

impl PublicKeyData for CertificatePublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl PublicKeyData for CertificateKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for CertificateKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message).0.to_vec())
    }
}
