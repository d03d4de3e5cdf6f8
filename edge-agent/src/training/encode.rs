//! From what a program left to the update that is sent: the difference to the model, encoded, with everything that the core needs
//! to know of it in the file's own metadata.
//!
//! An update and the residual that belongs to it become valid together, by one rename: a residual that waits beside an update
//! takes its place when that is found (see [`settle_residual`]).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use headwater_host::durable;
use headwater_protocol::federated::{Task, TaskKind, metadata};
use headwater_protocol::tensors::encoding::{BLOCK, Encoding, encode, layout_of, scale_name};
use headwater_protocol::tensors::{Dtype, Layout, LayoutError, Tensor};

use super::contract::{Measured, RESULT_FILE};
use super::place::Place;

/// Elements that are worked on at once.
const STEP: u64 = 256 * BLOCK;
/// Where a program's file says what it holds: `weights`, which is the default, or `delta`.
const HOLDS_KEY: &str = "headwater.update";

/// Makes the update of a task, durably; its length. Blocks.
pub(super) fn make(place: &Place, task: &Task, accepted: &[String], measured: &Measured) -> Result<u64, String> {
    let encoding = chosen(task, accepted)?;
    let made = match task.kind {
        TaskKind::Train => make_update(place, task, encoding, measured),
        TaskKind::Evaluate => make_word(place, task, measured),
    };
    made.and_then(|bytes| settle_residual(place).map(|()| bytes)).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => error.to_string(),
        _ => format!("the update can't be written: {error}"),
    })
}

/// The first encoding of the core's list that this device may send.
fn chosen(task: &Task, accepted: &[String]) -> Result<Encoding, String> {
    let known = task.encodings.iter().filter(|name| accepted.contains(name));
    known.flat_map(|name| name.parse()).next().ok_or_else(|| {
        format!("the core takes {}, and this device sends {}", task.encodings.join(", "), accepted.join(", "))
    })
}

/// Puts the residual of an update that is in place there too. Blocks.
pub(super) fn settle_residual(place: &Place) -> io::Result<()> {
    let next = place.next_residual();
    if !next.exists() {
        return Ok(());
    }
    if place.update_file().exists() { fs::rename(next, place.residual()) } else { fs::remove_file(next) }
}

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn about(task: &Task, measured: &Measured) -> BTreeMap<String, String> {
    let metrics = serde_json::to_string(&measured.metrics).unwrap_or_default();
    let mut about = BTreeMap::from([
        (metadata::RUN.to_owned(), task.run.clone()),
        (metadata::ROUND.to_owned(), task.round.to_string()),
        (metadata::KIND.to_owned(), task.kind.as_str().to_owned()),
        (metadata::BASE.to_owned(), task.model.version.to_string()),
        (metadata::SAMPLES.to_owned(), measured.samples.to_string()),
        (metadata::METRICS.to_owned(), metrics),
    ]);
    if let Some(program) = &task.program {
        about.insert(metadata::PROGRAM.to_owned(), program.version.to_string());
    }
    about
}

/// The file of a task that only measures: it has no tensors.
fn make_word(place: &Place, task: &Task, measured: &Measured) -> io::Result<u64> {
    let layout = Layout::build(Vec::new(), about(task, measured)).map_err(|error| bad(error.to_string()))?;
    let bytes = layout.encode_header();
    fs::create_dir_all(place.update())?;
    durable::write_atomic(&place.update_file(), &bytes, durable::PRIVATE_FILE_MODE)?;
    Ok(bytes.len() as u64)
}

/// Why a file's header is not known.
enum Unread {
    Layout(LayoutError),
    Io(io::Error),
}

impl From<LayoutError> for Unread {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

/// A safetensors file that is read.
struct Tensors {
    file: File,
    layout: Layout,
}

impl Tensors {
    fn open(path: &Path, what: &str) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => bad(format!("{what} is not there")),
            _ => error,
        })?;
        let bytes = file.metadata()?.len();
        let read = |at, into: &mut [u8]| file.read_exact_at(into, at).map_err(Unread::Io);
        let layout = Layout::read(bytes, read).map_err(|error| match error {
            Unread::Layout(error) => bad(format!("{what} can't be used: {error}")),
            Unread::Io(error) => error,
        })?;
        Ok(Self { file, layout })
    }

    fn bytes(&self, tensor: &Tensor, from: u64, to: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let range = self.layout.place(tensor, from..to);
        into.resize((range.end - range.start) as usize, 0);
        self.file.read_exact_at(into, range.start)
    }

    fn floats(&self, tensor: &Tensor, from: u64, to: u64, buffer: &mut Vec<u8>) -> io::Result<Vec<f32>> {
        self.bytes(tensor, from, to, buffer)?;
        let mut values = vec![0.0; (to - from) as usize];
        tensor.dtype.floats(buffer, &mut values);
        Ok(values)
    }
}

/// The residual of the update before; none where it fits no more.
fn residual(place: &Place, wanted: &Layout) -> Option<Tensors> {
    let known = Tensors::open(&place.residual(), "the residual").ok()?;
    (known.layout.tensors() == wanted.tensors()).then_some(known)
}

