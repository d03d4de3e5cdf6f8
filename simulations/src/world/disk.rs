//! The disks of devices: what of them is durable, what a power cut leaves of the rest, and how much room there is.
//!
//! Files lie in memory, and what the agent syncs it tells ([`headwater_host::disk`]). A power cut keeps any subset of what
//! was not synced: of the bytes of a file those that were, a prefix, or some of its sectors; of the names in a folder any that
//! came, went or changed. What others sync than the agent and the machine's packages is there: the files of SQLite, those of
//! the device's identity, and the users' own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use headwater_host::disk::{Disk, Synced};

use super::process::lock;
use crate::random::Random;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// What begins so in the agent's folder is synced by others: SQLite, and whoever makes identities.
const OF_OTHERS: [&str; 2] = ["catalog.db", "identity"];

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Link(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    inode: u64,
    kind: Kind,
}

/// A file as it is durable.
#[derive(Clone, Debug)]
struct Kept {
    bytes: Vec<u8>,
    mode: u32,
    modified: SystemTime,
}

type Names = BTreeMap<OsString, Named>;

/// What is durable there, by inode.
#[derive(Debug, Default)]
struct Durable {
    files: BTreeMap<u64, Kept>,
    folders: BTreeMap<u64, Names>,
    room_bytes: Option<u64>,
    /// A planted bug: what is synced is forgotten.
    forgets: bool,
}

/// The disks of all devices, each by the folder in which it is.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<BTreeMap<PathBuf, Durable>>);

impl Disks {
    /// A folder of a device is on a disk of its own, with everything that is there.
    pub(super) fn add(&self, root: &Path, forgets: bool) {
        fs::create_dir_all(root).expect("a folder in memory");
        let mut durable = Durable::default();
        durable.sync_all(root).expect("files in memory");
        durable.forgets = forgets;
        lock(&self.0).insert(root.to_owned(), durable);
    }

    /// Bounds what may be written there from now on, or not.
    pub(super) fn set_room(&self, root: &Path, bytes: Option<u64>) {
        if let Some(durable) = lock(&self.0).get_mut(root) {
            durable.room_bytes = bytes;
        }
    }

    /// The power goes: gives how many files and names are not what they were.
    pub(super) fn lose_power(&self, root: &Path, random: &mut Random) -> u64 {
        let mut disks = lock(&self.0);
        let durable = disks.get_mut(root).expect("a device's");
        let mut lost = 0;
        durable.settle(root, random, &mut lost).expect("files in memory");
        durable.sync_all(root).expect("files in memory");
        lost
    }
}

