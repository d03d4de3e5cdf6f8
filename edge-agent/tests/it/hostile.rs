//! A core that asks for everything gets nothing of a local dataset: not a name, not a hash, not a byte.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_host::version::{self, BuildContext, BuildOptions, LocalChunks, NoChunks, NoStamps, PublishMode};
use headwater_protocol::codec::{encode, encode_stored};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::name::DatasetName;
use headwater_protocol::tree::{MemoryPages, PageSource};
use headwater_protocol::trust::Token;
use headwater_protocol::wire::{Following, Message, News, OrdinalRange, PROTOCOL_REVISION, Refusal, Welcome};
use headwater_quic::session::{Priority, Session, SessionEvent, SessionOptions, Side};
use headwater_quic::transfer::{LoadedItem, OutgoingVersion, Source, SourceError, no_progress};
use headwater_quic::{
    Arrival, Authority, ControlStream, Identity, JoinDesk, JoinReply, JoinRequest, Listener, ServerOptions, listen,
    serve_join,
};
use tokio::runtime::Runtime;

use crate::support::{Device, noise, put, texts};

/// A core of the test's own, which does as it likes.
struct Hostile {
    runtime: Runtime,
    listener: Listener,
    authority: Arc<Authority>,
    identity: Identity,
    _folder: tempfile::TempDir,
}

struct Desk(Arc<Authority>);

impl JoinDesk for Desk {
    fn admit<'a>(
        &'a self,
        request: JoinRequest,
    ) -> Pin<Box<dyn Future<Output = Result<JoinReply, Refusal>> + Send + 'a>> {
        Box::pin(async move {
            let certificate = self.0.issue_device(&request.key, &request.name).expect("a certificate");
            Ok(JoinReply { certificate, name: request.name, labels: Vec::new(), addresses: Vec::new() })
        })
    }
}

impl Hostile {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Arc::new(Authority::create(folder.path(), "hostile").expect("an authority"));
        let identity = authority.core_identity(folder.path(), "hostile").expect("an identity");
        let runtime = Runtime::new().expect("a runtime");
        let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let listener = {
            let _inside = runtime.enter();
            listen(address, &authority, &identity, &ServerOptions::default()).expect("listens")
        };
        Self { runtime, listener, authority, identity, _folder: folder }
    }

    /// Lets a device join, the way it always does.
    fn join(&self, device: &Device) {
        let address = self.listener.local_address().expect("an address").to_string();
        let token = Token::new(vec![address], self.authority.fingerprint(), [7; 16]).expect("a token").to_text();
        let (listener, authority) = (self.listener.clone(), Arc::clone(&self.authority));
        let joining = self.runtime.spawn(async move {
            let arriving = listener.accept().await.expect("one who knocks");
            let Arrival::Join(connection) = arriving.finish().await.expect("a handshake") else {
                panic!("a session instead of joining")
            };
            serve_join(connection, &Desk(authority)).await.expect("served").expect("admitted");
        });
        device.run(&["join", &token, "--name", "victim"]);
        self.runtime.block_on(joining).expect("joined");
    }
}

async fn welcome(listener: Listener) -> (quinn::Connection, ControlStream) {
    let arriving = listener.accept().await.expect("one who knocks");
    let Arrival::Session { connection, .. } = arriving.finish().await.expect("a handshake") else {
        panic!("joining instead of a session")
    };
    let mut control = ControlStream::accept(&connection).await.expect("a control stream");
    let Message::Hello(_) = control.expect().await.expect("a message") else { panic!("no hello") };
    let welcome = Welcome {
        revision: PROTOCOL_REVISION,
        nonce: vec![1; 16],
        name: "victim".to_owned(),
        labels: Vec::new(),
        certificate: Vec::new(),
    };
    control.send(&Message::Welcome(welcome)).await.expect("sent");
    (connection, control)
}

