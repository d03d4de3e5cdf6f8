//! Reading files on all cores: small ones by the batch, large ones by the segment.
//!
//! A file is believed only if its `stat` after reading is the one that the walk saw before it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use bytes::Bytes;
use headwater_protocol::chunking::{ChunkerParams, StreamChunker};
use headwater_protocol::id::ChunkId;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tree::SinkError;
use rustix::io::Errno;

use super::large::SegmentJob;
use super::options::Cancel;
use super::stamp::Stamp;
use crate::beneath;
use crate::version::ChunkSink;

/// Most bytes of a batch, unless it is a single file: as much as malloc takes from memory that was used before.
const BATCH_BYTES: usize = 120 << 10;
/// Most files of a batch.
const BATCH_FILES_MAX: usize = 256;

/// A file to be read, as the walk saw it.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The asker's number for it.
    pub ticket: u64,
    /// Where it is.
    pub path: RelPath,
    /// What it was like.
    pub stamp: Stamp,
}

/// What a file holds.
#[derive(Clone, Debug)]
pub enum FileContent {
    /// A file below the chunker's `min_bytes`.
    Small {
        /// BLAKE3 of its bytes.
        hash: ChunkId,
        /// Its bytes, in a buffer that others share.
        bytes: Bytes,
    },
    /// The chunks of a larger file.
    Large(Vec<ChunkRef>),
}

/// What became of a [`ReadRequest`].
#[derive(Debug)]
pub enum ReadOutcome {
    /// It was read.
    Read(FileContent),
    /// It is not what the walk saw any more.
    Changed,
    /// It can't be read.
    Unreadable(io::Error),
    /// Its chunks could not be taken.
    Sink(SinkError),
    /// The work was stopped.
    Cancelled,
}

/// A ticket and what became of its file.
pub type Outcome = (u64, ReadOutcome);

enum Job {
    Small(Vec<ReadRequest>),
    Large(SegmentJob),
}

/// What all reading threads share.
#[derive(Clone, Copy)]
pub struct ReadContext<'e> {
    /// The folder.
    pub root: BorrowedFd<'e>,
    /// How large files are cut; smaller files than its `min_bytes` are small.
    pub chunker: ChunkerParams,
    /// Takes the chunks of large files.
    pub chunks: &'e dyn ChunkSink,
    /// Stops the work.
    pub cancel: &'e Cancel,
}

/// Threads that read files; they start with the first request and end when the pool is dropped. What waits for them is
/// bounded by who asks.
pub struct ReadPool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    context: ReadContext<'env>,
    threads: usize,
    jobs: Option<Sender<Job>>,
    sender: Sender<Outcome>,
    outcomes: Receiver<Outcome>,
    batch: Vec<ReadRequest>,
    batch_bytes: usize,
    waiting: usize,
}

impl<'scope, 'env> ReadPool<'scope, 'env> {
    /// A pool of up to `threads` threads.
    pub fn new(scope: &'scope Scope<'scope, 'env>, context: ReadContext<'env>, threads: usize) -> Self {
        let (sender, outcomes) = channel();
        Self {
            scope,
            context,
            threads: threads.max(1),
            jobs: None,
            sender,
            outcomes,
            batch: Vec::new(),
            batch_bytes: 0,
            waiting: 0,
        }
    }

    /// Has a file read. Its outcome comes from [`wait`](Self::wait), in no order.
    pub fn request(&mut self, request: ReadRequest) {
        self.waiting += 1;
        if request.stamp.size >= u64::from(self.context.chunker.min_bytes) {
            for job in SegmentJob::all_of(self.context, request, self.threads) {
                self.send(Job::Large(job));
            }
            return;
        }
        let size = request.stamp.size as usize;
        if self.batch_bytes + size > BATCH_BYTES || self.batch.len() == BATCH_FILES_MAX {
            self.flush();
        }
        self.batch_bytes += size;
        self.batch.push(request);
    }

