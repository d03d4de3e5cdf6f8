//! How an update travels. An encoded update is itself a safetensors file, so ordinary tools open it.
//!
//! | encoding | a floating-point tensor `w` becomes | bytes of an element | error of an element of a block with largest magnitude m |
//! | --- | --- | --- | --- |
//! | `full` | `w`, F32 | 4 | none |
//! | `bf16` | `w`, BF16, rounded to nearest even | 2 | at most 2⁻⁸ of the element |
//! | `int8` | `w`, I8, and `w#scale`, F32 for each [`BLOCK`] elements in a row | 1.016 | at most m / 254, and a rounding of 2⁻²⁴ m |
//!
//! With `int8` what was lost to rounding is the **residual**: the device adds it to its next update (error feedback, Seide et al. 2014, Karimireddy
//! et al. 2019), so that nothing is lost for good. Tensors of whole numbers travel as they are in all encodings.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{Dtype, Layout, LayoutError, Tensor};

/// Elements that share a scale.
pub const BLOCK: u64 = 256;
/// Where a file says how it is encoded.
pub const METADATA_KEY: &str = "headwater.encoding";
/// What the name of a tensor of scales ends with.
const SCALE_SUFFIX: &str = "#scale";
/// The largest quantum.
const QUANTUM_MAX: f32 = 127.0;

/// An encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// 32 bits.
    Full,
    /// The upper half of 32 bits.
    Bf16,
    /// 8 bits and a scale for each block.
    Int8,
}

/// A text that names no encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no encoding; there are full, bf16 and int8")]
pub struct UnknownEncoding(String);

