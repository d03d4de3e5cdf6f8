//! One request of a job, from its decoding to the bytes that answer it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::delivery::{FileStatus, ReadFailure, ReadRequest, ReadWhat, Unit, proof};
use headwater_protocol::id::ChunkId;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{ChunkRef, Content, FileKind};
use headwater_protocol::tree::{LeafRef, RecordAt, Tree, TreeError};
use headwater_quic::work;

use super::ahead;
use super::gather::{GatherError, gather};
use super::layout::{Member, Place};
use super::leaf::{FileBody, LaidFile, LaidLeaf};
use super::plan::BatchPlan;
use super::sources::OpenSource;
use crate::cache::{LoadError, Samples};
use crate::control::tree_failed;
use crate::core::Core;

/// Whatever is read of a file by its range is read for no sample.
const NO_SAMPLES: Samples = 0..0;

/// Why a request gets no bytes.
#[derive(Debug)]
pub(super) enum Refused {
    /// What a person is told.
    Coded(CodedError),
    /// The slot would have to have so many bytes.
    SlotTooSmall { needed: u64, has: u32 },
}

impl From<CodedError> for Refused {
    fn from(error: CodedError) -> Self {
        Self::Coded(error)
    }
}

impl From<Refused> for ReadFailure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Coded(error) => Self { refusal: error.refusal(), slot_bytes_needed: 0 },
            Refused::SlotTooSmall { needed, has } => {
                let message = format!("the answer has {needed} bytes, and the receive buffer {has}");
                Self { refusal: CodedError::new(&codes::SLOT_TOO_SMALL, message).refusal(), slot_bytes_needed: needed }
            }
        }
    }
}

/// The pieces that answer `request`.
pub(super) async fn answer(
    core: &Arc<Core>,
    source: &Arc<OpenSource>,
    request: &Arc<ReadRequest>,
) -> Result<Vec<Bytes>, Refused> {
    source.keep();
    match &request.what {
        ReadWhat::Samples { samples: numbers, .. } => {
            let answered = samples(core, source, request).await;
            // Until now what they need was needed next.
            source.read(numbers);
            ahead::nudge(core, source);
            answered
        }
        ReadWhat::Range { .. } => range(core, source, request).await,
    }
}

async fn samples(
    core: &Arc<Core>,
    source: &Arc<OpenSource>,
    request: &Arc<ReadRequest>,
) -> Result<Vec<Bytes>, Refused> {
    let mut lost = BTreeSet::new();
    loop {
        let plan = if let Some(plan) = plan_samples(core, source, request, &lost, false)? {
            plan
        } else {
            let (core, source, request, lost) = (core.clone(), source.clone(), request.clone(), lost.clone());
            let planned = work::spawn_blocking(move || plan_samples(&core, &source, &request, &lost, true));
            planned.await.map_err(|_| broken_off())??.ok_or_else(broken_off)?
        };
        let readers = &core.readers;
        match gather(&readers.cache, &readers.staging, source.reader, &plan).await {
            Ok((pieces, misses)) => {
                if misses > 0 {
                    source.missed();
                }
                return Ok(pieces);
            }
            // Each turn knows of more lost chunks than the one before.
            Err(GatherError::Lost(more)) => {
                assert!(!more.is_subset(&lost), "a plan does not name what it was told is lost");
                lost.extend(more);
            }
            Err(GatherError::Failed(reason)) => return Err(store_failed(&reason).into()),
        }
    }
}

fn broken_off() -> Refused {
    CodedError::new(&codes::INTERNAL, "the core made a mistake with this read").into()
}

fn store_failed(reason: &str) -> CodedError {
    tracing::error!(reason, "the store failed while a job read");
    CodedError::new(&codes::READ_FAILED, "the core could not read its store")
}

/// A sample that is wanted, and its leaf.
struct Wanted<'a> {
    place: Place<'a>,
    leaf: Arc<LaidLeaf>,
}

