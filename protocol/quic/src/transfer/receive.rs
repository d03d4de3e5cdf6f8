//! The shell of a [`Receiver`]: looks things up and verifies items on blocking threads, hands batches to the destination,
//! and keeps the account. What comes in is taken off the connection whatever the disk does; grants bound how much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::sync::{
    Expected, Held, Hoarding, Patience, Presence, ReceiveAction, ReceiveEnd, ReceiveLimits, ReceiveState, Receiver,
    Violation, Wanted,
};
use headwater_protocol::time::Timestamp;
use headwater_protocol::wire::{Encoding, ItemHeader, ItemKey, Message, Refusal};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::outbox::Outbox;
use super::report::{Progress, ProgressSink, ReceiveReport};
use super::verify::{self, Outcome, Verified};
use super::{Committed, Destination, DestinationError, HeldPage, IncomingOffer, TransferError, UnavailableChunk};
use crate::session::MemoryShare;
use crate::session::shared::{ArrivedItem, Claim, TransferEvent};
use crate::work;

/// Batches that are verified at once.
const VERIFICATIONS_MAX: usize = 2;
/// Plain bytes of a batch: what compresses well must not become too much at once.
const BATCH_BYTES: usize = 2 << 20;
/// Plain bytes that are verified and wait for the store; above, verification waits.
const VERIFIED_BYTES_MAX: usize = 4 << 20;
/// Items of a batch.
const BATCH_ITEMS: usize = 1024;
/// Batches that are made durable at once; one is written while another is synced.
const STORES_MAX: usize = 2;
/// How long the last bytes off a lost connection are waited for.
const CUT_WAIT: Duration = Duration::from_secs(2);
/// A shorter prefix of an unfinished chunk is not worth keeping.
const PREFIX_BYTES_MIN: usize = 1024;

/// What a job of the transfer brought.
enum Done {
    LookedUp(Result<Vec<(ChunkId, Held)>, DestinationError>),
    Present(Result<Vec<(Wanted, Presence)>, DestinationError>),
    Announced(Result<(), DestinationError>),
    Verified(Result<Vec<Outcome>, DestinationError>),
    Stored(Vec<ItemKey>, Result<(), DestinationError>),
    Committed(Result<Committed, Refusal>),
    /// A job panicked; its own message is in the log.
    Failed,
}

struct Receiving {
    machine: Receiver,
    claim: Claim,
    window_bytes: u64,
    patience: Patience,
    hoarding: Hoarding,
    look: Interval,
    offer: Arc<IncomingOffer>,
    manifest: Arc<Manifest>,
    destination: Arc<dyn Destination>,
    outbox: Outbox,
    jobs: JoinSet<Done>,
    arrived: Vec<(Expected, ArrivedItem)>,
    verifications: usize,
    verified: Vec<Verified>,
    stores: usize,
    announcing: usize,
    commit_waits: bool,
    /// Headers of items between arrival and storage, for the account.
    headers: BTreeMap<ItemKey, ItemHeader>,
    /// Items whose streams broke; what came of them is kept if the link is lost.
    cut: Vec<ArrivedItem>,
    failure: Option<DestinationError>,
    started: Instant,
    report: ReceiveReport,
    progress: ProgressSink,
    /// Its part of the memory, from the first thing that it asks for to its commit. It is given back after all that is held
    /// by it: the last of the fields.
    share: Option<MemoryShare>,
}

