//! A dataset version or a collection's edition: resolved once, then read from, whatever is published meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::Stream;
use headwater_fabric::ReadAnswer;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::delivery::{ReadWhat, Reply, SLOT_BYTES_MAX};
use headwater_protocol::id::ID_BYTES;
use headwater_protocol::order::{Course, READING_RUNS_MAX, Reading};
use headwater_protocol::wire::{ReaderMessage, Refusal, SourceMember};
use headwater_quic::work;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::buffers::Buffer;
use crate::client::{Client, Shared};
use crate::link::Link;

/// How often what arrived damaged is fetched before that is an error.
const FETCHES_MAX: u32 = 3;

/// A dataset that was opened. Cheap to clone.
#[derive(Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    label: Arc<str>,
    id: [u8; ID_BYTES],
    number: u64,
    members: Vec<SourceMember>,
    samples: u64,
    open: Mutex<Open>,
}

/// Where a dataset is open now.
#[derive(Default)]
struct Open {
    /// On which connection, and its number there.
    at: Option<(Arc<Link>, u32)>,
    /// What is read of it, for the next connection.
    reading: Option<Reading>,
}

impl Dataset {
    pub(crate) async fn open(shared: &Arc<Shared>, name: &str) -> Result<Self, CodedError> {
        let (link, found) = loop {
            let (_, link) = shared.link().await?;
            match source(&link, name).await {
                Err(error) if error.is(&codes::SESSION_ENDED) => {}
                found => break (link, found?),
            }
        };
        let plain = name.split_once('@').map_or(name, |(plain, _)| plain);
        let samples = found.members.iter().map(|member| member.samples).sum();
        Ok(Self {
            inner: Arc::new(Inner {
                shared: shared.clone(),
                label: format!("{plain}@{}", found.number).into(),
                id: found.id,
                number: found.number,
                members: found.members,
                samples,
                open: Mutex::new(Open { at: Some((link, found.source)), reading: None }),
            }),
        })
    }

    /// The client that it was opened with.
    pub(crate) fn client(&self) -> Client {
        Client { shared: self.inner.shared.clone() }
    }

    /// How many samples it has.
    pub fn len(&self) -> u64 {
        self.inner.samples
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.inner.samples == 0
    }

    /// Its name with the number that was resolved, as `cameras@7`.
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    /// The number of the version or edition.
    pub fn number(&self) -> u64 {
        self.inner.number
    }

    /// The id of the version or edition: what the order of samples follows from.
    pub fn id(&self) -> &[u8; ID_BYTES] {
        &self.inner.id
    }

    /// The versions in it: one, or those of a collection.
    pub fn members(&self) -> &[SourceMember] {
        &self.inner.members
    }

    /// Tells the core what will be read from now on, so that it reads ahead and keeps what is needed soonest; gives every
    /// read that this comes to. Said at the start of an epoch, and when reading goes on from elsewhere. It takes the place
    /// of what was declared before.
    ///
    /// An error if it makes no sense, or if another rank of the job reads another version of the dataset.
    pub async fn declare(&self, reading: &Reading) -> Result<Course, CodedError> {
        let course = Course::new(reading, &self.inner.id, self.inner.samples)
            .map_err(|error| CodedError::new(&codes::READING_SENSELESS, error.to_string()))?;
        // What is too long to be declared is read without the core reading ahead.
        if reading.kept.len() <= READING_RUNS_MAX {
            self.inner.declare(reading).await?;
        }
        Ok(course)
    }

    /// Declares `reading` and reads its batches in their order, `ahead` of them at a time while the first is waited for. Must be
    /// polled inside a tokio runtime.
    pub async fn read_in_order(
        &self,
        reading: &Reading,
        ahead: usize,
    ) -> Result<Batches<impl Iterator<Item = Vec<u64>> + Send + use<>>, CodedError> {
        let course = self.declare(reading).await?;
        Ok(self.batches(course.into_batches(), ahead))
    }

    /// Reads samples at once, in this order. Several calls may be under way.
    pub async fn read(&self, samples: &[u64]) -> Result<Batch, CodedError> {
        self.inner.read(samples.to_vec(), false).await
    }

    /// As [`Dataset::read`], with each file's whole path as its name.
    pub async fn read_with_paths(&self, samples: &[u64]) -> Result<Batch, CodedError> {
        self.inner.read(samples.to_vec(), true).await
    }

