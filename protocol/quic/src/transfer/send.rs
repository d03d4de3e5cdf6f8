//! The shell of a [`Sender`]: reads items on blocking threads, writes them on several streams, and keeps the account.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use headwater_protocol::manifest::{Manifest, Totals};
use headwater_protocol::sync::{Hoarding, Load, Patience, SendAction, SendEnd, Sender, SentItem};
use headwater_protocol::time::Timestamp;
use headwater_protocol::wire::{Encoding, ItemKey, Message, OrdinalRange};
use quinn::{SendStream, VarInt};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval};

use super::items::TRANSFER_OVER;
use super::lanes::Lane;
use super::outbox::Outbox;
use super::pack::{self, Packed};
use super::receive::looks;
use super::report::{Progress, ProgressSink, SendReport};
use super::{OutgoingVersion, Source, SourceError, TransferError, UnavailableChunk};
use crate::framing::append_frame;
use crate::session::shared::{Claim, TransferEvent};
use crate::session::{Priority, TransferAccount};
use crate::work;

/// Batches of items that are read at once.
pub const LOAD_BATCHES_MAX: usize = 2;
/// Items in one batch.
const LOAD_BATCH_ITEMS: usize = 16;
/// Payload bytes after which a batch goes out, so that what was read does not wait for what is slow to read.
const LOAD_BATCH_BYTES: usize = 2 << 20;
/// Payload bytes that one stream is given at a time.
const WRITE_BYTES: usize = 1 << 20;

/// A stream after a write: none if it broke.
type Written = Option<SendStream>;

/// A batch that was read.
struct Loaded {
    items: Vec<(ItemKey, Result<Packed, SourceError>)>,
    /// What was more than one batch.
    rest: Vec<Load>,
}

struct Sending {
    machine: Sender,
    claim: Claim,
    source: Arc<dyn Source>,
    lane: Arc<Lane>,
    account: TransferAccount,
    outbox: Outbox,
    loads: Vec<Load>,
    /// None where the source panicked.
    batches: JoinSet<Option<Loaded>>,
    ready: BTreeMap<ItemKey, Packed>,
    idle: Vec<SendStream>,
    opened: usize,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
    unavailable: Vec<(u64, String)>,
    failed: Option<(ItemKey, SourceError)>,
    totals: Totals,
    report: SendReport,
    chunk_plain_bytes: u64,
    progress: ProgressSink,
    started: Instant,
    patience: Patience,
    /// Whether this side's own reading moves, by the items that were read.
    reading: Hoarding,
    items_read: Arc<AtomicU64>,
    look: Interval,
}

/// Offers a version and serves it until the receiver has committed it.
pub(crate) async fn run(
    claim: Claim,
    version: OutgoingVersion,
    priority: Priority,
    source: Arc<dyn Source>,
    progress: ProgressSink,
) -> Result<SendReport, TransferError> {
    let totals = Manifest::decode(&version.manifest)?.totals();
    let offer = Message::Offer {
        transfer: claim.transfer,
        dataset: version.dataset,
        manifest: version.manifest.to_vec(),
        commit: version.commit.to_vec(),
    };
    let patience = Patience::new(claim.shared.options.patience, Timestamp::ZERO, claim.shared.travelled_bytes());
    let mut sending = Sending {
        started: Instant::now(),
        patience,
        reading: Hoarding::new(claim.shared.options.patience, Timestamp::ZERO),
        items_read: Arc::default(),
        look: looks(&patience),
        machine: Sender::new(claim.transfer, totals.chunks, offer),
        lane: claim.shared.lanes.enter(priority),
        account: TransferAccount::new(Arc::clone(&claim.shared), claim.transfer),
        claim,
        source,
        outbox: Outbox::default(),
        loads: Vec::new(),
        batches: JoinSet::new(),
        ready: BTreeMap::new(),
        idle: Vec::new(),
        opened: 0,
        writes: FuturesUnordered::new(),
        unavailable: Vec::new(),
        failed: None,
        totals,
        report: SendReport::default(),
        chunk_plain_bytes: 0,
        progress,
    };
    let result = sending.run().await;
    sending.close(result.is_ok());
    result
}

enum Next {
    Event(Option<Box<TransferEvent>>),
    Loaded(Loaded),
    /// A source panicked; what it was to load will never come.
    Panicked,
    Written(Written),
    Sent,
    /// It is time to see whether the transfer moves.
    Look,
}

