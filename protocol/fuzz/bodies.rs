//! What must hold for any bytes at all, one function a structure: no panic, no boundless memory, and what is accepted
//! encodes to the same value again.
//!
//! This file is compiled twice: into the fuzz targets, and into a test that runs it over the committed corpus and over
//! mutations of valid encodings, so that a body can't rot between two fuzzing runs.

use headwater_protocol::chunking::{ChunkerParams, GroupingParams, StreamChunker};
use headwater_protocol::codec::{self, Decode, Encode, Encoded, Stored};
use headwater_protocol::commit::{CommitRecord, CoreSeal, Durability, Receipt};
use headwater_protocol::compress::{self, PLAIN_BYTES_MAX};
use headwater_protocol::delivery::{FileStatus, Plan, PlannedFile, ReadRequest, ReadWhat, Reply, Unit};
use headwater_protocol::id::{ChunkId, PublicKey, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::{DatasetName, NamePattern, NameTemplate, parse_label};
use headwater_protocol::page::{ChildRef, ExtentChildRef, LeafPage, Page};
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{ChunkRef, Content, Extent, FileKind, FileRecord};
use headwater_protocol::samples::{FILE_SAMPLES_MAX, RecordSink, Rule};
use headwater_protocol::tensors::encoding::{Encoded as EncodedUpdate, Encoding as UpdateEncoding, layout_of};
use headwater_protocol::tensors::{Dtype, Layout, Tensor};
use headwater_protocol::trust::{Certificate, Signature, Token};
use headwater_protocol::wire::{
    DeltaSource, Encoding, Following, Hello, ItemHeader, ItemKey, JoinMessage, JoinReply, Message, News, OrdinalRange,
    PartialChunk, PeerStatus, Refusal, Welcome,
};

/// A body, and valid encodings from which mutation starts.
pub(crate) struct Body {
    /// Its name, which is the name of its fuzz target and of its corpus folder.
    pub(crate) name: &'static str,
    /// What must hold for any bytes.
    pub(crate) run: fn(&[u8]),
    /// Valid encodings.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

const AUTHORITY: &[u8] = include_bytes!("../tests/fixtures/authority.der");
const CORE: &[u8] = include_bytes!("../tests/fixtures/core.der");
const DEVICE: &[u8] = include_bytes!("../tests/fixtures/device.der");

/// All bodies.
pub(crate) const BODIES: &[Body] = &[
    Body { name: "certificate", run: certificate, seeds: certificate_seeds },
    Body { name: "chunker", run: chunker, seeds: || vec![vec![7; 9000]] },
    Body { name: "commit", run: commit, seeds: commit_seeds },
    Body { name: "compressed", run: compressed, seeds: compressed_seeds },
    Body { name: "delivery", run: delivery, seeds: delivery_seeds },
    Body { name: "delta", run: delta, seeds: delta_seeds },
    Body { name: "item", run: item, seeds: item_seeds },
    Body { name: "join", run: join, seeds: join_seeds },
    Body { name: "manifest", run: manifest, seeds: manifest_seeds },
    Body { name: "message", run: message, seeds: message_seeds },
    Body { name: "names", run: names, seeds: || vec![b"cam/{device}/{label.site}".to_vec(), b"cam/*".to_vec()] },
    Body { name: "page", run: page, seeds: page_seeds },
    Body { name: "path", run: path, seeds: || vec![b"train/0001.png".to_vec(), b"../../etc/passwd".to_vec()] },
    Body { name: "receipt", run: receipt, seeds: receipt_seeds },
    Body { name: "records", run: records, seeds: records_seeds },
    Body { name: "tensors", run: tensors, seeds: tensors_seeds },
    Body { name: "token", run: token, seeds: token_seeds },
];

/// Files that should hold records: the first byte says how large the parts are in which their bytes come. Whatever is found lies in
/// the file, in order, and does not depend on the parts.
pub(crate) fn records(bytes: &[u8]) {
    let Some((part, file)) = bytes.split_first() else { return };
    let size = file.len() as u64;
    for (rule, path) in [("tar", "a.tar"), ("npy", "a.npy"), ("lines", "a.jsonl"), ("records:7", "a.bin")] {
        let rule = Rule::parse(rule).expect("a rule");
        let split = |part: usize| {
            let mut found = Records { size, ..Records::default() };
            let Ok(Some(mut splitter)) = rule.splitter(path.as_bytes(), size) else { return None };
            let pushed = file.chunks(part.max(1)).try_for_each(|part| splitter.push(part, &mut found));
            pushed.and_then(|()| splitter.finish(&mut found)).ok().map(|()| found)
        };
        let (whole, parted) = (split(file.len()), split(usize::from(*part) * 3));
        assert_eq!(whole, parted, "records of {path} depend on how its bytes come");
        if let Some(found) = whole {
            assert!(!found.is_open, "a record that never ends");
        }
    }
}

/// The records that were found: sample, name, and bytes from where to where.
#[derive(Debug, Default, PartialEq, Eq)]
struct Records {
    size: u64,
    found: Vec<(u64, Vec<u8>, std::ops::Range<u64>)>,
    is_open: bool,
}

impl RecordSink for Records {
    fn begin(&mut self, sample: u64, name: &[u8]) {
        assert!(!self.is_open && sample <= FILE_SAMPLES_MAX, "one record at a time");
        RelPath::new(name.to_vec()).expect("a name that can stand in a version");
        self.is_open = true;
        self.found.push((sample, name.to_vec(), 0..0));
    }

    fn bytes(&mut self, at: u64, part: &[u8]) {
        let (.., range) = self.found.last_mut().expect("a record is open");
        assert!(self.is_open && (range.is_empty() || range.end == at), "bytes of a record lie together");
        let start = if range.is_empty() { at } else { range.start };
        *range = start..at + part.len() as u64;
        assert!(range.end <= self.size, "bytes past the end of the file");
    }

    fn end(&mut self) {
        self.is_open = false;
    }
}

/// What a job asks for, and what comes into its slot.
pub(crate) fn delivery(bytes: &[u8]) {
    if let Ok(request) = ReadRequest::decode(bytes) {
        assert_eq!(ReadRequest::decode(&request.encode()).expect("what was decoded can be encoded"), request);
    }
    if let Ok(reply) = Reply::parse(bytes) {
        for sample in 0..reply.len() {
            let files: Vec<_> = reply.sample(bytes, sample).files().collect();
            assert!(files.iter().all(|file| file.bytes.len() <= bytes.len()));
        }
        let _ = reply.verify(bytes);
    }
}

/// A control message.
pub(crate) fn message(bytes: &[u8]) {
    again::<Message>(bytes);
}

/// A message of joining.
pub(crate) fn join(bytes: &[u8]) {
    again::<JoinMessage>(bytes);
    if let Ok(message) = JoinMessage::decode(bytes) {
        let shown = format!("{message:?}");
        assert!(!shown.contains("secret"), "a secret would stand in a log");
    }
}

/// The header of an item.
pub(crate) fn item(bytes: &[u8]) {
    again::<ItemHeader>(bytes);
}

/// A manifest body.
pub(crate) fn manifest(bytes: &[u8]) {
    stored_again::<Manifest>(bytes);
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert!(manifest.chunker.check().is_ok() && manifest.grouping.check().is_ok());
    }
}

/// A page of a tree, and of an extent list.
pub(crate) fn page(bytes: &[u8]) {
    stored_again::<Page>(bytes);
    let Ok(page) = Page::decode(bytes) else { return };
    if let Page::Leaf(leaf) = page {
        for record in &leaf.records {
            let path = RelPath::new(record.path.clone()).expect("a decoded page holds safe paths only");
            assert!(!path.as_bytes().starts_with(b"/"));
        }
        assert!(
            leaf.records.is_sorted_by(|left, right| headwater_protocol::path::compare(&left.path, &right.path).is_lt())
        );
    }
}

/// A commit record.
pub(crate) fn commit(bytes: &[u8]) {
    stored_again::<CommitRecord>(bytes);
}

/// A receipt.
pub(crate) fn receipt(bytes: &[u8]) {
    stored_again::<Receipt>(bytes);
}

/// A certificate: what an authority issued stays what it was read as, and no other bytes pass for issued by it.
pub(crate) fn certificate(bytes: &[u8]) {
    let authority = Certificate::parse_authority(AUTHORITY).expect("the fixture is an authority's");
    let _ = Certificate::parse_authority(bytes);
    let Ok(certificate) = Certificate::parse(bytes) else { return };
    if certificate.check_issued_by(&authority).is_ok() {
        let issued = [AUTHORITY, CORE, DEVICE].map(|der| Certificate::parse(der).expect("a fixture"));
        assert!(issued.contains(&certificate), "a certificate that this authority never signed passed");
    }
}

/// A zstd frame that claims a length: the first two bytes, times 32.
pub(crate) fn compressed(bytes: &[u8]) {
    let Some((claim, frame)) = bytes.split_first_chunk::<2>() else { return };
    let claim = (usize::from(u16::from_le_bytes(*claim)) * 32).min(PLAIN_BYTES_MAX);
    if let Ok(plain) = compress::decompress(frame, claim) {
        assert_eq!(plain.len(), claim);
    }
    assert!(compress::decompress_part(frame, claim).len() <= claim);
}

/// A delta frame over a prefix: two bytes are the prefix's length, two the claimed length.
pub(crate) fn delta(bytes: &[u8]) {
    let Some((&[low, high, claim_low, claim_high], rest)) = bytes.split_first_chunk::<4>() else { return };
    let (prefix, frame) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    let claim = usize::from(u16::from_le_bytes([claim_low, claim_high]));
    if let Ok(plain) = compress::decode_delta(prefix, frame, claim) {
        assert_eq!(plain.len(), claim);
    }
}

/// The chunker: what it cuts joins to the same bytes, within its bounds.
pub(crate) fn chunker(bytes: &[u8]) {
    let params = ChunkerParams { min_bytes: 4 << 10, average_bytes: 8 << 10, max_bytes: 16 << 10 };
    let mut chunker = StreamChunker::new(params).expect("the parameters are valid");
    let mut reader = bytes;
    let mut joined = Vec::new();
    while let Some((chunk, data)) = chunker.next_chunk(&mut reader).expect("reading memory can't fail") {
        assert_eq!(chunk.id, ChunkId::of(data));
        assert!(data.len() <= params.max_bytes as usize);
        joined.extend_from_slice(data);
    }
    assert_eq!(joined, bytes);
}

/// A path inside a dataset, and its sort key.
pub(crate) fn path(bytes: &[u8]) {
    if let Ok(path) = RelPath::new(bytes) {
        let key = path.sort_key();
        assert_eq!(RelPath::from_sort_key(&key).expect("a key of a path is one").as_bytes(), bytes);
        assert!(bytes.starts_with(path.stem()));
    }
    let _ = RelPath::from_sort_key(bytes);
}

/// Names, patterns, templates and labels.
pub(crate) fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let name = DatasetName::new(text);
    let _ = NameTemplate::new(text);
    let _ = parse_label(text);
    if let (Ok(pattern), Ok(name)) = (NamePattern::new(text), &name) {
        let matches = pattern.matches(name);
        assert!(matches || !pattern.is_plain(), "a plain name matches itself");
    }
}

