//! The JSON of a header: read into a list that is bounded while it grows, and written in one way only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{LayoutError, TENSORS_MAX, Tensor};

/// The key of what is no tensor.
const METADATA: &str = "__metadata__";
/// What the visitor says where there are too many tensors: told apart from other complaints by this.
const TOO_MANY: &str = "too many tensors";

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) tensors: Vec<Tensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        let mut names = BTreeSet::new();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom("it has two `__metadata__`"));
                }
                parsed.metadata = map.next_value_seed(Unique)?;
                continue;
            }
            if parsed.tensors.len() == TENSORS_MAX {
                return Err(A::Error::custom(TOO_MANY));
            }
            let Entry { dtype, shape, data_offsets: [start, end] } = map.next_value()?;
            let dtype = dtype.parse().map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("it has two tensors `{name}`")));
            }
            parsed.tensors.push(Tensor { name, dtype, shape, range: start..end });
        }
        Ok(parsed)
    }
}

/// A map of texts in which no key is twice.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if texts.contains_key(&key) {
                return Err(A::Error::custom(format!("`__metadata__` has two `{key}`")));
            }
            texts.insert(key, value);
        }
        Ok(texts)
    }
}

pub(super) fn parse(json: &[u8]) -> Result<Parsed, LayoutError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = deserializer.deserialize_map(Header).and_then(|parsed| deserializer.end().map(|()| parsed));
    parsed.map_err(|error| match error.to_string() {
        said if said.starts_with(TOO_MANY) => LayoutError::TooMany,
        said => LayoutError::Header(said),
    })
}

pub(super) fn encode(tensors: &[Tensor], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut values: Vec<(&str, serde_json::Value)> = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        values.push((METADATA, serde_json::json!(metadata)));
    }
    for tensor in tensors {
        let entry = Entry {
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            data_offsets: [tensor.range.start, tensor.range.end],
        };
        values.push((&tensor.name, serde_json::json!(entry)));
    }
    let mut json = vec![b'{'];
    for (index, (key, value)) in values.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(serde_json::json!(key).to_string().as_bytes());
        json.push(b':');
        json.extend_from_slice(value.to_string().as_bytes());
    }
    json.push(b'}');
    json
}
