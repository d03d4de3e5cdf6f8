//! Packs as files: `FOLDER/000001.pack`, and so on.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::pack::{PackError, PackInfo, PackStore};
use crate::catalog::PackNumber;

/// Most packs that are kept open for reading.
const READERS_OPEN_MAX: usize = 128;
/// Most buffers that one write takes; the system's own bound.
const WRITE_BUFFERS_MAX: usize = 1024;
const PACK_MODE: u32 = 0o600;
const SUFFIX: &str = ".pack";

/// Packs in a folder of the local file system.
pub struct LocalPacks {
    folder: PathBuf,
    files: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    by_number: BTreeMap<PackNumber, Arc<File>>,
    /// From the one that was opened first.
    order: VecDeque<PackNumber>,
}

impl OpenFiles {
    fn insert(&mut self, pack: PackNumber, file: Arc<File>) {
        while self.by_number.len() >= READERS_OPEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_number.remove(&oldest);
        }
        if self.by_number.insert(pack, file).is_none() {
            self.order.push_back(pack);
        }
    }

    fn remove(&mut self, pack: PackNumber) {
        self.by_number.remove(&pack);
        self.order.retain(|&open| open != pack);
    }
}

impl LocalPacks {
    /// The packs in `folder`, which is created if it doesn't exist.
    pub fn open(folder: &Path) -> io::Result<Self> {
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { folder: folder.to_owned(), files: Mutex::default() })
    }

    /// The file of a pack.
    pub fn path_of(&self, pack: PackNumber) -> PathBuf {
        self.folder.join(file_name(pack))
    }

    fn files(&self) -> MutexGuard<'_, OpenFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, action: &'static str, pack: PackNumber) -> Result<Arc<File>, PackError> {
        let mut files = self.files();
        if let Some(file) = files.by_number.get(&pack) {
            return Ok(Arc::clone(file));
        }
        let open = OpenOptions::new().read(true).write(true).open(self.path_of(pack));
        let file = Arc::new(open.map_err(|error| PackError::io(action, pack, error))?);
        files.insert(pack, Arc::clone(&file));
        Ok(file)
    }
}

impl PackStore for LocalPacks {
    fn list(&self) -> Result<Vec<PackInfo>, PackError> {
        let failed = |error| PackError::io("list", PackNumber(0), error);
        let mut packs = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            if let Some(number) = entry.file_name().to_str().and_then(number_of).filter(|_| metadata.is_file()) {
                packs.push(PackInfo { number, bytes: metadata.len() });
            }
        }
        packs.sort_unstable_by_key(|pack| pack.number);
        Ok(packs)
    }

    fn create(&self, pack: PackNumber) -> Result<(), PackError> {
        let created =
            OpenOptions::new().read(true).write(true).create_new(true).mode(PACK_MODE).open(self.path_of(pack));
        let file = created.map_err(|error| PackError::io("create", pack, error))?;
        self.files().insert(pack, Arc::new(file));
        Ok(())
    }

    fn append(&self, pack: PackNumber, at: u64, parts: &[Bytes]) -> Result<(), PackError> {
        let file = self.file("write", pack)?;
        let failed = |error| PackError::io("write", pack, error);
        let mut to = &*file;
        let end = to.seek(SeekFrom::End(0)).map_err(failed)?;
        if end != at {
            let detail = format!("the file ends at byte {end}, and the next record begins at {at}");
            return Err(failed(io::Error::other(detail)));
        }
        for group in parts.chunks(WRITE_BUFFERS_MAX) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|part| IoSlice::new(part)).collect();
            write_all(&mut to, &mut slices).map_err(failed)?;
        }
        Ok(())
    }

    fn sync(&self, pack: PackNumber) -> Result<(), PackError> {
        self.file("sync", pack)?.sync_data().map_err(|error| PackError::io("sync", pack, error))
    }

    fn sync_folder(&self) -> Result<(), PackError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| PackError::io("sync the folder of", PackNumber(0), error))
    }

    fn seal(&self, pack: PackNumber) -> Result<(), PackError> {
        self.file("seal", pack)?.sync_all().map_err(|error| PackError::io("seal", pack, error))
    }

    fn read(&self, pack: PackNumber, offset: u64, length: usize) -> Result<Bytes, PackError> {
        let file = self.file("read", pack)?;
        let end = offset.saturating_add(length as u64);
        if i64::try_from(end).is_err() {
            // The system takes no such offset, and no file reaches that far.
            return Err(PackError::Short { pack, end });
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PackError::Short { pack, end },
            _ => PackError::io("read", pack, error),
        })?;
        Ok(Bytes::from(bytes))
    }

    fn truncate(&self, pack: PackNumber, bytes: u64) -> Result<(), PackError> {
        let file = self.file("cut", pack)?;
        let cut = || -> io::Result<()> {
            // An error of the disk is told once for each open file: a sync here would take it from the one that another
            // thread waits for.
            if file.metadata()?.len() > bytes {
                file.set_len(bytes)?;
            }
            Ok(())
        };
        cut().map_err(|error| PackError::io("cut", pack, error))
    }

    fn delete(&self, pack: PackNumber) -> Result<(), PackError> {
        self.files().remove(pack);
        match fs::remove_file(self.path_of(pack)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PackError::io("delete", pack, error)),
            _ => Ok(()),
        }
    }
}

fn file_name(pack: PackNumber) -> String {
    format!("{pack}{SUFFIX}")
}

/// The pack whose file is called `name`; none if that is another's file.
fn number_of(name: &str) -> Option<PackNumber> {
    let number = PackNumber(name.strip_suffix(SUFFIX)?.parse().ok()?);
    (file_name(number) == name).then_some(number)
}

fn write_all(to: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match to.write_vectored(slices) {
            Ok(0) if slices.iter().all(|slice| slice.is_empty()) => break,
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
