//! How an epoch is mixed.

use std::num::NonZeroU64;

use rkyv::{Archive, Deserialize, Serialize};

/// How an epoch is mixed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shuffle {
    /// In the order of the version.
    None,
    /// Every order of all samples is as likely as any other.
    #[default]
    Full,
    /// Blocks of so many neighbours come in a random order, and so do the samples of each block: reads stay in one block for as
    /// long as it lasts.
    Blocks(NonZeroU64),
}
