//! Plain chunks in memory, for training jobs: read from packs once, verified, and sent from where they lie.
//!
//! A chunk that is asked for by many is read once. Reads run on blocking threads, several at a time, and never under the
//! lock, so one job's misses keep no other job's hits waiting. What is being sent is pinned by whoever sends it; should all
//! memory be pinned, a chunk is served once without staying.

pub mod policy;
mod slabs;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use headwater_fabric::Region;
use headwater_protocol::id::ChunkId;
use headwater_quic::work;
use tokio::sync::{Semaphore, watch};

pub use policy::{Foresight, Reader, Samples, Track};
pub use slabs::{BLOCK_BYTES, Slabs};

use crate::ingest::error_chain;
use crate::store::{ChunkStore, ReadError};
use policy::Policy;

/// Chunks that are read from packs at once.
const READS_MAX: usize = 16;
/// Those of them that nobody waits for yet: whatever is read ahead, most of the disk is for misses.
const AHEAD_READS_MAX: usize = 4;
const _: () = assert!(AHEAD_READS_MAX * 2 <= READS_MAX);

/// A chunk in memory, as stretches that follow one another; all but the last have [`BLOCK_BYTES`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Chunk(Arc<[Bytes]>);

impl Chunk {
    /// Bytes of the chunk.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The stretches that make up `length` bytes from `offset` on.
    fn stretches(&self, offset: usize, length: usize) -> impl Iterator<Item = (&Bytes, std::ops::Range<usize>)> {
        // One that was not put into blocks is one stretch.
        let stride = if self.0.len() == 1 { usize::MAX } else { BLOCK_BYTES };
        let end = offset + length;
        let (first, last) = (offset / stride, end.saturating_sub(1) / stride);
        (first..=last).filter_map(move |index| {
            let start = index * stride;
            let stretch = self.0.get(index)?;
            let range = offset.max(start) - start..end.min(start + stretch.len()) - start;
            (!range.is_empty()).then_some((stretch, range))
        })
    }

    /// Appends `length` bytes from `offset` on to `pieces`, without a copy.
    pub fn append_to(&self, pieces: &mut Vec<Bytes>, offset: usize, length: usize) {
        pieces.extend(self.stretches(offset, length).map(|(stretch, range)| stretch.slice(range)));
    }

    /// Copies bytes from `offset` on into `to`.
    pub fn copy_to(&self, to: &mut [u8], offset: usize) {
        let mut at = 0;
        for (stretch, range) in self.stretches(offset, to.len()) {
            to[at..at + range.len()].copy_from_slice(&stretch[range.clone()]);
            at += range.len();
        }
        assert_eq!(at, to.len(), "a stretch lies inside its chunk");
    }
}

/// Why a chunk can't be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// It is damaged or missing; it may come back.
    #[error("{0}")]
    Lost(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}

type Loaded = Result<Chunk, LoadError>;

enum Entry {
    Resident(Chunk),
    Loading(watch::Receiver<Option<Loaded>>),
}

struct State {
    chunks: HashMap<ChunkId, Entry>,
    policy: Policy,
}

/// What the cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Chunks that were there.
    pub hits: u64,
    /// Chunks that were not.
    pub misses: u64,
    /// Chunks that were read before they were asked for.
    pub ahead: u64,
}

/// The cache.
pub struct ResidentCache {
    store: Arc<ChunkStore>,
    bytes: u64,
    /// Taken when the first job reads: a core without jobs needs none.
    slabs: OnceLock<Arc<Slabs>>,
    state: Mutex<State>,
    reads: Semaphore,
    ahead: Semaphore,
    stats: Mutex<CacheStats>,
}

