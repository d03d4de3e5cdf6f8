//! Chunks, packs, pins and membership in memory.

use std::collections::BTreeMap;

use headwater_protocol::id::ChunkId;

use super::{Chunk, MemoryCatalog, State};
use crate::catalog::{
    AdoptGroup, CatalogError, ChunkEntry, ChunkLocation, ChunkMove, ChunkTable, DatasetId, PackNumber, PackRecord,
    PackState, Scope, UnixMs,
};

impl State {
    fn visible(&self, scope: &Scope, id: &ChunkId, now: UnixMs) -> Option<ChunkEntry> {
        let chunk = self.chunks.get(id)?;
        let pinned = || {
            let expires_at = scope.uploader.as_ref().and_then(|uploader| chunk.pins.get(uploader));
            expires_at.is_some_and(|&expires_at| expires_at > now)
        };
        let member = || scope.datasets.iter().any(|&dataset| self.members.contains_key(&(dataset, *id)));
        (scope.everything || pinned() || member()).then_some(chunk.entry)
    }

    fn set_pack_end(&mut self, number: PackNumber, end_bytes: u64) {
        let pack = self.packs.entry(number).or_insert(PackRecord { number, state: PackState::Open, end_bytes });
        pack.end_bytes = pack.end_bytes.max(end_bytes);
    }

    fn in_order_of_place(&self, wanted: impl Fn(&ChunkEntry) -> bool) -> Vec<ChunkEntry> {
        let mut entries: Vec<_> = self.chunks.values().map(|chunk| chunk.entry).filter(wanted).collect();
        entries.sort_unstable_by_key(|entry| (entry.location.pack, entry.location.offset));
        entries
    }
}

impl ChunkTable for MemoryCatalog {
    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkEntry>>, CatalogError> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.chunks.get(id).map(|chunk| chunk.entry)).collect())
    }

    fn locate_visible(
        &self,
        scope: &Scope,
        ids: &[ChunkId],
        now: UnixMs,
    ) -> Result<Vec<Option<ChunkEntry>>, CatalogError> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.visible(scope, id, now)).collect())
    }

    fn pages_complete(&self, dataset: DatasetId, ids: &[ChunkId]) -> Result<Vec<bool>, CatalogError> {
        let state = self.state();
        let damaged =
            |(id, chunk): (&ChunkId, &Chunk)| chunk.entry.damaged && state.members.contains_key(&(dataset, *id));
        if state.chunks.iter().any(damaged) {
            return Ok(vec![false; ids.len()]);
        }
        Ok(ids.iter().map(|id| state.is_page_of(dataset, id)).collect())
    }

    fn adopt(&self, group: &AdoptGroup) -> Result<(), CatalogError> {
        let mut state = self.state();
        let epoch = state.epoch;
        let known = |id: &ChunkId| state.chunks.contains_key(id) || group.chunks.iter().any(|chunk| chunk.id == *id);
        if let Some(id) = group.pins.iter().flat_map(|pin| &pin.chunks).find(|id| !known(id)) {
            let detail = format!("chunk {} was pinned before it was entered", id.short());
            return Err(CatalogError::Damaged { action: "pin chunks", detail });
        }
        for chunk in &group.chunks {
            let entry = ChunkEntry { id: chunk.id, location: chunk.location, damaged: false };
            let found =
                state.chunks.entry(chunk.id).or_insert_with(|| Chunk { entry, epoch, pins: BTreeMap::default() });
            if found.entry.damaged {
                (found.entry, found.epoch) = (entry, epoch);
            }
        }
        for pin in &group.pins {
            for id in &pin.chunks {
                if let Some(chunk) = state.chunks.get_mut(id) {
                    let expires_at = chunk.pins.entry(pin.principal).or_insert(pin.expires_at);
                    *expires_at = (*expires_at).max(pin.expires_at);
                    chunk.epoch = epoch;
                }
            }
        }
        for &(pack, end_bytes) in &group.pack_ends {
            state.set_pack_end(pack, end_bytes);
        }
        Ok(())
    }

    fn relocate(&self, moves: &[ChunkMove], pack_end: (PackNumber, u64)) -> Result<u64, CatalogError> {
        let mut state = self.state();
        let mut moved = 0;
        for step in moves {
            if let Some(chunk) = state.chunks.get_mut(&step.id)
                && (chunk.entry.location.pack, chunk.entry.location.offset) == (step.from.pack, step.from.offset)
            {
                chunk.entry = ChunkEntry { id: step.id, location: step.to, damaged: false };
                moved += 1;
            }
        }
        state.set_pack_end(pack_end.0, pack_end.1);
        Ok(moved)
    }

    fn mark_damaged(&self, id: &ChunkId, location: &ChunkLocation) -> Result<bool, CatalogError> {
        let mut state = self.state();
        let ignores = state.ignores_damage;
        Ok(match state.chunks.get_mut(id) {
            Some(_) if ignores => false,
            Some(chunk) if chunk.entry.location == *location && !chunk.entry.damaged => {
                chunk.entry.damaged = true;
                true
            }
            _ => false,
        })
    }

    fn damaged(&self) -> Result<Vec<ChunkEntry>, CatalogError> {
        Ok(self.state().in_order_of_place(|entry| entry.damaged))
    }

    fn datasets_holding(&self, id: &ChunkId) -> Result<Vec<DatasetId>, CatalogError> {
        let state = self.state();
        Ok(state.datasets.keys().copied().filter(|&dataset| state.members.contains_key(&(dataset, *id))).collect())
    }

    fn packs(&self) -> Result<Vec<PackRecord>, CatalogError> {
        Ok(self.state().packs.values().copied().collect())
    }

    fn put_pack(&self, pack: &PackRecord) -> Result<(), CatalogError> {
        self.state().packs.insert(pack.number, *pack);
        Ok(())
    }

    fn forget_pack(&self, pack: PackNumber) -> Result<(), CatalogError> {
        self.state().packs.remove(&pack);
        Ok(())
    }

    fn chunks_in_pack(
        &self,
        pack: PackNumber,
        from_offset: u64,
        limit: usize,
    ) -> Result<Vec<ChunkEntry>, CatalogError> {
        let within = |entry: &ChunkEntry| entry.location.pack == pack && entry.location.offset >= from_offset;
        let mut entries = self.state().in_order_of_place(within);
        entries.truncate(limit);
        Ok(entries)
    }
}