/// A token: as a person types it, and, because its checksum keeps most texts from being looked at, as the bytes of a text
/// whose checksum fits.
/// A file that should hold tensors: what is taken lies in the file, and reads as an update of itself.
pub(crate) fn tensors(bytes: &[u8]) {
    let Ok(layout) = Layout::of(bytes) else { return };
    assert_eq!(layout.file_bytes(), bytes.len() as u64, "tensors end where the file does");
    let again =
        Layout::build(layout.tensors().to_vec(), layout.metadata().clone()).expect("what was read can be written");
    assert_eq!(again.tensors().len(), layout.tensors().len());
    assert!(Layout::parse(&again.encode_header()[8..], again.file_bytes()).is_ok_and(|parsed| parsed == again));
    let Ok(update) = EncodedUpdate::new(&layout, &layout) else { return };
    for (index, tensor) in layout.tensors().iter().enumerate().filter(|(_, tensor)| tensor.dtype.is_float()) {
        let elements = tensor.elements().min(1000);
        let (data, scales) = update.bytes_of(index, 0..elements);
        let part = |range: std::ops::Range<u64>| &bytes[range.start as usize..range.end as usize];
        let mut values = vec![0.0; elements as usize];
        update.decode(index, 0..elements, part(data), scales.map_or(&[], part), &mut values);
    }
}

