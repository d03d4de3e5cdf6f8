//! What the agent does on its disk besides the catalog: chunks on their way into a subscription, finding chunks in files
//! that are here already, freeing files that are safe at the core, and reading everything again.

pub mod free;
pub mod holdings;
pub mod staging;
pub mod verify;
