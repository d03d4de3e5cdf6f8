//! Keys and certificates: the same in every run, made once, because making them takes longer than a run.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use headwater_protocol::trust::Signer;
use headwater_quic::{Authority, Identity, IdentityKey, work};
use quinn::AsyncUdpSocket;
use tempfile::TempDir;
use tokio::task::AbortHandle;

/// Devices that a world may have.
pub(super) const DEVICES_MAX: u8 = 8;
/// When the certificates were made: in the summer before the world begins.
const MADE_S: u64 = 1_751_328_000;

/// Who there is.
pub(super) struct Identities {
    folder: TempDir,
    core: Identity,
    devices: Vec<Identity>,
}

impl Identities {
    /// The identities of all worlds.
    pub(super) fn get() -> &'static Self {
        static MADE: OnceLock<Identities> = OnceLock::new();
        MADE.get_or_init(Self::make)
    }

    /// The core's authority.
    pub(super) fn authority(&self) -> Authority {
        Authority::load(self.folder.path()).expect("it was made")
    }

    /// The core.
    pub(super) fn core(&self) -> Identity {
        self.core.clone()
    }

    /// A device.
    pub(super) fn device(&self, index: u8) -> &Identity {
        &self.devices[usize::from(index)]
    }

    fn make() -> Self {
        let made = work::within(Arc::new(Maker(AtomicU64::new(1))), async {
            let folder = folder().expect("a folder for keys");
            let authority = Authority::create(folder.path(), "core authority").expect("an authority");
            let core = authority.core_identity(folder.path(), "core").expect("a core");
            let device = |index: u8| {
                let key = IdentityKey::generate().expect("a key");
                let certificate =
                    authority.issue_device(&key.public_key(), &device_name(index)).expect("a certificate");
                Identity::new(key, certificate, authority.certificate().to_vec()).expect("a device")
            };
            let devices = (0..DEVICES_MAX).map(device).collect();
            Self { folder, core, devices }
        });
        match pin!(made).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(made) => made,
            Poll::Pending => unreachable!("nothing in it waits"),
        }
    }
}

/// The name of a device.
pub(super) fn device_name(index: u8) -> String {
    format!("dev{index}")
}

/// A folder that is gone when it is dropped; in memory where the system has such a place, because disks that sync are slow.
pub(super) fn folder() -> io::Result<TempDir> {
    let in_memory = Path::new("/dev/shm");
    let place: PathBuf = if in_memory.is_dir() { in_memory.into() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("headwater-world-").tempdir_in(place)
}

/// The process in which they are made.
struct Maker(AtomicU64);

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maker")
    }
}

impl work::Process for Maker {
    fn turn(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn spawned(&self, _task: AbortHandle) {}

    fn bind(&self, _address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn random(&self) -> u64 {
        // Never a first byte of 0, so that every serial number is as long.
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 0x41
    }

    fn disk_free_bytes(&self) -> u64 {
        0
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(MADE_S)
    }
}