/// Plans a batch. None if that would have to wait for a disk and may not.
fn plan_samples(
    core: &Core,
    source: &OpenSource,
    request: &ReadRequest,
    lost: &BTreeSet<ChunkId>,
    may_wait: bool,
) -> Result<Option<BatchPlan>, Refused> {
    let ReadWhat::Samples { samples, paths } = &request.what else { return Ok(None) };
    if *paths && !may_wait {
        return Ok(None);
    }
    let Some(wanted) = find(core, source, samples, may_wait)? else { return Ok(None) };
    let mut plan = BatchPlan::default();
    let mut payload_bytes = 0u64;
    for Wanted { place, leaf } in &wanted {
        let files = leaf.sample(place.sample).ok_or_else(|| out_of_step(place.member))?;
        for parts in files.chunk_by(|_, next| next.continues) {
            let file = &parts[0];
            payload_bytes = payload_bytes.saturating_add(parts.iter().map(|part| part.size).sum());
            if payload_bytes > u64::from(request.slot_bytes) {
                // It is only counted from here on.
                continue;
            }
            let is_paged = parts.iter().any(|part| part.body == FileBody::Paged);
            if is_paged && !may_wait {
                return Ok(None);
            }
            let at = (&**leaf, place.first());
            let sample = at.1 + place.sample as u64;
            let sample = sample..sample + 1;
            if !is_paged && !*paths && lost.is_empty() {
                plan.add_file(at, parts, leaf.suffix_of(file), (&[], &sample), lost);
                continue;
            }
            if !may_wait {
                return Ok(None);
            }
            let record = record_of(core, place.member, place.leaf, file)?;
            let mut paged = Vec::new();
            for part in parts.iter().filter(|_| is_paged) {
                let record = record_of(core, place.member, place.leaf, part)?;
                paged.push(if part.body == FileBody::Paged {
                    extents(core, place.member, &record)?
                } else {
                    Vec::new()
                });
            }
            let is_lost = !lost.is_empty();
            // One that can't be read is named whole.
            let name = if *paths || is_lost { record.path.as_slice() } else { leaf.suffix_of(file) };
            plan.add_file(at, parts, name, (&paged, &sample), lost);
        }
        plan.end_sample();
    }
    let needed = payload_bytes.saturating_add(plan.tables.table_bytes() as u64);
    if needed > u64::from(request.slot_bytes) {
        return Err(Refused::SlotTooSmall { needed, has: request.slot_bytes });
    }
    Ok(Some(plan))
}

/// The places of `samples` with their leaves. None if one would have to be read and may not.
fn find<'a>(
    core: &Core,
    source: &'a OpenSource,
    samples: &[u64],
    may_wait: bool,
) -> Result<Option<Vec<Wanted<'a>>>, Refused> {
    let mut places = Vec::with_capacity(samples.len());
    for &sample in samples {
        places.push(source.layout.place(sample).ok_or_else(|| out_of_range(source, sample))?);
    }
    let mut missing: BTreeMap<ChunkId, Place<'a>> = BTreeMap::new();
    let found: Vec<Option<Arc<LaidLeaf>>> = {
        let mut leaves = core.readers.leaves();
        let look = |place: &Place<'a>| {
            let leaf = leaves.get(&place.leaf.child.id);
            if leaf.is_none() {
                missing.insert(place.leaf.child.id, *place);
            }
            leaf
        };
        places.iter().map(look).collect()
    };
    if !missing.is_empty() && !may_wait {
        return Ok(None);
    }
    let mut read = BTreeMap::new();
    for (id, place) in missing {
        read.insert(id, lay_out(core, &place).map_err(tree_failed)?);
    }
    let wanted = places.into_iter().zip(found).map(|(place, leaf)| {
        let leaf = leaf.or_else(|| read.get(&place.leaf.child.id).cloned());
        leaf.map(|leaf| Wanted { place, leaf }).ok_or_else(broken_off)
    });
    wanted.collect::<Result<Vec<_>, _>>().map(Some)
}

/// Reads the page of a place and keeps it ready for the next plan. Blocks.
pub(super) fn lay_out(core: &Core, place: &Place<'_>) -> Result<Arc<LaidLeaf>, TreeError> {
    let page = Tree::new(place.member.sampled(), &core.pages).leaf(place.leaf)?;
    let leaf = Arc::new(LaidLeaf::new(&page, place.member.index.is_some()));
    core.readers.leaves().keep(place.leaf.child.id, leaf.clone(), leaf.cost());
    Ok(leaf)
}

fn out_of_range(source: &OpenSource, sample: u64) -> CodedError {
    let samples = source.layout.samples();
    let message = format!("there is no sample {sample}: there are {samples}, counted from 0");
    CodedError::new(&codes::SAMPLE_OUT_OF_RANGE, message)
}

fn out_of_step(member: &Member) -> CodedError {
    CodedError::new(&codes::PACK_DAMAGED, format!("a page of `{}` has fewer samples than it should", member.label()))
}

fn record_of(core: &Core, member: &Member, leaf: &LeafRef, file: &LaidFile) -> Result<RecordAt, CodedError> {
    let leaf = Tree::new(member.sampled(), &core.pages).leaf(leaf).map_err(tree_failed)?;
    Ok(RecordAt { leaf, index: file.record as usize })
}

fn extents(core: &Core, member: &Member, record: &RecordAt) -> Result<Vec<ChunkRef>, CodedError> {
    let tree = Tree::new(member.sampled(), &core.pages);
    tree.stretches(record)
        .map(|stretch| stretch.map(|stretch| stretch.chunk))
        .collect::<Result<_, _>>()
        .map_err(tree_failed)
}

/// A part of a chunk that a range needs.
struct Part {
    chunk: ChunkRef,
    /// What was asked for of the chunk.
    wanted: Range<u32>,
}

/// A range of a file, found.
struct FoundRange {
    label: String,
    path: Vec<u8>,
    size: u64,
    /// Bytes that were asked for and that there are.
    length: u64,
    /// For a file that shares a chunk: where in it, and its own hash.
    shared: Option<(ChunkRef, u32, ChunkId, u32)>,
    parts: Vec<Part>,
}

