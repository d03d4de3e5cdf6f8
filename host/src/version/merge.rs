//! The three-way merge in path order: the folder as it is, the earlier version's records, and their stamps. It gives the
//! edits that make the next version of the earlier one.
//!
//! Files that must be read are read ahead of their turn, by the pool's threads; edits leave in path order all the same.
//! What waits is bounded in number and in bytes.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::thread::Scope;
use std::time::{Duration, Instant, SystemTime};

use headwater_protocol::path::{self, RelPath, is_at_or_below, is_below};
use headwater_protocol::record::{Content, FileKind, FileRecord};
use headwater_protocol::tree::{BuildContent, BuildEntry, Edit, Tree, TreeError};

use super::Absent;
use super::build::{BuildOptions, BuildVersionError};
use super::report::{BuildReport, DeferredReason, Progress};
use super::stamps::StampBook;
use super::streams::{OldLeaf, OldRecord, OldRecords, WalkAhead};
use crate::scan::read::{FileContent, ReadOutcome, ReadPool, ReadRequest};
use crate::scan::walk::{Walk, WalkEntry, WalkItem};
use crate::scan::{Cancelled, SkipReason, Skipped, Stamp};

/// Most paths whose turn has not come.
const SLOTS_MAX: usize = 4096;
/// Most bytes of small files among them.
const SMALL_BYTES_AHEAD_MAX: u64 = 4 << 20;
/// Most large files among them.
const LARGE_FILES_AHEAD_MAX: usize = 32;
/// A file that changed this shortly before the scan could change again within the clock's granularity.
const RACY_WINDOW: Duration = Duration::from_millis(50);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct MergeContext<'env, 'book> {
    pub(super) options: &'env BuildOptions,
    pub(super) old: Option<Tree<'env>>,
    pub(super) book: &'env RefCell<StampBook<'book>>,
    pub(super) absent: &'env dyn Absent,
    pub(super) progress: &'env mut dyn FnMut(Progress),
    pub(super) small_below: u32,
}

/// The merge; an iterator of edits in path order. [`finish`](Self::finish) tells whether it came to its end.
pub(super) struct Merge<'scope, 'env, 'book> {
    context: MergeContext<'env, 'book>,
    walk: WalkAhead,
    old: OldRecords<'env>,
    pool: ReadPool<'scope, 'env>,
    slots: VecDeque<Slot>,
    /// Ticket of the first slot.
    first_ticket: u64,
    small_bytes_ahead: u64,
    large_files_ahead: usize,
    bytes_requested: u64,
    /// What is at or below this path can't be looked at now.
    kept: Option<RelPath>,
    /// The last file or link met: nothing can be below it.
    last_leafy: Option<RelPath>,
    report: BuildReport,
    progress: Progress,
    progress_told: Instant,
    exhausted: bool,
    error: Option<BuildVersionError>,
}

/// A path whose turn has not come.
enum Slot {
    /// Its file is being read.
    Reading { entry: WalkEntry, old: Option<OldRecord>, outcome: Option<ReadOutcome> },
    /// The edit is known. The stamp goes with it; none if the path leaves.
    Edit { edit: Edit, stamp: Stamp, old: Option<OldRecord> },
    /// Nothing changes but the stamp.
    Restamp { stamp: Stamp, old: OldRecord },
    /// An old leaf's records are all decided.
    LeafEnd(Rc<RefCell<OldLeaf>>),
}

impl<'scope, 'env, 'book> Merge<'scope, 'env, 'book> {
    pub(super) fn start(
        scope: &'scope Scope<'scope, 'env>,
        folder: &Path,
        pool: ReadPool<'scope, 'env>,
        context: MergeContext<'env, 'book>,
    ) -> Result<Self, BuildVersionError> {
        let walk = WalkAhead::start(scope, Walk::new(folder, &context.options.scan)?);
        let old = OldRecords::new(context.old);
        Ok(Self {
            context,
            walk,
            old,
            pool,
            slots: VecDeque::new(),
            first_ticket: 0,
            small_bytes_ahead: 0,
            large_files_ahead: 0,
            bytes_requested: 0,
            kept: None,
            last_leafy: None,
            report: BuildReport::default(),
            progress: Progress::default(),
            progress_told: Instant::now(),
            exhausted: false,
            error: None,
        })
    }

