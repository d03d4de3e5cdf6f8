//! The node of a version's tree. A module of its own, because the names that deriving adds stay private in it.

use rkyv::{Archive, Deserialize, Serialize};

use super::{ChildRef, ExtentChildRef, LeafPage};
use crate::record::ChunkRef;

/// A node of a version's tree.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// File records.
    Leaf(LeafPage),
    /// References to the pages of level `level - 1`; leaves are level 0.
    Inner {
        /// Distance from the leaves.
        level: u8,
        /// The pages below, in path order.
        children: Vec<ChildRef>,
    },
    /// Chunks of one file, in file order.
    ExtentLeaf(Vec<ChunkRef>),
    /// References to the extent pages below, in file order.
    ExtentInner {
        /// Distance from the extent leaves.
        level: u8,
        /// The pages below.
        children: Vec<ExtentChildRef>,
    },
}
