//! The one thread that writes packs: it carries out what [`CommitOrder`] says.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use headwater_protocol::id::ChunkId;
use headwater_quic::work;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::chunk_store::{StoreBatch, StoreError, Stored};
use super::commit_order::{Action, CommitOrder, Outcome, Ticket};
use super::format::{self, IndexEntry, RecordHeader};
use super::pack::{PackError, PackStore};
use super::{recovery, scan};
use crate::catalog::{
    AdoptGroup, AdoptedChunk, Catalog, CatalogError, ChunkCodec, ChunkLocation, ChunkMove, PackNumber, Pin,
};

/// What the store counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) groups: AtomicU64,
    pub(super) written_chunks: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) known_chunks: AtomicU64,
    pub(super) known_bytes: AtomicU64,
    pub(super) read_chunks: AtomicU64,
    pub(super) damaged_chunks: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

pub(super) type Reply = oneshot::Sender<Result<Stored, StoreError>>;

/// A record that gc copies as it is.
pub(super) struct MovedChunk {
    pub(super) id: ChunkId,
    pub(super) from: ChunkLocation,
    pub(super) stored: Bytes,
}

/// What reaches the writer.
pub(super) enum Request {
    Store {
        batch: StoreBatch,
        reply: Reply,
        permit: OwnedSemaphorePermit,
    },
    Move {
        chunks: Vec<MovedChunk>,
        reply: Reply,
    },
    /// Seal the open pack if it is this one; answered once that was tried.
    Seal {
        pack: PackNumber,
        tried: oneshot::Sender<()>,
    },
    /// Something that must not overlap with a group.
    Between(Box<dyn FnOnce(&CommitOrder) + Send>),
}

enum Work {
    Store(StoreBatch),
    Move(Vec<MovedChunk>),
}

struct Pending {
    work: Work,
    reply: Reply,
    stored: Stored,
    known_bytes: u64,
    /// The batch's share of the queue, given back when it is answered.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Where the writer runs.
pub(super) enum WriterHome {
    /// On a thread of its own.
    Thread(Option<JoinHandle<()>>),
    /// As a task of a simulated process.
    Task(tokio::task::JoinHandle<()>),
}

impl WriterHome {
    pub(super) fn start(writer: Writer, requests: UnboundedReceiver<Request>) -> io::Result<Self> {
        if let Some(process) = work::process() {
            return Ok(Self::Task(work::spawn(writer.run_in(process, requests))));
        }
        let thread = std::thread::Builder::new().name("pack-writer".into()).spawn(move || writer.run(requests))?;
        Ok(Self::Thread(Some(thread)))
    }

    pub(super) fn is_alive(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.as_ref().is_some_and(|thread| !thread.is_finished()),
            Self::Task(task) => !task.is_finished(),
        }
    }

    /// Waits until what was handed over is done. A task is on this very thread: it does so by itself.
    pub(super) fn join(&mut self) {
        if let Self::Thread(thread) = self
            && let Some(thread) = thread.take()
        {
            let _ = thread.join();
        }
    }
}

pub(super) struct Writer {
    packs: Arc<dyn PackStore>,
    catalog: Arc<dyn Catalog>,
    counters: Arc<Counters>,
    order: CommitOrder,
    requests: HashMap<Ticket, Pending>,
    next_ticket: Ticket,
    /// Of the open pack.
    index: Vec<IndexEntry>,
    /// Of the group that is under way.
    written: Vec<IndexEntry>,
    adopted: Vec<AdoptedChunk>,
    moved: Vec<ChunkMove>,
    failure: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(
        packs: Arc<dyn PackStore>,
        catalog: Arc<dyn Catalog>,
        counters: Arc<Counters>,
        order: CommitOrder,
        index: Vec<IndexEntry>,
    ) -> Self {
        Self {
            packs,
            catalog,
            counters,
            order,
            requests: HashMap::new(),
            next_ticket: 0,
            index,
            written: Vec::new(),
            adopted: Vec::new(),
            moved: Vec::new(),
            failure: None,
        }
    }

    /// [`Writer::run`] in a simulated process: each action waits for its turn, so that the process can die between any two.
    async fn run_in(mut self, process: Arc<dyn work::Process>, mut requests: UnboundedReceiver<Request>) {
        while let Some(first) = requests.recv().await {
            self.take(first);
            loop {
                while self.order.is_between_groups()
                    && let Ok(more) = requests.try_recv()
                {
                    self.take(more);
                }
                if self.order.is_idle() {
                    break;
                }
                process.turn().await;
                self.step();
            }
        }
    }

