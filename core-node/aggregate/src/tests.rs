//! Whole aggregations over files in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use headwater_protocol::tensors::encoding::{Encoded, Encoding, encode, layout_of};
use headwater_protocol::tensors::{Dtype, Layout, Tensor};
use proptest::prelude::*;

use super::*;

struct Memory(Vec<u8>);

impl Source for Memory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, from: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let end = from as usize + into.len();
        let bytes = self.0.get(from as usize..end).ok_or_else(|| ReadError("beyond the end".into()))?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

#[derive(Default)]
struct Written(Mutex<BTreeMap<u8, Vec<u8>>>);

impl Sink for Written {
    fn write_at(&self, output: Output, at: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let mut files = self.0.lock().expect("not poisoned");
        let file = files.entry(output as u8).or_default();
        let end = at as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at as usize..end].copy_from_slice(bytes);
        Ok(())
    }
}

impl Written {
    fn file(&self, output: Output) -> Option<Memory> {
        self.0.lock().expect("not poisoned").remove(&(output as u8)).map(Memory)
    }
}

fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), range: 0..0 }
}

/// A file with one tensor `w`, and one `n` of whole numbers where there are any.
fn file(values: &[f32], dtype: Dtype, counts: &[i128], metadata: BTreeMap<String, String>) -> Memory {
    let mut tensors = vec![tensor("w", dtype, &[values.len() as u64])];
    if !counts.is_empty() {
        tensors.push(tensor("n", Dtype::I64, &[counts.len() as u64]));
    }
    let layout = Layout::build(tensors, metadata).expect("a layout");
    let mut bytes = layout.encode_header();
    bytes.resize(layout.file_bytes() as usize, 0);
    let place = |name: &str| {
        let tensor = layout.find(name).expect("a tensor");
        let range = layout.place(tensor, 0..tensor.elements());
        range.start as usize..range.end as usize
    };
    dtype.put_floats(values, &mut bytes[place("w")]);
    if !counts.is_empty() {
        Dtype::I64.put_integers(counts, &mut bytes[place("n")]);
    }
    Memory(bytes)
}

fn update_file(values: &[f32], counts: &[i128]) -> Memory {
    file(values, Dtype::F32, counts, BTreeMap::from([("headwater.encoding".to_owned(), "full".to_owned())]))
}

struct Round<'a> {
    strategy: &'a str,
    base: &'a Memory,
    state: Option<&'a Memory>,
}

impl Round<'_> {
    fn run(&self, updates: &[(&Memory, u64, u64)], backwards: bool) -> Result<(Memory, Option<Memory>), Refusal> {
        let base = read_layout(self.base).expect("a model");
        let state_layout = self.state.map(|state| read_layout(state).expect("a state"));
        let state =
            self.state.zip(state_layout.as_ref()).map(|(file, layout)| Model { layout, file: file as &dyn Source });
        let updates = updates
            .iter()
            .map(|(file, samples, staleness)| {
                let layout = read_layout(*file).expect("an update");
                let encoded = Encoded::new(&base, &layout).expect("an update of the model");
                Update { encoded, file: *file, samples: *samples, staleness: *staleness }
            })
            .collect();
        let strategy = self.strategy.parse().expect("a strategy");
        let model = Model { layout: &base, file: self.base };
        let mut aggregation = Aggregation::new(strategy, model, state, updates, BTreeMap::new())?;
        let mut scratch = Scratch::default();
        if aggregation.needs_measure() {
            let tiles = aggregation.measure_tiles();
            let measured: Result<Vec<_>, _> =
                tiles.iter().map(|tile| aggregation.measure(tile, &mut scratch)).collect();
            aggregation.settle(measured?)?;
        }
        let written = Written::default();
        let header = aggregation.model_layout().encode_header();
        written.write_at(Output::Model, 0, &header)?;
        if let Some(layout) = aggregation.kept_layout() {
            written.write_at(Output::State, 0, &layout.encode_header())?;
        }
        let mut tiles = aggregation.tiles();
        if backwards {
            tiles.reverse();
        }
        for tile in &tiles {
            aggregation.combine(tile, &mut scratch, &written)?;
        }
        Ok((written.file(Output::Model).expect("a model"), written.file(Output::State)))
    }
}

