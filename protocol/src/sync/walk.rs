//! The receiver's walk over the offered tree: which pages to look for next, and what is complete.
//!
//! Three things are kept, all bounded by what is under way. The **frontier** holds references to pages whose content is
//! not known yet, in manifest order. **Open** pages are those that are known and not complete: each counts what it still
//! lacks. **Storing** names pages that have arrived and are not durable yet.

use std::collections::BTreeMap;

use super::Violation;
use crate::id::ChunkId;
use crate::manifest::Manifest;
use crate::page::{ChildRef, ExtentChildRef, Page};
use crate::record::{ChunkRef, Content};
use crate::tree;
use crate::wire::OrdinalRange;

/// Pages in manifest order that are looked for at once.
const PAGES_AHEAD: usize = 256;
/// An inner page in the frontier counts for so many: what it leads to has to fit as well.
const INNER_PAGE_WEIGHT: usize = 16;

/// A page's place: its first record and its first chunk. No two pages of the frontier have the same.
type Place = (u64, u64);
/// An open page, as an index.
pub(super) type Slot = usize;

/// What the reference to a page says of it.
#[derive(Debug)]
enum Reference {
    Tree(ChildRef, u8),
    Extent(ExtentChildRef, u8),
}

impl Reference {
    fn id(&self) -> ChunkId {
        match self {
            Self::Tree(child, _) => child.id,
            Self::Extent(child, _) => child.id,
        }
    }

    fn chunks(&self) -> u64 {
        match self {
            Self::Tree(child, _) => child.chunks,
            Self::Extent(child, _) => child.chunks,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Tree(child, _) => child.bytes,
            Self::Extent(child, _) => child.bytes,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Tree(_, 0) | Self::Extent(_, 0) => 1,
            Self::Tree(..) | Self::Extent(..) => INNER_PAGE_WEIGHT,
        }
    }

    fn check(&self, page: &Page) -> Result<(), Violation> {
        let result = match self {
            Self::Tree(child, level) => tree::check_page(page, child, *level),
            Self::Extent(child, level) => tree::check_extent_page(page, child, *level),
        };
        result.map_err(|error| Violation::Page { id: self.id(), reason: error.to_string() })
    }
}

#[derive(Debug)]
struct Node {
    reference: Reference,
    parent: Option<Slot>,
    /// It is looked up or asked for.
    busy: bool,
}

#[derive(Debug)]
struct Open {
    id: ChunkId,
    parent: Option<Slot>,
    /// Pages and chunks directly below that are not complete, and 1 while the page itself is not durable.
    lacking: u64,
}

/// How far a page that is looked for is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quest {
    LookedUp,
    Asked,
    Arrived,
}

/// A chunk that the walk came upon.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundChunk {
    pub(super) ordinal: u64,
    pub(super) chunk: ChunkRef,
    pub(super) slot: Slot,
}

/// What lies below a page of which the store says that all of it is here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipped {
    pub(super) ordinals: OrdinalRange,
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Walk {
    frontier: BTreeMap<Place, Node>,
    /// Pages of the frontier that are looked for, and where they stand; a page may stand at several places.
    quests: BTreeMap<ChunkId, (Quest, Vec<Place>)>,
    open: Vec<Option<Open>>,
    free: Vec<Slot>,
    storing: BTreeMap<ChunkId, Vec<Slot>>,
    completed: Vec<ChunkId>,
    root_complete: bool,
}