impl ResidentCache {
    /// A cache of `bytes` over `store`.
    pub fn new(store: Arc<ChunkStore>, bytes: u64) -> Arc<Self> {
        let blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / BLOCK_BYTES;
        Arc::new(Self {
            store,
            bytes,
            slabs: OnceLock::new(),
            state: Mutex::new(State { chunks: HashMap::new(), policy: Policy::new(blocks) }),
            reads: Semaphore::new(READS_MAX),
            ahead: Semaphore::new(AHEAD_READS_MAX),
            stats: Mutex::default(),
        })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of its memory.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its memory, which is taken now if it was not before.
    pub fn region(&self) -> &Region {
        self.slabs().region()
    }

    fn slabs(&self) -> &Arc<Slabs> {
        self.slabs.get_or_init(|| Slabs::new(self.bytes))
    }

    /// What it did since the start.
    pub fn stats(&self) -> CacheStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `reader` declared what it reads, along with the others of `track`.
    pub fn declare(&self, reader: Reader, track: Track, foresight: Arc<dyn Foresight>) {
        self.locked().policy.handle_declared(reader, track, foresight);
    }

    /// Those of `wanted` that are there, each at its place: one lock for all. Each comes with the samples that it is of.
    pub fn look_up(&self, wanted: &[(ChunkId, Samples)], reader: Reader) -> Vec<Option<Chunk>> {
        let mut hits = 0;
        let found = {
            let mut state = self.locked();
            let State { chunks, policy } = &mut *state;
            let look = |(id, samples): &(ChunkId, Samples)| match chunks.get(id) {
                Some(Entry::Resident(chunk)) => {
                    policy.handle_hit(id, reader, samples);
                    hits += 1;
                    Some(chunk.clone())
                }
                _ => None,
            };
            wanted.iter().map(look).collect()
        };
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.hits += hits;
        stats.misses += wanted.len() as u64 - hits;
        found
    }

    /// Whether a chunk is there, or on its way.
    pub fn knows(&self, id: &ChunkId) -> bool {
        self.locked().chunks.contains_key(id)
    }

    /// Reads the chunk `id` because `reader` will need it for `samples`, if there is room or what would give way is needed
    /// later. Whether it did, or the chunk was there: if not, it is too early to read on.
    pub async fn load_ahead(self: &Arc<Self>, id: ChunkId, samples: Samples, blocks: usize, reader: Reader) -> bool {
        if self.knows(&id) {
            return true;
        }
        let Ok(_turn) = self.ahead.acquire().await else { return false };
        if !self.make_room(blocks, |policy| policy.poll_victim_for(reader, &samples)) {
            return false;
        }
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).ahead += 1;
        self.load(id, samples, reader).await.is_ok()
    }

    /// The chunk `id` for `reader`, which needs it for `samples`, read from its pack if it is not there. A read that has begun
    /// goes on if this is dropped.
    pub async fn load(self: &Arc<Self>, id: ChunkId, samples: Samples, reader: Reader) -> Loaded {
        let mut loading = {
            let mut state = self.locked();
            match state.chunks.get(&id) {
                Some(Entry::Resident(chunk)) => return Ok(chunk.clone()),
                Some(Entry::Loading(loading)) => loading.clone(),
                None => {
                    let (done, loading) = watch::channel(None);
                    state.chunks.insert(id, Entry::Loading(loading.clone()));
                    drop(work::spawn(self.clone().read(id, samples, reader, done)));
                    loading
                }
            }
        };
        if let Ok(loaded) = loading.wait_for(Option::is_some).await {
            return loaded.clone().unwrap_or_else(|| Err(broken_off()));
        }
        // Whoever read it has gone without a word; the next one tries again.
        self.locked().chunks.remove(&id);
        Err(broken_off())
    }

    async fn read(self: Arc<Self>, id: ChunkId, samples: Samples, reader: Reader, done: watch::Sender<Option<Loaded>>) {
        let Ok(_turn) = self.reads.acquire().await else { return };
        let cache = self.clone();
        let read = work::spawn_blocking(move || {
            let plain = cache.store.read(&id).map_err(|error| failed(&error))?;
            Ok(cache.settle(id, plain, &samples, reader))
        });
        let loaded = read.await.unwrap_or_else(|_| Err(broken_off()));
        if loaded.is_err() {
            self.locked().chunks.remove(&id);
        }
        done.send_replace(Some(loaded));
    }

    /// Puts a chunk into blocks and enters it; one for which there is no room just passes.
    fn settle(&self, id: ChunkId, plain: Bytes, samples: &Samples, reader: Reader) -> Chunk {
        let count = plain.len().div_ceil(BLOCK_BYTES);
        let blocks = self.make_room(count, Policy::poll_victim).then(|| self.slabs().fill(&plain)).flatten();
        let mut state = self.locked();
        if let Some(blocks) = blocks {
            let chunk = Chunk(blocks.into());
            state.chunks.insert(id, Entry::Resident(chunk.clone()));
            state.policy.handle_loaded(id, count, reader, samples);
            chunk
        } else {
            state.chunks.remove(&id);
            Chunk([plain].into())
        }
    }

    /// Lets chunks go as `victim` chooses until so many blocks are free; whether they are.
    fn make_room(&self, blocks: usize, victim: impl Fn(&mut Policy) -> Option<ChunkId>) -> bool {
        let slabs = self.slabs();
        while slabs.free() < blocks {
            let gone = {
                let mut state = self.locked();
                let Some(victim) = victim(&mut state.policy) else { return false };
                state.chunks.remove(&victim)
            };
            drop(gone);
        }
        true
    }

    /// `reader` reads no more.
    pub fn close(&self, reader: Reader) {
        self.locked().policy.handle_closed(reader);
    }
}

fn broken_off() -> LoadError {
    LoadError::Failed("reading a chunk broke off".to_owned())
}

fn failed(error: &ReadError) -> LoadError {
    match error {
        ReadError::Missing(_) | ReadError::Damaged { .. } => LoadError::Lost(error.to_string()),
        ReadError::Packs(_) | ReadError::Catalog(_) => LoadError::Failed(error_chain(error)),
    }
}
