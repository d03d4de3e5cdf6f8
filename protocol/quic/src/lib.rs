//! The link between an agent and its core: QUIC endpoints, who is at the other end, and what travels.
//!
//! [`identity`] holds keys and certificates in files, [`endpoint`] listens and dials, [`congestion`] says how much may be in flight, [`join`] turns a token into a
//! certificate, [`framing`] puts control messages on a stream. On top of these, [`session`] speaks the protocol of a
//! session, and [`transfer`] moves versions. [`work`] is the machine that all of it runs on. What the two ends decide is in `headwater_protocol`; here is only the shell.

pub mod congestion;
pub mod endpoint;
pub mod framing;
pub mod identity;
pub mod join;
pub mod session;
pub mod transfer;
pub mod work;

pub use endpoint::{
    Arrival, ArrivalError, Arriving, ClientOptions, Congestion, ConnectError, Dialler, Downstream, ListenError,
    Listener, Peer, ServerOptions, TransportOptions, WireMeter, connect, listen, resolve,
};
pub use framing::{ControlReceiver, ControlSender, ControlStream, FrameError};
pub use identity::{Authority, CERTIFICATE_LIFETIME, Identity, IdentityError, IdentityKey};
pub use join::{JoinDesk, JoinError, JoinReply, JoinRequest, Joined, join, serve_join};
