//! Reads datasets from a Headwater core: by sample, in batches, at the speed of the network, verified.
//!
//! ```no_run
//! # async fn example() -> Result<(), headwater_client::CodedError> {
//! use headwater_client::{Client, Options};
//!
//! let client = Client::connect(Options::from_environment()?).await?;
//! let dataset = client.dataset("cameras@latest").await?;
//! let batch = dataset.read(&[7, 3, 3]).await?;
//! for sample in batch.samples() {
//!     println!("{} bytes", sample?.bytes().len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] holds the connection to one core and makes it anew when it breaks; [`Dataset`] is a version or a collection
//! that was resolved once and stays what it was; a [`Batch`] is a view of the receive buffer into which the core wrote, and
//! the buffer is used again when the batch is dropped. [`import`](fn@import) makes a version of a folder. Every error is a [`CodedError`] with a hint.

mod batch;
mod buffers;
pub mod cli;
mod client;
mod control;
mod dataset;
mod files;
mod import;
pub mod job;
mod link;
mod options;
mod retry;

pub use batch::{Batch, Field, Sample};
pub use client::{Client, Stats};
pub use dataset::{Batches, Dataset};
pub use files::{DatasetEntry, FileEntry, Filter};
pub use headwater_host::error::CodedError;
pub use headwater_host::version::{BuildReport, PublishMode};
pub use headwater_protocol::order;
pub use import::{Import, ImportProgress, Imported, import};
pub use options::{CORE_VARIABLE, JOB_VARIABLE, Options, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE};
