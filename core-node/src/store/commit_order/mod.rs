//! In which order chunks become durable. Pure: requests and outcomes come in, actions go out.
//!
//! Two lanes work side by side, so that the disk is never idle while there is something to do: the front appends what is asked
//! for to the open pack, and with it the group grows that is next; the back makes the group before it durable.
//!
//! ```text
//! front         request                  Written
//!      Idle ───────────────► Write ──────────────────► Idle, and the next group is larger
//!       │ ▲  └─ no pack ─► CreatePack ─┘  └─ Failed ─► CutBack ─► Idle, and refused
//!       │ │
//!       └─┴─ Seal, where the pack is full or is to be sealed and neither lane holds anything
//!
//! back       the next group                    folder clean
//!      Idle ────────────────► Sync ──────────────────────────────► Commit ─ Done ─► Idle, Acknowledge
//!              │                └─ new pack ─► SyncFolder ───────────┘▲
//!              └─ nothing of it had to be written ────────────────────┘
//! ```
//!
//! What always holds: a request is acknowledged only after its catalog commit; that is begun only after the pack's bytes are
//! synced; and only after the folder is synced that the pack was created in. All requests that were written when the back takes
//! a group go with it, so one sync serves them all. Groups are committed in the order in which they were written.
//!
//! Failures: what was written in part is cut back ([`Action::CutBack`]) and those requests refused; after a failed sync nothing
//! is known of the pack's last bytes, so the pack is left as it is and another is begun. When the back fails, all that was
//! written behind it is refused too: it may count on chunks of the group that failed. Earlier acknowledgements stand, and later
//! requests are tried afresh.

use std::collections::VecDeque;

use crate::catalog::PackNumber;

#[cfg(test)]
mod tests;

/// Most bytes of requests in one group: it bounds how long the first of them waits, and a larger request is one by itself.
pub const GROUP_BYTES_MAX: u64 = 32 << 20;

/// Names a request between the machine and its shell.
pub type Ticket = u64;

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create a pack and write its header, without syncing it. Outcome: `Done`.
    CreatePack {
        /// The pack.
        pack: PackNumber,
    },
    /// Append the records of those chunks of the requests that are neither entered nor written yet. Outcome: `Written`.
    Write {
        /// The pack.
        pack: PackNumber,
        /// Its length now.
        at_bytes: u64,
        /// The requests.
        tickets: Vec<Ticket>,
    },
    /// Cut what a failed write left behind. Outcome: `Done`.
    CutBack {
        /// The pack.
        pack: PackNumber,
        /// Its length before.
        to_bytes: u64,
    },
    /// Make the pack's bytes durable. Outcome: `Done`.
    Sync {
        /// The pack.
        pack: PackNumber,
    },
    /// Make the names of packs durable. Outcome: `Done`.
    SyncFolder,
    /// Enter the group in the catalog, in one transaction. Outcome: `Done`.
    Commit {
        /// The requests of the group.
        tickets: Vec<Ticket>,
        /// Where the group's records end, if any had to be written: durable up to there.
        pack_end: Option<(PackNumber, u64)>,
    },
    /// Tell these requests that they are durable. No outcome.
    Acknowledge {
        /// The requests.
        tickets: Vec<Ticket>,
    },
    /// Tell these requests that they are not, for the reason of the last failure. No outcome.
    Refuse {
        /// The requests.
        tickets: Vec<Ticket>,
    },
    /// Append the index to a full pack and seal it; nothing waits for it. Outcome: `Done`.
    Seal {
        /// The pack.
        pack: PackNumber,
        /// Where its records end.
        records_end_bytes: u64,
    },
}

/// Which of the two that work side by side an action is for. Each has at most one action out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// It creates packs, writes, cuts back and seals.
    Front,
    /// It syncs and commits.
    Back,
}

impl Action {
    /// The lane whose outcome the machine awaits; none where it awaits none.
    pub const fn lane(&self) -> Option<Lane> {
        match self {
            Self::CreatePack { .. } | Self::Write { .. } | Self::CutBack { .. } | Self::Seal { .. } => {
                Some(Lane::Front)
            }
            Self::Sync { .. } | Self::SyncFolder | Self::Commit { .. } => Some(Lane::Back),
            Self::Acknowledge { .. } | Self::Refuse { .. } => None,
        }
    }
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// The write did; so much was appended.
    Written {
        /// Bytes.
        bytes: u64,
        /// Records.
        records: u64,
    },
    /// It failed.
    Failed,
}

/// When a pack is full.
#[derive(Clone, Copy, Debug)]
pub struct PackLimits {
    /// At this many bytes.
    pub bytes: u64,
    /// At this many records.
    pub records: u64,
}

/// A pack that is appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPack {
    /// Its number.
    pub number: PackNumber,
    /// Its length.
    pub bytes: u64,
    /// Its records.
    pub records: u64,
}

