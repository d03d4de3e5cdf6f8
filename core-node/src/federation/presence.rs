//! A session's part in training: what is known of a device goes when the session does.

use std::sync::Arc;
use std::time::Duration;

use headwater_protocol::federated::TrainingMessage;
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::Message;
use headwater_quic::session::SessionHandle;
use headwater_quic::work;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::core::Core;

/// How long a device may take to hear something; one that takes longer hears it in its next session.
const TELL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a device is to hear. One queue for each session: that a task is settled must not arrive after the same task is asked again.
pub(super) type Outbox = UnboundedSender<TrainingMessage>;

/// Begins to send to a device whatever is put into its outbox.
pub(super) fn outbox(handle: SessionHandle) -> Outbox {
    let (outbox, mut coming) = unbounded_channel();
    work::spawn(async move {
        while let Some(message) = coming.recv().await {
            let sent = handle.send(Message::Training(Box::new(message)));
            // One that does not hear it is told again in its next session.
            if !matches!(tokio::time::timeout(TELL_TIMEOUT, sent).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    outbox
}

/// Lets a device hear something.
pub(super) fn say(outbox: &Outbox, message: TrainingMessage) {
    // Where the session has ended nobody listens.
    let _ = outbox.send(message);
}

/// A session of a device that spoke of training; the device is gone when this is dropped.
pub(crate) struct Presence {
    core: Arc<Core>,
    device: String,
    session: u64,
}

impl Presence {
    /// The session of `peer` has something to say.
    pub(crate) fn new(core: &Arc<Core>, peer: &Peer) -> Self {
        Self { core: core.clone(), device: peer.name.clone(), session: core.unique() }
    }

    /// It says this.
    pub(crate) fn heard(&self, peer: &Arc<Peer>, handle: &SessionHandle, message: TrainingMessage) {
        self.core.federation.heard(self.session, peer, handle, message);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.core.federation.gone(&self.device, self.session);
    }
}
