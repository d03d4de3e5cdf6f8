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

    /// The first member that is not a committed version of its dataset.
    fn missing(&self, edition: &Edition) -> Option<CollectionMember> {
        edition.members.iter().find(|member| !self.holds(member)).cloned()
    }
}

impl Collection {
    fn add(&mut self, edition: Edition) {
        self.last_edition = edition.number;
        self.record.latest = Some((edition.number, edition.id, edition.made_at));
        if let Some(keep) = self.record.rule.keep {
            let newest_dropped = edition.number.saturating_sub(keep.max(1));
            self.editions.retain(|&number, _| number > newest_dropped);
        }
        self.editions.insert(edition.number, edition);
    }
}

impl CollectionTable for MemoryCatalog {
    fn create_collection(
        &self,
        new: &NewCollection,
        members: &[CollectionMember],
    ) -> Result<Edition, CreateCollectionError> {
        let mut state = self.state();
        if state.collections.contains_key(&new.name) {
            return Err(CreateCollectionError::Exists(new.name.clone()));
        }
        let edition = Edition::of(1, members, new.created_at);
        if let Some(CollectionMember { dataset, number, .. }) = state.missing(&edition) {
            return Err(CreateCollectionError::NoMember { dataset, number });
        }
        let record = CollectionRecord { rule: new.clone(), latest: None };
        let mut collection = Collection { record, last_edition: 0, editions: BTreeMap::new() };
        collection.add(edition.clone());
        state.collections.insert(new.name.clone(), collection);
        Ok(edition)
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
        let mut state = self.state();
        let Some(collection) = state.collections.get(name) else {
            return Err(AddEditionError::NoCollection(name.to_owned()));
        };
        let edition = Edition::of(collection.last_edition + 1, members, made_at);
        if let Some(same) = collection.editions.get(&collection.last_edition).filter(|newest| newest.id == edition.id) {
            return Ok(same.clone());
        }
        if let Some(CollectionMember { dataset, number, .. }) = state.missing(&edition) {
            return Err(AddEditionError::NoMember { dataset, number });
        }
        if let Some(collection) = state.collections.get_mut(name) {
            collection.add(edition.clone());
        }
        Ok(edition)
    }

    fn edition(&self, name: &str, number: Option<u64>) -> Result<Option<Edition>, CatalogError> {
        let state = self.state();
        let Some(collection) = state.collections.get(name) else { return Ok(None) };
        Ok(collection.editions.get(&number.unwrap_or(collection.last_edition)).cloned())
    }

    fn delete_collection(&self, name: &str) -> Result<bool, CatalogError> {
        Ok(self.state().collections.remove(name).is_some())
    }
}