fn values(file: &Memory, name: &str) -> Vec<f32> {
    let layout = read_layout(file).expect("a file");
    let tensor = layout.find(name).expect("a tensor");
    let range = layout.place(tensor, 0..tensor.elements());
    let mut into = vec![0.0; tensor.elements() as usize];
    tensor.dtype.floats(&file.0[range.start as usize..range.end as usize], &mut into);
    into
}

fn counts(file: &Memory) -> Vec<i128> {
    let layout = read_layout(file).expect("a file");
    let tensor = layout.find("n").expect("a tensor");
    let range = layout.place(tensor, 0..tensor.elements());
    let mut into = vec![0; tensor.elements() as usize];
    Dtype::I64.integers(&file.0[range.start as usize..range.end as usize], &mut into);
    into
}

fn combined(strategy: &str, base: &[f32], updates: &[(&[f32], u64)]) -> Vec<f32> {
    let base = file(base, Dtype::F32, &[], BTreeMap::new());
    let files: Vec<_> = updates.iter().map(|(values, samples)| (update_file(values, &[]), *samples)).collect();
    let updates: Vec<_> = files.iter().map(|(file, samples)| (file, *samples, 0)).collect();
    values(&Round { strategy, base: &base, state: None }.run(&updates, false).expect("combined").0, "w")
}

#[test]
fn means_are_weighted_and_ranks_are_not() {
    let updates: [(&[f32], u64); 3] = [(&[1.0, 0.0], 1), (&[4.0, 0.0], 2), (&[100.0, 1.0], 1)];
    assert_eq!(combined("fedavg", &[10.0, 1.0], &updates), [37.25, 1.25]);
    assert_eq!(combined("fedavg:eta=0.5", &[10.0, 1.0], &updates), [23.625, 1.125]);
    assert_eq!(combined("median", &[10.0, 1.0], &updates), [14.0, 1.0]);
    assert_eq!(combined("trimmed-mean:beta=0.34", &[10.0, 1.0], &updates), [14.0, 1.0]);
    assert_eq!(combined("fedavg:clip=1", &[0.0], &[(&[3.0], 1), (&[-0.5], 1)]), [0.25]);
    assert_eq!(combined("fedavg:zero=2", &[0.0], &[(&[3.0], 1), (&[-0.5], 1)]), [-0.25]);
}

#[test]
fn optimisers_make_the_steps_of_the_paper() {
    let base = file(&[1.0], Dtype::F32, &[], BTreeMap::new());
    let update = update_file(&[0.5], &[]);
    let (d, tau) = (0.5_f64, 1e-3_f64);
    // Two steps with the same Δ, by hand.
    let adam = |beta1: f64, next: &dyn Fn(f64) -> f64| {
        let (mut x, mut m, mut v) = (1.0, 0.0, tau * tau);
        for _ in 0..2 {
            m = beta1 * m + (1.0 - beta1) * d;
            v = next(v);
            x += 0.1 * m / (v.sqrt() + tau);
        }
        x
    };
    let square = d * d;
    let cases: [(&str, f64); 4] = [
        ("fedadam", adam(0.9, &|v| 0.99 * v + 0.01 * square)),
        ("fedyogi", adam(0.9, &|v| v - 0.01 * square * (v - square).signum())),
        ("fedadagrad", adam(0.0, &|v| v + square)),
        ("fedavgm:momentum=0.5", 1.0 + 0.5 + 0.75),
    ];
    for (strategy, expected) in cases {
        let first = Round { strategy, base: &base, state: None }.run(&[(&update, 7, 0)], false).expect("combined");
        let state = first.1.expect("a state");
        let second = Round { strategy, base: &first.0, state: Some(&state) };
        let new = values(&second.run(&[(&update, 7, 0)], false).expect("combined").0, "w")[0];
        assert!((f64::from(new) - expected).abs() < 1e-5, "{strategy}: {new}, {expected}");
    }
}