impl Walk {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let mut walk = Self::default();
        match &manifest.root {
            Some(root) => {
                let reference = Reference::Tree(root.clone(), manifest.height);
                walk.frontier.insert((0, 0), Node { reference, parent: None, busy: false });
            }
            None => walk.root_complete = true,
        }
        walk
    }

    /// Whether everything of the version is here.
    pub(super) fn is_complete(&self) -> bool {
        self.root_complete
    }

    /// Whether no page is unknown, and none is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.frontier.is_empty() && self.storing.is_empty()
    }

    /// Pages to look up in the store, in manifest order, at most `ids_max`.
    pub(super) fn next_lookup(&mut self, ids_max: usize) -> Vec<ChunkId> {
        let mut ids = Vec::new();
        let mut weight = 0;
        for (&place, node) in &mut self.frontier {
            weight += node.reference.weight();
            if ids.len() >= ids_max || (weight > PAGES_AHEAD && weight > node.reference.weight()) {
                break;
            }
            let id = node.reference.id();
            if node.busy || self.storing.contains_key(&id) {
                continue;
            }
            node.busy = true;
            let (_, places) = self.quests.entry(id).or_insert_with(|| {
                ids.push(id);
                (Quest::LookedUp, Vec::new())
            });
            places.push(place);
        }
        ids
    }

    /// The store has not got the page; it is to be asked for.
    pub(super) fn lacks(&mut self, id: &ChunkId) -> bool {
        match self.quests.get_mut(id) {
            Some((quest @ Quest::LookedUp, _)) => {
                *quest = Quest::Asked;
                true
            }
            _ => false,
        }
    }

    /// The page arrives, if it was asked for.
    pub(super) fn arrives(&mut self, id: &ChunkId) -> bool {
        match self.quests.get_mut(id) {
            Some((quest @ Quest::Asked, _)) => {
                *quest = Quest::Arrived;
                true
            }
            _ => false,
        }
    }

    /// What arrived was of no use; the page is asked for again.
    pub(super) fn asked_again(&mut self, id: &ChunkId) {
        if let Some((quest, _)) = self.quests.get_mut(id) {
            *quest = Quest::Asked;
        }
    }

    /// The store has the page and all below it.
    pub(super) fn skip(&mut self, id: &ChunkId) -> Vec<Skipped> {
        let Some((_, places)) = self.quests.remove(id) else { return Vec::new() };
        let mut skipped = Vec::with_capacity(places.len());
        for place in places {
            let Some(node) = self.frontier.remove(&place) else { continue };
            let ordinals = OrdinalRange { first: place.1, count: node.reference.chunks() };
            skipped.push(Skipped { ordinals, bytes: node.reference.bytes() });
            self.less_lacking(node.parent);
        }
        skipped
    }

    /// The content of a page is known: its children join the frontier, its chunks are given out. `durable` says whether
    /// the page itself is stored already.
    pub(super) fn expand(&mut self, id: &ChunkId, page: &Page, durable: bool) -> Result<Vec<FoundChunk>, Violation> {
        let Some((_, places)) = self.quests.remove(id) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for place in places {
            let Some(node) = self.frontier.remove(&place) else { continue };
            node.reference.check(page)?;
            let slot = self.open(Open { id: *id, parent: node.parent, lacking: 1 });
            let lacking = self.children(place, slot, page, &mut found)?;
            self.open_page(slot).lacking += lacking;
            if durable {
                self.less_lacking(Some(slot));
            } else {
                self.storing.entry(*id).or_default().push(slot);
            }
        }
        Ok(found)
    }

    fn children(
        &mut self,
        place: Place,
        slot: Slot,
        page: &Page,
        found: &mut Vec<FoundChunk>,
    ) -> Result<u64, Violation> {
        let (mut file, mut ordinal) = place;
        let before = found.len();
        let mut references = Vec::new();
        let mut list = |chunks: &[ChunkRef], first: u64| {
            found.extend(chunks.iter().zip(first..).map(|(&chunk, ordinal)| FoundChunk { ordinal, chunk, slot }));
        };
        match page {
            Page::Inner { level, children } => {
                for child in children {
                    references.push(((file, ordinal), Reference::Tree(child.clone(), level - 1)));
                    file += child.files;
                    ordinal += child.chunks;
                }
            }
            Page::ExtentInner { level, children } => {
                for child in children {
                    references.push(((file, ordinal), Reference::Extent(*child, level - 1)));
                    ordinal += child.chunks;
                }
            }
            Page::ExtentLeaf(chunks) => list(chunks, ordinal),
            Page::Leaf(leaf) => {
                list(&leaf.chunks, ordinal);
                ordinal += leaf.chunks.len() as u64;
                for record in &leaf.records {
                    let Content::Paged { root, chunks, height } = record.content else { continue };
                    let child = ExtentChildRef { id: root, bytes: record.size, chunks };
                    // `Page::decode` lets no height of 0 pass.
                    references.push(((file, ordinal), Reference::Extent(child, height.saturating_sub(1))));
                    ordinal += chunks;
                }
            }
        }
        let lacking = (references.len() + found.len() - before) as u64;
        for (place, reference) in references {
            let id = reference.id();
            if self.frontier.insert(place, Node { reference, parent: Some(slot), busy: false }).is_some() {
                // Two pages at one place: one of them has no records or no chunks.
                return Err(Violation::Page { id, reason: "it claims to be empty".into() });
            }
        }
        Ok(lacking)
    }

    /// A page is durable.
    pub(super) fn stored(&mut self, id: &ChunkId) {
        for slot in self.storing.remove(id).unwrap_or_default() {
            self.less_lacking(Some(slot));
        }
    }

    /// Something directly below an open page is complete.
    pub(super) fn less_lacking(&mut self, slot: Option<Slot>) {
        let mut next = slot;
        while let Some(slot) = next {
            let open = self.open_page(slot);
            open.lacking -= 1;
            if open.lacking > 0 {
                return;
            }
            let Open { id, parent, .. } = self.open[slot].take().expect("just looked at");
            self.free.push(slot);
            self.completed.push(id);
            next = parent;
        }
        self.root_complete = true;
    }

    /// Pages that became complete since the last call.
    pub(super) fn take_completed(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.completed)
    }

    /// Pages that wait to be announced as complete.
    pub(super) fn completed_waiting(&self) -> usize {
        self.completed.len()
    }

    /// Pages that are remembered, for tests of the bound.
    pub(super) fn remembered(&self) -> usize {
        self.frontier.len() + self.open.len() + self.storing.len()
    }

    fn open(&mut self, open: Open) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.open[slot] = Some(open);
            return slot;
        }
        self.open.push(Some(open));
        self.open.len() - 1
    }

    fn open_page(&mut self, slot: Slot) -> &mut Open {
        self.open[slot].as_mut().expect("a slot is given back only when its page is complete")
    }
}
