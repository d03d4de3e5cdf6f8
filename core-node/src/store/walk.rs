//! Walking the tree of a version that is stored: every page and every chunk that it needs.

use headwater_protocol::codec::DecodeError;
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::record::Content;

use super::chunk_store::{ChunkStore, ReadError};

/// Why a tree could not be walked to its end.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A page can't be read.
    #[error("page {} can't be read: {source}", page.short())]
    Read {
        /// The page.
        page: ChunkId,
        /// Why.
        source: ReadError,
    },
    /// A page is none.
    #[error("chunk {} is no page: {source}", page.short())]
    Decode {
        /// What should be a page.
        page: ChunkId,
        /// Why it is none.
        source: DecodeError,
    },
}

impl WalkError {
    /// The page at which the walk ended.
    pub fn page(&self) -> ChunkId {
        match self {
            Self::Read { page, .. } | Self::Decode { page, .. } => *page,
        }
    }
}

/// What a page names.
#[derive(Debug, Default)]
pub(super) struct Below {
    pub(super) pages: Vec<ChunkId>,
    pub(super) chunks: Vec<ChunkId>,
}

impl Below {
    pub(super) fn of(page: Page) -> Self {
        match page {
            Page::Leaf(leaf) => {
                let pages = leaf.records.iter().filter_map(|record| match &record.content {
                    Content::Paged { root, .. } => Some(*root),
                    _ => None,
                });
                Self { pages: pages.collect(), chunks: leaf.chunks.iter().map(|chunk| chunk.id).collect() }
            }
            Page::Inner { children, .. } => {
                Self { pages: children.into_iter().map(|child| child.id).collect(), chunks: Vec::new() }
            }
            Page::ExtentLeaf(chunks) => {
                Self { pages: Vec::new(), chunks: chunks.into_iter().map(|chunk| chunk.id).collect() }
            }
            Page::ExtentInner { children, .. } => {
                Self { pages: children.into_iter().map(|child| child.id).collect(), chunks: Vec::new() }
            }
        }
    }
}

impl ChunkStore {
    /// What the page `id` names.
    pub(super) fn below(&self, id: &ChunkId) -> Result<Below, WalkError> {
        let bytes = self.read(id).map_err(|source| WalkError::Read { page: *id, source })?;
        Ok(Below::of(Page::decode(&bytes).map_err(|source| WalkError::Decode { page: *id, source })?))
    }

    /// Walks everything at and below the page `root` that can be read; the error is the first of what can't. `enter` is asked
    /// once for each reference to a page whether to look into it; `chunk` hears of each reference to a chunk.
    pub(super) fn walk(
        &self,
        root: ChunkId,
        enter: &mut dyn FnMut(&ChunkId) -> bool,
        chunk: &mut dyn FnMut(&ChunkId),
    ) -> Result<(), WalkError> {
        let mut waiting = vec![root];
        let mut unread = Ok(());
        while let Some(page) = waiting.pop() {
            if !enter(&page) {
                continue;
            }
            match self.below(&page) {
                Ok(below) => {
                    below.chunks.iter().for_each(&mut *chunk);
                    waiting.extend(below.pages);
                }
                Err(error) => unread = unread.and(Err(error)),
            }
        }
        unread
    }
}
