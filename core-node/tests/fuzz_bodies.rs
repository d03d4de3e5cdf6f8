//! The fuzz bodies as ordinary tests: over the committed corpus, over mutations of it, and over any bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// What fuzzing knows of a structure; the first is a whole valid one.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let inputs: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(!inputs.is_empty(), "the corpus of `{name}` holds a valid one at least");
    inputs
}

#[test]
fn every_body_takes_its_corpus() {
    for bytes in corpus("pack") {
        bodies::pack(&bytes);
    }
    for bytes in corpus("stamps") {
        bodies::stamps(&bytes);
    }
}

proptest! {
    #[test]
    fn packs_take_mutations_of_their_corpus(
        which in any::<Index>(),
        changes in vec((any::<Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<Index>()),
        tail in vec(any::<u8>(), 0..300),
    ) {
        let inputs = corpus("pack");
        let mut bytes = inputs[which.index(inputs.len())].clone();
        for (at, byte) in changes.into_iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend_from_slice(&tail);
        bodies::pack(&bytes);
    }

    #[test]
    fn every_body_takes_any_bytes(bytes in vec(any::<u8>(), 0..2048)) {
        bodies::pack(&bytes);
        bodies::stamps(&bytes);
    }
}
