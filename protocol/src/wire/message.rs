//! Control messages. Either side may be a transfer's sender; the messages of a transfer mean the same in both directions.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, DecodeError, Encoded};
use crate::id::{ChunkId, VersionId};
use crate::manifest::MANIFEST_BYTES_MAX;

/// Longest control frame, in bytes.
pub const CONTROL_FRAME_BYTES_MAX: usize = 512 * 1024;
/// Most entries of a list in one message; a longer list travels in several.
pub const MESSAGE_LIST_MAX: usize = 4096;

/// Longest text in a message but the body of a command, in bytes.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 4096;

/// A run of chunks in manifest order.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrdinalRange {
    /// The first ordinal.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A chunk of which the receiver kept a prefix when the link was cut.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartialChunk {
    /// Which chunk.
    pub ordinal: u64,
    /// Plain bytes that the receiver has from its start.
    pub offset: u32,
}

/// What a device tells its core of itself at the start of a session, and from time to time.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Release of the software, as `0.1.0`.
    pub release: String,
    /// Bytes not yet acknowledged.
    pub backlog_bytes: u64,
    /// Age of the oldest unsent file, in seconds; durations need no clock that is right.
    pub oldest_unsent_s: u64,
    /// Free bytes on the disk of its data folder.
    pub disk_free_bytes: u64,
    /// Code and sentence of the last error, or empty.
    pub last_error: String,
}

/// The first message of a session, from the side that dialled.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest revision that it speaks.
    pub revision_min: u32,
    /// Newest revision that it speaks.
    pub revision_max: u32,
    /// The nonce that the last session gave; empty at the first.
    pub nonce: Vec<u8>,
    /// How it is.
    pub status: PeerStatus,
}

/// The core's answer to [`Hello`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The revision that both will speak.
    pub revision: u32,
    /// The nonce to keep and to show at the next session.
    pub nonce: Vec<u8>,
    /// The name under which the core knows the device.
    pub name: String,
    /// The device's labels, which dataset names may hold as `{label.x}`.
    pub labels: Vec<(String, String)>,
    /// A renewed certificate (DER), when the old one is near its end.
    pub certificate: Vec<u8>,
}

/// A refusal that a person can act upon.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// A code with a page in `docs/errors/`, as `HW-1004`.
    pub code: String,
    /// A plain sentence that names the thing.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Refusal {
    pub(super) fn check(&self) -> Result<(), String> {
        [&self.code, &self.message, &self.hint].into_iter().try_for_each(|text| check_text("a refusal", text))
    }
}

/// A dataset that a device may read, and where it stands.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Following {
    /// Its name.
    pub dataset: String,
    /// Number of its newest version.
    pub number: u64,
    /// The newest version.
    pub version: VersionId,
}

/// A dataset that was deleted.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EndedDataset {
    /// Its name.
    pub dataset: String,
    /// The last number that a version of it had.
    pub number: u64,
}

/// A dataset that a followed name stands for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The name as [`Message::Follow`] gave it: the dataset's own, a pattern that it matches, or a collection that it is in.
    pub name: String,
    /// The dataset and its newest version, or the one that the collection holds.
    pub newest: Following,
}

