//! Cut points are part of the format: golden vectors notice a crate that cuts elsewhere than it did.

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;
use crate::id::ChunkId;
use crate::record::ChunkRef;

const SMALL: ChunkerParams = ChunkerParams { min_bytes: 4096, average_bytes: 8192, max_bytes: 32_768 };

/// A stream of bytes that every machine makes alike.
fn stream(seed: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
    bytes
}

fn cut(params: ChunkerParams, mut reader: impl Read) -> Vec<ChunkRef> {
    let mut chunker = StreamChunker::new(params).expect("good parameters");
    let mut chunks = Vec::new();
    while let Some((chunk, bytes)) = chunker.next_chunk(&mut reader).expect("readable") {
        assert_eq!(chunk, ChunkRef { id: ChunkId::of(bytes), length: bytes.len() as u32 });
        chunks.push(chunk);
    }
    chunks
}

fn lengths(params: ChunkerParams, bytes: &[u8]) -> Vec<u32> {
    cut(params, bytes).iter().map(|chunk| chunk.length).collect()
}

#[test]
fn cut_points_are_what_they_were() {
    let bytes = stream(b"golden", 4 << 20);
    assert_eq!(lengths(ChunkerParams::default(), &bytes), GOLDEN_DEFAULT);
    assert_eq!(lengths(SMALL, &bytes[..200_000]), GOLDEN_SMALL);
    let zeros = vec![0; 3 << 20];
    assert_eq!(lengths(ChunkerParams::default(), &zeros), [1 << 20; 3]);
    assert_eq!(lengths(SMALL, &bytes[..4096]), [4096]);
    assert_eq!(lengths(SMALL, &bytes[..4095]), [4095]);
    assert_eq!(lengths(SMALL, &bytes[..1]), [1]);
    assert_eq!(lengths(SMALL, &[]), [0u32; 0]);
}

const GOLDEN_DEFAULT: &[u32] = &[
    403_325, 412_416, 194_742, 444_722, 200_756, 66_059, 249_578, 367_948, 270_122, 566_630, 127_352, 608_274, 282_380,
];
const GOLDEN_SMALL: &[u32] = &[
    15_045, 6630, 8952, 5483, 10_353, 9722, 7711, 7895, 8456, 6685, 13_541, 20_607, 11_897, 20_333, 8285, 16_369,
    17_512, 4524,
];

#[test]
fn parameters_out_of_bounds_are_refused() {
    let good = ChunkerParams::default();
    for bad in [
        ChunkerParams { min_bytes: 0, ..good },
        ChunkerParams { min_bytes: 2048, ..good },
        ChunkerParams { min_bytes: 65_000, ..good },
        ChunkerParams { average_bytes: good.min_bytes, ..good },
        ChunkerParams { max_bytes: good.average_bytes, ..good },
        ChunkerParams { max_bytes: 2 << 20, ..good },
    ] {
        assert!(StreamChunker::new(bad).is_err(), "{bad:?}");
    }
}

/// A reader that gives few bytes at a time, and is interrupted now and then.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(7) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = into.len().min(self.0.len()).min(1 + self.1 * 31 % 5000);
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn a_failed_read_is_given_on_and_a_reset_chunker_starts_anew() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("a bad sector"))
        }
    }
    let bytes = stream(b"again", 100_000);
    let mut chunker = StreamChunker::new(SMALL).expect("good parameters");
    chunker.next_chunk(&mut bytes.as_slice()).expect("readable").expect("a chunk");
    chunker.reset();
    assert!(chunker.next_chunk(&mut Failing).is_err());
    chunker.reset();
    let mut reader = bytes.as_slice();
    let mut found = Vec::new();
    while let Some((chunk, _)) = chunker.next_chunk(&mut reader).expect("readable") {
        found.push(chunk);
    }
    assert_eq!(found, cut(SMALL, bytes.as_slice()));
}

