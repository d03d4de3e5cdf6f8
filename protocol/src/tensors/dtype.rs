//! What a tensor's elements are.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

/// A type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

/// A type that is not known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of elements that is known here")]
pub struct UnknownDtype(pub String);

impl Dtype {
    /// All types.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::F16,
        Self::Bf16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of an element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Its name in a file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::F32 => "F32",
            Self::U64 => "U64",
            Self::I64 => "I64",
            Self::F64 => "F64",
        }
    }

    /// Whether elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// Reads floating-point elements as `f32`: exact, but for `F64`, which is rounded to nearest even. Elements of other types are
    /// left as they are in `into`.
    pub fn floats(self, bytes: &[u8], into: &mut [f32]) {
        match self {
            Self::F32 => convert(bytes, into, f32::from_le_bytes),
            Self::F16 => convert(bytes, into, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => convert(bytes, into, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Self::F64 => convert(bytes, into, |bytes| f64::from_le_bytes(bytes) as f32),
            _ => {}
        }
    }

    /// Writes floating-point elements, rounded to nearest even. For other types nothing is written.
    pub fn put_floats(self, floats: &[f32], into: &mut [u8]) {
        match self {
            Self::F32 => put(floats, into, f32::to_le_bytes),
            Self::F16 => put(floats, into, |value| f16::from_f32(value).to_le_bytes()),
            Self::Bf16 => put(floats, into, |value| bf16::from_f32(value).to_le_bytes()),
            Self::F64 => put(floats, into, |value| f64::from(value).to_le_bytes()),
            _ => {}
        }
    }

    /// Reads elements that are whole numbers. For other types, and `BOOL`, nothing is read.
    pub fn integers(self, bytes: &[u8], into: &mut [i128]) {
        match self {
            Self::U8 => convert(bytes, into, |bytes| i128::from(u8::from_le_bytes(bytes))),
            Self::I8 => convert(bytes, into, |bytes| i128::from(i8::from_le_bytes(bytes))),
            Self::U16 => convert(bytes, into, |bytes| i128::from(u16::from_le_bytes(bytes))),
            Self::I16 => convert(bytes, into, |bytes| i128::from(i16::from_le_bytes(bytes))),
            Self::U32 => convert(bytes, into, |bytes| i128::from(u32::from_le_bytes(bytes))),
            Self::I32 => convert(bytes, into, |bytes| i128::from(i32::from_le_bytes(bytes))),
            Self::U64 => convert(bytes, into, |bytes| i128::from(u64::from_le_bytes(bytes))),
            Self::I64 => convert(bytes, into, |bytes| i128::from(i64::from_le_bytes(bytes))),
            _ => {}
        }
    }

    /// Writes elements that are whole numbers, each moved into the type's range. For other types nothing is written.
    pub fn put_integers(self, numbers: &[i128], into: &mut [u8]) {
        match self {
            Self::U8 => put(numbers, into, |value| (value.clamp(0, u8::MAX.into()) as u8).to_le_bytes()),
            Self::I8 => put(numbers, into, |value| (value.clamp(i8::MIN.into(), i8::MAX.into()) as i8).to_le_bytes()),
            Self::U16 => put(numbers, into, |value| (value.clamp(0, u16::MAX.into()) as u16).to_le_bytes()),
            Self::I16 => {
                put(numbers, into, |value| (value.clamp(i16::MIN.into(), i16::MAX.into()) as i16).to_le_bytes());
            }
            Self::U32 => put(numbers, into, |value| (value.clamp(0, u32::MAX.into()) as u32).to_le_bytes()),
            Self::I32 => {
                put(numbers, into, |value| (value.clamp(i32::MIN.into(), i32::MAX.into()) as i32).to_le_bytes());
            }
            Self::U64 => put(numbers, into, |value| (value.clamp(0, u64::MAX.into()) as u64).to_le_bytes()),
            Self::I64 => {
                put(numbers, into, |value| (value.clamp(i64::MIN.into(), i64::MAX.into()) as i64).to_le_bytes());
            }
            _ => {}
        }
    }
}

fn convert<const N: usize, T>(bytes: &[u8], into: &mut [T], of: impl Fn([u8; N]) -> T) {
    for (element, into) in bytes.as_chunks::<N>().0.iter().zip(into) {
        *into = of(*element);
    }
}

fn put<const N: usize, T: Copy>(values: &[T], into: &mut [u8], of: impl Fn(T) -> [u8; N]) {
    for (element, value) in into.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *element = of(*value);
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(text: &str) -> Result<Self, UnknownDtype> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.as_str() == text);
        found.ok_or_else(|| UnknownDtype(text.chars().take(32).collect()))
    }
}
