//! Chunks between being found by the walk and being durable. Each id flies once, however many positions wait for it.

use std::collections::BTreeMap;

use super::super::walk::FoundChunk;
use super::{Violation, Wanted};
use crate::id::ChunkId;
use crate::record::ChunkRef;
use crate::wire::{ItemKey, OrdinalRange, PartialChunk};

/// Chunks that are looked at, for one question, to find some that do not fly yet.
const QUESTION_SCAN: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its presence is in question.
    Questioned,
    /// It is to be asked for, from a byte on.
    Lacking(u32),
    /// It is asked for, from a byte on.
    Asked(u32),
}

#[derive(Debug)]
struct Flight {
    stage: Stage,
    chunk: ChunkRef,
    /// Positions that wait for it; the one under which it is asked for first, those that were unavailable last.
    waiting: Vec<FoundChunk>,
    /// How many of the last ones were unavailable.
    unavailable: usize,
}

/// A chunk that is here now.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) length: u32,
    pub(super) waiting: Vec<FoundChunk>,
}

#[derive(Debug, Default)]
pub(super) struct Flights {
    /// Found, and not looked into yet.
    found: BTreeMap<u64, FoundChunk>,
    under_way: BTreeMap<ChunkId, Flight>,
    /// Those that are lacking, in manifest order.
    lacking: BTreeMap<u64, ChunkId>,
    asked: BTreeMap<u64, ChunkId>,
    asked_bytes: u64,
}

impl Flights {
    pub(super) fn found(&mut self, found: Vec<FoundChunk>) {
        self.found.extend(found.into_iter().map(|found| (found.ordinal, found)));
    }

    pub(super) fn found_waiting(&self) -> usize {
        self.found.len()
    }

    /// Chunks that are known to be lacking and not asked for yet.
    pub(super) fn lacking_waiting(&self) -> usize {
        self.lacking.len()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.found.is_empty() && self.under_way.is_empty()
    }

