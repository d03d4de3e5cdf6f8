//! Endpoints: one that listens for a core, and one that dials for an agent.
//!
//! One UDP port of a core serves both protocols: sessions, for which the client shows its certificate, and joining, for
//! which it has none yet. TLS proves which key is at the other end; whether that key is welcome is decided right after
//! the handshake and by the core's device list, so a refusal can carry a sentence and not only a TLS alert. Sessions are
//! never resumed, so no handshake passes these checks by.

pub mod close;
mod dial;
mod lane;
mod listen;
mod meter;
mod options;
mod reset;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use dial::dial_to_join;
pub use dial::{ConnectError, Dialler, ResolveError, connect, resolve};
pub use lane::Downstream;
pub use listen::{Arrival, ArrivalError, Arriving, ListenError, Listener, Peer, listen};
pub use meter::{WireCounts, WireMeter};
pub use options::{
    ClientOptions, Congestion, LOOPBACK_MTU, MTU_DEFAULT, ParseCongestionError, ServerOptions, TransportOptions,
};
