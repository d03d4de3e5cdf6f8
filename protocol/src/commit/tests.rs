//! Commit records against certificates that were issued once and for all: keys are `[1; 32]` for the authority, `[2; 32]`
//! for the core, `[3; 32]` for the author.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::codec;

const AUTHORITY: &[u8] = include_bytes!("../../tests/fixtures/authority.der");
const OTHER_AUTHORITY: &[u8] = include_bytes!("../../tests/fixtures/other-authority.der");
const CORE: &[u8] = include_bytes!("../../tests/fixtures/core.der");
const DEVICE: &[u8] = include_bytes!("../../tests/fixtures/device.der");
const OTHER_DEVICE: &[u8] = include_bytes!("../../tests/fixtures/other-device.der");
const COMMIT_V1: &[u8] = include_bytes!("../../tests/fixtures/commit-v1.bin");
const RECEIPT_V1: &[u8] = include_bytes!("../../tests/fixtures/receipt-v1.bin");

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn authority() -> Certificate {
    Certificate::parse_authority(AUTHORITY).expect("an authority")
}

fn offered() -> CommitRecord {
    let dataset = DatasetName::new("raw/cam-01/left").expect("a name");
    CommitRecord::sign_as_author(&dataset, 7, VersionId::of(b"manifest"), &key(3), DEVICE.to_vec())
}

fn committed() -> CommitRecord {
    offered().countersign(&key(2), CORE.to_vec())
}

#[test]
fn a_record_is_checkable_offline() {
    assert_eq!(offered().verify_author(&authority()).expect("the author is known").name, "fixture device");
    assert!(matches!(offered().verify_offline(&authority()), Err(CommitError::Uncommitted { number: 7, .. })));
    let verified = committed().verify_offline(&authority()).expect("all is well");
    assert_eq!((verified.author.as_str(), verified.core.as_str()), ("fixture device", "fixture core"));
    let receipt = Receipt::sign(&committed(), Durability::LocalDisk, &key(2));
    assert_eq!(receipt.verify(&committed(), &authority()), Ok(Durability::LocalDisk));
}

#[test]
fn a_record_is_taken_for_the_version_that_was_asked_for_alone() {
    let (bytes, version) = (codec::encode_stored(&committed()), VersionId::of(b"manifest"));
    let decode = |bytes: &[u8], dataset: &str, number, version| {
        CommitRecord::decode_committed(bytes, dataset, number, version, &authority())
    };
    assert_eq!(decode(&bytes, "raw/cam-01/left", 7, version), Ok(committed()));
    let other = Err(CommitError::OtherRecord { dataset: "raw/cam-01/left".into(), number: 7 });
    assert_eq!(decode(&bytes, "raw/cam-01/right", 7, version), other);
    assert_eq!(decode(&bytes, "raw/cam-01/left", 8, version), other);
    assert_eq!(decode(&bytes, "raw/cam-01/left", 7, VersionId::of(b"other")), other);
    let offered = codec::encode_stored(&offered());
    let uncommitted = decode(&offered, "raw/cam-01/left", 7, version);
    assert!(matches!(uncommitted, Err(CommitError::Uncommitted { .. })), "{uncommitted:?}");
    let cut = decode(&bytes[..bytes.len() - 1], "raw/cam-01/left", 7, version);
    assert!(matches!(cut, Err(CommitError::Undecodable(_))), "{cut:?}");
}

#[test]
fn the_core_publishes_too() {
    let dataset = DatasetName::new("models/a").expect("a name");
    let record = CommitRecord::sign_as_author(&dataset, 1, VersionId::of(b"m"), &key(2), CORE.to_vec());
    assert!(record.countersign(&key(2), CORE.to_vec()).verify_offline(&authority()).is_ok());
}

