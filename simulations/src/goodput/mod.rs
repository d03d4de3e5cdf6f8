//! What a link gives to a sender, in virtual time: quinn's protocol machine with the transport settings that ship, over links
//! as edges have them. A run of minutes takes seconds, and the same seed gives the same run.

mod flow;
mod link;
mod peer;
mod report;
pub mod scenarios;
mod world;

pub use link::{Capacity, Link, LinkShape, MS, Nanos, SECOND, Turns};
pub use report::{Line, plot, table};
pub use world::{Bar, FROM, Figures, Measured, Scenario, run};
