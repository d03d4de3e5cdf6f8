//! Keeping a version's bytes from gc while they are read, although nothing else may keep them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_quic::work::Home;
use tokio::time::Instant;

use crate::catalog::{CatalogError, DatasetId, Lease, VersionRecord};
use crate::core::Core;
use crate::ingest::error_chain;

/// How long a lease lasts that nobody renews: what a process that was killed leaves behind.
const LEASE_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// Age at which a lease is renewed.
const RENEW_AFTER: Duration = Duration::from_hours(24);
const _: () = assert!(RENEW_AFTER.as_secs() * 2 < LEASE_LIFETIME.as_secs());

/// A lease on one version; it ends when dropped.
pub struct HeldLease {
    core: Arc<Core>,
    lease: Lease,
    renewed: Mutex<Instant>,
    home: Home,
}

impl HeldLease {
    /// Takes a lease for `holder` on version `number` of `dataset`, and gives that version as it is under the lease; none
    /// if it has gone. Blocks.
    pub fn take(
        core: &Arc<Core>,
        holder: &str,
        dataset: DatasetId,
        number: u64,
    ) -> Result<Option<(Self, VersionRecord)>, CatalogError> {
        let Some(version) = core.catalog.version(dataset, number)? else { return Ok(None) };
        let lease = Lease {
            id: format!("{holder}-{}", core.unique()),
            version: version.summary.version,
            root: version.summary.root,
            expires_at: core.now().plus(LEASE_LIFETIME),
        };
        match core.catalog.put_lease(&lease) {
            Ok(()) => {}
            // A full disk must not stop reading. Should gc find room to work meanwhile, the read fails and is tried again.
            Err(CatalogError::Full { .. }) => {
                tracing::warn!(holder, "the disk is full: read without a lease");
            }
            Err(error) => return Err(error),
        }
        let held = Self { core: core.clone(), lease, renewed: Mutex::new(Instant::now()), home: Home::here() };
        // Retention may have dropped it, and gc its bytes, before the lease was there.
        Ok(core.catalog.version(dataset, number)?.map(|version| (held, version)))
    }

    /// Renews the lease if it is old enough. Cheap otherwise, so it may be called at each step of what it is held for.
    pub fn renew_if_old(&self) {
        let now = Instant::now();
        {
            let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
            if now.duration_since(*renewed) < RENEW_AFTER {
                return;
            }
            *renewed = now;
        }
        let (core, lease) = (self.core.clone(), self.lease.clone());
        in_background(&self.home, move || {
            let lease = Lease { expires_at: core.now().plus(LEASE_LIFETIME), ..lease };
            if let Err(error) = core.catalog.put_lease(&lease) {
                tracing::warn!(error = error_chain(&error), "a lease could not be renewed");
            }
        });
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let (core, id) = (self.core.clone(), std::mem::take(&mut self.lease.id));
        in_background(&self.home, move || {
            if let Err(error) = core.catalog.end_lease(&id) {
                tracing::warn!(error = error_chain(&error), "a lease could not be ended, and expires");
            }
        });
    }
}

/// The catalog blocks, and leases are held on the reactor too. Outside of it (at the end of the process) a lease just
/// expires.
fn in_background(home: &Home, job: impl FnOnce() + Send + 'static) {
    if tokio::runtime::Handle::try_current().is_ok() {
        home.spawn_blocking(job);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use headwater_protocol::id::{ChunkId, VersionId};
    use headwater_protocol::manifest::Totals;

    use super::*;
    use crate::catalog::{NewDataset, NewVersion, Principal, Retention};
    use crate::config::Config;
    use crate::daemon::{InitOptions, init, open};
    use crate::store::{NewChunk, StoreBatch};

    fn commit(core: &Core, dataset: DatasetId, number: u64, page: ChunkId) {
        let manifest = format!("manifest {number}").into_bytes();
        let new = NewVersion {
            dataset,
            number,
            version: VersionId::of(&manifest),
            writer: Principal::Core,
            manifest,
            root: Some(page),
            commit: Vec::new(),
            receipt: Vec::new(),
            totals: Totals::default(),
            committed_at: core.now(),
            new_pages: vec![page],
            new_chunks: Vec::new(),
            complete_pages: Vec::new(),
        };
        core.catalog.commit_version(&new).expect("committed");
    }

    #[test]
    fn holds_a_version_until_it_is_dropped_and_none_that_has_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = InitOptions {
            folder: folder.path().join("data"),
            config_file: folder.path().join("core.toml"),
            name: "core".to_owned(),
            settings: Vec::new(),
        };
        init(&options).expect("made");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        let core = open(options.folder, Config::default()).expect("opened");
        let page = ChunkId::of(b"page");
        let chunk = NewChunk { id: page, plain: Bytes::from_static(b"page"), frame: None };
        let batch = StoreBatch { uploader: Principal::Core, pin_until: core.pin_until(), chunks: vec![chunk] };
        core.store.store_blocking(batch).expect("stored");
        let new = NewDataset {
            name: "cam".to_owned(),
            writer: Principal::Core,
            retention: Retention::default(),
            created_at: core.now(),
        };
        let dataset = core.catalog.create_dataset(&new).expect("created").id;
        for number in 1..=2 {
            commit(&core, dataset, number, page);
        }
        let (lease, version) = HeldLease::take(&core, "test", dataset, 1).expect("a catalog").expect("a version");
        assert_eq!(version.summary.number, 1);
        core.catalog.drop_versions(dataset, &[1], false).expect("dropped");
        let leases = core.catalog.leases().expect("listed");
        assert_eq!((leases.len(), leases[0].root), (1, Some(page)));
        assert!(HeldLease::take(&core, "test", dataset, 1).expect("a catalog").is_none());

        // One that is old is renewed, with the same id.
        let aged = Lease { expires_at: core.now(), ..leases[0].clone() };
        core.catalog.put_lease(&aged).expect("put");
        lease.renew_if_old();
        *lease.renewed.lock().expect("unpoisoned") -= RENEW_AFTER;
        lease.renew_if_old();
        let renewed = || core.catalog.leases().expect("listed").iter().any(|lease| lease.expires_at > aged.expires_at);
        wait_until(renewed);
        assert_eq!(core.catalog.leases().expect("listed").len(), 1);
        drop(lease);
        wait_until(|| core.catalog.leases().expect("listed").is_empty());
    }

    fn wait_until(done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_mins(1), "it never came to be");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