/// Everything that the catalog knows of a local dataset by hash: its version, its pages, its chunks.
fn local_ids(device: &Device, dataset: &str) -> Vec<[u8; 32]> {
    let raw = rusqlite::Connection::open(device.data().join("catalog.db")).expect("opened");
    let mut ids = Vec::new();
    for query in [
        "SELECT version FROM versions JOIN datasets ON versions.dataset = datasets.id WHERE name = ?1",
        "SELECT pages.id FROM pages JOIN datasets ON pages.dataset = datasets.id WHERE name = ?1",
    ] {
        let mut statement = raw.prepare(query).expect("prepared");
        let rows = statement.query_map([dataset], |row| row.get::<_, Vec<u8>>(0)).expect("asked");
        ids.extend(rows.map(|row| <[u8; 32]>::try_from(row.expect("a row").as_slice()).expect("an id")));
    }
    ids
}

#[test]
fn nothing_of_a_local_dataset_is_given_whatever_is_asked() {
    let hostile = Hostile::start();
    let device = Device::new();
    hostile.join(&device);
    let secret = device.files("hidden-folder");
    put(&secret, "hidden-file.bin", noise(70, 200_000));
    put(&secret, "hidden-small.txt", "hidden words in a small file");
    device.run(&["local", secret.to_str().expect("UTF-8"), "--dataset", "hidden-name"]);
    let open = device.files("open");
    put(&open, "open.txt", "this may go");
    // An offline build fills the catalog before the core asks.
    let _ = device.output(&["sync", "--once"]);
    device.publish(&open, "open");

    let mut ids = local_ids(&device, "hidden-name");
    assert!(ids.len() >= 2, "the local dataset was not built");
    ids.push(*ChunkId::of(b"hidden words in a small file").as_bytes());
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let refusals: Arc<Mutex<Vec<(u32, Refusal)>>> = Arc::default();
    let serving = hostile.runtime.spawn(ask_for_everything(
        hostile.listener.clone(),
        ids.clone(),
        Arc::clone(&heard),
        Arc::clone(&refusals),
    ));
    let _ = device.output(&["sync", "--once"]);
    serving.abort();

    let heard = heard.lock().expect("unlocked").concat();
    assert!(contains(&heard, b"open"), "the published dataset was not even offered");
    for (what, bytes) in [
        ("the dataset's name", b"hidden-name".to_vec()),
        ("the folder's name", b"hidden-folder".to_vec()),
        ("a file's name", b"hidden-file".to_vec()),
        ("a small file's bytes", b"hidden words".to_vec()),
        ("a large file's bytes", noise(70, 64)),
    ] {
        assert!(!contains(&heard, &bytes), "{what} left the device");
    }
    for id in &ids {
        assert!(!contains(&heard, id), "a hash of a local dataset left the device");
    }
    let refusals = refusals.lock().expect("unlocked");
    let of = |transfer: u32| refusals.iter().find(|(asked, _)| *asked == transfer).map(|(_, refusal)| refusal);
    assert!(of(1).is_some() && of(1) == of(3), "a local dataset is answered unlike one that isn't there: {refusals:?}");
}