    /// Serves requests until all senders are gone.
    pub(super) fn run(mut self, mut requests: UnboundedReceiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            self.take(first);
            loop {
                while let Ok(more) = requests.try_recv() {
                    self.take(more);
                }
                if !self.step_group() {
                    break;
                }
            }
        }
    }

    fn take(&mut self, request: Request) {
        let (bytes, pending) = match request {
            Request::Between(job) => {
                // Nothing is under way here: groups run to their end before requests are taken.
                job(&self.order);
                return;
            }
            Request::Seal { pack, tried } => {
                self.order.handle_seal(pack);
                self.step_group();
                // Whoever asked may have given up.
                let _ = tried.send(());
                return;
            }
            Request::Store { batch, reply, permit } => {
                let bytes = batch.chunks.iter().map(|chunk| chunk.stored_body().len() as u64).sum();
                (bytes, Pending::new(Work::Store(batch), reply, Some(permit)))
            }
            Request::Move { chunks, reply } => {
                let bytes = chunks.iter().map(|chunk| chunk.stored.len() as u64).sum();
                (bytes, Pending::new(Work::Move(chunks), reply, None))
            }
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.requests.insert(ticket, pending);
        self.order.handle_request(ticket, bytes);
    }

    /// Carries out actions up to the end of a group; whether there was one.
    fn step_group(&mut self) -> bool {
        let mut worked = false;
        while self.step() {
            worked = true;
            if self.order.is_between_groups() {
                break;
            }
        }
        worked
    }

    /// Carries out one action, if there is one.
    fn step(&mut self) -> bool {
        let Some(action) = self.order.poll_action() else { return false };
        if let Some(outcome) = self.carry_out(action) {
            self.order.handle_outcome(outcome);
        }
        true
    }

    fn carry_out(&mut self, action: Action) -> Option<Outcome> {
        match action {
            Action::CreatePack { pack } => Some(self.create(pack)),
            Action::Write { pack, at_bytes, tickets } => Some(self.write(pack, at_bytes, &tickets)),
            Action::CutBack { pack, to_bytes } => Some(match self.packs.truncate(pack, to_bytes) {
                Ok(()) => Outcome::Done,
                Err(error) => {
                    tracing::error!(%pack, %error, "a torn write could not be cut back; the pack is left behind");
                    Outcome::Failed
                }
            }),
            Action::Sync { pack } => {
                let synced = self.packs.sync(pack);
                Some(self.settle(synced.map_err(StoreError::from)))
            }
            Action::SyncFolder => {
                let synced = self.packs.sync_folder();
                Some(self.settle(synced.map_err(StoreError::from)))
            }
            Action::Commit { tickets, pack_end } => {
                let committed = self.commit(&tickets, pack_end);
                Some(self.settle(committed.map_err(StoreError::from)))
            }
            Action::Acknowledge { tickets } => {
                self.acknowledge(&tickets);
                None
            }
            Action::Refuse { tickets } => {
                let failure = self.failure.take().unwrap_or(StoreError::Closed);
                for ticket in tickets {
                    if let Some(pending) = self.requests.remove(&ticket) {
                        let _ = pending.reply.send(Err(failure.clone()));
                    }
                }
                None
            }
            Action::Seal { pack, records_end_bytes } => {
                let index = std::mem::take(&mut self.index);
                Some(match recovery::seal(&*self.packs, &*self.catalog, pack, records_end_bytes, &index) {
                    Ok(()) => Outcome::Done,
                    Err(error) => {
                        tracing::warn!(%pack, %error, "a full pack could not be sealed; the next start tries again");
                        Outcome::Failed
                    }
                })
            }
        }
    }

    fn settle(&mut self, result: Result<(), StoreError>) -> Outcome {
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => {
                self.failure = Some(error);
                Outcome::Failed
            }
        }
    }

    fn create(&mut self, pack: PackNumber) -> Outcome {
        self.index.clear();
        let header = Bytes::copy_from_slice(&format::encode_pack_header(pack));
        let created = self.packs.create(pack).and_then(|()| {
            let written = self.packs.append(pack, 0, &[header]);
            if written.is_err() {
                let _ = self.packs.delete(pack);
            }
            written
        });
        self.settle(created.map_err(StoreError::from))
    }

    fn write(&mut self, pack: PackNumber, at_bytes: u64, tickets: &[Ticket]) -> Outcome {
        self.written.clear();
        self.adopted.clear();
        self.moved.clear();
        let wanted = match self.unknown(tickets) {
            Ok(wanted) => wanted,
            Err(error) => return self.settle(Err(error.into())),
        };
        let parts = self.lay_out(pack, at_bytes, tickets, wanted);
        if parts.is_empty() {
            return Outcome::Written { bytes: 0, records: 0 };
        }
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        match self.packs.append(pack, at_bytes, &parts) {
            Ok(()) => {
                let records = self.written.len() as u64;
                self.index.append(&mut self.written);
                Outcome::Written { bytes, records }
            }
            Err(error) => self.settle(Err(error.into())),
        }
    }

    /// Those chunks of the group that are not stored, or damaged.
    fn unknown(&self, tickets: &[Ticket]) -> Result<HashSet<ChunkId>, CatalogError> {
        let mut ids: Vec<ChunkId> = Vec::new();
        for ticket in tickets {
            if let Work::Store(batch) = &self.requests[ticket].work {
                ids.extend(batch.chunks.iter().map(|chunk| chunk.id));
            }
        }
        let entries = self.catalog.locate(&ids)?;
        let unknown = ids.into_iter().zip(entries).filter(|(_, entry)| entry.is_none_or(|entry| entry.damaged));
        Ok(unknown.map(|(id, _)| id).collect())
    }

    /// The bytes to append: for each chunk in `wanted`, and for each that is moved, its header and its stored form.
    fn lay_out(
        &mut self,
        pack: PackNumber,
        at_bytes: u64,
        tickets: &[Ticket],
        mut wanted: HashSet<ChunkId>,
    ) -> Vec<Bytes> {
        let mut parts = Vec::new();
        let mut offset = at_bytes;
        let mut place = |header: RecordHeader, body: Bytes, written: &mut Vec<IndexEntry>| {
            let entry = IndexEntry { header, offset };
            parts.push(Bytes::copy_from_slice(&format::encode_record_header(&header)));
            parts.push(body);
            offset += header.record_bytes();
            written.push(entry);
            scan::location_of(pack, &entry)
        };
        for ticket in tickets {
            let Some(pending) = self.requests.get_mut(ticket) else { continue };
            let Pending { work, stored, known_bytes, .. } = pending;
            match work {
                Work::Store(batch) => {
                    for chunk in &batch.chunks {
                        if !wanted.remove(&chunk.id) {
                            stored.known_chunks += 1;
                            *known_bytes += chunk.plain.len() as u64;
                            continue;
                        }
                        let body = chunk.stored_body().clone();
                        let header = chunk.header();
                        stored.written_chunks += 1;
                        stored.written_bytes += body.len() as u64;
                        let location = place(header, body, &mut self.written);
                        self.adopted.push(AdoptedChunk { id: chunk.id, location });
                    }
                }
                Work::Move(chunks) => {
                    for chunk in chunks {
                        let header = RecordHeader {
                            id: chunk.id,
                            codec: chunk.from.codec,
                            stored_bytes: chunk.from.stored_bytes,
                            plain_bytes: chunk.from.plain_bytes,
                        };
                        stored.written_chunks += 1;
                        stored.written_bytes += chunk.stored.len() as u64;
                        let to = place(header, chunk.stored.clone(), &mut self.written);
                        self.moved.push(ChunkMove { id: chunk.id, from: chunk.from, to });
                    }
                }
            }
        }
        parts
    }

    fn commit(&mut self, tickets: &[Ticket], pack_end: Option<(PackNumber, u64)>) -> Result<(), CatalogError> {
        let mut pins = Vec::new();
        for ticket in tickets {
            if let Work::Store(batch) = &self.requests[ticket].work {
                pins.push(Pin {
                    principal: batch.uploader,
                    expires_at: batch.pin_until,
                    chunks: batch.chunks.iter().map(|chunk| chunk.id).collect(),
                });
            }
        }
        let chunks = std::mem::take(&mut self.adopted);
        self.catalog.adopt(&AdoptGroup { chunks, pins, pack_ends: pack_end.into_iter().collect() })?;
        if let (false, Some(pack_end)) = (self.moved.is_empty(), pack_end) {
            self.catalog.relocate(&std::mem::take(&mut self.moved), pack_end)?;
        }
        Ok(())
    }

    fn acknowledge(&mut self, tickets: &[Ticket]) {
        Counters::add(&self.counters.groups, 1);
        for ticket in tickets {
            if let Some(pending) = self.requests.remove(ticket) {
                Counters::add(&self.counters.written_chunks, pending.stored.written_chunks);
                Counters::add(&self.counters.written_bytes, pending.stored.written_bytes);
                Counters::add(&self.counters.known_chunks, pending.stored.known_chunks);
                Counters::add(&self.counters.known_bytes, pending.known_bytes);
                let _ = pending.reply.send(Ok(pending.stored));
            }
        }
    }
}

impl Pending {
    fn new(work: Work, reply: Reply, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { work, reply, stored: Stored::default(), known_bytes: 0, _permit: permit }
    }
}

impl super::chunk_store::NewChunk {
    fn stored_body(&self) -> &Bytes {
        self.frame.as_ref().unwrap_or(&self.plain)
    }

    fn header(&self) -> RecordHeader {
        RecordHeader {
            id: self.id,
            codec: if self.frame.is_some() { ChunkCodec::Zstd } else { ChunkCodec::Plain },
            stored_bytes: self.stored_body().len() as u32,
            plain_bytes: self.plain.len() as u32,
        }
    }
}

impl From<PackError> for StoreError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Full { .. } => Self::Full,
            other => Self::Packs(Arc::new(other)),
        }
    }
}

impl From<CatalogError> for StoreError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Full { .. } => Self::Full,
            other => Self::Catalog(Arc::new(other)),
        }
    }
}
