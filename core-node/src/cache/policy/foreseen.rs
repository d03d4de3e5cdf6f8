//! What is needed furthest in the future gives way: the rule of Belady, "A study of replacement algorithms for a virtual-storage
//! computer" (IBM Systems Journal, 1966), which no other rule beats where chunks have one size. The future comes from what
//! jobs declared, by formula ([`Foresight`]).
//!
//! Sessions that read one source for one job are a track: they go through the same order side by side, so their turns are one
//! clock. A chunk is known with the turn at which somebody of the track needs it next. Such a turn is looked up when the chunk comes
//! in, and again when it has passed: a few chunks at each eviction, so that what does not press costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_protocol::id::ChunkId;

use super::{Reader, Samples};

/// Chunks whose turn has passed that are looked up again at one eviction.
const REFRESHED_MAX: usize = 8;
/// Samples of one chunk that are looked up, over all readers. A chunk with more is needed soon whatever the rest says.
const LOOKED_UP_MAX: u64 = 256;
/// Chunks of one track that are weighed against other tracks' at one eviction.
const CANDIDATES_MAX: usize = 4;

/// Sessions that go through the same order side by side.
pub type Track = u64;

/// What a session will read, by formula. Turns count the samples that it reads, from its declaration on.
pub trait Foresight: Send + Sync + std::fmt::Debug {
    /// The turn that comes next.
    fn turn(&self) -> u64;
    /// How many turns there are until the end of what was declared.
    fn turns(&self) -> u64;
    /// The turn from `turn` on at which it reads `sample`, in what was declared or right after it; none if never.
    fn next_turn(&self, sample: u64, turn: u64) -> Option<u64>;
    /// Nanoseconds between two turns, as they went lately.
    fn turn_ns(&self) -> u64;
}

/// One session of a track.
#[derive(Debug)]
struct Line {
    foresight: Arc<dyn Foresight>,
    /// Turns of what it had declared before.
    before: u64,
}

impl Line {
    fn now(&self) -> u64 {
        self.before.saturating_add(self.foresight.turn())
    }
}

#[derive(Debug, Default)]
struct Lane {
    lines: BTreeMap<Reader, Line>,
    /// Chunks by the turn at which they are needed next, or were.
    turns: BTreeSet<(u64, ChunkId)>,
}

impl Lane {
    /// The clock of the track: where the last of its sessions is.
    fn now(&self) -> u64 {
        self.lines.values().map(Line::now).min().unwrap_or(0)
    }

    /// When somebody of the track needs one of these samples next; the end of time if never.
    fn next_turn(&self, samples: &Samples) -> u64 {
        let looked_up = LOOKED_UP_MAX / (self.lines.len() as u64).max(1);
        let some = samples.start..samples.end.min(samples.start.saturating_add(looked_up.max(1)));
        let of_line = |line: &Line| {
            let turn = line.foresight.turn();
            let next = some.clone().filter_map(|sample| line.foresight.next_turn(sample, turn)).min();
            next.map(|next| line.before.saturating_add(next))
        };
        self.lines.values().filter_map(of_line).min().unwrap_or(u64::MAX)
    }

    /// How long it is until `turn`, in nanoseconds.
    fn until(&self, turn: u64) -> u64 {
        if turn == u64::MAX {
            return u64::MAX;
        }
        let turn_ns = self.lines.values().map(|line| line.foresight.turn_ns()).min().unwrap_or(1).max(1);
        turn.saturating_sub(self.now()).saturating_mul(turn_ns)
    }
}

/// A chunk on a track.
#[derive(Clone, Debug)]
struct Use {
    track: Track,
    samples: Samples,
    /// Its key among the turns of the track.
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    blocks: usize,
    uses: Vec<Use>,
}

/// The chunks of jobs that declared what they read.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    entries: BTreeMap<ChunkId, Entry>,
    lanes: BTreeMap<Track, Lane>,
    tracks: BTreeMap<Reader, Track>,
}

