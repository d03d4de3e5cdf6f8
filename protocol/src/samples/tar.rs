//! Members of a tar archive, in the forms that are about: ustar, GNU and pax (POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU tar
//! manual, "Basic Tar Format"). Neighbours that share a stem are one sample, as WebDataset has it.

use super::{RecordSink, SAMPLE_FIELDS_MAX, SplitError, Splitter, check_record_bytes, numbered};
use crate::path::{self, RelPath};

const BLOCK_BYTES: usize = 512;
/// Longest name or header that stands before a member.
const META_BYTES_MAX: u64 = 64 * 1024;

/// What bytes of the archive are.
#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    /// What is said of the next member.
    Meta {
        kind: Meta,
        left: u64,
    },
    /// A member's bytes; `wanted` if it is a record.
    Body {
        left: u64,
        wanted: bool,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meta {
    /// GNU: the name.
    Name,
    /// pax: keys and values.
    Pax,
}

/// Finds members.
#[derive(Debug, Default)]
pub(super) struct Tar {
    state: State,
    at: u64,
    /// Bytes up to the next header.
    padding: u64,
    block: Vec<u8>,
    meta: Vec<u8>,
    /// What was said of the next member.
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// The sample that is open: its number, stem and fields.
    sample: Option<(u64, Vec<u8>, Vec<Vec<u8>>)>,
}

impl Splitter for Tar {
    fn push(&mut self, mut bytes: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        while !bytes.is_empty() {
            let wanted = match &self.state {
                State::Header if self.padding > 0 => self.padding,
                State::Header => (BLOCK_BYTES - self.block.len()) as u64,
                State::Meta { left, .. } | State::Body { left, .. } => *left,
                State::Ended => return Ok(()),
            };
            let (part, rest) = bytes.split_at(bytes.len().min(usize::try_from(wanted).unwrap_or(usize::MAX)));
            self.take(part, sink);
            self.at += part.len() as u64;
            self.step(sink)?;
            bytes = rest;
        }
        Ok(())
    }

    fn finish(&mut self, _sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        if self.state == State::Ended {
            return Ok(());
        }
        let reason = match &self.state {
            State::Body { left, .. } => format!("it was cut short: {left} bytes of a member are missing"),
            _ => "it was cut short: it ends without the empty block that ends an archive".to_owned(),
        };
        Err(SplitError::new(self.at, reason))
    }
}

impl Tar {
    /// Takes bytes that are all of one kind.
    fn take(&mut self, part: &[u8], sink: &mut dyn RecordSink) {
        match &mut self.state {
            State::Header if self.padding > 0 => self.padding -= part.len() as u64,
            State::Header => self.block.extend_from_slice(part),
            State::Meta { left, .. } => {
                *left -= part.len() as u64;
                self.meta.extend_from_slice(part);
            }
            State::Body { left, wanted } => {
                *left -= part.len() as u64;
                if *wanted {
                    sink.bytes(self.at, part);
                }
            }
            State::Ended => {}
        }
    }

    /// Goes on where something is complete.
    fn step(&mut self, sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        match self.state {
            State::Header if self.block.len() == BLOCK_BYTES => {
                let block = std::mem::take(&mut self.block);
                self.header(&block, sink)?;
                // A member of nothing is complete already.
                if self.state != State::Header && self.state != State::Ended { self.step(sink) } else { Ok(()) }
            }
            State::Meta { kind, left: 0 } => {
                let meta = std::mem::take(&mut self.meta);
                self.state = State::Header;
                match kind {
                    Meta::Name => self.name = Some(until_nul(&meta).to_vec()),
                    Meta::Pax => self.pax(&meta)?,
                }
                Ok(())
            }
            State::Body { left: 0, wanted } => {
                if wanted {
                    sink.end();
                }
                self.state = State::Header;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn header(&mut self, block: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        let at = self.at - BLOCK_BYTES as u64;
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::Ended;
            return Ok(());
        }
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u64::from(*byte) })
            .sum();
        if number(&block[148..156]) != Some(sum) {
            return Err(SplitError::new(at, "no tar header: its check sum is another"));
        }
        let told = number(&block[124..136]).ok_or_else(|| SplitError::new(at, "the size in a header is none"))?;
        let kind = block[156];
        let is_meta = matches!(kind, b'L' | b'K' | b'x' | b'g');
        let size = if is_meta { told } else { self.size.take().unwrap_or(told) };
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        if is_meta {
            if size > META_BYTES_MAX {
                return Err(SplitError::new(at, format!("{size} bytes are said of one member")));
            }
            self.state = match kind {
                b'L' => State::Meta { kind: Meta::Name, left: size },
                b'x' => State::Meta { kind: Meta::Pax, left: size },
                // The target of a link, or what holds for all members, says nothing of records.
                _ => State::Body { left: size, wanted: false },
            };
            return Ok(());
        }
        let name = self.name.take().unwrap_or_else(|| ustar_name(block));
        match kind {
            b'0' | 0 | b'7' if !name.ends_with(b"/") => self.member(at, &name, size, sink),
            b'S' => Err(SplitError::new(
                at,
                "a sparse member, which is not stored as it is read: pack it again without `--sparse`",
            )),
            // Links and folders have no bytes, whatever size they say; forms that are not known here are passed over.
            b'1'..=b'6' => {
                (self.padding, self.state) = (0, State::Header);
                Ok(())
            }
            _ => {
                self.state = State::Body { left: size, wanted: false };
                Ok(())
            }
        }
    }

    fn member(&mut self, at: u64, name: &[u8], size: u64, sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        check_record_bytes(at, size)?;
        let mut name = name;
        while let Some(rest) = name.strip_prefix(b"./") {
            name = rest;
        }
        let shown = String::from_utf8_lossy(name).into_owned();
        let name = RelPath::new(name.to_vec()).map_err(|error| SplitError::new(at, error.to_string()))?;
        let name = name.as_bytes();
        let stem = path::stem(name);
        let (number, fields) = match &mut self.sample {
            Some((number, open, fields)) if open == stem => (*number, fields),
            other => {
                let number = other.take().map_or(0, |(number, ..)| number + 1);
                let (_, _, fields) = other.insert((number, stem.to_vec(), Vec::new()));
                (number, fields)
            }
        };
        if fields.iter().any(|field| field == name) {
            return Err(SplitError::new(at, format!("`{shown}` comes twice in one sample")));
        }
        if fields.len() == SAMPLE_FIELDS_MAX {
            return Err(SplitError::new(
                at,
                format!("`{shown}` is of a sample with more than {SAMPLE_FIELDS_MAX} members"),
            ));
        }
        fields.push(name.to_vec());
        sink.begin(number, &numbered(number, at, &[b"/", name].concat())?);
        self.state = State::Body { left: size, wanted: true };
        Ok(())
    }

    /// Reads `LENGTH KEY=VALUE\n`, again and again.
    fn pax(&mut self, mut meta: &[u8]) -> Result<(), SplitError> {
        let bad = || SplitError::new(self.at, "what is said of a member can't be read");
        while !meta.is_empty() && meta[0] != 0 {
            let space = meta.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize =
                std::str::from_utf8(&meta[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
            let entry = meta.get(space + 1..length).and_then(|entry| entry.strip_suffix(b"\n")).ok_or_else(bad)?;
            let equals = entry.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&entry[..equals], &entry[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(bad)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(SplitError::new(self.at, "a sparse member, which is not stored as it is read"));
                }
                _ => {}
            }
            meta = &meta[length..];
        }
        Ok(())
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

fn ustar_name(block: &[u8]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    // GNU's own form has something else where ustar has the prefix.
    if block[257..263] == *b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// A number of a header: octal digits between spaces, or binary where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |number, byte| {
            number.checked_mul(256).map(|number| number | u64::from(*byte))
        });
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}
