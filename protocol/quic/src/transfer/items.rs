//! Items off a stream: each a framed header and its payload, all of one transfer.

use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::codec::DecodeError;
use headwater_protocol::wire::{ITEM_HEADER_BYTES_MAX, ItemHeader};
use quinn::{ReadError, ReadExactError, RecvStream, VarInt};

use crate::endpoint::close;
use crate::framing::FRAME_LENGTH_BYTES;
use crate::session::shared::{ArrivedItem, Gate, Shared, TransferEvent, TransferSender};

/// With this a receiver stops a stream whose transfer has ended.
pub(crate) const TRANSFER_OVER: VarInt = VarInt::from_u32(0x201);

/// Room that a payload gets before any of it has come; more is made as it comes.
const PAYLOAD_ROOM_BYTES: usize = 64 << 10;

/// Why reading a stream ended.
enum Ended {
    /// The sender finished it, or the transfer is over.
    Over,
    /// The stream or the connection broke between two items.
    Broken,
    /// What stands on it is no item.
    Invalid(String),
}

/// Reads items until the stream ends, and hands them to their transfer.
pub(crate) async fn read(shared: Arc<Shared>, mut stream: RecvStream) {
    let ended = match read_items(&shared, &mut stream).await {
        Ok(()) => Ended::Over,
        Err(ended) => ended,
    };
    // A stream that has ended already can't be stopped, nor need it be.
    let _ = stream.stop(TRANSFER_OVER);
    if let Ended::Invalid(reason) = ended {
        let reason = format!("an item stream broke the protocol: {reason}");
        tracing::debug!(reason, "closing");
        shared.connection.close(close::PROTOCOL, reason.as_bytes());
    }
}

async fn read_items(shared: &Shared, stream: &mut RecvStream) -> Result<(), Ended> {
    let Some((first, header_bytes)) = read_header(stream).await? else { return Ok(()) };
    let transfer = first.transfer;
    let Some((events, gate)) = shared.receiving(transfer) else { return Ok(()) };
    // A transfer that was cut still takes what comes; one that has ended takes nothing, and its readers hold nothing.
    tokio::select! {
        biased;
        () = events.closed() => Err(Ended::Over),
        ended = read_transfer(stream, (&events, &gate), first, header_bytes) => ended,
    }
}

async fn read_transfer(
    stream: &mut RecvStream,
    (events, gate): (&TransferSender, &Gate),
    first: ItemHeader,
    header_bytes: usize,
) -> Result<(), Ended> {
    let transfer = first.transfer;
    tracing::trace!(transfer, "items begin to come on a stream");
    let mut next = Some((first, header_bytes));
    while let Some((header, header_bytes)) = next {
        if header.transfer != transfer {
            return Err(Ended::Invalid(format!("items of transfers {transfer} and {} on it", header.transfer)));
        }
        read_item(stream, (events, gate), header, header_bytes).await?;
        next = read_header(stream).await?;
    }
    Ok(())
}

async fn read_item(
    stream: &mut RecvStream,
    (events, gate): (&TransferSender, &Gate),
    header: ItemHeader,
    header_bytes: usize,
) -> Result<(), Ended> {
    let payload_bytes = header.payload_bytes as usize;
    if let Err(violation) = gate.take(u64::from(header.payload_bytes)) {
        // The transfer may be over already.
        let _ = events.send(Box::new(TransferEvent::Broken(violation))).await;
        return Err(Ended::Over);
    }
    let (payload, whole) = read_payload(stream, payload_bytes, gate).await;
    let item = ArrivedItem { header, header_bytes, payload };
    let event = if whole { TransferEvent::Item(item) } else { TransferEvent::Cut(item) };
    match events.send(Box::new(event)).await {
        Ok(()) if whole => Ok(()),
        Ok(()) => Err(Ended::Broken),
        Err(_) => Err(Ended::Over),
    }
}

/// A payload, or as much of it as came.
async fn read_payload(stream: &mut RecvStream, payload_bytes: usize, gate: &Gate) -> (Bytes, bool) {
    let mut payload = Vec::with_capacity(payload_bytes.min(PAYLOAD_ROOM_BYTES));
    while payload.len() < payload_bytes {
        let rest = payload_bytes - payload.len();
        let Ok(Some(chunk)) = stream.read_chunk(rest, true).await else { return (payload.into(), false) };
        if payload.capacity() - payload.len() < chunk.bytes.len() {
            // Twice as much each time, and never more than was stated.
            payload.reserve_exact(payload.len().max(chunk.bytes.len()).min(rest));
        }
        payload.extend_from_slice(&chunk.bytes);
        gate.note_arrived(chunk.bytes.len() as u64);
    }
    (payload.into(), true)
}

async fn read_header(stream: &mut RecvStream) -> Result<Option<(ItemHeader, usize)>, Ended> {
    let mut length = [0; FRAME_LENGTH_BYTES];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(failed(&error)),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > ITEM_HEADER_BYTES_MAX {
        let error = DecodeError::TooLong { what: "item header", length, limit: ITEM_HEADER_BYTES_MAX };
        return Err(Ended::Invalid(error.to_string()));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(|error| failed(&error))?;
    let header = ItemHeader::decode(&body).map_err(|error| Ended::Invalid(error.to_string()))?;
    Ok(Some((header, FRAME_LENGTH_BYTES + length)))
}

fn failed(error: &ReadExactError) -> Ended {
    match error {
        ReadExactError::FinishedEarly(_) => Ended::Invalid("it ended inside a header".into()),
        ReadExactError::ReadError(ReadError::Reset(_)) => Ended::Over,
        ReadExactError::ReadError(_) => Ended::Broken,
    }
}
