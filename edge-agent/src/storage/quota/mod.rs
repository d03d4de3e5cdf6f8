//! Which files make room when a folder holds more than it may: the oldest of those that the core keeps, and no more than
//! are needed. A pure module: who uses it looks at the disk, tells what is there, and frees what is chosen.

#[cfg(test)]
mod tests;

use std::collections::BinaryHeap;

/// What a folder may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that its files may take on the disk.
    pub quota_bytes: Option<u64>,
    /// The least that must be free on the file system, whoever takes the rest.
    pub free_bytes_min: Option<u64>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the folder's files take on the disk.
    pub folder_bytes: u64,
    /// Bytes that are free on the file system.
    pub free_bytes: u64,
}

impl Limits {
    /// Whether there are any.
    pub const fn is_none(&self) -> bool {
        self.quota_bytes.is_none() && self.free_bytes_min.is_none()
    }

    /// So many bytes on the disk are too many.
    pub fn excess_bytes(&self, usage: &Usage) -> u64 {
        let over = self.quota_bytes.map_or(0, |quota| usage.folder_bytes.saturating_sub(quota));
        let short = self.free_bytes_min.map_or(0, |least| least.saturating_sub(usage.free_bytes));
        over.max(short)
    }
}

/// A file that may go: the core has it, by a receipt that is good enough. Ordered by age, and by path where that is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// When it was modified last, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Its path in the dataset.
    pub path: Vec<u8>,
    /// Bytes that go with it from the disk.
    pub disk_bytes: u64,
}

/// Chooses, from candidates in any order, the oldest that together make enough room. It remembers no more of them than
/// that takes.
#[derive(Clone, Debug)]
pub struct Choice {
    excess_bytes: u64,
    /// The newest on top.
    chosen: BinaryHeap<Candidate>,
    chosen_bytes: u64,
}

impl Choice {
    /// A choice that is to make so much room.
    pub const fn new(excess_bytes: u64) -> Self {
        Self { excess_bytes, chosen: BinaryHeap::new(), chosen_bytes: 0 }
    }

    /// Takes one more into consideration. One that makes no room is of no use.
    pub fn offer(&mut self, candidate: Candidate) {
        let is_enough = self.chosen_bytes >= self.excess_bytes;
        if candidate.disk_bytes == 0 || (is_enough && self.chosen.peek().is_none_or(|newest| candidate > *newest)) {
            return;
        }
        self.chosen_bytes += candidate.disk_bytes;
        self.chosen.push(candidate);
        while let Some(newest) = self.chosen.peek()
            && self.chosen_bytes - newest.disk_bytes >= self.excess_bytes
        {
            self.chosen_bytes -= newest.disk_bytes;
            self.chosen.pop();
        }
    }

    /// The chosen ones, the oldest first.
    pub fn finish(self) -> Vec<Candidate> {
        self.chosen.into_sorted_vec()
    }
}