/// What the front does; from [`Front::Writing`] on with the pack as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Idle,
    Creating,
    Writing(OpenPack),
    CuttingBack(OpenPack),
    Sealing(OpenPack),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    Idle,
    Syncing,
    SyncingFolder,
    Committing,
}

/// Requests that become durable together.
#[derive(Debug, Default)]
struct Group {
    tickets: Vec<Ticket>,
    /// As the requests said.
    bytes: u64,
    /// Where in which pack their records end, if any had to be written.
    end: Option<(PackNumber, u64)>,
}

/// The machine.
#[derive(Debug)]
pub struct CommitOrder {
    limits: PackLimits,
    header_bytes: u64,
    /// With all that was written.
    pack: Option<OpenPack>,
    next_pack: PackNumber,
    folder_dirty: bool,
    seal_wanted: bool,
    held: bool,
    waiting: VecDeque<(Ticket, u64)>,
    front: Front,
    front_is_out: bool,
    /// What the front writes.
    writing: Group,
    /// The back failed while the front wrote.
    writing_is_lost: bool,
    /// What was written and the back has not taken.
    next: Group,
    back: Back,
    back_is_out: bool,
    /// What the back makes durable.
    group: Group,
    replies: VecDeque<Action>,
}

impl CommitOrder {
    /// A machine that goes on with `pack`, or begins with `next_pack`. A created pack has `header_bytes` bytes.
    pub fn new(limits: PackLimits, header_bytes: u64, pack: Option<OpenPack>, next_pack: PackNumber) -> Self {
        Self {
            limits,
            header_bytes,
            pack,
            next_pack,
            folder_dirty: false,
            seal_wanted: false,
            held: false,
            waiting: VecDeque::new(),
            front: Front::Idle,
            front_is_out: false,
            writing: Group::default(),
            writing_is_lost: false,
            next: Group::default(),
            back: Back::Idle,
            back_is_out: false,
            group: Group::default(),
            replies: VecDeque::new(),
        }
    }

    /// A request of about `bytes` bytes.
    pub fn handle_request(&mut self, ticket: Ticket, bytes: u64) {
        self.waiting.push_back((ticket, bytes));
    }

    /// The open pack is to be sealed before anything more is written, full or not: gc wants to free what is dead in it. Another
    /// pack than `pack` is left alone.
    pub fn handle_seal(&mut self, pack: PackNumber) {
        self.seal_wanted |= self.pack.is_some_and(|open| open.number == pack);
    }

    /// While `held`, nothing is begun, so that in the end no group is under way.
    pub const fn handle_hold(&mut self, held: bool) {
        self.held = held;
    }

    /// How the action of a lane ended; called once for each action that has an outcome.
    pub fn handle_outcome(&mut self, lane: Lane, outcome: Outcome) {
        match lane {
            Lane::Front => {
                assert!(std::mem::take(&mut self.front_is_out), "an outcome came without an action");
                self.handle_front(outcome);
            }
            Lane::Back => {
                assert!(std::mem::take(&mut self.back_is_out), "an outcome came without an action");
                self.handle_back(outcome);
            }
        }
    }

    fn handle_front(&mut self, outcome: Outcome) {
        match (self.front, outcome) {
            (Front::Creating, Outcome::Done) => {
                let pack = OpenPack { number: self.next_pack, bytes: self.header_bytes, records: 0 };
                self.pack = Some(pack);
                self.next_pack = PackNumber(self.next_pack.0 + 1);
                self.folder_dirty = true;
                self.front = Front::Writing(pack);
            }
            (Front::Creating, _) => {
                // Its name may be taken by what is left of it.
                self.next_pack = PackNumber(self.next_pack.0 + 1);
                self.refuse_writing();
            }
            (Front::Writing(before), Outcome::Written { bytes, records }) => {
                let after = OpenPack { bytes: before.bytes + bytes, records: before.records + records, ..before };
                if self.pack == Some(before) {
                    self.pack = Some(after);
                }
                if std::mem::take(&mut self.writing_is_lost) {
                    return self.refuse_writing();
                }
                let written = std::mem::take(&mut self.writing);
                self.next.tickets.extend(written.tickets);
                self.next.bytes += written.bytes;
                if bytes > 0 {
                    self.next.end = Some((after.number, after.bytes));
                }
                self.front = Front::Idle;
            }
            (Front::Writing(before), _) if self.pack == Some(before) => self.front = Front::CuttingBack(before),
            (Front::CuttingBack(before), outcome) => {
                if outcome != Outcome::Done && self.pack == Some(before) {
                    self.pack = None;
                }
                self.refuse_writing();
            }
            // The pack is left as it is since the back failed.
            (Front::Writing(_), _) => self.refuse_writing(),
            (Front::Sealing(_), _) => {
                self.pack = None;
                self.seal_wanted = false;
                self.front = Front::Idle;
            }
            (Front::Idle, _) => unreachable!("no such action was given out"),
        }
    }

