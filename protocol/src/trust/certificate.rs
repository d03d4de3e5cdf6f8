//! What Headwater reads in an X.509 certificate, and the one rule by which it trusts it: this authority signed it.
//!
//! Certificates carry an Ed25519 key, a name, and a use: authority, core or device. Their dates are not looked at here:
//! a device's clock proves nothing, and the core decides by its device list at every session. The use is looked at
//! always, else any device could pose as the core to another.

use std::fmt;

use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::id::PublicKey;
use crate::trust::{Signature, verify};

/// Longest certificate that is looked at, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateUse {
    /// Signing other certificates.
    Authority,
    /// A core, which devices dial.
    Core,
    /// A device, a person or a job, which dials.
    Device,
}

impl fmt::Display for CertificateUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority => "an authority",
            Self::Core => "a core",
            Self::Device => "a device",
        })
    }
}

/// BLAKE3 of an authority's certificate: what a token pins.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(*blake3::hash(certificate).as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

/// What was read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject.
    pub name: String,
    /// The key that it speaks for.
    pub public_key: PublicKey,
    /// What it is for.
    pub usage: CertificateUse,
    /// The start of its validity, in seconds since the Unix epoch.
    pub not_before_s: i64,
    /// The end of its validity. Only the core looks, with its own clock, to renew.
    pub not_after_s: i64,
    signed: Vec<u8>,
    signature: Signature,
}

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is longer than any of ours.
    #[error("a certificate of {0} bytes is over the limit of {CERTIFICATE_BYTES_MAX}")]
    TooLong(usize),
    /// It is no certificate, or not one of the kind that authorities of Headwater issue.
    #[error("these bytes are no certificate of Headwater: {0}")]
    Malformed(&'static str),
    /// It is for something else.
    #[error("the certificate of `{name}` is for {found}; one for {wanted} was expected")]
    Use {
        /// Its name.
        name: String,
        /// What it is for.
        found: CertificateUse,
        /// What was needed.
        wanted: CertificateUse,
    },
    /// Another authority signed it, or nobody.
    #[error("the certificate of `{name}` was not issued by this authority (key {authority})")]
    Issuer {
        /// Its name.
        name: String,
        /// The authority's key.
        authority: PublicKey,
    },
    /// The authority with the pinned fingerprint is not among those that the peer shows.
    #[error("the peer does not belong to the authority with the fingerprint {}", short(wanted))]
    Fingerprint {
        /// The pinned one.
        wanted: Fingerprint,
    },
}

fn short(fingerprint: &Fingerprint) -> String {
    data_encoding::HEXLOWER.encode(&fingerprint.0[..6])
}

impl Certificate {
    /// Reads a certificate in DER. Nothing is trusted yet: see [`Certificate::check_issued_by`].
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong(der.len()));
        }
        let malformed = CertificateError::Malformed;
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| malformed("it is not X.509 in DER"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow it"));
        }
        let spki = parsed.public_key();
        if spki.algorithm.algorithm != OID_SIG_ED25519 || parsed.signature_algorithm.algorithm != OID_SIG_ED25519 {
            return Err(malformed("its key or signature is not Ed25519"));
        }
        let key = spki.subject_public_key.data.as_ref().try_into().map_err(|_| malformed("its key is not 32 bytes"))?;
        let signature =
            parsed.signature_value.data.as_ref().try_into().map_err(|_| malformed("its signature is not 64 bytes"))?;
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            name: name.ok_or_else(|| malformed("it names nobody"))?.to_owned(),
            public_key: PublicKey(key),
            usage: usage(&parsed).ok_or_else(|| malformed("it does not say what it is for"))?,
            not_before_s: parsed.validity().not_before.timestamp(),
            not_after_s: parsed.validity().not_after.timestamp(),
            signed: parsed.tbs_certificate.as_ref().to_vec(),
            signature: Signature(signature),
        })
    }

    /// Reads the certificate of an authority, which signs itself.
    pub fn parse_authority(der: &[u8]) -> Result<Self, CertificateError> {
        let authority = Self::parse(der)?;
        authority.check_use(CertificateUse::Authority)?;
        authority.check_issued_by(&authority)?;
        Ok(authority)
    }

    /// Reads a certificate, and checks that `authority` issued it for `wanted`.
    pub fn parse_issued(der: &[u8], authority: &Self, wanted: CertificateUse) -> Result<Self, CertificateError> {
        let certificate = Self::parse(der)?;
        certificate.check_issued_by(authority)?;
        certificate.check_use(wanted)?;
        Ok(certificate)
    }

    /// Checks that the authority's key signed this certificate. There is no chain: authorities sign directly.
    pub fn check_issued_by(&self, authority: &Self) -> Result<(), CertificateError> {
        let refused = || CertificateError::Issuer { name: self.name.clone(), authority: authority.public_key };
        if authority.usage != CertificateUse::Authority {
            return Err(refused());
        }
        verify(&authority.public_key, &self.signed, &self.signature).map_err(|_| refused())
    }

    /// Checks what the certificate is for.
    pub fn check_use(&self, wanted: CertificateUse) -> Result<(), CertificateError> {
        if self.usage == wanted {
            return Ok(());
        }
        Err(CertificateError::Use { name: self.name.clone(), found: self.usage, wanted })
    }

    /// Whether less than a third of its validity is left at `now_s`, by the core's clock.
    pub fn wants_renewal(&self, now_s: i64) -> bool {
        let validity = self.not_after_s.saturating_sub(self.not_before_s);
        self.not_after_s.saturating_sub(now_s) < validity / 3
    }
}

fn usage(parsed: &X509Certificate<'_>) -> Option<CertificateUse> {
    if parsed.is_ca() {
        return Some(CertificateUse::Authority);
    }
    let extended = parsed.extended_key_usage().ok()??.value;
    match (extended.server_auth, extended.client_auth) {
        (true, false) => Some(CertificateUse::Core),
        (false, true) => Some(CertificateUse::Device),
        _ => None,
    }
}
