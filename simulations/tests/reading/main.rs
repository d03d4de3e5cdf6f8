//! Training jobs against a real core: what they read is what was imported, and what happens to core, data, token and wire
//! costs them nothing but time.

mod cache;
mod commands;
mod importing;
mod jobs;
#[cfg(feature = "rdma")]
mod rdma;
mod records;
mod samples;
mod support;
mod trouble;