#[test]
fn small_steps_of_half_precision_models_add_up_in_their_masters() {
    let mut model = file(&[1.0], Dtype::Bf16, &[], BTreeMap::new());
    let update = update_file(&[0.001], &[]);
    let mut state = None;
    for _ in 0..10 {
        let round = Round { strategy: "fedavg", base: &model, state: state.as_ref() };
        let (new, kept) = round.run(&[(&update, 1, 0)], false).expect("combined");
        (model, state) = (new, kept);
    }
    // A single step is below half of bf16's distance between numbers at one.
    assert_eq!(values(&model, "w"), [1.007_812_5]);
}

#[test]
fn whole_numbers_are_rounded_half_to_even() {
    let base = file(&[0.0], Dtype::F32, &[5, 5, -5], BTreeMap::new());
    let updates = [update_file(&[0.0], &[6, 7, -8]), update_file(&[0.0], &[7, 10, -7])];
    let with = |strategy| {
        let round = Round { strategy, base: &base, state: None };
        counts(&round.run(&[(&updates[0], 1, 0), (&updates[1], 1, 0)], false).expect("combined").0)
    };
    assert_eq!(with("fedavg"), [6, 8, -8]);
    assert_eq!(with("median"), [6, 8, -8]);
}

#[test]
fn what_can_t_be_combined_is_refused() {
    let base = file(&[0.0], Dtype::F32, &[], BTreeMap::new());
    let update = update_file(&[1.0], &[]);
    let refusal = |strategy, samples| {
        let round = Round { strategy, base: &base, state: None };
        round.run(&[(&update, samples, 0)], false).err().expect("refused").to_string()
    };
    assert_eq!(refusal("krum", 1), "`krum` needs 5 updates at least, and there are 1");
    assert_eq!(refusal("fedavg", 0), "the weights of the updates add up to 0, and can from 1 to 274877906944");
    assert!(refusal("fedbuff", 1 << 25).contains("can weigh 2097151"));
    let state = update_file(&[1.0], &[]);
    let round = Round { strategy: "fedadam", base: &base, state: Some(&state) };
    assert!(round.run(&[(&update, 1, 0)], false).is_err());
}

#[test]
fn adaptive_bounds_follow_the_updates() {
    let base = file(&[0.0], Dtype::F32, &[], BTreeMap::new());
    let updates = [update_file(&[0.1], &[]), update_file(&[4.0], &[])];
    let round = Round { strategy: "fedavg:clip=adaptive", base: &base, state: None };
    let (model, state) = round.run(&[(&updates[0], 1, 0), (&updates[1], 1, 0)], false).expect("combined");
    assert_eq!(values(&model, "w"), [0.55]);
    let layout = read_layout(&state.expect("a state")).expect("a state");
    let estimate: f64 = layout.metadata()["clip-estimate"].parse().expect("a number");
    assert!((estimate - (0.2_f64 * 0.3).exp()).abs() < 1e-12, "{estimate}");
}

#[test]
fn numbers_that_are_none_are_named() {
    for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (2e7, "20000000, and no change")] {
        let model = file(&[0.0; 3], Dtype::F32, &[], BTreeMap::new());
        let update = update_file(&[0.0, 1.0, value], &[]);
        let (model, layout) = (read_layout(&model).expect("a model"), read_layout(&update).expect("an update"));
        let encoded = Encoded::new(&model, &layout).expect("fits");
        let fault = check_values(&model, &encoded, &update).expect_err("refused").to_string();
        assert!(fault.starts_with(&format!("element 2 of tensor `w` is {said}")), "{fault}");
    }
}