    /// What was found, or what stopped the merge.
    pub(super) fn finish(self) -> Result<BuildReport, BuildVersionError> {
        (self.context.progress)(self.progress);
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.report),
        }
    }

    fn step(&mut self) -> Result<Option<Edit>, BuildVersionError> {
        loop {
            while let Some((ticket, outcome)) = self.pool.arrived() {
                self.arrived(ticket, outcome);
            }
            let resolved = match self.slots.front() {
                Some(Slot::Reading { outcome, .. }) => outcome.is_some(),
                Some(_) => true,
                None => false,
            };
            if resolved {
                let slot = self.slots.pop_front().expect("there is a first one");
                self.first_ticket += 1;
                if let Some(edit) = self.resolve(slot)? {
                    return Ok(Some(edit));
                }
            } else if !self.exhausted && !self.is_full() {
                self.advance()?;
            } else if self.slots.is_empty() {
                return Ok(None);
            } else if let Some((ticket, outcome)) = self.pool.wait() {
                self.arrived(ticket, outcome);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= SLOTS_MAX
            || self.small_bytes_ahead >= SMALL_BYTES_AHEAD_MAX
            || self.large_files_ahead >= LARGE_FILES_AHEAD_MAX
    }

    fn arrived(&mut self, ticket: u64, arrived: ReadOutcome) {
        let at = (ticket - self.first_ticket) as usize;
        let Some(Slot::Reading { outcome, entry, .. }) = self.slots.get_mut(at) else {
            unreachable!("an outcome for a path that is not being read");
        };
        if let ReadOutcome::Read(_) = &arrived {
            self.report.files_read += 1;
            self.report.bytes_read += entry.stamp.size;
            self.progress.files_read += 1;
            self.progress.bytes_read += entry.stamp.size;
        }
        *outcome = Some(arrived);
        self.tell();
    }

    fn tell(&mut self) {
        if self.progress_told.elapsed() >= PROGRESS_INTERVAL {
            self.progress_told = Instant::now();
            (self.context.progress)(self.progress);
        }
    }

    /// Takes the next path of either side.
    fn advance(&mut self) -> Result<(), BuildVersionError> {
        let walked = loop {
            match self.walk.peek()? {
                Some(WalkItem::Entry(entry)) => break Some(&entry.path),
                Some(WalkItem::Note(_)) => {
                    let Some(WalkItem::Note(note)) = self.walk.next()? else { unreachable!("it was peeked") };
                    self.report.skip(note);
                }
                Some(WalkItem::Keep(path)) => {
                    // Records before it are decided first, by what lies between.
                    if self.old.is_before(path, self.context.book)? {
                        break Some(path);
                    }
                    let Some(WalkItem::Keep(path)) = self.walk.next()? else { unreachable!("it was peeked") };
                    self.kept = Some(path);
                }
                None => break None,
            }
        };
        let order = match (self.old.peek(self.context.book)?, walked) {
            (None, None) => {
                self.exhausted = true;
                self.end_leaf();
                return Ok(());
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(walked)) => path::compare(&old.path, walked.as_bytes()),
        };
        let old = if order.is_le() { Some(self.take_old()) } else { None };
        let entry = if order.is_ge() { self.take_entry()? } else { None };
        match (old, entry) {
            (Some(old), None) => self.gone(old)?,
            (old, Some(entry)) => self.present(entry, old)?,
            (None, None) => {}
        }
        Ok(())
    }

    fn take_old(&mut self) -> OldRecord {
        if self.old.at_leaf_start() {
            self.end_leaf();
        }
        self.old.take()
    }

    fn take_entry(&mut self) -> Result<Option<WalkEntry>, BuildVersionError> {
        self.progress.paths += 1;
        self.context.options.scan.cancel.check()?;
        match self.walk.next()? {
            Some(WalkItem::Entry(entry)) => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    fn end_leaf(&mut self) {
        if let Some(leaf) = self.old.last_leaf.take() {
            self.slots.push_back(Slot::LeafEnd(leaf));
        }
    }

    /// A record whose path is not in the folder.
    fn gone(&mut self, old: OldRecord) -> Result<(), BuildVersionError> {
        let record = old.at.record();
        if self.kept.as_ref().is_some_and(|kept| is_at_or_below(&record.path, kept.as_bytes())) {
            self.report.unchanged += 1;
            self.report.unseen += 1;
            return Ok(());
        }
        let below_a_file = self.last_leafy.as_ref().is_some_and(|last| is_below(&record.path, last.as_bytes()));
        let has_contents = match self.walk.peek()? {
            Some(WalkItem::Entry(WalkEntry { path, .. }) | WalkItem::Keep(path)) => {
                is_below(path.as_bytes(), &record.path)
            }
            _ => false,
        };
        if has_contents {
            self.context.absent.is_back(&path_of(record));
        }
        let stays = !below_a_file && !has_contents && self.context.absent.stays(record);
        if stays {
            self.report.remote += 1;
            if !old.stamp().is_none() {
                self.slots.push_back(Slot::Restamp { stamp: Stamp::NONE, old });
            }
        } else {
            self.report.removed += 1;
            let edit = Edit::Remove(path_of(record));
            self.slots.push_back(Slot::Edit { edit, stamp: Stamp::NONE, old: Some(old) });
        }
        Ok(())
    }

    /// A path that is in the folder, and maybe in the earlier version.
    fn present(&mut self, entry: WalkEntry, old: Option<OldRecord>) -> Result<(), BuildVersionError> {
        if entry.kind != FileKind::Folder {
            let is_held = self.has_records_below(&entry.path)? && self.context.absent.holds(&entry.path);
            if is_held {
                self.report.skip(Skipped { path: entry.path.to_string(), reason: SkipReason::PlaceHeld });
                return Ok(());
            }
            self.last_leafy = Some(entry.path.clone());
        }
        let same_kind = old.as_ref().filter(|old| old.at.kind == entry.kind);
        if entry.kind != FileKind::File {
            let is_same = same_kind.is_some_and(|old| {
                let record = old.at.record();
                record.mode == entry.stamp.mode
                    && record.mtime_ns == entry.stamp.mtime_ns
                    && record.link_target == entry.link_target
            });
            if is_same {
                self.report.unchanged += 1;
            } else {
                self.context.absent.is_back(&entry.path);
                self.put(entry, BuildContent::Empty, old);
            }
            return Ok(());
        }
        if same_kind.is_some_and(|old| old.stamp() == entry.stamp) {
            self.report.unchanged += 1;
            return Ok(());
        }
        self.context.absent.is_back(&entry.path);
        let settle_ns = self.context.options.scan.settle.as_nanos() as i64;
        let age_ns = now_ns().saturating_sub(entry.stamp.ctime_ns);
        if age_ns.saturating_abs() < settle_ns {
            let left = Duration::from_nanos(settle_ns.saturating_sub(age_ns) as u64);
            self.report.settled_in = Some(self.report.settled_in.map_or(left, |longest| longest.max(left)));
            self.report.defer(entry.path.to_string(), DeferredReason::Settling);
            return Ok(());
        }
        if entry.stamp.size == 0 {
            self.decided(entry, BuildContent::Empty, old, |record| record.content == Content::Empty);
            return Ok(());
        }
        if self.context.options.read_bytes_max.is_some_and(|limit| self.bytes_requested >= limit) {
            self.report.postponed += 1;
            return Ok(());
        }
        self.bytes_requested += entry.stamp.size;
        if entry.stamp.size < u64::from(self.context.small_below) {
            self.small_bytes_ahead += entry.stamp.size;
        } else {
            self.large_files_ahead += 1;
        }
        let ticket = self.first_ticket + self.slots.len() as u64;
        self.pool.request(ReadRequest { ticket, path: entry.path.clone(), stamp: entry.stamp });
        self.slots.push_back(Slot::Reading { entry, old, outcome: None });
        Ok(())
    }

    /// Whether the earlier version's next record lies below `path`.
    fn has_records_below(&mut self, path: &RelPath) -> Result<bool, BuildVersionError> {
        let next = self.old.peek(self.context.book)?;
        Ok(next.is_some_and(|record| is_below(&record.path, path.as_bytes())))
    }

    /// A file whose content is known without reading it.
    fn decided(
        &mut self,
        entry: WalkEntry,
        content: BuildContent,
        old: Option<OldRecord>,
        is_same: impl Fn(&FileRecord) -> bool,
    ) {
        match old {
            Some(old) if has_metadata(&old, &entry) && is_same(old.at.record()) => {
                self.report.unchanged += 1;
                let stamp = Self::stored(&entry);
                self.slots.push_back(Slot::Restamp { stamp, old });
            }
            old => self.put(entry, content, old),
        }
    }

    fn put(&mut self, entry: WalkEntry, content: BuildContent, old: Option<OldRecord>) {
        let stamp = Self::stored(&entry);
        let edit = self.edit_of(entry, content, old.is_some());
        self.slots.push_back(Slot::Edit { edit, stamp, old });
    }

    fn edit_of(&mut self, entry: WalkEntry, content: BuildContent, known: bool) -> Edit {
        if known {
            self.report.changed += 1;
        } else {
            self.report.added += 1;
        }
        Edit::Put(BuildEntry {
            path: entry.path,
            kind: entry.kind,
            link_target: entry.link_target,
            mode: entry.stamp.mode,
            mtime_ns: entry.stamp.mtime_ns,
            content,
        })
    }

    /// The stamp to remember: none where the file could change again without showing it.
    fn stored(entry: &WalkEntry) -> Stamp {
        let age_ns = now_ns().saturating_sub(entry.stamp.ctime_ns);
        if age_ns.saturating_abs() < RACY_WINDOW.as_nanos() as i64 { Stamp::NONE } else { entry.stamp }
    }

    fn resolve(&mut self, slot: Slot) -> Result<Option<Edit>, BuildVersionError> {
        match slot {
            Slot::Restamp { stamp, old } => {
                self.restamp(&old, stamp);
                Ok(None)
            }
            Slot::Edit { edit, stamp, old } => {
                self.note_edit(&edit, stamp, old.as_ref());
                Ok(Some(edit))
            }
            Slot::LeafEnd(leaf) => {
                let leaf = leaf.borrow();
                if leaf.restamped && !leaf.edited {
                    self.context.book.borrow_mut().keep_leaf(&leaf.leaf.id, &leaf.leaf, &leaf.stamps)?;
                }
                Ok(None)
            }
            Slot::Reading { entry, old, outcome } => {
                if entry.stamp.size < u64::from(self.context.small_below) {
                    self.small_bytes_ahead -= entry.stamp.size;
                } else {
                    self.large_files_ahead -= 1;
                }
                let outcome = outcome.expect("only resolved slots leave");
                self.read(entry, old.as_ref(), outcome)
            }
        }
    }

    fn read(
        &mut self,
        entry: WalkEntry,
        old: Option<&OldRecord>,
        outcome: ReadOutcome,
    ) -> Result<Option<Edit>, BuildVersionError> {
        let content = match outcome {
            ReadOutcome::Read(content) => content,
            ReadOutcome::Changed => {
                self.report.defer(entry.path.to_string(), DeferredReason::ChangedWhileRead);
                return Ok(None);
            }
            ReadOutcome::Unreadable(error) => {
                self.report.defer(entry.path.to_string(), DeferredReason::Unreadable(error.to_string()));
                return Ok(None);
            }
            ReadOutcome::Sink(error) => return Err(BuildVersionError::Chunk(error)),
            ReadOutcome::Cancelled => return Err(Cancelled.into()),
        };
        let stamp = Self::stored(&entry);
        let is_same = match old {
            Some(old) => self.has_content(old, &content)?,
            None => false,
        };
        if let Some(old) = old.filter(|old| is_same && has_metadata(old, &entry)) {
            self.report.unchanged += 1;
            self.restamp(old, stamp);
            return Ok(None);
        }
        let content = match content {
            FileContent::Small { hash, bytes } => BuildContent::Small {
                hash,
                size: bytes.len() as u32,
                previous: old.filter(|_| is_same).and_then(previous_place),
                bytes: Some(bytes),
            },
            FileContent::Large(chunks) => BuildContent::Large(chunks),
        };
        let edit = self.edit_of(entry, content, old.is_some());
        self.note_edit(&edit, stamp, old);
        Ok(Some(edit))
    }

    fn has_content(&self, old: &OldRecord, content: &FileContent) -> Result<bool, TreeError> {
        match (content, &old.at.content) {
            (FileContent::Small { hash, .. }, Content::Shared { hash: known, .. }) => Ok(hash == known),
            (FileContent::Large(chunks), Content::Whole(extents)) => {
                let known = extents.iter().map(|extent| &old.at.leaf.chunks[extent.chunk as usize]);
                Ok(known.eq(chunks))
            }
            (FileContent::Large(chunks), Content::Paged { chunks: count, .. }) => {
                let Some(tree) = self.context.old.filter(|_| *count == chunks.len() as u64) else { return Ok(false) };
                for (known, chunk) in tree.stretches(&old.at).zip(chunks) {
                    if known?.chunk != *chunk {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn note_edit(&mut self, edit: &Edit, stamp: Stamp, old: Option<&OldRecord>) {
        if let Some(old) = old {
            let mut leaf = old.leaf.borrow_mut();
            leaf.edited = true;
            leaf.stamps[old.at.index] = stamp;
        }
        if let Edit::Put(entry) = edit {
            self.context.book.borrow_mut().set(entry.path.clone(), stamp);
        }
    }

    fn restamp(&mut self, old: &OldRecord, stamp: Stamp) {
        let mut leaf = old.leaf.borrow_mut();
        leaf.restamped = true;
        leaf.stamps[old.at.index] = stamp;
        self.context.book.borrow_mut().set(path_of(old.at.record()), stamp);
    }
}

impl Iterator for Merge<'_, '_, '_> {
    type Item = Edit;

    fn next(&mut self) -> Option<Edit> {
        if self.error.is_some() {
            return None;
        }
        match self.step() {
            Ok(edit) => edit,
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}

fn has_metadata(old: &OldRecord, entry: &WalkEntry) -> bool {
    let record = old.at.record();
    record.kind == entry.kind && record.mode == entry.stamp.mode && record.mtime_ns == entry.stamp.mtime_ns
}

fn previous_place(old: &OldRecord) -> Option<(headwater_protocol::record::ChunkRef, u32)> {
    match &old.at.content {
        Content::Shared { extent, .. } => Some((old.at.leaf.chunks[extent.chunk as usize], extent.offset)),
        _ => None,
    }
}

fn path_of(record: &FileRecord) -> RelPath {
    RelPath::new(record.path.clone()).expect("a page's paths were checked when it was decoded")
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
