//! What a request is for. A module of its own, because the names that deriving adds stay private in it.

use rkyv::{Archive, Deserialize, Serialize};

/// What a request is for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ReadWhat {
    /// Whole samples, in this order; one may come more than once.
    Samples {
        /// Their numbers in the source.
        samples: Vec<u64>,
        /// Whether each file comes with its whole path, and not only with what follows its stem.
        paths: bool,
    },
    /// A part of one file.
    Range {
        /// Which member of the source; 0 where that is a single version.
        member: u32,
        /// The file's path.
        path: Vec<u8>,
        /// The first byte.
        offset: u64,
        /// Bytes; fewer come where the file ends before.
        length: u64,
    },
}
