//! The plane that always works: one TCP connection for each session, and its end means that the process at the other end is
//! gone.
//!
//! ```text
//! job -> core   hello, 48 bytes: "HWd1", u16 version, u16 flags (1: sealed), u64 session, proof[32]
//! core -> job   answer, 8 bytes: "HWd1", u8 status (0: welcome), 0, 0, 0
//! then frames   header, 16 bytes: u8 kind, 0, 0, 0, u32 slot, u32 at, u32 length; body of that length; where sealed a tag[16]
//! ```
//! | kind | way | slot | at | body |
//! | --- | --- | --- | --- | --- |
//! | 1 put | core to job | the slot | first byte in it | the bytes |
//! | 2 done | core to job | the slot | the request | none |
//! | 3 failed | core to job | the slot | the request | a [`ReadFailure`](headwater_protocol::delivery::ReadFailure) |
//! | 4 RDMA is on | core to job | 0 | 0 | the core's queue pair, an [`Endpoint`](crate::offer::Endpoint) |
//! | 5 RDMA is off | core to job | 0 | 0 | why, in words |
//! | 16 read | job to core | 0 | 0 | a [`ReadRequest`](headwater_protocol::delivery::ReadRequest) |
//! | 17 RDMA | job to core | 0 | 0 | the job's queue pair |
//!
//! A sealed frame is AES-256-GCM over its body with the header as associated data; each direction has a key of its own and
//! counts its frames as nonces. Payload goes from the core's cache to the socket, and from the socket to the slot, without
//! another copy in between where the connection is not sealed.

mod core;
mod frame;
mod job;
mod seal;

pub use core::{AcceptError, Accepted, Asked, Requests, TcpCoreLane, accept};
pub use frame::{HELLO_BYTES, Header, Hello, Kind};
pub use job::{TcpJobLane, TcpJobRunner, connect};
