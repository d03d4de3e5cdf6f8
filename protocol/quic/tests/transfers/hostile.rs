//! Peers that don't keep to the protocol: what they get is an end that names what they did.

use bytes::Bytes;
use headwater_protocol::sync::Violation;
use headwater_protocol::wire::OrdinalRange;
use quinn::Connection;

use super::*;

/// A core with a session, and a device that writes to the connection by hand.
struct Raw {
    connection: Connection,
    control: ControlStream,
    core: (SessionHandle, SessionEvents),
    _core: support::Core,
}

async fn raw() -> Raw {
    let core = support::core("core");
    let identity = support::device(&core, "cam-01");
    let (dialled, arrived) = tokio::join!(support::dial(core.address, &identity), support::session(&core));
    let (connection, (core_side, _)) = (dialled.expect("connected"), arrived);
    let mut control = ControlStream::open(&connection).await.expect("a stream");
    control.send(&Message::Ping(7)).await.expect("sent");
    let mut core_control = ControlStream::accept(&core_side).await.expect("a stream");
    core_control.recv().await.expect("a message");
    let session = Session::start(core_side, core_control, Side::Listener, SessionOptions::default());
    Raw { connection, control, core: session, _core: core }
}

impl Raw {
    /// Offers a version and lets the core receive it.
    async fn offer(&mut self, version: &Version, store: &Store) -> tokio::task::JoinHandle<Received> {
        let offer =
            Message::Offer { transfer: 0, dataset: "cams".into(), manifest: version.body.to_vec(), commit: vec![] };
        self.control.send(&offer).await.expect("sent");
        let Some(SessionEvent::Offer(offer)) = self.core.1.next().await else { panic!("an offer") };
        let (handle, store) = (self.core.0.clone(), store.clone());
        tokio::spawn(async move { handle.receive_version(offer, Arc::new(store), no_progress()).await })
    }

    /// Sends items on a stream of their own.
    async fn items(&self, items: &[(ItemHeader, Bytes)]) -> quinn::SendStream {
        let mut stream = self.connection.open_uni().await.expect("a stream");
        for (header, payload) in items {
            let mut bytes = Vec::new();
            append_frame(&mut bytes, header);
            bytes.extend_from_slice(payload);
            // It may be stopped by now.
            let _ = stream.write_all(&bytes).await;
        }
        stream
    }

    /// Reads messages until one fits.
    async fn until<T>(&mut self, mut fits: impl FnMut(&Message) -> Option<T>) -> T {
        loop {
            let message = self.control.recv().await.expect("open").expect("a message");
            if let Some(found) = fits(&message) {
                return found;
            }
        }
    }

    async fn refused(&mut self) -> String {
        self.until(|message| match message {
            Message::Refused { transfer: Some(0), refusal } => Some(refusal.code.clone()),
            _ => None,
        })
        .await
    }
}

fn plain(key: ItemKey, bytes: &Bytes) -> (ItemHeader, Bytes) {
    let length = bytes.len() as u32;
    let encoding = Encoding::Plain { from_offset: 0 };
    (ItemHeader { transfer: 0, key, plain_bytes: length, payload_bytes: length, encoding }, bytes.clone())
}

fn root_page(version: &Version) -> (ItemHeader, Bytes) {
    let id = version.manifest.root.as_ref().expect("a root").id;
    let bytes = version.contents.lock().unwrap().pages[&id].clone();
    plain(ItemKey::Page(id), &bytes)
}