/// Takes an offered version.
pub(crate) async fn run(
    mut claim: Claim,
    offer: IncomingOffer,
    destination: Arc<dyn Destination>,
    progress: ProgressSink,
) -> Result<ReceiveReport, TransferError> {
    let options = &claim.shared.options;
    // With a budget, a transfer gets a window when there is something to ask for.
    let limits = ReceiveLimits { window_bytes: if options.memory.is_some() { 0 } else { options.window_bytes } };
    let machine = Manifest::decode(&offer.manifest).map_err(TransferError::Manifest).and_then(|manifest| {
        let machine = Receiver::new(claim.transfer, &manifest, limits)?;
        Ok((machine, manifest))
    });
    let (machine, manifest) = match machine {
        Ok(machine) => machine,
        Err(error) => {
            let refusal = Refusal {
                code: "HW-3004".into(),
                message: format!("the offered version can't be: {error}"),
                hint: "publish the version again with a current release".into(),
            };
            let transfer = Some(claim.transfer);
            // The error itself says more than that the session ended meanwhile.
            let _ = claim.shared.send(Message::Refused { transfer, refusal }).await;
            claim.done();
            return Err(error);
        }
    };
    let patience = Patience::new(claim.shared.options.patience, Timestamp::ZERO, claim.shared.travelled_bytes());
    let mut receiving = Receiving {
        machine,
        patience,
        hoarding: Hoarding::new(claim.shared.options.patience, Timestamp::ZERO),
        look: looks(&patience),
        claim,
        window_bytes: limits.window_bytes,
        offer: Arc::new(offer),
        manifest: Arc::new(manifest),
        destination,
        outbox: Outbox::default(),
        jobs: JoinSet::new(),
        arrived: Vec::new(),
        verifications: 0,
        verified: Vec::new(),
        stores: 0,
        announcing: 0,
        commit_waits: false,
        headers: BTreeMap::new(),
        cut: Vec::new(),
        failure: None,
        started: Instant::now(),
        report: ReceiveReport::default(),
        progress,
        share: None,
    };
    receiving.run().await
}

enum Next {
    Event(Option<Box<TransferEvent>>),
    Done(Done),
    Sent(bool),
    /// The window may be another now.
    Share,
    /// It is time to see whether the transfer moves.
    Look,
}

impl Receiving {
    async fn run(&mut self) -> Result<ReceiveReport, TransferError> {
        loop {
            if let Some(end) = self.apply() {
                // With the session gone the end is what it is; the sender learns it when it offers again.
                let _ = self.outbox.flush(&self.claim.shared).await;
                return self.ended(end);
            }
            self.start_batches();
            // In an order that makes a run the same each time. Jobs come first: there are few, and what they free is waited for.
            let next = tokio::select! {
                biased;
                _ = self.look.tick() => Next::Look,
                Some(done) = self.jobs.join_next() => Next::Done(done.unwrap_or(Done::Failed)),
                event = self.claim.events.recv() => Next::Event(event),
                sent = self.outbox.send_one(&self.claim.shared), if !self.outbox.is_empty() => Next::Sent(sent.is_ok()),
                () = changed(self.share.as_ref()) => Next::Share,
            };
            match next {
                Next::Look => self.look()?,
                Next::Event(Some(event)) => {
                    self.patience.handle_sign(self.now());
                    self.handle_event(*event);
                }
                Next::Event(None) | Next::Sent(false) => return Err(self.disconnected().await),
                Next::Done(done) => self.handle_done(done),
                Next::Share | Next::Sent(true) => {}
            }
        }
    }

