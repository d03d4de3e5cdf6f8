//! Datasets, versions and tags in memory.

use std::collections::{BTreeMap, BTreeSet};

use headwater_protocol::id::{ChunkId, PublicKey, VersionId};

use super::{Dataset, MemoryCatalog, State, Version};
use crate::catalog::datasets::MISSING_NAMED_MAX;
use crate::catalog::{
    CatalogError, CollectionMember, CommitVersionError, CreateDatasetError, DatasetId, DatasetRecord, DatasetTable,
    Deletion, DropError, Head, NewDataset, NewVersion, Principal, Retention, TagError, TagRecord, VersionRecord,
    VersionSummary,
};

impl Dataset {
    fn check_turn(&self, new: &NewVersion) -> Result<(), CommitVersionError> {
        if self.record.writer != new.writer {
            return Err(CommitVersionError::Writer { writer: self.record.writer });
        }
        let same = |version: &&Version| version.record.summary.version == new.version;
        if let Some(before) = self.versions.values().find(same) {
            return Err(CommitVersionError::Already { number: before.record.summary.number });
        }
        let expected = self.last_number + 1;
        if new.number == expected { Ok(()) } else { Err(CommitVersionError::Number { expected }) }
    }

    fn kept_by_tag(&self, number: u64) -> Option<String> {
        self.tags.values().find(|tag| tag.number == number).map(|tag| tag.name.clone())
    }
}

fn check_reliance<'a>(versions: impl Iterator<Item = &'a Version>) -> Result<(), DropError> {
    let (mut numbers, mut devices) = (Vec::new(), BTreeSet::new());
    for version in versions {
        let mut relying = version.reliance.iter().filter(|(_, freed)| **freed).peekable();
        if relying.peek().is_some() {
            numbers.push(version.record.summary.number);
        }
        devices.extend(relying.map(|(device, _)| *device));
    }
    if devices.is_empty() {
        return Ok(());
    }
    Err(DropError::LastCopy { versions: numbers, devices: devices.into_iter().collect() })
}

impl State {
    fn check_drop(&self, id: DatasetId, number: u64, last_copy: bool) -> Result<(), DropError> {
        let dataset = self.datasets.get(&id).ok_or(DropError::NotFound)?;
        let version = dataset.versions.get(&number).ok_or(DropError::NotFound)?;
        if dataset.last_number == number {
            return Err(DropError::Newest { number });
        }
        let in_edition =
            || self.edition_holding(dataset, |of| of == number).map(|(name, edition)| format!("{name}@{edition}"));
        if let Some(tag) = dataset.kept_by_tag(number).or_else(in_edition) {
            return Err(DropError::Tagged { number, tag });
        }
        if last_copy { Ok(()) } else { check_reliance(std::iter::once(version)) }
    }

    /// A collection and the number of its newest edition that holds a version of `dataset` whose number is `wanted`.
    fn edition_holding(&self, dataset: &Dataset, wanted: impl Fn(u64) -> bool) -> Option<(String, u64)> {
        let is_member = |member: &CollectionMember| {
            let version = dataset.versions.get(&member.number);
            member.dataset == dataset.record.name
                && wanted(member.number)
                && version.is_some_and(|version| version.record.summary.version == member.version)
        };
        self.collections.values().find_map(|collection| {
            let holding = collection.editions.values().rev().find(|edition| edition.members.iter().any(is_member));
            holding.map(|edition| (collection.record.rule.name.clone(), edition.number))
        })
    }

    fn check_members(&self, new: &NewVersion) -> Result<(), CommitVersionError> {
        let gone = |id: &&ChunkId| !self.is_page_of(new.dataset, id);
        let incomplete: Vec<_> = new.complete_pages.iter().filter(gone).copied().collect();
        if !incomplete.is_empty() {
            return Err(CommitVersionError::Incomplete(incomplete));
        }
        let absent = |id: &&ChunkId| self.chunks.get(*id).is_none_or(|chunk| chunk.entry.damaged);
        let missing: Vec<_> =
            new.new_pages.iter().chain(&new.new_chunks).filter(absent).take(MISSING_NAMED_MAX).copied().collect();
        if missing.is_empty() { Ok(()) } else { Err(CommitVersionError::Missing(missing)) }
    }
}

impl MemoryCatalog {
    fn change_dataset(&self, id: DatasetId, change: impl FnOnce(&mut Dataset)) {
        if let Some(dataset) = self.state().datasets.get_mut(&id) {
            change(dataset);
        }
    }
}

