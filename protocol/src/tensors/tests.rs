//! Headers that are refused, and encodings within their stated errors.

use proptest::prelude::*;

use super::encoding::{BLOCK, Encoded, Encoding, MismatchError, encode, layout_of};
use super::*;

fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), range: 0..0 }
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn a_file_that_another_program_wrote_is_read() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}  "#,
        entry("w", "F32", "[2,3]", 0, 24),
        entry("steps", "I64", "[]", 24, 32),
        entry("none", "F16", "[0,5]", 32, 32)
    );
    let layout = Layout::of(&file(&header, 32)).expect("it can be read");
    assert_eq!(layout.metadata().get("format").map(String::as_str), Some("pt"));
    let w = layout.find("w").expect("there");
    assert_eq!((w.elements(), w.dtype, w.shown_shape().as_str()), (6, Dtype::F32, "[2, 3]"));
    assert_eq!(layout.find("steps").expect("there").elements(), 1);
    assert_eq!(layout.find("none").expect("there").elements(), 0);
    assert_eq!(layout.file_bytes(), 8 + header.len() as u64 + 32);
    assert_eq!(layout.place(w, 2..4), layout.data_start() + 8..layout.data_start() + 16);
}

#[test]
fn what_is_built_is_what_is_read() {
    let tensors =
        vec![tensor("b", Dtype::Bf16, &[3]), tensor("a", Dtype::F32, &[]), tensor("é\"", Dtype::Bool, &[2, 2])];
    let metadata = BTreeMap::from([("k".to_owned(), "v\n".to_owned())]);
    let built = Layout::build(tensors, metadata).expect("it can be");
    let mut bytes = built.encode_header();
    assert!(bytes.len().is_multiple_of(8));
    bytes.resize(built.file_bytes() as usize, 0);
    assert_eq!(Layout::of(&bytes).expect("it can be read"), built);
    let names: Vec<_> = built.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "é\""]);
}

#[test]
fn files_that_cannot_be_are_refused_by_name() {
    let one = |dtype: &str, shape: &str, from, to| format!("{{{}}}", entry("w", dtype, shape, from, to));
    let two = |a: (u64, u64), b: (u64, u64)| {
        format!(
            "{{{},{}}}",
            entry("v", "U8", &format!("[{}]", a.1 - a.0), a.0, a.1),
            entry("w", "U8", &format!("[{}]", b.1 - b.0), b.0, b.1)
        )
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![1, 2, 3], "3 bytes, and its header would need 8"),
        (b"{\"this\": \"is json and not safetensors\"}".to_vec(), "its header would have"),
        (u64::pow(2, 60).to_le_bytes().to_vec(), "its header would have 1152921504606846976 bytes"),
        (file("{}", 0)[..9].to_vec(), "9 bytes, and its header would need 10"),
        (file("[1]", 0), "its header can't be read"),
        (file("{} x", 0), "its header can't be read"),
        (file(&one("F8", "[1]", 0, 1), 1), "`F8` is no type"),
        (file(&one("F32", "[2]", 0, 4), 4), "tensor `w` has 4 bytes, and its shape needs 8"),
        (file(&one("F32", "[1]", 4, 8), 8), "tensor `w` begins at byte 4, and the one before ends at 0"),
        (
            file(&one("F32", "[1152921504606846976,1152921504606846976]", 0, 4), 4),
            "tensor `w` has a shape that can't be",
        ),
        (file(&one("F32", "[-1]", 0, 4), 4), "its header can't be read"),
        (file(&one("F32", "[1]", 0, 4), 5), "its tensors end at byte"),
        (file(&one("F32", "[1]", 0, 4), 3), "its tensors end at byte"),
        (file(&two((0, 8), (4, 12)), 12), "tensor `w` begins at byte 4, and the one before ends at 8"),
        (file(&two((0, 4), (8, 12)), 12), "tensor `w` begins at byte 8, and the one before ends at 4"),
        (file(&format!("{{{0},{0}}}", entry("w", "U8", "[1]", 0, 1)), 1), "two tensors `w`"),
        (file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "two `a`"),
        (file(r#"{"__metadata__":{"a":1}}"#, 0), "its header can't be read"),
    ];
    for (bytes, expected) in cases {
        let said = Layout::of(&bytes).expect_err(expected).to_string();
        assert!(said.contains(expected), "{said}, not {expected}");
    }
    let many: Vec<_> = (0..=TENSORS_MAX).map(|number| entry(&number.to_string(), "U8", "[0]", 0, 0)).collect();
    assert_eq!(Layout::of(&file(&format!("{{{}}}", many.join(",")), 0)), Err(LayoutError::TooMany));
}

fn model() -> Layout {
    let tensors =
        vec![tensor("w", Dtype::F32, &[3, 200]), tensor("h", Dtype::Bf16, &[7]), tensor("steps", Dtype::I64, &[])];
    Layout::build(tensors, BTreeMap::new()).expect("it can be")
}

#[test]
fn an_update_fits_its_model_or_says_where_not() {
    let model = model();
    for encoding in Encoding::ALL {
        let update = layout_of(&model, encoding, BTreeMap::new()).expect("it can be");
        assert_eq!(Encoded::new(&model, &update).expect("it fits").encoding(), encoding);
    }
    // What a training framework saves has the model's own types.
    assert_eq!(Encoded::new(&model, &model).expect("it fits").encoding(), Encoding::Full);
    let changed = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = model.tensors().to_vec();
        change(&mut tensors);
        let update = Layout::build(tensors, BTreeMap::new()).expect("it can be");
        Encoded::new(&model, &update).expect_err("it does not fit").to_string()
    };
    assert_eq!(changed(&|tensors| tensors.truncate(2)), "tensor `w` is missing");
    assert_eq!(changed(&|tensors| tensors.push(tensor("x", Dtype::F32, &[]))), "tensor `x` is not in the model");
    assert_eq!(
        changed(&|tensors| tensors[2].shape = vec![600]),
        "tensor `w` has the shape [600], and the model's has [3, 200]"
    );
    assert_eq!(
        changed(&|tensors| tensors[1].dtype = Dtype::I32),
        "tensor `steps` has the type I32, and I64 was expected"
    );
    let lied = Layout::build(
        model.tensors().to_vec(),
        BTreeMap::from([(encoding::METADATA_KEY.to_owned(), "gzip".to_owned())]),
    );
    let error = Encoded::new(&model, &lied.expect("it can be")).expect_err("unknown");
    assert!(matches!(error, MismatchError::Encoding(_)));
}

