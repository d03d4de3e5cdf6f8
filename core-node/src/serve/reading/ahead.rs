//! Reading ahead along what a session declared: chunks come from packs before they are asked for.
//!
//! Only where the session missed something lately, and then a bounded way: behind it the cache would be full of what is
//! needed later than what is there. What nobody waits for has few of the reads (`cache`), so it keeps no miss waiting long and
//! no hit at all.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_protocol::record::ChunkRef;
use headwater_quic::work;

use super::answer::lay_out;
use super::declared::Declared;
use super::layout::Place;
use super::leaf::{FileBody, LaidLeaf};
use super::sources::OpenSource;
use crate::cache::{BLOCK_BYTES, Samples};
use crate::core::Core;

/// Batches ahead of what was asked for.
const AHEAD_BATCHES: u64 = 4;
/// Samples ahead, where batches are small.
const AHEAD_SAMPLES_MIN: u64 = 64;
/// Samples ahead, where they are large.
const AHEAD_SAMPLES_MAX: u64 = 4096;
/// The part of the cache that one session reads ahead: one in so many bytes.
const AHEAD_PART: u64 = 8;
/// Chunks that one session waits for at once.
const READS_MAX: usize = 4;

/// A chunk that will be needed.
struct Wanted {
    chunk: ChunkRef,
    samples: Samples,
}

/// Reads ahead of `source` if it declared what it reads and missed something lately. Returns at once.
pub(super) fn nudge(core: &Arc<Core>, source: &Arc<OpenSource>) {
    let Some(declared) = source.declared().filter(|declared| declared.begin_reading_ahead()) else { return };
    let (core, source) = (core.clone(), source.clone());
    work::spawn(async move {
        read_ahead(&core, &source, &declared).await;
        declared.end_reading_ahead();
    });
}

async fn read_ahead(core: &Arc<Core>, source: &Arc<OpenSource>, declared: &Arc<Declared>) {
    let batch = u64::from(declared.reading.batch);
    let window = batch.saturating_mul(AHEAD_BATCHES).clamp(AHEAD_SAMPLES_MIN, AHEAD_SAMPLES_MAX.max(batch));
    let cache = &core.readers.cache;
    let (from, to) = declared.window(window);
    let finding = {
        let (core, source, declared) = (core.clone(), source.clone(), declared.clone());
        let bytes_max = cache.bytes() / AHEAD_PART;
        work::spawn_blocking(move || find(&core, &source, &declared, from..to, bytes_max))
    };
    let Ok((wanted, reached)) = finding.await else { return };
    let mut wanted = wanted.into_iter();
    loop {
        let some: Vec<_> = wanted.by_ref().take(READS_MAX).collect();
        if some.is_empty() {
            break;
        }
        let reads = some.into_iter().map(|Wanted { chunk, samples }| {
            let blocks = (chunk.length as usize).div_ceil(BLOCK_BYTES);
            cache.load_ahead(chunk.id, samples, blocks, source.reader)
        });
        // It is too early for what comes after one for which there is no room.
        if !futures_util::future::join_all(reads).await.into_iter().all(|read| read) {
            return;
        }
    }
    declared.read_ahead_to(reached);
}

/// The chunks of the samples of some turns that are not there, up to so many bytes; and the turn up to which that goes. What
/// can't be read is left to whoever asks for it. Blocks.
fn find(
    core: &Core,
    source: &OpenSource,
    declared: &Declared,
    turns: std::ops::Range<u64>,
    bytes_max: u64,
) -> (Vec<Wanted>, u64) {
    let (mut wanted, mut known, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
    for turn in turns.clone() {
        let Some(place) = declared.course.sample(turn).and_then(|sample| source.layout.place(sample)) else { continue };
        let Some(leaf) = leaf(core, &place) else { continue };
        for (chunk, samples) in chunks(&leaf, &place) {
            if known.insert(chunk.id) && !core.readers.cache.knows(&chunk.id) {
                bytes += u64::from(chunk.length);
                wanted.push(Wanted { chunk, samples });
            }
        }
        if bytes > bytes_max {
            return (wanted, turn + 1);
        }
    }
    (wanted, turns.end)
}

fn leaf(core: &Core, place: &Place<'_>) -> Option<Arc<LaidLeaf>> {
    let kept = core.readers.leaves().get(&place.leaf.child.id);
    kept.or_else(|| lay_out(core, place).ok())
}

/// The chunks of a sample; files with extent pages of their own are large, and are read as they are asked for.
fn chunks(leaf: &LaidLeaf, place: &Place<'_>) -> Vec<(ChunkRef, Samples)> {
    let files = leaf.sample(place.sample).unwrap_or_default();
    let of_file = |body: FileBody| match body {
        FileBody::Empty | FileBody::Paged => Vec::new(),
        FileBody::Shared { chunk, .. } => vec![chunk],
        FileBody::Whole { first, count } => leaf.extents[first as usize..(first + count) as usize].to_vec(),
    };
    let all = files.iter().flat_map(|file| of_file(file.body));
    all.map(|index| (leaf.chunks[index as usize], leaf.samples_of(index, place.first()))).collect()
}
