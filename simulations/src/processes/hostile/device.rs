//! A joined device whose software was replaced.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_protocol::codec;
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::wire::{Hello, ItemKey, Message, OrdinalRange, PROTOCOL_REVISION, PeerStatus, Refusal};
use headwater_quic::{ClientOptions, Identity, connect};

use super::runtime;
use super::wire::{Heard, Wire};
use super::{Forgery, Item};
use crate::processes::{AgentProcess, CoreProcess};

/// Messages that are said without listening at most.
const SAID_MAX: usize = 1000;
/// How long a core may leave a message on the way before it counts as taking no more.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Repeated questions for items after which a test calls it endless.
const AGAIN_MAX: usize = 64;

/// How a core answered an offer.
#[derive(Debug)]
pub enum Answer {
    /// It committed the version.
    Committed,
    /// It refused.
    Refused(Refusal),
    /// It ended the transfer without a commit, because something was not to be had.
    Incomplete,
    /// It closed the connection with this code and these words.
    Closed(u64, String),
}

/// A connection under a device's identity.
#[derive(Debug)]
pub struct HostileDevice {
    wire: Wire,
    identity: Identity,
    data: PathBuf,
    /// Ordinals that the core asked for in the last offer.
    pub asked_chunks: Vec<u64>,
    /// How often the core asked for an item again in the last offer.
    pub asked_again: usize,
    next_transfer: u32,
}

impl HostileDevice {
    /// Connects with `agent`'s identity, and says nothing yet.
    #[track_caller]
    pub fn connect(agent: &AgentProcess, core: &CoreProcess) -> Self {
        let identity = Identity::load(&agent.identity()).expect("the device has joined");
        let wire = runtime().block_on(async {
            let options = ClientOptions::default();
            let connection = connect(core.address(), &identity, &options).await.expect("the core can be reached");
            let streams = connection.open_bi().await.expect("a stream opens");
            Wire::new(connection, streams)
        });
        let data = agent.data().to_owned();
        Self { wire, identity, data, asked_chunks: Vec::new(), asked_again: 0, next_transfer: 0 }
    }

    /// Connects, and greets as the agent would, so that the agent can go on afterwards.
    #[track_caller]
    pub fn greeted(agent: &AgentProcess, core: &CoreProcess) -> Self {
        let mut device = Self::connect(agent, core);
        match device.greet(1, PROTOCOL_REVISION) {
            Heard::Message(Message::Welcome(welcome)) => {
                std::fs::write(nonce_file(&device.data), welcome.nonce).expect("written");
            }
            other => panic!("no welcome: {other:?}"),
        }
        device
    }

    /// The identity that it uses.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Says hello with these revisions, and gives what comes back.
    pub fn greet(&mut self, revision_min: u32, revision_max: u32) -> Heard {
        let nonce = std::fs::read(nonce_file(&self.data)).unwrap_or_default();
        let status = PeerStatus { release: "9.9.9".to_owned(), ..PeerStatus::default() };
        self.say(&Message::Hello(Hello { revision_min, revision_max, nonce, status }));
        self.hear()
    }

    /// Sends a message.
    pub fn say(&mut self, message: &Message) {
        runtime().block_on(self.wire.say(message));
    }

    /// Says `message` again and again without listening, until the core takes no more; whether that came.
    pub fn say_until_stuck(&mut self, message: &Message) -> bool {
        runtime().block_on(async {
            for _ in 0..SAID_MAX {
                if tokio::time::timeout(STUCK_AFTER, self.wire.say(message)).await.is_err() {
                    return true;
                }
            }
            false
        })
    }

    /// Sends bytes on the control stream.
    pub fn raw(&mut self, bytes: &[u8]) {
        runtime().block_on(self.wire.raw(bytes));
    }

    /// Sends bytes on a stream for items.
    pub fn raw_items(&mut self, bytes: &[u8]) {
        runtime().block_on(self.wire.raw_items(bytes));
    }

    /// Ends its half of the control stream.
    pub fn finish(&mut self) {
        // Entered, because ending a stream wakes the connection's task.
        let _inside = runtime().enter();
        self.wire.finish();
    }

