//! Aggregations over plain files, on all cores.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use headwater_aggregate::{Aggregation, Measured, Output, ReadError, Refusal, Scratch, Sink, Source, Tile, WriteError};

/// BLAKE3 of a file, in hexadecimal digits.
pub(crate) fn hash_of(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Tiles that a thread takes at once: they follow each other in the files.
const TILES_BATCH: usize = 16;

/// A file on the core's own disk.
pub(crate) struct PlainFile {
    file: File,
    bytes: u64,
}

impl PlainFile {
    /// Opens a file for reading.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

impl Source for PlainFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, from: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_exact_at(into, from).map_err(|error| ReadError(error.into()))
    }
}

/// The files that an aggregation writes.
struct NewFiles {
    model: File,
    state: Option<File>,
}

impl Sink for NewFiles {
    fn write_at(&self, output: Output, at: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let file = match output {
            Output::Model => Some(&self.model),
            Output::State => self.state.as_ref(),
        };
        file.map_or(Ok(()), |file| file.write_all_at(bytes, at)).map_err(|error| WriteError(error.into()))
    }
}

/// Carries out an aggregation; whether there is a state. Blocks.
pub(crate) fn aggregate_files(mut aggregation: Aggregation<'_>, model: &Path, state: &Path) -> Result<bool, Refusal> {
    if aggregation.needs_measure() {
        let tiles = aggregation.measure_tiles();
        let measured = Mutex::new(Vec::<(usize, Measured)>::with_capacity(tiles.len()));
        on_all_cores(&tiles, |index, tile, scratch| {
            let of_tile = aggregation.measure(tile, scratch)?;
            measured.lock().unwrap_or_else(PoisonError::into_inner).push((index, of_tile));
            Ok(())
        })?;
        let mut measured = measured.into_inner().unwrap_or_else(PoisonError::into_inner);
        measured.sort_unstable_by_key(|(index, _)| *index);
        aggregation.settle(measured.into_iter().map(|(_, of_tile)| of_tile))?;
    }
    let created = |path: &Path| File::create(path).map_err(|error| WriteError(error.into()));
    let kept = aggregation.kept_layout();
    let files = NewFiles { model: created(model)?, state: kept.map(|_| created(state)).transpose()? };
    files.write_at(Output::Model, 0, &aggregation.model_layout().encode_header())?;
    if let Some(layout) = kept {
        files.write_at(Output::State, 0, &layout.encode_header())?;
    }
    on_all_cores(&aggregation.tiles(), |_, tile, scratch| aggregation.combine(tile, scratch, &files))?;
    Ok(files.state.is_some())
}

/// Does `job` for each tile; the first error ends it.
fn on_all_cores(
    tiles: &[Tile],
    job: impl Fn(usize, &Tile, &mut Scratch) -> Result<(), Refusal> + Sync,
) -> Result<(), Refusal> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Refusal> {
        let mut scratch = Scratch::default();
        loop {
            let from = next.fetch_add(TILES_BATCH, Ordering::Relaxed);
            let Some(batch) = tiles.get(from..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
            for (index, tile) in batch.iter().take(TILES_BATCH).enumerate() {
                job(from + index, tile, &mut scratch).inspect_err(|_| next.store(tiles.len(), Ordering::Relaxed))?;
            }
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = running.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.fold(own, Result::and)
    })
}
