//! The machine under every crash and failure: a disk that forgets what was not synced, a checker over the whole history, and
//! shells with a planted mistake that the checker must catch.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const HEADER_BYTES: u64 = 32;
const LIMITS: PackLimits = PackLimits { bytes: 400, records: 6 };

/// A mistake that a shell could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    SkipsSync,
    SkipsSyncFolder,
    SkipsCutBack,
    CommitsAfterFailedSync,
}

/// What a disk and a catalog remember, before and after a power cut.
#[derive(Clone, Default)]
struct World {
    /// Bytes of each pack: all, and those that are durable. A name is durable once the folder was synced.
    packs: BTreeMap<PackNumber, (u64, u64, bool)>,
    /// What the catalog has entered: each request, and where its bytes end.
    entered: BTreeMap<Ticket, Option<(PackNumber, u64)>>,
    acknowledged: BTreeSet<Ticket>,
    refused: BTreeSet<Ticket>,
    violations: Vec<String>,
}

impl World {
    /// Whether all that was acknowledged would be there after a power cut now.
    fn check(&mut self, after: &str) {
        for ticket in &self.acknowledged {
            let Some(place) = self.entered.get(ticket) else {
                self.violations.push(format!("{after}: {ticket} was acknowledged before it was entered"));
                continue;
            };
            let Some((pack, end)) = place else { continue };
            if !self.packs.get(pack).is_some_and(|(_, durable, name)| *name && durable >= end) {
                self.violations.push(format!("{after}: {ticket} would be lost"));
            }
        }
        // Also what is only entered: the catalog must never point at nothing.
        for (ticket, place) in &self.entered {
            if let Some((pack, end)) = place
                && !self.packs.get(pack).is_some_and(|(_, durable, name)| *name && durable >= end)
            {
                self.violations.push(format!("{after}: the catalog points beyond pack {pack} for {ticket}"));
            }
        }
    }
}

/// An action that was begun, and what the disk held then.
struct Begun {
    action: Action,
    fails: bool,
    /// Of the pack to sync: a sync vouches for what was there when it began.
    length: u64,
}

struct Shell {
    order: CommitOrder,
    world: World,
    sizes: BTreeMap<Ticket, u64>,
    /// Where the records of each request end, once they are written.
    written: BTreeMap<Ticket, Option<(PackNumber, u64)>>,
    front: Option<Begun>,
    back: Option<Begun>,
    mistake: Mistake,
    failures: Vec<bool>,
    /// Which lane ends first where both are at work: the front where it is true.
    front_first: Vec<bool>,
    history: Vec<&'static str>,
}

impl Shell {
    fn new(mistake: Mistake, failures: Vec<bool>) -> Self {
        Self {
            order: CommitOrder::new(LIMITS, HEADER_BYTES, None, PackNumber(1)),
            world: World::default(),
            sizes: BTreeMap::new(),
            written: BTreeMap::new(),
            front: None,
            back: None,
            mistake,
            failures,
            front_first: Vec::new(),
            history: Vec::new(),
        }
    }

    fn request(&mut self, ticket: Ticket, bytes: u64) {
        self.sizes.insert(ticket, bytes);
        self.order.handle_request(ticket, bytes);
    }

    fn run(&mut self) {
        while self.step() {}
    }

    /// Begins what can be begun, and ends one action of those under way; whether there was one.
    fn step(&mut self) -> bool {
        self.begin_all();
        self.end_one()
    }

    fn begin_all(&mut self) {
        while let Some(action) = self.order.poll_action() {
            let name = name_of(&action);
            self.history.push(name);
            match action {
                Action::Acknowledge { tickets } => self.world.acknowledged.extend(tickets),
                Action::Refuse { tickets } => self.world.refused.extend(tickets),
                action => self.begin(action),
            }
            self.world.check(name);
        }
    }

