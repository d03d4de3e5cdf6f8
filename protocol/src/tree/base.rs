//! What an item of a new version can travel as a delta over, if the receiver holds an older one.
//!
//! For a page: the older version's pages of the same stretch of paths. For a chunk that small files share: the stretches of
//! the older version's shared chunks that hold the very files which are in this chunk again. Their bytes are parts of the
//! chunk itself, so a sender that has the chunk needs to read nothing more.

use std::collections::BTreeMap;

use super::read::{ChunkPlace, Tree, TreeError, Within};
use crate::compress::{DELTA_PREFIX_BYTES_MAX, DELTA_SOURCES_MAX};
use crate::id::ChunkId;
use crate::page::{LeafPage, Page};
use crate::path;
use crate::record::{Content, Extent};
use crate::wire::DeltaSource;

/// Pages of the older version that one page or chunk is compared with at most.
const BASE_PAGES_MAX: usize = 8;

/// Ranges that the receiver holds, and their bytes one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaPrefix {
    /// Where the receiver finds them; at most [`DELTA_SOURCES_MAX`].
    pub sources: Vec<DeltaSource>,
    /// Their bytes; at most [`DELTA_PREFIX_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

impl DeltaPrefix {
    /// Adds a range, unless there is no room; one that goes on where the last ended makes that longer.
    pub fn add(&mut self, source: DeltaSource, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > DELTA_PREFIX_BYTES_MAX {
            return;
        }
        let goes_on = |last: &&mut DeltaSource| last.id == source.id && last.offset + last.length == source.offset;
        if let Some(last) = self.sources.last_mut().filter(goes_on) {
            last.length += source.length;
        } else if self.sources.len() < DELTA_SOURCES_MAX {
            self.sources.push(source);
        } else {
            return;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

impl Tree<'_> {
    /// Pages of this version over which `page`, of a newer one, can travel: those of its level and its stretch of paths.
    pub fn bases_of_page(&self, page: &Page) -> Result<Vec<ChunkId>, TreeError> {
        let stretch = match page {
            Page::Leaf(leaf) => {
                leaf.records.first().zip(leaf.records.last()).map(|(first, last)| (0, &first.path, &last.path))
            }
            Page::Inner { level, children } => {
                children.first().zip(children.last()).map(|(first, last)| (*level, &first.first, &last.first))
            }
            Page::ExtentLeaf(_) | Page::ExtentInner { .. } => None,
        };
        stretch.map_or_else(|| Ok(Vec::new()), |(level, first, last)| self.pages_between(level, first, last))
    }

    /// Stretches of this version's shared chunks of which the chunk at `place`, of a newer version, consists in part; `bytes`
    /// are that chunk's. None where it is no shared chunk or holds nothing that was there before.
    pub fn base_of_chunk(&self, place: &ChunkPlace, bytes: &[u8]) -> Result<Option<DeltaPrefix>, TreeError> {
        let Within::Table(index) = place.within else { return Ok(None) };
        let mut members: BTreeMap<ChunkId, Extent> = BTreeMap::new();
        let mut range: Option<(&[u8], &[u8])> = None;
        for record in &place.leaf.records {
            if let Content::Shared { extent, hash } = &record.content
                && extent.chunk as usize == index
            {
                members.insert(*hash, *extent);
                range = Some((range.map_or(record.path.as_slice(), |(first, _)| first), &record.path));
            }
        }
        let Some((first, last)) = range else { return Ok(None) };
        let mut prefix = DeltaPrefix::default();
        for id in self.pages_between(0, first, last)? {
            if let Page::Leaf(leaf) = &*self.source.page(&id)? {
                add_members(leaf, &members, &place.chunk.id, bytes, &mut prefix);
            }
        }
        Ok(Some(prefix).filter(|prefix| !prefix.sources.is_empty()))
    }

    /// Pages of level `level` that hold paths from `first` to `last`, at most [`BASE_PAGES_MAX`].
    fn pages_between(&self, level: u8, first: &[u8], last: &[u8]) -> Result<Vec<ChunkId>, TreeError> {
        let mut found = Vec::new();
        if let Some(root) = self.root.filter(|_| self.height >= level) {
            self.collect(&root.id, self.height, level, (first, last), &mut found)?;
        }
        Ok(found)
    }

    fn collect(
        &self,
        id: &ChunkId,
        at: u8,
        level: u8,
        range: (&[u8], &[u8]),
        found: &mut Vec<ChunkId>,
    ) -> Result<(), TreeError> {
        if at == level {
            found.push(*id);
            return Ok(());
        }
        let page = self.source.page(id)?;
        let Page::Inner { children, .. } = &*page else { return Ok(()) };
        for (index, child) in children.iter().enumerate() {
            let begins_late = path::compare(&child.first, range.1).is_gt();
            let ends_early = children.get(index + 1).is_some_and(|next| path::compare(&next.first, range.0).is_le());
            if begins_late || found.len() >= BASE_PAGES_MAX {
                break;
            }
            if !ends_early {
                self.collect(&child.id, at - 1, level, range, found)?;
            }
        }
        Ok(())
    }
}

/// Adds the stretches of `leaf` that hold files which are `members` of the chunk `id` with the plain `bytes`.
fn add_members(
    leaf: &LeafPage,
    members: &BTreeMap<ChunkId, Extent>,
    id: &ChunkId,
    bytes: &[u8],
    prefix: &mut DeltaPrefix,
) {
    for record in &leaf.records {
        let Content::Shared { extent, hash } = &record.content else { continue };
        let (Some(now), Some(chunk)) = (members.get(hash), leaf.chunks.get(extent.chunk as usize)) else { continue };
        let same = bytes.get(now.offset as usize..now.offset as usize + now.length as usize);
        if let Some(same) = same.filter(|_| now.length == extent.length && chunk.id != *id) {
            prefix.add(DeltaSource { id: chunk.id, offset: extent.offset, length: extent.length }, same);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_go_on_are_one() {
        let source = |chunk: u8, offset, length| DeltaSource { id: ChunkId::of(&[chunk]), offset, length };
        let mut prefix = DeltaPrefix::default();
        prefix.add(source(1, 0, 3), b"abc");
        prefix.add(source(1, 3, 2), b"de");
        prefix.add(source(1, 9, 1), b"f");
        prefix.add(source(2, 10, 1), b"g");
        assert_eq!(prefix.sources, [source(1, 0, 5), source(1, 9, 1), source(2, 10, 1)]);
        assert_eq!(prefix.bytes, b"abcdefg");
        prefix.add(source(3, 0, 0), &vec![0; DELTA_PREFIX_BYTES_MAX]);
        assert_eq!(prefix.sources.len(), 3, "there is no room");
    }
}
