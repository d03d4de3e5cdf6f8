//! The shell around the commit order: one writer thread that appends, syncs and enters chunks in groups, and verified reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use headwater_protocol::chunking::CHUNK_BYTES_MAX;
use headwater_protocol::compress::{self, COMPRESS_BYTES_MIN};
use headwater_protocol::id::ChunkId;
use headwater_quic::work;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::commit_order::{CommitOrder, PackLimits};
use super::format::{self, RECORD_HEADER_BYTES, RecordHeader};
use super::pack::{PackError, PackStore};
use super::recovery::{self, OpenStoreError, RecoveryReport};
use super::writer::{Counters, Event, Request, Writer, WriterHome};
use crate::catalog::{Catalog, CatalogError, ChunkEntry, ChunkLocation, PackNumber, Principal, UnixMs};

/// Bytes that one permit of the queue stands for.
const PERMIT_BYTES: usize = 1024;

/// Settings of a chunk store.
#[derive(Clone, Debug)]
pub struct ChunkStoreOptions {
    /// A pack of this many bytes is sealed and the next one begun.
    pub pack_bytes_max: u64,
    /// Most bytes that wait to be stored; callers with more wait.
    pub queue_bytes_max: usize,
    /// Whether plain chunks are compressed where a sample says that it pays.
    pub compress: bool,
    /// At which level of zstd.
    pub compress_level: i32,
}

impl Default for ChunkStoreOptions {
    fn default() -> Self {
        Self {
            pack_bytes_max: crate::config::PACK_SIZE_DEFAULT,
            queue_bytes_max: 64 << 20,
            compress: true,
            compress_level: 1,
        }
    }
}

/// A chunk to be stored. The caller has verified that `id` is the BLAKE3 of `plain`.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its bytes.
    pub plain: Bytes,
    /// A zstd frame of these bytes, if it came as one: it is stored as it came.
    pub frame: Option<Bytes>,
}

/// Chunks that become durable together.
#[derive(Clone, Debug)]
pub struct StoreBatch {
    /// Who uploaded them: a proof of it makes them visible to the uploader, and pins them from gc.
    pub uploader: Principal,
    /// When the proof ends.
    pub pin_until: UnixMs,
    /// The chunks.
    pub chunks: Vec<NewChunk>,
}

/// What storing a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Chunks that were written.
    pub written_chunks: u64,
    /// Bytes that they took.
    pub written_bytes: u64,
    /// Chunks that were here already.
    pub known_chunks: u64,
}

/// Why a batch was not stored. Nothing that was stored before is affected; the batch may be stored again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no space left.
    #[error("there is no space left to store chunks")]
    Full,
    /// A chunk is empty or longer than chunks may be.
    #[error("chunk {} has {bytes} bytes", id.short())]
    Length {
        /// The chunk.
        id: ChunkId,
        /// Its bytes.
        bytes: usize,
    },
    /// Packs failed.
    #[error("chunks could not be written: {0}")]
    Packs(Arc<PackError>),
    /// The catalog failed.
    #[error("chunks could not be entered: {0}")]
    Catalog(Arc<CatalogError>),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

/// Why a chunk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not stored.
    #[error("chunk {} is not stored", .0.short())]
    Missing(ChunkId),
    /// Its bytes are not what they should be. It was set aside, and can be stored again.
    #[error("chunk {} is damaged in pack {pack} at byte {offset}: {detail}", id.short())]
    Damaged {
        /// The chunk.
        id: ChunkId,
        /// The pack.
        pack: PackNumber,
        /// Where its record begins.
        offset: u64,
        /// What was found.
        detail: String,
    },
    /// Packs failed.
    #[error(transparent)]
    Packs(#[from] PackError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// A chunk as it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredForm {
    /// Plain bytes.
    pub plain_bytes: u32,
    /// Its bytes.
    pub body: StoredBody,
}

/// The bytes of a chunk as it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredBody {
    /// As they are.
    Plain(Bytes),
    /// As one zstd frame.
    Zstd(Bytes),
}