/// Encodes and decodes, in tiles of so many blocks.
fn round_trip(encoding: Encoding, values: &[f32], residual: &mut [f32]) -> Vec<f32> {
    let model =
        Layout::build(vec![tensor("w", Dtype::F32, &[values.len() as u64])], BTreeMap::new()).expect("it can be");
    let update = layout_of(&model, encoding, BTreeMap::new()).expect("it can be");
    let encoded = Encoded::new(&model, &update).expect("it fits");
    let (mut data, mut scales) = (Vec::new(), Vec::new());
    encode(encoding, values, residual, &mut data, &mut scales);
    let mut bytes = update.encode_header();
    let write = |bytes: &mut Vec<u8>, name: &str, part: &[u8]| {
        let Some(tensor) = update.find(name) else { return };
        let place = update.place(tensor, 0..tensor.elements());
        bytes.resize(bytes.len().max(place.end as usize), 0);
        bytes[place.start as usize..place.end as usize].copy_from_slice(part);
    };
    write(&mut bytes, "w", &data);
    write(&mut bytes, "w#scale", &scales);
    assert_eq!(Layout::of(&bytes).expect("it is a file"), update);
    let mut decoded = vec![0.0; values.len()];
    // From anywhere to anywhere, as aggregation reads.
    let cut = (values.len() / 3) as u64;
    for range in [0..cut, cut..values.len() as u64] {
        let (data, scales) = encoded.bytes_of(0, range.clone());
        let part = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
        let into = &mut decoded[range.start as usize..range.end as usize];
        encoded.decode(0, range, part(data), scales.map_or(&[][..], part), into);
    }
    decoded
}

proptest! {
    #[test]
    fn encodings_keep_to_their_bounds(values in proptest::collection::vec(-1.0e3_f32..1.0e3, 1..1200), tiny in any::<bool>()) {
        let values: Vec<f32> = values.iter().map(|value| if tiny { value * 1.0e-30 } else { *value }).collect();
        for encoding in Encoding::ALL {
            let mut residual = vec![0.0; values.len()];
            let decoded = round_trip(encoding, &values, &mut residual);
            for (block, (wanted, got)) in values.chunks(BLOCK as usize).zip(decoded.chunks(BLOCK as usize)).enumerate() {
                let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                for (index, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                    let bound = match encoding {
                        Encoding::Full => 0.0,
                        Encoding::Bf16 => wanted.abs() * 0.003_906_25,
                        Encoding::Int8 => largest / 254.0 + largest * 6.0e-7,
                    };
                    let error = (wanted - got).abs();
                    prop_assert!(error <= bound, "{encoding}: {wanted} became {got}");
                    let lost = residual[block * BLOCK as usize + index];
                    if encoding == Encoding::Int8 {
                        prop_assert!((lost - (wanted - got)).abs() <= largest * 1.0e-7);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_lost_comes_with_the_next_update(values in proptest::collection::vec(-1.0_f32..1.0, 1..300)) {
        let mut residual = vec![0.0; values.len()];
        let mut sums = vec![0.0_f64; values.len()];
        for _ in 0..50 {
            for (sum, got) in sums.iter_mut().zip(round_trip(Encoding::Int8, &values, &mut residual)) {
                *sum += f64::from(got);
            }
        }
        for (sum, value) in sums.iter().zip(&values) {
            prop_assert!((sum - 50.0 * f64::from(*value)).abs() <= 0.02, "{sum} for fifty times {value}");
        }
    }

    #[test]
    fn garbage_is_no_file(bytes in proptest::collection::vec(any::<u8>(), 0..300), header in ".{0,80}") {
        let _ = Layout::of(&bytes);
        let _ = Layout::of(&file(&header, bytes.len()));
        let _ = Layout::of(&file(&format!("{{{header}}}"), 0));
    }

    #[test]
    fn integers_keep_their_values_and_stay_in_range(values in proptest::collection::vec(any::<i64>(), 1..20)) {
        for dtype in Dtype::ALL.into_iter().filter(|dtype| !dtype.is_float() && *dtype != Dtype::Bool) {
            let wide: Vec<_> = values.iter().map(|value| i128::from(*value)).collect();
            let mut bytes = vec![0; values.len() * dtype.bytes() as usize];
            dtype.put_integers(&wide, &mut bytes);
            let (mut once, mut twice) = (vec![0; values.len()], vec![0; values.len()]);
            dtype.integers(&bytes, &mut once);
            dtype.put_integers(&once, &mut bytes);
            dtype.integers(&bytes, &mut twice);
            prop_assert_eq!(&once, &twice);
            for (value, got) in wide.iter().zip(&once) {
                let fits = dtype == Dtype::I64 || (*got == *value);
                prop_assert!(fits || got.abs() >= 127 || *got == 0, "{dtype}: {value} became {got}");
            }
        }
    }
}
