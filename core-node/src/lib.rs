//! The core: stores chunks, commits signed dataset versions, and sends them to those who may read them.
//!
//! [`catalog`] and [`store`] are interfaces with two implementations each; [`ingest`] takes what devices publish, [`serve`]
//! gives what they subscribe to and what training jobs read, out of the resident [`cache`] and through one queue,
//! [`rights`] says who may do what, [`control`] answers people's commands, [`admin`] serves
//! metrics over HTTP, [`daemon`] holds them together, and [`cli`] is the command line.

pub mod account;
pub mod admin;
pub mod cache;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod daemon;
pub mod federation;
pub mod generations;
pub mod ingest;
pub mod pages;
pub mod rights;
mod samples;
pub mod serve;
pub mod store;
