//! What an item travels as: plain, compressed, or as a delta, whichever is shortest.

use bytes::Bytes;
use headwater_protocol::chunking::CHUNK_BYTES_MAX;
use headwater_protocol::compress::{self, DELTA_SOURCES_MAX};
use headwater_protocol::id::ChunkId;
use headwater_protocol::sync::Load;
use headwater_protocol::wire::{Encoding, ItemHeader, ItemKey, PAYLOAD_BYTES_MAX};

use super::{ItemBody, LoadedItem, Source, SourceError};

/// A delta this much shorter than its item is taken without trying anything else.
const DELTA_GOOD_PARTS: usize = 8;

/// An item ready for the wire.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) id: ChunkId,
    pub(super) header: ItemHeader,
    pub(super) payload: Bytes,
}

/// Reads an item from its source and packs it. Blocking.
pub(super) fn load(
    source: &dyn Source,
    transfer: u32,
    load: Load,
    compression_level: Option<i32>,
) -> Result<Packed, SourceError> {
    let item = match load.key {
        ItemKey::Page(id) => source.page(&id)?,
        ItemKey::Chunk(ordinal) => source.chunk(ordinal)?,
    };
    let (id, plain_bytes) = (item.id, item.plain_bytes());
    if plain_bytes == 0 || plain_bytes > CHUNK_BYTES_MAX {
        return Err(broken(format!("an item of {plain_bytes} bytes")));
    }
    let from_offset = load.from_offset.min(plain_bytes - 1);
    let (encoding, payload) = if load.plain {
        (Encoding::Plain { from_offset: 0 }, plain_of(&item)?)
    } else if from_offset > 0 {
        rest(plain_of(&item)?.slice(from_offset as usize..), from_offset, compression_level)
    } else {
        whole(item, compression_level)?
    };
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(broken(format!("a payload of {payload_bytes} bytes")));
    }
    Ok(Packed { id, header: ItemHeader { transfer, key: load.key, plain_bytes, payload_bytes, encoding }, payload })
}

fn broken(reason: impl Into<super::BoxError>) -> SourceError {
    SourceError::Io(reason.into())
}

fn plain_of(item: &LoadedItem) -> Result<Bytes, SourceError> {
    match &item.body {
        ItemBody::Plain(bytes) => Ok(bytes.clone()),
        ItemBody::Zstd { frame, plain_bytes } => {
            compress::decompress(frame, *plain_bytes as usize).map(Bytes::from).map_err(broken)
        }
    }
}

fn rest(plain: Bytes, from_offset: u32, level: Option<i32>) -> (Encoding, Bytes) {
    match level.and_then(|level| compress::compress(&plain, level)) {
        Some(frame) => (Encoding::Zstd { from_offset }, frame.into()),
        None => (Encoding::Plain { from_offset }, plain),
    }
}

fn whole(mut item: LoadedItem, level: Option<i32>) -> Result<(Encoding, Bytes), SourceError> {
    let delta = match item.delta.take() {
        Some(base) if base.sources.len() <= DELTA_SOURCES_MAX && !base.sources.is_empty() => {
            let frame = compress::encode_delta(&base.prefix, &plain_of(&item)?);
            frame.map(|frame| (Encoding::Delta { sources: base.sources }, Bytes::from(frame)))
        }
        _ => None,
    };
    let good = item.plain_bytes() as usize / DELTA_GOOD_PARTS;
    if let Some((_, frame)) = &delta
        && frame.len() <= good
    {
        return Ok(delta.expect("just looked at"));
    }
    let other = match item.body {
        ItemBody::Plain(plain) => rest(plain, 0, level),
        ItemBody::Zstd { frame, .. } => (Encoding::Zstd { from_offset: 0 }, frame),
    };
    Ok(match delta {
        // The sources are named in the header.
        Some((Encoding::Delta { sources }, frame))
            if frame.len() + sources.len() * size_of::<headwater_protocol::wire::DeltaSource>() < other.1.len() =>
        {
            (Encoding::Delta { sources }, frame)
        }
        _ => other,
    })
}
