//! A sender, a receiver and a store in memory, with nothing between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::chunking::{ChunkerParams, GroupingParams};
use crate::id::ChunkId;
use crate::manifest::Manifest;
use crate::page::Page;
use crate::path::RelPath;
use crate::record::{ChunkRef, FileKind};
use crate::sync::*;
use crate::time::Timestamp;
use crate::tree::{BuildContent, BuildEntry, MemoryPages, NoSharedSink, PageSource, Tree, TreeBuilder};
use crate::wire::{Encoding, ItemHeader, ItemKey, Message};

pub(super) const GROUPING: GroupingParams = GroupingParams {
    shared_average_bytes: 8 << 10,
    page_records_average: 16,
    page_children_average: 16,
    extents_inline_max: 4,
};

/// Files by path: large ones as lists of chunk seeds, small ones as their bytes.
pub(super) type Files = BTreeMap<String, File>;

#[derive(Clone, Debug)]
pub(super) enum File {
    Small(Vec<u8>),
    Chunks(Vec<u64>),
}

pub(super) fn chunk(seed: u64) -> ChunkRef {
    ChunkRef { id: ChunkId::of(&seed.to_le_bytes()), length: 1000 + (seed % 5000) as u32 }
}

/// A version and all its pages.
pub(super) struct Version {
    pub(super) manifest: Manifest,
    pub(super) pages: MemoryPages,
    pub(super) ordinals: Vec<ChunkRef>,
}

impl Version {
    pub(super) fn of(files: &Files) -> Self {
        let pages = MemoryPages::new();
        let (mut sink, mut shared) = (&pages, NoSharedSink);
        let mut builder = TreeBuilder::new(ChunkerParams::default(), GROUPING, &mut sink, &mut shared).unwrap();
        let mut sorted: Vec<_> =
            files.iter().map(|(path, file)| (RelPath::new(path.clone().into_bytes()).unwrap(), file)).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, file) in sorted {
            let content = match file {
                File::Small(bytes) => BuildContent::Small {
                    hash: ChunkId::of(bytes),
                    size: bytes.len() as u32,
                    bytes: Some(Bytes::from(bytes.clone())),
                    previous: None,
                },
                File::Chunks(seeds) => BuildContent::Large(seeds.iter().map(|&seed| chunk(seed)).collect()),
            };
            let entry =
                BuildEntry { path, kind: FileKind::File, link_target: vec![], mode: 0o644, mtime_ns: 0, content };
            builder.push(entry).unwrap();
        }
        let built = builder.finish().unwrap();
        let manifest = Manifest {
            chunker: ChunkerParams::default(),
            grouping: GROUPING,
            parent: None,
            origin: "test".into(),
            metadata: vec![],
            height: built.height,
            root: built.root,
        };
        let ordinals = Tree::new(&manifest, &pages).chunks().map(|place| place.unwrap().chunk).collect();
        Self { manifest, pages, ordinals }
    }

    pub(super) fn root(&self) -> ChunkId {
        self.manifest.root.as_ref().expect("it has files").id
    }

    pub(super) fn page(&self, id: &ChunkId) -> Arc<Page> {
        self.pages.page(id).expect("a page of the version")
    }
}

/// What a receiver keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pub(super) pages: BTreeMap<ChunkId, Arc<Page>>,
    pub(super) complete: BTreeSet<ChunkId>,
    pub(super) chunks: BTreeSet<ChunkId>,
    pub(super) prefixes: BTreeMap<ChunkId, u32>,
}

/// What a run cost.
#[derive(Debug, Default)]
pub(super) struct Cost {
    pub(super) pages: Vec<ChunkId>,
    pub(super) chunks: Vec<u64>,
    pub(super) lookups: usize,
    pub(super) presence: usize,
    pub(super) messages: usize,
    pub(super) remembered_max: usize,
    pub(super) stored: Ranges,
    pub(super) plain_again: usize,
}

/// How a run differs from a plain one.
#[derive(Default)]
pub(super) struct Twist {
    pub(super) unavailable: BTreeSet<u64>,
    /// Items whose first copy is not usable; they travel as deltas.
    pub(super) unusable: BTreeSet<ItemKey>,
    pub(super) window_bytes: u64,
}

