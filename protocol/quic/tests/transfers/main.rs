//! Versions between two peers over real QUIC on loopback, with stores in memory.

mod memory;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_protocol::wire::Message;
use headwater_quic::ControlStream;
use headwater_quic::session::{Priority, Session, SessionEvent, SessionEvents, SessionHandle, SessionOptions, Side};
use headwater_quic::transfer::{ReceiveReport, SendReport, TransferError, no_progress};
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
    let core = support::core("core");
    let identity = support::device(&core, "cam-01");
    let (dialled, arrived) = tokio::join!(support::dial(core.address, &identity), support::session(&core));
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
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(send, receive) }).await.expect("in time")
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
