//! Peers that hold a real identity and speak the protocol, but not the truth.
//!
//! [`HostileDevice`] is a joined device whose software was replaced; [`HostileCore`] is a core that was taken over. Both put
//! frames together themselves, so that they can send what no state machine of ours would, and keep all that they hear.
//! [`Forgery`] is a version that must not be believed.

mod core;
mod device;
mod forgery;
mod wire;

pub(crate) use core::take_place;
pub use core::{Conduct, HostileCore, Overheard};
pub use device::{Answer, HostileDevice};
pub use forgery::{Forgery, Item, encoded_leaf, file, leaf_reference, with_device_file};
pub use wire::{Heard, Wire};

use std::sync::OnceLock;

use tokio::runtime::Runtime;

/// The runtime of all hostile peers of a test process.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("hostile")
            .build()
            .expect("a runtime starts")
    })
}
