//! Replies and proofs: what was written is read, what was changed is found.

use proptest::prelude::*;

use super::proof::{self, GROUP_BYTES, PROOF_HASHES_MAX};
use super::*;
use crate::id::ChunkId;

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&(length as u64).to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A slot with a reply of two samples: one of two small files, one of a part of a larger file.
fn slot() -> Vec<u8> {
    let (small, label, large) = (noise(784), noise(3), noise(300_000));
    let part = proof::groups_around(100_000..140_000, 300_000);
    let beside = proof::prove(&large, part.clone());
    let whole = |bytes: &[u8]| {
        let length = bytes.len() as u32;
        (Unit { id: ChunkId::of(bytes), total: length, offset: 0, bytes: length }, 0)
    };
    let file = |size, name_bytes| PlannedFile {
        size,
        lead: 0,
        length: size as u32,
        units: 1,
        name_bytes,
        status: FileStatus::Whole,
    };
    let bytes = part.end - part.start;
    let plan = Plan {
        samples: vec![2, 3],
        files: vec![
            file(784, 4),
            file(3, 4),
            PlannedFile { lead: 100_000 - part.start, length: 40_000, ..file(300_000, 4) },
        ],
        units: vec![
            whole(&small),
            whole(&label),
            (Unit { id: ChunkId::of(&large), total: 300_000, offset: part.start, bytes }, beside.len() as u32),
        ],
        proofs: beside,
        names: b".png.txt.bin".to_vec(),
    };
    let mut slot = Vec::new();
    plan.write(&mut slot);
    assert_eq!(slot.len(), plan.table_bytes());
    slot.extend_from_slice(&small);
    slot.extend_from_slice(&label);
    slot.extend_from_slice(&large[part.start as usize..part.end as usize]);
    slot
}

#[test]
fn a_reply_is_read_as_it_was_written() {
    let slot = slot();
    let reply = Reply::parse(&slot).expect("a reply");
    assert_eq!((reply.len(), reply.files()), (2, 3));
    reply.verify(&slot).expect("whole");
    let first: Vec<_> = reply.sample(&slot, 0).files().map(|file| (file.name, file.bytes)).collect();
    assert_eq!(first, [(&b".png"[..], &noise(784)[..]), (&b".txt"[..], &noise(3)[..])]);
    let second = reply.sample(&slot, 1).files().next().expect("a file");
    assert_eq!((second.size, second.bytes), (300_000, &noise(300_000)[100_000..140_000]));
}

#[test]
fn any_part_of_a_chunk_is_proved_and_no_other() {
    let group = GROUP_BYTES;
    for total in [1, 1024, group, group + 1, 3 * group, 5 * group + 77, 1 << 20] {
        let chunk = noise(total as usize);
        let id = ChunkId::of(&chunk);
        for (from, to) in
            [(0, 1), (0, total), (total / 2, total / 2 + 1), (total - 1, total), (total / 3, total * 2 / 3 + 1)]
        {
            let part = proof::groups_around(from..to.min(total), total);
            let beside = proof::prove(&chunk, part.clone());
            assert!(beside.len() <= PROOF_HASHES_MAX, "{} hashes", beside.len());
            let mut bytes = chunk[part.start as usize..part.end as usize].to_vec();
            assert!(proof::verify(&id, total, part.start, &bytes, &beside), "{total}: {part:?}");
            bytes[0] ^= 1;
            assert!(!proof::verify(&id, total, part.start, &bytes, &beside), "{total}: {part:?} changed");
            bytes[0] ^= 1;
            assert!(!proof::verify(&ChunkId::of(b"another"), total, part.start, &bytes, &beside));
            let mut more = beside.clone();
            more.push([0; 32]);
            assert!(!proof::verify(&id, total, part.start, &bytes, &more), "{total}: {part:?} with a hash too many");
        }
    }
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let request = |what| ReadRequest { request: 1, slot: 2, slot_bytes: 4096, source: 3, what };
    let samples = |count| request(ReadWhat::Samples { samples: vec![7; count], paths: false });
    let fullest = samples(SAMPLES_PER_REQUEST_MAX);
    assert_eq!(ReadRequest::decode(&fullest.encode()).expect("it can be"), fullest);
    let range = |offset, path: usize| request(ReadWhat::Range { member: 0, path: vec![b'a'; path], offset, length: 9 });
    for bad in [samples(0), range(u64::MAX, 1), ReadRequest { slot_bytes: u32::MAX, ..samples(1) }] {
        assert!(ReadRequest::decode(&bad.encode()).is_err(), "{bad:?}");
    }
    assert!(ReadRequest::decode(&range(5, 300).encode()).is_ok());
}

proptest! {
    #[test]
    fn a_changed_reply_is_refused_or_found(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut slot = slot();
        let at = at.index(slot.len());
        let was = std::mem::replace(&mut slot[at], to);
        if let Ok(reply) = Reply::parse(&slot) {
            for sample in 0..reply.len() {
                for file in reply.sample(&slot, sample).files() {
                    prop_assert!(file.bytes.len() <= slot.len());
                }
            }
            let payload_at = slot.len() - reply.payload_bytes();
            prop_assert!(reply.verify(&slot).is_err() || at < payload_at || was == to);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = ReadRequest::decode(&bytes);
        let mut slot = b"HWr1".to_vec();
        slot.extend_from_slice(&bytes);
        if let Ok(reply) = Reply::parse(&slot) {
            let _ = reply.verify(&slot);
        }
    }
}