impl Disk for Disks {
    fn writes(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut disks = lock(&self.0);
        let disk = disks.iter_mut().find(|(root, _)| path.starts_with(root)).map(|(_, disk)| disk);
        let Some(room) = disk.and_then(|disk| disk.room_bytes.as_mut()) else { return Ok(()) };
        match room.checked_sub(bytes) {
            Some(left) => {
                *room = left;
                Ok(())
            }
            None => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn synced(&self, what: Synced<'_>) {
        let (Synced::File(path) | Synced::Folder(path) | Synced::All(path)) = what;
        let mut disks = lock(&self.0);
        let Some((root, durable)) = disks.iter_mut().find(|(root, _)| path.starts_with(root)) else { return };
        if durable.forgets {
            return;
        }
        match what {
            Synced::File(path) => durable.sync_file(path),
            Synced::Folder(path) => durable.sync_folder(path),
            Synced::All(_) => durable.sync_all(root),
        }
        .expect("files in memory");
    }
}

impl Durable {
    fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        let (found, bytes) = (fs::metadata(path)?, fs::read(path)?);
        let kept = Kept { bytes, mode: found.permissions().mode(), modified: found.modified()? };
        self.files.insert(found.ino(), kept);
        Ok(())
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.folders.insert(fs::metadata(path)?.ino(), names(path)?);
        Ok(())
    }

    fn sync_all(&mut self, root: &Path) -> io::Result<()> {
        self.files.clear();
        self.folders.clear();
        let mut open = vec![root.to_owned()];
        while let Some(folder) = open.pop() {
            self.sync_folder(&folder)?;
            for (name, named) in names(&folder)? {
                match named.kind {
                    Kind::Folder => open.push(folder.join(name)),
                    Kind::File if is_kept(&name) => self.sync_file(&folder.join(name))?,
                    Kind::File | Kind::Link(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Makes of a folder what a power cut leaves of it.
    fn settle(&self, folder: &Path, random: &mut Random, lost: &mut u64) -> io::Result<()> {
        let now = names(folder)?;
        let nothing = Names::new();
        let before = self.folders.get(&fs::metadata(folder)?.ino()).unwrap_or(&nothing);
        let all: BTreeSet<&OsString> = now.keys().chain(before.keys()).filter(|name| is_kept(name)).collect();
        for name in all {
            let path = folder.join(name);
            let (is, was) = (now.get(name), before.get(name));
            if is != was && random.once_in(2) {
                *lost += 1;
                if is.is_some() {
                    remove(&path)?;
                }
                if let Some(was) = was {
                    self.restore(&path, was)?;
                }
                continue;
            }
            match is {
                Some(Named { kind: Kind::Folder, .. }) => self.settle(&path, random, lost)?,
                Some(Named { kind: Kind::File, inode }) => self.settle_file(&path, *inode, random, lost)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn settle_file(&self, path: &Path, inode: u64, random: &mut Random, lost: &mut u64) -> io::Result<()> {
        let now = fs::read(path)?;
        let kept = self.files.get(&inode);
        if kept.is_some_and(|kept| kept.bytes == now) || random.once_in(4) {
            return Ok(());
        }
        let mut bytes = match kept {
            Some(kept) if random.once_in(3) => kept.bytes.clone(),
            _ => now,
        };
        if random.once_in(2) {
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        } else {
            bytes.chunks_mut(SECTOR_BYTES).filter(|_| random.once_in(2)).for_each(|sector| sector.fill(0));
        }
        *lost += 1;
        let found = fs::metadata(path)?;
        put(path, &Kept { bytes, mode: found.permissions().mode(), modified: found.modified()? })
    }

    /// Puts back what stood under a name, as far as it is durable itself.
    fn restore(&self, path: &Path, was: &Named) -> io::Result<()> {
        match &was.kind {
            Kind::Link(target) => symlink(target, path),
            Kind::File => self.files.get(&was.inode).map_or(Ok(()), |kept| put(path, kept)),
            Kind::Folder => {
                fs::create_dir(path)?;
                let names = self.folders.get(&was.inode).into_iter().flatten();
                names.into_iter().try_for_each(|(name, named)| self.restore(&path.join(name), named))
            }
        }
    }
}

fn is_kept(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    !OF_OTHERS.iter().any(|begin| name.starts_with(begin))
}

fn names(folder: &Path) -> io::Result<Names> {
    let mut names = Names::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let kind = match found.file_type() {
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_symlink() => Kind::Link(fs::read_link(entry.path())?),
            kind if kind.is_file() => Kind::File,
            _ => continue,
        };
        names.insert(entry.file_name(), Named { inode: found.ino(), kind });
    }
    Ok(names)
}

/// Puts a file there, in the place of one that may be read-only.
fn put(path: &Path, kept: &Kept) -> io::Result<()> {
    match fs::set_permissions(path, Permissions::from_mode(0o600)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::write(path, &kept.bytes)?,
    }
    File::options().write(true).open(path)?.set_modified(kept.modified)?;
    fs::set_permissions(path, Permissions::from_mode(kept.mode))
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of some files and names a power cut leaves, over many seeds.
    fn left(change: impl Fn(&Disks, &Path)) -> BTreeSet<Vec<(String, String)>> {
        let one = |seed| {
            let (root, disks) = (tempfile::tempdir().expect("a folder"), Disks::default());
            fs::write(root.path().join("old"), "old").expect("written");
            disks.add(root.path(), false);
            change(&disks, root.path());
            disks.lose_power(root.path(), &mut Random::new(seed));
            let text = |name: &OsString| fs::read_to_string(root.path().join(name)).expect("read");
            let names = names(root.path()).expect("listed");
            names.keys().map(|name| (name.to_string_lossy().into_owned(), text(name))).collect()
        };
        (0..200).map(one).collect()
    }

    #[test]
    fn what_is_synced_stays_and_any_of_the_rest() {
        let (old, new) = (("old".to_owned(), "old".to_owned()), ("new".to_owned(), "new".to_owned()));
        let synced = left(|disks, root| {
            fs::write(root.join("new"), "new").expect("written");
            disks.synced(Synced::File(&root.join("new")));
            disks.synced(Synced::Folder(root));
        });
        assert_eq!(synced, [vec![new.clone(), old.clone()]].into());
        let unnamed = left(|disks, root| {
            fs::write(root.join("new"), "new").expect("written");
            disks.synced(Synced::File(&root.join("new")));
        });
        assert_eq!(unnamed, [vec![new.clone(), old.clone()], vec![old.clone()]].into());
        let unsynced = left(|disks, root| {
            fs::write(root.join("new"), "new").expect("written");
            disks.synced(Synced::Folder(root));
        });
        assert!(unsynced.contains(&vec![("new".to_owned(), "ne".to_owned()), old.clone()]), "{unsynced:?}");
        let renamed = left(|_, root| fs::rename(root.join("old"), root.join("new")).expect("renamed"));
        assert!(renamed.contains(&vec![old]) && renamed.contains(&Vec::new()), "{renamed:?}");
    }

    #[test]
    fn a_full_disk_takes_nothing_more() {
        let (root, disks) = (tempfile::tempdir().expect("a folder"), Disks::default());
        disks.add(root.path(), false);
        disks.set_room(root.path(), Some(10));
        let file = root.path().join("file");
        assert!(disks.writes(&file, 10).is_ok());
        assert_eq!(disks.writes(&file, 1).map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
        disks.set_room(root.path(), None);
        assert!(disks.writes(&file, 1 << 40).is_ok());
    }
}
