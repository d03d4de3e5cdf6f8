//! Work that blocks, for those who must not: the catalog, files, hashing.

use headwater_host::error::{CodedError, codes};
use headwater_quic::work;

/// Runs work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T, CodedError> + Send + 'static,
) -> Result<T, CodedError> {
    work::spawn_blocking(action)
        .await
        .map_err(|error| CodedError::new(&codes::INTERNAL, "a piece of work failed").with_source(error))?
}