#[test]
fn what_was_changed_is_noticed() {
    type Change = fn(&mut CommitRecord);
    let cases: [(&str, Change, &str); 13] = [
        ("dataset", |record| record.dataset = "raw/cam-02/left".into(), "author's signature"),
        ("name", |record| record.dataset = "../x".into(), "no possible dataset"),
        ("number", |record| record.number = 8, "author's signature on version 8"),
        ("zero", |record| record.number = 0, "no version 0"),
        ("version", |record| record.version = VersionId::of(b"other"), "author's signature"),
        ("author", |record| record.author = key(5).public_key(), "for a signature by another key"),
        ("author's signature", |record| record.author_signature.0[3] ^= 1, "author's signature"),
        ("author's certificate", |record| record.author_certificate = OTHER_DEVICE.to_vec(), "does not serve"),
        (
            "authority as author",
            |record| record.author_certificate = AUTHORITY.to_vec(),
            "for a signature by another key",
        ),
        ("no certificate", |record| record.author_certificate.clear(), "does not serve"),
        ("core's signature", |record| seal(record).signature.0[3] ^= 1, "core's signature"),
        ("core's key", |record| seal(record).core = key(5).public_key(), "for a signature by another key"),
        ("device as core", |record| *record = offered().countersign(&key(3), DEVICE.to_vec()), "does not serve"),
    ];
    for (what, change, wanted) in cases {
        let mut record = committed();
        change(&mut record);
        let error = record.verify_offline(&authority()).expect_err(what).to_string();
        assert!(error.contains(wanted), "{what}: {error}");
    }
    let other = Certificate::parse_authority(OTHER_AUTHORITY).expect("an authority");
    assert!(committed().verify_offline(&other).is_err());
}

fn seal(record: &mut CommitRecord) -> &mut CoreSeal {
    record.core.as_mut().expect("committed")
}

#[test]
fn a_signature_serves_once() {
    // The author's word is no core's word and no receipt, though all are over the same version.
    let mut record = committed();
    seal(&mut record).signature = record.author_signature;
    assert!(record.verify_offline(&authority()).is_err());
    let mut receipt = Receipt::sign(&committed(), Durability::LocalDisk, &key(2));
    receipt.durability = Durability::ReplicatedStore;
    assert!(matches!(receipt.verify(&committed(), &authority()), Err(CommitError::Signature { .. })));
    let forged = Receipt::sign(&committed(), Durability::LocalDisk, &key(3));
    assert!(matches!(forged.verify(&committed(), &authority()), Err(CommitError::OtherVersion { .. })));
    let mut other = Receipt::sign(&committed(), Durability::LocalDisk, &key(2));
    other.number = 8;
    assert!(matches!(other.verify(&committed(), &authority()), Err(CommitError::OtherVersion { .. })));
}

#[test]
fn records_of_every_release_are_read() {
    let record: CommitRecord = codec::decode_stored(COMMIT_V1).expect("version 1");
    assert_eq!(record, committed());
    assert_eq!(codec::encode_stored(&record), COMMIT_V1, "the layout changed without a new version");
    assert!(record.verify_offline(&authority()).is_ok());
    let receipt: Receipt = codec::decode_stored(RECEIPT_V1).expect("version 1");
    assert_eq!(receipt.verify(&record, &authority()), Ok(Durability::Backup));
    assert_eq!(codec::encode_stored(&receipt), RECEIPT_V1, "the layout changed without a new version");
}

/// Writes the fixtures of the newest layout; run it only for a new version, under a new name.
#[test]
#[ignore = "writes fixtures"]
#[expect(clippy::disallowed_methods, reason = "fixtures are files, and only this writes them")]
fn write_fixtures() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let receipt = Receipt::sign(&committed(), Durability::Backup, &key(2));
    std::fs::write(dir.join("commit-v1.bin"), codec::encode_stored(&committed())).expect("written");
    std::fs::write(dir.join("receipt-v1.bin"), codec::encode_stored(&receipt)).expect("written");
}

proptest! {
    #[test]
    fn garbage_is_refused(mut at in 0usize..4096, bit in 0u8..8, cut in 0usize..4096) {
        let mut bytes = COMMIT_V1.to_vec();
        at %= bytes.len();
        bytes[at] ^= 1 << bit;
        // Padding may change unnoticed; everything that means something may not.
        if let Ok(record) = codec::decode_stored::<CommitRecord>(&bytes) {
            prop_assert!(record == committed() || record.verify_offline(&authority()).is_err());
        }
        let _ = codec::decode_stored::<CommitRecord>(&COMMIT_V1[..cut % COMMIT_V1.len()]);
    }
}
