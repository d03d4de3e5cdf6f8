//! How things are, for `status` and for the core's device list.

use std::path::PathBuf;

use headwater_host::error::CodedError;
use headwater_protocol::codec::decode_stored;
use headwater_protocol::commit::Receipt;
use headwater_protocol::manifest::{Manifest, Totals};
use headwater_quic::work;

use super::Agent;
use crate::catalog::{Catalog, DatasetRow, Role, VersionRow};
use crate::clock;
use crate::request::{DatasetReport, MonthReport, StatusReport};
use crate::storage::room;

impl Agent {
    /// How things are.
    pub fn status(&self) -> Result<StatusReport, CodedError> {
        self.notes.settle();
        let catalog = self.catalog();
        let device = self.device();
        let state = self.link().borrow().clone();
        let (folders, problems) = self.folders();
        let mut datasets = Vec::new();
        for folder in &folders {
            let row = catalog.dataset(folder.dataset.as_str(), folder.role, &folder.path)?;
            let room = room::look(self, folder);
            datasets.push(DatasetReport { room, ..dataset_report(&catalog, &row)? });
        }
        for row in self.datasets()?.iter().filter(|row| row.role == Role::Subscribe) {
            datasets.push(dataset_report(&catalog, row)?);
        }
        let core = device.as_ref().map(|device| self.settings().core.addresses_or(&device.card.addresses).to_vec());
        let first_problem = problems.first().map(|(name, error)| super::problem(name, error));
        let link = match (&device, &state.connected) {
            (None, _) => "not joined",
            (_, Some(connected)) if !connected.link.has_ended() => "connected",
            _ if state.refused => "refused",
            _ if self.is_daemon() && !state.waiting_for.is_empty() => "waiting",
            _ if self.is_daemon() => "connecting",
            _ => "not running",
        };
        Ok(StatusReport {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            device: device.as_ref().map(|device| device.card.name.clone()),
            labels: device.as_ref().map(|device| device.card.labels.clone()).unwrap_or_default(),
            core: core.unwrap_or_default(),
            running: self.is_daemon(),
            link: link.to_owned(),
            waiting_for: state.waiting_for,
            backlog_bytes: datasets.iter().map(|dataset| dataset.pending_bytes).sum(),
            datasets,
            training: self.training().reports(),
            wire_bytes: self.gate().account().by_reason(&catalog, self.lost_bytes())?,
            down_cap_bytes_per_s: self.gate().down_cap(),
            up_cap_bytes_per_s: self.gate().meter().cap().filter(|&cap| cap > 0),
            disk_free_bytes: self.disk_free_bytes(),
            month: self.month_report(&catalog)?,
            last_error: state.problem.or_else(|| self.folder_problem(|_| true)).or(first_problem),
        })
    }

    fn month_report(&self, catalog: &Catalog) -> Result<Option<MonthReport>, CodedError> {
        let policy = self.settings().link.policy();
        let Some(budget) = policy.budget else { return Ok(None) };
        let month = policy.month(clock::now_s());
        Ok(Some(MonthReport {
            month: month.to_string(),
            spent_bytes: self.gate().spent_bytes(catalog, month)?,
            budget_bytes: budget.month_bytes,
            reserve_bytes: budget.reserve_bytes,
        }))
    }

    /// Bytes of built versions that the core has not acknowledged.
    pub fn backlog_bytes(&self) -> u64 {
        let catalog = self.catalog();
        let rows = self.datasets().unwrap_or_default();
        let published = rows.iter().filter(|row| row.role == Role::Publish);
        published.map(|row| pending_bytes(&catalog, row).unwrap_or(0)).sum()
    }

    /// Whether something of a subscription is not here: a version is being fetched, or none has come yet.
    pub fn misses_something(&self) -> Result<bool, CodedError> {
        let catalog = self.catalog();
        let mut have = Vec::new();
        for row in self.datasets()?.into_iter().filter(|row| row.role == Role::Subscribe) {
            let is_whole = catalog.committed(row.id)?.is_some() && catalog.pending(row.id)?.is_none();
            have.push((row.folder, is_whole));
        }
        let folders: Vec<PathBuf> = self.subscriptions().into_iter().map(|subscription| subscription.to).collect();
        Ok(misses(&folders, &have))
    }

