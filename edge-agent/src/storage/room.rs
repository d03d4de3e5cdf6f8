//! Making room in a folder that holds more than it may. What goes is decided by [`quota`](super::quota), how it goes is the
//! same as by command: [`free`](super::free). Here the folder is looked at, before and after.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::record::FileKind;
use headwater_protocol::tree::Tree;

use super::free::{self, Covered};
use super::local_path;
use super::quota::{Candidate, Choice, Limits, Usage};
use super::reserve;
use crate::agent::{Agent, Folder};
use crate::blocking::blocking;
use crate::catalog::{DatasetPages, EventLevel};
use crate::request::RoomReport;

/// Bytes of what `stat` calls a block, whatever the file system's are.
const BLOCK_BYTES: u64 = 512;
/// Choices for one folder after one look: each after the first is for files that proved to have changed.
const CHOICES_MAX: usize = 8;

/// Frees files of a folder that holds too much, if there are any that may go.
pub(crate) async fn make(agent: &Arc<Agent>, folder: &Folder) -> Result<(), CodedError> {
    if folder.limits.is_none() {
        return Ok(());
    }
    let (look, data) = (folder.path.clone(), agent.data().to_owned());
    let usage = blocking(move || usage(&look, &data)).await?;
    let mut room = Room { folder, usage, stays: BTreeSet::new() };
    let mut outcome = Ok(());
    for _ in 0..CHOICES_MAX {
        if room.excess_bytes() == 0 {
            break;
        }
        match room.free_some(agent).await {
            Ok(true) => {}
            Ok(false) => break,
            // Not even for the note that it goes is there room.
            Err(error) if error.is(&codes::DISK_FULL) && release_reserve(agent).await? => {}
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    let data = agent.data().to_owned();
    blocking(move || {
        reserve::keep(&data);
        Ok(())
    })
    .await?;
    agent.set_room(folder.dataset.as_str(), report(folder.limits, &room.usage));
    match outcome {
        Err(error) if !error.is(&codes::LAST_COPY) => Err(error),
        outcome => {
            room.say(agent, outcome.as_ref().err());
            Ok(())
        }
    }
}

async fn release_reserve(agent: &Agent) -> Result<bool, CodedError> {
    let data = agent.data().to_owned();
    blocking(move || Ok(reserve::release(&data))).await
}

/// What a folder with limits holds and may hold: by the newest look of this process, else by one now. Blocks.
pub(crate) fn look(agent: &Agent, folder: &Folder) -> Option<RoomReport> {
    if folder.limits.is_none() {
        return None;
    }
    let now = || Some(report(folder.limits, &usage(&folder.path, agent.data()).ok()?));
    agent.room(folder.dataset.as_str()).or_else(now)
}

fn report(limits: Limits, usage: &Usage) -> RoomReport {
    RoomReport {
        disk_bytes: usage.folder_bytes,
        quota_bytes: limits.quota_bytes,
        min_free_bytes: limits.free_bytes_min,
        excess_bytes: limits.excess_bytes(usage),
    }
}

struct Room<'a> {
    folder: &'a Folder,
    usage: Usage,
    /// Files that were chosen and stayed.
    stays: BTreeSet<Vec<u8>>,
}

impl Room<'_> {
    fn excess_bytes(&self) -> u64 {
        self.folder.limits.excess_bytes(&self.usage)
    }

    /// Chooses files and frees them; whether there were any to choose.
    async fn free_some(&mut self, agent: &Arc<Agent>) -> Result<bool, CodedError> {
        let _mine = agent.have(self.folder.dataset.as_str(), &self.folder.path).await;
        let (owner, folder) = (Arc::clone(agent), self.folder.clone());
        let covered = blocking(move || free::covered_version(&owner, &folder)).await?;
        if covered.durability < self.folder.durability {
            let (has, wants) = (covered.durability.as_str(), self.folder.durability.as_str());
            let message = format!("the core's receipt says `{has}`, and `{wants}` is asked for");
            return Err(CodedError::new(&codes::LAST_COPY, message));
        }
        let covered = Arc::new(covered);
        let chosen = {
            let (covered, stays, excess_bytes) = (Arc::clone(&covered), self.stays.clone(), self.excess_bytes());
            blocking(move || choose(&covered, &stays, excess_bytes)).await?
        };
        if chosen.is_empty() {
            return Ok(false);
        }
        free::announce(agent, &covered).await?;
        let (owner, paths) = (Arc::clone(agent), chosen.iter().map(|file| file.path.clone()).collect::<Vec<_>>());
        blocking(move || free::free_files(&owner, &covered, &paths)).await?;
        for file in chosen {
            let is_here = local_path(&self.folder.path, &file.path).is_some_and(|path| path.symlink_metadata().is_ok());
            if is_here {
                self.stays.insert(file.path);
            } else {
                self.usage.folder_bytes = self.usage.folder_bytes.saturating_sub(file.disk_bytes);
            }
        }
        self.usage.free_bytes = free_bytes(&self.folder.path);
        Ok(true)
    }

    /// Says that not enough could go, and why.
    fn say(&self, agent: &Agent, obstacle: Option<&CodedError>) {
        let excess_bytes = self.excess_bytes();
        if excess_bytes == 0 {
            return;
        }
        let why = obstacle.map_or_else(
            || "no other file of it is at the core as it is here, and in this published folder alone".to_owned(),
            |error| error.message.clone(),
        );
        // Without the exact count, which is another one each time.
        tracing::debug!(excess_bytes, dataset = self.folder.dataset.as_str(), "there is not enough room");
        let text = format!(
            "its folder is over its quota, or the disk is short of `min_free`, and nothing can be freed: {why}"
        );
        agent.note_once(EventLevel::Warn, codes::LAST_COPY.code, self.folder.dataset.as_str(), text);
    }
}