    fn end_one(&mut self) -> bool {
        let lane = match (&self.front, &self.back) {
            (None, None) => return false,
            (Some(_), None) => Lane::Front,
            (Some(_), Some(_)) if self.front_first.pop().unwrap_or(true) => Lane::Front,
            (_, Some(_)) => Lane::Back,
        };
        let begun = match lane {
            Lane::Front => self.front.take(),
            Lane::Back => self.back.take(),
        };
        let Begun { action, fails, length } = begun.expect("just looked at");
        let name = name_of(&action);
        let outcome = self.carry_out(action, fails, length);
        self.order.handle_outcome(lane, outcome);
        self.world.check(name);
        true
    }

    fn begin(&mut self, action: Action) {
        let fails = self.failures.pop().unwrap_or(false);
        let length = match &action {
            Action::Sync { pack } => self.world.packs[pack].0,
            _ => 0,
        };
        let lane = match action.lane().expect("it has an outcome") {
            Lane::Front => &mut self.front,
            Lane::Back => &mut self.back,
        };
        assert!(lane.replace(Begun { action, fails, length }).is_none(), "a lane has one action at most");
    }

    fn carry_out(&mut self, action: Action, fails: bool, length_at_start: u64) -> Outcome {
        let world = &mut self.world;
        let done = if fails { Outcome::Failed } else { Outcome::Done };
        match action {
            Action::CreatePack { pack } => {
                assert!(!world.packs.contains_key(&pack), "a number was used twice");
                world.packs.insert(pack, (HEADER_BYTES, 0, false));
                done
            }
            Action::Write { pack, at_bytes, tickets } => {
                let (length, ..) = world.packs.get_mut(&pack).expect("the pack was created");
                if self.mistake != Mistake::SkipsCutBack {
                    assert_eq!(*length, at_bytes, "records are appended where the last one ended");
                }
                let (mut bytes, mut records) = (0, 0);
                for ticket in tickets {
                    let size = self.sizes[&ticket];
                    bytes += size;
                    records += u64::from(size > 0);
                    self.written.insert(ticket, (size > 0).then_some((pack, at_bytes + bytes)));
                }
                *length += if fails { bytes / 2 } else { bytes };
                if fails { Outcome::Failed } else { Outcome::Written { bytes, records } }
            }
            Action::CutBack { pack, to_bytes } => {
                if self.mistake != Mistake::SkipsCutBack && !fails {
                    let (length, durable, _) = world.packs.get_mut(&pack).expect("the pack exists");
                    *length = to_bytes;
                    *durable = (*durable).min(to_bytes);
                }
                done
            }
            Action::Sync { pack } => {
                if fails && self.mistake == Mistake::CommitsAfterFailedSync {
                    return Outcome::Done;
                }
                if !fails && self.mistake != Mistake::SkipsSync {
                    let (_, durable, _) = world.packs.get_mut(&pack).expect("the pack exists");
                    *durable = (*durable).max(length_at_start);
                }
                done
            }
            Action::SyncFolder => {
                if !fails && self.mistake != Mistake::SkipsSyncFolder {
                    world.packs.values_mut().for_each(|(_, _, name)| *name = true);
                }
                done
            }
            Action::Commit { tickets, pack_end } => {
                let last = tickets.iter().filter_map(|ticket| self.written[ticket]).next_back();
                assert_eq!(pack_end, last, "the end is that of the last record of the group");
                if !fails {
                    world.entered.extend(tickets.iter().map(|ticket| (*ticket, self.written[ticket])));
                }
                done
            }
            Action::Seal { pack, records_end_bytes } => {
                let open = world.packs[&pack];
                assert!(open.0 == records_end_bytes, "an index goes behind the last record");
                done
            }
            Action::Acknowledge { .. } | Action::Refuse { .. } => unreachable!("these have no outcome"),
        }
    }
}

fn name_of(action: &Action) -> &'static str {
    match action {
        Action::CreatePack { .. } => "create",
        Action::Write { .. } => "write",
        Action::CutBack { .. } => "cut",
        Action::Sync { .. } => "sync",
        Action::SyncFolder => "sync folder",
        Action::Commit { .. } => "commit",
        Action::Acknowledge { .. } => "acknowledge",
        Action::Refuse { .. } => "refuse",
        Action::Seal { .. } => "seal",
    }
}

