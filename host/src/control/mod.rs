//! The local socket between a daemon and its commands: `DIR/control.sock`, JSON in length-prefixed frames.
//!
//! Only the daemon opens its data folder; a command sends one request and reads progress until the answer. The socket is
//! for the daemon's own user and root alone: its mode says so, and the peer's credentials are checked.
//!
//! A request frame is the request itself. A reply frame is `{"progress": …}`, any number of times, then one of
//! `{"done": …}` and `{"failed": {"code", "message", "hint"}}`.

mod address;
mod client;
mod frame;
mod pieces;
mod server;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use client::ControlClient;
pub use frame::{FRAME_BYTES_MAX, FrameError};
pub use pieces::{Pieces, bodies};
pub use server::{ControlHandler, ControlServer, ReplyClosed, ReplySender};

use crate::error::CodedError;

/// The socket's name in a data folder.
pub const SOCKET_FILE: &str = "control.sock";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Progress(Value),
    Done(Value),
    Failed(CodedError),
}
