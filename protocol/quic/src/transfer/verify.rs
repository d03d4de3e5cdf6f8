//! Turning payloads into verified bytes, away from the reactor.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use headwater_protocol::compress;
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::sync::Expected;
use headwater_protocol::wire::{DeltaSource, Encoding, ItemKey};

use super::{Destination, DestinationError, IncomingItem};
use crate::session::TakenMemory;
use crate::session::shared::ArrivedItem;

/// An item that passed, as it goes to the destination; a page with its content.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) key: ItemKey,
    pub(super) item: IncomingItem,
    pub(super) page: Option<Page>,
    /// Taken for the bytes that its batch was unpacked to.
    pub(super) memory: Option<Arc<TakenMemory>>,
}

/// How an item turned out.
#[derive(Debug)]
pub(super) enum Outcome {
    Good(Box<Verified>),
    /// Its bytes are others, or what it stands on is not here.
    Unusable(ItemKey),
}

/// Bytes that a batch takes beside its payloads once it is verified.
pub(super) fn unpacked_bytes(batch: &[(Expected, ArrivedItem)]) -> u64 {
    let unpacked = |item: &ArrivedItem| match item.header.encoding {
        Encoding::Plain { from_offset: 0 } => 0,
        _ => u64::from(item.header.plain_bytes),
    };
    batch.iter().map(|(_, item)| unpacked(item)).sum()
}

/// Verifies a batch. Blocking.
pub(super) fn verify(
    destination: &dyn Destination,
    batch: Vec<(Expected, ArrivedItem)>,
    memory: Option<&Arc<TakenMemory>>,
) -> Result<Vec<Outcome>, DestinationError> {
    batch.into_iter().map(|(expected, item)| verify_one(destination, expected, item, memory.cloned())).collect()
}

fn verify_one(
    destination: &dyn Destination,
    expected: Expected,
    arrived: ArrivedItem,
    memory: Option<Arc<TakenMemory>>,
) -> Result<Outcome, DestinationError> {
    let key = arrived.header.key;
    let Some((plain, frame)) = plain_of(destination, expected, arrived)? else { return Ok(Outcome::Unusable(key)) };
    if ChunkId::of(&plain) != expected.id {
        return Ok(Outcome::Unusable(key));
    }
    let is_page = matches!(key, ItemKey::Page(_));
    // What has the right id and is no page is a lie of whoever made the version; asking again would bring the same.
    let page = if is_page { Page::decode(&plain).ok() } else { None };
    let item = IncomingItem { id: expected.id, plain, frame, is_page };
    Ok(Outcome::Good(Box::new(Verified { key, item, page, memory })))
}

type Plain = (Bytes, Option<Bytes>);

/// The plain bytes of an item, and its frame where that may be kept; none if they can't be had from this.
fn plain_of(
    destination: &dyn Destination,
    expected: Expected,
    arrived: ArrivedItem,
) -> Result<Option<Plain>, DestinationError> {
    let ArrivedItem { header, payload, .. } = arrived;
    let plain_bytes = header.plain_bytes as usize;
    let from_offset = expected.from_offset as usize;
    let rest = match header.encoding {
        Encoding::Plain { .. } => payload,
        Encoding::Zstd { .. } => match compress::decompress(&payload, plain_bytes - from_offset) {
            Ok(plain) if from_offset == 0 => return Ok(Some((plain.into(), Some(payload)))),
            Ok(rest) => rest.into(),
            Err(_) => return Ok(None),
        },
        Encoding::Delta { sources } => {
            let Some(prefix) = prefix_of(destination, &sources)? else { return Ok(None) };
            let plain = compress::decode_delta(&prefix, &payload, plain_bytes).ok();
            return Ok(plain.map(|plain| (plain.into(), None)));
        }
    };
    if from_offset == 0 {
        return Ok(Some((rest, None)));
    }
    let Some(kept) = destination.prefix(&expected.id)? else { return Ok(None) };
    let Some(kept) = kept.get(..from_offset) else { return Ok(None) };
    let mut plain = BytesMut::with_capacity(plain_bytes);
    plain.extend_from_slice(kept);
    plain.extend_from_slice(&rest);
    Ok(Some((plain.freeze(), None)))
}

fn prefix_of(destination: &dyn Destination, sources: &[DeltaSource]) -> Result<Option<Bytes>, DestinationError> {
    let mut prefix = BytesMut::with_capacity(sources.iter().map(|source| source.length as usize).sum());
    for source in sources {
        match destination.delta_source(source)? {
            Some(bytes) if bytes.len() == source.length as usize => prefix.extend_from_slice(&bytes),
            Some(_) | None => return Ok(None),
        }
    }
    Ok(Some(prefix.freeze()))
}

/// Keeps what came of an item whose link was cut. Blocking.
pub(super) fn keep(
    destination: &dyn Destination,
    expected: Expected,
    arrived: &ArrivedItem,
) -> Result<(), DestinationError> {
    let header = &arrived.header;
    let from_offset = expected.from_offset as usize;
    let rest_bytes = header.plain_bytes as usize - from_offset;
    let part = match &header.encoding {
        Encoding::Plain { .. } => arrived.payload.clone(),
        Encoding::Zstd { .. } => compress::decompress_part(&arrived.payload, rest_bytes).into(),
        // A delta is short: it is sent again.
        Encoding::Delta { .. } => return Ok(()),
    };
    if part.is_empty() {
        return Ok(());
    }
    if from_offset == 0 {
        return destination.keep_prefix(&expected.id, &part);
    }
    let Some(kept) = destination.prefix(&expected.id)? else { return Ok(()) };
    let Some(kept) = kept.get(..from_offset) else { return Ok(()) };
    destination.keep_prefix(&expected.id, &[kept, &part].concat())
}
