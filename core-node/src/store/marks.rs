//! Which chunks gc has found to be needed.

use std::collections::HashSet;

use headwater_protocol::id::ChunkId;

use super::chunk_store::{ChunkStore, ReadError};
use super::gc::GcError;
use super::walk::WalkError;
use crate::catalog::Root;

/// What is needed. Pages by half of their ids, chunks by a quarter: two that share a prefix are at worst kept together.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// Pages of which everything below is marked too.
    pages: HashSet<u128>,
    chunks: HashSet<u64>,
}

impl Marks {
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains(&quarter(id)) || self.pages.contains(&half(id))
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        (self.pages.len() + self.chunks.len()) as u64
    }

    /// Marks what is at and below a root. It is an error if something of it can't be read, unless nobody needs it any more.
    pub(super) fn add(&mut self, store: &ChunkStore, root: &Root) -> Result<(), GcError> {
        let Err(source) = self.walk(store, &root.page) else { return Ok(()) };
        let what = match root.version {
            Some((dataset, number)) => match store.catalog().dataset_by_id(dataset)? {
                Some(record) if store.catalog().version(dataset, number)?.is_some() => {
                    format!("version {number} of `{}`", record.name)
                }
                // It was deleted while it was marked.
                _ => return Ok(()),
            },
            // A lease that was taken on a version whose bytes had gone keeps what is left.
            None if matches!(source, WalkError::Read { source: ReadError::Missing(_), .. }) => return Ok(()),
            None => "a leased version".to_owned(),
        };
        Err(GcError::Page { what, source: Box::new(source) })
    }

    /// Marks what can be read. If that is not all, no page on the way counts as one below which all is marked: another tree
    /// that shares it is still looked into.
    fn walk(&mut self, store: &ChunkStore, root: &ChunkId) -> Result<(), WalkError> {
        let Self { pages, chunks } = self;
        let mut entered = Vec::new();
        let mut enter = |page: &ChunkId| {
            let is_new = pages.insert(half(page));
            if is_new {
                entered.push(*page);
            }
            is_new
        };
        let walked = store.walk(*root, &mut enter, &mut |chunk| {
            chunks.insert(quarter(chunk));
        });
        if walked.is_err() {
            for page in &entered {
                pages.remove(&half(page));
                chunks.insert(quarter(page));
            }
        }
        walked
    }
}

fn half(id: &ChunkId) -> u128 {
    u128::from_le_bytes(id.0[..16].try_into().expect("an id has 32 bytes"))
}

pub(super) fn quarter(id: &ChunkId) -> u64 {
    u64::from_le_bytes(id.0[..8].try_into().expect("an id has 32 bytes"))
}
