//! Rows of a NumPy array: the `.npy` format, versions 1 to 3 (NumPy Enhancement Proposal 1). A row is what one index gives.
//!
//! ```text
//! 0x93 "NUMPY"  major u8  minor u8  length u16 (version 1) or u32, little-endian  header, a Python dict as text  data
//! ```

use std::num::NonZeroU64;

use super::fixed::Fixed;
use super::{RecordSink, SplitError, Splitter};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes before the length of the header.
const LEAD_BYTES: usize = 8;
/// Longest header. NumPy writes some hundred bytes.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Finds rows.
pub(super) struct Npy {
    size: u64,
    header: Vec<u8>,
    rows: Option<Fixed>,
}

impl Npy {
    pub(super) fn new(size: u64) -> Self {
        Self { size, header: Vec::new(), rows: None }
    }

    /// How many bytes of the file come before its rows, as far as that is known; at least one more than there are here.
    fn header_bytes(&self) -> Result<usize, SplitError> {
        let header = &self.header;
        let known = header.len().min(MAGIC.len());
        if header[..known] != MAGIC[..known] {
            return Err(SplitError::new(0, "it does not begin as `.npy` does"));
        }
        let Some(major) = header.get(MAGIC.len()) else { return Ok(LEAD_BYTES) };
        let bytes_of_length = match major {
            1 => 2,
            2 | 3 => 4,
            other => return Err(SplitError::new(6, format!("version {other} of `.npy` is not known here"))),
        };
        let start = LEAD_BYTES + bytes_of_length;
        let Some(length) = header.get(LEAD_BYTES..start) else { return Ok(start) };
        let length = length.iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        if length > HEADER_BYTES_MAX {
            return Err(SplitError::new(LEAD_BYTES as u64, format!("a header of {length} bytes")));
        }
        Ok(start + length)
    }

    /// The rows that the header tells of.
    fn rows(&self) -> Result<Fixed, SplitError> {
        let start = self.header.len() as u64;
        let told = self.header.get(LEAD_BYTES..).unwrap_or_default();
        let text = told.iter().position(|byte| *byte == b'{').map_or(&[][..], |from| &told[from..]);
        let (row_bytes, rows) = shape(&String::from_utf8_lossy(text)).map_err(|reason| SplitError::new(0, reason))?;
        let told_bytes = row_bytes.get().checked_mul(rows).and_then(|bytes| bytes.checked_add(start));
        if told_bytes != Some(self.size) {
            let reason = format!(
                "its header tells of {rows} rows of {row_bytes} bytes, and {} bytes follow",
                self.size.saturating_sub(start)
            );
            return Err(SplitError::new(start, reason));
        }
        Fixed::new(start, row_bytes, self.size, b".npy")
    }
}

impl Splitter for Npy {
    fn push(&mut self, mut bytes: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        loop {
            if let Some(rows) = &mut self.rows {
                return rows.push(bytes, sink);
            }
            let wanted = self.header_bytes()?;
            let lacks = wanted - self.header.len();
            if lacks == 0 {
                self.rows = Some(self.rows()?);
                continue;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let (part, rest) = bytes.split_at(bytes.len().min(lacks));
            self.header.extend_from_slice(part);
            bytes = rest;
        }
    }

    fn finish(&mut self, sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        match &mut self.rows {
            Some(rows) => rows.finish(sink),
            None => Err(SplitError::new(self.header.len() as u64, "it ends within its header")),
        }
    }
}

/// Bytes of a row and number of rows, as a header tells them.
fn shape(header: &str) -> Result<(NonZeroU64, u64), String> {
    let after = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let at = quoted.iter().find_map(|quoted| header.find(quoted.as_str()).map(|at| at + quoted.len()));
        let rest = at.map(|at| header[at..].trim_start());
        rest.and_then(|rest| rest.strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| format!("its header has no `{key}`"))
    };
    let item_bytes = item_bytes(after("descr")?)?;
    let fortran = after("fortran_order")?;
    let sizes = after("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(sizes, _)| sizes);
    let sizes = sizes.ok_or("the shape in its header is none")?;
    let sizes: Vec<u64> = sizes
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.trim_end_matches('L').parse().map_err(|_| format!("`{size}` in its shape is no size")))
        .collect::<Result<_, _>>()?;
    if fortran.starts_with("True") && sizes.len() > 1 {
        return Err(
            "it is in Fortran order, in which rows do not lie together: save it with `numpy.ascontiguousarray`"
                .to_owned(),
        );
    }
    let (rows, inner) = sizes.split_first().ok_or("it is a single value, not rows")?;
    let row_bytes = inner.iter().try_fold(item_bytes, |bytes, size| bytes.checked_mul(*size));
    let row_bytes = row_bytes.ok_or("the shape in its header is too large")?;
    let row_bytes = NonZeroU64::new(row_bytes).ok_or("its rows have no bytes")?;
    Ok((row_bytes, *rows))
}

/// Bytes of one item of the type that `descr` begins with, as `'<f4'`.
fn item_bytes(descr: &str) -> Result<u64, String> {
    let quote = descr.chars().next().filter(|first| ['\'', '"'].contains(first));
    let Some(name) = quote.and_then(|quote| descr[1..].split_once(quote)).map(|(name, _)| name) else {
        return Err("its items have several fields: save each as an array of its own".to_owned());
    };
    let plain = name.trim_start_matches(['<', '>', '|', '=']);
    let mut characters = plain.chars();
    let kind = characters.next().unwrap_or(' ');
    // Dates and times say their unit behind the size.
    let size = characters.as_str().split('[').next().unwrap_or_default();
    let bytes_of_one = match kind {
        'b' | 'i' | 'u' | 'f' | 'c' | 'S' | 'V' | 'm' | 'M' | 'B' | '?' => 1,
        'U' => 4,
        'O' => return Err("its items are Python objects, which only Python can read".to_owned()),
        _ => return Err(format!("`{name}` is no type that is known here")),
    };
    let size: u64 = if size.is_empty() && "?bB".contains(kind) {
        1
    } else {
        size.parse().map_err(|_| format!("`{name}` is no type"))?
    };
    size.checked_mul(bytes_of_one).ok_or_else(|| format!("`{name}` is too large"))
}