/// Runs a transfer to its end.
pub(super) fn run(version: &Version, store: &mut Store, twist: &Twist) -> (SendEnd, ReceiveEnd, Cost) {
    let totals = version.manifest.totals();
    let offer = Message::Offer { transfer: 0, dataset: "d".into(), manifest: vec![], commit: vec![] };
    let mut sender = Sender::new(0, totals.chunks, offer);
    let limits = ReceiveLimits { window_bytes: twist.window_bytes.max(crate::sync::WINDOW_BYTES_MIN) };
    let mut receiver = Receiver::new(0, &version.manifest, limits).expect("a good manifest");
    let (mut cost, mut ends) = (Cost::default(), (None, None));
    let mut clock = 0u64;
    let mut loads: BTreeMap<ItemKey, Load> = BTreeMap::new();
    let mut to_store: VecDeque<ItemKey> = VecDeque::new();
    while ends.0.is_none() || ends.1.is_none() {
        let mut moved = false;
        while let Some(action) = sender.poll_action() {
            moved = true;
            match action {
                SendAction::Send(Message::Offer { .. }) => {}
                SendAction::Send(message) => receiver.handle_message(Timestamp::from_nanos(clock), &message),
                SendAction::Load(load) => match load.key {
                    ItemKey::Chunk(ordinal) if twist.unavailable.contains(&ordinal) => {
                        sender.handle_unavailable(load.key);
                    }
                    ItemKey::Chunk(ordinal) => {
                        let chunk = version.ordinals[ordinal as usize];
                        loads.insert(load.key, load);
                        sender.handle_loaded(load.key, chunk.length - load.from_offset);
                    }
                    ItemKey::Page(id) => {
                        loads.insert(load.key, load);
                        sender.handle_loaded(load.key, version.page(&id).encode().len() as u32);
                    }
                },
                SendAction::Finished(end) => ends.0 = Some(end),
            }
        }
        while let Some(key) = sender.poll_transmit() {
            moved = true;
            let load = loads.remove(&key).expect("loaded");
            let header = header_of(version, &load, twist);
            cost.plain_again += usize::from(load.plain);
            receiver.handle_item(&header).expect("nothing hostile here");
            if !load.plain && twist.unusable.contains(&key) {
                receiver.handle_unusable(key);
                continue;
            }
            match key {
                ItemKey::Page(id) => {
                    cost.pages.push(id);
                    receiver.handle_verified(key, Some(&version.page(&id)));
                }
                ItemKey::Chunk(ordinal) => {
                    cost.chunks.push(ordinal);
                    receiver.handle_verified(key, None);
                }
            }
            to_store.push_back(key);
        }
        while let Some(action) = receiver.poll_action() {
            moved = true;
            cost.remembered_max = cost.remembered_max.max(receiver.remembered());
            handle(action, version, store, &mut receiver, &mut sender, &mut cost, &mut ends.1);
        }
        // What is stored becomes durable a while later, and not all at once.
        clock += 10_000_000;
        let durable: Vec<_> = to_store.drain(..to_store.len().div_ceil(2)).collect();
        for key in &durable {
            moved = true;
            match key {
                ItemKey::Page(id) => drop(store.pages.insert(*id, version.page(id))),
                ItemKey::Chunk(ordinal) => drop(store.chunks.insert(version.ordinals[*ordinal as usize].id)),
            }
        }
        receiver.handle_stored(Timestamp::from_nanos(clock), &durable);
        assert!(moved || ends.0.is_some() && ends.1.is_some(), "it stands still: {sender:?} {receiver:?}");
    }
    (ends.0.expect("over"), ends.1.expect("over"), cost)
}

fn header_of(version: &Version, load: &Load, twist: &Twist) -> ItemHeader {
    let plain_bytes = match load.key {
        ItemKey::Page(id) => version.page(&id).encode().len() as u32,
        ItemKey::Chunk(ordinal) => version.ordinals[ordinal as usize].length,
    };
    let encoding = if !load.plain && twist.unusable.contains(&load.key) {
        Encoding::Delta { sources: vec![] }
    } else {
        Encoding::Plain { from_offset: load.from_offset }
    };
    let payload_bytes = plain_bytes - load.from_offset;
    ItemHeader { transfer: 0, key: load.key, plain_bytes, payload_bytes, encoding }
}

fn handle(
    action: ReceiveAction,
    version: &Version,
    store: &mut Store,
    receiver: &mut Receiver,
    sender: &mut Sender,
    cost: &mut Cost,
    end: &mut Option<ReceiveEnd>,
) {
    match action {
        ReceiveAction::Send(message) => {
            cost.messages += 1;
            if let Message::Stored { ranges, .. } = &message {
                for range in ranges {
                    for ordinal in range.first..range.first + range.count {
                        assert!(store.chunks.contains(&version.ordinals[ordinal as usize].id), "{ordinal} is not here");
                    }
                    cost.stored.insert(*range);
                }
            }
            message.check().expect("a message that may travel");
            sender.handle_message(&message);
        }
        ReceiveAction::LookUp(ids) => {
            cost.lookups += ids.len();
            let held = |id: &ChunkId| match store.pages.get(id) {
                Some(_) if store.complete.contains(id) => Held::Complete,
                Some(page) => Held::Page(Arc::clone(page)),
                None => Held::Missing,
            };
            let answers: Vec<_> = ids.iter().map(|id| (*id, held(id))).collect();
            receiver.handle_lookup(&answers);
        }
        ReceiveAction::CheckPresence(wanted) => {
            cost.presence += wanted.len();
            let presence = |chunk: &ChunkRef| match store.prefixes.get(&chunk.id) {
                _ if store.chunks.contains(&chunk.id) => Presence::Here,
                Some(&bytes) => Presence::Prefix(bytes),
                None => Presence::Missing,
            };
            let answers: Vec<_> = wanted.into_iter().map(|wanted| (wanted, presence(&wanted.chunk))).collect();
            receiver.handle_presence(&answers);
        }
        ReceiveAction::Completed(pages) => store.complete.extend(pages),
        ReceiveAction::Commit => {
            for chunk in &version.ordinals {
                assert!(store.chunks.contains(&chunk.id), "a commit with {:?} lacking", chunk.id);
            }
            assert!(version.pages.ids().iter().all(|id| store.pages.contains_key(id)), "a commit without its pages");
            receiver.handle_committed(vec![1], vec![2]);
        }
        ReceiveAction::Finished(over) => *end = Some(over),
    }
}