impl DatasetTable for MemoryCatalog {
    fn create_dataset(&self, new: &NewDataset) -> Result<DatasetRecord, CreateDatasetError> {
        let mut state = self.state();
        if let Some(found) = state.datasets.values().find(|dataset| dataset.record.name == new.name) {
            return Err(CreateDatasetError::Exists { name: new.name.clone(), writer: found.record.writer });
        }
        state.last_dataset += 1;
        let id = DatasetId(state.last_dataset);
        let record = DatasetRecord {
            id,
            name: new.name.clone(),
            writer: new.writer,
            retention: new.retention,
            created_at: new.created_at,
            head: None,
        };
        let dataset = Dataset {
            record: record.clone(),
            last_number: state.ended.get(&new.name).copied().unwrap_or(0),
            trim: false,
            versions: BTreeMap::new(),
            tags: BTreeMap::new(),
        };
        state.datasets.insert(id, dataset);
        Ok(record)
    }

    fn dataset(&self, name: &str) -> Result<Option<DatasetRecord>, CatalogError> {
        let state = self.state();
        Ok(state.datasets.values().find(|dataset| dataset.record.name == name).map(|dataset| dataset.record.clone()))
    }

    fn dataset_by_id(&self, id: DatasetId) -> Result<Option<DatasetRecord>, CatalogError> {
        Ok(self.state().datasets.get(&id).map(|dataset| dataset.record.clone()))
    }

    fn last_number(&self, name: &str) -> Result<u64, CatalogError> {
        let state = self.state();
        let found = state.datasets.values().find(|dataset| dataset.record.name == name);
        Ok(found.map(|dataset| dataset.last_number).or_else(|| state.ended.get(name).copied()).unwrap_or(0))
    }

    fn datasets(&self) -> Result<Vec<DatasetRecord>, CatalogError> {
        let mut datasets: Vec<_> = self.state().datasets.values().map(|dataset| dataset.record.clone()).collect();
        datasets.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(datasets)
    }

    fn hand_over(&self, id: DatasetId, from: Principal, to: Principal) -> Result<bool, CatalogError> {
        let mut handed = false;
        self.change_dataset(id, |dataset| {
            if dataset.record.writer == from {
                dataset.record.writer = to;
                handed = true;
            }
        });
        Ok(handed)
    }

    fn set_retention(&self, id: DatasetId, retention: Retention) -> Result<(), CatalogError> {
        self.change_dataset(id, |dataset| dataset.record.retention = retention);
        Ok(())
    }

    fn delete_dataset(&self, id: DatasetId, with: Deletion) -> Result<(), DropError> {
        let mut state = self.state();
        let dataset = state.datasets.get(&id).ok_or(DropError::NotFound)?;
        let newest = dataset.versions.keys().next_back();
        if let (Some(expected), Some(&number)) = (with.newest, newest)
            && number != expected
        {
            return Err(DropError::Newest { number });
        }
        if !with.last_copy {
            check_reliance(dataset.versions.values())?;
        }
        if !with.collected
            && let Some((collection, number)) = state.edition_holding(dataset, |_| true)
        {
            return Err(DropError::Collected { collection, number });
        }
        if let Some(dataset) = state.datasets.remove(&id).filter(|dataset| dataset.last_number > 0) {
            state.ended.insert(dataset.record.name, dataset.last_number);
        }
        state.members.retain(|(of, _), _| *of != id);
        Ok(())
    }

    fn commit_version(&self, new: &NewVersion) -> Result<(), CommitVersionError> {
        let mut state = self.state();
        state.datasets.get(&new.dataset).ok_or(CommitVersionError::NoDataset)?.check_turn(new)?;
        state.check_members(new)?;
        let pages = new.new_pages.iter().map(|id| (id, true));
        for (id, is_page) in pages.chain(new.new_chunks.iter().map(|id| (id, false))) {
            *state.members.entry((new.dataset, *id)).or_default() |= is_page;
            if let Some(chunk) = state.chunks.get_mut(id) {
                chunk.pins.remove(&new.writer);
            }
        }
        let sequence = state.next_sequence();
        let summary = VersionSummary {
            number: new.number,
            version: new.version,
            root: new.root,
            totals: new.totals,
            committed_at: new.committed_at,
            writer: new.writer,
        };
        let record = VersionRecord {
            summary,
            manifest: new.manifest.clone(),
            commit: new.commit.clone(),
            receipt: new.receipt.clone(),
        };
        let reliance = match new.writer {
            Principal::Device(device) if !new.receipt.is_empty() => BTreeMap::from([(device, false)]),
            _ => BTreeMap::new(),
        };
        let dataset = state.datasets.get_mut(&new.dataset).ok_or(CommitVersionError::NoDataset)?;
        dataset.last_number = new.number;
        dataset.record.head =
            Some(Head { number: new.number, version: new.version, totals: new.totals, committed_at: new.committed_at });
        dataset.versions.insert(new.number, Version { sequence, record, reliance });
        Ok(())
    }