/// Asks for versions, pages and chunks that it has no business with, and keeps every byte that it hears.
async fn ask_for_everything(
    listener: Listener,
    ids: Vec<[u8; 32]>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    refusals: Arc<Mutex<Vec<(u32, Refusal)>>>,
) {
    let (connection, mut control) = Box::pin(welcome(listener)).await;
    let streams = connection.clone();
    let stream_heard = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok(mut stream) = streams.accept_uni().await {
            let heard = Arc::clone(&stream_heard);
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                    heard.lock().expect("unlocked").push(chunk.bytes.to_vec());
                }
            });
        }
    });
    let fetch = |transfer, dataset: &str, version: [u8; 32]| Message::Fetch {
        transfer,
        dataset: dataset.to_owned(),
        version: VersionId(version),
    };
    while let Ok(Some(message)) = control.recv().await {
        heard.lock().expect("unlocked").push(encode(&message));
        match message {
            Message::Heads { question: number, .. } => {
                for question in
                    [fetch(1, "hidden-name", ids[0]), fetch(3, "never-was", ids[0]), fetch(5, "open", ids[0])]
                {
                    control.send(&question).await.expect("sent");
                }
                control
                    .send(&Message::HeadsAre { question: number, heads: Vec::new(), ended: Vec::new() })
                    .await
                    .expect("sent");
            }
            Message::Refused { transfer: Some(transfer), refusal } => {
                refusals.lock().expect("unlocked").push((transfer, refusal));
            }
            Message::Offer { transfer, .. } => {
                control.send(&Message::Grant { transfer, bytes: 1 << 30 }).await.expect("sent");
                let ids = ids.iter().map(|id| ChunkId(*id)).collect();
                control.send(&Message::NeedPages { transfer, ids }).await.expect("sent");
                let ranges = vec![OrdinalRange { first: 0, count: 10_000 }];
                let _ = control.send(&Message::NeedChunks { transfer, ranges, partial: Vec::new() }).await;
                let connection = connection.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    connection.close(0u32.into(), b"");
                });
            }
            _ => {}
        }
    }
}

#[test]
fn an_answer_to_an_earlier_question_is_not_taken_for_this_one() {
    let hostile = Hostile::start();
    let device = Device::new();
    hostile.join(&device);
    let files = device.files("cam");
    put(&files, "a.bin", noise(72, 1000));
    device.publish(&files, "cam");
    let listener = hostile.listener.clone();
    let serving = hostile.runtime.spawn(async move {
        let (_connection, mut control) = Box::pin(welcome(listener)).await;
        while let Ok(Some(message)) = control.recv().await {
            match message {
                Message::Heads { question, .. } => {
                    // What answers a question that was given up comes first, and knows of nothing.
                    let late =
                        Message::HeadsAre { question: question.wrapping_sub(1), heads: Vec::new(), ended: Vec::new() };
                    control.send(&late).await.expect("sent");
                    let version = VersionId::of(b"a version that is not here");
                    let heads = vec![Following { dataset: "cam".to_owned(), number: 3, version }];
                    control.send(&Message::HeadsAre { question, heads, ended: Vec::new() }).await.expect("sent");
                }
                Message::Fetch { .. } => return "it asks for the version that it does not know",
                Message::Offer { .. } => return "it publishes anew",
                _ => {}
            }
        }
        "it went away"
    });
    let _ = device.output(&["sync", "--once"]);
    let did = hostile.runtime.block_on(serving).expect("served");
    assert_eq!(did, "it asks for the version that it does not know");
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// A version in a folder of the test's own, for sending it to a device.
struct Offered {
    pages: Arc<MemoryPages>,
    chunks: LocalChunks,
}

impl Source for Offered {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        Ok(LoadedItem::plain(self.pages.page(id).map_err(|_| SourceError::OutOfScope)?.encode()))
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        Ok(LoadedItem::plain(self.chunks.chunk(ordinal).map_err(|_| SourceError::OutOfScope)?))
    }
}

fn offered(folder: &Path) -> (Vec<u8>, Offered) {
    let pages = Arc::new(MemoryPages::new());
    let options = BuildOptions {
        scan: headwater_host::scan::ScanOptions { settle: Duration::ZERO, ..Default::default() },
        ..BuildOptions::default()
    };
    let context = BuildContext {
        earlier: None,
        stamps: &mut NoStamps,
        absent: &PublishMode::Mirror,
        pages: &mut &*pages,
        chunks: &NoChunks,
        progress: &mut |_| {},
    };
    let (built, _) = version::build(folder, &options, context).expect("built");
    let built = built.expect("a version");
    let chunks = LocalChunks::new(folder, built.manifest, Arc::clone(&pages) as _).expect("opened");
    (built.body, Offered { pages, chunks })
}

