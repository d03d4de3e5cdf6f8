//! The signed word that a version has a name and a number, and that it is kept.
//!
//! A [`CommitRecord`] carries all that a check needs: the author's and the core's certificates, and a signature by each.
//! Whoever knows the authority's certificate can check it offline, years later, after a renewal or a revocation: what is
//! checked is who signed, not whether they would be let in today.
//!
//! Signatures cover a plain encoding of their own, not the archive, so that a later layout of the record does not void
//! them. Each begins with a domain that nothing else begins with.
//!
//! ```text
//! author signs   "headwater commit v1\0"    length[2] dataset number[8] version[32] author[32]
//! core signs     "headwater committed v1\0" length[2] dataset number[8] version[32] author[32] core[32]
//!                                           blake3(core certificate)[32] blake3(author certificate)[32]
//!                                           author signature[64]
//! core signs     "headwater receipt v1\0"   length[2] dataset number[8] version[32] durability[1] core[32]
//! ```

#[cfg(test)]
mod tests;

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{Encoded, Stored, decode_stored};
use crate::id::{PublicKey, VersionId};
use crate::name::{DatasetName, NameError};
use crate::trust::{
    CERTIFICATE_BYTES_MAX, Certificate, CertificateError, CertificateUse, InvalidSignature, Signature, Signer, verify,
};

const AUTHOR_DOMAIN: &[u8] = b"headwater commit v1\0";
const CORE_DOMAIN: &[u8] = b"headwater committed v1\0";
const RECEIPT_DOMAIN: &[u8] = b"headwater receipt v1\0";

/// Longest encoding of a commit record, in bytes.
pub const COMMIT_BYTES_MAX: usize = 2 * CERTIFICATE_BYTES_MAX + 1024;
/// Longest encoding of a receipt, in bytes.
pub const RECEIPT_BYTES_MAX: usize = 1024;

/// That a dataset's version `number` is `version`, by its author's word and its core's.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// The dataset's name.
    pub dataset: String,
    /// The version's number in it; the first is 1.
    pub number: u64,
    /// The version.
    pub version: VersionId,
    /// Who published it.
    pub author: PublicKey,
    /// The author's certificate (DER) at that time.
    pub author_certificate: Vec<u8>,
    /// The author's signature.
    pub author_signature: Signature,
    /// The core's word; none until it has committed.
    pub core: Option<CoreSeal>,
}

/// The core's part of a [`CommitRecord`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CoreSeal {
    /// The core's key.
    pub core: PublicKey,
    /// The core's certificate (DER) at that time.
    pub certificate: Vec<u8>,
    /// Its signature over what the author said and signed.
    pub signature: Signature,
}

impl Encoded for CommitRecord {
    const WHAT: &'static str = "commit record";
    const BYTES_MAX: usize = COMMIT_BYTES_MAX;
}

impl Stored for CommitRecord {
    const MAGIC: [u8; 4] = *b"HWcr";
    const VERSION: u16 = 1;
}