/// What the store did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Groups that were committed.
    pub groups: u64,
    /// Chunks that were written.
    pub written_chunks: u64,
    /// Bytes that they took.
    pub written_bytes: u64,
    /// Chunks that were here already.
    pub known_chunks: u64,
    /// Plain bytes of these.
    pub known_bytes: u64,
    /// Chunks that were read.
    pub read_chunks: u64,
    /// Chunks that were found damaged.
    pub damaged_chunks: u64,
}

/// Stores and reads chunks.
pub struct ChunkStore {
    catalog: Arc<dyn Catalog>,
    packs: Arc<dyn PackStore>,
    options: ChunkStoreOptions,
    counters: Arc<Counters>,
    queue: Arc<Semaphore>,
    events: UnboundedSender<Event>,
    writer: WriterHome,
    /// Held by a gc or a verification: one runs at a time.
    maintenance: tokio::sync::Mutex<()>,
    /// Counts what was set aside.
    damage: watch::Sender<u64>,
}

impl ChunkStore {
    /// Opens the store: cuts torn tails, enters whole records that were not entered, and starts the writer thread.
    pub fn open(
        packs: Arc<dyn PackStore>,
        catalog: Arc<dyn Catalog>,
        options: ChunkStoreOptions,
    ) -> Result<(Self, RecoveryReport), OpenStoreError> {
        let resumed = recovery::recover(&*packs, &*catalog, options.pack_bytes_max)?;
        let limits = PackLimits { bytes: options.pack_bytes_max, records: format::PACK_RECORDS_MAX };
        let order = CommitOrder::new(limits, format::PACK_HEADER_BYTES as u64, resumed.pack, resumed.next_pack);
        let counters = Arc::new(Counters::default());
        let (events, receiver) = mpsc::unbounded_channel();
        let writer = Writer::new(Arc::clone(&packs), Arc::clone(&catalog), Arc::clone(&counters), order, resumed.index);
        let writer = WriterHome::start(writer, events.clone(), receiver).map_err(OpenStoreError::Thread)?;
        let queue = Arc::new(Semaphore::new(options.queue_permits() as usize));
        let store = Self {
            catalog,
            packs,
            options,
            counters,
            queue,
            events,
            writer,
            maintenance: tokio::sync::Mutex::new(()),
            damage: watch::Sender::new(0),
        };
        Ok((store, resumed.report))
    }

    /// Whether the writer lives. Without it nothing is stored any more.
    pub fn is_writing(&self) -> bool {
        self.writer.is_alive()
    }

    /// The catalog that knows where chunks are.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// The packs that hold them.
    pub fn packs(&self) -> &Arc<dyn PackStore> {
        &self.packs
    }

    /// Stores a batch. When this resolves, all of it is durable, entered, and pinned for its uploader. A batch that was
    /// handed over is stored even if the future is dropped.
    pub async fn store(&self, batch: StoreBatch) -> Result<Stored, StoreError> {
        let cost = self.options.permits_of(&batch)?;
        let queue = Arc::clone(&self.queue);
        let permit = queue.acquire_many_owned(cost).await.map_err(|_| StoreError::Closed)?;
        let batch = if self.options.compress && batch.chunks.iter().any(NewChunk::may_compress) {
            let level = self.options.compress_level;
            work::spawn_blocking(move || compressed(batch, level)).await.map_err(|_| StoreError::Closed)?
        } else {
            batch
        };
        self.hand_over(batch, permit)?.await.map_err(|_| StoreError::Closed)?
    }

