//! What travels between an agent and a core: control messages on one ordered stream, items on parallel ones.
//!
//! A frame is a little-endian `u32` length and that many bytes. On the control stream each frame is a [`Message`]. On an
//! item stream each frame is an [`ItemHeader`], followed directly by `payload_bytes` raw bytes.

mod item;
mod join;
mod message;
mod reader;

pub use item::{DeltaSource, Encoding, ITEM_HEADER_BYTES_MAX, ItemHeader, ItemKey, PAYLOAD_BYTES_MAX};
pub use join::{JOIN_BYTES_MAX, JoinMessage, JoinReply};
pub use message::{
    CONTROL_FRAME_BYTES_MAX, EndedDataset, Following, Hello, MESSAGE_LIST_MAX, MESSAGE_TEXT_BYTES_MAX, Message, News,
    OrdinalRange, PartialChunk, PeerStatus, Refusal, Welcome,
};
pub use reader::{DATA_SECRET_BYTES, DataWay, JOB_BYTES_MAX, ReaderMessage, SourceMember};

/// The protocol's revision; a core serves agents one revision older and newer.
pub const PROTOCOL_REVISION: u32 = 1;
/// ALPN of a session between a device that has a certificate and its core.
pub const ALPN_SESSION: &[u8] = b"headwater/1";
/// ALPN of joining, without a client certificate.
pub const ALPN_JOIN: &[u8] = b"headwater-join/1";