    fn version(&self, dataset: DatasetId, number: u64) -> Result<Option<VersionRecord>, CatalogError> {
        let state = self.state();
        let version = state.datasets.get(&dataset).and_then(|dataset| dataset.versions.get(&number));
        Ok(version.map(|version| version.record.clone()))
    }

    fn version_by_id(&self, dataset: DatasetId, version: &VersionId) -> Result<Option<VersionRecord>, CatalogError> {
        let state = self.state();
        let Some(dataset) = state.datasets.get(&dataset) else { return Ok(None) };
        let found = dataset.versions.values().find(|found| found.record.summary.version == *version);
        Ok(found.map(|found| found.record.clone()))
    }

    fn versions(
        &self,
        dataset: DatasetId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<VersionSummary>, CatalogError> {
        let state = self.state();
        let Some(dataset) = state.datasets.get(&dataset) else { return Ok(Vec::new()) };
        let below = dataset.versions.range(..before.unwrap_or(u64::MAX));
        Ok(below.rev().take(limit).map(|(_, version)| version.record.summary).collect())
    }

    fn count_versions(&self, dataset: DatasetId) -> Result<u64, CatalogError> {
        Ok(self.state().datasets.get(&dataset).map_or(0, |dataset| dataset.versions.len() as u64))
    }

    fn may_drop(&self, dataset: DatasetId, number: u64, last_copy: bool) -> Result<(), DropError> {
        self.state().check_drop(dataset, number, last_copy)
    }

    fn drop_versions(&self, dataset: DatasetId, numbers: &[u64], last_copy: bool) -> Result<(), DropError> {
        let mut state = self.state();
        for &number in numbers {
            state.check_drop(dataset, number, last_copy)?;
        }
        if let Some(found) = state.datasets.get_mut(&dataset) {
            found.trim = true;
            found.versions.retain(|number, _| !numbers.contains(number));
        }
        Ok(())
    }

    fn note_freed(&self, device: &PublicKey, dataset: DatasetId, number: u64, since: u64) -> Result<(), CatalogError> {
        self.change_dataset(dataset, |dataset| {
            let Some(version) = dataset.versions.get_mut(&number) else { return };
            version.reliance.insert(*device, true);
            for (_, earlier) in dataset.versions.range_mut(since.min(number)..number) {
                if let Some(freed) = earlier.reliance.get_mut(device) {
                    *freed = false;
                }
            }
        });
        Ok(())
    }

    fn tag(&self, dataset: DatasetId, tag: &TagRecord, replace: bool) -> Result<(), TagError> {
        let mut state = self.state();
        let no_version = TagError::NoVersion { number: tag.number };
        let Some(dataset) = state.datasets.get_mut(&dataset) else { return Err(no_version) };
        if !dataset.versions.contains_key(&tag.number) {
            return Err(no_version);
        }
        match dataset.tags.get(&tag.name) {
            Some(same) if same.number == tag.number => return Ok(()),
            Some(other) if !replace => {
                return Err(TagError::Taken { name: tag.name.clone(), number: other.number });
            }
            _ => {}
        }
        dataset.tags.insert(tag.name.clone(), tag.clone());
        Ok(())
    }

    fn untag(&self, dataset: DatasetId, name: &str) -> Result<bool, CatalogError> {
        let mut state = self.state();
        Ok(state.datasets.get_mut(&dataset).is_some_and(|dataset| dataset.tags.remove(name).is_some()))
    }

    fn tags(&self, dataset: DatasetId) -> Result<Vec<TagRecord>, CatalogError> {
        let state = self.state();
        Ok(state.datasets.get(&dataset).map_or_else(Vec::new, |dataset| dataset.tags.values().cloned().collect()))
    }
}
