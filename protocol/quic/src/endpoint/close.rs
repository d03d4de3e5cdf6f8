//! Codes with which a connection is closed on purpose, and what the other side can read in them.

use quinn::{ConnectionError, VarInt};

/// A clean end.
pub const DONE: VarInt = VarInt::from_u32(0);
/// The client showed no certificate, or one that this core's authority did not issue.
pub const UNKNOWN_PEER: VarInt = VarInt::from_u32(0x101);
/// The core refuses this peer; the control stream said why.
pub const REFUSED: VarInt = VarInt::from_u32(0x102);
/// The peer broke the protocol.
pub const PROTOCOL: VarInt = VarInt::from_u32(0x103);
/// The process is going away.
pub const SHUTDOWN: VarInt = VarInt::from_u32(0x104);
/// A newer connection of the same device replaced this one.
pub const REPLACED: VarInt = VarInt::from_u32(0x105);
/// The device was revoked.
pub const REVOKED: VarInt = VarInt::from_u32(0x106);

/// Longest reason that is shown of what a peer sent, in characters.
const REASON_CHARS_MAX: usize = 300;

/// The code and the sentence with which the peer closed the connection, if it did so on purpose.
pub fn said(error: &ConnectionError) -> Option<(VarInt, String)> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    let reason = String::from_utf8_lossy(&close.reason);
    let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
    Some((close.error_code, reason))
}

/// The end of a connection in words for people.
pub fn describe(error: &ConnectionError) -> String {
    match (error, said(error)) {
        (_, Some((code, reason))) if reason.is_empty() => format!("the peer closed the connection (code {code})"),
        (_, Some((_, reason))) => reason,
        (ConnectionError::TimedOut, _) => "nothing came from the peer for too long".to_owned(),
        (ConnectionError::Reset, _) => "the peer does not know this connection any more; it was restarted".to_owned(),
        (ConnectionError::LocallyClosed, _) => "this side closed the connection".to_owned(),
        (other, _) => other.to_string(),
    }
}
