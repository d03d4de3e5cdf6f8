//! In which order a group of chunks becomes durable. Pure: requests and outcomes come in, actions go out.
//!
//! ```text
//!            request                       Written, 0 bytes
//!   Idle ───────────────► Write ──────────────────────────────────┐
//!    ▲  └─ no pack ─► CreatePack ─┘ │ Written                     ▼
//!    │                              ▼        folder clean       Commit ─ Done ─► Acknowledge ─┐
//!    │                            Sync ──────────────────────────▲                            │
//!    │                              └─ new pack ─► SyncFolder ───┘         full pack: Seal ◄──┤
//!    └────────────────────────────────────────────────────────────────────────────┴───────────┘
//!
//!            seal this pack
//!   Idle ───────────────────► Seal ─► Idle
//! ```
//!
//! What always holds: a request is acknowledged only after its catalog commit; that is begun only after the pack's bytes are
//! synced; and only after the folder is synced that the pack was created in. All requests that wait when a group begins go with
//! it, so one sync serves them all.
//!
//! Failures: what was written in part is cut back ([`Action::CutBack`]) and the group refused; after a failed sync nothing is known
//! of the pack's last bytes, so the pack is left as it is and the next group begins another. Whatever fails, earlier
//! acknowledgements stand, and later requests are tried afresh.

use std::collections::VecDeque;

use crate::catalog::PackNumber;

#[cfg(test)]
mod tests;

/// Most bytes of requests in one group: it bounds how long the first of them waits.
pub const GROUP_BYTES_MAX: u64 = 32 << 20;

/// Names a request between the machine and its shell.
pub type Ticket = u64;

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create a pack and write its header, without syncing it. Outcome: `Done`.
    CreatePack {
        /// The pack.
        pack: PackNumber,
    },
    /// Append the records of those chunks of the requests that are not stored yet. Outcome: `Written`.
    Write {
        /// The pack.
        pack: PackNumber,
        /// Its length now.
        at_bytes: u64,
        /// The requests of the group.
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
        /// The pack's durable length, if it was written.
        pack_end: Option<(PackNumber, u64)>,
    },
    /// Tell these requests that they are durable. No outcome.
    Acknowledge {
        /// The requests.
        tickets: Vec<Ticket>,
    },
    /// Tell these requests that they are not, for the reason of the last outcome. No outcome.
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

/// How the last action ended.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Creating,
    Writing,
    CuttingBack,
    Syncing,
    SyncingFolder,
    Committing,
    Sealing,
}

/// The machine.
#[derive(Debug)]
pub struct CommitOrder {
    limits: PackLimits,
    header_bytes: u64,
    state: State,
    /// Whether the action of `state` was given out and its outcome is awaited.
    waiting_for_outcome: bool,
    pack: Option<OpenPack>,
    next_pack: PackNumber,
    folder_dirty: bool,
    seal_wanted: bool,
    waiting: VecDeque<(Ticket, u64)>,
    group: Vec<Ticket>,
    group_written: Option<(u64, u64)>,
    replies: VecDeque<Action>,
}

impl CommitOrder {
    /// A machine that goes on with `pack`, or begins with `next_pack`. A created pack has `header_bytes` bytes.
    pub fn new(limits: PackLimits, header_bytes: u64, pack: Option<OpenPack>, next_pack: PackNumber) -> Self {
        Self {
            limits,
            header_bytes,
            state: State::Idle,
            waiting_for_outcome: false,
            pack,
            next_pack,
            folder_dirty: false,
            seal_wanted: false,
            waiting: VecDeque::new(),
            group: Vec::new(),
            group_written: None,
            replies: VecDeque::new(),
        }
    }

    /// A request of about `bytes` bytes.
    pub fn handle_request(&mut self, ticket: Ticket, bytes: u64) {
        self.waiting.push_back((ticket, bytes));
    }

    /// The open pack is to be sealed before the next group, full or not: gc wants to free what is dead in it. Another pack
    /// than `pack` is left alone.
    pub fn handle_seal(&mut self, pack: PackNumber) {
        self.seal_wanted |= self.pack.is_some_and(|open| open.number == pack);
    }