fn small_version() -> Arc<Version> {
    Version::of(&[("a.bin".to_owned(), memory::noise(1, 5000))].into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_than_the_hash_says_end_the_transfer() {
    let mut pair = pair().await;
    let (store, version) = (Store::default(), Version::of(&folder(100, 3)));
    version.forged.lock().unwrap().insert(2);
    let (sent, received) = publish(&mut pair, &version, &store).await;
    assert!(
        matches!(received, Err(TransferError::Violation(Violation::WrongBytes(ItemKey::Chunk(2))))),
        "{received:?}"
    );
    assert!(matches!(&sent, Err(TransferError::Refused(refusal)) if refusal.code == "HW-3005"), "{sent:?}");
    assert!(!store.0.contents.lock().unwrap().chunks.contains_key(&version.ordinals[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_nobody_asked_for_end_the_transfer() {
    let version = small_version();
    let bytes = Bytes::from_static(b"whatever");
    let chunk = version.contents.lock().unwrap().chunks[&version.ordinals[0]].clone();
    let page = root_page(&version);
    let cases = [
        vec![plain(ItemKey::Page(ChunkId::of(&bytes)), &bytes)],
        vec![plain(ItemKey::Chunk(0), &chunk)],
        vec![plain(ItemKey::Chunk(77), &bytes)],
        vec![page.clone(), page],
    ];
    for items in cases {
        let mut raw = raw().await;
        let store = Store::default();
        let received = raw.offer(&version, &store).await;
        let asked = |message: &Message| matches!(message, Message::NeedPages { .. }).then_some(());
        raw.until(asked).await;
        let _stream = raw.items(&items).await;
        let received = received.await.expect("no panic");
        let expected = items[items.len() - 1].0.key;
        assert!(
            matches!(&received, Err(TransferError::Violation(Violation::Unasked(key))) if *key == expected),
            "{received:?}"
        );
        assert_eq!(raw.refused().await, "HW-3003");
        assert!(raw.core.0.ping_works(&mut raw.control).await);
    }
}

impl SessionHandle2 for SessionHandle {}

/// Whether a session still answers a peer that writes by hand.
trait SessionHandle2 {
    async fn ping_works(&self, control: &mut ControlStream) -> bool {
        control.send(&Message::Ping(42)).await.expect("sent");
        loop {
            match control.recv().await.expect("open") {
                Some(Message::Pong(42)) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_was_granted_is_not_read() {
    let mut raw = raw().await;
    let version = Version::of(&[("a.bin".to_owned(), memory::noise(1, 12 << 20))].into());
    let store = Store::default();
    *store.0.store_delay.lock().unwrap() = Duration::from_secs(30);
    let received = raw.offer(&version, &store).await;
    raw.until(|message| matches!(message, Message::NeedPages { .. }).then_some(())).await;
    let page = root_page(&version);
    raw.items(&[page]).await.finish().expect("open");
    // The page is never durable, but its chunks are asked for at once.
    let ranges = raw
        .until(|message| match message {
            Message::NeedChunks { ranges, .. } => Some(ranges.clone()),
            _ => None,
        })
        .await;
    let items: Vec<_> = ranges
        .iter()
        .flat_map(|range| range.first..range.first + range.count)
        .map(|ordinal| {
            let item = version.chunk(ordinal).expect("there");
            let headwater_quic::transfer::ItemBody::Plain(bytes) = item.body else { panic!("plain") };
            plain(ItemKey::Chunk(ordinal), &bytes)
        })
        .collect();
    let _stream = raw.items(&items).await;
    let received = received.await.expect("no panic");
    let Err(TransferError::Violation(Violation::OverGrant { granted, .. })) = received else { panic!("{received:?}") };
    // One item may be longer than what is left of a grant, and the window has room for it.
    assert_eq!(
        granted,
        SessionOptions::default().window_bytes - u64::from(headwater_protocol::wire::PAYLOAD_BYTES_MAX)
    );
    assert_eq!(raw.refused().await, "HW-3003");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_chunk_goes_on_where_it_stopped() {
    let store = Store::default();
    let bytes = memory::noise(5, 60_000);
    let version = Version::of(&[("a.bin".to_owned(), bytes.clone())].into());
    let mut raw = raw().await;
    let received = raw.offer(&version, &store).await;
    raw.until(|message| matches!(message, Message::NeedPages { .. }).then_some(())).await;
    let _pages = raw.items(&[root_page(&version)]).await;
    raw.until(|message| matches!(message, Message::NeedChunks { .. }).then_some(())).await;
    let (header, payload) = plain(ItemKey::Chunk(0), &Bytes::from(bytes));
    let _chunk = raw.items(&[(header, payload.slice(..40_000))]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    raw.connection.close(1u32.into(), b"cut");
    assert!(matches!(received.await.expect("no panic"), Err(TransferError::Disconnected(_))));
    let kept = store.0.prefixes.lock().unwrap()[&version.ordinals[0]].clone();
    assert_eq!(kept, payload.slice(..40_000));

    let mut pair = pair().await;
    let (sent, received) = publish(&mut pair, &version, &store).await;
    received.expect("received");
    assert_eq!(sent.expect("sent").wire.chunks, 20_000);
    assert!(store.has(&version));

    // A prefix that is wrong costs one more round.
    let store = Store::default();
    store.0.prefixes.lock().unwrap().insert(version.ordinals[0], Bytes::from(memory::noise(6, 10_000)));
    let (sent, received) = publish(&mut pair, &version, &store).await;
    assert_eq!(sent.expect("sent").wire.chunks, 50_000 + 60_000);
    assert_eq!(received.expect("received").wire.wasted, 50_000);
    assert!(store.has(&version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_stop_halfway_are_let_go_with_their_transfer() {
    let bytes = Bytes::from(memory::noise(5, 60_000));
    let version = Version::of(&[("a.bin".to_owned(), bytes.to_vec())].into());
    let mut raw = raw().await;
    let received = raw.offer(&version, &Store::default()).await;
    raw.until(|message| matches!(message, Message::NeedPages { .. }).then_some(())).await;
    let mut between = raw.items(&[root_page(&version)]).await;
    raw.until(|message| matches!(message, Message::NeedChunks { .. }).then_some(())).await;
    let (header, payload) = plain(ItemKey::Chunk(0), &bytes);
    let mut halfway = raw.items(&[(header, payload.slice(..40_000))]).await;
    raw.control.send(&Message::Withdraw { transfer: 0 }).await.expect("sent");
    assert!(matches!(received.await.expect("no panic"), Err(TransferError::Withdrawn)));
    for stream in [&mut between, &mut halfway] {
        let stopped = tokio::time::timeout(PATIENCE, stream.stopped()).await;
        assert_eq!(stopped.expect("let go").expect("open"), Some(0x201u32.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_over_the_limit_close_the_connection() {
    for on_control in [true, false] {
        let core = support::core("core");
        let identity = support::device(&core, "cam-01");
        let (dialled, arrived) = tokio::join!(support::dial(core.address, &identity), support::session(&core));
        let (connection, (core_side, _)) = (dialled.expect("connected"), arrived);
        let (mut control, _answers) = connection.open_bi().await.expect("a stream");
        let mut ping = Vec::new();
        append_frame(&mut ping, &Message::Ping(1));
        control.write_all(&ping).await.expect("written");
        let core_control = ControlStream::accept(&core_side).await.expect("a stream");
        let (_session, mut events) = Session::start(core_side, core_control, Side::Listener, SessionOptions::default());
        let mut stream = if on_control { control } else { connection.open_uni().await.expect("a stream") };
        stream.write_all(&u32::MAX.to_le_bytes()).await.expect("written");
        let Some(SessionEvent::Closed { reason }) = events.next().await else { panic!("an end") };
        assert!(reason.contains("protocol") || reason.contains("closed"), "{reason}");
        let error = connection.closed().await;
        let (code, _) = headwater_quic::endpoint::close::said(&error).expect("closed on purpose");
        assert_eq!(code, headwater_quic::endpoint::close::PROTOCOL);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_asks_for_what_is_not_there_ends_the_transfer() {
    let version = small_version();
    let cases = [
        Message::NeedChunks { transfer: 1, ranges: vec![OrdinalRange { first: 0, count: u64::MAX }], partial: vec![] },
        Message::Stored { transfer: 1, ranges: vec![OrdinalRange { first: 5, count: 1 }] },
        Message::Incomplete { transfer: 1 },
        Message::Unavailable { transfer: 1, ranges: vec![OrdinalRange { first: 0, count: 1 }] },
    ];
    for message in cases {
        let mut raw = raw().await;
        let (handle, version) = (raw.core.0.clone(), version.clone());
        let sent = tokio::spawn(async move {
            handle.send_version(version.outgoing(), Priority::Bulk, version.clone(), no_progress()).await
        });
        raw.until(|message| matches!(message, Message::Offer { .. }).then_some(())).await;
        raw.control.send(&message).await.expect("sent");
        let sent = sent.await.expect("no panic");
        assert!(matches!(sent, Err(TransferError::Violation(_))), "{message:?}: {sent:?}");
        raw.until(|message| matches!(message, Message::Withdraw { transfer: 1 }).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_learns_nothing_from_a_hash() {
    let mut raw = raw().await;
    let version = small_version();
    let (handle, offered) = (raw.core.0.clone(), version.clone());
    let sent = tokio::spawn(async move {
        handle.send_version(offered.outgoing(), Priority::Bulk, offered.clone(), no_progress()).await
    });
    raw.until(|message| matches!(message, Message::Offer { .. }).then_some(())).await;
    let secret = ChunkId::of(b"a page of another dataset");
    raw.control.send(&Message::NeedPages { transfer: 1, ids: vec![secret] }).await.expect("sent");
    let sent = sent.await.expect("no panic");
    assert!(matches!(&sent, Err(TransferError::Source { key: ItemKey::Page(id), .. }) if *id == secret), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_none_is_refused() {
    let mut raw = raw().await;
    let offer = Message::Offer { transfer: 0, dataset: "cams".into(), manifest: vec![1; 100], commit: vec![] };
    raw.control.send(&offer).await.expect("sent");
    let Some(SessionEvent::Offer(offer)) = raw.core.1.next().await else { panic!("an offer") };
    let received = raw.core.0.receive_version(offer, Arc::new(Store::default()), no_progress()).await;
    assert!(matches!(received, Err(TransferError::Manifest(_))), "{received:?}");
    assert_eq!(raw.refused().await, "HW-3004");
}