    /// Says that this side lives, and gives up a sender that does not.
    fn look(&mut self) -> Result<(), TransferError> {
        let now = self.now();
        self.machine.handle_quiet();
        self.patience.handle_bytes(now, self.claim.shared.travelled_bytes());
        let awaited = self.machine.awaits_sender();
        if !awaited {
            self.patience.handle_sign(now);
        }
        self.hoarding.handle_payload(now, self.claim.gate.arrived_bytes(), awaited);
        if self.patience.is_over(now) || self.hoarding.is_over(now) {
            Err(TransferError::Stalled(self.claim.shared.options.patience))
        } else {
            Ok(())
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Carries out what the machine wants, with the window that it may have now.
    fn apply(&mut self) -> Option<ReceiveEnd> {
        let ended = self.carry_out();
        if ended.is_some() || !self.renew_window() {
            return ended;
        }
        self.carry_out()
    }

    /// Looks whether the transfer's window is another now.
    fn renew_window(&mut self) -> bool {
        let Some(budget) = &self.claim.shared.options.memory else { return false };
        if self.machine.state() != ReceiveState::Walking {
            // All is durable: others can have it.
            self.share = None;
            return false;
        }
        if self.share.is_none() && !self.machine.is_asking() {
            return false;
        }
        let share = self.share.get_or_insert_with(|| budget.enter());
        let window_bytes = share.window(self.machine.exposure_bytes());
        self.machine.handle_window(window_bytes);
        if window_bytes != self.window_bytes {
            self.window_bytes = window_bytes;
            self.claim.shared.set_window(self.claim.transfer, window_bytes);
        }
        true
    }

    /// Carries out what the machine wants, but for what takes time: that becomes a job.
    fn carry_out(&mut self) -> Option<ReceiveEnd> {
        while let Some(action) = self.machine.poll_action() {
            let destination = Arc::clone(&self.destination);
            match action {
                ReceiveAction::Send(message) => {
                    if let Message::Grant { bytes, .. } = &message {
                        self.claim.gate.open(*bytes);
                    }
                    self.report.wire.overhead += self.outbox.push(message);
                }
                ReceiveAction::LookUp(ids) => {
                    work::spawn_blocking_on(&mut self.jobs, move || Done::LookedUp(look_up(&*destination, &ids)));
                }
                ReceiveAction::CheckPresence(wanted) => {
                    work::spawn_blocking_on(&mut self.jobs, move || {
                        Done::Present(check_presence(&*destination, wanted))
                    });
                }
                ReceiveAction::Completed(pages) => {
                    self.announcing += 1;
                    work::spawn_blocking_on(&mut self.jobs, move || Done::Announced(destination.completed(&pages)));
                }
                ReceiveAction::Commit => self.commit_waits = true,
                ReceiveAction::Finished(end) => return Some(end),
            }
        }
        if self.commit_waits && self.announcing == 0 {
            self.commit_waits = false;
            let (destination, offer, manifest) =
                (Arc::clone(&self.destination), Arc::clone(&self.offer), Arc::clone(&self.manifest));
            work::spawn_on(&mut self.jobs, async move { Done::Committed(destination.commit(&offer, &manifest).await) });
        }
        None
    }

    fn start_batches(&mut self) {
        let waiting: usize = self.verified.iter().map(|verified| verified.item.plain.len()).sum();
        while !self.arrived.is_empty() && self.verifications < VERIFICATIONS_MAX && waiting < VERIFIED_BYTES_MAX {
            let batch = take_batch(&mut self.arrived, |(_, item)| item.header.plain_bytes as usize);
            self.verifications += 1;
            let destination = Arc::clone(&self.destination);
            let (budget, unpacked_bytes) = (self.claim.shared.options.memory.clone(), verify::unpacked_bytes(&batch));
            work::spawn_on(&mut self.jobs, async move {
                let memory = match budget {
                    Some(budget) if unpacked_bytes > 0 => Some(Arc::new(budget.take_unpacked(unpacked_bytes).await)),
                    _ => None,
                };
                let verify = move || verify::verify(&*destination, batch, memory.as_ref());
                work::spawn_blocking(verify).await.map_or(Done::Failed, Done::Verified)
            });
        }
        if !self.verified.is_empty() && self.stores < STORES_MAX {
            self.stores += 1;
            let (mut keys, mut batch, mut memory) = (Vec::new(), Vec::new(), Vec::new());
            for verified in self.verified.drain(..) {
                keys.push(verified.key);
                batch.push(verified.item);
                memory.extend(verified.memory);
            }
            let destination = Arc::clone(&self.destination);
            work::spawn_on(&mut self.jobs, async move {
                let stored = destination.store(batch).await;
                drop(memory);
                Done::Stored(keys, stored)
            });
        }
    }

    fn handle_event(&mut self, event: TransferEvent) {
        match event {
            TransferEvent::Message(message) => self.machine.handle_message(self.now(), &message),
            TransferEvent::Item(item) => {
                self.report.wire.overhead += item.header_bytes as u64;
                // On a violation the machine has ended, and says so.
                if let Ok(expected) = self.machine.handle_item(&item.header) {
                    self.headers.insert(item.header.key, item.header.clone());
                    self.arrived.push((expected, item));
                }
            }
            // The sender let go of a stream: it withdraws, or the connection is lost; either is told elsewhere.
            TransferEvent::Cut(item) if is_worth_keeping(&item) => self.cut.push(item),
            TransferEvent::Cut(_) => {}
            TransferEvent::Broken(violation) => self.machine.handle_violation(violation),
        }
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::LookedUp(Ok(answers)) => self.machine.handle_lookup(&answers),
            Done::Present(Ok(answers)) => self.machine.handle_presence(&answers),
            Done::Announced(Ok(())) => self.announcing -= 1,
            Done::Verified(Ok(outcomes)) => {
                self.verifications -= 1;
                for outcome in outcomes {
                    self.handle_outcome(outcome);
                }
            }
            Done::Stored(keys, Ok(())) => {
                self.stores -= 1;
                self.machine.handle_stored(now, &keys);
                self.tell_progress();
            }
            Done::Committed(Ok(committed)) => {
                self.machine.handle_committed(committed.commit.clone(), committed.receipt.clone());
                self.report.committed = committed;
            }
            Done::Committed(Err(refusal)) => self.machine.refuse(refusal),
            Done::LookedUp(Err(error))
            | Done::Present(Err(error))
            | Done::Announced(Err(error))
            | Done::Verified(Err(error))
            | Done::Stored(_, Err(error)) => self.fail(error),
            Done::Failed => self.fail(DestinationError::Io("a job of the transfer panicked".into())),
        }
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Good(verified) => {
                let key = verified.key;
                if let (ItemKey::Page(id), None) = (key, &verified.page) {
                    let reason = "its bytes are no page".to_owned();
                    return self.machine.handle_violation(Violation::Page { id, reason });
                }
                self.count(key);
                self.machine.handle_verified(key, verified.page.as_ref());
                self.verified.push(Verified { page: None, ..*verified });
            }
            Outcome::Unusable(key) => {
                if let Some(header) = self.headers.remove(&key) {
                    self.report.wire.wasted += u64::from(header.payload_bytes);
                }
                self.machine.handle_unusable(key);
            }
        }
    }

