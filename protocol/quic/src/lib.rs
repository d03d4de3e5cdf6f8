//! x

pub mod session;
pub mod transfer;