fn tensors_seeds() -> Vec<Vec<u8>> {
    let tensor =
        |name: &str, dtype, shape: &[u64]| Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), range: 0..0 };
    let tensors = vec![tensor("a", Dtype::F32, &[2, 3]), tensor("b", Dtype::Bf16, &[]), tensor("n", Dtype::I64, &[1])];
    let metadata = std::collections::BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let model = Layout::build(tensors, metadata).expect("a layout");
    let update = layout_of(&model, UpdateEncoding::Int8, model.metadata().clone()).expect("a layout");
    let file = |layout: &Layout| {
        let mut bytes = layout.encode_header();
        bytes.resize(layout.file_bytes() as usize, 1);
        bytes
    };
    vec![file(&model), file(&update)]
}

pub(crate) fn token(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        token_text(text);
    }
    let mut content = bytes.to_vec();
    content.extend_from_slice(&blake3::derive_key("headwater token checksum v1", bytes)[..4]);
    token_text(&format!("hw1-{}", data_encoding::BASE32_NOPAD.encode(&content)));
}

fn token_text(text: &str) {
    if let Ok(token) = Token::parse(text) {
        let again = Token::parse(&token.to_text()).expect("a token's text is a token");
        assert!(again == token, "a token comes back as another");
        assert!(!token.addresses.is_empty());
    }
}

