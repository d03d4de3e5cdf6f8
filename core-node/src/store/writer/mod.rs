//! What writes packs: it carries out what [`CommitOrder`] says for its front, and has the back carried out beside it.

mod home;
mod syncer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use headwater_protocol::id::ChunkId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub(super) use self::home::WriterHome;
use self::syncer::{Job, Jobs};
use super::chunk_store::{StoreBatch, StoreError, Stored};
use super::commit_order::{Action, CommitOrder, Lane, Outcome, Ticket};
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
    Between(Between),
}

type Between = Box<dyn FnOnce(&CommitOrder) + Send>;

/// What the writer waits for.
pub(super) enum Event {
    Request(Request),
    /// How the back's action ended.
    Settled(Result<(), StoreError>),
    /// The back's thread panicked.
    Panicked,
    /// The store is dropped: what was handed over is finished, and nothing more comes.
    Close,
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
    /// What of it was written.
    adopted: Vec<AdoptedChunk>,
    moved: Vec<ChunkMove>,
    /// The batch's share of the queue, given back when it is answered.
    _permit: Option<OwnedSemaphorePermit>,
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
    /// Chunks that were written and not yet entered.
    under_way: HashSet<ChunkId>,
    between: VecDeque<Between>,
    sealing: Vec<oneshot::Sender<()>>,
    /// The last one.
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
            under_way: HashSet::new(),
            between: VecDeque::new(),
            sealing: Vec::new(),
            failure: None,
        }
    }

    fn apply(&mut self, event: Event) -> Applied {
        match event {
            Event::Request(request) => self.take(request),
            Event::Settled(result) => {
                let outcome = self.settle(result);
                self.order.handle_outcome(Lane::Back, outcome);
            }
            Event::Panicked => return Applied::Broken,
            Event::Close => return Applied::Closed,
        }
        Applied::More
    }

    fn take(&mut self, request: Request) {
        let (bytes, pending) = match request {
            Request::Between(job) => {
                self.between.push_back(job);
                self.order.handle_hold(true);
                return;
            }
            Request::Seal { pack, tried } => {
                self.order.handle_seal(pack);
                self.sealing.push(tried);
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

    /// The next action of the front; what else there is to do is done or handed over to `jobs`.
    fn next_front(&mut self, jobs: &Jobs) -> Option<Action> {
        loop {
            while let Some(action) = self.order.poll_action() {
                match action {
                    Action::Sync { pack } => jobs.begin(Job::Sync(pack)),
                    Action::SyncFolder => jobs.begin(Job::SyncFolder),
                    Action::Commit { tickets, pack_end } => jobs.begin(self.commit(&tickets, pack_end)),
                    Action::Acknowledge { tickets } => self.acknowledge(&tickets),
                    Action::Refuse { tickets } => self.refuse(&tickets),
                    front => return Some(front),
                }
            }
            if !self.order.is_seal_wanted() {
                for tried in self.sealing.drain(..) {
                    // Whoever asked may have given up.
                    let _ = tried.send(());
                }
            }
            if self.between.is_empty() || !self.order.is_between_groups() {
                return None;
            }
            for job in std::mem::take(&mut self.between) {
                job(&self.order);
            }
            self.order.handle_hold(false);
        }
    }

    /// Carries out an action of the front.
    fn carry_out(&mut self, action: Action) {
        let outcome = match action {
            Action::CreatePack { pack } => self.create(pack),
            Action::Write { pack, at_bytes, tickets } => self.write(pack, at_bytes, &tickets),
            Action::CutBack { pack, to_bytes } => match self.packs.truncate(pack, to_bytes) {
                Ok(()) => Outcome::Done,
                Err(error) => {
                    tracing::error!(%pack, %error, "a torn write could not be cut back; the pack is left behind");
                    Outcome::Failed
                }
            },
            Action::Seal { pack, records_end_bytes } => {
                let index = std::mem::take(&mut self.index);
                match recovery::seal(&*self.packs, &*self.catalog, pack, records_end_bytes, &index) {
                    Ok(()) => Outcome::Done,
                    Err(error) => {
                        tracing::warn!(%pack, %error, "a full pack could not be sealed; the next start tries again");
                        Outcome::Failed
                    }
                }
            }
            Action::Sync { .. } | Action::SyncFolder | Action::Commit { .. } => unreachable!("the back's"),
            Action::Acknowledge { .. } | Action::Refuse { .. } => unreachable!("these have no outcome"),
        };
        self.order.handle_outcome(Lane::Front, outcome);
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
        let wanted = match self.unknown(tickets) {
            Ok(wanted) => wanted,
            Err(error) => return self.settle(Err(error.into())),
        };
        let (parts, mut written) = self.lay_out(pack, at_bytes, tickets, wanted);
        if parts.is_empty() {
            return Outcome::Written { bytes: 0, records: 0 };
        }
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        match self.packs.append(pack, at_bytes, &parts) {
            Ok(()) => {
                let records = written.len() as u64;
                self.under_way.extend(written.iter().map(|entry| entry.header.id));
                self.index.append(&mut written);
                Outcome::Written { bytes, records }
            }
            Err(error) => self.settle(Err(error.into())),
        }
    }

    /// Those chunks of the requests that are not stored, or damaged, and not under way.
    fn unknown(&self, tickets: &[Ticket]) -> Result<HashSet<ChunkId>, CatalogError> {
        let mut ids: Vec<ChunkId> = Vec::new();
        for ticket in tickets {
            if let Work::Store(batch) = &self.requests[ticket].work {
                ids.extend(batch.chunks.iter().map(|chunk| chunk.id).filter(|id| !self.under_way.contains(id)));
            }
        }
        let entries = self.catalog.locate(&ids)?;
        let unknown = ids.into_iter().zip(entries).filter(|(_, entry)| entry.is_none_or(|entry| entry.damaged));
        Ok(unknown.map(|(id, _)| id).collect())
    }

    /// The bytes to append, and what stands in them: for each chunk in `wanted`, and for each that is moved, its header and
    /// its stored form.
    fn lay_out(
        &mut self,
        pack: PackNumber,
        at_bytes: u64,
        tickets: &[Ticket],
        mut wanted: HashSet<ChunkId>,
    ) -> (Vec<Bytes>, Vec<IndexEntry>) {
        let (mut parts, mut written) = (Vec::new(), Vec::new());
        let mut offset = at_bytes;
        let mut place = |header: RecordHeader, body: Bytes| {
            let entry = IndexEntry { header, offset };
            parts.push(Bytes::copy_from_slice(&format::encode_record_header(&header)));
            parts.push(body);
            offset += header.record_bytes();
            written.push(entry);
            scan::location_of(pack, &entry)
        };
        for ticket in tickets {
            let Some(pending) = self.requests.get_mut(ticket) else { continue };
            let Pending { work, stored, known_bytes, adopted, moved, .. } = pending;
            match work {
                Work::Store(batch) => {
                    for chunk in &batch.chunks {
                        if !wanted.remove(&chunk.id) {
                            stored.known_chunks += 1;
                            *known_bytes += chunk.plain.len() as u64;
                            continue;
                        }
                        let body = chunk.stored_body().clone();
                        stored.written_chunks += 1;
                        stored.written_bytes += body.len() as u64;
                        adopted.push(AdoptedChunk { id: chunk.id, location: place(chunk.header(), body) });
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
                        let to = place(header, chunk.stored.clone());
                        moved.push(ChunkMove { id: chunk.id, from: chunk.from, to });
                    }
                }
            }
        }
        (parts, written)
    }

    /// What is to be entered for a group.
    fn commit(&mut self, tickets: &[Ticket], pack_end: Option<(PackNumber, u64)>) -> Job {
        let (mut pins, mut chunks, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        for ticket in tickets {
            let Some(pending) = self.requests.get_mut(ticket) else { continue };
            chunks.extend_from_slice(&pending.adopted);
            moved.extend_from_slice(&pending.moved);
            if let Work::Store(batch) = &pending.work {
                pins.push(Pin {
                    principal: batch.uploader,
                    expires_at: batch.pin_until,
                    chunks: batch.chunks.iter().map(|chunk| chunk.id).collect(),
                });
            }
        }
        let moved = pack_end.filter(|_| !moved.is_empty()).map(|pack_end| (moved, pack_end));
        Job::Commit { group: AdoptGroup { chunks, pins, pack_ends: pack_end.into_iter().collect() }, moved }
    }

    /// A request that is about to be answered: what it had under way is entered, or never will be.
    fn take_out(&mut self, ticket: Ticket) -> Option<Pending> {
        let pending = self.requests.remove(&ticket)?;
        for id in pending.adopted.iter().map(|chunk| &chunk.id).chain(pending.moved.iter().map(|moved| &moved.id)) {
            self.under_way.remove(id);
        }
        Some(pending)
    }

    fn refuse(&mut self, tickets: &[Ticket]) {
        let failure = self.failure.clone().unwrap_or(StoreError::Closed);
        for ticket in tickets {
            if let Some(pending) = self.take_out(*ticket) {
                let _ = pending.reply.send(Err(failure.clone()));
            }
        }
    }

    fn acknowledge(&mut self, tickets: &[Ticket]) {
        Counters::add(&self.counters.groups, 1);
        for ticket in tickets {
            if let Some(pending) = self.take_out(*ticket) {
                Counters::add(&self.counters.written_chunks, pending.stored.written_chunks);
                Counters::add(&self.counters.written_bytes, pending.stored.written_bytes);
                Counters::add(&self.counters.known_chunks, pending.stored.known_chunks);
                Counters::add(&self.counters.known_bytes, pending.known_bytes);
                let _ = pending.reply.send(Ok(pending.stored));
            }
        }
    }
}

/// What follows from an event.
enum Applied {
    More,
    Closed,
    Broken,
}

impl Pending {
    fn new(work: Work, reply: Reply, permit: Option<OwnedSemaphorePermit>) -> Self {
        let (adopted, moved) = (Vec::new(), Vec::new());
        Self { work, reply, stored: Stored::default(), known_bytes: 0, adopted, moved, _permit: permit }
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