impl Sending {
    async fn run(&mut self) -> Result<SendReport, TransferError> {
        loop {
            if let Some(end) = self.apply() {
                self.outbox.flush(&self.claim.shared).await?;
                return self.ended(end);
            }
            self.start_loads();
            self.start_writes();
            let next = tokio::select! {
                biased;
                _ = self.look.tick() => Next::Look,
                event = self.claim.events.recv() => Next::Event(event),
                Some(written) = self.writes.next() => Next::Written(written),
                Some(loaded) = self.batches.join_next() => match loaded {
                    Ok(Some(loaded)) => Next::Loaded(loaded),
                    Ok(None) | Err(_) => Next::Panicked,
                },
                sent = self.outbox.send_one(&self.claim.shared), if !self.outbox.is_empty() => { sent?; Next::Sent }
            };
            match next {
                Next::Look => self.look()?,
                Next::Event(Some(event)) => {
                    self.patience.handle_sign(self.now());
                    self.handle_event(*event);
                }
                Next::Event(None) => return Err(TransferError::Disconnected(self.claim.shared.why_ended())),
                Next::Loaded(loaded) => self.handle_loaded(loaded),
                Next::Panicked => self.machine.withdraw(),
                // A stream that broke was stopped by a receiver that has ended the transfer and says so, or its connection is
                // gone, which is seen above.
                Next::Written(written) => self.idle.extend(written),
                Next::Sent => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Says that this side reads, and gives up a receiver that took the offer, or did not, and says nothing more.
    fn look(&mut self) -> Result<(), TransferError> {
        let now = self.now();
        self.patience.handle_bytes(now, self.claim.shared.travelled_bytes());
        self.reading.handle_payload(now, self.items_read.load(Ordering::Relaxed), !self.batches.is_empty());
        if !self.batches.is_empty() && !self.reading.is_over(now) {
            // Reading is this side's work; the receiver waits for it, but not for a disk that has gone.
            self.patience.handle_sign(now);
            if self.outbox.is_empty() {
                let sign_of_life = Message::Unavailable { transfer: self.claim.transfer, ranges: Vec::new() };
                self.report.wire.overhead += self.outbox.push(sign_of_life);
            }
        }
        if self.patience.is_over(now) {
            Err(TransferError::Stalled(self.claim.shared.options.patience))
        } else {
            Ok(())
        }
    }

    /// Carries out what the machine wants, but for what takes time.
    fn apply(&mut self) -> Option<SendEnd> {
        while let Some(action) = self.machine.poll_action() {
            match action {
                SendAction::Send(message) => self.report.wire.overhead += self.outbox.push(message),
                SendAction::Load(load) => self.loads.push(load),
                SendAction::Finished(end) => return Some(end),
            }
        }
        None
    }

    fn start_loads(&mut self) {
        while !self.loads.is_empty() && self.batches.len() < LOAD_BATCHES_MAX {
            let rest = self.loads.split_off(self.loads.len().min(LOAD_BATCH_ITEMS));
            let batch = std::mem::replace(&mut self.loads, rest);
            let source = Arc::clone(&self.source);
            let (transfer, level) = (self.claim.transfer, self.claim.shared.options.compression_level);
            let items_read = Arc::clone(&self.items_read);
            let load = move || {
                load_batch(batch, |load| {
                    let packed = pack::load(&*source, transfer, load, level);
                    items_read.fetch_add(1, Ordering::Relaxed);
                    packed
                })
            };
            match &self.claim.shared.options.loaders {
                Some(loaders) => {
                    let loaded = loaders.run(load);
                    self.batches.spawn(async move { loaded.await.ok() });
                }
                None => work::spawn_blocking_on(&mut self.batches, move || Some(load())),
            }
        }
    }

    fn start_writes(&mut self) {
        let streams_max = self.claim.shared.options.item_streams.max(1);
        while !self.idle.is_empty() || self.opened < streams_max {
            let parts = self.next_parts();
            if parts.is_empty() {
                return;
            }
            let write: BoxFuture<'static, Written> = if let Some(stream) = self.idle.pop() {
                Box::pin(write(stream, parts, Arc::clone(&self.lane)))
            } else {
                self.opened += 1;
                Box::pin(open_and_write(self.claim.shared.connection.clone(), parts, Arc::clone(&self.lane)))
            };
            self.writes.push(write);
        }
    }

    /// The next items as they stand on a stream.
    fn next_parts(&mut self) -> Vec<Bytes> {
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while bytes < WRITE_BYTES
            && let Some(key) = self.machine.poll_transmit()
        {
            let Some(packed) = self.ready.remove(&key) else { continue };
            let mut header = Vec::new();
            append_frame(&mut header, &packed.header);
            bytes += packed.payload.len();
            self.count(&packed, header.len());
            parts.push(Bytes::from(header));
            parts.push(packed.payload);
        }
        parts
    }

    fn count(&mut self, packed: &Packed, header_bytes: usize) {
        let (plain, payload) = (u64::from(packed.header.plain_bytes), u64::from(packed.header.payload_bytes));
        self.account.item(SentItem {
            id: packed.id,
            plain_bytes: packed.header.plain_bytes,
            from_offset: packed.header.from_offset(),
            payload_bytes: packed.header.payload_bytes,
        });
        let report = &mut self.report;
        report.wire.overhead += header_bytes as u64;
        match packed.header.key {
            ItemKey::Page(_) => {
                report.pages += 1;
                report.wire.pages += payload;
            }
            ItemKey::Chunk(_) => {
                report.chunks += 1;
                report.wire.chunks += payload;
                self.chunk_plain_bytes += plain;
            }
        }
        report.plain_bytes += plain;
        let saved = plain.saturating_sub(u64::from(packed.header.from_offset())).saturating_sub(payload);
        match packed.header.encoding {
            Encoding::Plain { .. } => {}
            Encoding::Zstd { .. } => report.saved_compression_bytes += saved,
            Encoding::Delta { .. } => report.saved_delta_bytes += saved,
        }
    }

    fn handle_event(&mut self, event: TransferEvent) {
        match event {
            TransferEvent::Message(message) => {
                self.machine.handle_message(&message);
                self.tell_progress();
            }
            TransferEvent::Broken(violation) => self.machine.handle_violation(violation),
            // No item comes in: the gate of a sender stays shut.
            TransferEvent::Item(_) | TransferEvent::Cut(_) => {}
        }
    }

    fn handle_loaded(&mut self, loaded: Loaded) {
        self.loads.splice(..0, loaded.rest);
        for (key, result) in loaded.items {
            match result {
                Ok(packed) => {
                    self.machine.handle_loaded(key, packed.header.payload_bytes);
                    self.ready.insert(key, packed);
                }
                Err(SourceError::Unavailable { reason }) => {
                    match key {
                        ItemKey::Chunk(ordinal) => self.unavailable.push((ordinal, reason)),
                        ItemKey::Page(_) => self.failed = Some((key, SourceError::Unavailable { reason })),
                    }
                    self.machine.handle_unavailable(key);
                }
                Err(error) => {
                    self.failed.get_or_insert((key, error));
                    self.machine.withdraw();
                }
            }
        }
    }

    fn tell_progress(&self) {
        (self.progress)(&Progress {
            chunks_total: self.totals.chunks,
            bytes_total: self.totals.bytes,
            chunks_done: self.machine.stored_chunks(),
            bytes_done: self.chunk_plain_bytes.min(self.totals.bytes),
            wire: self.report.wire,
        });
    }

    fn ended(&mut self, end: SendEnd) -> Result<SendReport, TransferError> {
        self.claim.done();
        if let Some((key, source)) = self.failed.take() {
            return Err(TransferError::Source { key, source });
        }
        match end {
            SendEnd::Committed { commit, receipt } => {
                self.account.committed();
                let mut report = std::mem::take(&mut self.report);
                report.saved_dedup_bytes = self.totals.bytes.saturating_sub(self.chunk_plain_bytes);
                (report.commit, report.receipt) = (commit, receipt);
                (self.progress)(&Progress {
                    chunks_total: self.totals.chunks,
                    bytes_total: self.totals.bytes,
                    chunks_done: self.totals.chunks,
                    bytes_done: self.totals.bytes,
                    wire: report.wire,
                });
                Ok(report)
            }
            SendEnd::Incomplete(ranges) => Err(TransferError::Unavailable(self.with_reasons(ranges))),
            SendEnd::Refused(refusal) => Err(TransferError::Refused(refusal)),
            SendEnd::Withdrawn => Err(TransferError::Withdrawn),
            SendEnd::Broken(violation) => Err(TransferError::Violation(violation)),
        }
    }

    fn with_reasons(&mut self, ranges: Vec<OrdinalRange>) -> Vec<UnavailableChunk> {
        let reasons: BTreeMap<u64, String> = self.unavailable.drain(..).collect();
        let reason = |range: &OrdinalRange| {
            let first = reasons.range(range.first..range.first + range.count).next();
            first.map(|(_, reason)| reason.clone()).unwrap_or_default()
        };
        ranges.into_iter().map(|range| UnavailableChunk { reason: reason(&range), range }).collect()
    }

    /// Lets go of the streams: what was sent in vain needs not arrive.
    fn close(&mut self, committed: bool) {
        for mut stream in self.idle.drain(..) {
            // Fails only on a stream that the receiver has stopped.
            let _ = if committed { stream.finish() } else { stream.reset(TRANSFER_OVER) };
        }
    }
}

/// Reads the first items, as many as make a batch.
fn load_batch(loads: Vec<Load>, read: impl Fn(Load) -> Result<Packed, SourceError>) -> Loaded {
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut loads = loads.into_iter();
    while bytes < LOAD_BATCH_BYTES
        && let Some(load) = loads.next()
    {
        let packed = read(load);
        bytes += packed.as_ref().map_or(0, |packed| packed.payload.len());
        items.push((load.key, packed));
    }
    Loaded { items, rest: loads.collect() }
}

async fn open_and_write(connection: quinn::Connection, parts: Vec<Bytes>, lane: Arc<Lane>) -> Written {
    let stream = connection.open_uni().await.ok()?;
    write(stream, parts, lane).await
}

async fn write(mut stream: SendStream, parts: Vec<Bytes>, lane: Arc<Lane>) -> Written {
    if lane.write(&mut stream, parts).await.is_ok() {
        return Some(stream);
    }
    // It was stopped, or its connection is gone; either is told elsewhere.
    let _ = stream.reset(VarInt::from_u32(0));
    None
}
