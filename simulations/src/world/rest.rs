//! Whether everything has come to rest: what was written has arrived everywhere where it should be.
//!
//! What should be is worked out from what people did, and from the rules of the publishing modes: an appending dataset keeps
//! what is deleted in its folder, a mirror doesn't; neither loses what was freed, and both lose what a command deleted.

use std::collections::{BTreeMap, BTreeSet};

use headwater_protocol::id::VersionId;

use super::history::{Dataset, Fact, Files};
use super::users::Folder;

/// Versions at the core by dataset and number, with their files where these could be read.
pub(super) type Versions = BTreeMap<(String, u64), (VersionId, Option<Files>)>;

/// What is known of the way to rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Freed files that must be in every later version.
    freed: BTreeMap<String, Files>,
    /// Freed files over which somebody wrote: whether the agent saw that, before it went again, nobody knows.
    written_over: BTreeSet<(String, String)>,
    /// Files that a command deleted and nobody wrote again.
    deleted: BTreeMap<String, BTreeSet<String>>,
    receipts: BTreeSet<(String, u64)>,
    held: BTreeMap<(u8, String), Files>,
    /// All that is missing is what subscribers hold.
    wants_held: bool,
}

impl Rest {
    /// Something happened.
    pub(super) fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Wrote { dataset, path, .. } => {
                if self.freed.entry(dataset.clone()).or_default().remove(path).is_some() {
                    self.written_over.insert((dataset.clone(), path.clone()));
                }
                self.deleted.entry(dataset.clone()).or_default().remove(path);
            }
            Fact::Freed { dataset, path, hash } => {
                self.freed.entry(dataset.clone()).or_default().insert(path.clone(), *hash);
            }
            Fact::Deleted { dataset, path } => {
                self.freed.entry(dataset.clone()).or_default().remove(path);
                self.deleted.entry(dataset.clone()).or_default().insert(path.clone());
            }
            Fact::Receipt { dataset, number, .. } => {
                self.receipts.insert((dataset.clone(), *number));
            }
            Fact::Held { device, dataset, files } => {
                self.held.insert((*device, dataset.clone()), files.clone());
            }
            _ => {}
        }
    }

    /// Whether it is time to look at what subscribers hold.
    pub(super) const fn wants_held(&self) -> bool {
        self.wants_held
    }

    /// Whether a subscriber holds something else than before.
    pub(super) fn is_new(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Held { device, dataset, files } => self.held.get(&(*device, dataset.clone())) != Some(files),
            _ => true,
        }
    }

    /// What is missing, if anything is.
    pub(super) fn missing<'a>(
        &mut self,
        datasets: &BTreeMap<String, Dataset>,
        folders: impl Iterator<Item = &'a Folder>,
        versions: &Versions,
    ) -> Option<String> {
        let mut heads = BTreeMap::new();
        for folder in folders.filter(|folder| !folder.is_local) {
            let name = &folder.dataset;
            let newest = versions.range((name.clone(), 0)..=(name.clone(), u64::MAX)).next_back();
            let Some(((_, number), (_, Some(files)))) = newest else {
                return Some(format!("`{name}` has no version at the core that can be read"));
            };
            if let Some(difference) = self.difference(folder, &datasets[name], files) {
                return Some(format!("`{name}@{number}`: {difference}"));
            }
            if !self.receipts.contains(&(name.clone(), *number)) {
                return Some(format!("the writer of `{name}@{number}` has no receipt for it"));
            }
            heads.insert(name, files);
        }
        self.wants_held = true;
        for (name, dataset) in datasets {
            for reader in &dataset.readers {
                if self.held.get(&(*reader, name.clone())) != heads.get(name).copied() {
                    return Some(format!("device {reader} does not hold the newest version of `{name}`"));
                }
            }
        }
        None
    }

    /// How a dataset's newest version differs from what it should be.
    fn difference(&self, folder: &Folder, dataset: &Dataset, files: &Files) -> Option<String> {
        let nothing = Files::new();
        let freed = self.freed.get(&folder.dataset).unwrap_or(&nothing);
        for (path, hash) in folder.files.iter().chain(freed) {
            match files.get(path) {
                Some(found) if found == hash => {}
                Some(_) => return Some(format!("`{path}` is another file")),
                None => return Some(format!("`{path}` is missing")),
            }
        }
        let is_extra = |path: &&String| !folder.files.contains_key(*path) && !freed.contains_key(*path);
        let deleted = self.deleted.get(&folder.dataset);
        files
            .keys()
            .filter(is_extra)
            .filter(|path| !self.written_over.contains(&(folder.dataset.clone(), (*path).clone())))
            .find(|path| dataset.is_mirror || deleted.is_some_and(|deleted| deleted.contains(*path)))
            .map(|path| format!("`{path}` should be gone"))
    }
}
