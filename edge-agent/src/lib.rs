//! The agent on a device: publishes folders as signed dataset versions to a core, and subscribes to others.
//!
//! - [`agent`] is what one data folder amounts to, and answers commands; [`daemon`] runs it for long, [`cli`] is the program.
//! - [`catalog`] knows what is in the datasets; it is all that speaks SQL, and it can be rebuilt.
//! - [`session`] reaches the core, publishes and subscribes; [`storage`] is what happens on the device's own disk.
//! - [`link`] is what may go over the link and when.
//! - `training` is its part in federated runs.
//! - [`settings`] and [`device`] are small files that outlive the catalog; [`watched`] is a value that tasks wait for.

mod admin;
pub mod agent;
mod blocking;
pub mod catalog;
pub mod cli;
mod clock;
pub mod daemon;
pub mod device;
pub mod doctor;
pub mod link;
pub mod request;
pub mod session;
pub mod settings;
pub mod storage;
mod training;
pub mod watched;
