//! A control stream on which anything can be sent, and item streams beside it.

use std::time::Duration;

use bytes::BytesMut;
use headwater_protocol::wire::{Encoding, ItemHeader, ItemKey, Message};
use headwater_quic::endpoint::close;
use headwater_quic::framing::{append_frame, take_frame};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt};

/// Longest silence of the other side that a test puts up with.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Bytes taken off the stream at once.
const READ_BYTES: usize = 64 * 1024;

/// What came from the other side.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Message),
    /// It closed the connection, with this code and these words.
    Closed(VarInt, String),
    /// It ended the stream.
    Ended,
    /// It said nothing for as long as a test waits.
    Silence,
}

/// A connection with its control stream.
#[derive(Debug)]
pub struct Wire {
    pub(super) connection: Connection,
    send: SendStream,
    receive: RecvStream,
    buffer: BytesMut,
    /// All bytes that came on the control stream.
    pub(super) transcript: Vec<u8>,
}

impl Wire {
    pub(super) fn new(connection: Connection, (send, receive): (SendStream, RecvStream)) -> Self {
        Self { connection, send, receive, buffer: BytesMut::new(), transcript: Vec::new() }
    }

    /// Sends bytes that need not be anything. A peer that has hung up already doesn't hear them.
    pub async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.send.write_all(bytes).await;
    }

    /// Sends a message.
    pub async fn say(&mut self, message: &Message) {
        let mut frame = Vec::new();
        append_frame(&mut frame, message);
        self.raw(&frame).await;
    }

    /// Ends this side's stream.
    pub fn finish(&mut self) {
        // It may have been stopped by the other side.
        let _ = self.send.finish();
    }

    /// What comes next. Pings are answered on the way.
    pub async fn hear(&mut self) -> Heard {
        loop {
            match tokio::time::timeout(SILENCE_MAX, self.next()).await {
                Ok(Heard::Message(Message::Ping(number))) => self.say(&Message::Pong(number)).await,
                Ok(heard) => return heard,
                Err(_) => return Heard::Silence,
            }
        }
    }

    async fn next(&mut self) -> Heard {
        loop {
            match take_frame::<Message>(&mut self.buffer) {
                Ok(Some(message)) => return Heard::Message(message),
                Ok(None) => {}
                Err(error) => panic!("the program under test sent an invalid frame: {error}"),
            }
            match self.receive.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => {
                    self.transcript.extend_from_slice(&chunk.bytes);
                    self.buffer.extend_from_slice(&chunk.bytes);
                }
                Ok(None) => return Heard::Ended,
                Err(ReadError::ConnectionLost(error)) => return closed(&error),
                Err(error) => panic!("the control stream broke: {error}"),
            }
        }
    }

    /// How the other side ended the connection.
    pub async fn until_closed(&mut self) -> Heard {
        match tokio::time::timeout(SILENCE_MAX, self.connection.closed()).await {
            Ok(error) => closed(&error),
            Err(_) => Heard::Silence,
        }
    }

    /// Sends bytes that need not be items on a stream for items.
    pub async fn raw_items(&self, bytes: &[u8]) {
        let Ok(mut stream) = self.connection.open_uni().await else { return };
        let _ = stream.write_all(bytes).await;
        let _ = stream.finish();
        // Dropping a finished stream does not take its bytes back.
    }

    /// Sends an item on a stream of its own.
    pub async fn item(&self, transfer: u32, key: ItemKey, plain_bytes: u32, encoding: Encoding, payload: &[u8]) {
        let payload_bytes = u32::try_from(payload.len()).expect("payloads are short");
        let header = ItemHeader { transfer, key, plain_bytes, payload_bytes, encoding };
        let mut bytes = Vec::new();
        append_frame(&mut bytes, &header);
        bytes.extend_from_slice(payload);
        self.raw_items(&bytes).await;
    }
}

fn closed(error: &ConnectionError) -> Heard {
    match close::said(error) {
        Some((code, words)) => Heard::Closed(code, words),
        None => Heard::Closed(VarInt::MAX, error.to_string()),
    }
}