/// A control message.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Opens a session.
    Hello(Hello),
    /// Accepts it.
    Welcome(Welcome),
    /// Ends the session, or says why a request can't be.
    Refused {
        /// The transfer that is refused; none where it is the session.
        transfer: Option<u32>,
        /// Why.
        refusal: Refusal,
    },
    /// A device's news of itself during a session.
    Status(PeerStatus),

    /// Device to core: the state of this device's own datasets, to know what is missing since the last session.
    Heads {
        /// The asker's number for the question, which the answer carries.
        question: u32,
        /// Names; empty asks for all that the device writes.
        datasets: Vec<String>,
    },
    /// The newest committed version of each; one that doesn't exist is left out.
    /// An answer to a question that nobody waits for any more must not pass for that to another.
    HeadsAre {
        /// The question.
        question: u32,
        /// Where they stand.
        heads: Vec<Following>,
        /// Those without a version that had some before they were deleted, and the last number that was used: a name and a
        /// number never stand for two versions.
        ended: Vec<EndedDataset>,
    },
    /// Device to core: tell me now, and whenever it changes, of the datasets and collections with these names, and of no
    /// others any more.
    Follow {
        /// Chosen by the asker, another one each time: what answers an earlier question is told apart by it.
        question: u32,
        /// Dataset names, patterns or collection names.
        names: Vec<String>,
    },
    /// What followed names stand for. Sent for each at once after [`Message::Follow`], and on every commit.
    News {
        /// The question that is answered.
        question: u32,
        /// What is new.
        list: Vec<News>,
    },
    /// All news of a [`Message::Follow`] have been said once; names that match nothing readable are listed.
    FollowDone {
        /// The question that is answered.
        question: u32,
        /// Names without a match.
        unmatched: Vec<String>,
        /// Why nothing could be said; to be asked again later.
        refused: Option<Refusal>,
    },
    /// Receiver to sender: offer me this version. The transfer number is the asker's choice.
    Fetch {
        /// The transfer that the offer will carry.
        transfer: u32,
        /// The dataset.
        dataset: String,
        /// Its version.
        version: VersionId,
    },

    /// Sender to receiver: here is a version's manifest and its commit record.
    Offer {
        /// Chosen by the side that began: even from the dialling side, odd from the other.
        transfer: u32,
        /// The dataset.
        dataset: String,
        /// The manifest's body.
        manifest: Vec<u8>,
        /// The encoded [`crate::commit::CommitRecord`].
        commit: Vec<u8>,
    },
    /// Receiver to sender: these pages are not here.
    NeedPages {
        /// The transfer.
        transfer: u32,
        /// Their ids.
        ids: Vec<ChunkId>,
    },
    /// Receiver to sender: these chunks are not here.
    NeedChunks {
        /// The transfer.
        transfer: u32,
        /// Runs in manifest order.
        ranges: Vec<OrdinalRange>,
        /// Those of them of which a prefix is here.
        partial: Vec<PartialChunk>,
    },
    /// Receiver to sender: so many more payload bytes may be sent.
    Grant {
        /// The transfer.
        transfer: u32,
        /// Bytes.
        bytes: u64,
    },
    /// Receiver to sender: these are durable.
    Stored {
        /// The transfer.
        transfer: u32,
        /// Runs in manifest order.
        ranges: Vec<OrdinalRange>,
    },
    /// Sender to receiver: these can't be sent, their files changed or vanished. The transfer will not commit.
    Unavailable {
        /// The transfer.
        transfer: u32,
        /// Runs in manifest order.
        ranges: Vec<OrdinalRange>,
    },
    /// Receiver to sender: an item was not what its key says (wrong hash, source out of scope); send it plain.
    Again {
        /// The transfer.
        transfer: u32,
        /// The items.
        keys: Vec<super::ItemKey>,
    },
    /// Receiver to sender: all that could be had is stored, but what was unavailable is lacking; the transfer has ended.
    Incomplete {
        /// The transfer.
        transfer: u32,
    },
    /// Sender to receiver: nothing more will come of this transfer.
    Withdraw {
        /// The transfer.
        transfer: u32,
    },
    /// Receiver to sender: the version is committed. From a core it carries the commit record with the core's signature and
    /// the signed receipt; from a device both are empty.
    Committed {
        /// The transfer.
        transfer: u32,
        /// The encoded commit record, signed by both.
        commit: Vec<u8>,
        /// The encoded [`crate::commit::Receipt`].
        receipt: Vec<u8>,
    },

    /// A person's command from elsewhere, as the local socket carries it: JSON.
    Control {
        /// Chosen by the asker.
        request: u32,
        /// The command.
        body: String,
    },
    /// A part of the answer to [`Message::Control`].
    ControlReply {
        /// The request.
        request: u32,
        /// One JSON document.
        body: String,
        /// Whether this part is the last.
        last: bool,
    },
    /// A request for a round trip, to know that the peer lives.
    Ping(u64),
    /// Its answer.
    Pong(u64),
    /// A clean end: the peer goes away on purpose.
    Goodbye,

    /// Device to core: I have removed, or will remove once this is noted, bytes of files of this dataset of mine; this version
    /// has all that are freed. It is said again in each session, and for a later version that has them too. Saying it twice
    /// changes nothing.
    Freed {
        /// The asker's number for the question, which the answer carries.
        question: u32,
        /// The dataset.
        dataset: String,
        /// A committed version of it.
        version: VersionId,
        /// It has all that versions from this number on had freed: what was said of those is done with, what was said of
        /// earlier ones stays.
        since: u64,
    },
    /// The answer: whether it is noted, durably, so that the bytes are not dropped without a word. It is not where the core has
    /// no such version of the device's own.
    FreedNoted {
        /// The question.
        question: u32,
        /// Whether the core has the version and noted it.
        noted: bool,
    },

    /// What a training job asks for, or the answer.
    ///
    /// Boxed, so that every other message is no longer for it.
    Reader(Box<super::ReaderMessage>),

    /// Device to core: from now on send this device so many bytes in any second at most, with all headers, over all its
    /// connections together. Before the first there is no cap.
    DownCap {
        /// None lifts the cap.
        bytes_per_s: Option<u64>,
    },

    /// What a core and a device say of federated training.
    ///
    /// Boxed, so that every other message is no longer for it.
    Training(Box<crate::federated::TrainingMessage>),
}

impl Encoded for Message {
    const WHAT: &'static str = "control message";
    const BYTES_MAX: usize = CONTROL_FRAME_BYTES_MAX;
}

