//! The core's end of a TCP lane.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_protocol::delivery::{ReadFailure, ReadRequest, SLOT_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::frame::{self, HEADER_BYTES, HELLO_BYTES, Header, Hello, Kind, SEALED_BODY_BYTES_MAX};
use super::seal::{Seal, TAG_BYTES};
use crate::invitation::Secret;
use crate::offer::{self, Endpoint};
use crate::plane::{CoreLane, Delivery, Gate, LaneError};

/// How long a connection may take to say whose it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes for which one turn is asked.
const TURN_BYTES: usize = 256 * 1024;
/// Buffers that one call hands to the kernel.
const BUFFERS_PER_WRITE: usize = 64;

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It said nothing in time.
    #[error("it did not say in time which session it belongs to")]
    Silent,
    /// It broke.
    #[error("it broke before it was taken")]
    Broken(#[source] io::Error),
    /// It is no data connection.
    #[error(transparent)]
    Protocol(LaneError),
    /// It proved nothing.
    #[error("it does not know the secret of session {0}, or no longer")]
    Unproven(u64),
    /// It wants to be sealed, or not, against what the core demands.
    #[error("it is not sealed as it should be")]
    Sealing,
}

/// A connection that was taken.
pub struct Accepted<T> {
    /// Whom it was invited for.
    pub whom: T,
    /// What the job asks for.
    pub requests: Requests,
    /// Where answers go.
    pub lane: TcpCoreLane,
}

/// Takes a connection that proves to `redeem` which session it belongs to.
pub async fn accept<T>(
    stream: TcpStream,
    sealed: bool,
    redeem: impl FnOnce(&Hello) -> Option<(Secret, T)>,
) -> Result<Accepted<T>, AcceptError> {
    let (mut reader, mut writer) = prepared(stream).map_err(AcceptError::Broken)?;
    let mut bytes = [0; HELLO_BYTES];
    match tokio::time::timeout(HELLO_TIMEOUT, reader.read_exact(&mut bytes)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(AcceptError::Broken(error)),
        Err(_) => return Err(AcceptError::Silent),
    }
    let hello = Hello::decode(&bytes).map_err(AcceptError::Protocol)?;
    if hello.sealed != sealed {
        return Err(AcceptError::Sealing);
    }
    let (secret, whom) = redeem(&hello).ok_or(AcceptError::Unproven(hello.session))?;
    writer.write_all(&frame::welcome()).await.map_err(AcceptError::Broken)?;
    let seal = |key: &[u8; 32]| sealed.then(|| Seal::new(key));
    Ok(Accepted {
        whom,
        requests: Requests { reader, seal: seal(&secret.key_to_core()), body: Vec::new() },
        lane: TcpCoreLane {
            writer: Mutex::new(Writer { half: writer, seal: seal(&secret.key_to_job()), staging: Vec::new() }),
        },
    })
}

pub(super) fn prepared(stream: TcpStream) -> io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok((BufReader::with_capacity(64 * 1024, reader), writer))
}

pub(super) fn ended(error: &io::Error) -> LaneError {
    LaneError::Ended(match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side is gone".to_owned(),
        _ => error.to_string(),
    })
}

/// What a job asks for.
#[derive(Debug)]
pub enum Asked {
    /// Bytes.
    Read(ReadRequest),
    /// RDMA from its queue pair.
    Rdma(Endpoint),
}

/// What a job asks for, in order.
pub struct Requests {
    reader: BufReader<OwnedReadHalf>,
    seal: Option<Seal>,
    body: Vec<u8>,
}

impl Requests {
    /// What the job asks next; none once it is gone. Not cancel-safe: a dropped future ends the lane.
    pub async fn next(&mut self) -> Result<Option<Asked>, LaneError> {
        let mut header_bytes = [0; HEADER_BYTES];
        match self.reader.read_exact(&mut header_bytes).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(ended(&error)),
        }
        let header = Header::decode(&header_bytes, self.seal.is_some())?;
        if !matches!(header.kind, Kind::Read | Kind::RdmaOffer) {
            return Err(LaneError::Protocol("a job only asks".to_owned()));
        }
        self.body.resize(header.length as usize, 0);
        self.reader.read_exact(&mut self.body).await.map_err(|error| ended(&error))?;
        if let Some(seal) = &mut self.seal {
            let mut tag = [0; TAG_BYTES];
            self.reader.read_exact(&mut tag).await.map_err(|error| ended(&error))?;
            seal.open(&header_bytes, &mut self.body, tag)?;
        }
        if header.kind == Kind::RdmaOffer {
            let offer = Endpoint::decode(&self.body);
            return offer
                .map(|offer| Some(Asked::Rdma(offer)))
                .ok_or_else(|| LaneError::Protocol("an offer of RDMA is none".to_owned()));
        }
        let request = ReadRequest::decode(&self.body).map_err(|error| LaneError::Protocol(error.to_string()))?;
        Ok(Some(Asked::Read(request)))
    }
}

/// Where answers go.
pub struct TcpCoreLane {
    writer: Mutex<Writer>,
}

impl TcpCoreLane {
    /// Tells the job where the core's queue pair is, or why there is none or none any more.
    pub async fn tell_rdma(&self, answer: Result<Endpoint, String>, gate: &dyn Gate) -> Result<(), LaneError> {
        let (kind, body) = match answer {
            Ok(endpoint) => (Kind::RdmaOn, endpoint.encode().to_vec()),
            Err(why) => (Kind::RdmaOff, offer::reason(&why).as_bytes().to_vec()),
        };
        let header = Header { kind, slot: 0, at: 0, length: body.len() as u32 };
        let mut writer = self.writer.lock().await;
        if writer.seal.is_some() {
            return writer.frame_sealed(header, &[&body], gate).await;
        }
        write(&writer.half, &[&header.encode(), &body], gate).await
    }
}

