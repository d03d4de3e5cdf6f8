//! Control messages of a transfer on their way to the session's queue. A transfer never waits for room in the queue while it
//! could take what comes in: two transfers that wait for each other would stand still.

use std::collections::VecDeque;

use headwater_protocol::wire::Message;

use super::TransferError;
use crate::framing::FRAME_LENGTH_BYTES;
use crate::session::shared::Shared;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Message>,
}

impl Outbox {
    /// Adds a message; gives the bytes that it takes on the wire.
    pub(super) fn push(&mut self, message: Message) -> u64 {
        let bytes = FRAME_LENGTH_BYTES + message.encode().len();
        self.waiting.push_back(message);
        bytes as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Queues the first message. Cancel-safe.
    pub(super) async fn send_one(&mut self, shared: &Shared) -> Result<(), TransferError> {
        let permit = shared.reserve().await.map_err(|_| TransferError::Disconnected(shared.why_ended()))?;
        if let Some(message) = self.waiting.pop_front() {
            permit.send(Box::new(message));
        }
        Ok(())
    }

    /// Queues all of them.
    pub(super) async fn flush(&mut self, shared: &Shared) -> Result<(), TransferError> {
        while !self.is_empty() {
            self.send_one(shared).await?;
        }
        Ok(())
    }
}