fn again<T: Encoded + Encode + Decode + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        let second = codec::decode::<T>(&codec::encode(&value)).expect("what was accepted encodes to what is accepted");
        assert_eq!(second, value);
    }
}

fn stored_again<T: Stored + Encode + Decode + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = codec::decode_stored::<T>(bytes) {
        let second =
            codec::decode_stored::<T>(&codec::encode_stored(&value)).expect("what was accepted is accepted again");
        assert_eq!(second, value);
    }
}

fn chunk(number: u8) -> ChunkRef {
    ChunkRef { id: ChunkId([number; 32]), length: 1000 }
}

fn page_seeds() -> Vec<Vec<u8>> {
    let record = |path: &str, content, size| FileRecord {
        path: path.into(),
        kind: FileKind::File,
        link_target: Vec::new(),
        mode: 0o644,
        mtime_ns: 1_700_000_000_000_000_000,
        size,
        content,
    };
    let extent = |chunk, offset, length| Extent { chunk, offset, length };
    let leaf = LeafPage {
        chunks: vec![chunk(1), chunk(2)],
        records: vec![
            record("a/0001.json", Content::Shared { extent: extent(0, 10, 20), hash: ChunkId([3; 32]) }, 20),
            record("a/0001.png", Content::Whole(vec![extent(1, 0, 1000)]), 1000),
            record("a/0002.png", Content::Paged { root: ChunkId([4; 32]), chunks: 90, height: 1 }, 90_000),
        ],
    };
    let child = |first: &str| ChildRef {
        id: ChunkId([5; 32]),
        first: first.into(),
        files: 3,
        samples: 2,
        bytes: 91_020,
        chunks: 92,
    };
    let extents = ExtentChildRef { id: ChunkId([6; 32]), bytes: 5000, chunks: 5 };
    [
        Page::Leaf(leaf),
        Page::Inner { level: 1, children: vec![child("a"), child("b")] },
        Page::ExtentLeaf(vec![chunk(7), chunk(8)]),
        Page::ExtentInner { level: 1, children: vec![extents; 2] },
    ]
    .iter()
    .map(Page::encode)
    .collect()
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let root = ChildRef { id: ChunkId([5; 32]), first: b"a".to_vec(), files: 3, samples: 2, bytes: 91_020, chunks: 92 };
    let manifest = Manifest {
        chunker: ChunkerParams::default(),
        grouping: GroupingParams::default(),
        parent: Some(VersionId([9; 32])),
        origin: "cam-1".into(),
        metadata: vec![("camera".into(), "north".into())],
        height: 0,
        root: Some(root),
    };
    let empty = Manifest { parent: None, metadata: Vec::new(), root: None, ..manifest.clone() };
    vec![manifest.encode(), empty.encode()]
}

