//! A version as a content-cut tree of pages: building it, reading it, comparing two, changing one, checking one.
//!
//! ```text
//!             inner (level 1)                       cut where the hash of a child's first path says so
//!            /       |        \
//!        leaf      leaf       leaf                  cut where the hash of a stem says so; a stem group is never split
//!       records   records    records  + chunk table
//!                    |
//!              extent inner (level 1)               only below a file with many chunks;
//!               /          \                        cut where a chunk's id says so
//!        extent leaf     extent leaf
//! ```
//!
//! Where a page ends follows from what is in it, never from what came before its first record or comes after its last
//! one. So a change disturbs the pages on its path and seldom more, equal folders give equal trees, and an untouched
//! leaf can be taken over as it is.
//!
//! **Manifest order** of data chunks: for each leaf in order its table in order, then the extent leaves of its long files
//! in record order. A chunk's position in it is its **ordinal**; a chunk that several leaves name has several.
//!
//! A **stem group** is a run of records in path order that share a [stem](crate::path::stem), at most
//! [`STEM_GROUP_RECORDS_MAX`] of them. Its regular files are one **sample**; folders and links in it count as files of the
//! version, but make no sample. `a.d/` with files in it stands between `a.c` and `a.e` in path order and so parts them.

mod base;
mod build;
mod cursor;
mod diff;
mod edit;
mod entry;
mod extents;
mod group;
mod leaf;
mod read;
mod shared;
mod source;
mod verify;
mod walk;

pub use base::DeltaPrefix;
pub use build::{BuildError, Built, TreeBuilder};
pub use cursor::{Chunks, Leaves, Records, Stretches};
pub use diff::{Change, Diff, diff};
pub use edit::{Edit, EditError, edit};
pub use entry::{BuildContent, BuildEntry, NoSharedSink, SharedSink};
pub use extents::check_extent_page;
pub use group::{STEM_GROUP_RECORDS_MAX, stem_groups};
pub use read::{ChunkPlace, Leaf, LeafRef, RecordAt, SampleAt, Stretch, Tree, TreeError, Within, check_page};
pub use source::{MemoryPages, PageSink, PageSource, PageSourceError, SinkError};
pub use verify::verify_shape;

#[cfg(test)]
mod tests;