    /// How the last action ended; called once for each action that has an outcome.
    pub fn handle_outcome(&mut self, outcome: Outcome) {
        assert!(self.waiting_for_outcome, "an outcome came without an action");
        self.waiting_for_outcome = false;
        match (self.state, outcome) {
            (State::Creating, Outcome::Done) => {
                self.pack = Some(OpenPack { number: self.next_pack, bytes: self.header_bytes, records: 0 });
                self.next_pack = PackNumber(self.next_pack.0 + 1);
                self.folder_dirty = true;
                self.state = State::Writing;
            }
            (State::Creating, _) => {
                // Its name may be taken by what is left of it.
                self.next_pack = PackNumber(self.next_pack.0 + 1);
                self.refuse();
            }
            (State::Writing, Outcome::Written { bytes, records }) => {
                self.group_written = (bytes > 0).then_some((bytes, records));
                self.state = if bytes > 0 { State::Syncing } else { State::Committing };
            }
            (State::Writing, _) => self.state = State::CuttingBack,
            (State::CuttingBack, outcome) => {
                if outcome != Outcome::Done {
                    self.pack = None;
                }
                self.refuse();
            }
            (State::Syncing, Outcome::Done) => {
                let (bytes, records) = self.group_written.expect("only what was written is synced");
                let pack = self.pack.as_mut().expect("only an open pack is synced");
                pack.bytes += bytes;
                pack.records += records;
                self.state = if self.folder_dirty { State::SyncingFolder } else { State::Committing };
            }
            (State::Syncing | State::SyncingFolder, outcome) if outcome != Outcome::Done => {
                self.pack = None;
                self.refuse();
            }
            (State::SyncingFolder, _) => {
                self.folder_dirty = false;
                self.state = State::Committing;
            }
            (State::Committing, Outcome::Done) => {
                let tickets = std::mem::take(&mut self.group);
                self.replies.push_back(Action::Acknowledge { tickets });
                let full = |pack: OpenPack| pack.bytes >= self.limits.bytes || pack.records >= self.limits.records;
                self.state = if self.pack.is_some_and(full) { State::Sealing } else { State::Idle };
            }
            // The records stay behind unentered; nothing points at them.
            (State::Committing, _) => self.refuse(),
            (State::Sealing, _) => {
                self.pack = None;
                self.seal_wanted = false;
                self.state = State::Idle;
            }
            (State::Idle | State::Syncing, _) => unreachable!("no such action was given out"),
        }
    }

    /// The next action; none while an outcome is awaited, or while there is nothing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.waiting_for_outcome {
            return None;
        }
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if self.state == State::Idle {
            if std::mem::take(&mut self.seal_wanted) && self.pack.is_some() {
                self.state = State::Sealing;
            } else if self.waiting.is_empty() {
                return None;
            } else {
                self.begin_group();
            }
        }
        self.waiting_for_outcome = true;
        Some(self.action())
    }

    /// Whether no group is under way.
    pub fn is_between_groups(&self) -> bool {
        self.state == State::Idle && self.replies.is_empty()
    }

    /// Whether no group is under way or waiting.
    pub fn is_idle(&self) -> bool {
        self.is_between_groups() && self.waiting.is_empty() && !self.seal_wanted
    }

    /// The pack that is appended to.
    pub fn open_pack(&self) -> Option<OpenPack> {
        self.pack
    }

    fn begin_group(&mut self) {
        let mut bytes = 0;
        while let Some(&(ticket, more)) = self.waiting.front() {
            if !self.group.is_empty() && bytes + more > GROUP_BYTES_MAX {
                break;
            }
            bytes += more;
            self.group.push(ticket);
            self.waiting.pop_front();
        }
        self.group_written = None;
        self.state = if self.pack.is_some() { State::Writing } else { State::Creating };
    }

    fn refuse(&mut self) {
        let tickets = std::mem::take(&mut self.group);
        self.replies.push_back(Action::Refuse { tickets });
        self.state = State::Idle;
    }

    fn action(&self) -> Action {
        let open = || self.pack.expect("a pack is open in this state");
        match self.state {
            State::Idle => unreachable!("nothing is to do when idle"),
            State::Creating => Action::CreatePack { pack: self.next_pack },
            State::Writing => {
                Action::Write { pack: open().number, at_bytes: open().bytes, tickets: self.group.clone() }
            }
            State::CuttingBack => Action::CutBack { pack: open().number, to_bytes: open().bytes },
            State::Syncing => Action::Sync { pack: open().number },
            State::SyncingFolder => Action::SyncFolder,
            State::Committing => Action::Commit {
                tickets: self.group.clone(),
                pack_end: self.group_written.map(|_| (open().number, open().bytes)),
            },
            State::Sealing => Action::Seal { pack: open().number, records_end_bytes: open().bytes },
        }
    }
}
