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

struct Shell {
    order: CommitOrder,
    world: World,
    sizes: BTreeMap<Ticket, u64>,
    group: Vec<(Ticket, Option<(PackNumber, u64)>)>,
    mistake: Mistake,
    failures: Vec<bool>,
    history: Vec<&'static str>,
}

impl Shell {
    fn new(mistake: Mistake, failures: Vec<bool>) -> Self {
        Self {
            order: CommitOrder::new(LIMITS, HEADER_BYTES, None, PackNumber(1)),
            world: World::default(),
            sizes: BTreeMap::new(),
            group: Vec::new(),
            mistake,
            failures,
            history: Vec::new(),
        }
    }

    fn request(&mut self, ticket: Ticket, bytes: u64) {
        self.sizes.insert(ticket, bytes);
        self.order.handle_request(ticket, bytes);
    }

    fn run(&mut self) {
        while let Some(action) = self.order.poll_action() {
            let name = name_of(&action);
            self.history.push(name);
            let fails = self.failures.pop().unwrap_or(false);
            if let Some(outcome) = self.carry_out(action, fails) {
                self.order.handle_outcome(outcome);
            }
            self.world.check(name);
        }
    }

    fn carry_out(&mut self, action: Action, fails: bool) -> Option<Outcome> {
        let world = &mut self.world;
        let done = if fails { Outcome::Failed } else { Outcome::Done };
        Some(match action {
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
                self.group.clear();
                let (mut bytes, mut records) = (0, 0);
                for ticket in tickets {
                    let size = self.sizes[&ticket];
                    bytes += size;
                    records += u64::from(size > 0);
                    self.group.push((ticket, (size > 0).then_some((pack, at_bytes + bytes))));
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
                    return Some(Outcome::Done);
                }
                if !fails && self.mistake != Mistake::SkipsSync {
                    let (length, durable, _) = world.packs.get_mut(&pack).expect("the pack exists");
                    *durable = *length;
                }
                done
            }
            Action::SyncFolder => {
                if !fails && self.mistake != Mistake::SkipsSyncFolder {
                    world.packs.values_mut().for_each(|(_, _, name)| *name = true);
                }
                done
            }
            Action::Commit { tickets, .. } => {
                assert!(self.group.iter().map(|(ticket, _)| *ticket).eq(tickets), "what was written is entered");
                if !fails {
                    world.entered.extend(self.group.drain(..));
                }
                done
            }
            Action::Seal { .. } => done,
            Action::Acknowledge { tickets } => {
                world.acknowledged.extend(tickets);
                return None;
            }
            Action::Refuse { tickets } => {
                world.refused.extend(tickets);
                return None;
            }
        })
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

proptest! {
    #[test]
    fn nothing_acknowledged_is_ever_lost(
        requests in proptest::collection::vec((0u64..120, any::<bool>(), proptest::bool::weighted(0.1)), 1..60),
        failures in proptest::collection::vec(proptest::bool::weighted(0.15), 0..200),
    ) {
        let mut shell = Shell::new(Mistake::None, failures);
        for (ticket, (bytes, run_now, seal)) in requests.iter().enumerate() {
            shell.request(ticket as Ticket, *bytes);
            if let Some(open) = shell.order.open_pack().filter(|_| *seal) {
                shell.order.handle_seal(open.number);
            }
            if *run_now {
                shell.run();
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