    fn count(&mut self, key: ItemKey) {
        let Some(header) = self.headers.remove(&key) else { return };
        let (plain, payload) = (u64::from(header.plain_bytes), u64::from(header.payload_bytes));
        let report = &mut self.report;
        match key {
            ItemKey::Page(_) => {
                report.pages += 1;
                report.wire.pages += payload;
            }
            ItemKey::Chunk(_) => {
                report.chunks += 1;
                report.wire.chunks += payload;
            }
        }
        report.plain_bytes += plain;
        let saved = plain.saturating_sub(u64::from(header.from_offset())).saturating_sub(payload);
        match header.encoding {
            Encoding::Plain { .. } => {}
            Encoding::Zstd { .. } => report.saved_compression_bytes += saved,
            Encoding::Delta { .. } => report.saved_delta_bytes += saved,
        }
    }

    /// The destination failed: the sender learns what is its business, this side learns all.
    fn fail(&mut self, error: DestinationError) {
        let refusal = match &error {
            DestinationError::Refused(refusal) => refusal.clone(),
            DestinationError::Io(_) => Refusal {
                code: "HW-4007".into(),
                message: "the receiver could not store the version".into(),
                hint: "its log says why; the transfer goes on from here once that is mended".into(),
            },
        };
        self.failure.get_or_insert(error);
        self.machine.refuse(refusal);
    }

    fn tell_progress(&self) {
        let (totals, stats) = (self.machine.totals(), self.machine.stats());
        (self.progress)(&Progress {
            chunks_total: totals.chunks,
            bytes_total: totals.bytes,
            chunks_done: stats.chunks_here,
            bytes_done: (stats.bytes_found + stats.bytes_stored).min(totals.bytes),
            wire: self.report.wire,
        });
    }

    fn ended(&mut self, end: ReceiveEnd) -> Result<ReceiveReport, TransferError> {
        self.claim.done();
        match end {
            ReceiveEnd::Committed => {
                self.tell_progress();
                let mut report = std::mem::take(&mut self.report);
                report.saved_dedup_bytes = self.machine.stats().bytes_found;
                Ok(report)
            }
            ReceiveEnd::Incomplete(ranges) => Err(TransferError::Unavailable(
                ranges.into_iter().map(|range| UnavailableChunk { range, reason: String::new() }).collect(),
            )),
            ReceiveEnd::Withdrawn => Err(TransferError::Withdrawn),
            ReceiveEnd::Refused(refusal) => Err(match self.failure.take() {
                Some(failure) => TransferError::Destination(failure),
                None => TransferError::Refused(refusal),
            }),
            ReceiveEnd::Broken(violation) => Err(TransferError::Violation(violation)),
        }
    }