#[test]
fn an_insertion_in_a_large_file_changes_a_few_chunks() {
    let bytes = stream(b"large", 32 << 20);
    let before: std::collections::BTreeSet<_> =
        cut(ChunkerParams::default(), bytes.as_slice()).into_iter().map(|chunk| chunk.id).collect();
    for at in [0, 1, 10_000_000, bytes.len()] {
        let longer = bytes[..at].chain(&b"inserted"[..]).chain(&bytes[at..]);
        let after = cut(ChunkerParams::default(), longer);
        let new = after.iter().filter(|chunk| !before.contains(&chunk.id)).count();
        assert!(new <= 3, "{new} of {} chunks are new after an insertion at {at}", after.len());
    }
}

/// A long stream that counts what is taken of it.
struct Long {
    block: Vec<u8>,
    read: u64,
    length: u64,
}

impl Read for Long {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let at = (self.read % self.block.len() as u64) as usize;
        let left = usize::try_from(self.length - self.read).unwrap_or(usize::MAX);
        let count = into.len().min(self.block.len() - at).min(left);
        into[..count].copy_from_slice(&self.block[at..at + count]);
        self.read += count as u64;
        Ok(count)
    }
}

#[test]
fn a_long_stream_takes_a_few_mebibytes() {
    let params = ChunkerParams::default();
    let mut reader = Long { block: stream(b"long", (1 << 20) + 7), read: 0, length: 300 << 20 };
    let mut chunker = StreamChunker::new(params).expect("good parameters");
    let (mut cut, mut ahead_max) = (0, 0);
    while let Some(part) = chunker.next_cut(&mut reader).expect("readable") {
        cut += part.len() as u64;
        ahead_max = ahead_max.max(reader.read - cut);
        assert!(chunker.buffer_bytes() <= 4 << 20, "the buffer grew after {cut} bytes");
    }
    assert_eq!(cut, reader.length);
    assert!(ahead_max <= 4 << 20, "{ahead_max} bytes were read ahead");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn an_insertion_anywhere_changes_a_few_chunks(at in 0usize..=(16 << 20), inserted in 1usize..5000) {
        let bytes = stream(b"anywhere", 16 << 20);
        let before: std::collections::BTreeSet<_> =
            cut(ChunkerParams::default(), bytes.as_slice()).into_iter().map(|chunk| chunk.id).collect();
        let new_bytes = stream(b"new", inserted);
        let after = cut(ChunkerParams::default(), bytes[..at].chain(&new_bytes[..]).chain(&bytes[at..]));
        let new = after.iter().filter(|chunk| !before.contains(&chunk.id)).count();
        // How many it takes until both are cut alike again is chance; it does not grow with the file.
        prop_assert!(new <= 12, "{} of {} chunks are new", new, after.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_cut_joins_to_the_same(seed: [u8; 4], length in 0usize..600_000, runs in 0usize..4) {
        let mut bytes = stream(&seed, length);
        for run in 0..runs {
            let start = length * run / 4;
            bytes[start..start + length / 5].fill(run as u8);
        }
        let mut chunker = StreamChunker::new(SMALL).expect("good parameters");
        let (mut reader, mut joined, mut cuts) = (Dribble(&bytes, 0), Vec::new(), Vec::new());
        while let Some(part) = chunker.next_cut(&mut reader).expect("readable") {
            joined.extend_from_slice(part);
            cuts.push(part.len() as u32);
        }
        prop_assert_eq!(&joined, &bytes);
        let bounds = SMALL.min_bytes..=SMALL.max_bytes;
        prop_assert!(cuts.iter().rev().skip(1).all(|length| bounds.contains(length)), "{:?}", cuts);
        prop_assert!(cuts.iter().all(|length| (1..=SMALL.max_bytes).contains(length)));
        // However the bytes arrive, they are cut as if they had been there at once.
        let whole = fastcdc::v2020::FastCDC::new(&bytes, 4096, 8192, 32_768).map(|chunk| chunk.length as u32);
        prop_assert_eq!(cuts, whole.collect::<Vec<_>>());
    }
}