    pub(super) fn is_asking(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(super) fn remembered(&self) -> usize {
        self.found.len() + self.under_way.len()
    }

    /// The next chunks whose presence is to be looked up.
    pub(super) fn next_question(&mut self, chunks_max: usize) -> Result<Vec<Wanted>, Violation> {
        let mut wanted = Vec::new();
        for _ in 0..chunks_max * QUESTION_SCAN {
            let Some((ordinal, found)) = self.found.pop_first() else { break };
            let chunk = found.chunk;
            match self.under_way.get_mut(&chunk.id) {
                Some(flight) if flight.chunk != chunk => {
                    let reason =
                        format!("the version gives its chunk {} and {} bytes", flight.chunk.length, chunk.length);
                    return Err(Violation::Item { key: ItemKey::Chunk(ordinal), reason });
                }
                Some(flight) => {
                    let end = flight.waiting.len() - flight.unavailable;
                    flight.waiting.insert(end, found);
                }
                None => {
                    let flight = Flight { stage: Stage::Questioned, chunk, waiting: vec![found], unavailable: 0 };
                    self.under_way.insert(chunk.id, flight);
                    wanted.push(Wanted { ordinal, chunk });
                }
            }
            if wanted.len() == chunks_max {
                break;
            }
        }
        Ok(wanted)
    }

    /// The chunk is not here, but for its first `offset` bytes.
    pub(super) fn missing(&mut self, id: &ChunkId, offset: u32) {
        if let Some(flight) = self.under_way.get_mut(id)
            && flight.stage == Stage::Questioned
        {
            flight.stage = Stage::Lacking(offset);
            self.lacking.insert(flight.waiting[0].ordinal, *id);
        }
    }

    /// Asks for what is lacking, if less than half of what may be asked for at once is.
    pub(super) fn ask(&mut self, bytes_max: u64, chunks_max: usize) -> Option<(Vec<OrdinalRange>, Vec<PartialChunk>)> {
        if self.asked_bytes > bytes_max / 2 || self.asked.len() > chunks_max / 2 {
            return None;
        }
        let (mut ranges, mut partial) = (Vec::<OrdinalRange>::new(), Vec::new());
        while self.asked_bytes < bytes_max
            && self.asked.len() < chunks_max
            && let Some((ordinal, id)) = self.lacking.pop_first()
        {
            let flight = self.under_way.get_mut(&id).expect("what is lacking flies");
            let Stage::Lacking(offset) = flight.stage else { unreachable!("it is lacking") };
            flight.stage = Stage::Asked(offset);
            self.asked.insert(ordinal, id);
            self.asked_bytes += u64::from(flight.chunk.length);
            if offset > 0 {
                partial.push(PartialChunk { ordinal, offset });
            }
            match ranges.last_mut() {
                Some(range) if range.first + range.count == ordinal => range.count += 1,
                _ => ranges.push(OrdinalRange { first: ordinal, count: 1 }),
            }
        }
        (!ranges.is_empty()).then_some((ranges, partial))
    }

    /// What a chunk that arrives must be, and from which byte on it was asked for.
    pub(super) fn arrives(&self, ordinal: u64) -> Option<(ChunkRef, u32)> {
        let flight = self.under_way.get(self.asked.get(&ordinal)?)?;
        match flight.stage {
            Stage::Asked(offset) => Some((flight.chunk, offset)),
            Stage::Questioned | Stage::Lacking(_) => None,
        }
    }

    /// What arrived was of no use; from now on the whole chunk is asked for.
    pub(super) fn asked_again(&mut self, ordinal: u64) {
        if let Some(id) = self.asked.get(&ordinal)
            && let Some(flight) = self.under_way.get_mut(id)
        {
            flight.stage = Stage::Asked(0);
        }
    }

    /// The chunk at a position can't be sent. If another position waits for the same chunk it is asked for there;
    /// otherwise the positions that will go without are returned. None if it was not asked for.
    pub(super) fn unavailable(&mut self, ordinal: u64) -> Option<Vec<u64>> {
        let id = self.asked.remove(&ordinal)?;
        let flight = self.under_way.get_mut(&id).expect("what is asked for flies");
        self.asked_bytes -= u64::from(flight.chunk.length);
        flight.waiting.rotate_left(1);
        flight.unavailable += 1;
        if flight.unavailable < flight.waiting.len() {
            flight.stage = Stage::Lacking(0);
            self.lacking.insert(flight.waiting[0].ordinal, id);
            return Some(Vec::new());
        }
        let flight = self.under_way.remove(&id).expect("just looked at");
        Some(flight.waiting.iter().map(|found| found.ordinal).collect())
    }

    /// The chunk is here.
    pub(super) fn settle(&mut self, id: &ChunkId) -> Settled {
        let flight = self.under_way.remove(id);
        flight.map_or(Settled { length: 0, waiting: Vec::new() }, |flight| Settled {
            length: flight.chunk.length,
            waiting: flight.waiting,
        })
    }

    /// The chunk that was asked for under a position is here.
    pub(super) fn settle_asked(&mut self, ordinal: u64) -> Option<Settled> {
        let id = self.asked.remove(&ordinal)?;
        let settled = self.settle(&id);
        self.asked_bytes -= u64::from(settled.length);
        Some(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_gone_in_one_file_is_asked_for_in_the_next() {
        let chunk = ChunkRef { id: ChunkId::of(b"x"), length: 10 };
        let found = |ordinal| FoundChunk { ordinal, chunk, slot: 0 };
        let mut flights = Flights::default();
        flights.found(vec![found(3), found(9), found(20)]);
        let wanted = flights.next_question(10).expect("one length");
        assert_eq!(wanted, [Wanted { ordinal: 3, chunk }]);
        flights.missing(&chunk.id, 4);
        let mut ask = || flights.ask(100, 100);
        let (ranges, partial) = ask().expect("something lacks");
        assert_eq!((ranges[0].first, partial[0].offset), (3, 4));
        assert_eq!(ask(), None);
        for next in [9, 20] {
            assert_eq!(flights.unavailable(if next == 9 { 3 } else { 9 }), Some(vec![]));
            let (ranges, partial) = flights.ask(100, 100).expect("it lacks still");
            assert_eq!((ranges, partial), (vec![OrdinalRange { first: next, count: 1 }], vec![]));
        }
        assert_eq!(flights.unavailable(3), None);
        let mut lacking = flights.unavailable(20).expect("asked for");
        lacking.sort_unstable();
        assert_eq!(lacking, [3, 9, 20]);
        assert!(flights.is_settled());
        assert_eq!(flights.asked_bytes, 0);
    }
}
