//! Folders with made-up content, and whether two are the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Pseudo-random numbers from a seed (splitmix64: Steele, Lea and Flood, 2014), so that every run of a seed is the same.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as `seed` says.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// Bytes that don't compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("folders are made");
    fs::write(path, content).expect("a file is written");
}

/// Fills a folder: small files with labels beside them, a few large ones, an empty folder, a link.
pub fn fill(folder: &Path, seed: u64, small: usize, large: usize) {
    let mut dice = Dice::new(seed);
    for index in 0..small {
        let place = folder.join(format!("part{}", index % 3));
        let length = 200 + dice.below(1500) as usize;
        write(&place.join(format!("{index:04}.bin")), &dice.bytes(length));
        write(&place.join(format!("{index:04}.txt")), format!("label {}\n", dice.below(10)).as_bytes());
    }
    for index in 0..large {
        let length = 300_000 + dice.below(900_000) as usize;
        write(&folder.join(format!("large/{index}.bin")), &dice.bytes(length));
    }
    fs::create_dir_all(folder.join("empty")).expect("a folder is made");
    std::os::unix::fs::symlink("part0", folder.join("first")).expect("a link is made");
}

/// What stands at a path: kind, the bytes that count, and the time of a file.
pub type Entry = (char, Vec<u8>, i64);
/// What stands in a folder, by path.
pub type Listing = BTreeMap<PathBuf, Entry>;

/// Everything in a folder.
pub fn listing(folder: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("`{}`: {error}", next.display())) {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("it is there");
            let relative = path.strip_prefix(folder).expect("it lies below").to_owned();
            let what = if metadata.is_symlink() {
                ('l', fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec(), 0)
            } else if metadata.is_dir() {
                waiting.push(path);
                ('d', Vec::new(), 0)
            } else if !metadata.is_file() {
                ('s', Vec::new(), 0)
            } else {
                let time_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
                ('f', fs::read(&path).expect("a file"), time_ns)
            };
            found.insert(relative, what);
        }
    }
    found
}

/// Both folders must hold the same, byte by byte. Folders that hold something need not be named on both sides.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    assert_listings(&listing(left), &listing(right), &format!("`{}` and `{}`", left.display(), right.display()));
}

/// Both listings must be the same.
#[track_caller]
pub fn assert_listings(left: &Listing, right: &Listing, which: &str) {
    for path in left.keys().chain(right.keys()) {
        let (one, other) = (left.get(path), right.get(path));
        if one != other {
            let show = |entry: Option<&Entry>| match entry {
                Some((kind, bytes, time)) => format!("{kind}, {} bytes, {time}", bytes.len()),
                None => "nothing".to_owned(),
            };
            panic!("{which} differ at `{}`: {} and {}", path.display(), show(one), show(other));
        }
    }
}
