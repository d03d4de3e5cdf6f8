//! RDMA verbs behind a safe interface.
//!
//! ```text
//!   Domain  (an open device, a port, a GID)
//!     |-- Registered   memory that the device may read, or into which one peer may write
//!     '-- Queue        a reliable connection: a queue pair with its completion queue and channel
//! ```
//!
//! The crate `ibverbs` lists devices and tells a machine without any; what it does not offer (one-sided verbs, completion channels,
//! several pieces in one request) is done here through `ibverbs-sys`.
//!
//! What makes it sound:
//!
//! - Memory that is registered belongs to a [`Registered`] and can't move; it is given up only after its registration.
//! - Whatever a request names is kept by the queue until the device has completed it, or until the queue pair is destroyed,
//!   after which the device touches nothing of it.
//! - Nobody reads or writes memory through safe code while a peer may write into it: whoever lends it gives it away, and gets it
//!   back with the completion.

#![expect(unsafe_code, reason = "verbs are a C library; what makes its use sound is said above and at each block")]

mod channel;
mod connect;
mod device;
mod memory;
mod queue;
mod requests;

pub use connect::ConnectError;
pub use device::{Device, DeviceError, Domain, Gid, devices};
pub use memory::{Registered, RegisteredRegion, RemoteMemory};
pub use queue::{Completion, Depths, PostError, Queue};
pub use requests::{PIECE_BYTES_MAX, Piece, Request};