#[test]
fn the_order_is_write_sync_folder_commit_acknowledge() {
    let mut shell = Shell::new(Mistake::None, Vec::new());
    (0..3).for_each(|ticket| shell.request(ticket, 100));
    shell.run();
    assert_eq!(shell.history, ["create", "write", "sync", "sync folder", "commit", "acknowledge"]);
    shell.history.clear();
    shell.request(3, 100);
    shell.run();
    assert_eq!(shell.history, ["write", "sync", "commit", "acknowledge", "seal"], "the folder is synced once a pack");
    shell.history.clear();
    shell.request(4, 0);
    shell.run();
    assert_eq!(shell.history, ["create", "write", "commit", "acknowledge"], "what is known needs no sync");
    assert_eq!(shell.world.acknowledged.len(), 5);
    assert!(shell.world.violations.is_empty(), "{:?}", shell.world.violations);
}

#[test]
fn one_sync_serves_all_that_wait_up_to_a_bound() {
    let mut shell = Shell::new(Mistake::None, Vec::new());
    (0..1000).for_each(|ticket| shell.request(ticket, GROUP_BYTES_MAX / 400));
    shell.run();
    let syncs = shell.history.iter().filter(|&&name| name == "sync").count();
    assert_eq!((syncs, shell.world.acknowledged.len()), (3, 1000));
}

#[test]
fn a_failure_costs_its_group_only() {
    // Failures are taken from the end: of the second group's write, and of the third group's sync.
    let mut shell = Shell::new(Mistake::None, vec![]);
    shell.request(1, 50);
    shell.run();
    shell.failures = vec![true];
    shell.request(2, 50);
    shell.run();
    shell.failures = vec![true, false];
    shell.request(3, 50);
    shell.run();
    shell.request(4, 50);
    shell.run();
    assert_eq!(shell.world.acknowledged, BTreeSet::from([1, 4]));
    assert_eq!(shell.world.refused, BTreeSet::from([2, 3]));
    assert_eq!(shell.world.packs.len(), 2, "after a failed sync the pack is left");
    assert!(shell.order.is_idle());
}

#[test]
fn a_pack_is_sealed_early_when_that_is_wanted() {
    let mut shell = Shell::new(Mistake::None, Vec::new());
    shell.order.handle_seal(PackNumber(1));
    shell.run();
    assert!(shell.history.is_empty(), "there is none yet");
    shell.request(1, 50);
    shell.run();
    shell.history.clear();
    shell.order.handle_seal(PackNumber(2));
    shell.run();
    assert!(shell.history.is_empty(), "another pack is left alone");
    shell.request(2, 50);
    shell.order.handle_seal(PackNumber(1));
    shell.run();
    assert_eq!(shell.history, ["seal", "create", "write", "sync", "sync folder", "commit", "acknowledge"]);
    assert_eq!(shell.order.open_pack().map(|open| open.number), Some(PackNumber(2)));
    assert!(shell.order.is_idle() && shell.world.violations.is_empty());
}

#[test]
fn planted_mistakes_are_caught() {
    for mistake in [Mistake::SkipsSync, Mistake::SkipsSyncFolder] {
        let mut shell = Shell::new(mistake, Vec::new());
        shell.request(1, 50);
        shell.run();
        assert!(!shell.world.violations.is_empty(), "{mistake:?} was not caught");
    }
    // create, write, and then the failing sync
    let mut shell = Shell::new(Mistake::CommitsAfterFailedSync, vec![true, false, false]);
    shell.request(1, 50);
    shell.run();
    assert!(!shell.world.violations.is_empty(), "a failed sync that was taken for a good one was not caught");

    let mut shell = Shell::new(Mistake::SkipsCutBack, vec![true, false]);
    shell.request(1, 50);
    shell.run();
    shell.request(2, 50);
    shell.run();
    let (length, ..) = shell.world.packs[&PackNumber(1)];
    assert_ne!(length, shell.order.open_pack().expect("it is open").bytes, "the torn write is still there");
}

