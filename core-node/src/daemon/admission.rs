//! Whether one who has our authority's certificate may have a session now: the device list, the key, the nonce ledger and
//! the protocol's revision decide, at every session.

use headwater_host::error::{CodedError, codes};
use headwater_protocol::trust::{
    NONCE_RANDOM_BYTES, NonceLedger, NonceVerdict, Principal as Peer, RevisionMismatch, negotiate,
};
use headwater_protocol::wire::{Hello, PROTOCOL_REVISION, Refusal, Welcome};
use headwater_quic::work;
use tokio::time::Instant;

use super::joining::{certificate_end, unix_s};
use crate::catalog::{DeviceRecord, DeviceState};
use crate::control::revoked;
use crate::core::Core;
use crate::ingest::{catalog_refusal, error_chain};

/// Oldest revision that this core still serves: one release back.
const REVISION_MIN: u32 = if PROTOCOL_REVISION > 1 { PROTOCOL_REVISION - 1 } else { 1 };
/// Tries to write a nonce down while another session of the same device does so too.
const NONCE_TRIES_MAX: usize = 4;

/// One who may have a session.
pub(super) struct Admitted {
    /// Who it is.
    pub(super) peer: Peer,
    /// What it is told.
    pub(super) welcome: Welcome,
}

/// Judges the hello of one who knocked at `knocked`. What is admitted is durable when this returns. Blocks.
pub(super) fn admit(
    core: &Core,
    shown: &headwater_quic::Peer,
    knocked: Instant,
    hello: &Hello,
) -> Result<Admitted, Refusal> {
    let revision = negotiate((REVISION_MIN, PROTOCOL_REVISION), (hello.revision_min, hello.revision_max))
        .map_err(|mismatch| revision_refusal(&mismatch))?;
    let device = find(core, shown)?;
    let nonce =
        if device.role.is_shared() { Vec::new() } else { next_nonce(core, device.clone(), knocked, &hello.nonce)? };
    core.catalog.note_seen(&device.key, core.now(), Some(&hello.status)).map_err(|error| catalog_refusal(&error))?;
    let certificate = renewal(core, shown, &device);
    Ok(Admitted {
        peer: core.rights.peer(&device),
        welcome: Welcome { revision, nonce, name: device.name, labels: device.labels, certificate },
    })
}

fn find(core: &Core, shown: &headwater_quic::Peer) -> Result<DeviceRecord, Refusal> {
    let device = core.catalog.device(&shown.key).map_err(|error| catalog_refusal(&error))?.ok_or_else(|| {
        CodedError::new(&codes::UNKNOWN_DEVICE, format!("this core knows no device with the key of `{}`", shown.name))
            .refusal()
    })?;
    match device.state {
        DeviceState::Active => Ok(device),
        DeviceState::Revoked(_) => Err(revoked(&device.name).refusal()),
    }
}

/// Judges the nonce that was shown, and writes down the next one before it is given away.
fn next_nonce(core: &Core, mut device: DeviceRecord, knocked: Instant, shown: &[u8]) -> Result<Vec<u8>, Refusal> {
    let catalog = |error| catalog_refusal(&error);
    for _ in 0..NONCE_TRIES_MAX {
        let ledger = ledger(&device.nonces);
        if ledger.judge(shown) == NonceVerdict::Clone {
            // On a bad link the hello of a session that was given up comes after that of the one that took its place.
            return Err(if core.sessions.nonce_since(&device.key, knocked) { late() } else { cloned(core, &device) });
        }
        let mut random = [0; NONCE_RANDOM_BYTES];
        work::fill_random(&mut random)
            .map_err(|_| CodedError::new(&codes::INTERNAL, "the core's system gave no random bytes").refusal())?;
        let after = ledger.after(shown, random);
        let given = after.newest().to_vec();
        let nonces = kept(after);
        if core.catalog.swap_nonces(&device.key, &device.nonces, &nonces).map_err(catalog)? {
            core.sessions.note_nonce(device.key);
            return Ok(given);
        }
        device = core.catalog.device(&device.key).map_err(catalog)?.ok_or_else(|| revoked(&device.name).refusal())?;
    }
    Err(CodedError::new(&codes::TOO_BUSY, "several sessions of this device began at once").refusal())
}

/// The device has begun another session since this one knocked.
fn late() -> Refusal {
    CodedError::new(&codes::TOO_BUSY, "a newer session of this device has begun").refusal()
}

/// Two hold one identity: the one who shows the old nonce is refused, and the one who is connected is told too.
fn cloned(core: &Core, device: &DeviceRecord) -> Refusal {
    let message = format!("two devices use the identity of `{}`: its data folder was copied or restored", device.name);
    tracing::warn!(device = device.name, "an identity is used twice");
    let refusal = CodedError::new(&codes::IDENTITY_CLONED, message).refusal();
    core.sessions.end(&device.key, &refusal);
    refusal
}

