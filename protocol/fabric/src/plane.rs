//! The interface of data planes. The core drives: a job registers slots of its memory and asks, the core puts bytes into a slot
//! and marks it complete.
//!
//! What a plane promises, whatever it is made of:
//! * pieces of a delivery are held until the plane has no more use for them, also if the caller goes away meanwhile;
//! * a slot is the plane's from the request on until its completion, its failure, or the end of the lane;
//! * nothing of a delivery leaves before [`Gate::turn`] said so;
//! * the end of a lane is seen by both ends at once, also that of a process that was killed.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use headwater_protocol::delivery::{ReadFailure, ReadRequest, ReadWhat};

use crate::memory::Slot;

/// Why a lane ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LaneError {
    /// The connection broke.
    #[error("the data connection ended: {0}")]
    Ended(String),
    /// The other side sent what can't be, or somebody on the way changed it.
    #[error("the data connection broke the protocol: {0}")]
    Protocol(String),
    /// The other side does not take this connection.
    #[error("the data connection was refused: {0}")]
    Refused(String),
}

/// The right to send so many bytes now; it ends when dropped.
pub type Turn = Box<dyn Send>;

/// Where every byte that leaves a core asks for its turn.
pub trait Gate: Send + Sync {
    /// Resolves when the next `bytes` may be handed to the network.
    fn turn(&self, bytes: u64) -> BoxFuture<'_, Turn>;
}

/// An answer on its way: pieces that come to lie one after the other from the start of a slot on.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The slot.
    pub slot: u32,
    /// The request that it answers.
    pub request: u32,
    /// The pieces. Each is held until the plane is done with it.
    pub pieces: Vec<Bytes>,
}

/// The core's end of a lane.
pub trait CoreLane: Send + Sync {
    /// Which plane it is, for people.
    fn plane(&self) -> &'static str;

    /// Puts a delivery into its slot and marks it complete.
    fn deliver<'a>(&'a self, delivery: Delivery, gate: &'a dyn Gate) -> BoxFuture<'a, Result<(), LaneError>>;

    /// Says that a request gets no bytes.
    fn fail<'a>(
        &'a self,
        request: &'a ReadRequest,
        failure: ReadFailure,
        gate: &'a dyn Gate,
    ) -> BoxFuture<'a, Result<(), LaneError>>;
}

/// What came of a request.
#[derive(Debug)]
pub enum ReadAnswer {
    /// The slot was filled.
    Filled(Slot),
    /// It was not, and is given back as it is.
    Failed(Slot, ReadFailure),
}

/// The job's end of a lane.
pub trait JobLane: Send + Sync {
    /// Which plane it is, for people.
    fn plane(&self) -> &'static str;

    /// Why it is not RDMA, where that was wanted; for people.
    fn why_not_rdma(&self) -> Option<String> {
        None
    }

    /// A slot of `len` bytes, as this lane fills it best. Other lanes take it too.
    fn slot(&self, len: usize) -> Slot {
        Slot::plain(len)
    }

    /// Asks for bytes of `source` into `slot`. Dropping the future leaves the slot with the lane until the core has answered.
    fn read(&self, source: u32, what: ReadWhat, slot: Slot) -> BoxFuture<'_, Result<ReadAnswer, LaneError>>;
}
