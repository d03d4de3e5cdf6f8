//! The data plane between a core and a training job: the job has receive slots, the core fills them.
//!
//! One interface, [`plane`], for every way on which bytes can travel; [`tcp`] is the one that always works. A data connection
//! belongs to a session that was opened on the authenticated control connection, and proves it with a secret that was told
//! there for one use ([`invitation`]). What is asked for and how an answer lies in a slot is `headwater_protocol::delivery`.
//!
//! Nothing here starts a task, reads a clock or decides who may read what: callers run the futures, and say when and whether.

pub mod invitation;
pub mod memory;
pub mod offer;
pub mod plane;
pub mod planes;
#[cfg(feature = "rdma")]
pub mod rdma;
mod settings;
pub mod tcp;

pub use invitation::{Invitations, Secret};
pub use memory::{Region, Slot};
pub use plane::{CoreLane, Delivery, Gate, JobLane, LaneError, ReadAnswer, Turn};
pub use settings::{RdmaSettings, RdmaSettingsError};
