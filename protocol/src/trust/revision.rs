//! Which revision of the protocol two releases speak. A core serves agents one release older and newer.

/// Two releases without a common revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevisionMismatch {
    /// The peer is ahead.
    #[error(
        "the peer speaks protocol revisions from {theirs} on, and this release speaks up to {ours}: update this side"
    )]
    TheyAreNewer {
        /// The newest here.
        ours: u32,
        /// The oldest there.
        theirs: u32,
    },
    /// The peer is behind.
    #[error(
        "the peer speaks protocol revisions up to {theirs}, and this release needs at least {ours}: update the peer"
    )]
    TheyAreOlder {
        /// The oldest here.
        ours: u32,
        /// The newest there.
        theirs: u32,
    },
    /// The peer's range is upside down.
    #[error("the peer says that it speaks protocol revisions {min} to {max}, which is no range")]
    NoRange {
        /// Its oldest.
        min: u32,
        /// Its newest.
        max: u32,
    },
}

/// The newest revision that both speak. Each side gives its oldest and newest.
pub fn negotiate(ours: (u32, u32), theirs: (u32, u32)) -> Result<u32, RevisionMismatch> {
    let ((our_min, our_max), (min, max)) = (ours, theirs);
    if min > max {
        return Err(RevisionMismatch::NoRange { min, max });
    }
    if min > our_max {
        return Err(RevisionMismatch::TheyAreNewer { ours: our_max, theirs: min });
    }
    if max < our_min {
        return Err(RevisionMismatch::TheyAreOlder { ours: our_min, theirs: max });
    }
    Ok(our_max.min(max))
}