    /// What comes next.
    pub fn hear(&mut self) -> Heard {
        runtime().block_on(self.wire.hear())
    }

    /// How the core ended the connection.
    pub fn until_closed(&mut self) -> Heard {
        runtime().block_on(self.wire.until_closed())
    }

    /// Offers a version and sends whatever the forgery has for what is asked.
    #[track_caller]
    pub fn offer(&mut self, dataset: &str, forgery: &Forgery) -> Answer {
        let commit = forgery.commit(dataset, &self.identity);
        self.offer_with(dataset, forgery, &commit)
    }

    /// Offers a version under a name that need not be one, with a commit record for `dataset`.
    #[track_caller]
    pub fn offer_as(&mut self, name: &str, dataset: &str, forgery: &Forgery) -> Answer {
        let commit = forgery.commit(dataset, &self.identity);
        self.offer_with(name, forgery, &commit)
    }

    /// Sends an item that nobody has asked for.
    pub fn stray_item(&mut self, transfer: u32) {
        self.send(transfer, ItemKey::Chunk(0), &Item::plain(b"nobody asked for this"));
    }

    /// The same with a commit record of one's own.
    #[track_caller]
    pub fn offer_with(&mut self, dataset: &str, forgery: &Forgery, commit: &CommitRecord) -> Answer {
        let transfer = self.next_transfer;
        self.next_transfer += 2;
        self.asked_chunks.clear();
        self.asked_again = 0;
        self.say(&Message::Offer {
            transfer,
            dataset: dataset.to_owned(),
            manifest: forgery.manifest.clone(),
            commit: codec::encode_stored(commit),
        });
        loop {
            match self.hear() {
                Heard::Message(message) => {
                    if let Some(answer) = self.answer(transfer, forgery, message) {
                        return answer;
                    }
                }
                Heard::Closed(code, words) => return Answer::Closed(code.into_inner(), words),
                other => panic!("the core left an offer unanswered: {other:?}"),
            }
        }
    }

    fn answer(&mut self, transfer: u32, forgery: &Forgery, message: Message) -> Option<Answer> {
        match message {
            Message::NeedPages { ids, .. } => {
                for id in ids {
                    let page = forgery.pages.get(&id).expect("only pages that were named are asked for");
                    self.send(transfer, ItemKey::Page(id), &Item::plain(page));
                }
            }
            Message::NeedChunks { ranges, .. } => {
                for ordinal in ranges.iter().flat_map(|range| range.first..range.first + range.count) {
                    self.asked_chunks.push(ordinal);
                    self.send_chunk(transfer, forgery, ordinal);
                }
            }
            Message::Again { keys, .. } => {
                self.asked_again += keys.len();
                assert!(self.asked_again < AGAIN_MAX, "the core asks for the same again and again");
                for key in keys {
                    match key {
                        ItemKey::Page(id) => self.send(transfer, key, &Item::plain(&forgery.pages[&id])),
                        ItemKey::Chunk(ordinal) => self.send_chunk(transfer, forgery, ordinal),
                    }
                }
            }
            Message::Committed { .. } => return Some(Answer::Committed),
            Message::Incomplete { .. } => return Some(Answer::Incomplete),
            Message::Refused { refusal, .. } => return Some(Answer::Refused(refusal)),
            _ => {}
        }
        None
    }

    fn send_chunk(&mut self, transfer: u32, forgery: &Forgery, ordinal: u64) {
        if let Some(item) = forgery.chunks.get(ordinal as usize).and_then(Option::as_ref) {
            self.send(transfer, ItemKey::Chunk(ordinal), item);
        } else {
            let ranges = vec![OrdinalRange { first: ordinal, count: 1 }];
            self.say(&Message::Unavailable { transfer, ranges });
        }
    }

    fn send(&self, transfer: u32, key: ItemKey, item: &Item) {
        let sent = self.wire.item(transfer, key, item.plain_bytes, item.encoding.clone(), &item.payload);
        runtime().block_on(sent);
    }
}

fn nonce_file(data: &Path) -> PathBuf {
    data.join("nonce")
}
