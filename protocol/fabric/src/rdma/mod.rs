//! The RDMA plane: the core writes straight from its registered cache into the registered slots of a job.
//!
//! ```text
//!   job                                                    core
//!    |-- TCP: offer (its queue pair) ----------------------->|
//!    |<-- TCP: where the core's is, or why there is none ----|
//!    |== SEND: request, with address and key of the slot ===>|
//!    |<== RDMA WRITE from the cache into the slot ===========|
//!    |<== the last one, with the request's number as immediate
//!    |<== SEND: why a request gets no bytes =================|
//! ```
//!
//! Keys of the core's memory never leave it. The TCP connection stays: its end means that the process is gone, long requests go over
//! it, and whatever was under way is asked for again over it when RDMA fails.

mod bounce;
pub mod core;
pub mod job;
mod message;
pub mod verbs;

pub use self::core::{Agreed, CoreFabric, RdmaCoreLane, RdmaCoreRunner};
pub use self::job::{RdmaJobLane, RdmaJobRunner};
pub use verbs::{Device, DeviceError, Domain, Gid, Registered, devices};

/// An error with what it is made of.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Why there can be no queue, with what an operator can do.
fn queue_failed(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::OutOfMemory {
        return format!("memory for RDMA can't be registered: {error} (`ulimit -l`)");
    }
    chain(error)
}
