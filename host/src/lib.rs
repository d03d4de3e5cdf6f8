//! What the daemons and the client do with a machine: folders, configuration, errors, logs, the local socket.
//!
//! Nothing here knows of networks, catalogs or stores. [`scan`] and [`version`] turn a folder into a version,
//! [`materialise`](mod@materialise) turns a version into a folder; [`error`], [`config`], [`control`], [`lock`], [`durable`], [`logging`],
//! [`systemd`] and [`doctor`] are what every daemon needs.

mod beneath;
pub mod config;
pub mod control;
pub mod disk;
pub mod doctor;
pub mod durable;
pub mod error;
pub mod listen;
pub mod lock;
pub mod logging;
pub mod materialise;
pub mod network;
pub mod output;
pub mod progress;
pub mod scan;
pub mod signals;
pub mod systemd;
pub mod version;
pub mod watch;