#[test]
fn the_next_group_is_written_while_one_is_synced() {
    let mut shell = Shell::new(Mistake::None, Vec::new());
    shell.request(1, 50);
    // The pack is created, and the first request written.
    assert!(shell.step() && shell.step());
    shell.request(2, 50);
    shell.request(3, 50);
    assert!(shell.step());
    assert_eq!(shell.history, ["create", "write", "sync", "write"], "the front goes on while the back syncs");
    assert!(shell.back.is_some(), "the sync is still under way");
    shell.run();
    let rest = ["sync folder", "commit", "acknowledge", "sync", "commit", "acknowledge"];
    assert_eq!(shell.history[4..], rest, "what was written meanwhile is one group");
    assert_eq!(shell.world.acknowledged, BTreeSet::from([1, 2, 3]));
}

#[test]
fn what_was_written_behind_a_failure_is_refused_with_it() {
    for (failing, packs) in [("sync", 2), ("sync folder", 2), ("commit", 1)] {
        let mut shell = Shell::new(Mistake::None, Vec::new());
        shell.request(1, 50);
        assert!(shell.step() && shell.step());
        shell.request(2, 50);
        // The front writes the second, and then the third, while the back has the first.
        shell.begin_all();
        while shell.back.as_ref().is_none_or(|begun| name_of(&begun.action) != failing) {
            assert!(shell.end_one());
            shell.begin_all();
        }
        while shell.front.is_some() {
            assert!(shell.step());
        }
        shell.request(3, 50);
        shell.begin_all();
        assert!(shell.front.is_some(), "the third is being written");
        shell.back.as_mut().expect("just looked at").fails = true;
        shell.front_first = vec![false; 9];
        shell.run();
        shell.request(4, 50);
        shell.run();
        assert_eq!(shell.world.acknowledged, BTreeSet::from([4]), "{failing}");
        assert_eq!(shell.world.packs.len(), packs, "{failing}");
        assert!(shell.order.is_idle() && shell.world.violations.is_empty(), "{:?}", shell.world.violations);
    }
}

#[test]
fn nothing_is_under_way_while_it_is_held() {
    let mut shell = Shell::new(Mistake::None, Vec::new());
    shell.request(1, 50);
    assert!(shell.step());
    shell.order.handle_hold(true);
    shell.request(2, 50);
    shell.run();
    assert!(shell.order.is_between_groups() && !shell.order.is_idle());
    assert_eq!(shell.world.acknowledged, BTreeSet::from([1]));
    shell.order.handle_hold(false);
    shell.run();
    assert_eq!(shell.world.acknowledged, BTreeSet::from([1, 2]));
}

proptest! {
    #[test]
    fn nothing_acknowledged_is_ever_lost(
        requests in proptest::collection::vec((0u64..120, any::<bool>(), proptest::bool::weighted(0.1)), 1..60),
        failures in proptest::collection::vec(proptest::bool::weighted(0.15), 0..200),
        front_first in proptest::collection::vec(any::<bool>(), 0..200),
        steps in proptest::collection::vec(0usize..6, 60),
    ) {
        let mut shell = Shell::new(Mistake::None, failures);
        shell.front_first = front_first;
        for (ticket, (bytes, run_now, seal)) in requests.iter().enumerate() {
            shell.request(ticket as Ticket, *bytes);
            if let Some(open) = shell.order.open_pack().filter(|_| *seal) {
                shell.order.handle_seal(open.number);
            }
            if *run_now {
                shell.run();
            }
            for _ in 0..steps[ticket] {
                shell.step();
            }
        }
        shell.run();
        prop_assert!(shell.world.violations.is_empty(), "{:?}", shell.world.violations);
        let answered = shell.world.acknowledged.len() + shell.world.refused.len();
        prop_assert_eq!(answered, requests.len(), "each request is answered once");
        prop_assert!(shell.world.acknowledged.is_disjoint(&shell.world.refused));
        prop_assert!(shell.order.is_idle());
    }
}