    /// Reads `length` bytes of a file from `offset` on, fewer where it ends before: a batch of one sample with one field.
    pub async fn read_range(&self, path: &[u8], offset: u64, length: u64) -> Result<Batch, CodedError> {
        self.read_member_range(0, path, offset, length).await
    }

    /// As [`Dataset::read_range`], in one of the versions of a collection.
    pub async fn read_member_range(
        &self,
        member: u32,
        path: &[u8],
        offset: u64,
        length: u64,
    ) -> Result<Batch, CodedError> {
        let what = ReadWhat::Range { member, path: path.to_vec(), offset, length };
        self.inner.fetch(what, Vec::new()).await
    }

    /// Reads batch after batch as `order` gives them, `ahead` of them at a time while the first is waited for. Must be polled
    /// inside a tokio runtime.
    pub fn batches<I>(&self, order: I, ahead: usize) -> Batches<I::IntoIter>
    where
        I: IntoIterator<Item = Vec<u64>>,
    {
        Batches { dataset: self.clone(), order: order.into_iter(), ahead: ahead.max(1), under_way: VecDeque::new() }
    }
}

/// Batches in the order in which they were asked for; see [`Dataset::batches`].
pub struct Batches<I> {
    dataset: Dataset,
    order: I,
    ahead: usize,
    under_way: VecDeque<JoinHandle<Result<Batch, CodedError>>>,
}

impl<I: Iterator<Item = Vec<u64>>> Batches<I> {
    /// The next batch; none at the end of the order.
    pub async fn next(&mut self) -> Option<Result<Batch, CodedError>> {
        std::future::poll_fn(|cx| self.poll_batch(cx)).await
    }

    fn poll_batch(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Batch, CodedError>>> {
        while self.under_way.len() < self.ahead
            && let Some(samples) = self.order.next()
        {
            let inner = self.dataset.inner.clone();
            self.under_way.push_back(work::spawn(async move { inner.read(samples, false).await }));
        }
        let Some(first) = self.under_way.front_mut() else { return std::task::Poll::Ready(None) };
        std::pin::Pin::new(first).poll(cx).map(|read| {
            self.under_way.pop_front();
            Some(read.unwrap_or_else(|error| {
                Err(CodedError::new(&codes::INTERNAL, "reading a batch broke off").with_source(error))
            }))
        })
    }
}

/// No part of it is ever pinned.
impl<I> Unpin for Batches<I> {}

impl<I: Iterator<Item = Vec<u64>>> Stream for Batches<I> {
    type Item = Result<Batch, CodedError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.poll_batch(cx)
    }
}

impl<I> Drop for Batches<I> {
    fn drop(&mut self) {
        for read in &self.under_way {
            read.abort();
        }
    }
}

struct Found {
    source: u32,
    id: [u8; ID_BYTES],
    number: u64,
    members: Vec<SourceMember>,
}

async fn source(link: &Link, name: &str) -> Result<Found, CodedError> {
    match link.ask(|question| ReaderMessage::OpenSource { question, name: name.to_owned() }).await? {
        ReaderMessage::SourceIs { source, id, number, members, .. } => Ok(Found { source, id, number, members }),
        _ => Err(CodedError::new(&codes::BAD_FRAME, "the core answered with something else than asked for")),
    }
}

async fn declared(link: &Link, source: u32, reading: &Reading) -> Result<(), CodedError> {
    match link.ask(|question| ReaderMessage::Declare { question, source, reading: reading.clone() }).await? {
        ReaderMessage::Declared { .. } => Ok(()),
        _ => Err(CodedError::new(&codes::BAD_FRAME, "the core answered with something else than asked for")),
    }
}

impl Inner {
    async fn read(&self, samples: Vec<u64>, paths: bool) -> Result<Batch, CodedError> {
        if let Some(sample) = samples.iter().find(|sample| **sample >= self.samples) {
            let message =
                format!("there is no sample {sample} in `{}`: it has {}, counted from 0", self.label, self.samples);
            return Err(CodedError::new(&codes::SAMPLE_OUT_OF_RANGE, message));
        }
        let batch = self.fetch(ReadWhat::Samples { samples: samples.clone(), paths }, samples).await?;
        self.shared.counters.samples.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(batch)
    }

