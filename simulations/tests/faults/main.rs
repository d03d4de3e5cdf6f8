//! What bad input gets: each case through the real programs, with a clear error, a hint, and nothing lost.
//!
//! Every test ends by showing that the same core and the same devices still do their work, and that what they hold is
//! byte for byte what was published.

mod bad_links;
mod caps;
mod disk_full;
mod files;
mod fleet;
mod frames;
mod freeing;
mod joining;
mod kills;
mod local;
mod manifests;
mod moving;
mod publishing;
mod rights;
mod sessions;
mod setup;
mod subscribing;
mod upkeep;
mod watching;
mod writers;

use std::path::PathBuf;

use simulations::processes::{AgentProcess, CoreProcess, folder};

/// A device with a folder that it publishes, and another that subscribes to it.
struct Pair {
    core: CoreProcess,
    publisher: AgentProcess,
    subscriber: AgentProcess,
    source: PathBuf,
    copy: PathBuf,
}

/// The dataset of a [`Pair`].
const DATASET: &str = "cam/north";

impl Pair {
    /// Both devices have joined, and nothing is published yet.
    #[track_caller]
    fn new() -> Self {
        let core = CoreProcess::start();
        let publisher = core.device("north");
        let subscriber = core.device("reader");
        let source = publisher.scratch().join("source");
        folder::fill(&source, 7, 20, 1);
        publisher.publish(&source, DATASET);
        let copy = subscriber.subscribe(DATASET);
        Self { core, publisher, subscriber, source, copy }
    }

    /// The same with everything published and subscribed once.
    #[track_caller]
    fn synced() -> Self {
        let pair = Self::new();
        pair.publisher.sync();
        pair.subscriber.sync();
        folder::assert_same(&pair.source, &pair.copy);
        pair
    }

    /// Whatever happened: a change still reaches the subscriber, and all three places hold the same.
    #[track_caller]
    fn still_works(&self) {
        let mark = format!("written at {:?}\n", std::time::SystemTime::now());
        folder::write(&self.source.join("after.txt"), mark.as_bytes());
        self.publisher.sync();
        self.subscriber.sync();
        folder::assert_same(&self.source, &self.copy);
        let exported = self.core.export(DATASET);
        folder::assert_same(&self.source, &exported);
        self.core.verify();
    }
}
