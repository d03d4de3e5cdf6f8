//! The daemon's side of the local socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::{FRAME_BYTES_MAX, FrameError, Reply, SOCKET_FILE, address, frame};
use crate::durable::PRIVATE_FILE_MODE;
use crate::error::{CodedError, codes};

/// Most connections served at once; more wait.
const CONNECTIONS_MAX: usize = 64;
/// Progress frames that wait for a slow reader before the handler does.
const PROGRESS_QUEUE_MAX: usize = 64;

/// What answers requests.
pub trait ControlHandler: Send + Sync + 'static {
    /// Answers `request`; `reply` takes progress on the way. The future runs to its end also when the caller has gone:
    /// a handler that streams for ever stops when [`ReplySender::progress`] fails.
    fn handle(&self, request: Value, reply: ReplySender) -> BoxFuture<'_, Result<Value, CodedError>>;
}

/// The caller has gone; nobody reads further progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller has gone")]
pub struct ReplyClosed;

/// Takes a request's progress.
#[derive(Clone, Debug)]
pub struct ReplySender {
    progress: Option<mpsc::Sender<Value>>,
}

impl ReplySender {
    /// A sender and the receiver of what is sent, for running a handler in process.
    pub fn channel() -> (Self, mpsc::Receiver<Value>) {
        let (progress, receiver) = mpsc::channel(PROGRESS_QUEUE_MAX);
        (Self { progress: Some(progress) }, receiver)
    }

    /// A sender that drops what is sent.
    pub fn ignored() -> Self {
        Self { progress: None }
    }

    /// Sends progress, waiting for a slow reader.
    pub async fn progress(&self, value: impl Serialize) -> Result<(), ReplyClosed> {
        let Some(progress) = &self.progress else { return Ok(()) };
        let value = serde_json::to_value(value).expect("progress is plain data");
        progress.send(value).await.map_err(|_| ReplyClosed)
    }

    /// Sends progress if the reader keeps up, else drops it.
    pub fn try_progress(&self, value: impl Serialize) {
        if let Some(progress) = &self.progress {
            let value = serde_json::to_value(value).expect("progress is plain data");
            let _ = progress.try_send(value);
        }
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.progress.as_ref().is_some_and(mpsc::Sender::is_closed)
    }
}

/// The listening socket; removed when dropped.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Binds the socket of the data folder `folder`. The caller holds the folder's lock, so a socket that is there
    /// already was left by a daemon that died.
    pub fn bind(folder: &Path) -> Result<Self, CodedError> {
        let path = folder.join(SOCKET_FILE);
        let failed = |error| CodedError::io(&codes::WRITE_FAILED, format!("can't create `{}`", path.display()), error);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let address = address::socket_path(folder, SOCKET_FILE).map_err(failed)?;
        let listener = UnixListener::bind(&address.path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(PRIVATE_FILE_MODE)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Serves connections until the future is dropped. A request that runs then is not cut short.
    pub async fn serve(&self, handler: Arc<dyn ControlHandler>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) if allowed(&stream) => {
                    let handler = handler.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve_connection(stream, handler).await {
                            tracing::debug!(%error, "a local command's connection ended early");
                        }
                        drop(slot);
                    });
                }
                Ok(_) => tracing::warn!("a local connection of another user was refused"),
                Err(error) => {
                    tracing::warn!(%error, "the local socket accepts no connection at the moment");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn serve_connection(stream: UnixStream, handler: Arc<dyn ControlHandler>) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.into_split();
    loop {
        let request = match frame::read::<Value>(&mut reader).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error @ FrameError::Io(_)) => return Err(error),
            Err(error) => {
                let refused = CodedError::new(&codes::BAD_FRAME, format!("the request can't be read: {error}"));
                frame::write(&mut writer, &Reply::Failed(refused)).await?;
                return Err(error);
            }
        };
        answer(&mut writer, handler.as_ref(), request).await?;
    }
}

async fn answer(writer: &mut OwnedWriteHalf, handler: &dyn ControlHandler, request: Value) -> Result<(), FrameError> {
    let (reply, mut progress) = ReplySender::channel();
    let mut handled = handler.handle(request, reply);
    let mut written = Ok(());
    let mut open = true;
    let result = loop {
        tokio::select! {
            biased;
            value = progress.recv(), if open => match value {
                Some(value) => {
                    written = frame::write(writer, &Reply::Progress(value)).await;
                    if written.is_err() {
                        open = false;
                        progress.close();
                    }
                }
                None => open = false,
            },
            result = &mut handled => break result,
        }
    };
    written?;
    while let Ok(value) = progress.try_recv() {
        frame::write(writer, &Reply::Progress(value)).await?;
    }
    let reply = match result {
        Ok(value) => Reply::Done(value),
        Err(error) => Reply::Failed(said(error)),
    };
    match frame::write(writer, &reply).await {
        Err(FrameError::TooLong(length)) => {
            let message = format!("the answer has {length} bytes, over the limit of {FRAME_BYTES_MAX}");
            let refused = CodedError::new(&codes::BAD_FRAME, message).with_hint("ask for a part of it");
            frame::write(writer, &Reply::Failed(refused)).await
        }
        other => other,
    }
}

/// The error with its causes in its message: the source itself does not travel.
fn said(error: CodedError) -> CodedError {
    let Some(source) = &error.source else { return error };
    let mut message = format!("{}: {source}", error.message);
    let mut cause = source.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    CodedError { code: error.code.clone(), message, hint: error.hint.clone(), source: None }
}