    /// Fetches until something whole has come, or it is clear that nothing will.
    async fn fetch(&self, what: ReadWhat, numbers: Vec<u64>) -> Result<Batch, CodedError> {
        let Shared { options, buffers, counters, .. } = &*self.shared;
        let mut mismatches = 0;
        let began = Instant::now();
        loop {
            let (link, source) = self.source().await?;
            let slot = buffers.take(&*link.lane);
            let answer = match link.lane.read(source, what.clone(), slot).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::info!(%error, "a read begins anew");
                    self.forget(&link).await;
                    continue;
                }
            };
            let slot = match answer {
                ReadAnswer::Filled(slot) => slot,
                ReadAnswer::Failed(slot, failure) => {
                    let needed = usize::try_from(failure.slot_bytes_needed).unwrap_or(usize::MAX);
                    if needed > slot.len() && needed <= options.buffer_bytes_max.min(SLOT_BYTES_MAX as usize) {
                        buffers.grow(needed.next_power_of_two().min(options.buffer_bytes_max));
                        continue;
                    }
                    buffers.give(slot);
                    return Err(self.named(failure.refusal));
                }
            };
            let reply = Reply::parse(&slot).map_err(|error| error.to_string());
            let checked = reply.and_then(|reply| match options.verify.then(|| reply.verify(&slot)) {
                Some(Err(failure)) => Err(format!("bytes that should be {} are others", failure.id.short())),
                _ => Ok(reply),
            });
            match checked {
                Ok(reply) => {
                    counters.bytes.fetch_add(reply.payload_bytes() as u64, Ordering::Relaxed);
                    let waited = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    counters.waited_ns.fetch_add(waited, Ordering::Relaxed);
                    return Ok(Batch::new(Buffer::new(buffers, slot), reply, numbers, self.label.clone()));
                }
                Err(reason) => {
                    counters.mismatches.fetch_add(1, Ordering::Relaxed);
                    buffers.give(slot);
                    mismatches += 1;
                    tracing::warn!(reason, dataset = &*self.label, "what arrived is damaged, and is fetched again");
                    if mismatches >= FETCHES_MAX {
                        let message = format!("what comes of `{}` is damaged: {reason}", self.label);
                        return Err(CodedError::new(&codes::VERIFICATION_FAILED, message));
                    }
                }
            }
        }
    }

    /// The core's refusal of a read, which knows the dataset by a number only.
    fn named(&self, refusal: Refusal) -> CodedError {
        let mut error = CodedError::from(refusal);
        if error.is(&codes::NOT_FOUND) && !error.message.contains(&*self.label) {
            error.message = format!("`{}` can't be read: {}", self.label, error.message);
        }
        error
    }

    /// Its number on a connection that lives; it is opened there again where that is a new one.
    async fn source(&self) -> Result<(Arc<Link>, u32), CodedError> {
        let mut open = self.open.lock().await;
        if let Some((link, source)) = &open.at
            && link.why_ended().is_none()
        {
            return Ok((link.clone(), *source));
        }
        loop {
            let (_, link) = self.shared.link().await?;
            let found = match source(&link, &self.label).await {
                Err(error) if error.is(&codes::SESSION_ENDED) => continue,
                found => found?,
            };
            if found.id != self.id {
                let message = format!("`{}` is not what it was any more", self.label);
                return Err(CodedError::new(&codes::VERSION_CONFLICT, message)
                    .with_hint("the core was restored from an older backup: open the dataset anew"));
            }
            if let Some(reading) = &open.reading {
                match declared(&link, found.source, reading).await {
                    Err(error) if error.is(&codes::SESSION_ENDED) => continue,
                    declared => declared?,
                }
            }
            open.at = Some((link.clone(), found.source));
            return Ok((link, found.source));
        }
    }

    async fn declare(&self, reading: &Reading) -> Result<(), CodedError> {
        loop {
            let (link, source) = self.source().await?;
            match declared(&link, source, reading).await {
                Err(error) if error.is(&codes::SESSION_ENDED) => self.forget(&link).await,
                Err(error) => return Err(error),
                Ok(()) => {
                    self.open.lock().await.reading = Some(reading.clone());
                    return Ok(());
                }
            }
        }
    }

    /// A connection that failed is not used again.
    async fn forget(&self, failed: &Arc<Link>) {
        let mut open = self.open.lock().await;
        if open.at.as_ref().is_some_and(|(link, _)| Arc::ptr_eq(link, failed)) {
            open.at = None;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((link, source)) = self.open.get_mut().at.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            work::spawn(async move { link.tell(ReaderMessage::CloseSource { source }).await });
        }
    }
}
