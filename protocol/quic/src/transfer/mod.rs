//! Moving one version over a session: the async shell around [`headwater_protocol::sync`], the same for both daemons and
//! both directions.
//!
//! A daemon gives it two things to work with: a [`Source`] that reads what is sent, and a [`Destination`] that says what is
//! here already, makes what arrives durable, and commits. Everything between them is here: parallel item streams, hashing
//! and compression away from the reactor, grants that bound memory on both sides, and the account of every byte.

mod api;
pub(crate) mod items;
pub(crate) mod lanes;
mod loaders;
mod outbox;
mod pack;
pub(crate) mod receive;
mod report;
pub(crate) mod send;
mod verify;

pub use api::{
    Committed, Destination, DestinationError, HeldPage, IncomingItem, IncomingOffer, OutgoingVersion, TransferError,
    UnavailableChunk,
};
pub use headwater_protocol::sync::{BoxError, DeltaBase, ItemBody, LoadedItem, Presence, Source, SourceError};
pub use loaders::Loaders;
pub use report::{Progress, ProgressSink, ReceiveReport, SendReport, WireBytes, no_progress};
pub use send::LOAD_BATCHES_MAX;
