//! People who work on a folder while all this happens: they add, change, rename and delete files, all the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::random::Random;

/// Files of a folder: fewer are added to, more are deleted from. A few more can be given up between two changes.
const FILES_MIN: usize = 20;
const FILES_MAX: usize = 60;
/// Folders that they lie in.
const PLACES: u64 = 4;
/// Longest small file, and longest large one.
const SMALL_BYTES_MAX: u64 = 4000;
const LARGE_BYTES_MAX: u64 = 1_200_000;
/// One file of so many is large.
const LARGE_ONCE_IN: u64 = 12;
/// Longest pause between two changes.
const PAUSE_MAX_MS: u64 = 250;

/// Someone's folder, and what they know of it.
#[derive(Debug)]
pub(super) struct Desk {
    folder: PathBuf,
    random: Random,
    names: Vec<String>,
    named: u64,
    changes: u64,
}

/// A person at work, until dropped.
#[derive(Debug)]
pub(super) struct Person {
    desk: Arc<Mutex<Desk>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Person {
    /// Somebody who works on this folder, which is there and empty.
    pub(super) fn at_work(folder: &Path, random: Random) -> Self {
        let mut desk = Desk { folder: folder.to_owned(), random, names: Vec::new(), named: 0, changes: 0 };
        for _ in 0..FILES_MIN {
            desk.add();
        }
        let (desk, ended) = (Arc::new(Mutex::new(desk)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (desk, ended) = (Arc::clone(&desk), Arc::clone(&ended));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let pause = {
                        let mut desk = lock(&desk);
                        desk.change();
                        desk.random.below(PAUSE_MAX_MS)
                    };
                    std::thread::sleep(Duration::from_millis(pause));
                }
            })
        };
        Self { desk, ended, thread: Some(thread) }
    }

    /// Takes the folder for as long as the guard lives: nobody changes it meanwhile.
    pub(super) fn quiet(&self) -> MutexGuard<'_, Desk> {
        lock(&self.desk)
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Desk {
    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Changes that were made so far.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    /// One of the files, which nobody touches from now on.
    pub(super) fn give_up(&mut self) -> String {
        let at = self.random.below(self.names.len() as u64) as usize;
        self.names.swap_remove(at)
    }

    /// It stayed: it is worked on like any other.
    pub(super) fn take_back(&mut self, name: String) {
        self.names.push(name);
    }

    fn change(&mut self) {
        self.changes += 1;
        match self.random.below(10) {
            _ if self.names.len() < FILES_MIN => self.add(),
            _ if self.names.len() > FILES_MAX => self.delete(),
            0..3 => self.add(),
            3..5 => self.rewrite(),
            5..7 => self.append(),
            7 => self.delete(),
            _ => self.rename(),
        }
    }

    fn add(&mut self) {
        let name = self.new_name();
        self.put(&name);
        self.names.push(name);
    }

    fn rewrite(&mut self) {
        let name = self.any();
        self.put(&name);
    }

    fn append(&mut self) {
        let name = self.any();
        let path = self.folder.join(name);
        let mut bytes = fs::read(&path).expect("it is there");
        bytes.extend(self.noise(SMALL_BYTES_MAX));
        fs::write(&path, bytes).expect("written");
    }

    fn delete(&mut self) {
        let name = self.give_up();
        fs::remove_file(self.folder.join(name)).expect("it was there");
    }

    fn rename(&mut self) {
        let at = self.random.below(self.names.len() as u64) as usize;
        let new = self.new_name();
        let to = self.folder.join(&new);
        fs::create_dir_all(to.parent().expect("a place")).expect("made");
        fs::rename(self.folder.join(&self.names[at]), to).expect("it was there");
        self.names[at] = new;
    }

    fn any(&mut self) -> String {
        self.random.pick(&self.names).clone()
    }

    /// A name that no file ever had.
    fn new_name(&mut self) -> String {
        self.named += 1;
        format!("place{}/{:05}.bin", self.random.below(PLACES), self.named)
    }

    fn put(&mut self, name: &str) {
        let longest = if self.random.once_in(LARGE_ONCE_IN) { LARGE_BYTES_MAX } else { SMALL_BYTES_MAX };
        let bytes = self.noise(longest);
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().expect("a place")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn noise(&mut self, longest: u64) -> Vec<u8> {
        let length = self.random.between(1, longest) as usize;
        std::iter::repeat_with(|| self.random.next() as u8).take(length).collect()
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
