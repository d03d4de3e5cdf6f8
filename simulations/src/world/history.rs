//! What happened in a run, as the checkers see it: facts in the order in which the world learnt them.

use std::collections::BTreeMap;

use headwater_protocol::id::{ChunkId, VersionId};

use super::rules::Rules;
use super::watch::LinkBytes;
use crate::tally::Tally;

/// Files by path, each with the BLAKE3 of its bytes.
pub type Files = BTreeMap<String, ChunkId>;

/// Why a version can't be read that is not in the catalog any more.
pub const GONE: &str = "it is gone";

/// One fact. Devices are named by their index, datasets by their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A user made or changed a file.
    Wrote {
        /// The dataset of its folder.
        dataset: String,
        /// Its path.
        path: String,
        /// Its bytes.
        hash: ChunkId,
        /// How many.
        bytes: u64,
    },
    /// A user removed a file.
    Removed {
        /// The dataset of its folder.
        dataset: String,
        /// Its path.
        path: String,
    },
    /// A command took a file out of later versions.
    Deleted {
        /// The dataset.
        dataset: String,
        /// Its path.
        path: String,
    },
    /// A command freed a file: it is gone from the folder.
    Freed {
        /// The dataset.
        dataset: String,
        /// Its path.
        path: String,
        /// Its bytes.
        hash: ChunkId,
    },
    /// The core has a version that was not there before.
    Version {
        /// The dataset.
        dataset: String,
        /// Its number.
        number: u64,
        /// Its id.
        version: VersionId,
        /// Its files, each read in full; or why it could not be.
        files: Result<Files, String>,
    },
    /// The core has later versions than this one, which nobody saw: it came and was collected in between.
    Passed {
        /// The dataset.
        dataset: String,
        /// Its number.
        number: u64,
    },
    /// The core was asked again for a version that was seen before: how it stands with it.
    Again {
        /// The dataset.
        dataset: String,
        /// Its number.
        number: u64,
        /// What it is now, if it is there and could be read in full.
        version: Result<VersionId, String>,
    },
    /// A device holds the core's receipt for a version.
    Receipt {
        /// The dataset.
        dataset: String,
        /// Its number.
        number: u64,
        /// Its id.
        version: VersionId,
        /// Whether the signatures on it are good.
        is_good: bool,
    },
    /// The core started, and found so many chunks lost that its catalog has.
    Started {
        /// Lost chunks.
        lost_chunks: u64,
    },
    /// Something was done to the world; what its kind is called.
    Did(&'static str),
    /// The core was told to collect garbage, and to keep so many of the newest versions; none keeps all.
    Collected {
        /// Versions.
        keep_last: Option<u64>,
    },
    /// Bytes of a pack of the core were damaged.
    Damaged {
        /// The pack.
        pack: u64,
    },
    /// A machine's process died, or its power went.
    Died {
        /// Whose.
        who: String,
        /// Whether what was not durable went too.
        power: bool,
    },
    /// A link was cut.
    Cut {
        /// The device's.
        device: u8,
    },
    /// A subscriber's folder holds a version.
    Held {
        /// The device.
        device: u8,
        /// The dataset.
        dataset: String,
        /// Its files.
        files: Files,
    },
    /// Something is where it must never be.
    Leaked(String),
    /// A process did what none may do: it panicked, did not start, or did not end.
    Broken(String),
    /// The core held more memory for transfers than its budget.
    OverBudget(u64),
    /// The run is over: whether everything came to rest as it should, and if not, what was missing.
    Ended(Result<(), String>),
}

/// What a dataset is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Who publishes it.
    pub writer: u8,
    /// Deletions by the user leave it too.
    pub is_mirror: bool,
    /// Devices that may read it, and are subscribed to it.
    pub readers: Vec<u8>,
}

/// A run from its first to its last fact.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The facts, with the time at which the world learnt them, in milliseconds.
    pub facts: Vec<(u64, Fact)>,
    /// What is published.
    pub datasets: BTreeMap<String, Dataset>,
    /// What went over each device's link.
    pub wire: Vec<LinkBytes>,
    /// What each device's link may carry.
    pub rules: Vec<Rules>,
    /// What befell datagrams.
    pub datagrams: Tally,
    /// Connections that were dialled.
    pub dialled: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}
