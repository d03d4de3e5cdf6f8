//! Orders are permutations that never change, look like chance, and are divided between ranks without loss.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::ops::Range;

use proptest::prelude::*;

use super::{
    Course, Fraction, Order, Reading, ReadingError, Remainder, Selection, SelectionError, Share, ShareError, Shuffle,
};

const SOURCE: [u8; 32] = [7; 32];

fn nonzero(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("not zero")
}

fn order(len: u64, seed: u64, epoch: u64, shuffle: Shuffle) -> Order {
    Order::new(&SOURCE, len, seed, epoch, shuffle)
}

fn all(order: &Order) -> Vec<u64> {
    (0..order.len()).map(|position| order.sample(position).expect("a position of the order")).collect()
}

fn shuffles() -> impl Strategy<Value = Shuffle> {
    prop_oneof![
        Just(Shuffle::None),
        Just(Shuffle::Full),
        (1_u64..300).prop_map(|size| Shuffle::Blocks(nonzero(size))),
        Just(Shuffle::Blocks(nonzero(u64::MAX))),
    ]
}

proptest! {
    #[test]
    fn every_sample_comes_once_and_is_found_again(len in 0_u64..3_000, seed: u64, epoch: u64, shuffle in shuffles()) {
        let order = order(len, seed, epoch, shuffle);
        let samples = all(&order);
        let different: BTreeSet<u64> = samples.iter().copied().collect();
        prop_assert_eq!(different, (0..len).collect::<BTreeSet<u64>>());
        for (position, sample) in (0..).zip(&samples) {
            prop_assert_eq!(order.position(*sample), Some(position));
        }
        prop_assert_eq!((order.sample(len), order.position(len)), (None, None));
    }

    #[test]
    fn the_largest_datasets_are_permuted_too(
        len in u64::MAX - 1_000_000..=u64::MAX,
        at in any::<prop::sample::Index>(),
        shuffle in shuffles(),
    ) {
        let order = order(len, 1, 2, shuffle);
        let position = u64::try_from(at.index(usize::MAX)).expect("a position").min(len - 1);
        for position in [0, position, len - 1] {
            let sample = order.sample(position).expect("a sample");
            prop_assert!(sample < len);
            prop_assert_eq!(order.position(sample), Some(position));
        }
    }

    /// The concatenation over ranks, step by step, is the one global order from where the job was resumed.
    #[test]
    fn ranks_read_one_order_at_any_world_size(
        len in 0_u64..500,
        world in 1_u64..9,
        replication in 1_u64..4,
        start in 0_u64..500,
        remainder in prop_oneof![Just(Remainder::Drop), Just(Remainder::Repeat), Just(Remainder::Uneven)],
    ) {
        let start = start.min(len);
        let ranks: Vec<_> = (0..world * replication)
            .map(|rank| {
                let share = Share::new(nonzero(world * replication), rank, nonzero(replication), remainder);
                share.expect("a rank").positions(len, start).expect("a start")
            })
            .collect();
        for neighbours in ranks.chunks(usize::try_from(replication).expect("small")) {
            prop_assert!(neighbours.iter().all(|rank| rank.clone().eq(neighbours[0].clone())));
        }
        let groups: Vec<_> = ranks.iter().step_by(usize::try_from(replication).expect("small")).collect();
        let most = groups.iter().map(|group| group.steps()).max().expect("a group");
        let together: Vec<u64> =
            (0..most).flat_map(|step| groups.iter().filter_map(move |group| group.get(step))).collect();
        let rest = (len - start) % world;
        let expected: Vec<u64> = match remainder {
            Remainder::Drop => (start..len - rest).collect(),
            Remainder::Uneven => (start..len).collect(),
            Remainder::Repeat if rest == 0 => (start..len).collect(),
            Remainder::Repeat => (start..len + world - rest).map(|position| position % len).collect(),
        };
        prop_assert_eq!(together, expected);
        if remainder != Remainder::Uneven {
            prop_assert!(groups.iter().all(|group| group.steps() == most));
        }
    }

    /// Whatever world sizes a job has had, what it read is the beginning of the one order.
    #[test]
    fn a_job_is_resumed_with_other_ranks_and_loses_and_repeats_nothing(
        len in 0_u64..2_000,
        sittings in prop::collection::vec((1_u64..9, 0_u64..60), 1..8),
    ) {
        let order = order(len, 5, 0, Shuffle::Full);
        let (mut start, mut read) = (0, Vec::new());
        for (world, steps) in sittings {
            let ranks: Vec<_> = (0..world)
                .map(|rank| Share::new(nonzero(world), rank, nonzero(1), Remainder::Drop).expect("a rank"))
                .map(|share| share.positions(len, start).expect("a start"))
                .collect();
            for step in 0..steps.min(ranks[0].steps()) {
                read.extend(ranks.iter().map(|rank| order.sample(rank.get(step).expect("a step")).expect("a sample")));
            }
            start = ranks[0].resume_at(steps);
            prop_assert!(ranks.iter().all(|rank| rank.resume_at(steps) == start));
        }
        prop_assert_eq!(u64::try_from(read.len()).expect("small"), start);
        prop_assert_eq!(&read[..], &all(&order)[..read.len()]);
    }

    #[test]
    fn a_selection_counts_upwards_and_is_found_again(
        gaps in prop::collection::vec((0_u64..40, 0_u64..40), 0..20),
        parts in 1_u32..=1_000,
        seed: u64,
    ) {
        let mut runs = Vec::new();
        let mut at = 0;
        for (gap, len) in gaps {
            runs.push(at + gap..at + gap + len);
            at += gap + len;
        }
        let kept: Vec<u64> = runs.iter().cloned().flatten().collect();
        let fraction = Fraction::new(f64::from(parts) / 1_000.0).expect("a fraction");
        let selection = Selection::filtered(&SOURCE, at, runs, seed, fraction).expect("runs that ascend");
        let kept_count = u64::try_from(kept.len()).expect("small");
        prop_assert_eq!(selection.len(), (kept_count * u64::from(parts) / 1_000).max(kept_count.min(1)));
        let samples: Vec<u64> =
            (0..selection.len()).map(|index| selection.sample(index).expect("an index below the end")).collect();
        prop_assert!(samples.is_sorted_by(|a, b| a < b));
        prop_assert!(samples.iter().all(|sample| kept.contains(sample)));
        let found: Vec<u64> = (0..=at).filter(|sample| selection.index(*sample).is_some()).collect();
        prop_assert_eq!(&found, &samples);
        for (index, sample) in (0..).zip(&samples) {
            prop_assert_eq!(selection.index(*sample), Some(index));
        }
        prop_assert_eq!(selection.sample(selection.len()), None);
    }
}