fn commit_seeds() -> Vec<Vec<u8>> {
    let seal = CoreSeal { core: PublicKey([2; 32]), certificate: vec![0x30; 40], signature: Signature([3; 64]) };
    let record = CommitRecord {
        dataset: "cam/one".into(),
        number: 7,
        version: VersionId([9; 32]),
        author: PublicKey([1; 32]),
        author_certificate: vec![0x30; 40],
        author_signature: Signature([4; 64]),
        core: None,
    };
    vec![codec::encode_stored(&record), codec::encode_stored(&CommitRecord { core: Some(seal), ..record })]
}

fn receipt_seeds() -> Vec<Vec<u8>> {
    vec![codec::encode_stored(&Receipt {
        dataset: "cam/one".into(),
        number: 7,
        version: VersionId([9; 32]),
        durability: Durability::LocalDisk,
        core: PublicKey([1; 32]),
        signature: Signature([4; 64]),
    })]
}

fn records_seeds() -> Vec<Vec<u8>> {
    let mut header = [0u8; 512];
    header[..8].copy_from_slice(b"0001.png");
    header[124..135].copy_from_slice(b"00000000005");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = [&[100][..], &header, b"image"].concat();
    tar.resize(1 + 512 + 512 + 1024, 0);
    let npy = b"\x05\x93NUMPY\x01\x00\x3c\x00{'descr': '<u2', 'fortran_order': False, 'shape': (2, 2), }\nabcdefgh";
    vec![tar, npy.to_vec(), b"\x02{\"a\":1}\r\n\n{}\n".to_vec(), b"\x01seven bytes, or more".to_vec()]
}

fn delivery_seeds() -> Vec<Vec<u8>> {
    let request = |what| ReadRequest { request: 1, slot: 2, slot_bytes: 4096, source: 3, what }.encode();
    let content = [7; 300];
    let unit = Unit { id: ChunkId::of(&content), total: 300, offset: 0, bytes: 300 };
    let file = PlannedFile { size: 300, lead: 0, length: 300, units: 1, name_bytes: 4, status: FileStatus::Whole };
    let plan = Plan {
        samples: vec![1],
        files: vec![file],
        units: vec![(unit, 0)],
        proofs: Vec::new(),
        names: b".png".to_vec(),
    };
    let mut slot = Vec::new();
    plan.write(&mut slot);
    slot.extend_from_slice(&content);
    vec![
        request(ReadWhat::Samples { samples: vec![5, 3, 3], paths: true }),
        request(ReadWhat::Range { member: 0, path: b"a/b.png".to_vec(), offset: 7, length: 9 }),
        slot,
    ]
}

