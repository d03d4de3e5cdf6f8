//! How a queue pair comes to its peer: from its making through the states in which it receives and sends.

use std::io;

use ibverbs_sys as ffi;

use super::queue::{PACKET_NUMBER_MASK, Queue, os_result};
use crate::offer::Endpoint;

/// How long a peer without a free receive is left alone before it is asked again: 0.64 ms. By the flow control above this
/// does not happen; where it does, a retry is cheaper than a connection.
const RECEIVER_BUSY_TIMER: u8 = 12;
/// How often it is asked again: 7 would be for ever.
const RECEIVER_BUSY_RETRIES: u8 = 6;
/// A connection can't be made.
#[derive(Debug, thiserror::Error)]
#[error("an RDMA connection can't be made: {step}")]
pub struct ConnectError {
    step: &'static str,
    source: io::Error,
}

impl Queue {
    /// Connects to the peer's queue pair, and is ready for what it sends.
    pub fn connect(&mut self, peer: &Endpoint) -> Result<(), ConnectError> {
        let attempt = |step, outcome: io::Result<()>| outcome.map_err(|source| ConnectError { step, source });
        attempt("the queue pair can't be initialised", self.initialise())?;
        for index in 0..self.depths.receives {
            attempt("receives can't be posted", self.post_receive(index))?;
        }
        attempt("it is not ready to receive from the peer", self.make_ready_to_receive(peer))?;
        attempt("it is not ready to send to the peer", self.make_ready_to_send())
    }

    fn initialise(&self) -> io::Result<()> {
        use ffi::ibv_qp_attr_mask as field;
        let mut attributes = ffi::ibv_qp_attr {
            qp_state: ffi::ibv_qp_state::IBV_QPS_INIT,
            port_num: self.domain.port(),
            qp_access_flags: ffi::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
                | ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0,
            ..Default::default()
        };
        let mask = field::IBV_QP_STATE | field::IBV_QP_PKEY_INDEX | field::IBV_QP_PORT | field::IBV_QP_ACCESS_FLAGS;
        self.modify(&mut attributes, mask)
    }

    fn make_ready_to_receive(&self, peer: &Endpoint) -> io::Result<()> {
        use ffi::ibv_qp_attr_mask as field;
        let (_, gid_index, _) = self.domain.gid();
        let settings = self.domain.settings();
        let mut attributes = ffi::ibv_qp_attr {
            qp_state: ffi::ibv_qp_state::IBV_QPS_RTR,
            path_mtu: self.domain.mtu.min(peer.mtu.into()),
            dest_qp_num: peer.queue_pair,
            rq_psn: peer.packet_number & PACKET_NUMBER_MASK,
            // Nobody reads from the other side.
            max_dest_rd_atomic: 0,
            min_rnr_timer: RECEIVER_BUSY_TIMER,
            ah_attr: ffi::ibv_ah_attr {
                dlid: peer.lid,
                sl: settings.service_level,
                port_num: self.domain.port(),
                // On Ethernet there is nothing but the global address.
                is_global: u8::from(self.domain.is_ethernet || peer.lid == 0),
                grh: ffi::ibv_global_route {
                    dgid: ffi::ibv_gid { raw: peer.gid },
                    sgid_index: gid_index,
                    hop_limit: 64,
                    traffic_class: settings.traffic_class,
                    ..Default::default()
                },
                ..Default::default()
            },
            ..Default::default()
        };
        let mask = field::IBV_QP_STATE
            | field::IBV_QP_AV
            | field::IBV_QP_PATH_MTU
            | field::IBV_QP_DEST_QPN
            | field::IBV_QP_RQ_PSN
            | field::IBV_QP_MAX_DEST_RD_ATOMIC
            | field::IBV_QP_MIN_RNR_TIMER;
        self.modify(&mut attributes, mask)
    }

    fn make_ready_to_send(&self) -> io::Result<()> {
        use ffi::ibv_qp_attr_mask as field;
        let settings = self.domain.settings();
        let mut attributes = ffi::ibv_qp_attr {
            qp_state: ffi::ibv_qp_state::IBV_QPS_RTS,
            timeout: settings.timeout,
            retry_cnt: settings.retries,
            rnr_retry: RECEIVER_BUSY_RETRIES,
            sq_psn: self.packet_number,
            max_rd_atomic: 0,
            ..Default::default()
        };
        let mask = field::IBV_QP_STATE
            | field::IBV_QP_TIMEOUT
            | field::IBV_QP_RETRY_CNT
            | field::IBV_QP_RNR_RETRY
            | field::IBV_QP_SQ_PSN
            | field::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(&mut attributes, mask)
    }

    fn modify(&self, attributes: &mut ffi::ibv_qp_attr, mask: ffi::ibv_qp_attr_mask) -> io::Result<()> {
        let mask = i32::try_from(mask.0).expect("flags are small");
        // SAFETY: the queue pair is alive and the attributes are ours.
        os_result(unsafe { ffi::ibv_modify_qp(self.pair.as_ptr(), attributes, mask) })
    }
}
