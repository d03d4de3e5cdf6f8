//! What is measured with: incompressible large files, and Fashion-MNIST as small ones.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;

use crate::demo::fashion_mnist_pngs;

const WRITE_BYTES: usize = 1 << 20;

/// A generator that is fast and good enough to be incompressible (xorshift64*, Vigna 2016); a figure needs no secrets.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}

/// Writes a file of `bytes` incompressible bytes, others for each seed.
pub(super) fn noise(path: &Path, bytes: u64, seed: u64) -> anyhow::Result<()> {
    let mut noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut file = File::create(path).with_context(|| format!("{} can't be made", path.display()))?;
    let mut buffer = vec![0u8; WRITE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(WRITE_BYTES as u64) as usize;
        noise.fill(&mut buffer[..length]);
        file.write_all(&buffer[..length]).with_context(|| format!("{} can't be written", path.display()))?;
        left -= length as u64;
    }
    Ok(())
}

/// Writes the same bytes with one more before them.
pub(super) fn insert_at_start(path: &Path) -> anyhow::Result<()> {
    let longer = path.with_extension("longer");
    let mut to = BufWriter::new(File::create(&longer)?);
    to.write_all(b"!")?;
    std::io::copy(&mut File::open(path)?, &mut to)?;
    to.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_data()?;
    fs::rename(&longer, path)?;
    Ok(())
}

/// Writes `count` images of Fashion-MNIST as PNG files, a thousand to a folder; gives their bytes.
pub(super) fn pictures(folder: &Path, count: u64) -> anyhow::Result<u64> {
    let mut total = 0;
    for (index, png) in fashion_mnist_pngs()?.take(count as usize).enumerate() {
        let png = png?;
        let folder = folder.join(format!("{:03}", index / 1000));
        if index % 1000 == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("{index:05}.png")), &png)?;
        total += png.len() as u64;
    }
    Ok(total)
}

/// Writes `count` files of `bytes` incompressible bytes each, ten thousand to a folder.
pub(super) fn many(folder: &Path, count: u64, bytes: usize) -> anyhow::Result<()> {
    let mut noise = Noise(77);
    let mut buffer = vec![0u8; bytes];
    for index in 0..count {
        let folder = folder.join(format!("{:03}", index / 10_000));
        if index % 10_000 == 0 {
            fs::create_dir_all(&folder)?;
        }
        noise.fill(&mut buffer);
        fs::write(folder.join(format!("{index:07}.bin")), &buffer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Noise;

    #[test]
    fn noise_does_not_compress() {
        let mut bytes = vec![0; 1 << 16];
        Noise(1).fill(&mut bytes);
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, &bytes).unwrap();
        assert!(packed.finish().unwrap().len() > bytes.len());
    }
}
