//! The stamps of a version's files, kept leaf page by leaf page beside the version.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use headwater_protocol::id::ChunkId;
use headwater_protocol::page::{LeafPage, Page};
use headwater_protocol::path::RelPath;
use headwater_protocol::tree::{PageSink, RecordAt, SinkError, Tree, TreeError};

use crate::scan::Stamp;

/// Why stamps can't be had or kept.
#[derive(Debug, thiserror::Error)]
#[error("the stat cache failed: {0}")]
pub struct StatCacheError(#[source] pub Box<dyn Error + Send + Sync>);

/// Keeps the stamps of a leaf page's records, in record order. What is lost is read again from the files.
pub trait StatCache {
    /// The stamps of this leaf's records, if they are known.
    fn stamps(&mut self, leaf: &ChunkId) -> Result<Option<Vec<Stamp>>, StatCacheError>;
    /// Remembers the stamps of this leaf's records in place of earlier ones.
    fn put(&mut self, leaf: &ChunkId, stamps: &[Stamp]) -> Result<(), StatCacheError>;
}

/// Knows nothing: every file is read every time.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStamps;

impl StatCache for NoStamps {
    fn stamps(&mut self, _leaf: &ChunkId) -> Result<Option<Vec<Stamp>>, StatCacheError> {
        Ok(None)
    }

    fn put(&mut self, _leaf: &ChunkId, _stamps: &[Stamp]) -> Result<(), StatCacheError> {
        Ok(())
    }
}

/// Keeps stamps in memory, as [`Stamp::encode_all`] encodes them.
#[derive(Clone, Debug, Default)]
pub struct MemoryStamps(pub HashMap<ChunkId, Vec<u8>>);

impl StatCache for MemoryStamps {
    fn stamps(&mut self, leaf: &ChunkId) -> Result<Option<Vec<Stamp>>, StatCacheError> {
        Ok(self.0.get(leaf).and_then(|bytes| Stamp::decode_all(bytes)))
    }

    fn put(&mut self, leaf: &ChunkId, stamps: &[Stamp]) -> Result<(), StatCacheError> {
        self.0.insert(*leaf, Stamp::encode_all(stamps));
        Ok(())
    }
}

/// The stamps that a build has found and that no leaf page holds yet, and the cache that they go to.
pub(super) struct StampBook<'a> {
    cache: &'a mut dyn StatCache,
    fresh: BTreeMap<RelPath, Stamp>,
}

impl<'a> StampBook<'a> {
    pub(super) fn new(cache: &'a mut dyn StatCache) -> Self {
        Self { cache, fresh: BTreeMap::new() }
    }

    /// The stamps of an old leaf's records; [`Stamp::NONE`] where they are not known.
    pub(super) fn of_leaf(&mut self, id: &ChunkId, leaf: &LeafPage) -> Result<Vec<Stamp>, StatCacheError> {
        let known = self.cache.stamps(id)?.filter(|stamps| stamps.len() == leaf.records.len());
        Ok(known.unwrap_or_else(|| vec![Stamp::NONE; leaf.records.len()]))
    }

    /// A path's new stamp.
    pub(super) fn set(&mut self, path: RelPath, stamp: Stamp) {
        self.fresh.insert(path, stamp);
    }

    /// An old leaf stays as it is, with these stamps.
    pub(super) fn keep_leaf(&mut self, id: &ChunkId, leaf: &LeafPage, stamps: &[Stamp]) -> Result<(), StatCacheError> {
        for record in &leaf.records {
            if self.fresh.is_empty() {
                break;
            }
            if let Ok(path) = RelPath::new(record.path.clone()) {
                self.fresh.remove(&path);
            }
        }
        self.cache.put(id, stamps)
    }
}

/// Hands pages on to their sink, and gives each new leaf its stamps.
pub(super) struct StampingSink<'b, 'a, 't> {
    pages: &'b mut dyn PageSink,
    book: &'b RefCell<StampBook<'a>>,
    old: Option<Tree<'t>>,
    old_records: Option<OldRecords<'t>>,
}

struct OldRecords<'t> {
    records: Box<dyn Iterator<Item = Result<RecordAt, TreeError>> + 't>,
    at: Option<RecordAt>,
    stamps: (ChunkId, Vec<Stamp>),
}

impl<'b, 'a, 't> StampingSink<'b, 'a, 't> {
    pub(super) fn new(pages: &'b mut dyn PageSink, book: &'b RefCell<StampBook<'a>>, old: Option<Tree<'t>>) -> Self {
        Self { pages, book, old, old_records: None }
    }

    fn stamps_of(&mut self, leaf: &LeafPage) -> Result<Vec<Stamp>, SinkError> {
        let mut stamps = Vec::with_capacity(leaf.records.len());
        for record in &leaf.records {
            let path = RelPath::new(record.path.clone()).map_err(SinkError::new)?;
            let fresh = self.book.borrow_mut().fresh.remove(&path);
            stamps.push(match fresh {
                Some(stamp) => stamp,
                None => self.old_stamp(&path)?,
            });
        }
        Ok(stamps)
    }

    fn old_stamp(&mut self, path: &RelPath) -> Result<Stamp, SinkError> {
        let Some(old) = self.old else { return Ok(Stamp::NONE) };
        let position = self.old_records.as_ref().and_then(|old| old.at.as_ref()).map(|at| at.path.clone());
        let behind = position.is_none_or(|at| headwater_protocol::path::compare(&at, path.as_bytes()).is_gt());
        if behind {
            let mut records = old.records_from(path);
            let at = records.next().transpose().map_err(SinkError::new)?;
            self.old_records =
                Some(OldRecords { records: Box::new(records), at, stamps: (ChunkId::default(), Vec::new()) });
        }
        let Some(cursor) = &mut self.old_records else { return Ok(Stamp::NONE) };
        while let Some(at) = &cursor.at {
            match headwater_protocol::path::compare(&at.path, path.as_bytes()) {
                std::cmp::Ordering::Less => cursor.at = cursor.records.next().transpose().map_err(SinkError::new)?,
                std::cmp::Ordering::Greater => break,
                std::cmp::Ordering::Equal => {
                    if cursor.stamps.0 != at.leaf.id {
                        let stamps = self.book.borrow_mut().of_leaf(&at.leaf.id, &at.leaf).map_err(SinkError::new)?;
                        cursor.stamps = (at.leaf.id, stamps);
                    }
                    return Ok(cursor.stamps.1[at.index]);
                }
            }
        }
        Ok(Stamp::NONE)
    }
}

impl PageSink for StampingSink<'_, '_, '_> {
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, page: &Page) -> Result<(), SinkError> {
        if let Page::Leaf(leaf) = page {
            let stamps = self.stamps_of(leaf)?;
            self.book.borrow_mut().cache.put(&id, &stamps).map_err(SinkError::new)?;
        }
        self.pages.put_page(id, bytes, page)
    }
}
