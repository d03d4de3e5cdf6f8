//! The fuzz bodies as ordinary tests: over the committed corpus, over valid encodings, and over mutations of both.

#![allow(clippy::disallowed_methods, reason = "a test reads its corpus from files")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;

use bodies::{BODIES, Body};
use proptest::collection::vec;
use proptest::prelude::*;

/// A change to an encoding: most are small, because large ones fail at the first check.
#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: prop::sample::Index, bit: u8 },
    Set { at: prop::sample::Index, to: u8 },
    Cut { at: prop::sample::Index },
    Insert { at: prop::sample::Index, bytes: Vec<u8> },
    Repeat { at: prop::sample::Index, length: u8 },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Mutation::Set { at, to }),
        1 => any::<prop::sample::Index>().prop_map(|at| Mutation::Cut { at }),
        1 => (any::<prop::sample::Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        1 => (any::<prop::sample::Index>(), 1..64u8).prop_map(|(at, length)| Mutation::Repeat { at, length }),
    ]
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match mutation {
        Mutation::Flip { at, bit } => bytes[at.index(length)] ^= 1 << bit,
        Mutation::Set { at, to } => bytes[at.index(length)] = *to,
        Mutation::Cut { at } => bytes.truncate(at.index(length)),
        Mutation::Insert { at, bytes: more } => {
            let at = at.index(length);
            bytes.splice(at..at, more.iter().copied());
        }
        Mutation::Repeat { at, length: repeated } => {
            let at = at.index(length);
            let end = (at + usize::from(*repeated)).min(length);
            bytes.extend_from_within(at..end);
        }
    }
}

/// Everything in the corpus folder of a body; a crash that fuzzing found is committed there.
fn corpus(body: &Body) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(body.name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_body_takes_its_corpus_and_valid_encodings() {
    for body in BODIES {
        for bytes in corpus(body).into_iter().chain((body.seeds)()) {
            (body.run)(&bytes);
        }
    }
}

/// Not a check: fuzzing starts from these.
#[test]
#[ignore = "writes files, for `cargo xtask audit`"]
fn write_seeds() {
    let folder = std::env::var("HEADWATER_FUZZ_SEEDS").expect("the folder is given in HEADWATER_FUZZ_SEEDS");
    for body in BODIES {
        let folder = Path::new(&folder).join(body.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in (body.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

#[test]
fn every_body_has_a_target_and_every_target_a_body() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut targets: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    targets.sort();
    assert_eq!(targets, BODIES.iter().map(|body| body.name).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn every_body_takes_mutations_of_valid_encodings(
        which in any::<prop::sample::Index>(),
        seed in any::<prop::sample::Index>(),
        mutations in vec(mutation(), 1..6),
    ) {
        let body = &BODIES[which.index(BODIES.len())];
        let seeds = (body.seeds)();
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        for mutation in &mutations {
            apply(&mut bytes, mutation);
        }
        (body.run)(&bytes);
    }

    #[test]
    fn every_body_takes_any_bytes(which in any::<prop::sample::Index>(), bytes in vec(any::<u8>(), 0..2048)) {
        (BODIES[which.index(BODIES.len())].run)(&bytes);
    }
}