async fn range(core: &Arc<Core>, source: &Arc<OpenSource>, request: &Arc<ReadRequest>) -> Result<Vec<Bytes>, Refused> {
    let found = {
        let (core, source, request) = (core.clone(), source.clone(), request.clone());
        work::spawn_blocking(move || find_range(&core, &source, &request)).await.map_err(|_| broken_off())??
    };
    let readers = &core.readers;
    let mut plan = BatchPlan::default();
    let mut lead = 0;
    if let Some((chunk, offset, hash, from)) = found.shared {
        let size = found.size as u32;
        lead = from;
        plan.add(chunk.id, NO_SAMPLES, offset, Unit { id: hash, total: size, offset: 0, bytes: size }, 0);
    }
    for (index, part) in found.parts.iter().enumerate() {
        let (chunk, wanted) = (part.chunk, part.wanted.clone());
        let groups = proof::groups_around(wanted.clone(), chunk.length);
        if index == 0 {
            lead = wanted.start - groups.start;
        }
        let bytes = groups.end - groups.start;
        if bytes == chunk.length {
            plan.add_whole(chunk, NO_SAMPLES);
            continue;
        }
        let plain = readers.cache.load(chunk.id, NO_SAMPLES, source.reader).await.map_err(|error| match error {
            LoadError::Lost(_) => unreadable(&found, chunk.id),
            LoadError::Failed(reason) => store_failed(&reason),
        })?;
        let proving = work::spawn_blocking(move || {
            let mut whole = vec![0; plain.len()];
            plain.copy_to(&mut whole, 0);
            proof::prove(&whole, groups)
        });
        let beside = proving.await.map_err(|_| broken_off())?;
        let unit = Unit {
            id: chunk.id,
            total: chunk.length,
            offset: wanted.start / proof::GROUP_BYTES * proof::GROUP_BYTES,
            bytes,
        };
        plan.add(chunk.id, NO_SAMPLES, unit.offset, unit, beside.len() as u32);
        plan.tables.proofs.extend(beside);
    }
    plan.end_file(found.size, &found.path, lead, found.length as u32, FileStatus::Whole, 0);
    plan.end_sample();
    if plan.slot_bytes() > u64::from(request.slot_bytes) {
        return Err(Refused::SlotTooSmall { needed: plan.slot_bytes(), has: request.slot_bytes });
    }
    let gathered = gather(&readers.cache, &readers.staging, source.reader, &plan).await;
    gathered.map(|(pieces, _)| pieces).map_err(|error| match error {
        GatherError::Lost(lost) => unreadable(&found, lost.first().copied().unwrap_or_default()).into(),
        GatherError::Failed(reason) => store_failed(&reason).into(),
    })
}

fn unreadable(found: &FoundRange, chunk: ChunkId) -> CodedError {
    let message = format!(
        "`{}` of `{}` can't be read: its chunk {} is damaged at the core",
        String::from_utf8_lossy(&found.path),
        found.label,
        chunk.short()
    );
    CodedError::new(&codes::SAMPLE_UNREADABLE, message)
}

fn find_range(core: &Core, source: &OpenSource, request: &ReadRequest) -> Result<FoundRange, Refused> {
    let ReadWhat::Range { member, path, offset, length } = &request.what else { return Err(broken_off()) };
    let member = source.layout.members().get(*member as usize).ok_or_else(|| {
        CodedError::new(&codes::SAMPLE_OUT_OF_RANGE, format!("there is no member {member} of what was opened"))
    })?;
    let path = RelPath::new(path.clone()).map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?;
    let tree = Tree::new(&member.manifest, &core.pages);
    let record = tree.find(&path).map_err(tree_failed)?.filter(|record| record.kind == FileKind::File);
    let record = record.ok_or_else(|| {
        CodedError::new(&codes::PATH_NOT_IN_DATASET, format!("`{}` has no file `{path}`", member.label()))
    })?;
    let end = offset.saturating_add(*length).min(record.size);
    let mut found = FoundRange {
        label: member.label(),
        path: path.as_bytes().to_vec(),
        size: record.size,
        length: end.saturating_sub(*offset),
        shared: None,
        parts: Vec::new(),
    };
    if found.length > u64::from(request.slot_bytes) {
        return Err(Refused::SlotTooSmall { needed: found.length, has: request.slot_bytes });
    }
    for stretch in tree.stretches_from(&record, *offset) {
        let stretch = stretch.map_err(tree_failed)?;
        if found.length == 0 || stretch.file_offset >= end {
            break;
        }
        if let Content::Shared { hash, .. } = &record.content {
            found.shared = Some((stretch.chunk, stretch.offset, *hash, *offset as u32));
            break;
        }
        let from = offset.saturating_sub(stretch.file_offset) as u32;
        let to = (end - stretch.file_offset).min(u64::from(stretch.length)) as u32;
        found.parts.push(Part { chunk: stretch.chunk, wanted: from..to });
    }
    Ok(found)
}