fn make_update(place: &Place, task: &Task, encoding: Encoding, measured: &Measured) -> io::Result<u64> {
    let model = Tensors::open(&place.model_file(), "the model")?;
    let result =
        Tensors::open(&place.task().join(RESULT_FILE), &format!("`{RESULT_FILE}`, which the program was to leave,"))?;
    let is_delta = match result.layout.metadata().get(HOLDS_KEY).map(String::as_str) {
        None | Some("weights") => false,
        Some("delta") => true,
        Some(other) => {
            return Err(bad(format!("`{HOLDS_KEY}` in `{RESULT_FILE}` is `{other}`, neither `weights` nor `delta`")));
        }
    };
    check_shapes(&model.layout, &result.layout)?;
    let layout = layout_of(&model.layout, encoding, about(task, measured)).map_err(|error| bad(error.to_string()))?;
    let floats = model.layout.tensors().iter().filter(|tensor| tensor.dtype.is_float());
    let kept: Vec<_> = floats.map(|tensor| Tensor { dtype: Dtype::F32, ..tensor.clone() }).collect();
    let kept = Layout::build(kept, BTreeMap::new()).map_err(|error| bad(error.to_string()))?;
    let keeps = encoding == Encoding::Int8;
    let before = if keeps { residual(place, &kept) } else { None };
    fs::create_dir_all(place.update())?;
    let temporary = place.update().with_extension("next");
    let out = File::create(&temporary)?;
    let lost = if keeps { Some(File::create(place.next_residual())?) } else { None };
    out.write_all_at(&layout.encode_header(), 0)?;
    if let Some(lost) = &lost {
        lost.write_all_at(&kept.encode_header(), 0)?;
    }
    let work = Making {
        model: &model,
        result: &result,
        is_delta,
        encoding,
        layout: &layout,
        kept: &kept,
        before,
        out: &out,
        lost: lost.as_ref(),
    };
    for tensor in model.layout.tensors() {
        for Range { start, end } in tensor.stretches(STEP) {
            work.stretch(tensor, start, end)?;
        }
    }
    if let Some(lost) = &lost {
        durable::sync_file(lost, &place.next_residual())?;
    }
    durable::sync_file(&out, &temporary)?;
    fs::rename(&temporary, place.update_file())?;
    durable::sync_folder(&place.update())?;
    Ok(layout.file_bytes())
}

/// What a program left has to have the model's tensors, in their shapes.
fn check_shapes(model: &Layout, result: &Layout) -> io::Result<()> {
    for tensor in model.tensors() {
        let name = &tensor.name;
        let Some(found) = result.find(name) else {
            return Err(bad(format!("`{RESULT_FILE}` has no tensor `{name}`")));
        };
        if found.shape != tensor.shape {
            let (found, expected) = (found.shown_shape(), tensor.shown_shape());
            return Err(bad(format!(
                "tensor `{name}` in `{RESULT_FILE}` has the shape {found}, and the model's has {expected}"
            )));
        }
        if found.dtype != tensor.dtype && !(found.dtype.is_float() && tensor.dtype.is_float()) {
            let (found, expected) = (found.dtype, tensor.dtype);
            return Err(bad(format!(
                "tensor `{name}` in `{RESULT_FILE}` has the type {found}, and the model's has {expected}"
            )));
        }
    }
    match result.tensors().iter().find(|tensor| model.find(&tensor.name).is_none()) {
        None => Ok(()),
        Some(extra) => Err(bad(format!("tensor `{}` in `{RESULT_FILE}` is not in the model", extra.name))),
    }
}

/// An update on its way to its file.
struct Making<'a> {
    model: &'a Tensors,
    result: &'a Tensors,
    is_delta: bool,
    encoding: Encoding,
    layout: &'a Layout,
    kept: &'a Layout,
    before: Option<Tensors>,
    out: &'a File,
    lost: Option<&'a File>,
}

impl Making<'_> {
    /// Encodes a stretch of a tensor that begins with a block.
    fn stretch(&self, tensor: &Tensor, from: u64, to: u64) -> io::Result<()> {
        let find = |layout: &Layout, name: &str| {
            layout.find(name).cloned().ok_or_else(|| bad(format!("tensor `{name}` is missing")))
        };
        let mut buffer = Vec::new();
        let of_result = find(&self.result.layout, &tensor.name)?;
        let target = find(self.layout, &tensor.name)?;
        if !tensor.dtype.is_float() {
            self.result.bytes(&of_result, from, to, &mut buffer)?;
            return self.out.write_all_at(&buffer, self.layout.place(&target, from..to).start);
        }
        let mut values = self.result.floats(&of_result, from, to, &mut buffer)?;
        if !self.is_delta {
            let base = self.model.floats(tensor, from, to, &mut buffer)?;
            values.iter_mut().zip(&base).for_each(|(value, base)| *value -= base);
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let (name, index, value) = (&tensor.name, from + at as u64, values[at]);
            return Err(bad(format!("element {index} of tensor `{name}` has changed by {value}")));
        }
        let mut residual = match &self.before {
            Some(before) => before.floats(&find(&before.layout, &tensor.name)?, from, to, &mut buffer)?,
            None => vec![0.0; values.len()],
        };
        let (mut data, mut scales) = (Vec::new(), Vec::new());
        encode(self.encoding, &values, &mut residual, &mut data, &mut scales);
        self.out.write_all_at(&data, self.layout.place(&target, from..to).start)?;
        if !scales.is_empty() {
            let of_scales = find(self.layout, &scale_name(&tensor.name))?;
            self.out.write_all_at(&scales, self.layout.place(&of_scales, from / BLOCK..to.div_ceil(BLOCK)).start)?;
        }
        if let Some(lost) = self.lost {
            let of_kept = find(self.kept, &tensor.name)?;
            buffer.resize(residual.len() * Dtype::F32.bytes() as usize, 0);
            Dtype::F32.put_floats(&residual, &mut buffer);
            lost.write_all_at(&buffer, self.kept.place(&of_kept, from..to).start)?;
        }
        Ok(())
    }
}