    /// For how long the oldest of what the core has not acknowledged has waited, in seconds; also over restarts.
    pub fn oldest_unsent_s(&self) -> u64 {
        let catalog = self.catalog();
        let rows = self.datasets().unwrap_or_default();
        let published = rows.iter().filter(|row| row.role == Role::Publish);
        let waiting = published.filter(|row| catalog.pending(row.id).is_ok_and(|pending| pending.is_some()));
        let since = waiting.filter_map(|row| catalog.unsent_since_s(row.id).ok().flatten()).min();
        since.map_or(0, |since| u64::try_from(clock::now_s().saturating_sub(since)).unwrap_or(0))
    }

    /// Free bytes on the disk of the data folder.
    pub fn disk_free_bytes(&self) -> u64 {
        match work::process() {
            Some(process) => process.disk_free_bytes(),
            None => rustix::fs::statvfs(self.data()).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        }
    }
}

/// Whether something is missing for one of the `wanted` folders, with what they `have`: the folders of datasets in them, and
/// whether each is whole.
fn misses(wanted: &[PathBuf], have: &[(PathBuf, bool)]) -> bool {
    wanted.iter().any(|folder| {
        let mut of = have.iter().filter(|(dataset, _)| dataset.starts_with(folder)).peekable();
        of.peek().is_none() || of.any(|(_, is_whole)| !is_whole)
    })
}

fn dataset_report(catalog: &Catalog, row: &DatasetRow) -> Result<DatasetReport, CodedError> {
    let committed = catalog.committed(row.id)?;
    let pending = catalog.pending(row.id)?;
    let receipt = committed.as_ref().and_then(|version| decode_stored::<Receipt>(&version.receipt).ok());
    let state = match (&committed, &pending, row.role) {
        (None, None, _) => "waits for its first version",
        (_, Some(_), Role::Subscribe) => "is being fetched",
        (_, Some(_), _) => "waits to be sent",
        (Some(_), None, Role::Local) => "local",
        (Some(_), None, _) => "in sync",
    };
    Ok(DatasetReport {
        name: row.name.clone(),
        role: row.role,
        folder: row.folder.clone(),
        number: committed.as_ref().map_or(0, |version| version.number),
        totals: totals(committed.as_ref()),
        pending: pending.as_ref().map(|version| (version.number, version.state)),
        pending_bytes: if row.role == Role::Publish { pending_bytes(catalog, row)? } else { 0 },
        remote_files: catalog.freed_count(row.id)?,
        room: None,
        state: state.to_owned(),
        durability: receipt.map(|receipt| receipt.durability.as_str().to_owned()).unwrap_or_default(),
    })
}

/// An estimate from the sums of both versions: what the new one has more, or, where files only changed, at least something.
fn pending_bytes(catalog: &Catalog, row: &DatasetRow) -> Result<u64, CodedError> {
    let Some(pending) = catalog.pending(row.id)? else { return Ok(0) };
    let committed = catalog.committed(row.id)?;
    Ok(totals(Some(&pending)).bytes.saturating_sub(totals(committed.as_ref()).bytes).max(1))
}

fn totals(version: Option<&VersionRow>) -> Totals {
    version
        .and_then(|version| Manifest::decode(&version.manifest).ok())
        .map(|manifest| manifest.totals())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_waits_only_while_something_of_it_is_missing() {
        for (wanted, have, is_missing) in [
            (&[][..], &[][..], false),
            (&["/in"], &[], true),
            (&["/in"], &[("/in", false)], true),
            (&["/in"], &[("/in", true)], false),
            (&["/in"], &[("/in/cam/north", true), ("/in/cam/south", true)], false),
            (&["/in"], &[("/in/cam/north", true), ("/in/cam/south", false)], true),
            (&["/in", "/other"], &[("/in", true)], true),
        ] {
            let folders: Vec<PathBuf> = wanted.iter().map(PathBuf::from).collect();
            let datasets: Vec<(PathBuf, bool)> = have.iter().map(|(folder, whole)| (folder.into(), *whole)).collect();
            assert_eq!(misses(&folders, &datasets), is_missing, "{wanted:?} with {have:?}");
        }
    }
}
