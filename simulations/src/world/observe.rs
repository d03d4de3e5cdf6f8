//! Looking at the world: what the core and the devices have now that they had not before, each a fact.

use std::sync::Arc;
use std::time::Duration;

use core_node::catalog::DatasetTable;
use core_node::core::Core;
use headwater_protocol::manifest::Manifest;

use super::bugs::Bug;
use super::contents;
use super::history::{Fact, GONE};
use super::packs::DISK_FAILED;
use super::play::World;

/// How often packs are read again that were damaged.
const VERIFY_EVERY: Duration = Duration::from_mins(1);

impl World {
    /// Looks at everything that has changed.
    pub(super) fn observe(&mut self) {
        self.observe_core();
        if self.core.core().is_none() {
            // It may have died in the middle of something: what devices have heard of, it shows when it is back.
            return;
        }
        for index in 0..self.devices.len() {
            if let Some(reason) = self.devices[index].ended() {
                self.fact(Fact::Broken(format!("the agent of device {index} ended: {reason}")));
            }
            if self.devices[index].agent().is_some() && self.lost_power.remove(&(index as u8)) {
                self.devices[index].held().into_iter().for_each(|fact| self.fact(fact));
            }
            if self.devices[index].joined_now() {
                self.did("devices joined");
            }
            let known = |dataset: &str, version| self.receipts.contains(&(dataset.to_owned(), version));
            for fact in self.devices[index].receipts(known) {
                if let Fact::Receipt { dataset, version, .. } = &fact {
                    self.receipts.insert((dataset.clone(), *version));
                }
                self.fact(fact);
            }
            for fact in self.devices[index].taken_away() {
                if let (Some(Bug::DropsFreed), Fact::Freed { dataset, path, .. }) = (self.bug, &fact) {
                    self.devices[index].forget_freed(dataset, path);
                }
                self.fact(fact);
            }
        }
    }

    /// The core may have died in the middle of something.
    pub(super) fn observe_death(&mut self) {
        if let Some(power) = self.core.died_at_disk() {
            self.fact(Fact::Died { who: "core".to_owned(), power });
            self.did(if power { "cores without power within disk work" } else { "cores killed within disk work" });
        }
    }

    fn observe_core(&mut self) {
        self.observe_death();
        if let Some(reason) = self.core.ended() {
            if self.core.could_not_open() && reason.contains(DISK_FAILED) {
                // Whoever keeps services running tries again.
                self.core.start();
                self.did("cores that a failing disk kept from starting");
            } else {
                self.fact(Fact::Broken(format!("the core ended: {reason}")));
            }
        }
        if let Some(damage) = self.core.damage_found() {
            if self.was_damaged {
                self.did("verifications that found damage");
            } else {
                self.fact(Fact::Broken(format!("a verification found damage: {damage}")));
            }
        }
        let recovered = self.core.recovered();
        let Some(core) = self.core.core() else { return };
        if let Some(report) = recovered {
            self.fact(Fact::Started { lost_chunks: report.lost_chunks });
            self.looks_again = true;
        }
        if core.memory.used_bytes() > core.memory.bytes() {
            self.fact(Fact::OverBudget(core.memory.used_bytes()));
        }
        let catalog = Arc::clone(&self.core.catalog);
        for record in catalog.datasets().expect("in memory") {
            if !self.datasets.contains_key(&record.name) {
                self.fact(Fact::Leaked(format!("the core knows a dataset `{}`", record.name)));
            }
            let seen = self.versions.range((record.name.clone(), 0)..=(record.name.clone(), u64::MAX)).next_back();
            let seen = seen.map_or(0, |((_, number), _)| *number);
            for number in seen + 1..=record.head.map_or(0, |head| head.number) {
                let Some(found) = catalog.version(record.id, number).expect("in memory") else {
                    self.fact(Fact::Passed { dataset: record.name.clone(), number });
                    continue;
                };
                let version = found.summary.version;
                let manifest = Manifest::decode(&found.manifest).map_err(|error| error.to_string());
                let files = manifest.and_then(|manifest| contents::of_version(&core, record.id, &manifest));
                self.versions.insert((record.name.clone(), number), (version, files.as_ref().ok().cloned()));
                self.fact(Fact::Version { dataset: record.name.clone(), number, version, files });
            }
        }
        if std::mem::take(&mut self.looks_again) {
            self.look_again(&core, false);
        }
    }

    /// Reads every version again, or the newest of each dataset.
    fn look_again(&mut self, core: &Core, newest: bool) {
        let catalog = Arc::clone(&self.core.catalog);
        let mut versions: Vec<_> = self.versions.keys().cloned().collect();
        if newest {
            let is_newest = |at: usize| versions.get(at + 1).is_none_or(|next| next.0 != versions[at].0);
            versions = (0..versions.len()).filter(|&at| is_newest(at)).map(|at| versions[at].clone()).collect();
        }
        for (dataset, number) in versions {
            let record = catalog.dataset(&dataset).expect("in memory");
            let found = record.and_then(|record| {
                let version = catalog.version(record.id, number).expect("in memory");
                version.map(|version| (record.id, version))
            });
            let version = match found {
                None => Err(GONE.to_owned()),
                Some((id, found)) => match Manifest::decode(&found.manifest) {
                    Err(error) => Err(error.to_string()),
                    Ok(manifest) => contents::of_version(core, id, &manifest).map(|files| {
                        if let Some((_, seen)) = self.versions.get_mut(&(dataset.clone(), number)) {
                            // It may have been damaged when it was seen first.
                            seen.get_or_insert(files);
                        }
                        found.summary.version
                    }),
                },
            };
            let is_damaged = self.was_damaged && version.as_ref().is_err_and(|reason| reason != GONE);
            if is_damaged && !self.core.knows_damage() {
                self.fact(Fact::Broken(format!(
                    "`{dataset}@{number}` can't be read, and no chunk is known to be damaged"
                )));
            }
            self.fact(Fact::Again { dataset, number, version });
        }
    }

    /// Whether the newest version of every dataset is whole again. What nobody has read, a verification has to find.
    pub(super) fn is_mended(&mut self, rested: Duration) -> bool {
        if rested.as_secs() % VERIFY_EVERY.as_secs() == 1 {
            self.core.verify();
        }
        let Some(core) = self.core.core() else { return false };
        let before = self.facts.len();
        self.look_again(&core, true);
        let read = self.facts.split_off(before);
        let is_whole = read.iter().all(|(_, fact)| matches!(fact, Fact::Again { version: Ok(_), .. }));
        if is_whole {
            self.facts.extend(read);
        }
        is_whole
    }
}