/// A job that is resumed with a later release must read on in the same order.
#[test]
fn orders_never_change() {
    let full = all(&order(17, 42, 3, Shuffle::Full));
    let blocks = all(&order(17, 42, 3, Shuffle::Blocks(nonzero(5))));
    let large = order(10_000_000_019, 42, 3, Shuffle::Full);
    let large: Vec<u64> = [0, 1, 10_000_000_018].iter().map(|position| large.sample(*position).expect("one")).collect();
    let tenth = Selection::all(&SOURCE, 100, 42, Fraction::new(0.1).expect("a fraction"));
    let tenth: Vec<u64> = (0..tenth.len()).map(|index| tenth.sample(index).expect("an index")).collect();
    insta::assert_debug_snapshot!((full, blocks, large, tenth));
}

#[test]
fn seed_epoch_source_and_nothing_else_choose_the_order() {
    let one = all(&order(1_000, 1, 1, Shuffle::Full));
    assert_eq!(one, all(&order(1_000, 1, 1, Shuffle::Full)));
    assert_ne!(one, all(&order(1_000, 1, 2, Shuffle::Full)));
    assert_ne!(one, all(&order(1_000, 2, 1, Shuffle::Full)));
    assert_ne!(one, all(&Order::new(&[8; 32], 1_000, 1, 1, Shuffle::Full)));
}

