//! The demo's data: real images as cameras would leave them, one PNG and one label file each, a different part per device.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::idx::Images;
use crate::process::root;
use crate::setup::FASHION_MNIST_DIR;

/// Images to a folder, as a camera that begins a new folder now and then.
const IMAGES_PER_FOLDER: usize = 1000;

const FASHION_CLASSES: [&str; 10] =
    ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Where the demo's files come from.
pub(crate) enum Data {
    /// Fashion-MNIST, as Debian packages it.
    FashionMnist,
    /// The handwritten digits of this repository.
    Digits,
    /// The files of a folder, dealt out to the devices.
    Folder(PathBuf),
}

impl Data {
    /// The largest real data set that this machine has.
    pub(crate) fn best() -> Self {
        if Path::new(FASHION_MNIST_DIR).is_dir() { Self::FashionMnist } else { Self::Digits }
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::FashionMnist => {
                "Fashion-MNIST: 70,000 images of 28x28 pixels, each with its label beside it".to_owned()
            }
            Self::Digits => "1,797 handwritten digits of 8x8 pixels, each with its label beside it".to_owned(),
            Self::Folder(folder) => format!("the files under {}", folder.display()),
        }
    }

    /// Pixels of an image.
    pub(crate) const fn pixels(&self) -> usize {
        match self {
            Self::FashionMnist => 28 * 28,
            Self::Digits => 8 * 8,
            Self::Folder(_) => 0,
        }
    }

    /// Whether it is images with labels.
    pub(crate) const fn has_labels(&self) -> bool {
        !matches!(self, Self::Folder(_))
    }

    /// Writes a different part of the data into each of `folders`.
    pub(crate) fn deal(&self, folders: &[PathBuf]) -> anyhow::Result<()> {
        match self {
            Self::FashionMnist => {
                let dir = Path::new(FASHION_MNIST_DIR);
                let mut images = read_pair(dir, "train")?;
                images.append(&read_pair(dir, "t10k")?)?;
                deal_images(&images, 1, |label| FASHION_CLASSES[usize::from(label % 10)].to_owned(), folders)
            }
            Self::Digits => {
                let images = read_pair(&root().join("xtask/data"), "digits")?;
                deal_images(&images, 15, |label| label.to_string(), folders)
            }
            Self::Folder(folder) => deal_files(folder, folders),
        }
    }
}

/// The 60,000 training images of Fashion-MNIST as PNG files.
pub(crate) fn fashion_mnist_pngs() -> anyhow::Result<impl Iterator<Item = anyhow::Result<Vec<u8>>>> {
    let images = read_pair(Path::new(FASHION_MNIST_DIR), "train")
        .context("Fashion-MNIST is needed: `cargo xtask setup` installs Debian's package dataset-fashion-mnist")?;
    Ok((0..images.len()).map(move |index| png(images.width, images.height, images.pixels_of(index))))
}

fn read_pair(dir: &Path, stem: &str) -> anyhow::Result<Images> {
    Images::read(&dir.join(format!("{stem}-images-idx3-ubyte.gz")), &dir.join(format!("{stem}-labels-idx1-ubyte.gz")))
}

/// Writes the images of each part with as many threads as there are folders; `gain` stretches the grey values to a byte.
fn deal_images(
    images: &Images,
    gain: u8,
    class: impl Fn(u8) -> String + Sync,
    folders: &[PathBuf],
) -> anyhow::Result<()> {
    let share = images.len().div_ceil(folders.len());
    std::thread::scope(|scope| {
        let writers: Vec<_> = folders
            .iter()
            .enumerate()
            .map(|(part, folder)| {
                let range = (part * share).min(images.len())..((part + 1) * share).min(images.len());
                let class = &class;
                scope.spawn(move || write_part(images, range, gain, class, folder))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })
}

fn write_part(
    images: &Images,
    range: std::ops::Range<usize>,
    gain: u8,
    class: &impl Fn(u8) -> String,
    folder: &Path,
) -> anyhow::Result<()> {
    for (position, index) in range.enumerate() {
        let folder = folder.join(format!("{:03}", position / IMAGES_PER_FOLDER));
        if position % IMAGES_PER_FOLDER == 0 {
            fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        }
        let label = images.labels[index];
        let pixels: Vec<u8> = images.pixels_of(index).iter().map(|&grey| grey.saturating_mul(gain)).collect();
        write(&folder.join(format!("{position:05}.png")), &png(images.width, images.height, &pixels)?)?;
        let text = serde_json::json!({ "label": label, "name": class(label) }).to_string();
        write(&folder.join(format!("{position:05}.json")), text.as_bytes())?;
    }
    Ok(())
}

/// A grey image as a PNG file.
fn png(width: u32, height: u32, pixels: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

/// Deals the files under `from` out to the folders in turn, by path order, keeping their paths.
fn deal_files(from: &Path, folders: &[PathBuf]) -> anyhow::Result<()> {
    let files = files_under(from)?;
    if files.is_empty() {
        bail!("there are no files under {}", from.display());
    }
    let share = files.len().div_ceil(folders.len());
    for (part, folder) in files.chunks(share).zip(folders) {
        for file in part {
            let to = folder.join(file);
            fs::create_dir_all(to.parent().expect("a joined path has a parent"))?;
            fs::copy(from.join(file), &to).with_context(|| format!("{} can't be copied", file.display()))?;
        }
    }
    Ok(())
}

/// Relative paths of all regular files under a folder, sorted; symbolic links are not followed.
pub(crate) fn files_under(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let here = folder.join(&below);
        for entry in fs::read_dir(&here).with_context(|| format!("{} can't be read", here.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = below.join(entry.file_name());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::Data;

    #[test]
    fn the_digits_of_the_repository_are_dealt_out_without_overlap() {
        let base = std::env::temp_dir().join(format!("headwater-xtask-deal-{}", std::process::id()));
        let folders = [base.join("a"), base.join("b")];
        Data::Digits.deal(&folders).expect("the data is in the repository");
        let counts: Vec<_> = folders.iter().map(|folder| super::files_under(folder).unwrap().len()).collect();
        let first = std::fs::read(folders[0].join("000/00000.png")).unwrap();
        std::fs::remove_dir_all(&base).unwrap();
        assert_eq!(counts, [899 * 2, 898 * 2]);
        assert!(first.starts_with(b"\x89PNG"));
    }
}