    fn handle_back(&mut self, outcome: Outcome) {
        match (self.back, outcome) {
            (Back::Syncing, Outcome::Done) => {
                self.back = if self.folder_dirty { Back::SyncingFolder } else { Back::Committing };
            }
            (Back::SyncingFolder, Outcome::Done) => {
                self.folder_dirty = false;
                self.back = Back::Committing;
            }
            (Back::Syncing | Back::SyncingFolder, _) => {
                self.pack = None;
                self.refuse_all();
            }
            (Back::Committing, Outcome::Done) => {
                let tickets = std::mem::take(&mut self.group).tickets;
                self.replies.push_back(Action::Acknowledge { tickets });
                self.back = Back::Idle;
            }
            // The records stay behind unentered; nothing points at them.
            (Back::Committing, _) => self.refuse_all(),
            (Back::Idle, _) => unreachable!("no such action was given out"),
        }
    }

    /// The next action; none while outcomes are awaited that all else waits for, or while there is nothing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if !self.back_is_out {
            if self.back == Back::Idle && !self.next.tickets.is_empty() {
                self.group = std::mem::take(&mut self.next);
                self.back = if self.group.end.is_some() { Back::Syncing } else { Back::Committing };
            }
            if let Some(action) = self.back_action() {
                self.back_is_out = true;
                return Some(action);
            }
        }
        if !self.front_is_out {
            if self.front == Front::Idle {
                self.begin();
            }
            if let Some(action) = self.front_action() {
                self.front_is_out = true;
                return Some(action);
            }
        }
        None
    }

    /// Whether no group is under way.
    pub fn is_between_groups(&self) -> bool {
        self.front == Front::Idle && self.back_has_nothing() && self.replies.is_empty()
    }

    /// Whether no group is under way or waiting.
    pub fn is_idle(&self) -> bool {
        self.is_between_groups() && self.waiting.is_empty() && !self.seal_wanted
    }

    /// Whether a pack is still to be sealed because that was asked for.
    pub const fn is_seal_wanted(&self) -> bool {
        self.seal_wanted
    }

    /// The pack that is appended to.
    pub fn open_pack(&self) -> Option<OpenPack> {
        self.pack
    }

    fn back_has_nothing(&self) -> bool {
        self.back == Back::Idle && self.next.tickets.is_empty()
    }

    /// Gives the front something to do, if there is something that may be done now.
    fn begin(&mut self) {
        if let Some(pack) = self.pack {
            let full = pack.bytes >= self.limits.bytes || pack.records >= self.limits.records;
            if full || self.seal_wanted {
                if self.back_has_nothing() {
                    self.front = Front::Sealing(pack);
                }
                return;
            }
        }
        self.seal_wanted = false;
        // A pack is created when nothing is under way: the sync of the folder is for it.
        if self.held || (self.pack.is_none() && !self.back_has_nothing()) {
            return;
        }
        while let Some(&(ticket, more)) = self.waiting.front() {
            let bytes = self.next.bytes + self.writing.bytes;
            if bytes + more > GROUP_BYTES_MAX && !(self.next.tickets.is_empty() && self.writing.tickets.is_empty()) {
                break;
            }
            self.writing.tickets.push(ticket);
            self.writing.bytes += more;
            self.waiting.pop_front();
        }
        if !self.writing.tickets.is_empty() {
            self.front = self.pack.map_or(Front::Creating, Front::Writing);
        }
    }

    fn refuse_writing(&mut self) {
        let tickets = std::mem::take(&mut self.writing).tickets;
        self.replies.push_back(Action::Refuse { tickets });
        self.writing_is_lost = false;
        self.front = Front::Idle;
    }

    /// The back failed: what it had, and what counts on that.
    fn refuse_all(&mut self) {
        let mut tickets = std::mem::take(&mut self.group).tickets;
        tickets.append(&mut std::mem::take(&mut self.next).tickets);
        self.replies.push_back(Action::Refuse { tickets });
        self.writing_is_lost = matches!(self.front, Front::Writing(_));
        self.back = Back::Idle;
    }

    fn front_action(&self) -> Option<Action> {
        Some(match self.front {
            Front::Idle => return None,
            Front::Creating => Action::CreatePack { pack: self.next_pack },
            Front::Writing(before) => {
                Action::Write { pack: before.number, at_bytes: before.bytes, tickets: self.writing.tickets.clone() }
            }
            Front::CuttingBack(before) => Action::CutBack { pack: before.number, to_bytes: before.bytes },
            Front::Sealing(pack) => Action::Seal { pack: pack.number, records_end_bytes: pack.bytes },
        })
    }

    fn back_action(&self) -> Option<Action> {
        let pack = || self.group.end.expect("only what was written is synced").0;
        Some(match self.back {
            Back::Idle => return None,
            Back::Syncing => Action::Sync { pack: pack() },
            Back::SyncingFolder => Action::SyncFolder,
            Back::Committing => Action::Commit { tickets: self.group.tickets.clone(), pack_end: self.group.end },
        })
    }
}