/// Pearson's chi-squared statistic of `counts`, which are expected to be equal.
fn chi_squared(counts: &[u32], drawn: u32) -> f64 {
    let cells = f64::from(u32::try_from(counts.len()).expect("few cells"));
    let expected = f64::from(drawn) / cells;
    counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

/// All orders of four samples come equally often: the hardest case of a cipher of few digits.
#[test]
fn small_orders_come_equally_often() {
    const DRAWN: u32 = 24_000;
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..DRAWN {
        *counts.entry(all(&order(4, seed.into(), 0, Shuffle::Full))).or_insert(0_u32) += 1;
    }
    assert_eq!(counts.len(), 24, "every order comes");
    let counts: Vec<u32> = counts.into_values().collect();
    // 23 degrees of freedom: above 49.7 once in a thousand.
    let statistic = chi_squared(&counts, DRAWN);
    assert!(statistic < 49.7, "{statistic} of {counts:?}");
}

/// Where a sample goes, and what follows it, look like chance.
#[test]
fn places_and_neighbours_look_like_chance() {
    const LEN: u64 = 1_000_003;
    const CELLS: usize = 100;
    let order = order(LEN, 9, 0, Shuffle::Full);
    let cell = |value: u64| usize::try_from(value * 100 / LEN).expect("below 100");
    let (mut places, mut steps) = (vec![0; CELLS * CELLS], vec![0; CELLS]);
    let samples = all(&order);
    for (position, pair) in (0..).zip(samples.windows(2)) {
        places[cell(position) * CELLS + cell(pair[0])] += 1;
        steps[cell((pair[1] + LEN - pair[0]) % LEN)] += 1;
    }
    let drawn = u32::try_from(samples.len() - 1).expect("a million");
    // 9,801 degrees of freedom (rows and columns are given): 10,238 once in a thousand; 99 degrees: 148.2.
    let (places, steps) = (chi_squared(&places, drawn), chi_squared(&steps, drawn));
    assert!(places < 10_238.0, "{places}");
    assert!(steps < 148.2, "{steps}");
}

#[test]
fn blocks_are_read_one_after_the_other() {
    let order = order(1_003, 3, 0, Shuffle::Blocks(nonzero(100)));
    let samples = all(&order);
    let mut blocks: Vec<u64> = samples.iter().map(|sample| sample / 100).collect();
    blocks.dedup();
    assert_eq!(blocks.len(), 11, "each block is left once");
    assert!(!blocks.is_sorted(), "blocks are mixed");
    assert!(samples.chunks(100).all(|block| !block.is_sorted() || block.len() < 4), "so are the samples of a block");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for value in [0.0, -0.5, 1.5, 1e-12, f64::NAN, f64::INFINITY] {
        let error = Fraction::new(value).expect_err("not a fraction");
        assert!(error.to_string().contains("above 0"), "{error}");
    }
    let runs = |runs: &[std::ops::Range<u64>]| Selection::filtered(&SOURCE, 10, runs.to_vec(), 0, Fraction::ALL);
    #[expect(clippy::reversed_empty_ranges, reason = "what a hostile peer may send")]
    for wrong in [[0..3, 2..5], [5..6, 0..1], [0..1, 9..11], [0..1, 3..2]] {
        assert!(matches!(runs(&wrong), Err(SelectionError::Run { .. })), "{wrong:?}");
    }
    let share = |world, rank, replication| Share::new(nonzero(world), rank, nonzero(replication), Remainder::Drop);
    assert!(matches!(share(4, 4, 1), Err(ShareError::Rank { .. })));
    assert!(matches!(share(4, 0, 3), Err(ShareError::Replication { .. })));
    assert_eq!(share(4, 0, 1).expect("a rank").positions(9, 10), Err(ShareError::Start { start: 10, len: 9 }));
}

fn readings() -> impl Strategy<Value = Reading> {
    let remainders = prop_oneof![Just(Remainder::Drop), Just(Remainder::Repeat), Just(Remainder::Uneven)];
    let divided = (1_u64..5, 1_u64..3, 1_u32..9, 1_u32..4);
    (any::<u64>(), 0_u64..3, shuffles(), 1_u32..=100, divided, remainders, 0_u64..40).prop_map(
        |(seed, epoch, shuffle, percent, (groups, replication, batch, workers), remainder, start)| Reading {
            seed,
            epoch,
            shuffle,
            fraction: Fraction::new(f64::from(percent) / 100.0).expect("a fraction"),
            world_size: nonzero(groups * replication),
            replication: nonzero(replication),
            remainder,
            start,
            batch,
            workers,
            ..Reading::default()
        },
    )
}

proptest! {
    #[test]
    fn the_workers_of_a_rank_read_its_share_batch_by_batch(samples in 0_u64..400, reading in readings()) {
        for rank in 0..reading.world_size.get() {
            let course = |worker| Course::new(&Reading { rank, worker, ..reading.clone() }, &SOURCE, samples);
            let courses: Result<Vec<_>, _> = (0..reading.workers).map(course).collect();
            let courses = match courses {
                Ok(courses) => courses,
                Err(error) => {
                    prop_assert!(matches!(error, ReadingError::Share(ShareError::Start { .. })), "{}", error);
                    return Ok(());
                }
            };
            let steps: Vec<u64> = (0..).map_while(|step| courses[0].sample_of_step(step)).collect();
            prop_assert_eq!(steps.len() as u64, courses[0].steps());
            for (number, batch) in steps.chunks(reading.batch as usize).enumerate() {
                let (worker, turn) = (number % courses.len(), number / courses.len());
                let of_worker = courses[worker].batch(turn as u64);
                prop_assert_eq!(of_worker.as_deref(), Some(batch));
            }
            let lens: u64 = courses.iter().map(Course::len).sum();
            prop_assert_eq!(lens, courses[0].steps());
            for course in &courses {
                prop_assert_eq!(course.sample(course.len()), None);
                for turn in 0..course.len() {
                    let sample = course.sample(turn).expect("one of its turns");
                    let first = course.turn(sample).expect("it reads this sample");
                    prop_assert_eq!(course.sample(first), Some(sample));
                    prop_assert!(first == turn || reading.remainder == Remainder::Repeat);
                }
            }
        }
    }
}

#[test]
fn readings_that_make_no_sense_are_refused() {
    let good = Reading { kept: vec![2..5, 7..9], batch: 2, ..Reading::default() };
    let course = |reading: &Reading| Course::new(reading, &SOURCE, 9);
    assert_eq!(course(&good).expect("good").len(), 5);
    let bad = [
        (Reading { batch: 0, ..good.clone() }, "one sample"),
        (Reading { worker: 1, ..good.clone() }, "worker 1 does not exist among 1"),
        (Reading { workers: 0, ..good.clone() }, "among 0"),
        (Reading { rank: 1, ..good.clone() }, "rank 1 does not exist"),
        (Reading { replication: nonzero(2), ..good.clone() }, "replication of 2"),
        (Reading { start: 6, ..good.clone() }, "position 6 lies past the end of an epoch of 5"),
        (Reading { kept: vec![7..9, 2..5], ..good.clone() }, "2..5"),
        (Reading { kept: vec![Range { start: 5, end: 2 }], ..good }, "5..2"),
    ];
    for (reading, said) in bad {
        let error = course(&reading).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
    }
}
