//! Commands of people elsewhere: what a session does with `Message::Control`, and the answer in parts.

use std::sync::Arc;

use headwater_host::control::{ReplySender, bodies};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::trust::{Principal as Peer, Role};
use headwater_protocol::wire::Message;
use headwater_quic::session::{SessionError, SessionHandle};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::control::{Asker, answer};
use crate::core::Core;

/// Commands of one session that run at once; more are refused.
const COMMANDS_MAX: usize = 4;

/// The commands of one session. They have slots of their own, so that no transfer keeps a person waiting.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    slots: Arc<Semaphore>,
}

impl Commands {
    pub(super) fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(COMMANDS_MAX)) }
    }

    /// Lets one more command in, before anything of it is kept: a device has none, and nobody has many at once.
    pub(super) fn admit(&self, role: Role) -> Result<OwnedSemaphorePermit, CodedError> {
        if role == Role::Device {
            return Err(CodedError::new(&codes::FORBIDDEN, "a device has no commands")
                .with_hint("use an identity that was made with a token of `core-node token create --role admin`"));
        }
        self.slots.clone().try_acquire_owned().map_err(|_| {
            CodedError::new(&codes::TOO_BUSY, format!("{COMMANDS_MAX} commands of this session are running"))
        })
    }
}

/// Carries out one command and answers it; `slot` is held until then.
pub(super) async fn carry_out(
    core: Arc<Core>,
    peer: Arc<Peer>,
    handle: SessionHandle,
    (request, body): (u32, String),
    slot: OwnedSemaphorePermit,
) {
    let asker = Asker { who: peer.name.clone(), role: peer.role, peer: Some(Peer::clone(&peer)) };
    let (reply, mut parts) = ReplySender::channel();
    let answered = headwater_quic::work::spawn(async move {
        let request = serde_json::from_str(&body)
            .map_err(|error| CodedError::new(&codes::BAD_FRAME, format!("the request is no JSON: {error}")))?;
        answer(core, asker, request, reply).await
    });
    while let Some(part) = parts.recv().await {
        if send(&handle, request, &serde_json::json!({ "progress": part }), false).await.is_err() {
            return;
        }
    }
    let result = answered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a command broke off");
        Err(CodedError::new(&codes::INTERNAL, "the core made a mistake"))
    });
    finish(&handle, request, result).await;
    drop(slot);
}

/// Sends the last word on a command.
pub(super) async fn finish(handle: &SessionHandle, request: u32, result: Result<(), CodedError>) {
    let last = match result {
        Ok(()) => serde_json::json!({ "done": null }),
        Err(error) => serde_json::json!({ "failed": error }),
    };
    // A session that is gone has nobody to answer.
    let _ = send(handle, request, &last, true).await;
}

async fn send(handle: &SessionHandle, request: u32, part: &Value, last: bool) -> Result<(), SessionError> {
    let bodies = bodies(part.to_string());
    let end = bodies.len() - 1;
    for (at, body) in bodies.into_iter().enumerate() {
        handle.send(Message::ControlReply { request, body, last: last && at == end }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_no_commands_and_nobody_has_many_at_once() {
        let commands = Commands::new();
        assert!(commands.admit(Role::Device).is_err_and(|error| error.is(&codes::FORBIDDEN)));
        let running: Vec<_> = (0..COMMANDS_MAX).map(|_| commands.admit(Role::Reader).expect("a slot")).collect();
        assert!(commands.admit(Role::Admin).is_err_and(|error| error.is(&codes::TOO_BUSY)));
        drop(running);
        assert!(commands.admit(Role::Admin).is_ok());
    }
}