impl Message {
    /// The message in a frame's body, if it is valid and its lists are in bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: Self = codec::decode(bytes)?;
        message.check()?;
        Ok(message)
    }

    /// The message as a frame's body.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The transfer that it belongs to, if any.
    pub const fn transfer(&self) -> Option<u32> {
        match self {
            Self::Fetch { transfer, .. }
            | Self::Offer { transfer, .. }
            | Self::NeedPages { transfer, .. }
            | Self::NeedChunks { transfer, .. }
            | Self::Grant { transfer, .. }
            | Self::Stored { transfer, .. }
            | Self::Unavailable { transfer, .. }
            | Self::Again { transfer, .. }
            | Self::Incomplete { transfer }
            | Self::Withdraw { transfer }
            | Self::Committed { transfer, .. }
            | Self::Refused { transfer: Some(transfer), .. } => Some(*transfer),
            _ => None,
        }
    }

    /// Checks that lists and texts are in bounds, and that runs of chunks are not empty and do not overflow. What
    /// [`codec::decode`] alone gives must pass here before it is acted upon.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.check_bounds().map_err(|reason| DecodeError::Inconsistent { what: Self::WHAT, reason })
    }

    fn check_bounds(&self) -> Result<(), String> {
        match self {
            Self::Hello(Hello { nonce, status, .. }) => {
                check_list("nonce bytes", nonce, MESSAGE_LIST_MAX)?;
                check_status(status)
            }
            Self::Welcome(welcome) => {
                check_list("nonce bytes", &welcome.nonce, MESSAGE_LIST_MAX)?;
                check_list("labels", &welcome.labels, MESSAGE_LIST_MAX)?;
                check_text("a name", &welcome.name)
            }
            Self::Refused { refusal, .. } => refusal.check(),
            Self::Status(status) => check_status(status),
            Self::Heads { datasets: names, .. } | Self::Follow { names, .. } => check_names(names),
            Self::FollowDone { unmatched, refused, .. } => {
                check_names(unmatched)?;
                refused.iter().try_for_each(Refusal::check)
            }
            Self::HeadsAre { heads: list, ended, .. } => {
                check_list("datasets", list, MESSAGE_LIST_MAX)?;
                check_list("ended datasets", ended, MESSAGE_LIST_MAX)?;
                ended.iter().try_for_each(|ended| check_text("a name", &ended.dataset))?;
                list.iter().try_for_each(|following| check_text("a name", &following.dataset))
            }
            Self::News { list, .. } => {
                check_list("datasets", list, MESSAGE_LIST_MAX)?;
                let texts = list.iter().flat_map(|news| [&news.name, &news.newest.dataset]);
                texts.into_iter().try_for_each(|name| check_text("a name", name))
            }
            Self::Fetch { dataset, .. } | Self::Freed { dataset, .. } => check_text("a name", dataset),
            Self::Offer { dataset, manifest, .. } => {
                check_list("manifest bytes", manifest, MANIFEST_BYTES_MAX)?;
                check_text("a name", dataset)
            }
            Self::NeedPages { ids, .. } => check_list("pages", ids, MESSAGE_LIST_MAX),
            Self::NeedChunks { ranges, partial, .. } => {
                check_list("prefixes", partial, MESSAGE_LIST_MAX)?;
                check_ranges(ranges)
            }
            Self::Stored { ranges, .. } | Self::Unavailable { ranges, .. } => check_ranges(ranges),
            Self::Again { keys, .. } => check_list("items", keys, MESSAGE_LIST_MAX),
            Self::Reader(message) => message.check(),
            Self::Training(message) => message.check(),
            Self::Grant { .. }
            | Self::Incomplete { .. }
            | Self::Withdraw { .. }
            | Self::Committed { .. }
            | Self::Control { .. }
            | Self::ControlReply { .. }
            | Self::Ping(_)
            | Self::Pong(_)
            | Self::FreedNoted { .. }
            | Self::DownCap { .. }
            | Self::Goodbye => Ok(()),
        }
    }
}

pub(super) fn check_list<T>(what: &str, list: &[T], length_max: usize) -> Result<(), String> {
    if list.len() <= length_max { Ok(()) } else { Err(format!("{} {what}, over {length_max}", list.len())) }
}

pub(super) fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.len() <= MESSAGE_TEXT_BYTES_MAX { Ok(()) } else { Err(format!("{what} of {} bytes", text.len())) }
}

fn check_names(names: &[String]) -> Result<(), String> {
    check_list("names", names, MESSAGE_LIST_MAX)?;
    names.iter().try_for_each(|name| check_text("a name", name))
}

fn check_status(status: &PeerStatus) -> Result<(), String> {
    check_text("a release", &status.release)?;
    check_text("an error", &status.last_error)
}

fn check_ranges(ranges: &[OrdinalRange]) -> Result<(), String> {
    check_list("runs of chunks", ranges, MESSAGE_LIST_MAX)?;
    match ranges.iter().find(|range| range.count == 0 || range.first.checked_add(range.count).is_none()) {
        Some(range) => Err(format!("a run of {} chunks from {}", range.count, range.first)),
        None => Ok(()),
    }
}
