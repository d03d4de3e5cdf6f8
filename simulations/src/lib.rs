//! Where the real programs and state machines are put through what the world does to them: lies, kills, full disks.

pub mod checkers;
pub mod goodput;
pub mod kills;
pub mod links;
pub mod machines;
pub mod processes;
pub mod quiet;
pub mod random;
pub mod reconnect;
pub mod recording;
pub mod rounds;
pub mod tally;
pub mod trouble;
pub mod world;