/// Why a commit record or a receipt is not what it claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The bytes are no record or receipt of this format.
    #[error("{0}")]
    Undecodable(String),
    /// A record of another version than the one that is meant.
    #[error("the commit record is of version {number} of `{dataset}`, not of the version that was asked for")]
    OtherRecord {
        /// The record's dataset.
        dataset: String,
        /// The record's number.
        number: u64,
    },
    /// The dataset's name can't be.
    #[error("the commit record of no possible dataset")]
    Name(#[from] NameError),
    /// Version numbers begin with 1.
    #[error("`{0}` has no version 0")]
    Number(String),
    /// A certificate is malformed, of another authority, or for something else.
    #[error("a commit of `{dataset}` carries a certificate that does not serve")]
    Certificate {
        /// The dataset.
        dataset: String,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
    /// A certificate is for another key than the one that signed.
    #[error("a commit of `{dataset}` carries the certificate of `{name}` for a signature by another key")]
    OtherKey {
        /// The dataset.
        dataset: String,
        /// Whose certificate it is.
        name: String,
    },
    /// A signature does not match.
    #[error("the {who}'s signature on version {number} of `{dataset}` is not valid")]
    Signature {
        /// `author` or `core`.
        who: &'static str,
        /// The dataset.
        dataset: String,
        /// The number.
        number: u64,
        /// The key.
        #[source]
        source: InvalidSignature,
    },
    /// The core has not signed.
    #[error("version {number} of `{dataset}` is not committed: no core has signed it")]
    Uncommitted {
        /// The dataset.
        dataset: String,
        /// The number.
        number: u64,
    },
    /// A receipt for something else.
    #[error("the receipt is for version {number} of `{dataset}`, not for the version that was published")]
    OtherVersion {
        /// The receipt's dataset.
        dataset: String,
        /// The receipt's number.
        number: u64,
    },
}

impl CommitRecord {
    /// The author's half.
    pub fn sign_as_author(
        dataset: &DatasetName,
        number: u64,
        version: VersionId,
        author: &dyn Signer,
        author_certificate: Vec<u8>,
    ) -> Self {
        let mut record = Self {
            dataset: dataset.as_str().to_owned(),
            number,
            version,
            author: author.public_key(),
            author_certificate,
            author_signature: Signature([0; 64]),
            core: None,
        };
        record.author_signature = author.sign(&record.author_statement());
        record
    }

    /// The record with the core's half. The core checks the author's first: [`CommitRecord::verify_author`].
    #[must_use]
    pub fn countersign(mut self, core: &dyn Signer, certificate: Vec<u8>) -> Self {
        let key = core.public_key();
        let signature = core.sign(&self.core_statement(&key, &certificate));
        self.core = Some(CoreSeal { core: key, certificate, signature });
        self
    }

    /// Checks the author's half: the name and number can be, the certificate is of this authority and for the author's
    /// key, and the signature is good. A core may be an author too, of what it imports.
    pub fn verify_author(&self, authority: &Certificate) -> Result<Certificate, CommitError> {
        DatasetName::new(self.dataset.as_str())?;
        if self.number == 0 {
            return Err(CommitError::Number(self.dataset.clone()));
        }
        let certificate = self.certificate(&self.author_certificate, &self.author, authority)?;
        if certificate.usage == CertificateUse::Authority {
            return Err(self.bad_certificate(CertificateError::Use {
                name: certificate.name,
                found: CertificateUse::Authority,
                wanted: CertificateUse::Device,
            }));
        }
        self.check("author", &self.author, &self.author_statement(), &self.author_signature)?;
        Ok(certificate)
    }

    /// Checks all of it against the certificate of the authority, without asking anyone: who published this version under
    /// this name and number, and that the core committed it.
    pub fn verify_offline(&self, authority: &Certificate) -> Result<VerifiedCommit, CommitError> {
        let author = self.verify_author(authority)?;
        let Some(seal) = &self.core else {
            return Err(CommitError::Uncommitted { dataset: self.dataset.clone(), number: self.number });
        };
        let core = self.certificate(&seal.certificate, &seal.core, authority)?;
        core.check_use(CertificateUse::Core).map_err(|source| self.bad_certificate(source))?;
        self.check("core", &seal.core, &self.core_statement(&seal.core, &seal.certificate), &seal.signature)?;
        Ok(VerifiedCommit { author: author.name, core: core.name, core_key: seal.core })
    }

    /// The record in `bytes`, if it commits just this version of this dataset under this number, by the author's and the
    /// core's word.
    pub fn decode_committed(
        bytes: &[u8],
        dataset: &str,
        number: u64,
        version: VersionId,
        authority: &Certificate,
    ) -> Result<Self, CommitError> {
        let record: Self = decode_stored(bytes).map_err(|error| CommitError::Undecodable(error.to_string()))?;
        if record.dataset != dataset || record.number != number || record.version != version {
            return Err(CommitError::OtherRecord { dataset: record.dataset, number: record.number });
        }
        record.verify_offline(authority)?;
        Ok(record)
    }

    fn certificate(&self, der: &[u8], key: &PublicKey, authority: &Certificate) -> Result<Certificate, CommitError> {
        let certificate = Certificate::parse(der).map_err(|source| self.bad_certificate(source))?;
        certificate.check_issued_by(authority).map_err(|source| self.bad_certificate(source))?;
        if certificate.public_key != *key {
            return Err(CommitError::OtherKey { dataset: self.dataset.clone(), name: certificate.name });
        }
        Ok(certificate)
    }

    fn check(
        &self,
        who: &'static str,
        key: &PublicKey,
        statement: &[u8],
        signature: &Signature,
    ) -> Result<(), CommitError> {
        verify(key, statement, signature).map_err(|source| CommitError::Signature {
            who,
            dataset: self.dataset.clone(),
            number: self.number,
            source,
        })
    }

    fn bad_certificate(&self, source: CertificateError) -> CommitError {
        CommitError::Certificate { dataset: self.dataset.clone(), source }
    }

    fn author_statement(&self) -> Vec<u8> {
        let mut statement = statement(AUTHOR_DOMAIN, &self.dataset, self.number, &self.version);
        statement.extend_from_slice(&self.author.0);
        statement
    }

    fn core_statement(&self, core: &PublicKey, certificate: &[u8]) -> Vec<u8> {
        let mut statement = statement(CORE_DOMAIN, &self.dataset, self.number, &self.version);
        statement.extend_from_slice(&self.author.0);
        statement.extend_from_slice(&core.0);
        statement.extend_from_slice(blake3::hash(certificate).as_bytes());
        statement.extend_from_slice(blake3::hash(&self.author_certificate).as_bytes());
        statement.extend_from_slice(&self.author_signature.0);
        statement
    }
}

/// Who stands behind a commit record that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCommit {
    /// The author's name, as its certificate says.
    pub author: String,
    /// The core's name.
    pub core: String,
    /// The key with which the core signed, for checking its receipts.
    pub core_key: PublicKey,
}