/// As the catalog keeps a ledger: the last two that were shown, the older one first, then what was given since.
fn kept(ledger: NonceLedger) -> Vec<Vec<u8>> {
    ledger.older.into_iter().chain(ledger.before).chain(ledger.given).collect()
}

/// What [`kept`] made of it.
fn ledger(nonces: &[Vec<u8>]) -> NonceLedger {
    match nonces {
        [older, before, given @ ..] => {
            NonceLedger { older: Some(older.clone()), before: Some(before.clone()), given: given.to_vec() }
        }
        _ => NonceLedger::default(),
    }
}

/// A new certificate, when the shown one is near its end; empty otherwise.
fn renewal(core: &Core, shown: &headwater_quic::Peer, device: &DeviceRecord) -> Vec<u8> {
    if !shown.parsed.wants_renewal(unix_s(core.now())) {
        return Vec::new();
    }
    let issued = match core.issue_certificate(&device.key, &device.name) {
        Ok(certificate) => certificate,
        Err(error) => {
            // It is tried again at the next session; the old certificate serves until then, and after.
            tracing::warn!(device = device.name, error = error_chain(&error), "a certificate could not be renewed");
            return Vec::new();
        }
    };
    if let Err(error) = core.catalog.set_certificate_expiry(&device.key, certificate_end(&issued)) {
        tracing::warn!(device = device.name, error = error_chain(&error), "a renewal could not be noted");
    }
    issued
}

fn revision_refusal(mismatch: &RevisionMismatch) -> Refusal {
    let (code, hint) = match mismatch {
        RevisionMismatch::TheyAreNewer { .. } => {
            (&codes::PROTOCOL_TOO_NEW, "upgrade the core first; it serves agents one release older and newer")
        }
        RevisionMismatch::TheyAreOlder { .. } => {
            (&codes::PROTOCOL_TOO_OLD, "upgrade this agent; the core serves agents one release older and newer")
        }
        RevisionMismatch::NoRange { .. } => (&codes::BAD_FRAME, "the agent is not a Headwater program, or is broken"),
    };
    CodedError::new(code, mismatch.to_string()).with_hint(hint).refusal()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headwater_protocol::id::PublicKey;
    use headwater_protocol::trust::Role;
    use headwater_protocol::wire::PeerStatus;

    use super::*;
    use crate::catalog::UnixMs;
    use crate::config::Config;
    use crate::daemon::{InitOptions, init, open};

    #[test]
    fn ledgers_come_back_as_they_were_kept() {
        let first = ledger(&[]);
        assert_eq!(first.judge(b""), NonceVerdict::Known);
        let after = first.after(b"", [1; NONCE_RANDOM_BYTES]);
        for ledger_now in [after.clone(), after.after(after.newest(), [2; NONCE_RANDOM_BYTES])] {
            assert_eq!(ledger(&kept(ledger_now.clone())), ledger_now);
            assert_eq!(ledger_now.judge(&[0; 16]), NonceVerdict::Clone);
        }
    }

    #[test]
    fn a_late_hello_is_no_clone() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = InitOptions {
            folder: folder.path().join("core"),
            config_file: folder.path().join("core.toml"),
            name: "core".into(),
            settings: Vec::new(),
        };
        init(&options).expect("made");
        let core = open(options.folder.clone(), Config::default()).expect("opened");
        let device = || core.catalog.device(&PublicKey([7; 32])).expect("asked").expect("known");
        core.catalog
            .add_device(&DeviceRecord {
                key: PublicKey([7; 32]),
                name: "cam".into(),
                labels: Vec::new(),
                role: Role::Device,
                state: DeviceState::Active,
                write_patterns: Vec::new(),
                read_patterns: Vec::new(),
                nonces: Vec::new(),
                certificate_expires_at: UnixMs::default(),
                joined_at: UnixMs::default(),
                last_seen_at: None,
                status: PeerStatus::default(),
            })
            .expect("added");
        let given_up = Instant::now();
        let first = next_nonce(&core, device(), Instant::now(), b"").expect("the first session");
        let second = next_nonce(&core, device(), Instant::now(), &first).expect("the second");
        next_nonce(&core, device(), given_up, b"").expect("a hello of the race before");
        let third = next_nonce(&core, device(), Instant::now(), &second).expect("the third");
        let refused = |knocked| next_nonce(&core, device(), knocked, b"").expect_err("it shows what is old").code;
        assert_eq!(refused(given_up), codes::TOO_BUSY.code);
        next_nonce(&core, device(), Instant::now(), &third).expect("the device is as welcome as before");
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(refused(Instant::now()), codes::IDENTITY_CLONED.code, "who knocks later has no excuse");
    }
}
