//! A core that was taken over: it has the keys, so devices talk to it, and it wants what is not its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::name::{DatasetName, NamePattern};
use headwater_protocol::wire::{Following, Hello, ItemKey, Message, News, OrdinalRange, PROTOCOL_REVISION, Welcome};
use headwater_quic::{Arrival, Authority, Identity, Listener, ServerOptions, listen, work};
use quinn::{Connection, RecvStream};

use super::runtime;
use super::wire::{Heard, Wire};
use super::{Forgery, Item};
use crate::processes::{CoreProcess, wait_for};

/// Bytes of one item stream that are kept.
const STREAM_BYTES_MAX: usize = 16 << 20;

/// What a hostile core does to the devices that connect.
#[derive(Clone, Debug, Default)]
pub struct Conduct {
    /// Versions that it has for subscribers, by dataset.
    pub versions: HashMap<String, Forgery>,
    /// It keeps a session on which nothing is said.
    pub is_patient: bool,
    /// What it says are the newest versions of devices' own datasets.
    pub heads: Vec<Following>,
    /// Names that subscribers follow, and datasets that it claims to stand behind them, with versions that are nowhere.
    pub foreign: Vec<(String, String)>,
    /// Datasets and versions that it asks devices for at the start of each session.
    pub fetches: Vec<(String, VersionId)>,
    /// Pages that it asks for in each publication, whatever was offered.
    pub pages: Vec<ChunkId>,
    /// Messages that it sends at the start of each session.
    pub opening: Vec<Message>,
    /// Bytes that it sends in place of a welcome.
    pub in_place_of_welcome: Option<Vec<u8>>,
    /// The commit record that it shows for every version; none: a good one.
    pub commit: Option<Vec<u8>>,
    /// The revision that it claims to have chosen; none: the right one.
    pub revision: Option<u32>,
}

/// All that devices told a hostile core.
#[derive(Clone, Debug, Default)]
pub struct Overheard {
    /// Messages.
    pub messages: Vec<String>,
    /// All bytes on control streams and item streams.
    pub bytes: Vec<u8>,
    /// Datasets and ordinals that subscribers asked for.
    pub asked_chunks: Vec<(String, u64)>,
    /// Items that subscribers asked for again.
    pub asked_again: usize,
    /// Datasets that were offered.
    pub offers: Vec<String>,
    /// Sessions.
    pub sessions: usize,
    /// Bytes that came on streams of items.
    pub item_bytes: usize,
}

impl Overheard {
    /// Whether these bytes were said, in whatever way.
    pub fn holds(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }
}

/// A core that was taken over. It stops listening on drop.
#[derive(Debug)]
pub struct HostileCore {
    listener: Listener,
    heard: Arc<Mutex<Overheard>>,
    task: tokio::task::JoinHandle<()>,
}

impl HostileCore {
    /// Takes the place of `core`, which must not run: its address, its keys.
    #[track_caller]
    pub fn in_place_of(core: &CoreProcess, conduct: impl FnOnce(&Identity) -> Conduct) -> Self {
        Self::with_keys_of(core.data(), core, conduct)
    }

    /// Takes the place of `core` with the keys in another folder.
    #[track_caller]
    pub fn with_keys_of(keys: &Path, core: &CoreProcess, conduct: impl FnOnce(&Identity) -> Conduct) -> Self {
        let authority = Authority::load(keys).expect("a core has an authority");
        let identity = Identity::load(keys).expect("a core has an identity");
        let conduct = Arc::new(conduct(&identity));
        let heard = Arc::new(Mutex::new(Overheard::default()));
        let _inside = runtime().enter();
        let options = ServerOptions::default();
        let listener =
            wait_for("the core's place to be free", || listen(core.address(), &authority, &identity, &options).ok());
        let task = runtime().spawn(accept(listener.clone(), Arc::new(identity), conduct, Arc::clone(&heard)));
        Self { listener, heard, task }
    }

    /// All that devices have said so far.
    pub fn overheard(&self) -> Overheard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the place back.
    pub fn leave(self) {
        drop(self);
    }
}

impl Drop for HostileCore {
    fn drop(&mut self) {
        self.task.abort();
        runtime().block_on(self.listener.close(""));
        // The socket is free once the endpoint's last owner is gone, which the next start of the core waits for.
    }
}

