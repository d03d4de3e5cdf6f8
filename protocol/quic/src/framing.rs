//! Control messages on a stream: a little-endian `u32` length, and that many bytes of one encoded message.
//!
//! Receiving is cancel-safe: what has arrived stays with the receiver. Sending is not, because half a frame may be out;
//! a sender whose `send` was dropped must not be used again.

use bytes::{Buf, BytesMut};
use headwater_protocol::codec::{self, Decode, DecodeError, Encode, Encoded};
use headwater_protocol::wire::Message;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};

/// Bytes of the length before each frame.
pub const FRAME_LENGTH_BYTES: usize = 4;
/// Priority of control streams; items flow at lower ones.
pub const CONTROL_PRIORITY: i32 = 1000;
/// Bytes that one read takes from the stream at most.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced a frame over the limit.
    #[error("the peer announced a {what} of {length} bytes, over the limit of {limit}")]
    Oversized {
        /// The structure.
        what: &'static str,
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a {what}: {arrived} of {announced} bytes came")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes that came.
        arrived: usize,
        /// Bytes that were announced; the length's own four where not even that was whole.
        announced: usize,
    },
    /// The frame is whole, but what it holds is not valid.
    #[error("the peer sent an invalid frame")]
    Invalid(#[source] DecodeError),
    /// The stream or its connection broke on reading.
    #[error("cannot read from the control stream")]
    Read(#[source] ReadError),
    /// The stream or its connection broke on writing.
    #[error("cannot write to the control stream")]
    Write(#[source] WriteError),
    /// The connection broke before there was a stream.
    #[error("cannot open the control stream")]
    Open(#[source] ConnectionError),
    /// The peer ended the stream between two frames, where an answer was expected.
    #[error("the peer ended the control stream")]
    Ended,
}

impl FrameError {
    /// The end of the connection that is behind this error, if that is the cause.
    pub fn connection_error(&self) -> Option<&ConnectionError> {
        match self {
            Self::Read(ReadError::ConnectionLost(error))
            | Self::Write(WriteError::ConnectionLost(error))
            | Self::Open(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the peer broke the protocol, rather than the link.
    pub fn is_protocol_violation(&self) -> bool {
        matches!(self, Self::Oversized { .. } | Self::Truncated { .. } | Self::Invalid(_))
    }
}

/// The control stream of a session: the first bidirectional stream, opened by the side that dialled.
#[derive(Debug)]
pub struct ControlStream {
    sender: ControlSender,
    receiver: ControlReceiver,
}

impl ControlStream {
    /// Opens the stream: the side that dialled. The peer sees it with the first message.
    pub async fn open(connection: &Connection) -> Result<Self, FrameError> {
        connection.open_bi().await.map(Self::new).map_err(FrameError::Open)
    }

    /// Waits for the peer to open the stream and to send on it.
    pub async fn accept(connection: &Connection) -> Result<Self, FrameError> {
        connection.accept_bi().await.map(Self::new).map_err(FrameError::Open)
    }

    /// A control stream over an open QUIC stream.
    pub fn new((send, receive): (SendStream, RecvStream)) -> Self {
        // Fails only on a stream that is closed already, which the first send reports.
        let _ = send.set_priority(CONTROL_PRIORITY);
        Self {
            sender: ControlSender { stream: send, buffer: Vec::new() },
            receiver: ControlReceiver { stream: receive, buffer: BytesMut::new() },
        }
    }

    /// Sends one message.
    pub async fn send(&mut self, message: &Message) -> Result<(), FrameError> {
        self.sender.send(message).await
    }

    /// The next message; none once the peer has ended the stream cleanly. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<Message>, FrameError> {
        self.receiver.recv().await
    }

    /// The next frame as any encoded structure. Cancel-safe.
    pub async fn recv_frame<T: Encoded + Decode>(&mut self) -> Result<Option<T>, FrameError> {
        self.receiver.recv_frame().await
    }

    /// The next message, where its absence is an error. Cancel-safe.
    pub async fn expect(&mut self) -> Result<Message, FrameError> {
        self.recv().await?.ok_or(FrameError::Ended)
    }

    /// The two halves, to be used from two tasks.
    pub fn split(self) -> (ControlSender, ControlReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half.
#[derive(Debug)]
pub struct ControlSender {
    stream: SendStream,
    buffer: Vec<u8>,
}

impl ControlSender {
    /// Sends one message. Returns once the stream has taken it, not once it has arrived.
    pub async fn send(&mut self, message: &Message) -> Result<(), FrameError> {
        self.send_frame(message).await
    }

    /// Sends one frame of any encoded structure.
    pub async fn send_frame<T: Encoded + Encode>(&mut self, value: &T) -> Result<(), FrameError> {
        self.buffer.clear();
        append_frame(&mut self.buffer, value);
        self.stream.write_all(&self.buffer).await.map_err(FrameError::Write)
    }

    /// Ends the stream; what was sent still arrives.
    pub fn finish(&mut self) {
        // Fails only on a stream that has ended already.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has everything or has gone.
    pub async fn delivered(&mut self) {
        self.finish();
        // Whichever way it ended, nothing is left to wait for.
        let _ = self.stream.stopped().await;
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct ControlReceiver {
    stream: RecvStream,
    buffer: BytesMut,
}

impl ControlReceiver {
    /// The next message; none once the peer has ended the stream cleanly. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<Message>, FrameError> {
        let message: Option<Message> = self.recv_frame().await?;
        if let Some(message) = &message {
            message.check().map_err(FrameError::Invalid)?;
        }
        Ok(message)
    }

    /// The next frame as any encoded structure. Cancel-safe.
    pub async fn recv_frame<T: Encoded + Decode>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            if let Some(value) = take_frame(&mut self.buffer)? {
                return Ok(Some(value));
            }
            match self.stream.read_chunk(READ_BYTES_MAX, true).await.map_err(FrameError::Read)? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(truncated::<T>(&self.buffer)),
            }
        }
    }
}

/// Appends the frame of `value` to `out`.
pub fn append_frame<T: Encoded + Encode>(out: &mut Vec<u8>, value: &T) {
    let body = codec::encode(value);
    let length = u32::try_from(body.len()).expect("encodings are capped far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&body);
}

/// Takes one frame from the front of `buffer`, if it is whole. The length is judged before anything is kept for it.
pub fn take_frame<T: Encoded + Decode>(buffer: &mut BytesMut) -> Result<Option<T>, FrameError> {
    let Some(length) = announced(buffer) else { return Ok(None) };
    if length > T::BYTES_MAX {
        return Err(FrameError::Oversized { what: T::WHAT, length, limit: T::BYTES_MAX });
    }
    if buffer.len() < FRAME_LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(FRAME_LENGTH_BYTES);
    let body = buffer.split_to(length);
    codec::decode(&body).map(Some).map_err(FrameError::Invalid)
}

fn announced(buffer: &[u8]) -> Option<usize> {
    buffer.first_chunk::<FRAME_LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize)
}

fn truncated<T: Encoded>(buffer: &[u8]) -> FrameError {
    let (arrived, announced) = match announced(buffer) {
        Some(length) => (buffer.len() - FRAME_LENGTH_BYTES, length),
        None => (buffer.len(), FRAME_LENGTH_BYTES),
    };
    FrameError::Truncated { what: T::WHAT, arrived, announced }
}