/// What a core promises of a version's bytes.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Durability {
    /// Synced to the core's own disk.
    LocalDisk,
    /// And in a backup that was verified.
    Backup,
    /// In a replicated store.
    ReplicatedStore,
}

impl Durability {
    /// Its name, as listings and configuration spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalDisk => "local-disk",
            Self::Backup => "backup",
            Self::ReplicatedStore => "replicated-store",
        }
    }
}

/// The core's word that a version is kept while it is reachable from the newest version or a tag.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The dataset's name.
    pub dataset: String,
    /// The version's number in it.
    pub number: u64,
    /// The version.
    pub version: VersionId,
    /// How well it is kept.
    pub durability: Durability,
    /// The core's key.
    pub core: PublicKey,
    /// Its signature.
    pub signature: Signature,
}

impl Encoded for Receipt {
    const WHAT: &'static str = "receipt";
    const BYTES_MAX: usize = RECEIPT_BYTES_MAX;
}

impl Stored for Receipt {
    const MAGIC: [u8; 4] = *b"HWrt";
    const VERSION: u16 = 1;
}

impl Receipt {
    /// The receipt of `commit`, signed by the core.
    pub fn sign(commit: &CommitRecord, durability: Durability, core: &dyn Signer) -> Self {
        let mut receipt = Self {
            dataset: commit.dataset.clone(),
            number: commit.number,
            version: commit.version,
            durability,
            core: core.public_key(),
            signature: Signature([0; 64]),
        };
        receipt.signature = core.sign(&receipt.statement());
        receipt
    }

    /// Checks that the receipt is for `commit`, by the core that signed it.
    pub fn verify(&self, commit: &CommitRecord, authority: &Certificate) -> Result<Durability, CommitError> {
        let verified = commit.verify_offline(authority)?;
        let other = self.dataset != commit.dataset || self.number != commit.number || self.version != commit.version;
        if other || self.core != verified.core_key {
            return Err(CommitError::OtherVersion { dataset: self.dataset.clone(), number: self.number });
        }
        verify(&self.core, &self.statement(), &self.signature).map_err(|source| CommitError::Signature {
            who: "core",
            dataset: self.dataset.clone(),
            number: self.number,
            source,
        })?;
        Ok(self.durability)
    }

    /// The receipt in `bytes`, checked for `commit` as [`Receipt::verify`] does.
    pub fn decode_verified(bytes: &[u8], commit: &CommitRecord, authority: &Certificate) -> Result<Self, CommitError> {
        let receipt: Self = decode_stored(bytes).map_err(|error| CommitError::Undecodable(error.to_string()))?;
        receipt.verify(commit, authority)?;
        Ok(receipt)
    }

    fn statement(&self) -> Vec<u8> {
        let mut statement = statement(RECEIPT_DOMAIN, &self.dataset, self.number, &self.version);
        statement.push(self.durability as u8);
        statement.extend_from_slice(&self.core.0);
        statement
    }
}

fn statement(domain: &[u8], dataset: &str, number: u64, version: &VersionId) -> Vec<u8> {
    let mut statement = Vec::with_capacity(256);
    statement.extend_from_slice(domain);
    // Names are capped far below 65,536 bytes; one that is not fails the name check before any signature is looked at.
    statement.extend_from_slice(&(dataset.len() as u16).to_le_bytes());
    statement.extend_from_slice(dataset.as_bytes());
    statement.extend_from_slice(&number.to_le_bytes());
    statement.extend_from_slice(version.as_bytes());
    statement
}
