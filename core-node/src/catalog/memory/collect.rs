//! What gc asks, in memory.

use headwater_protocol::id::ChunkId;

use super::MemoryCatalog;
use crate::catalog::{
    CatalogError, CollectorTable, DatasetId, Lease, PackNumber, PackState, PackSweep, Root, Roots, SweepError, UnixMs,
};

impl CollectorTable for MemoryCatalog {
    fn begin_collection(&self, now: UnixMs) -> Result<u64, CatalogError> {
        let mut state = self.state();
        for chunk in state.chunks.values_mut() {
            chunk.pins.retain(|_, expires_at| *expires_at > now);
        }
        state.leases.retain(|_, (_, lease)| lease.expires_at > now);
        state.epoch += 1;
        Ok(state.epoch)
    }

    fn roots(&self, sequence: u64) -> Result<Roots, CatalogError> {
        let state = self.state();
        let mut roots = Vec::new();
        for (&id, dataset) in &state.datasets {
            let later = dataset.versions.values().filter(|version| version.sequence > sequence);
            let summaries = later.map(|version| version.record.summary);
            roots.extend(
                summaries
                    .filter_map(|summary| summary.root.map(|page| Root { version: Some((id, summary.number)), page })),
            );
        }
        let later = state.leases.values().filter(|(entered, _)| *entered > sequence);
        roots.extend(later.filter_map(|(_, lease)| lease.root.map(|page| Root { version: None, page })));
        Ok(Roots { sequence: state.root_sequence, roots })
    }

    fn each_pinned(&self, visit: &mut dyn FnMut(ChunkId)) -> Result<(), CatalogError> {
        let state = self.state();
        state.chunks.iter().filter(|(_, chunk)| !chunk.pins.is_empty()).for_each(|(&id, _)| visit(id));
        Ok(())
    }

    fn datasets_to_trim(&self) -> Result<Vec<DatasetId>, CatalogError> {
        let state = self.state();
        Ok(state.datasets.iter().filter(|(_, dataset)| dataset.trim).map(|(&id, _)| id).collect())
    }

    fn trim_members(
        &self,
        dataset: DatasetId,
        sequence: u64,
        keep: &dyn Fn(&ChunkId) -> bool,
    ) -> Result<u64, SweepError> {
        let mut state = self.state();
        if state.root_sequence != sequence {
            return Err(SweepError::RootsChanged);
        }
        let before = state.members.len();
        state.members.retain(|(of, id), _| *of != dataset || keep(id));
        if let Some(found) = state.datasets.get_mut(&dataset) {
            found.trim = false;
        }
        Ok((before - state.members.len()) as u64)
    }

    fn sweep_pack(
        &self,
        pack: PackNumber,
        epoch: u64,
        sequence: u64,
        live: &dyn Fn(&ChunkId) -> bool,
        act: bool,
    ) -> Result<PackSweep, SweepError> {
        let mut state = self.state();
        if state.root_sequence != sequence {
            return Err(SweepError::RootsChanged);
        }
        let mut sweep = PackSweep::default();
        let mut dead = Vec::new();
        for (id, chunk) in state.chunks.iter().filter(|(_, chunk)| chunk.entry.location.pack == pack) {
            let stored_bytes = u64::from(chunk.entry.location.stored_bytes);
            if chunk.epoch >= epoch || !chunk.pins.is_empty() || live(id) {
                sweep.live_chunks += 1;
                sweep.live_bytes += stored_bytes;
            } else {
                sweep.dead_chunks += 1;
                sweep.dead_bytes += stored_bytes;
                dead.push(*id);
            }
        }
        if act && sweep.live_chunks == 0 {
            state.members.retain(|(_, id), _| dead.binary_search(id).is_err());
            for id in &dead {
                state.chunks.remove(id);
            }
            if let Some(found) = state.packs.get_mut(&pack) {
                found.state = PackState::Dropped;
            }
            sweep.dropped = true;
        }
        Ok(sweep)
    }

    fn put_lease(&self, lease: &Lease) -> Result<(), CatalogError> {
        let mut state = self.state();
        let sequence = state.next_sequence();
        state.leases.insert(lease.id.clone(), (sequence, lease.clone()));
        Ok(())
    }

    fn end_lease(&self, id: &str) -> Result<bool, CatalogError> {
        Ok(self.state().leases.remove(id).is_some())
    }

    fn leases(&self) -> Result<Vec<Lease>, CatalogError> {
        Ok(self.state().leases.values().map(|(_, lease)| lease.clone()).collect())
    }
}
