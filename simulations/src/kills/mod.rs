//! SIGKILL at random moments, again and again, under load: a core and three agents as real processes, over links that lose
//! and repeat datagrams, while people add, change, rename and delete files. Every so often all that runs is left alone until
//! it has converged by itself, and then everything is read again and compared.
//!
//! What must hold: what a device was told is kept is there after any kill, and a number stands for one version for ever; a
//! reader sees versions as a whole only; a version that was freed locally is at the core, byte by byte; no start needs a
//! hand; and `verify` finds nothing on any side. A seed draws the moments, the victims and what people do. Processes run as
//! the machine lets them, so that the same seed is the same course of events by and large, not to the instruction.

mod fleet;
mod person;

use std::fmt;
use std::time::{Duration, Instant};

use fleet::Fleet;

use crate::random::Random;

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What draws the moments, the victims and what people do.
    pub seed: u64,
    /// Moments at which something is killed.
    pub rounds: u32,
    /// Rounds after which everything is left to converge, and is compared; it always is at the end.
    pub rounds_between: u32,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Kills of agents that publish.
    pub publishers: u32,
    /// Kills of the agent that subscribes.
    pub subscribers: u32,
    /// Kills of the core.
    pub cores: u32,
    /// Kills that came while the victim was starting.
    pub at_start: u32,
    /// Changes that people made.
    pub changes: u64,
    /// Files that were freed.
    pub freed: u32,
    /// Times that everything had converged and was compared.
    pub compared: u32,
    /// Looks at what stands at the subscriber between kills.
    pub looked: u32,
    /// Versions that were committed.
    pub versions: u64,
    /// Longest time to converge.
    pub converged_within: Duration,
    /// How long it all took.
    pub took: Duration,
}

impl Tally {
    /// Processes that were killed.
    pub const fn kills(&self) -> u32 {
        self.publishers + self.subscribers + self.cores
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishers, subscribers, cores, at_start, changes, freed, compared, looked, versions, .. } = self;
        write!(
            f,
            "{} processes killed in {:.0} s ({publishers} times a publisher, {subscribers} a subscriber, {cores} the core; \
             {at_start} times at its start), {changes} changes of files, {freed} files freed, {versions} versions, {looked} \
             looks at what is in force, {compared} times converged and compared, within {:.1} s",
            self.kills(),
            self.took.as_secs_f64(),
            self.converged_within.as_secs_f64(),
        )
    }
}

/// Longest time between two kills.
const PAUSE_MAX_MS: u64 = 700;
/// Longest time between a start and a kill that is to come in its middle.
const START_MAX_MS: u64 = 40;
/// A kill comes in the middle of a start once in so many times.
const AT_START_ONCE_IN: u64 = 4;
/// A file is freed once in so many rounds, a version in force compared once in so many others.
const FREE_ONCE_IN: u64 = 4;
const LOOK_ONCE_IN: u64 = 6;

/// Who is killed, and how often of [`VICTIMS_SUM`].
const VICTIMS: [(Victims, u64); 6] = [
    (Victims { mirror: true, ..NOBODY }, 3),
    (Victims { append: true, ..NOBODY }, 3),
    (Victims { reader: true, ..NOBODY }, 2),
    (Victims { core: true, ..NOBODY }, 3),
    (Victims { core: true, mirror: true, ..NOBODY }, 1),
    (Victims { core: true, mirror: true, append: true, reader: true }, 1),
];
const NOBODY: Victims = Victims { core: false, mirror: false, append: false, reader: false };
const VICTIMS_SUM: u64 = 13;

/// Who is killed at one moment.
#[derive(Clone, Copy, Debug)]
struct Victims {
    core: bool,
    mirror: bool,
    append: bool,
    reader: bool,
}

fn victims(random: &mut Random) -> Victims {
    let mut at = random.below(VICTIMS_SUM);
    for (victims, share) in VICTIMS {
        if at < share {
            return victims;
        }
        at -= share;
    }
    NOBODY
}

/// Plays one run.
///
/// # Panics
///
/// If anything does not hold; the logs of all processes are shown then.
pub fn run(options: Options) -> Tally {
    let began = Instant::now();
    let mut random = Random::new(options.seed);
    let mut tally = Tally::default();
    let mut fleet = Fleet::start(&mut random);
    for round in 1..=options.rounds {
        let is_at_start = random.once_in(AT_START_ONCE_IN);
        std::thread::sleep(Duration::from_millis(random.below(if is_at_start { START_MAX_MS } else { PAUSE_MAX_MS })));
        let victims = victims(&mut random);
        // Sometimes a publisher is freeing files when it is hit.
        if random.once_in(FREE_ONCE_IN) {
            tally.freed += fleet.free_while(&mut random, victims);
        } else {
            if !is_at_start {
                fleet.note_acknowledged();
            }
            fleet.kill(victims);
        }
        tally.publishers += u32::from(victims.mirror) + u32::from(victims.append);
        tally.subscribers += u32::from(victims.reader);
        tally.cores += u32::from(victims.core);
        tally.at_start += u32::from(is_at_start);
        fleet.start_again(victims);
        if random.once_in(LOOK_ONCE_IN) {
            tally.looked += fleet.check_what_is_in_force();
        }
        if round % options.rounds_between == 0 && round < options.rounds {
            tally.converged_within = tally.converged_within.max(fleet.converge());
            tally.compared += 1;
        }
    }
    tally.converged_within = tally.converged_within.max(fleet.converge());
    tally.compared += 1;
    (tally.changes, tally.versions) = fleet.end();
    tally.took = began.elapsed();
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_is_killed_in_turn() {
        assert_eq!(VICTIMS.iter().map(|(_, share)| share).sum::<u64>(), VICTIMS_SUM);
        let mut random = Random::new(1);
        let drawn: Vec<_> = std::iter::repeat_with(|| victims(&mut random)).take(200).collect();
        assert!(drawn.iter().any(|one| one.core && one.reader) && drawn.iter().any(|one| one.append && !one.core));
    }
}
