//! What a training job asks of a core and how the answer lies in its receive slot: the same on every data plane.
//!
//! A job gives slots of its own memory numbers, and asks for samples or ranges of files into one of them. The core fills the
//! slot and marks it complete. What stands in the slot then describes itself:
//!
//! ```text
//! slot: header | samples | files | units | proofs | names | padding to 64 | payload
//! ```
//!
//! A [`Unit`] is a stretch of payload that can be verified by itself: bytes whose BLAKE3 is stated, or a part of such bytes
//! with the hashes that stand for the rest ([`proof`]). A file is a run of units, a sample is a run of files.

mod failure;
pub mod proof;
mod reply;
mod request;
mod what;

pub use failure::{READ_FAILURE_BYTES_MAX, ReadFailure};
pub use reply::{
    FileEntry, FileStatus, LAYOUT_ALIGN, Plan, PlannedFile, Reply, ReplyError, SampleView, Unit, VerifyFailure,
};
pub use request::{READ_REQUEST_BYTES_MAX, ReadRequest, SAMPLES_PER_REQUEST_MAX, SLOT_BYTES_MAX};
pub use what::ReadWhat;

#[cfg(test)]
mod tests;
