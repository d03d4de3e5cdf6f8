//! People and their files: they add, change, rename and remove whatever they like, whenever they like.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use headwater_protocol::id::ChunkId;

use super::contents::SECRET;
use super::history::{Fact, Files};
use super::plan::Range;
use crate::random::Random;

/// A folder and what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) dataset: String,
    pub(super) path: PathBuf,
    pub(super) is_local: bool,
    /// What users have left there.
    pub(super) files: Files,
    file_bytes: Range,
    random: Random,
    /// Makes every modification time another one.
    changes: u32,
}

impl Folder {
    /// A folder with some files in it.
    pub(super) fn new(dataset: String, path: PathBuf, is_local: bool, file_bytes: Range, random: Random) -> Self {
        fs::create_dir_all(&path).expect("a folder");
        Self { dataset, path, is_local, files: Files::new(), file_bytes, random, changes: 0 }
    }

    /// Somebody does some things; gives what came of it, and what each was.
    pub(super) fn change(&mut self, clock: Duration) -> (Vec<Fact>, Vec<&'static str>) {
        let (mut facts, mut kinds) = (Vec::new(), Vec::new());
        for _ in 0..self.random.between(1, 4) {
            let before = facts.len();
            let kind = match self.random.below(10) {
                0..4 => {
                    self.add(clock, &mut facts);
                    "files added"
                }
                4..7 => {
                    self.rewrite(clock, &mut facts);
                    "files changed"
                }
                7 => {
                    self.rename(&mut facts);
                    "files renamed"
                }
                _ => {
                    self.remove(&mut facts);
                    "files removed"
                }
            };
            if facts.len() > before {
                kinds.push(kind);
            }
        }
        (facts, kinds)
    }

    /// A new file, or other bytes for one.
    pub(super) fn add(&mut self, clock: Duration, facts: &mut Vec<Fact>) {
        let folder = *self.random.pick(&["", "a/", "a/b/", "c/"]);
        let path = format!("{folder}{:02}.{}", self.random.below(40), self.random.pick(&["jpg", "json", "bin"]));
        let bytes = self.some_bytes();
        self.put(&path, &bytes, clock, facts);
    }

    /// Another file of noise, so long.
    pub(super) fn add_noise(&mut self, clock: Duration, length: u64) {
        let mut bytes = Vec::with_capacity(length as usize);
        while (bytes.len() as u64) < length {
            bytes.extend(self.random.next().to_le_bytes());
        }
        let path = format!("{}.noise", self.changes);
        self.put(&path, &bytes, clock, &mut Vec::new());
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let length = self.file_bytes.draw_scaled(&mut self.random) as usize;
        let mut bytes = if self.is_local { SECRET.to_vec() } else { Vec::new() };
        // Half of all files compress well.
        if self.random.once_in(2) {
            let word = self.random.next().to_le_bytes();
            bytes.extend(word.iter().cycle().take(length));
        } else {
            while bytes.len() < length {
                bytes.extend(self.random.next().to_le_bytes());
            }
        }
        bytes
    }

    /// Some bytes of a file become others.
    fn rewrite(&mut self, clock: Duration, facts: &mut Vec<Fact>) {
        let Some(path) = self.any() else { return self.add(clock, facts) };
        let Ok(mut bytes) = fs::read(self.path.join(&path)) else { return };
        let from = if self.is_local { SECRET.len() } else { 0 };
        if bytes.len() <= from {
            bytes = self.some_bytes();
        } else {
            let at = from + self.random.below((bytes.len() - from) as u64) as usize;
            let count = (bytes.len() - at).min(self.random.between(1, 2000) as usize);
            let part: Vec<u8> = (0..count).map(|_| self.random.next() as u8).collect();
            if self.random.once_in(3) {
                bytes.splice(at..at, part);
            } else {
                bytes[at..at + count].copy_from_slice(&part);
            }
        }
        self.put(&path, &bytes, clock, facts);
    }

    fn rename(&mut self, facts: &mut Vec<Fact>) {
        let Some(from) = self.any() else { return };
        let to = format!("renamed/{:02}.bin", self.random.below(20));
        fs::create_dir_all(self.path.join("renamed")).expect("a folder");
        if fs::rename(self.path.join(&from), self.path.join(&to)).is_ok() {
            let hash = self.files.remove(&from).expect("it was there");
            self.files.insert(to.clone(), hash);
            facts.push(Fact::Removed { dataset: self.dataset.clone(), path: from });
            facts.push(Fact::Wrote { dataset: self.dataset.clone(), path: to, hash, bytes: 0 });
        }
    }

    /// Never the last one: an empty folder looks like a disk that is not mounted, and a mirror stays as it is then.
    fn remove(&mut self, facts: &mut Vec<Fact>) {
        if self.files.len() < 2 {
            return;
        }
        let Some(path) = self.any() else { return };
        if fs::remove_file(self.path.join(&path)).is_ok() {
            self.files.remove(&path);
            facts.push(Fact::Removed { dataset: self.dataset.clone(), path });
        }
    }

    fn put(&mut self, path: &str, bytes: &[u8], clock: Duration, facts: &mut Vec<Fact>) {
        self.changes += 1;
        let at = SystemTime::UNIX_EPOCH + clock + Duration::from_nanos(u64::from(self.changes));
        write(&self.path.join(path), bytes, at).expect("a file in memory");
        let hash = ChunkId::of(bytes);
        self.files.insert(path.to_owned(), hash);
        let (dataset, path) = (self.dataset.clone(), path.to_owned());
        facts.push(Fact::Wrote { dataset, path, hash, bytes: bytes.len() as u64 });
    }

    /// One of its files.
    pub(super) fn any(&mut self) -> Option<String> {
        let at = self.random.below(self.files.len().max(1) as u64) as usize;
        self.files.keys().nth(at).cloned()
    }

    /// The files that users left there and that are gone.
    pub(super) fn gone(&self) -> Files {
        let is_gone = |path: &String| self.path.join(path).symlink_metadata().is_err();
        self.files.iter().filter(|(path, _)| is_gone(path)).map(|(path, hash)| (path.clone(), *hash)).collect()
    }
}

fn write(path: &Path, bytes: &[u8], at: SystemTime) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)?;
    File::options().write(true).open(path)?.set_modified(at)
}