struct Writer {
    half: OwnedWriteHalf,
    seal: Option<Seal>,
    staging: Vec<u8>,
}

impl CoreLane for TcpCoreLane {
    fn plane(&self) -> &'static str {
        "tcp"
    }

    fn deliver<'a>(&'a self, delivery: Delivery, gate: &'a dyn Gate) -> BoxFuture<'a, Result<(), LaneError>> {
        async move {
            let Delivery { slot, request, pieces } = delivery;
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            assert!(bytes <= SLOT_BYTES_MAX as usize, "a delivery of {bytes} bytes");
            let done = Header { kind: Kind::Done, slot, at: request, length: 0 };
            let mut writer = self.writer.lock().await;
            if writer.seal.is_some() {
                writer.put_sealed(slot, &pieces, gate).await?;
                return writer.frame_sealed(done, &[], gate).await;
            }
            let put = Header { kind: Kind::Put, slot, at: 0, length: bytes as u32 }.encode();
            let done = done.encode();
            let mut all: Vec<&[u8]> = Vec::with_capacity(pieces.len() + 2);
            if bytes > 0 {
                all.push(&put);
                all.extend(pieces.iter().map(Bytes::as_ref));
            }
            all.push(&done);
            write(&writer.half, &all, gate).await
        }
        .boxed()
    }

    fn fail<'a>(
        &'a self,
        request: &'a ReadRequest,
        failure: ReadFailure,
        gate: &'a dyn Gate,
    ) -> BoxFuture<'a, Result<(), LaneError>> {
        async move {
            let body = failure.encode();
            let header =
                Header { kind: Kind::Failed, slot: request.slot, at: request.request, length: body.len() as u32 };
            let mut writer = self.writer.lock().await;
            if writer.seal.is_some() {
                return writer.frame_sealed(header, &[&body], gate).await;
            }
            write(&writer.half, &[&header.encode(), &body], gate).await
        }
        .boxed()
    }
}

impl Writer {
    async fn put_sealed(&mut self, slot: u32, pieces: &[Bytes], gate: &dyn Gate) -> Result<(), LaneError> {
        let mut at = 0u32;
        let mut body: Vec<&[u8]> = Vec::new();
        let mut body_bytes = 0;
        for piece in pieces {
            let mut piece: &[u8] = piece;
            while !piece.is_empty() {
                let (part, rest) = piece.split_at(piece.len().min(SEALED_BODY_BYTES_MAX - body_bytes));
                body.push(part);
                body_bytes += part.len();
                piece = rest;
                if body_bytes == SEALED_BODY_BYTES_MAX {
                    let header = Header { kind: Kind::Put, slot, at, length: body_bytes as u32 };
                    self.frame_sealed(header, &body, gate).await?;
                    at += body_bytes as u32;
                    body.clear();
                    body_bytes = 0;
                }
            }
        }
        if body_bytes > 0 {
            let header = Header { kind: Kind::Put, slot, at, length: body_bytes as u32 };
            self.frame_sealed(header, &body, gate).await?;
        }
        Ok(())
    }

    async fn frame_sealed(&mut self, header: Header, body: &[&[u8]], gate: &dyn Gate) -> Result<(), LaneError> {
        let header = header.encode();
        self.staging.clear();
        self.staging.extend_from_slice(&header);
        for part in body {
            self.staging.extend_from_slice(part);
        }
        if let Some(seal) = &mut self.seal {
            let tag = seal.seal(&header, &mut self.staging[HEADER_BYTES..])?;
            self.staging.extend_from_slice(&tag);
        }
        write(&self.half, &[&self.staging], gate).await
    }
}

/// Writes all of `parts`. A turn is held only while the kernel is given what it takes at once, so a job that does not read
/// keeps nobody else waiting.
async fn write(half: &OwnedWriteHalf, parts: &[&[u8]], gate: &dyn Gate) -> Result<(), LaneError> {
    let mut left: usize = parts.iter().map(|part| part.len()).sum();
    let (mut index, mut offset) = (0, 0);
    while left > 0 {
        half.writable().await.map_err(|error| ended(&error))?;
        let turn_bytes = left.min(TURN_BYTES);
        let turn = gate.turn(turn_bytes as u64).await;
        let written = {
            let mut slices = [IoSlice::new(&[]); BUFFERS_PER_WRITE];
            let (mut used, mut room, mut skip) = (0, turn_bytes, offset);
            for part in &parts[index..] {
                if used == BUFFERS_PER_WRITE || room == 0 {
                    break;
                }
                let rest = &part[skip..];
                skip = 0;
                let taken = &rest[..rest.len().min(room)];
                room -= taken.len();
                slices[used] = IoSlice::new(taken);
                used += 1;
            }
            half.try_write_vectored(&slices[..used])
        };
        drop(turn);
        match written {
            Ok(0) => return Err(LaneError::Ended("the other side takes no more".to_owned())),
            Ok(mut written) => {
                left -= written;
                while written > 0 {
                    let rest = parts[index].len() - offset;
                    if written < rest {
                        offset += written;
                        break;
                    }
                    written -= rest;
                    index += 1;
                    offset = 0;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(ended(&error)),
        }
    }
    Ok(())
}