/// Takes the place of a core as a process of a simulated world, until that dies.
pub(crate) async fn take_place(
    address: SocketAddr,
    (authority, identity): (Authority, Identity),
    conduct: Conduct,
    heard: Arc<Mutex<Overheard>>,
) {
    // A socket that its process has left behind is in nobody's way in a world.
    let Ok(listener) = listen(address, &authority, &identity, &ServerOptions::default()) else { return };
    accept(listener, Arc::new(identity), Arc::new(conduct), heard).await;
}

async fn accept(listener: Listener, identity: Arc<Identity>, conduct: Arc<Conduct>, heard: Arc<Mutex<Overheard>>) {
    while let Some(arriving) = listener.accept().await {
        let Ok(Arrival::Session { connection, .. }) = arriving.finish().await else { continue };
        let session = Session {
            identity: Arc::clone(&identity),
            conduct: Arc::clone(&conduct),
            heard: Arc::clone(&heard),
            fetched: HashMap::new(),
        };
        work::spawn(session.run(connection));
    }
}

struct Session {
    identity: Arc<Identity>,
    conduct: Arc<Conduct>,
    heard: Arc<Mutex<Overheard>>,
    /// Which dataset each transfer is about.
    fetched: HashMap<u32, String>,
}

impl Session {
    async fn run(mut self, connection: Connection) {
        let Ok(streams) = connection.accept_bi().await else { return };
        self.note(|heard| heard.sessions += 1);
        let items = work::spawn(listen_to_items(connection.clone(), Arc::clone(&self.heard)));
        let mut wire = Wire::new(connection, streams);
        let mut kept = 0;
        loop {
            let message = match wire.hear().await {
                Heard::Message(message) => message,
                // A device may have nothing to say for long.
                Heard::Silence if self.conduct.is_patient => continue,
                Heard::Silence | Heard::Closed(..) | Heard::Ended => break,
            };
            self.note(|heard| {
                heard.bytes.extend_from_slice(&wire.transcript[kept..]);
                heard.messages.push(format!("{message:?}"));
            });
            kept = wire.transcript.len();
            self.apply(&mut wire, message).await;
        }
        items.abort();
    }

