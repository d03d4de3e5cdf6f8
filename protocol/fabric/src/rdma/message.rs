//! What travels by SEND: a job's requests, and a core's word that one gets no bytes. Bytes come by RDMA WRITE, and the number of the
//! request as its immediate says that they are there.
//!
//! A request is 16 bytes, all little-endian, and a [`ReadRequest`] as on every plane:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | address of the slot in the job's process |
//! | 8..12 | key of the slot's registration |
//! | 12..16 | zero |
//!
//! A failure is the number of the request in 4 bytes, and a [`ReadFailure`].

use headwater_protocol::delivery::{READ_FAILURE_BYTES_MAX, ReadFailure, ReadRequest};

use super::verbs::RemoteMemory;
use crate::plane::LaneError;

const TARGET_BYTES: usize = 16;
const NUMBER_BYTES: usize = 4;
/// Longest message. What asks for more samples than fit goes over TCP.
pub(super) const MESSAGE_BYTES: u32 = 16 * 1024;

const _: () = assert!(NUMBER_BYTES + READ_FAILURE_BYTES_MAX <= MESSAGE_BYTES as usize, "a failure fits");

/// A request with the memory that it is about; none if it is too long for a message.
pub(super) fn encode_request(request: &ReadRequest, slot: RemoteMemory) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(TARGET_BYTES);
    message.extend_from_slice(&slot.address.to_le_bytes());
    message.extend_from_slice(&slot.key.to_le_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&request.encode());
    (message.len() <= MESSAGE_BYTES as usize).then_some(message)
}

/// The request in a message. Its slot is as long as the request says.
pub(super) fn decode_request(message: &[u8]) -> Result<(ReadRequest, RemoteMemory), LaneError> {
    let (target, request) =
        message.split_first_chunk::<TARGET_BYTES>().ok_or_else(|| broken("a request is cut off"))?;
    let (address, rest) = target.split_first_chunk::<8>().ok_or_else(|| broken("a request is cut off"))?;
    let (key, zero) = rest.split_first_chunk::<4>().ok_or_else(|| broken("a request is cut off"))?;
    if zero != [0; 4] {
        return Err(broken("a request has bits that nobody knows"));
    }
    let request = ReadRequest::decode(request).map_err(|error| broken(&error.to_string()))?;
    let slot = RemoteMemory {
        address: u64::from_le_bytes(*address),
        len: request.slot_bytes.into(),
        key: u32::from_le_bytes(*key),
    };
    if slot.address.checked_add(slot.len).is_none() {
        return Err(broken("a slot reaches beyond all memory"));
    }
    Ok((request, slot))
}

/// The word that a request gets no bytes.
pub(super) fn encode_failure(request: u32, failure: &ReadFailure) -> Vec<u8> {
    let mut message = request.to_le_bytes().to_vec();
    message.extend_from_slice(&failure.encode());
    message
}

/// The failure in a message, and of which request.
pub(super) fn decode_failure(message: &[u8]) -> Result<(u32, ReadFailure), LaneError> {
    let (number, failure) =
        message.split_first_chunk::<NUMBER_BYTES>().ok_or_else(|| broken("a failure is cut off"))?;
    let failure = ReadFailure::decode(failure).map_err(|error| broken(&error.to_string()))?;
    Ok((u32::from_le_bytes(*number), failure))
}

fn broken(reason: &str) -> LaneError {
    LaneError::Protocol(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use headwater_protocol::delivery::ReadWhat;
    use headwater_protocol::wire::Refusal;

    use super::*;

    fn request(samples: u64) -> ReadRequest {
        let what = ReadWhat::Samples { samples: (0..samples).collect(), paths: false };
        ReadRequest { request: 7, slot: 1, slot_bytes: 4096, source: 2, what }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let slot = RemoteMemory { address: 0x7f00_1234_5000, len: 4096, key: 99 };
        let message = encode_request(&request(256), slot).expect("short enough");
        assert_eq!(decode_request(&message).expect("decoded"), (request(256), slot));
        assert!(encode_request(&request(16_000), slot).is_none());
        let refusal = Refusal { code: "HW-7004".to_owned(), message: "too small".to_owned(), hint: String::new() };
        let failure = ReadFailure { refusal, slot_bytes_needed: 12 };
        assert_eq!(decode_failure(&encode_failure(7, &failure)).expect("decoded"), (7, failure));
    }

    #[test]
    fn nonsense_is_refused() {
        let slot = RemoteMemory { address: u64::MAX - 5, len: 4096, key: 99 };
        let message = encode_request(&request(1), slot).expect("short enough");
        assert!(decode_request(&message).is_err(), "beyond all memory");
        for len in 0..message.len() {
            assert!(decode_request(&message[..len]).is_err());
        }
        assert!(decode_failure(&[1, 2, 3]).is_err());
        let mut odd = encode_request(&request(1), RemoteMemory { address: 4096, ..slot }).expect("short enough");
        assert!(decode_request(&odd).is_ok());
        odd[13] = 1;
        assert!(decode_request(&odd).is_err());
    }
}