    /// [`ChunkStore::store`] for a thread that may block; never called from an asynchronous task.
    pub fn store_blocking(&self, batch: StoreBatch) -> Result<Stored, StoreError> {
        let cost = self.options.permits_of(&batch)?;
        let queue = Arc::clone(&self.queue);
        let permit = block_on(async move { queue.acquire_many_owned(cost).await }).map_err(|_| StoreError::Closed)?;
        let batch = if self.options.compress { compressed(batch, self.options.compress_level) } else { batch };
        self.hand_over(batch, permit)?.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    fn hand_over(
        &self,
        batch: StoreBatch,
        permit: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Result<Stored, StoreError>>, StoreError> {
        let (reply, stored) = oneshot::channel();
        self.send(Request::Store { batch, reply, permit })?;
        Ok(stored)
    }

    pub(super) fn send(&self, request: Request) -> Result<(), StoreError> {
        self.events.send(Event::Request(request)).map_err(|_| StoreError::Closed)
    }

    /// The plain bytes of a chunk, verified. Blocks.
    pub fn read(&self, id: &ChunkId) -> Result<Bytes, ReadError> {
        Ok(self.read_both(&self.find(id)?)?.0)
    }

    /// A chunk as it rests, verified. Blocks.
    pub fn read_stored(&self, id: &ChunkId) -> Result<StoredForm, ReadError> {
        let entry = self.find(id)?;
        let (plain, stored) = self.read_both(&entry)?;
        let plain_bytes = plain.len() as u32;
        let body = stored.map_or(StoredBody::Plain(plain), StoredBody::Zstd);
        Ok(StoredForm { plain_bytes, body })
    }

    /// The plain bytes of a chunk whose entry is known already. Blocks.
    pub fn read_entry(&self, entry: &ChunkEntry) -> Result<Bytes, ReadError> {
        Ok(self.read_both(entry)?.0)
    }

    fn find(&self, id: &ChunkId) -> Result<ChunkEntry, ReadError> {
        match self.catalog.locate(std::slice::from_ref(id))?.into_iter().next().flatten() {
            Some(entry) => Ok(entry),
            None => Err(ReadError::Missing(*id)),
        }
    }

    /// The plain bytes of a chunk, and its frame if it rests as one.
    fn read_both(&self, entry: &ChunkEntry) -> Result<(Bytes, Option<Bytes>), ReadError> {
        let mut entry = *entry;
        loop {
            if entry.damaged {
                return Err(damaged(&entry, "it was found damaged before".into()));
            }
            let detail = match read_record(&*self.packs, &entry)? {
                Ok((plain, frame)) => {
                    Counters::add(&self.counters.read_chunks, 1);
                    return Ok((plain, frame));
                }
                Err(detail) => detail,
            };
            // It may only have moved meanwhile.
            let now = self.find(&entry.id)?;
            if now.location != entry.location {
                entry = now;
                continue;
            }
            self.set_aside(&entry, &detail)?;
            return Err(damaged(&entry, detail));
        }
    }

    /// Takes the right to run a gc or a verification; none if another has it.
    pub(super) fn begin_maintenance(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.maintenance.try_lock().ok()
    }

    /// Marks a chunk damaged and says so; whether nobody had before.
    pub(super) fn set_aside(&self, entry: &ChunkEntry, detail: &str) -> Result<bool, CatalogError> {
        let is_new = self.catalog.mark_damaged(&entry.id, &entry.location)?;
        if is_new {
            Counters::add(&self.counters.damaged_chunks, 1);
            self.damage.send_modify(|found| *found += 1);
            let ChunkLocation { pack, offset, .. } = entry.location;
            tracing::error!(chunk = %entry.id, %pack, offset, detail, "a stored chunk is damaged and was set aside");
        }
        Ok(is_new)
    }

    /// Changes whenever a chunk is found damaged, whoever read it.
    pub fn damage_found(&self) -> watch::Receiver<u64> {
        self.damage.subscribe()
    }

    /// Runs `job` on the writer thread between two groups, so that nothing is stored meanwhile.
    pub(super) async fn between_groups<T: Send + 'static>(
        &self,
        job: impl FnOnce(&CommitOrder) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, value) = tokio::sync::oneshot::channel();
        self.send(Request::Between(Box::new(move |order| {
            let _ = reply.send(job(order));
        })))?;
        value.await.map_err(|_| StoreError::Closed)
    }