/// The oldest files of the version that are here as they were committed, as far as their stamps show, and make room.
fn choose(covered: &Covered, stays: &BTreeSet<Vec<u8>>, excess_bytes: u64) -> Result<Vec<Candidate>, CodedError> {
    let manifest = covered.committed.decode_manifest()?;
    let pages = DatasetPages::new(Arc::clone(&covered.catalog), covered.row.id);
    let mut choice = Choice::new(excess_bytes);
    for record in Tree::new(&manifest, &pages).records() {
        let record = record.map_err(|error| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string()))?;
        if record.kind != FileKind::File
            || record.size == 0
            || stays.contains(&record.path)
            || covered.sharing(&record.path).is_some()
        {
            continue;
        }
        let found = local_path(&covered.row.folder, &record.path).and_then(|path| path.symlink_metadata().ok());
        // What has a second name makes no room.
        let Some(found) = found.filter(|found| found.is_file() && found.nlink() == 1 && found.len() == record.size)
        else {
            continue;
        };
        choice.offer(Candidate {
            mtime_ns: found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()),
            path: record.path.clone(),
            disk_bytes: found.blocks() * BLOCK_BYTES,
        });
    }
    Ok(choice.finish())
}

fn usage(folder: &Path, data: &Path) -> Result<Usage, CodedError> {
    let folder_bytes = disk_bytes(folder, data).map_err(|error| {
        CodedError::io(&codes::FOLDER_UNREADABLE, format!("`{}` can't be looked through", folder.display()), error)
    })?;
    Ok(Usage { folder_bytes, free_bytes: free_bytes(folder) })
}

/// Bytes that the files in a folder take on the disk, each counted once whatever names it has; without the agent's own.
fn disk_bytes(folder: &Path, data: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    let mut linked = BTreeSet::new();
    let mut rest: Vec<PathBuf> = Vec::new();
    let mut entries = std::fs::read_dir(folder)?;
    loop {
        for entry in entries {
            // What vanishes meanwhile takes no room.
            let Ok((entry, found)) = entry.and_then(|entry| entry.metadata().map(|found| (entry, found))) else {
                continue;
            };
            if found.is_dir() {
                rest.push(entry.path());
            } else if found.is_file() && (found.nlink() == 1 || linked.insert((found.dev(), found.ino()))) {
                bytes += found.blocks() * BLOCK_BYTES;
            }
        }
        entries = loop {
            let Some(next) = rest.pop() else { return Ok(bytes) };
            if next != data
                && let Ok(entries) = std::fs::read_dir(next)
            {
                break entries;
            }
        };
    }
}

fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_whatever_names_it_has() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("deep/er")).expect("made");
        std::fs::create_dir_all(at("agent")).expect("made");
        std::fs::write(at("deep/er/a"), vec![1; 100_000]).expect("written");
        std::fs::write(at("agent/catalog"), vec![1; 100_000]).expect("written");
        let once = disk_bytes(root.path(), &at("agent")).expect("looked");
        assert!((100_000..200_000).contains(&once), "{once}");
        std::fs::hard_link(at("deep/er/a"), at("b")).expect("linked");
        std::os::unix::fs::symlink(at("deep"), at("link")).expect("linked");
        assert_eq!(disk_bytes(root.path(), &at("agent")).expect("looked"), once);
        assert!(disk_bytes(root.path(), root.path()).expect("looked") >= 2 * once);
    }
}
