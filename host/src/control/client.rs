//! A command's side of the local socket.

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{FrameError, Reply, SOCKET_FILE, address, frame};
use crate::error::{CodedError, codes};

/// A connection to a daemon's local socket; one request after the other.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
}

impl ControlClient {
    /// Connects to the daemon of the data folder `folder`; [`codes::DAEMON_NOT_RUNNING`] if there is none.
    pub async fn connect(folder: &Path) -> Result<Self, CodedError> {
        let failed = |error: std::io::Error| {
            let shown = folder.display();
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    CodedError::new(&codes::DAEMON_NOT_RUNNING, format!("no daemon is running on `{shown}`"))
                }
                _ => CodedError::new(&codes::DAEMON_NOT_RUNNING, format!("the daemon on `{shown}` can't be reached"))
                    .with_hint("run the command as the daemon's user or as root")
                    .with_source(error),
            }
        };
        let address = address::socket_path(folder, SOCKET_FILE).map_err(failed)?;
        let stream = UnixStream::connect(&address.path).await.map_err(failed)?;
        Ok(Self { stream })
    }

    /// Sends `request` and gives its answer; progress on the way is dropped.
    pub async fn call(&mut self, request: &impl Serialize) -> Result<Value, CodedError> {
        self.call_with_progress(request, |_| {}).await
    }

    /// Sends `request` and gives its answer; `progress` sees what comes before it.
    pub async fn call_with_progress(
        &mut self,
        request: &impl Serialize,
        mut progress: impl FnMut(Value),
    ) -> Result<Value, CodedError> {
        frame::write(&mut self.stream, request).await.map_err(lost)?;
        loop {
            match frame::read(&mut self.stream).await.map_err(lost)? {
                Some(Reply::Progress(value)) => progress(value),
                Some(Reply::Done(value)) => return Ok(value),
                Some(Reply::Failed(error)) => return Err(error),
                None => return Err(lost(FrameError::Io(ErrorKind::UnexpectedEof.into()))),
            }
        }
    }
}

fn lost(error: FrameError) -> CodedError {
    CodedError::new(&codes::DAEMON_NOT_RUNNING, "the daemon went away before it answered")
        .with_hint("look at its log, and try again")
        .with_source(error)
}
