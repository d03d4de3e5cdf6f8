//! Headwater's pure core: what both ends of a link must agree on, byte for byte.
//!
//! Nothing here opens a socket or a file, starts a thread, reads a clock or draws a random number: time, randomness and
//! events come in as arguments. That is what lets a simulation run the very code that ships.
//!
//! Start with [`record`] and [`page`] for the data model, [`tree`] for versions as trees of pages, [`sync`] for the two
//! state machines that move a version, and [`wire`] for what travels.

pub mod chunking;
pub mod codec;
pub mod commit;
pub mod compress;
pub mod delivery;
pub mod federated;
pub mod id;
pub mod manifest;
pub mod name;
pub mod order;
pub mod pace;
pub mod page;
pub mod path;
pub mod record;
pub mod samples;
pub mod sync;
pub mod tensors;
pub mod time;
pub mod tree;
pub mod trust;
pub mod wire;
