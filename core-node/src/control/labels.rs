//! What samples are labelled with: the small files or members beside their data, as text or as JSON.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use headwater_host::error::{CodedError, codes, printable};
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::LeafPage;
use headwater_protocol::path::stem;
use headwater_protocol::record::{Content, Extent, FileKind, FileRecord};
use serde_json::Value;

use super::request::LabelTerm;
use crate::samples::CONTINUES;
use crate::store::ReadError;

/// Most terms of a filter, and most values of a term.
const TERMS_MAX: usize = 16;
const VALUES_MAX: usize = 1024;
/// Longest label that is read.
const LABEL_BYTES_MAX: u64 = 64 << 10;

/// Terms that a sample has to meet, all of them.
pub(super) struct Labels<R> {
    terms: Vec<Term>,
    /// Whether samples are records inside files.
    inside: bool,
    read: R,
    /// The chunk that was read last: labels of neighbours are neighbours.
    last: Option<(ChunkId, Bytes)>,
}

struct Term {
    /// What follows the stem in a file's name, with the dot.
    field: Vec<u8>,
    /// Where in the JSON; none for text.
    key: Option<String>,
    values: BTreeSet<String>,
}

impl<R: FnMut(&ChunkId) -> Result<Bytes, ReadError>> Labels<R> {
    /// Checks the terms; `read` gives chunks.
    pub(super) fn new(terms: &[LabelTerm], inside: bool, read: R) -> Result<Self, CodedError> {
        let wrong = |message: String| Err(CodedError::new(&codes::USAGE, message));
        if terms.len() > TERMS_MAX {
            return wrong(format!("a filter has at most {TERMS_MAX} labels, and not {}", terms.len()));
        }
        for LabelTerm { field, values, .. } in terms {
            if field.trim_start_matches('.').is_empty() || field.contains('/') {
                return wrong(format!("`{}` is no field of a sample, as `.json` or `.cls` are", printable(field)));
            }
            if values.is_empty() || values.len() > VALUES_MAX {
                return wrong(format!("a label has 1 to {VALUES_MAX} values, and not {}", values.len()));
            }
        }
        let terms = terms.iter().map(|LabelTerm { field, key, values }| Term {
            field: format!(".{}", field.trim_start_matches('.')).into_bytes(),
            key: key.clone(),
            values: values.iter().cloned().collect(),
        });
        Ok(Self { terms: terms.collect(), inside, read, last: None })
    }

    /// Whether the sample whose records are `group` of `leaf` meets all terms.
    pub(super) fn keep(&mut self, leaf: &LeafPage, group: Range<usize>) -> Result<bool, CodedError> {
        let Self { terms, inside, read, last } = self;
        let records: Vec<&FileRecord> =
            leaf.records[group].iter().filter(|record| record.kind == FileKind::File).collect();
        for term in terms {
            let is_field = |record: &&FileRecord| record.path[stem(&record.path).len()..] == *term.field;
            let Some(first) = records.iter().position(is_field) else { return Ok(false) };
            // What continues a record stands behind it.
            let more = records[first + 1..].iter().take_while(|record| *inside && record.mode == CONTINUES).count();
            let label = &records[first..=first + more];
            if label.iter().map(|record| record.size).sum::<u64>() > LABEL_BYTES_MAX {
                return Ok(false);
            }
            let mut bytes = Vec::new();
            for record in label {
                let took = gather(leaf, record, read, last, &mut bytes);
                took.map_err(|error| {
                    let path = printable(&String::from_utf8_lossy(&record.path));
                    CodedError::new(&codes::SAMPLE_UNREADABLE, format!("the label `{path}` can't be read: {error}"))
                })?;
            }
            if !term.is_met_by(&bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Adds the bytes of a record.
fn gather(
    leaf: &LeafPage,
    record: &FileRecord,
    read: &mut impl FnMut(&ChunkId) -> Result<Bytes, ReadError>,
    last: &mut Option<(ChunkId, Bytes)>,
    into: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let extents: &[Extent] = match &record.content {
        Content::Shared { extent, .. } => std::slice::from_ref(extent),
        Content::Whole(extents) => extents,
        // No label is as long as what is paged.
        Content::Empty | Content::Paged { .. } => &[],
    };
    for extent in extents {
        let id = leaf.chunks[extent.chunk as usize].id;
        if last.as_ref().is_none_or(|(known, _)| *known != id) {
            *last = Some((id, read(&id)?));
        }
        let (_, chunk) = last.as_ref().expect("it was just read");
        let range = extent.offset as usize..extent.offset as usize + extent.length as usize;
        into.extend_from_slice(chunk.get(range).unwrap_or_default());
    }
    Ok(())
}

impl Term {
    fn is_met_by(&self, label: &[u8]) -> bool {
        let Some(key) = &self.key else {
            return std::str::from_utf8(label).is_ok_and(|text| self.values.contains(text.trim()));
        };
        let Ok(document) = serde_json::from_slice::<Value>(label) else { return false };
        let found = key.split('.').try_fold(&document, |value, part| value.get(part));
        match found {
            Some(Value::Array(several)) => several.iter().any(|one| self.has(one)),
            Some(one) => self.has(one),
            None => false,
        }
    }

    fn has(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.values.contains(text),
            Value::Object(_) | Value::Array(_) => false,
            scalar => self.values.contains(&scalar.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(key: Option<&str>, values: &[&str]) -> Term {
        Term {
            field: b".json".to_vec(),
            key: key.map(ToOwned::to_owned),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        }
    }

    #[test]
    fn labels_are_text_or_places_in_json() {
        assert!(term(None, &["3"]).is_met_by(b"3\n"));
        assert!(!term(None, &["3"]).is_met_by(b"33"));
        assert!(!term(None, &["3"]).is_met_by(&[0xff]));
        let label = br#"{"label": 3, "sky": {"rain": true, "of": "north"}, "seen": ["car", "dog"], "none": null}"#;
        for (key, value, is_met) in [
            ("label", "3", true),
            ("label", "4", false),
            ("sky.rain", "true", true),
            ("sky.of", "north", true),
            ("sky", "north", false),
            ("seen", "dog", true),
            ("seen", "cat", false),
            ("none", "null", true),
            ("other", "3", false),
            ("label.deeper", "3", false),
        ] {
            assert_eq!(term(Some(key), &[value, "something else"]).is_met_by(label), is_met, "{key} = {value}");
        }
        assert!(!term(Some("label"), &["3"]).is_met_by(b"no JSON"));
    }

    #[test]
    fn terms_that_can_not_be_are_refused() {
        let made = |field: &str, values: usize| {
            let values = (0..values).map(|value| value.to_string()).collect();
            let term = LabelTerm { field: field.to_owned(), key: None, values };
            Labels::new(&[term], false, |id: &ChunkId| Err(ReadError::Missing(*id))).map(drop)
        };
        assert!(made("cls", 1).is_ok());
        for (field, values) in [("", 1), (".", 1), ("a/b", 1), ("cls", 0), ("cls", VALUES_MAX + 1)] {
            assert!(made(field, values).is_err_and(|error| error.is(&codes::USAGE)), "{field} {values}");
        }
    }
}
