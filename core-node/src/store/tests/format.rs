//! The bytes of a pack: a fixture that every later release must read, and what damaged bytes get.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::catalog::{ChunkCodec, PackNumber, PackState};
use crate::store::format::{self, FormatError, IndexEntry, RecordHeader};

/// Two chunks, one of them compressed, in a sealed pack with number 7.
fn small_pack() -> Vec<u8> {
    let plain = b"water finds its way".to_vec();
    let repeated = vec![b'~'; 1000];
    // A frame by hand: what zstd makes of these bytes may change with its version.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe8, 0x02, 0x43, 0x1f, 0x00, 0x7e];
    let mut bytes = format::encode_pack_header(PackNumber(7)).to_vec();
    let mut index = Vec::new();
    for (id, codec, body, plain_bytes) in [
        (ChunkId::of(&plain), ChunkCodec::Plain, &plain[..], plain.len()),
        (ChunkId::of(&repeated), ChunkCodec::Zstd, &frame[..], repeated.len()),
    ] {
        let header = RecordHeader { id, codec, stored_bytes: body.len() as u32, plain_bytes: plain_bytes as u32 };
        index.push(IndexEntry { header, offset: bytes.len() as u64 });
        bytes.extend_from_slice(&format::encode_record_header(&header));
        bytes.extend_from_slice(body);
    }
    let (footer, _) = format::encode_index(&index, bytes.len() as u64);
    bytes.extend_from_slice(&footer);
    bytes
}

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/tests/pack_1.bin")
}

#[test]
fn a_pack_is_written_as_the_fixture_says() {
    if std::env::var_os("HEADWATER_WRITE_FIXTURES").is_some() {
        std::fs::write(fixture(), small_pack()).unwrap();
    }
    assert_eq!(std::fs::read(fixture()).unwrap(), small_pack(), "packs of layout 1 changed");
}

#[test]
fn the_fixture_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(), folder.path().join("000007.pack")).unwrap();
    let catalog = Arc::new(MemoryCatalog::new());
    let packs = Arc::new(LocalPacks::open(folder.path()).unwrap());
    let (store, report) = ChunkStore::open(packs, Arc::clone(&catalog) as Arc<dyn Catalog>, options(1 << 20)).unwrap();
    assert_eq!(report.adopted_chunks, 2);
    assert_eq!(store.read(&ChunkId::of(b"water finds its way")).unwrap(), &b"water finds its way"[..]);
    assert_eq!(store.read(&ChunkId::of(&[b'~'; 1000])).unwrap(), &[b'~'; 1000][..]);
    let pack = catalog.packs().unwrap()[0];
    assert_eq!(pack.number, PackNumber(7));
    assert!(matches!(pack.state, PackState::Sealed(_)));
    assert_eq!(store.verify(&mut |_| true).unwrap().damaged_count, 0);
}

#[test]
fn headers_that_can_not_be_are_refused() {
    let header = RecordHeader { id: ChunkId::of(b"a"), codec: ChunkCodec::Plain, stored_bytes: 5, plain_bytes: 5 };
    let check = |change: RecordHeader| format::decode_record_header(&format::encode_record_header(&change));
    assert_eq!(check(header), Ok(header));
    let value = Err(FormatError::Value("record header"));
    assert_eq!(check(RecordHeader { stored_bytes: 4, ..header }), value);
    assert_eq!(check(RecordHeader { stored_bytes: 0, plain_bytes: 0, ..header }), value);
    let zstd = RecordHeader { codec: ChunkCodec::Zstd, ..header };
    assert_eq!(check(RecordHeader { plain_bytes: (1 << 20) + 1, ..zstd }), value);
    assert_eq!(check(RecordHeader { stored_bytes: u32::MAX, ..zstd }), value);
    let mut newer = format::encode_pack_header(PackNumber(1));
    newer[4] = 2;
    assert_eq!(format::decode_pack_header(&newer), Err(FormatError::Newer { found: 2 }));
}

proptest! {
    #[test]
    fn any_flipped_bit_of_a_header_or_index_is_noticed(byte in 0usize..10_000, bit in 0u8..8) {
        let mut bytes = small_pack();
        let end = bytes.len();
        let trailer_at = end - format::TRAILER_BYTES;
        let index_at = trailer_at - 2 * format::INDEX_ENTRY_BYTES;
        // The chunks' own bytes are checked by their ids.
        let checked: Vec<usize> = (0..format::PACK_HEADER_BYTES + format::RECORD_HEADER_BYTES).chain(index_at..end).collect();
        bytes[checked[byte % checked.len()]] ^= 1 << bit;
        let header = format::decode_pack_header(&bytes[..format::PACK_HEADER_BYTES]);
        let record_at = format::PACK_HEADER_BYTES;
        let record = format::decode_record_header(&bytes[record_at..record_at + format::RECORD_HEADER_BYTES]);
        let trailer = format::decode_trailer(&bytes[trailer_at..], end as u64);
        let index = trailer.clone().map(|trailer| format::decode_index(&bytes[index_at..trailer_at], &trailer));
        prop_assert!(header.is_err() || record.is_err() || !matches!(index, Ok(Ok(_))));
    }

    #[test]
    fn bytes_from_outside_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = format::decode_pack_header(&bytes);
        let _ = format::decode_record_header(&bytes);
        let _ = format::decode_trailer(&bytes, bytes.len() as u64);
    }
}