    /// The connection is lost: keeps what came of unfinished chunks, and lets what has arrived be stored.
    async fn disconnected(&mut self) -> TransferError {
        let reason = self.claim.shared.why_ended();
        self.claim.done();
        let salvage = async {
            while let Some(event) = self.claim.events.recv().await {
                if matches!(*event, TransferEvent::Item(_) | TransferEvent::Cut(_)) {
                    self.handle_event(*event);
                }
            }
        };
        // Readers end with their connection; one that does not loses a prefix, no more.
        let _ = tokio::time::timeout(CUT_WAIT, salvage).await;
        let cut = std::mem::take(&mut self.cut);
        let with_expected = |item: ArrivedItem| Some((self.machine.handle_item(&item.header).ok()?, item));
        let cut: Vec<(Expected, ArrivedItem)> = cut.into_iter().filter_map(with_expected).collect();
        let destination = Arc::clone(&self.destination);
        work::spawn_blocking_on(&mut self.jobs, move || {
            let keep = |(expected, item): &(Expected, ArrivedItem)| verify::keep(&*destination, *expected, item);
            Done::Announced(cut.iter().try_for_each(keep))
        });
        self.announcing += 1;
        self.drain().await;
        TransferError::Disconnected(reason)
    }

    /// Verifies and stores what has arrived.
    async fn drain(&mut self) {
        loop {
            self.start_batches();
            let Some(done) = self.jobs.join_next().await else { return };
            match done.unwrap_or(Done::Failed) {
                Done::LookedUp(_) | Done::Present(_) => {}
                Done::Failed => return,
                done => self.handle_done(done),
            }
        }
    }
}

impl Drop for Receiving {
    /// What is verified or stored still holds memory that was granted: its share is given back when that has ended.
    fn drop(&mut self) {
        if self.jobs.is_empty() || self.share.is_none() {
            return;
        }
        let (mut jobs, share) = (std::mem::take(&mut self.jobs), self.share.take());
        // Without a runtime the jobs have ended with it.
        if tokio::runtime::Handle::try_current().is_ok() {
            work::spawn(async move {
                while jobs.join_next().await.is_some() {}
                drop(share);
            });
        }
    }
}

/// When to see whether a transfer moves.
pub(crate) fn looks(patience: &Patience) -> Interval {
    let mut looks = tokio::time::interval_at(Instant::now() + patience.look_every(), patience.look_every());
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Resolves when the share of the memory may be larger; never without one.
async fn changed(share: Option<&MemoryShare>) {
    match share {
        Some(share) => share.changed().await,
        None => std::future::pending().await,
    }
}

/// Whether the first bytes of an item are worth a prefix, should the link be lost: those of a chunk that is no delta.
fn is_worth_keeping(item: &ArrivedItem) -> bool {
    let is_chunk = matches!(item.header.key, ItemKey::Chunk(_));
    is_chunk && item.payload.len() >= PREFIX_BYTES_MIN && !matches!(item.header.encoding, Encoding::Delta { .. })
}

/// Takes the first items off a list, as many as make a batch.
fn take_batch<T>(list: &mut Vec<T>, bytes_of: impl Fn(&T) -> usize) -> Vec<T> {
    let mut bytes = 0;
    let end = list.iter().take(BATCH_ITEMS).take_while(|item| {
        let fits = bytes < BATCH_BYTES;
        bytes += bytes_of(item);
        fits
    });
    let end = end.count();
    let rest = list.split_off(end);
    std::mem::replace(list, rest)
}

fn look_up(destination: &dyn Destination, ids: &[ChunkId]) -> Result<Vec<(ChunkId, Held)>, DestinationError> {
    let answers = destination.pages(ids)?;
    let held = |answer: Option<HeldPage>| match answer {
        Some(HeldPage { complete_below: true, .. }) => Held::Complete,
        // A page that is damaged here is fetched again.
        Some(HeldPage { bytes, .. }) => Page::decode(&bytes).map_or(Held::Missing, |page| Held::Page(Arc::new(page))),
        None => Held::Missing,
    };
    let mut held: Vec<_> = ids.iter().copied().zip(answers.into_iter().map(held)).collect();
    // An answer too few is a page that is not here.
    held.extend(ids[held.len()..].iter().map(|id| (*id, Held::Missing)));
    Ok(held)
}

fn check_presence(
    destination: &dyn Destination,
    wanted: Vec<Wanted>,
) -> Result<Vec<(Wanted, Presence)>, DestinationError> {
    let chunks: Vec<_> = wanted.iter().map(|wanted| wanted.chunk).collect();
    let answers = destination.presence(&chunks)?;
    let answers = answers.into_iter().chain(std::iter::repeat(Presence::Missing));
    Ok(wanted.into_iter().zip(answers).collect())
}
