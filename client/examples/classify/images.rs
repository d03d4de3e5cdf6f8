//! Images and labels as the demo's cameras write them.

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Most classes.
pub(crate) const CLASSES: usize = 10;

/// Appends the pixels of a grey PNG, from 0 to 1.
pub(crate) fn pixels(file: &[u8], to: &mut Vec<f32>) -> anyhow::Result<()> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().context("a sample is no PNG image")?;
    let mut bytes = vec![0; reader.output_buffer_size().context("an image is too large")?];
    let frame = reader.next_frame(&mut bytes)?;
    if (frame.color_type, frame.bit_depth) != (png::ColorType::Grayscale, png::BitDepth::Eight) {
        bail!("an image is not grey, with eight bits for each pixel");
    }
    to.extend(bytes[..frame.buffer_size()].iter().map(|&grey| f32::from(grey) / 255.0));
    Ok(())
}

/// The label in a JSON document; what stands after the document is left alone.
pub(crate) fn label(file: &[u8]) -> anyhow::Result<usize> {
    let document = serde_json::Deserializer::from_slice(file).into_iter::<Value>().next();
    let document = document.context("a label file is empty")??;
    let label = document["label"].as_u64().context("a label file has no `label`")?;
    usize::try_from(label).ok().filter(|&label| label < CLASSES).with_context(|| format!("there is no class {label}"))
}
