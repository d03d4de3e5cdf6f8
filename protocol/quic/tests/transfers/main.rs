//! Versions between two peers over real QUIC on loopback, with stores in memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hostile;
mod memory;
mod priorities;
mod speed;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_protocol::id::ChunkId;
use headwater_protocol::wire::{Encoding, ItemHeader, ItemKey, Message, Refusal};
use headwater_quic::framing::append_frame;
use headwater_quic::session::{
    Asked, MemoryBudget, Priority, Session, SessionEvent, SessionEvents, SessionHandle, SessionOptions, Side,
};
use headwater_quic::transfer::{
    LoadedItem, ReceiveReport, SendReport, Source, SourceError, TransferError, no_progress,
};
use headwater_quic::{ClientOptions, ControlStream, connect};
use memory::{Store, Version, folder};

/// A session between a device and a core.
struct Pair {
    device: (SessionHandle, SessionEvents),
    core: (SessionHandle, SessionEvents),
    _core: support::Core,
}

async fn pair() -> Pair {
    pair_with(SessionOptions::default()).await
}

async fn pair_with(options: SessionOptions) -> Pair {
    pair_over(&support::quick(), options).await
}

async fn pair_over(dialling: &ClientOptions, options: SessionOptions) -> Pair {
    let core = support::core("core");
    let identity = support::device(&core, "cam-01");
    let (dialled, arrived) = tokio::join!(connect(core.address, &identity, dialling), support::session(&core));
    let (device, (core_side, _)) = (dialled.expect("connected"), arrived);
    let mut control = ControlStream::open(&device).await.expect("a stream");
    // The peer sees the stream with its first message.
    control.send(&Message::Ping(7)).await.expect("sent");
    let mut core_control = ControlStream::accept(&core_side).await.expect("a stream");
    assert_eq!(core_control.recv().await.expect("a message"), Some(Message::Ping(7)));
    Pair {
        device: Session::start(device, control, Side::Dialler, options.clone()),
        core: Session::start(core_side, core_control, Side::Listener, options),
        _core: core,
    }
}

/// More than any transfer here takes.
const PATIENCE: Duration = Duration::from_mins(1);

type Sent = Result<SendReport, TransferError>;
type Received = Result<ReceiveReport, TransferError>;

