//! Collections and their editions in memory.

use std::collections::BTreeMap;

use super::{Collection, MemoryCatalog, State};
use crate::catalog::{
    AddEditionError, CatalogError, CollectionMember, CollectionRecord, CollectionTable, CreateCollectionError, Edition,
    NewCollection, UnixMs,
};

impl State {
    fn holds(&self, member: &CollectionMember) -> bool {
        let dataset = self.datasets.values().find(|dataset| dataset.record.name == member.dataset);
        let version = dataset.and_then(|dataset| dataset.versions.get(&member.number));
        version.is_some_and(|version| version.record.summary.version == member.version)
    }
}

impl CollectionTable for MemoryCatalog {
    fn create_collection(&self, new: &NewCollection) -> Result<(), CreateCollectionError> {
        let mut state = self.state();
        if state.collections.contains_key(&new.name) {
            return Err(CreateCollectionError::Exists(new.name.clone()));
        }
        let record = CollectionRecord { rule: new.clone(), latest: None };
        state.collections.insert(new.name.clone(), Collection { record, last_edition: 0, editions: BTreeMap::new() });
        Ok(())
    }

    fn collections(&self) -> Result<Vec<CollectionRecord>, CatalogError> {
        Ok(self.state().collections.values().map(|collection| collection.record.clone()).collect())
    }

    fn collection(&self, name: &str) -> Result<Option<CollectionRecord>, CatalogError> {
        Ok(self.state().collections.get(name).map(|collection| collection.record.clone()))
    }

    fn add_edition(
        &self,
        name: &str,
        members: &[CollectionMember],
        made_at: UnixMs,
    ) -> Result<Edition, AddEditionError> {
        let mut members = members.to_vec();
        members.sort();
        members.dedup_by(|left, right| left.dataset == right.dataset);
        let mut state = self.state();
        let Some(collection) = state.collections.get(name) else {
            return Err(AddEditionError::NoCollection(name.to_owned()));
        };
        let id = Edition::id_of(&members);
        if let Some(same) = collection.editions.get(&collection.last_edition).filter(|edition| edition.id == id) {
            return Ok(same.clone());
        }
        if let Some(member) = members.iter().find(|member| !state.holds(member)) {
            return Err(AddEditionError::NoMember { dataset: member.dataset.clone(), number: member.number });
        }
        let number = collection.last_edition + 1;
        let edition = Edition { number, id, made_at, members };
        if let Some(collection) = state.collections.get_mut(name) {
            collection.last_edition = number;
            collection.record.latest = Some((number, id, made_at));
            collection.editions.insert(number, edition.clone());
        }
        Ok(edition)
    }

    fn edition(&self, name: &str, number: Option<u64>) -> Result<Option<Edition>, CatalogError> {
        let state = self.state();
        let Some(collection) = state.collections.get(name) else { return Ok(None) };
        Ok(collection.editions.get(&number.unwrap_or(collection.last_edition)).cloned())
    }

    fn drop_editions(&self, name: &str, keep: u64) -> Result<u64, CatalogError> {
        let mut state = self.state();
        let Some(collection) = state.collections.get_mut(name) else { return Ok(0) };
        let before = collection.editions.len();
        let newest_dropped = collection.last_edition.saturating_sub(keep.max(1));
        collection.editions.retain(|&number, _| number > newest_dropped);
        Ok((before - collection.editions.len()) as u64)
    }

    fn delete_collection(&self, name: &str) -> Result<bool, CatalogError> {
        Ok(self.state().collections.remove(name).is_some())
    }
}
