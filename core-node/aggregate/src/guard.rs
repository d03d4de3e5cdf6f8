//! What no update may contain.

use std::ops::Range;

use headwater_protocol::tensors::Layout;
use headwater_protocol::tensors::encoding::Encoded;

use super::{DELTA_MAX, ReadError, Source};

/// Elements that are looked at at once; a multiple of a block of scales.
const STEP: u64 = 1 << 16;

/// What is wrong with an update's numbers.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// An element is no number, or infinite.
    #[error("element {index} of tensor `{tensor}` is {value}")]
    NotFinite {
        /// Of which tensor.
        tensor: String,
        /// Which, counted in row-major order.
        index: u64,
        /// What it is.
        value: f32,
    },
    /// An element is larger than any step of training.
    #[error("element {index} of tensor `{tensor}` is {value}, and no change can be over {DELTA_MAX}")]
    Absurd {
        /// Of which tensor.
        tensor: String,
        /// Which, counted in row-major order.
        index: u64,
        /// What it is.
        value: f32,
    },
    /// The update can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reads all of an update of `model` once, and looks at each number.
pub fn check_values(model: &Layout, encoded: &Encoded, update: &dyn Source) -> Result<(), Fault> {
    let mut buffers = Buffers::default();
    for (index, tensor) in model.tensors().iter().enumerate().filter(|(_, tensor)| tensor.dtype.is_float()) {
        for stretch in tensor.stretches(STEP) {
            check_stretch(&tensor.name, stretch.start, buffers.decode(encoded, index, stretch, update)?)?;
        }
    }
    Ok(())
}

/// Looks at the elements of a tensor from number `from` on.
pub(crate) fn check_stretch(tensor: &str, from: u64, values: &[f32]) -> Result<(), Fault> {
    // Neither NaN nor infinity is at most anything. All are looked at without a branch, which is what makes it cheap.
    if values.iter().fold(true, |good, value| good & (value.abs() <= DELTA_MAX)) {
        return Ok(());
    }
    let bad = values.iter().enumerate().find(|(_, value)| value.is_nan() || value.abs() > DELTA_MAX);
    let Some((at, &value)) = bad else { return Ok(()) };
    let (tensor, index) = (tensor.to_owned(), from + at as u64);
    Err(if value.is_finite() {
        Fault::Absurd { tensor, index, value }
    } else {
        Fault::NotFinite { tensor, index, value }
    })
}

/// Memory for decoding a stretch of an update.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers {
    data: Vec<u8>,
    scales: Vec<u8>,
    values: Vec<f32>,
}

impl Buffers {
    /// The floating-point elements of a stretch that begins with a block.
    pub(crate) fn decode(
        &mut self,
        encoded: &Encoded,
        tensor: usize,
        elements: Range<u64>,
        update: &dyn Source,
    ) -> Result<&mut [f32], ReadError> {
        let (data, scales) = encoded.bytes_of(tensor, elements.clone());
        fill(&mut self.data, data, update)?;
        match scales {
            Some(scales) => fill(&mut self.scales, scales, update)?,
            None => self.scales.clear(),
        }
        self.values.resize((elements.end - elements.start) as usize, 0.0);
        encoded.decode(tensor, elements, &self.data, &self.scales, &mut self.values);
        Ok(&mut self.values)
    }

    /// Whole numbers of a stretch, as they are.
    pub(crate) fn bytes(
        &mut self,
        encoded: &Encoded,
        tensor: usize,
        elements: Range<u64>,
        update: &dyn Source,
    ) -> Result<&[u8], ReadError> {
        fill(&mut self.data, encoded.bytes_of(tensor, elements).0, update)?;
        Ok(&self.data)
    }

    /// Bytes of any file.
    pub(crate) fn read(&mut self, file: &dyn Source, range: Range<u64>) -> Result<&[u8], ReadError> {
        fill(&mut self.data, range, file)?;
        Ok(&self.data)
    }
}

fn fill(buffer: &mut Vec<u8>, range: Range<u64>, file: &dyn Source) -> Result<(), ReadError> {
    buffer.resize((range.end - range.start) as usize, 0);
    file.read_at(range.start, buffer)
}
