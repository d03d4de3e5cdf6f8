//! From a plan to the bytes that go out: chunks are fetched, small files are put together, large ones are sent from the cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use headwater_protocol::id::ChunkId;

use super::plan::BatchPlan;
use super::staging::Staging;
use crate::cache::{Chunk, LoadError, Reader, ResidentCache};

/// A stretch up to this length is copied beside its neighbours; a longer one goes out from where it lies.
const COPIED_BYTES_MAX: u32 = 16 * 1024;

/// Why a plan could not be carried out.
#[derive(Debug)]
pub(super) enum GatherError {
    /// These chunks can't be had: plan again without them.
    Lost(BTreeSet<ChunkId>),
    /// The store failed.
    Failed(String),
}

/// Fetches the chunks of `plan` for `reader`; gives the pieces, and how many chunks were not there. A chunk of which only small stretches are wanted is let go as soon as they are
/// copied, so that a batch from all over a dataset pins nothing.
pub(super) async fn gather(
    cache: &Arc<ResidentCache>,
    staging: &Arc<Staging>,
    reader: Reader,
    plan: &BatchPlan,
) -> Result<(Vec<Bytes>, usize), GatherError> {
    let mut gathering = Gathering::new(staging, plan);
    let mut lost = BTreeSet::new();
    let mut loading = FuturesUnordered::new();
    for (index, found) in cache.look_up(&plan.chunks, reader).into_iter().enumerate() {
        match found {
            Some(chunk) => gathering.take(index, chunk),
            None => loading.push(async move {
                let (chunk, samples) = plan.chunks[index].clone();
                (index, cache.load(chunk, samples, reader).await)
            }),
        }
    }
    let misses = loading.len();
    while let Some((index, loaded)) = loading.next().await {
        match loaded {
            Ok(chunk) => gathering.take(index, chunk),
            Err(LoadError::Lost(_)) => {
                lost.insert(plan.chunks[index].0);
            }
            Err(LoadError::Failed(reason)) => return Err(GatherError::Failed(reason)),
        }
    }
    if lost.is_empty() { Ok((gathering.finish(staging), misses)) } else { Err(GatherError::Lost(lost)) }
}

struct Gathering<'a> {
    plan: &'a BatchPlan,
    buffer: Vec<u8>,
    /// The pieces of each chunk, by where they begin in `order`.
    starts: Vec<u32>,
    order: Vec<u32>,
    /// For each piece its place in the buffer; none for one that goes out from where it lies.
    places: Vec<Option<usize>>,
    held: Vec<Option<Chunk>>,
}

impl<'a> Gathering<'a> {
    fn new(staging: &Arc<Staging>, plan: &'a BatchPlan) -> Self {
        let mut buffer = staging.take();
        plan.tables.write(&mut buffer);
        let mut end = buffer.len();
        let places = plan.pieces.iter().map(|piece| {
            (piece.length <= COPIED_BYTES_MAX).then(|| {
                end += piece.length as usize;
                end - piece.length as usize
            })
        });
        let places: Vec<_> = places.collect();
        buffer.resize(end, 0);
        // Pieces by chunk, by counting.
        let mut starts = vec![0u32; plan.chunks.len() + 1];
        for piece in &plan.pieces {
            starts[piece.chunk + 1] += 1;
        }
        for chunk in 0..plan.chunks.len() {
            starts[chunk + 1] += starts[chunk];
        }
        let mut next = starts.clone();
        let mut order = vec![0; plan.pieces.len()];
        for (index, piece) in plan.pieces.iter().enumerate() {
            order[next[piece.chunk] as usize] = index as u32;
            next[piece.chunk] += 1;
        }
        Self { plan, buffer, starts, order, places, held: vec![None; plan.chunks.len()] }
    }

    /// Takes what is wanted of a chunk, and holds the chunk if some of that goes out from where it lies.
    fn take(&mut self, index: usize, chunk: Chunk) {
        let mut sent_from = false;
        for &piece in &self.order[self.starts[index] as usize..self.starts[index + 1] as usize] {
            let wanted = self.plan.pieces[piece as usize];
            match self.places[piece as usize] {
                Some(at) => {
                    chunk.copy_to(&mut self.buffer[at..at + wanted.length as usize], wanted.offset as usize);
                }
                None => sent_from = true,
            }
        }
        if sent_from {
            self.held[index] = Some(chunk);
        }
    }

    fn finish(self, staging: &Arc<Staging>) -> Vec<Bytes> {
        let buffer = staging.lend(self.buffer);
        let mut pieces = Vec::new();
        let mut copied = 0..self.plan.tables.table_bytes();
        for (piece, place) in self.plan.pieces.iter().zip(&self.places) {
            if place.is_some() {
                copied.end += piece.length as usize;
                continue;
            }
            if !copied.is_empty() {
                pieces.push(buffer.slice(copied.clone()));
            }
            copied.start = copied.end;
            if let Some(chunk) = &self.held[piece.chunk] {
                chunk.append_to(&mut pieces, piece.offset as usize, piece.length as usize);
            }
        }
        if !copied.is_empty() {
            pieces.push(buffer.slice(copied));
        }
        pieces
    }
}
