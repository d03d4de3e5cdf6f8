//! A session's part in training: what is known of a device goes when the session does.

use std::sync::Arc;

use headwater_protocol::federated::TrainingMessage;
use headwater_protocol::trust::Principal as Peer;
use headwater_quic::session::SessionHandle;

use crate::core::Core;

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