impl Foreseen {
    /// How many tracks there are.
    pub(super) fn tracks(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn handle_declared(&mut self, reader: Reader, track: Track, foresight: Arc<dyn Foresight>) {
        let lane = self.lanes.entry(track).or_default();
        let now = lane.now();
        let before = match lane.lines.get(&reader) {
            // What comes after a declaration's last turn was looked up as if the next one had been declared already.
            Some(line) => line.before.saturating_add(line.foresight.turns().min(line.foresight.turn())),
            None => now,
        };
        lane.lines.insert(reader, Line { foresight, before });
        self.tracks.insert(reader, track);
    }

    /// A chunk that is in is read by `reader` from now on; whether `reader` declared what it reads.
    pub(super) fn handle_loaded(&mut self, id: ChunkId, blocks: usize, reader: Reader, samples: &Samples) -> bool {
        if !self.tracks.contains_key(&reader) {
            return self.entries.contains_key(&id);
        }
        self.entries.entry(id).or_insert(Entry { blocks, uses: Vec::new() });
        self.handle_hit(&id, reader, samples);
        true
    }

    pub(super) fn handle_hit(&mut self, id: &ChunkId, reader: Reader, samples: &Samples) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(&track) = self.tracks.get(&reader) else { return };
        if entry.uses.iter().any(|known| known.track == track) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&track) else { return };
        let turn = lane.next_turn(samples);
        lane.turns.insert((turn, *id));
        entry.uses.push(Use { track, samples: samples.clone(), turn });
    }

    /// `reader` reads no more; gives the chunks that nobody reads now, with their blocks.
    pub(super) fn handle_closed(&mut self, reader: Reader) -> Vec<(ChunkId, usize)> {
        let Some(track) = self.tracks.remove(&reader) else { return Vec::new() };
        let Some(lane) = self.lanes.get_mut(&track) else { return Vec::new() };
        lane.lines.remove(&reader);
        if !lane.lines.is_empty() {
            return Vec::new();
        }
        let mut idle = Vec::new();
        for (_, id) in self.lanes.remove(&track).map(|lane| lane.turns).unwrap_or_default().into_iter().rev() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.uses.retain(|known| known.track != track);
            if entry.uses.is_empty() {
                idle.push((id, entry.blocks));
                self.entries.remove(&id);
            }
        }
        idle
    }

    /// What is needed furthest in the future; it is forgotten.
    pub(super) fn poll_victim(&mut self) -> Option<ChunkId> {
        self.refresh();
        let (_, id) = self.furthest()?;
        self.forget(&id);
        Some(id)
    }

    /// The same, if it is needed later than these samples by `reader`.
    pub(super) fn poll_later_than(&mut self, reader: Reader, samples: &Samples) -> Option<ChunkId> {
        self.refresh();
        let lane = self.lanes.get(self.tracks.get(&reader)?)?;
        let wanted = lane.until(lane.next_turn(samples));
        let (until, id) = self.furthest()?;
        if until <= wanted {
            return None;
        }
        self.forget(&id);
        Some(id)
    }

    /// Looks up anew when some chunks are needed whose turn has passed.
    fn refresh(&mut self) {
        for (track, lane) in &mut self.lanes {
            let now = lane.now();
            for _ in 0..REFRESHED_MAX {
                let Some(&(turn, id)) = lane.turns.first().filter(|(turn, _)| *turn < now) else { break };
                lane.turns.remove(&(turn, id));
                let known = self
                    .entries
                    .get_mut(&id)
                    .and_then(|entry| entry.uses.iter_mut().find(|known| known.track == *track));
                let Some(known) = known else { continue };
                known.turn = lane.next_turn(&known.samples);
                lane.turns.insert((known.turn, id));
            }
        }
    }

    /// The chunk that nobody needs for the longest time, and for how long.
    fn furthest(&self) -> Option<(u64, ChunkId)> {
        let of_lane = |lane: &Lane| {
            let candidates = lane.turns.iter().rev().take(CANDIDATES_MAX);
            candidates.filter_map(|(_, id)| Some((self.until_needed(id)?, *id))).max()
        };
        self.lanes.values().filter_map(of_lane).max()
    }

    fn until_needed(&self, id: &ChunkId) -> Option<u64> {
        let uses = self.entries.get(id)?.uses.iter();
        uses.filter_map(|known| Some(self.lanes.get(&known.track)?.until(known.turn))).min()
    }

    fn forget(&mut self, id: &ChunkId) {
        for known in self.entries.remove(id).map(|entry| entry.uses).unwrap_or_default() {
            if let Some(lane) = self.lanes.get_mut(&known.track) {
                lane.turns.remove(&(known.turn, *id));
            }
        }
    }
}
