//! Turning payloads into verified bytes, away from the reactor.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use headwater_protocol::compress;
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::sync::Expected;
use headwater_protocol::wire::{DeltaSource, Encoding, ItemHeader, ItemKey};

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

/// Bytes that a batch takes beside its payloads: what it is unpacked to, and what unpacking one item after the other takes.
pub(super) fn unpacked_bytes(batch: &[(Expected, ArrivedItem)]) -> u64 {
    let kept: u64 = batch.iter().map(|(_, item)| bytes_beside(&item.header).0).sum();
    let passing = batch.iter().map(|(_, item)| bytes_beside(&item.header).1).max();
    kept + passing.unwrap_or_default()
}

/// Bytes that an item takes beside its payload once it is verified, and those that it takes only meanwhile.
fn bytes_beside(header: &ItemHeader) -> (u64, u64) {
    let plain_bytes = u64::from(header.plain_bytes);
    match &header.encoding {
        Encoding::Plain { from_offset: 0 } => (0, 0),
        // The prefix that was kept.
        Encoding::Plain { from_offset } => (plain_bytes, u64::from(*from_offset)),
        Encoding::Zstd { from_offset: 0 } => (plain_bytes, 0),
        // The prefix that was kept, and the rest before it is joined to that.
        Encoding::Zstd { .. } => (plain_bytes, plain_bytes),
        Encoding::Delta { sources } => (plain_bytes, sources.iter().map(|source| u64::from(source.length)).sum()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn item(plain_bytes: u32, encoding: Encoding) -> (Expected, ArrivedItem) {
        let key = ItemKey::Chunk(0);
        let header = ItemHeader { transfer: 0, key, plain_bytes, payload_bytes: 10, encoding };
        let expected = Expected { id: ChunkId::of(b""), from_offset: header.from_offset() };
        (expected, ArrivedItem { header, header_bytes: 0, payload: Bytes::new() })
    }

    #[test]
    fn what_unpacking_takes_is_counted() {
        let source = |length| DeltaSource { id: ChunkId::of(b""), offset: 0, length };
        let delta = || item(1000, Encoding::Delta { sources: vec![source(300), source(400)] });
        let of = |item| unpacked_bytes(&[item]);
        assert_eq!(of(item(1000, Encoding::Plain { from_offset: 0 })), 0);
        assert_eq!(of(item(1000, Encoding::Plain { from_offset: 600 })), 1600);
        assert_eq!(of(item(1000, Encoding::Zstd { from_offset: 0 })), 1000);
        assert_eq!(of(item(1000, Encoding::Zstd { from_offset: 600 })), 2000);
        assert_eq!(of(delta()), 1700);
        assert_eq!(unpacked_bytes(&[delta(), delta()]), 2700, "one prefix at a time");
    }
}