    fn note(&self, change: impl FnOnce(&mut Overheard)) {
        change(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn apply(&mut self, wire: &mut Wire, message: Message) {
        match message {
            Message::Hello(hello) => self.welcome(wire, hello).await,
            Message::Heads { question, .. } => {
                wire.say(&Message::HeadsAre { question, heads: self.conduct.heads.clone(), ended: Vec::new() }).await;
            }
            Message::Follow { question, names } => {
                let followed = |dataset: &str| {
                    let dataset = DatasetName::new(dataset).ok();
                    let matches = |name: &&String| {
                        let pattern = NamePattern::new(name.as_str());
                        dataset.as_ref().is_some_and(|dataset| pattern.is_ok_and(|pattern| pattern.matches(dataset)))
                    };
                    names.iter().find(matches).cloned().unwrap_or_default()
                };
                let news = self.conduct.versions.iter().map(|(dataset, forgery)| News {
                    name: followed(dataset),
                    newest: Following { dataset: dataset.clone(), number: forgery.number, version: forgery.version() },
                });
                let foreign = self.conduct.foreign.iter().map(|(name, dataset)| News {
                    name: name.clone(),
                    newest: Following { dataset: dataset.clone(), number: 1, version: VersionId::of(b"whatever") },
                });
                wire.say(&Message::News { question, list: news.chain(foreign).collect() }).await;
                wire.say(&Message::FollowDone { question, unmatched: Vec::new(), refused: None }).await;
            }
            Message::Fetch { transfer, dataset, .. } => self.offer(wire, transfer, dataset).await,
            Message::NeedPages { transfer, ids } => {
                for id in ids {
                    self.send_page(wire, transfer, id).await;
                }
            }
            Message::NeedChunks { transfer, ranges, .. } => {
                for ordinal in ranges.iter().flat_map(|range| range.first..range.first + range.count) {
                    let dataset = self.fetched.get(&transfer).cloned().unwrap_or_default();
                    self.note(|heard| heard.asked_chunks.push((dataset, ordinal)));
                    self.send_chunk(wire, transfer, ordinal).await;
                }
            }
            Message::Again { transfer, keys } => {
                for key in keys {
                    self.note(|heard| heard.asked_again += 1);
                    match key {
                        ItemKey::Chunk(ordinal) => self.send_chunk(wire, transfer, ordinal).await,
                        ItemKey::Page(id) => self.send_page(wire, transfer, id).await,
                    }
                }
            }
            Message::Offer { transfer, dataset, .. } => {
                self.note(|heard| heard.offers.push(dataset));
                // All that it has, and more.
                wire.say(&Message::Grant { transfer, bytes: 1 << 30 }).await;
                if !self.conduct.pages.is_empty() {
                    wire.say(&Message::NeedPages { transfer, ids: self.conduct.pages.clone() }).await;
                }
            }
            _ => {}
        }
    }

    async fn welcome(&self, wire: &mut Wire, hello: Hello) {
        if let Some(bytes) = &self.conduct.in_place_of_welcome {
            wire.raw(bytes).await;
            return;
        }
        let welcome = Welcome {
            revision: self.conduct.revision.unwrap_or(PROTOCOL_REVISION),
            // The one that the device has: the true core will see no clone in it.
            nonce: hello.nonce,
            name: "taken-over".to_owned(),
            labels: Vec::new(),
            certificate: Vec::new(),
        };
        wire.say(&Message::Welcome(welcome)).await;
        for message in &self.conduct.opening {
            wire.say(message).await;
        }
        for (number, (dataset, version)) in (0u32..).zip(&self.conduct.fetches) {
            let transfer = 2 * number + 1;
            wire.say(&Message::Fetch { transfer, dataset: dataset.clone(), version: *version }).await;
        }
    }

    async fn offer(&mut self, wire: &mut Wire, transfer: u32, dataset: String) {
        let Some(forgery) = self.conduct.versions.get(&dataset) else { return };
        let commit = match &self.conduct.commit {
            Some(commit) => commit.clone(),
            None => forgery.committed(&dataset, &self.identity),
        };
        let manifest = forgery.manifest.clone();
        wire.say(&Message::Offer { transfer, dataset: dataset.clone(), manifest, commit }).await;
        self.fetched.insert(transfer, dataset);
    }

    fn forgery(&self, transfer: u32) -> Option<&Forgery> {
        self.fetched.get(&transfer).and_then(|dataset| self.conduct.versions.get(dataset))
    }

    async fn send_page(&self, wire: &mut Wire, transfer: u32, id: ChunkId) {
        if let Some(page) = self.forgery(transfer).and_then(|forgery| forgery.pages.get(&id)) {
            send(wire, transfer, ItemKey::Page(id), &Item::plain(page)).await;
        }
    }

    async fn send_chunk(&self, wire: &mut Wire, transfer: u32, ordinal: u64) {
        let item = self.forgery(transfer).and_then(|forgery| forgery.chunks.get(ordinal as usize));
        if let Some(item) = item.and_then(Option::as_ref) {
            send(wire, transfer, ItemKey::Chunk(ordinal), item).await;
        } else {
            let ranges = vec![OrdinalRange { first: ordinal, count: 1 }];
            wire.say(&Message::Unavailable { transfer, ranges }).await;
        }
    }
}

async fn send(wire: &Wire, transfer: u32, key: ItemKey, item: &Item) {
    wire.item(transfer, key, item.plain_bytes, item.encoding.clone(), &item.payload).await;
}

async fn listen_to_items(connection: Connection, heard: Arc<Mutex<Overheard>>) {
    while let Ok(stream) = connection.accept_uni().await {
        work::spawn(keep(stream, Arc::clone(&heard)));
    }
}

async fn keep(mut stream: RecvStream, heard: Arc<Mutex<Overheard>>) {
    // What came before a cut counts too, so it is read in pieces.
    let mut kept = 0;
    while let Ok(Some(chunk)) = stream.read_chunk(64 << 10, true).await {
        kept += chunk.bytes.len();
        if kept > STREAM_BYTES_MAX {
            return;
        }
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.bytes.extend_from_slice(&chunk.bytes);
        heard.item_bytes += chunk.bytes.len();
    }
}
