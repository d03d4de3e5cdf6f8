//! The idx format of MNIST: a magic that says type and dimensions, big-endian sizes, then bytes.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use flate2::read::GzDecoder;

/// Most bytes that a file may hold once unpacked.
const BYTES_MAX: u64 = 1 << 30;

/// Labelled grey images of one size.
pub(super) struct Images {
    /// Pixels to a row.
    pub(super) width: u32,
    /// Rows.
    pub(super) height: u32,
    /// All images, row by row, one after another.
    pub(super) pixels: Vec<u8>,
    /// The label of each image.
    pub(super) labels: Vec<u8>,
}

impl Images {
    /// Reads a gzipped file of images and the gzipped file of their labels.
    pub(super) fn read(images: &Path, labels: &Path) -> anyhow::Result<Self> {
        let (sizes, pixels) = read(images)?;
        let (label_sizes, labels_read) = read(labels)?;
        let (&[count, height, width], &[label_count]) = (sizes.as_slice(), label_sizes.as_slice()) else {
            bail!("{} holds no images, or {} no labels", images.display(), labels.display());
        };
        if count != label_count {
            bail!("{} has {count} images and {} {label_count} labels", images.display(), labels.display());
        }
        Ok(Self { width, height, pixels, labels: labels_read })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of image `index`.
    pub(super) fn pixels_of(&self, index: usize) -> &[u8] {
        let bytes = self.width as usize * self.height as usize;
        &self.pixels[index * bytes..(index + 1) * bytes]
    }

    /// Adds the images of `more`, which must have the same size.
    pub(super) fn append(&mut self, more: &Self) -> anyhow::Result<()> {
        if (self.width, self.height) != (more.width, more.height) {
            bail!(
                "images of {}x{} and of {}x{} pixels don't go together",
                self.width,
                self.height,
                more.width,
                more.height
            );
        }
        self.pixels.extend_from_slice(&more.pixels);
        self.labels.extend_from_slice(&more.labels);
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<(Vec<u32>, Vec<u8>)> {
    let file = File::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    let mut bytes = Vec::new();
    GzDecoder::new(BufReader::new(file))
        .take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{} can't be unpacked", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is no idx file of bytes", path.display()))
}

fn parse(bytes: &[u8]) -> Option<(Vec<u32>, Vec<u8>)> {
    let &[0, 0, 8, dimensions] = bytes.first_chunk::<4>()? else { return None };
    let header = 4 + 4 * usize::from(dimensions);
    let sizes: Vec<u32> = bytes
        .get(4..header)?
        .chunks_exact(4)
        .map(|size| u32::from_be_bytes(size.try_into().expect("chunks are of four bytes")))
        .collect();
    let data = &bytes[header..];
    let expected = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(u64::from(size)))?;
    (data.len() as u64 == expected).then(|| (sizes, data.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lengths_must_agree() {
        assert_eq!(parse(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), Some((vec![2], vec![7, 9])));
        assert_eq!(parse(&[0, 0, 8, 1, 0, 0, 0, 3, 7, 9]), None);
        assert_eq!(parse(&[0, 0, 9, 1, 0, 0, 0, 2, 7, 9]), None);
        assert_eq!(parse(&[0, 0, 8]), None);
    }
}