#[test]
fn quantised_updates_are_combined_as_they_decode() {
    let deltas: Vec<f32> = (0..1000_i16).map(|index| f32::from(index % 37) * 0.01 - 0.2).collect();
    let base = file(&[0.0; 1000], Dtype::F32, &[], BTreeMap::new());
    let layout = layout_of(&read_layout(&base).expect("a model"), Encoding::Int8, BTreeMap::new()).expect("a layout");
    let (mut data, mut scales) = (Vec::new(), Vec::new());
    encode(Encoding::Int8, &deltas, &mut vec![0.0; 1000], &mut data, &mut scales);
    let mut bytes = layout.encode_header();
    bytes.append(&mut data);
    bytes.append(&mut scales);
    let update = Memory(bytes);
    let (model, _) =
        Round { strategy: "fedavg", base: &base, state: None }.run(&[(&update, 3, 0)], false).expect("combined");
    for (new, delta) in values(&model, "w").iter().zip(&deltas) {
        assert!((new - delta).abs() <= 0.2 / 253.0, "{new} {delta}");
    }
}

fn any_strategy() -> impl proptest::strategy::Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "fedavg",
        "fedbuff",
        "fedadam",
        "fedavg:clip=1,zero=3",
        "median",
        "trimmed-mean",
        "krum",
        "multi-krum:byzantine=1",
    ])
}

proptest! {
    /// Linear strategies don't know the order of updates; none knows the order of tiles.
    #[test]
    fn order_does_not_show(
        strategy in any_strategy(),
        updates in prop::collection::vec((prop::collection::vec(-2.0_f32..2.0, 300), 1_u64..1000, 0_u64..5), 5..9),
    ) {
        let base = file(&[0.5; 300], Dtype::F32, &[], BTreeMap::new());
        let files: Vec<_> = updates.iter().map(|(values, ..)| update_file(values, &[])).collect();
        let mut members: Vec<_> = files.iter().zip(&updates).map(|(file, update)| (file, update.1, update.2)).collect();
        let round = Round { strategy, base: &base, state: None };
        let forwards = round.run(&members, false).expect("combined").0;
        prop_assert_eq!(&round.run(&members, true).expect("combined").0.0, &forwards.0);
        members.reverse();
        if strategy.starts_with("fed") || strategy == "median" || strategy == "trimmed-mean" {
            prop_assert_eq!(&round.run(&members, false).expect("combined").0.0, &forwards.0);
        }
    }
}

/// BLAKE3 of the models after two rounds, by strategy. They are the same on every machine and with every compiler's way of using it:
/// what a model's lineage says can be checked wherever it is read.
const MODELS: [(&str, &str); 10] = [
    ("fedavg:eta=0.7", "1cd13a2b012b6da6"),
    ("fedavgm", "0a4eb36e214b7dd7"),
    ("fedadam", "662e88ec6972ff67"),
    ("fedyogi", "5c775bc78566a048"),
    ("fedadagrad", "23b186b9ccce6e10"),
    ("fedavg:clip=adaptive", "97709c1b73dbf715"),
    ("median", "e49d1199367640af"),
    ("trimmed-mean:beta=0.2", "af6aad303f1e5a6a"),
    ("krum:byzantine=2", "a4abde61daa9f786"),
    ("multi-krum:byzantine=2", "dd8b41fa9a31141e"),
];

#[test]
fn the_same_updates_give_the_same_bytes_on_every_machine() {
    const ELEMENTS: usize = 70_001;
    let noise = |seed: u64, scale: f32| -> Vec<f32> {
        let mut bytes = vec![0; ELEMENTS * 4];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| scale * (i32::from_le_bytes(*word) as f32 / 2_147_483_648.0)).collect()
    };
    let updates: Vec<_> = (0..9).map(|seed| update_file(&noise(seed + 1, 0.01), &[])).collect();
    let updates: Vec<_> = updates.iter().zip(1..).map(|(file, samples)| (file, samples * samples, 0)).collect();
    let made = MODELS.map(|(strategy, _)| {
        let mut base = file(&noise(0, 1.0), Dtype::F32, &[], BTreeMap::new());
        let mut state = None;
        for _ in 0..2 {
            let round = Round { strategy, base: &base, state: state.as_ref() };
            let (next, kept) = round.run(&updates, false).expect("combined");
            (base, state) = (next, kept);
        }
        (strategy, blake3::hash(&base.0).to_hex()[..16].to_owned())
    });
    let expected = MODELS.map(|(strategy, hash)| (strategy, hash.to_owned()));
    assert_eq!(made, expected);
}
