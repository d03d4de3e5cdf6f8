//! Keys and certificates in files.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn an_identity_survives_its_files() {
    let (core, device) = (folder(), folder());
    let authority = Authority::create(core.path(), "core of berlin").expect("an authority");
    let key = IdentityKey::load_or_create(device.path()).expect("a key");
    assert!(!Identity::exists(device.path()));
    let certificate = authority.issue_device(&key.public_key(), "cam-01").expect("a certificate");
    let identity = Identity::new(key, certificate, authority.certificate().to_vec()).expect("they fit");
    identity.save(device.path()).expect("saved");
    assert!(Identity::exists(device.path()));

    let loaded = Identity::load(device.path()).expect("loaded");
    assert_eq!((loaded.name(), loaded.public_key()), ("cam-01", identity.public_key()));
    assert_eq!(loaded.fingerprint(), Authority::load(core.path()).expect("loaded").fingerprint());
    assert!(!loaded.is_core() && !loaded.parsed().wants_renewal(loaded.parsed().not_before_s));
    assert!(loaded.parsed().wants_renewal(loaded.parsed().not_after_s));
    for (dir, file) in [(core.path(), "authority.key"), (device.path(), "identity.key")] {
        let mode = std::fs::metadata(dir.join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let mode = std::fs::metadata(device.path().join("identity.crt")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777 & !0o022, 0o644);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (one, other, device) = (folder(), folder(), folder());
    let ours = Authority::create(one.path(), "ours").expect("an authority");
    let theirs = Authority::create(other.path(), "theirs").expect("an authority");
    assert!(matches!(Authority::create(one.path(), "again"), Err(IdentityError::Exists { .. })));
    let key = IdentityKey::load_or_create(device.path()).expect("a key");
    let certificate = ours.issue_device(&key.public_key(), "d").expect("a certificate");
    let stranger = IdentityKey::generate().expect("a key");
    let made = Identity::new(stranger, certificate.clone(), ours.certificate().to_vec());
    assert!(matches!(made, Err(IdentityError::OtherKey { .. })), "{made:?}");
    let made = Identity::new(key.clone(), certificate, theirs.certificate().to_vec());
    assert!(matches!(made, Err(IdentityError::Certificate(CertificateError::Issuer { .. }))), "{made:?}");

    let path = device.path().join("identity.key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(matches!(IdentityKey::load(device.path()), Err(IdentityError::KeyIsOpen { mode: 0o644, .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
    std::fs::write(&path, b"not a key").expect("written");
    assert!(matches!(IdentityKey::load(device.path()), Err(IdentityError::NotAKey { .. })));
}

#[test]
fn a_core_keeps_its_key_when_it_renews() {
    let dir = folder();
    let authority = Authority::load_or_create(dir.path(), "core").expect("an authority");
    let first = authority.core_identity(dir.path(), "core-a").expect("an identity");
    let again = authority.core_identity(dir.path(), "core-a").expect("an identity");
    assert_eq!(first.certificate(), again.certificate());
    let renamed = authority.core_identity(dir.path(), "core-b").expect("an identity");
    assert_eq!((renamed.public_key(), renamed.name()), (first.public_key(), "core-b"));
    assert!(renamed.is_core());
}

/// Writes the certificates that the tests of commit records check against. They are committed, because a record of today
/// must be checkable by every later release: run this only to add to them.
#[test]
#[ignore = "writes fixtures"]
fn write_the_certificates_of_the_fixtures() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let key = |seed| IdentityKey(SigningKey::from_bytes(&[seed; 32]));
    let authority = Authority::from_key(key(1), "fixture authority").expect("an authority");
    let other = Authority::from_key(key(4), "other authority").expect("an authority");
    let files = [
        ("authority.der", authority.certificate().to_vec()),
        ("other-authority.der", other.certificate().to_vec()),
        ("core.der", authority.issue_core(&key(2).public_key(), "fixture core").expect("a certificate")),
        ("device.der", authority.issue_device(&key(3).public_key(), "fixture device").expect("a certificate")),
        ("other-device.der", other.issue_device(&key(3).public_key(), "fixture device").expect("a certificate")),
    ];
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("written");
    }
}

#[test]
fn an_authority_that_lost_its_certificate_is_still_the_same_to_devices() {
    let (core, device) = (folder(), folder());
    let before = Authority::create(core.path(), "core").expect("an authority");
    let key = IdentityKey::load_or_create(device.path()).expect("a key");
    let certificate = before.issue_device(&key.public_key(), "cam-01").expect("a certificate");
    std::fs::remove_file(core.path().join("authority.crt")).expect("removed");
    let after = Authority::load_or_create(core.path(), "core").expect("the authority again");
    assert_eq!(after.parsed().public_key, before.parsed().public_key);
    Certificate::parse(&certificate).expect("valid").check_issued_by(after.parsed()).expect("still good");
}