    /// An outcome; waits for one if files are being read, else there is none.
    pub fn wait(&mut self) -> Option<Outcome> {
        if self.waiting == 0 {
            return None;
        }
        if let Some(outcome) = self.arrived() {
            return Some(outcome);
        }
        self.flush();
        let outcome = self.outcomes.recv().ok()?;
        self.waiting -= 1;
        assert!(outcome.0 != PANICKED, "a reading thread panicked");
        Some(outcome)
    }

    /// An outcome that is there already.
    pub fn arrived(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.waiting -= 1;
        assert!(outcome.0 != PANICKED, "a reading thread panicked");
        Some(outcome)
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.batch_bytes = 0;
            let batch = std::mem::take(&mut self.batch);
            self.send(Job::Small(batch));
        }
    }

    fn send(&mut self, job: Job) {
        let jobs = self.jobs.get_or_insert_with(|| start(self.scope, self.context, self.threads, &self.sender));
        assert!(jobs.send(job).is_ok(), "reading threads end after their channel");
    }
}

fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    context: ReadContext<'env>,
    threads: usize,
    results: &Sender<Outcome>,
) -> Sender<Job> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let (receiver, results) = (receiver.clone(), results.clone());
        scope.spawn(move || {
            let _guard = PanicGuard(results.clone());
            let mut chunker = StreamChunker::new(context.chunker).expect("the parameters were checked");
            loop {
                let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match job {
                    Ok(Job::Small(batch)) => read_batch(context, batch, &results),
                    Ok(Job::Large(job)) => {
                        if let Some(outcome) = job.run(context, &mut chunker) {
                            let _ = results.send(outcome);
                        }
                    }
                    Err(_) => return,
                }
            }
        });
    }
    sender
}

/// Ticket of the outcome that a panicking thread sends, so that nobody waits for it for ever.
const PANICKED: u64 = u64::MAX;

struct PanicGuard(Sender<Outcome>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send((PANICKED, ReadOutcome::Cancelled));
        }
    }
}

fn read_batch(context: ReadContext<'_>, batch: Vec<ReadRequest>, results: &Sender<Outcome>) {
    let mut buffer = vec![0; batch.iter().map(|request| request.stamp.size as usize).sum()];
    let mut end = 0;
    let mut outcomes = Vec::with_capacity(batch.len());
    for request in batch {
        let size = request.stamp.size as usize;
        let outcome = read_small(context, &request, &mut buffer[end..end + size]);
        let outcome = outcome.map(|hash| {
            let range = end..end + size;
            end += size;
            (hash, range)
        });
        outcomes.push((request.ticket, outcome));
    }
    let shared = Bytes::from(buffer);
    for (ticket, outcome) in outcomes {
        let outcome = match outcome {
            Ok((hash, range)) => ReadOutcome::Read(FileContent::Small { hash, bytes: shared.slice(range) }),
            Err(outcome) => outcome,
        };
        let _ = results.send((ticket, outcome));
    }
}

fn read_small(context: ReadContext<'_>, request: &ReadRequest, into: &mut [u8]) -> Result<ChunkId, ReadOutcome> {
    if context.cancel.is_cancelled() {
        return Err(ReadOutcome::Cancelled);
    }
    let mut file = open(context, request)?;
    match file.read_exact(into) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadOutcome::Changed),
        Err(error) => return Err(ReadOutcome::Unreadable(error)),
    }
    unchanged(&file, request)?;
    Ok(ChunkId::of(into))
}

pub(super) fn open(context: ReadContext<'_>, request: &ReadRequest) -> Result<File, ReadOutcome> {
    match beneath::open_file(context.root.as_fd(), request.path.as_bytes()) {
        Ok(file) => Ok(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Err(ReadOutcome::Changed),
        Err(error) => Err(ReadOutcome::Unreadable(error.into())),
    }
}

pub(super) fn unchanged(file: &File, request: &ReadRequest) -> Result<(), ReadOutcome> {
    let stat = rustix::fs::fstat(file).map_err(|error| ReadOutcome::Unreadable(error.into()))?;
    if Stamp::of(&stat) == request.stamp { Ok(()) } else { Err(ReadOutcome::Changed) }
}