/// Publishes a version from the device to the core.
async fn publish(pair: &mut Pair, version: &Arc<Version>, store: &Store) -> (Sent, Received) {
    let source = Arc::clone(version);
    let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, source, no_progress());
    let receive = async {
        loop {
            match pair.core.1.next().await {
                Some(SessionEvent::Offer(offer)) => {
                    return pair.core.0.receive_version(offer, Arc::new(store.clone()), no_progress()).await;
                }
                Some(SessionEvent::Closed { reason }) => return Err(TransferError::Disconnected(reason)),
                None => return Err(TransferError::Disconnected("closed".into())),
                Some(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_moves_whole_and_then_only_its_changes() {
    let mut pair = pair().await;
    let store = Store::default();
    let mut folder = folder(3000, 4);
    let first = Version::of(&folder);
    let (sent, received) = publish(&mut pair, &first, &store).await;
    let (sent, received) = (sent.expect("sent"), received.expect("received"));
    assert!(store.has(&first));
    assert_eq!((sent.commit.as_slice(), sent.receipt.as_slice()), (&b"signed"[..], &b"receipt"[..]));
    assert_eq!(sent.wire.chunks, received.wire.chunks);
    assert_eq!((sent.pages, sent.chunks, sent.plain_bytes), (received.pages, received.chunks, received.plain_bytes));
    assert!(sent.saved_compression_bytes > 100_000, "the labels are text: {sent:?}");
    assert_eq!(sent.saved_dedup_bytes, 0);

    folder.insert("img/003/000700.jpg".into(), memory::noise(9999, 500));
    let second = Version::child_of(Some(first.id()), &folder);
    let lookups = store.0.page_lookups.load(Ordering::Relaxed);
    let (sent, received) = publish(&mut pair, &second, &store).await;
    let (sent, _) = (sent.expect("sent"), received.expect("received"));
    assert!(store.has(&second));
    assert!(sent.pages <= 3 && sent.chunks <= 2, "{sent:?}");
    assert!(store.0.page_lookups.load(Ordering::Relaxed) - lookups < 40);

    let (sent, received) = publish(&mut pair, &second, &store).await;
    let (sent, received) = (sent.expect("sent"), received.expect("received"));
    assert_eq!((sent.pages, sent.chunks), (0, 0));
    assert!(sent.wire.total() + received.wire.total() < 2000, "{sent:?} {received:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_costs_what_was_under_way() {
    let store = Store::default();
    *store.0.store_delay.lock().unwrap() = Duration::from_millis(3);
    let version = Version::of(&folder(2000, 30));
    let (mut chunk_bytes, mut cuts) = (0, 0);
    loop {
        let mut pair = pair().await;
        let before = store.0.chunks_taken.load(Ordering::Relaxed);
        let connection = pair.core.0.connection().clone();
        let cut = tokio::spawn({
            let store = store.clone();
            async move {
                while cuts < 3 && store.0.chunks_taken.load(Ordering::Relaxed) < before + 40 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if cuts < 3 {
                    connection.close(99u32.into(), b"cut");
                }
            }
        });
        let (sent, received) = publish(&mut pair, &version, &store).await;
        cut.await.expect("it only cuts");
        if let (Ok(sent), Ok(_)) = (&sent, &received) {
            chunk_bytes += sent.wire.chunks;
            break;
        }
        assert!(matches!(sent, Err(TransferError::Disconnected(_))), "{sent:?}");
        assert!(matches!(received, Err(TransferError::Disconnected(_))), "{received:?}");
        cuts += 1;
    }
    assert_eq!(cuts, 3);
    assert!(store.has(&version), "each cut went on where the last one stopped, and the store takes no chunk twice");
    let total = version.manifest.totals().bytes;
    assert!(chunk_bytes < total - 3 * 40 * 64 * 1024, "the last session sent {chunk_bytes} of {total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_bounded_whatever_the_disk_does() {
    let mut pair = pair_with(SessionOptions { window_bytes: 2 << 20, ..SessionOptions::default() }).await;
    let store = Store::default();
    *store.0.store_delay.lock().unwrap() = Duration::from_millis(20);
    let version = Version::of(&(0..10).map(|n| (format!("{n}.bin"), memory::noise(n, 2 << 20))).collect());
    let (sent, received) = publish(&mut pair, &version, &store).await;
    sent.expect("sent");
    received.expect("received");
    assert!(store.0.stores_max.load(Ordering::Relaxed) <= 2 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_bounds_what_all_transfers_hold() {
    let budget = MemoryBudget::new(8 << 20);
    let options = SessionOptions { memory: Some(budget.clone()), ..SessionOptions::default() };
    let mut pairs = Vec::new();
    for _ in 0..4 {
        pairs.push(pair_with(options.clone()).await);
    }
    let store = Store::lenient();
    *store.0.store_delay.lock().unwrap() = Duration::from_millis(10);
    let versions: Vec<_> =
        (0..4).map(|n| Version::of(&[("a.bin".to_owned(), memory::noise(n, 16 << 20))].into())).collect();
    let transfers = pairs.iter_mut().zip(&versions).map(|(pair, version)| publish(pair, version, &store));
    for (sent, received) in futures_util::future::join_all(transfers).await {
        sent.expect("sent");
        received.expect("received");
    }
    assert!(versions.iter().all(|version| store.has(version)));
    assert!(store.0.stores_max.load(Ordering::Relaxed) <= 8 << 20);
    assert_eq!(budget.used_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_compresses_well_is_bounded_too() {
    let mut pair = pair().await;
    let store = Store::default();
    *store.0.store_delay.lock().unwrap() = Duration::from_millis(5);
    // 100 MB of text, some hundred KB on the wire.
    let file = |number: u64| format!("{number} ").into_bytes().into_iter().cycle().take(10 << 20).collect();
    let version = Version::of(&(0..10).map(|number| (format!("{number}.txt"), file(number))).collect());
    let (sent, received) = publish(&mut pair, &version, &store).await;
    assert!(sent.expect("sent").wire.chunks < 1 << 20);
    received.expect("received");
    assert!(store.has(&version));
    assert!(store.0.stores_max.load(Ordering::Relaxed) <= 24 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_vanish_are_named_and_everything_else_arrives() {
    let mut pair = pair().await;
    let (store, version) = (Store::default(), Version::of(&folder(500, 5)));
    version.vanished.lock().unwrap().extend([3, 4, 9]);
    let (sent, received) = publish(&mut pair, &version, &store).await;
    let Err(TransferError::Unavailable(lacking)) = sent else { panic!("{sent:?}") };
    let ranges: Vec<_> = lacking.iter().map(|lacking| (lacking.range.first, lacking.range.count)).collect();
    assert_eq!(ranges, [(3, 2), (9, 1)]);
    assert_eq!(lacking[0].reason, "the file of chunk 3 is gone");
    assert!(matches!(received, Err(TransferError::Unavailable(_))), "{received:?}");
    assert!(!store.has(&version));
    version.vanished.lock().unwrap().clear();
    let (sent, received) = publish(&mut pair, &version, &store).await;
    received.expect("received");
    assert_eq!(sent.expect("sent").chunks, 3);
    assert!(store.has(&version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_to_the_sender() {
    let mut pair = pair().await;
    let (store, version) = (Store::default(), Version::of(&folder(500, 1)));
    store.0.full.store(true, Ordering::Relaxed);
    let (sent, received) = publish(&mut pair, &version, &store).await;
    assert!(matches!(&sent, Err(TransferError::Refused(refusal)) if refusal.code == "HW-4006"), "{sent:?}");
    assert!(matches!(received, Err(TransferError::Destination(_))), "{received:?}");
    store.0.full.store(false, Ordering::Relaxed);
    let (sent, received) = publish(&mut pair, &version, &store).await;
    sent.expect("the session goes on");
    received.expect("received");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deltas_travel_where_the_receiver_may_read_their_base() {
    for in_scope in [true, false] {
        let mut pair = pair().await;
        let store = Store::default();
        let mut folder = memory::Folder::new();
        folder.insert("model.bin".into(), memory::noise(1, 60_000));
        let first = Version::of(&folder);
        publish(&mut pair, &first, &store).await.0.expect("sent");
        folder.get_mut("model.bin").expect("there")[30_000] ^= 1;
        let second = Version::child_of(Some(first.id()), &folder);
        let (old, new) = (first.ordinals[0], second.ordinals[0]);
        let prefix = first.contents.lock().unwrap().chunks[&old].clone();
        let sources = vec![headwater_protocol::wire::DeltaSource { id: old, offset: 0, length: prefix.len() as u32 }];
        second.bases.lock().unwrap().insert(new, headwater_quic::transfer::DeltaBase { sources, prefix });
        if !in_scope {
            store.0.out_of_scope.lock().unwrap().insert(old);
        }
        let (sent, received) = publish(&mut pair, &second, &store).await;
        let (sent, received) = (sent.expect("sent"), received.expect("received"));
        assert!(store.has(&second));
        if in_scope {
            assert!(sent.wire.chunks < 200 && sent.saved_delta_bytes > 59_000, "{sent:?}");
            assert_eq!(received.wire.wasted, 0);
        } else {
            assert!(sent.wire.chunks > 60_000 && received.wire.wasted > 0, "{sent:?} {received:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_fetched_as_well_as_offered() {
    let mut pair = pair().await;
    let (store, version) = (Store::default(), Version::of(&folder(300, 2)));
    let fetch = pair.device.0.fetch_version("cams", version.id(), Arc::new(store.clone()), no_progress());
    let serve = async {
        let Some(SessionEvent::Fetch { transfer, dataset, version: asked }) = pair.core.1.next().await else {
            panic!("a fetch was expected")
        };
        assert_eq!((dataset.as_str(), asked), ("cams", version.id()));
        let source = Arc::clone(&version);
        pair.core.0.send_version_as(transfer, version.outgoing(), Priority::Subscribed, source, no_progress()).await
    };
    let (fetched, served) = tokio::join!(fetch, serve);
    fetched.expect("fetched");
    served.expect("served");
    assert!(store.has(&version));

    let asked = headwater_protocol::id::VersionId::of(b"another");
    let fetch = pair.device.0.fetch_version("cams", asked, Arc::new(store.clone()), no_progress());
    let serve = async {
        let Some(SessionEvent::Fetch { transfer, .. }) = pair.core.1.next().await else { panic!("a fetch") };
        let source = Arc::clone(&version);
        pair.core.0.send_version_as(transfer, version.outgoing(), Priority::Subscribed, source, no_progress()).await
    };
    let (fetched, served) = tokio::join!(fetch, serve);
    assert!(matches!(fetched, Err(TransferError::WrongVersion { .. })), "{fetched:?}");
    assert!(matches!(&served, Err(TransferError::Refused(refusal)) if refusal.code == "HW-3007"), "{served:?}");

    let fetch = pair.device.0.fetch_offer("cams", asked);
    let refuse = async {
        let Some(SessionEvent::Fetch { transfer, .. }) = pair.core.1.next().await else { panic!("a fetch") };
        pair.core.0.refuse(transfer, refusal("HW-2002")).await
    };
    let (fetched, refused) = tokio::join!(fetch, refuse);
    refused.expect("sent");
    assert!(matches!(&fetched, Err(TransferError::Refused(refusal)) if refusal.code == "HW-2002"), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_can_be_looked_at_before_it_is_taken() {
    let mut pair = pair().await;
    let (store, version) = (Store::default(), Version::of(&folder(300, 2)));
    let fetch = async {
        let offer = pair.device.0.fetch_offer("cams", version.id()).await.expect("offered");
        assert_eq!(&offer.commit[..], b"commit");
        pair.device.0.receive_version(offer, Arc::new(store.clone()), no_progress()).await
    };
    let serve = async {
        let Some(SessionEvent::Fetch { transfer, .. }) = pair.core.1.next().await else { panic!("a fetch") };
        let source = Arc::clone(&version);
        pair.core.0.send_version_as(transfer, version.outgoing(), Priority::Subscribed, source, no_progress()).await
    };
    let (fetched, served) = tokio::join!(fetch, serve);
    fetched.expect("fetched");
    served.expect("served");
    assert!(store.has(&version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lets_go_of_a_transfer_tells_the_other() {
    let mut pair = pair().await;
    let (store, version) = (Store::default(), Version::of(&folder(100, 30)));
    *store.0.store_delay.lock().unwrap() = Duration::from_millis(20);
    let short = Duration::from_millis(60);

    let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress());
    let receive = async {
        let Some(SessionEvent::Offer(offer)) = pair.core.1.next().await else { panic!("an offer") };
        let receive = pair.core.0.receive_version(offer, Arc::new(store.clone()), no_progress());
        tokio::time::timeout(short, receive).await.expect_err("it takes longer");
    };
    let (sent, ()) = tokio::join!(send, receive);
    assert!(matches!(&sent, Err(TransferError::Refused(refusal)) if refusal.code == "HW-3007"), "{sent:?}");

    let send = async {
        let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress());
        tokio::time::timeout(short, send).await.expect_err("it takes longer");
    };
    let receive = async {
        let Some(SessionEvent::Offer(offer)) = pair.core.1.next().await else { panic!("an offer") };
        pair.core.0.receive_version(offer, Arc::new(store.clone()), no_progress()).await
    };
    let ((), received) = tokio::join!(send, receive);
    assert!(matches!(received, Err(TransferError::Withdrawn)), "{received:?}");

    *store.0.store_delay.lock().unwrap() = Duration::ZERO;
    let (sent, received) = publish(&mut pair, &version, &store).await;
    sent.expect("the session goes on");
    received.expect("received");
    assert_eq!(pair.core.0.stats().transfers, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_carries_messages_and_ends_with_a_word() {
    let mut pair = pair().await;
    pair.device.0.send(Message::Follow { question: 1, names: vec!["cams".into()] }).await.expect("sent");
    let Some(SessionEvent::Message(Message::Follow { names, .. })) = pair.core.1.next().await else {
        panic!("a message")
    };
    assert_eq!(names, ["cams"]);
    assert!(pair.core.0.ping().await.expect("a round trip") < Duration::from_secs(5));
    pair.device.0.close(0, "going home");
    let Some(SessionEvent::Closed { reason }) = pair.core.1.next().await else { panic!("an end") };
    assert_eq!(reason, "the peer said goodbye");
    let Some(SessionEvent::Closed { reason }) = pair.device.1.next().await else { panic!("an end") };
    assert_eq!(reason, "going home");
    assert!(pair.device.1.next().await.is_none());
    assert!(pair.device.0.is_closed());
    assert!(pair.device.0.send(Message::Ping(1)).await.is_err());
    assert!(pair.device.0.ping().await.is_err());
}

/// Neither side waits for ever for one that is there and does nothing; one that works slowly is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_nothing_is_given_up_and_who_is_slow_is_not() {
    let options = SessionOptions { patience: Duration::from_secs(2), ..SessionOptions::default() };
    let pair = pair_with(options.clone()).await;
    let version = Version::of(&folder(3, 1));
    // The offer is taken by nobody, and by nobody refused.
    let sent = pair.device.0.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress());
    let sent = tokio::time::timeout(PATIENCE, sent).await.expect("an end");
    assert!(matches!(sent, Err(TransferError::Stalled(_))), "{sent:?}");
    let asked = tokio::time::timeout(PATIENCE, pair.device.0.fetch_offer("cams", version.id())).await.expect("an end");
    assert!(matches!(asked, Err(TransferError::Stalled(_))), "{asked:?}");

    // Each store takes longer than anybody's patience.
    let mut pair = pair_with(options).await;
    let store = Store::default();
    *store.0.store_delay.lock().unwrap() = Duration::from_secs(4);
    let (sent, received) = publish(&mut pair, &version, &store).await;
    sent.expect("sent");
    received.expect("received");
}

/// Chunks of a disk that is slower than anybody's patience.
struct SlowDisk(Arc<Version>, Duration);

impl Source for SlowDisk {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        self.0.page(id)
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        std::thread::sleep(self.1);
        self.0.chunk(ordinal)
    }
}

/// The patience of those whose peers are slow.
const SLOW_PATIENCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_is_waited_for() {
    let options = SessionOptions { patience: SLOW_PATIENCE, ..SessionOptions::default() };
    let mut pair = pair_with(options).await;
    let (store, version) = (Store::default(), Version::of(&folder(3, 0)));
    let source = Arc::new(SlowDisk(version.clone(), SLOW_PATIENCE * 2));
    let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, source, no_progress());
    let receive = async {
        let Some(SessionEvent::Offer(offer)) = pair.core.1.next().await else { panic!("an offer") };
        pair.core.0.receive_version(offer, Arc::new(store.clone()), no_progress()).await
    };
    let (sent, received) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await.expect("in time");
    received.expect("received");
    sent.expect("sent");
    assert!(store.has(&version));
}

/// Memory is set aside for what was granted: a sender whose disk has gone doesn't keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_not_read_at_all_is_not_waited_for_for_ever() {
    const SHORT: Duration = Duration::from_millis(300);
    const GONE: Duration = Duration::from_secs(20);
    let mut pair = pair_with(SessionOptions { patience: SHORT, ..SessionOptions::default() }).await;
    let (store, version) = (Store::default(), Version::of(&folder(3, 0)));
    let source = Arc::new(SlowDisk(version.clone(), GONE));
    let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, source, no_progress());
    let receive = async {
        let Some(SessionEvent::Offer(offer)) = pair.core.1.next().await else { panic!("an offer") };
        pair.core.0.receive_version(offer, Arc::new(store.clone()), no_progress()).await
    };
    let began = std::time::Instant::now();
    let (sent, received) = tokio::join!(send, receive);
    assert!(sent.is_err() && received.is_err(), "{sent:?} {received:?}");
    assert!(began.elapsed() < GONE, "the disk had answered by then");
}

/// Where a peer serves others first, whoever waits is told so, and waits longer than for one that does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_turn_is_not_given_up() {
    let mut pair = pair_with(SessionOptions { patience: SLOW_PATIENCE, ..SessionOptions::default() }).await;
    let version = Version::of(&folder(3, 0));
    let fetch = pair.device.0.fetch_offer("cams", version.id());
    let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress());
    let refusal = || Refusal { code: "HW-1".into(), message: "no".into(), hint: "none".into() };
    let core = pair.core.0.clone();
    let answer = async {
        let mut asked = Vec::new();
        while asked.len() < 2 {
            asked.push(match pair.core.1.next().await {
                Some(SessionEvent::Offer(offer)) => (Asked::Offer(offer.transfer), offer.transfer),
                Some(SessionEvent::Fetch { transfer, .. }) => (Asked::Fetch(transfer), transfer),
                other => panic!("{other:?}"),
            });
        }
        let turns = asked.into_iter().map(async |(asked, transfer)| {
            core.wait_turn(asked, tokio::time::sleep(SLOW_PATIENCE * 3)).await;
            core.refuse(transfer, refusal()).await.expect("sent");
        });
        futures_util::future::join_all(turns).await;
    };
    let all = async { tokio::join!(fetch, send, answer) };
    let (fetched, sent, ()) = tokio::time::timeout(PATIENCE, all).await.expect("in time");
    assert!(matches!(fetched, Err(TransferError::Refused(_))), "{fetched:?}");
    assert!(matches!(sent, Err(TransferError::Refused(_))), "{sent:?}");
}

/// A fetch waits as long as bytes flow: what is served before it is on the same link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_waits_while_bytes_flow() {
    let mut pair = pair_with(SessionOptions { patience: SLOW_PATIENCE, ..SessionOptions::default() }).await;
    let version = Version::of(&folder(3, 0));
    let fetch = pair.device.0.fetch_offer("cams", version.id());
    let core = pair.core.0.clone();
    let others = async {
        let Some(SessionEvent::Fetch { transfer, .. }) = pair.core.1.next().await else { panic!("a fetch") };
        let mut stream = core.connection().open_uni().await.expect("a stream");
        let began = std::time::Instant::now();
        while began.elapsed() < SLOW_PATIENCE * 3 {
            // Nobody knows a transfer like that: what comes of it is dropped.
            let key = ItemKey::Chunk(0);
            let encoding = Encoding::Plain { from_offset: 0 };
            let bytes = 40_000;
            let header = ItemHeader { transfer: 4000, key, plain_bytes: bytes, payload_bytes: bytes, encoding };
            let mut item = Vec::new();
            append_frame(&mut item, &header);
            item.resize(item.len() + bytes as usize, 7);
            // It is stopped, and the next one is another.
            let _ = stream.write_all(&item).await;
            stream = core.connection().open_uni().await.expect("a stream");
            tokio::time::sleep(SLOW_PATIENCE / 20).await;
        }
        let refusal = Refusal { code: "HW-1".into(), message: "no".into(), hint: "none".into() };
        core.refuse(transfer, refusal).await.expect("sent");
    };
    let (fetched, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(fetch, others) }).await.expect("in time");
    assert!(matches!(fetched, Err(TransferError::Refused(_))), "{fetched:?}");
}

/// What is being stored when its transfer ends still counts against the budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_given_back_when_nothing_holds_it_any_more() {
    let budget = MemoryBudget::new(8 << 20);
    let mut pair = pair_with(SessionOptions { memory: Some(budget.clone()), ..SessionOptions::default() }).await;
    let (store, version) = (Store::default(), Version::of(&folder(0, 1)));
    *store.0.store_delay.lock().unwrap() = Duration::from_secs(3);
    let send = pair.device.0.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress());
    let under_way = || store.0.bytes_in_store.load(Ordering::Relaxed);
    let send = async {
        let stored = async {
            while under_way() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            sent = send => panic!("{sent:?}"),
            () = stored => {}
        }
    };
    let receive = async {
        let Some(SessionEvent::Offer(offer)) = pair.core.1.next().await else { panic!("an offer") };
        let received = pair.core.0.receive_version(offer, Arc::new(store.clone()), no_progress()).await;
        (received, budget.used_bytes(), under_way())
    };
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await;
    let ((), (received, used, held)) = both.expect("in time");
    assert!(matches!(received, Err(TransferError::Withdrawn)), "{received:?}");
    assert!(held > 0 && used >= held, "{used} {held}");
    let given_back = async {
        while budget.used_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("in time");
    assert_eq!(under_way(), 0);
}

/// A daemon that dropped the events answers no offer: the session does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_nobody_takes_is_refused() {
    let Pair { device, core: (core, events), _core } = pair().await;
    drop(events);
    let version = Version::of(&folder(3, 0));
    let sent = device.0.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress());
    let refused = tokio::time::timeout(PATIENCE, sent).await.expect("an answer");
    assert!(matches!(&refused, Err(TransferError::Refused(refusal)) if refusal.code == "HW-3008"), "{refused:?}");
    assert_eq!(core.stats().transfers, 0);
    device.0.ping().await.expect("the session goes on");
}

/// Several versions at once, both ways, on one session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_do_not_disturb_each_other() {
    let Pair { device, core, _core } = pair().await;
    let versions: Vec<_> = (0..6).map(|n| Version::of(&folder(50 + n * 97, n % 3))).collect();
    let take = |(handle, mut events): (SessionHandle, SessionEvents), store: Store| async move {
        let mut tasks = Vec::new();
        while tasks.len() < 6 {
            let Some(SessionEvent::Offer(offer)) = events.next().await else { panic!("an offer") };
            let (handle, store) = (handle.clone(), Arc::new(store.clone()));
            tasks.push(tokio::spawn(async move { handle.receive_version(offer, store, no_progress()).await }));
        }
        for task in tasks {
            task.await.expect("no panic").expect("received");
        }
    };
    // One store each way would meet the same chunk in two transfers at once, which this store refuses.
    let offer = |handle: SessionHandle, version: Arc<Version>| async move {
        handle.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress()).await.expect("sent")
    };
    let all = async {
        let sends = versions
            .iter()
            .flat_map(|version| [offer(device.0.clone(), version.clone()), offer(core.0.clone(), version.clone())]);
        futures_util::future::join_all(sends).await
    };
    let (to_core, to_device) = (Store::lenient(), Store::lenient());
    let handles = (device.0.clone(), core.0.clone());
    tokio::join!(all, take((handles.1, core.1), to_core.clone()), take((handles.0, device.1), to_device.clone()));
    assert!(versions.iter().all(|version| to_core.has(version) && to_device.has(version)));
}

pub(crate) fn refusal(code: &str) -> headwater_protocol::wire::Refusal {
    headwater_protocol::wire::Refusal { code: code.into(), message: "no".into(), hint: "none".into() }
}