    /// What the store did since it was opened.
    pub fn stats(&self) -> StoreStats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            groups: value(&self.counters.groups),
            written_chunks: value(&self.counters.written_chunks),
            written_bytes: value(&self.counters.written_bytes),
            known_chunks: value(&self.counters.known_chunks),
            known_bytes: value(&self.counters.known_bytes),
            read_chunks: value(&self.counters.read_chunks),
            damaged_chunks: value(&self.counters.damaged_chunks),
        }
    }
}

impl Drop for ChunkStore {
    /// Lets the writer finish what was handed over.
    fn drop(&mut self) {
        // If it is gone, there is nothing to wait for.
        let _ = self.events.send(Event::Close);
        self.writer.join();
    }
}

impl ChunkStoreOptions {
    fn queue_permits(&self) -> u32 {
        u32::try_from(self.queue_bytes_max.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX >> 4).max(1)
    }

    /// What a batch takes of the queue; refuses chunks of impossible length.
    fn permits_of(&self, batch: &StoreBatch) -> Result<u32, StoreError> {
        let mut total = 0usize;
        for chunk in &batch.chunks {
            let frame_bytes = chunk.frame.as_ref().map_or(0, Bytes::len);
            let bytes = chunk.plain.len().max(frame_bytes);
            let most = if chunk.frame.is_some() { format::STORED_BYTES_MAX } else { CHUNK_BYTES_MAX };
            if chunk.plain.is_empty() || bytes > most as usize || chunk.frame.as_ref().is_some_and(Bytes::is_empty) {
                return Err(StoreError::Length { id: chunk.id, bytes });
            }
            total += chunk.plain.len() + frame_bytes;
        }
        let permits = u32::try_from(total.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        Ok(permits.clamp(1, self.queue_permits()))
    }
}

impl NewChunk {
    fn may_compress(&self) -> bool {
        self.frame.is_none() && self.plain.len() >= COMPRESS_BYTES_MIN
    }
}

fn compressed(mut batch: StoreBatch, level: i32) -> StoreBatch {
    for chunk in batch.chunks.iter_mut().filter(|chunk| chunk.may_compress()) {
        chunk.frame = compress::compress(&chunk.plain, level).map(Bytes::from);
    }
    batch
}

/// Waits for a future that other threads resolve.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

fn damaged(entry: &ChunkEntry, detail: String) -> ReadError {
    ReadError::Damaged { id: entry.id, pack: entry.location.pack, offset: entry.location.offset, detail }
}

/// A record's plain bytes, and its frame if it is one; or what is wrong with it.
pub(super) fn read_record(
    packs: &dyn PackStore,
    entry: &ChunkEntry,
) -> Result<Result<(Bytes, Option<Bytes>), String>, PackError> {
    let ChunkLocation { pack, offset, stored_bytes, plain_bytes, codec } = entry.location;
    let mut bytes = match packs.read(pack, offset, RECORD_HEADER_BYTES + stored_bytes as usize) {
        Ok(bytes) => bytes,
        Err(error @ (PackError::NotFound { .. } | PackError::Short { .. })) => return Ok(Err(error.to_string())),
        Err(PackError::Io { source, .. }) if is_media_error(&source) => return Ok(Err(source.to_string())),
        Err(error) => return Err(error),
    };
    let stored = bytes.split_off(RECORD_HEADER_BYTES);
    let expected = RecordHeader { id: entry.id, codec, stored_bytes, plain_bytes };
    match format::decode_record_header(&bytes) {
        Ok(header) if header == expected => {}
        Ok(_) => return Ok(Err("another record lies there".into())),
        Err(error) => return Ok(Err(error.to_string())),
    }
    Ok(match expected.verify(&stored) {
        Ok(Some(plain)) => Ok((Bytes::from(plain), Some(stored))),
        Ok(None) => Ok((stored, None)),
        Err(error) => Err(error.to_string()),
    })
}

/// Whether the medium itself gave up on the bytes.
fn is_media_error(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