impl Encoding {
    /// All encodings.
    pub const ALL: [Self; 3] = [Self::Full, Self::Bf16, Self::Int8];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// What floating-point elements become.
    const fn dtype(self) -> Dtype {
        match self {
            Self::Full => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::Int8 => Dtype::I8,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    fn from_str(text: &str) -> Result<Self, UnknownEncoding> {
        let found = Self::ALL.into_iter().find(|encoding| encoding.as_str() == text);
        found.ok_or_else(|| UnknownEncoding(text.chars().take(32).collect()))
    }
}

/// The layout of an update of `model` in this encoding.
pub fn layout_of(
    model: &Layout,
    encoding: Encoding,
    mut metadata: BTreeMap<String, String>,
) -> Result<Layout, LayoutError> {
    metadata.insert(METADATA_KEY.to_owned(), encoding.to_string());
    let mut tensors = Vec::new();
    for tensor in model.tensors() {
        if !tensor.dtype.is_float() {
            tensors.push(tensor.clone());
            continue;
        }
        tensors.push(Tensor { dtype: encoding.dtype(), ..tensor.clone() });
        if encoding == Encoding::Int8 {
            tensors.push(Tensor {
                name: scale_name(&tensor.name),
                dtype: Dtype::F32,
                shape: vec![tensor.elements().div_ceil(BLOCK)],
                range: 0..0,
            });
        }
    }
    Layout::build(tensors, metadata)
}

/// The name of the tensor with the scales of tensor `name`.
pub fn scale_name(name: &str) -> String {
    format!("{name}{SCALE_SUFFIX}")
}

/// Why a file is no update of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MismatchError {
    /// It names an encoding that is none.
    #[error(transparent)]
    Encoding(#[from] UnknownEncoding),
    /// A tensor of the model is not in it.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// It has a tensor that the model has not.
    #[error("tensor `{0}` is not in the model")]
    Extra(String),
    /// A tensor has another shape.
    #[error("tensor `{name}` has the shape {found}, and the model's has {expected}")]
    Shape {
        /// Which.
        name: String,
        /// What it has.
        found: String,
        /// What the model has.
        expected: String,
    },
    /// A tensor has another type.
    #[error("tensor `{name}` has the type {found}, and {expected} was expected")]
    Dtype {
        /// Which.
        name: String,
        /// What it has.
        found: Dtype,
        /// What it should have.
        expected: Dtype,
    },
}

/// A file that is an update of a model: for each of the model's tensors, where it is.
#[derive(Clone, Debug)]
pub struct Encoded {
    encoding: Encoding,
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    elements: u64,
    dtype: Dtype,
    data: Range<u64>,
    scales: Option<Range<u64>>,
}

impl Encoded {
    /// Checks that the file is an update of `model`: the same tensors, shapes and types. One that says nothing of an encoding
    /// is `full`, and may have the model's own types of floating-point numbers.
    pub fn new(model: &Layout, update: &Layout) -> Result<Self, MismatchError> {
        let encoding = match update.metadata().get(METADATA_KEY) {
            Some(name) => name.parse()?,
            None => Encoding::Full,
        };
        let known: BTreeMap<&str, &Tensor> =
            update.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let find = |name: &str| known.get(name).copied().ok_or_else(|| MismatchError::Missing(name.to_owned()));
        let mut used = 0;
        let mut places = Vec::with_capacity(model.tensors().len());
        for tensor in model.tensors() {
            let found = find(&tensor.name)?;
            used += 1;
            if found.shape != tensor.shape {
                return Err(MismatchError::Shape {
                    name: tensor.name.clone(),
                    found: found.shown_shape(),
                    expected: tensor.shown_shape(),
                });
            }
            let expected = if tensor.dtype.is_float() { encoding.dtype() } else { tensor.dtype };
            let is_own = encoding == Encoding::Full && tensor.dtype.is_float() && found.dtype == tensor.dtype;
            check_dtype(found, expected, is_own)?;
            let elements = tensor.elements();
            let mut scales = None;
            if tensor.dtype.is_float() && encoding == Encoding::Int8 {
                let scale = find(&scale_name(&tensor.name))?;
                used += 1;
                check_dtype(scale, Dtype::F32, false)?;
                if scale.shape != [elements.div_ceil(BLOCK)] {
                    return Err(MismatchError::Shape {
                        name: scale.name.clone(),
                        found: scale.shown_shape(),
                        expected: format!("[{}]", elements.div_ceil(BLOCK)),
                    });
                }
                scales = Some(update.place(scale, 0..elements.div_ceil(BLOCK)));
            }
            places.push(Place { elements, dtype: found.dtype, data: update.place(found, 0..elements), scales });
        }
        if used < known.len() {
            let is_known = |name: &str| {
                model.find(name).is_some()
                    || name.strip_suffix(SCALE_SUFFIX).is_some_and(|name| model.find(name).is_some())
            };
            let extra = update.tensors().iter().find(|tensor| !is_known(&tensor.name));
            let name = extra.map_or_else(|| format!("*{SCALE_SUFFIX}"), |tensor| tensor.name.clone());
            return Err(MismatchError::Extra(name));
        }
        Ok(Self { encoding, places })
    }

    /// How it is encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Elements of the model's tensor number `tensor`.
    pub fn elements(&self, tensor: usize) -> u64 {
        self.places[tensor].elements
    }

    /// The bytes of the file in which elements of the model's tensor number `tensor` are, and those of their scales.
    pub fn bytes_of(&self, tensor: usize, elements: Range<u64>) -> (Range<u64>, Option<Range<u64>>) {
        let place = &self.places[tensor];
        let width = place.dtype.bytes();
        let data = place.data.start + elements.start * width..place.data.start + elements.end * width;
        let scales = place.scales.as_ref().map(|scales| {
            let (first, last) = (elements.start / BLOCK, elements.end.div_ceil(BLOCK));
            scales.start + first * Dtype::F32.bytes()..scales.start + last * Dtype::F32.bytes()
        });
        (data, scales)
    }

    /// Decodes the bytes that [`Encoded::bytes_of`] names, of floating-point elements.
    pub fn decode(&self, tensor: usize, elements: Range<u64>, data: &[u8], scales: &[u8], into: &mut [f32]) {
        let place = &self.places[tensor];
        if place.scales.is_none() {
            place.dtype.floats(data, into);
            return;
        }
        let first = elements.start / BLOCK;
        let scale_of = |index: usize| {
            let block = (elements.start + index as u64) / BLOCK - first;
            scales.as_chunks::<4>().0.get(block as usize).map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
        };
        let mut at = 0;
        while at < data.len().min(into.len()) {
            let to_block_end = (BLOCK - (elements.start + at as u64) % BLOCK) as usize;
            let end = (at + to_block_end).min(data.len()).min(into.len());
            let scale = scale_of(at);
            for (value, byte) in into[at..end].iter_mut().zip(&data[at..end]) {
                *value = f32::from(byte.cast_signed()) * scale;
            }
            at = end;
        }
    }

    /// The type in which elements of whole numbers are stored.
    pub fn dtype(&self, tensor: usize) -> Dtype {
        self.places[tensor].dtype
    }
}

fn check_dtype(found: &Tensor, expected: Dtype, is_own: bool) -> Result<(), MismatchError> {
    if found.dtype == expected || is_own {
        return Ok(());
    }
    Err(MismatchError::Dtype { name: found.name.clone(), found: found.dtype, expected })
}

/// Encodes floating-point elements whose first is the first of a block: their bytes, and with `int8` their scales. `residual`,
/// as long as `values`, is added to them before and holds afterwards what the encoding lost; with other encodings than `int8` it
/// is only added and then zero.
pub fn encode(encoding: Encoding, values: &[f32], residual: &mut [f32], data: &mut Vec<u8>, scales: &mut Vec<u8>) {
    let mut wanted: Vec<f32> = values.iter().zip(residual.iter()).map(|(value, lost)| value + lost).collect();
    if encoding != Encoding::Int8 {
        let dtype = encoding.dtype();
        let start = data.len();
        data.resize(start + values.len() * dtype.bytes() as usize, 0);
        dtype.put_floats(&wanted, &mut data[start..]);
        residual.fill(0.0);
        return;
    }
    for (block, lost) in wanted.chunks_mut(BLOCK as usize).zip(residual.chunks_mut(BLOCK as usize)) {
        let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = largest / QUANTUM_MAX;
        scales.extend_from_slice(&scale.to_le_bytes());
        for (value, lost) in block.iter().zip(lost) {
            // A scale that underflows to zero loses the block to the residual.
            let quantum =
                if scale > 0.0 { (value / scale).round_ties_even().clamp(-QUANTUM_MAX, QUANTUM_MAX) } else { 0.0 };
            data.push((quantum as i8).cast_unsigned());
            *lost = value - quantum * scale;
        }
    }
}