fn message_seeds() -> Vec<Vec<u8>> {
    let ranges = vec![OrdinalRange { first: 3, count: 4 }, OrdinalRange { first: 90, count: 1 }];
    let refusal = Refusal { code: "HW-1004".into(), message: "no such dataset".into(), hint: "look again".into() };
    let following = Following { dataset: "cam/one".into(), number: 7, version: VersionId([9; 32]) };
    let (label, transfer) = (("site".to_owned(), "x".to_owned()), 2);
    [
        Message::Hello(Hello { revision_min: 1, revision_max: 1, nonce: vec![1; 16], status: PeerStatus::default() }),
        Message::Welcome(Welcome {
            revision: 1,
            nonce: vec![2; 16],
            name: "cam-1".into(),
            labels: vec![label],
            certificate: vec![],
        }),
        Message::Refused { transfer: Some(2), refusal },
        Message::News { question: 1, list: vec![News { name: "cam/*".into(), newest: following.clone() }] },
        Message::HeadsAre { question: 3, heads: vec![following], ended: Vec::new() },
        Message::Follow { question: 1, names: vec!["cam/*".into()] },
        Message::Offer { transfer, dataset: "cam/one".into(), manifest: vec![1; 40], commit: vec![2; 40] },
        Message::NeedPages { transfer, ids: vec![ChunkId([1; 32]); 3] },
        Message::NeedChunks {
            transfer,
            ranges: ranges.clone(),
            partial: vec![PartialChunk { ordinal: 3, offset: 500 }],
        },
        Message::Grant { transfer, bytes: 1 << 20 },
        Message::Stored { transfer, ranges },
        Message::Again { transfer, keys: vec![ItemKey::Page(ChunkId([1; 32])), ItemKey::Chunk(5)] },
        Message::Committed { transfer, commit: vec![1; 40], receipt: vec![2; 40] },
        Message::Ping(5),
        Message::Goodbye,
    ]
    .iter()
    .map(codec::encode)
    .collect()
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    [AUTHORITY, CORE, DEVICE].map(<[u8]>::to_vec).to_vec()
}

/// A text, and the content of one.
fn token_seeds() -> Vec<Vec<u8>> {
    let content = [&[1; 32][..], &[2; 16], &[2, 14], b"core.site:4733", &[9], b"[::1]:473"].concat();
    vec![include_bytes!("../tests/fixtures/token-v1.txt").trim_ascii().to_vec(), content]
}

fn join_seeds() -> Vec<Vec<u8>> {
    let reply = JoinReply {
        certificate: DEVICE.to_vec(),
        name: "cam-1".into(),
        labels: vec![("site".into(), "north".into())],
        addresses: vec!["core.site:4733".into()],
    };
    let refusal = Refusal { code: "HW-1001".into(), message: "used up".into(), hint: "another".into() };
    let request = JoinMessage::Request {
        secret: vec![1; 16],
        name: "cam-1".into(),
        key: PublicKey([2; 32]),
        proof: Signature([3; 64]),
    };
    [request, JoinMessage::Admitted(reply), JoinMessage::Refused(refusal)].iter().map(codec::encode).collect()
}

fn item_seeds() -> Vec<Vec<u8>> {
    let header = |key, encoding| ItemHeader { transfer: 2, key, plain_bytes: 5000, payload_bytes: 300, encoding };
    let source = DeltaSource { id: ChunkId([1; 32]), offset: 5, length: 600 };
    [
        header(ItemKey::Chunk(5), Encoding::Plain { from_offset: 10 }),
        header(ItemKey::Page(ChunkId([2; 32])), Encoding::Zstd { from_offset: 0 }),
        header(ItemKey::Page(ChunkId([2; 32])), Encoding::Delta { sources: vec![source; 3] }),
    ]
    .iter()
    .map(codec::encode)
    .collect()
}

fn compressed_seeds() -> Vec<Vec<u8>> {
    let plain = b"the same words, ".repeat(64);
    let mut seed = ((plain.len() / 32) as u16).to_le_bytes().to_vec();
    seed.extend(compress::compress(&plain, 3).expect("repetition compresses"));
    vec![seed]
}

fn delta_seeds() -> Vec<Vec<u8>> {
    let prefix: Vec<u8> = (0..5000u32).flat_map(|number| ChunkId::of(&number.to_le_bytes()).0[..1].to_vec()).collect();
    let mut plain = prefix.clone();
    plain[2500] ^= 1;
    let frame = compress::encode_delta(&prefix, &plain).expect("almost a copy of the prefix is small");
    let length = (prefix.len() as u16).to_le_bytes();
    vec![[&length[..], &length, &prefix, &frame].concat()]
}
