//! How two ends agree on RDMA: over the data connection, the job says where its queue pair is, and the core where its own is, or why
//! there is none. The data connection stays, for what RDMA can't carry and as the way back when it fails.

/// Bytes of an encoded endpoint.
pub const ENDPOINT_BYTES: usize = 36;
/// Longest reason for there being no RDMA, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// What a peer has to know to connect to a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Number of the queue pair.
    pub queue_pair: u32,
    /// Number of the first packet.
    pub packet_number: u32,
    /// Address of the port.
    pub gid: [u8; 16],
    /// Address in an `InfiniBand` network, or 0.
    pub lid: u16,
    /// The path MTU as verbs number it: 1 is 256 bytes, 5 is 4,096.
    pub mtu: u16,
    /// Messages and notices for which this side keeps room.
    pub receives: u32,
    /// Longest message, in bytes.
    pub message_bytes: u32,
}

impl Endpoint {
    /// As bytes, little-endian in the order of the fields.
    pub fn encode(&self) -> [u8; ENDPOINT_BYTES] {
        let mut bytes = [0; ENDPOINT_BYTES];
        bytes[..4].copy_from_slice(&self.queue_pair.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.packet_number.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.gid);
        bytes[24..26].copy_from_slice(&self.lid.to_le_bytes());
        bytes[26..28].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.receives.to_le_bytes());
        bytes[32..].copy_from_slice(&self.message_bytes.to_le_bytes());
        bytes
    }

    /// The endpoint in `bytes`.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENDPOINT_BYTES] = bytes.try_into().ok()?;
        let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let two = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut gid = [0; 16];
        gid.copy_from_slice(&bytes[8..24]);
        let endpoint = Self {
            queue_pair: four(0),
            packet_number: four(4),
            gid,
            lid: two(24),
            mtu: two(26),
            receives: four(28),
            message_bytes: four(32),
        };
        (1..=5).contains(&endpoint.mtu).then_some(endpoint)
    }
}

/// Cuts a reason so that it fits.
pub(crate) fn reason(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_what_they_were() {
        let endpoint = Endpoint {
            queue_pair: 17,
            packet_number: 0x00ab_cdef,
            gid: [9; 16],
            lid: 4,
            mtu: 5,
            receives: 32,
            message_bytes: 16_384,
        };
        let bytes = endpoint.encode();
        assert_eq!(Endpoint::decode(&bytes), Some(endpoint));
        assert_eq!((Endpoint::decode(&bytes[1..]), Endpoint::decode(&[0; ENDPOINT_BYTES])), (None, None));
        assert_eq!(reason(&"ä".repeat(400)).len(), 512);
    }
}