#[test]
fn a_subscription_never_says_that_a_local_dataset_has_a_chunk() {
    let hostile = Hostile::start();
    let device = Device::new();
    hostile.join(&device);
    let guess = noise(71, 300_000);
    let secret = device.files("secret");
    put(&secret, "secret.bin", &guess);
    device.run(&["local", secret.to_str().expect("UTF-8"), "--dataset", "secret"]);
    device.sync();
    let to = device.files("in");
    device.subscribe("bait", &to);

    // The core guesses what the device has, and watches whether it asks for it.
    let bait = tempfile::tempdir().expect("a folder");
    put(bait.path(), "bait.bin", &guess);
    let (manifest, source) = offered(bait.path());
    let version = VersionId::of(&manifest);
    let name = DatasetName::new("bait").expect("a name");
    let identity = &hostile.identity;
    let record = CommitRecord::sign_as_author(&name, 1, version, identity, identity.certificate().to_vec())
        .countersign(identity, identity.certificate().to_vec());
    let outgoing = OutgoingVersion {
        dataset: "bait".to_owned(),
        manifest: manifest.into(),
        commit: encode_stored(&record).into(),
    };
    let listener = hostile.listener.clone();
    let serving = hostile.runtime.spawn(async move {
        let (connection, control) = Box::pin(welcome(listener)).await;
        let (handle, mut events) = Session::start(connection, control, Side::Listener, SessionOptions::default());
        let source = Arc::new(source);
        while let Some(event) = events.next().await {
            match event {
                SessionEvent::Message(Message::Follow { question, .. }) => {
                    let newest = Following { dataset: "bait".to_owned(), number: 1, version };
                    let list = vec![News { name: "bait".to_owned(), newest }];
                    handle.send(Message::News { question, list }).await.expect("sent");
                    let done = Message::FollowDone { question, unmatched: Vec::new(), refused: None };
                    handle.send(done).await.expect("sent");
                }
                SessionEvent::Fetch { transfer, .. } => {
                    let (handle, outgoing, source) = (handle.clone(), outgoing.clone(), Arc::clone(&source));
                    let sent = handle
                        .send_version_as(transfer, outgoing, Priority::Bulk, source, no_progress())
                        .await
                        .expect("sent");
                    return sent.plain_bytes;
                }
                _ => {}
            }
        }
        0
    });
    let output = device.output(&["sync", "--once"]);
    let plain_bytes = hostile.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), serving).await });
    let plain_bytes = plain_bytes.unwrap_or_else(|_| panic!("nothing was fetched: {:?}", texts(&output)));
    assert!(plain_bytes.expect("served") >= 300_000, "the device said that it had a local dataset's bytes");
    assert_eq!(std::fs::read(to.join("current/bait.bin")).expect("there"), guess);
}

#[test]
fn a_core_that_cannot_look_now_is_asked_again_in_the_same_session() {
    let core = Hostile::start();
    let device = Device::new();
    core.join(&device);
    device.subscribe("bait", &device.files("in"));
    let listener = core.listener.clone();
    let (told, hears) = std::sync::mpsc::channel();
    core.runtime.spawn(async move {
        let (connection, control) = Box::pin(welcome(listener)).await;
        let (handle, mut events) = Session::start(connection, control, Side::Listener, SessionOptions::default());
        while let Some(event) = events.next().await {
            if let SessionEvent::Message(Message::Follow { question, names }) = event {
                told.send((question, names)).expect("heard");
                let refusal = Refusal { code: "HW-6003".into(), message: "not now".into(), hint: "wait".into() };
                let done = Message::FollowDone { question, unmatched: Vec::new(), refused: Some(refusal) };
                handle.send(done).await.expect("sent");
            }
        }
    });
    let _daemon = device.start();
    let asked: Vec<_> = (0..3).map(|_| hears.recv_timeout(Duration::from_mins(1)).expect("asked again")).collect();
    assert!(asked.iter().all(|(_, names)| names == &["bait"]), "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[0].0 != pair[1].0), "a question's number was used twice: {asked:?}");
}
