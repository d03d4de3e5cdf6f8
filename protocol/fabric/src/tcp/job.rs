//! The job's end of a TCP lane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_protocol::delivery::{READ_FAILURE_BYTES_MAX, ReadFailure, ReadRequest, ReadWhat};
use headwater_protocol::wire::DataWay;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::core::{ended, prepared};
use super::frame::{self, ANSWER_BYTES, HEADER_BYTES, Header, Hello, Kind};
use super::seal::{Seal, TAG_BYTES};
use crate::invitation::Secret;
use crate::memory::Slot;
use crate::offer::{Endpoint, REASON_BYTES_MAX};
use crate::plane::{JobLane, LaneError, ReadAnswer};

/// How long a core may take to answer a hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the data connection of a session at `core`, to where `way` leads. The runner must be run for the lane to work.
pub async fn connect(core: SocketAddr, way: &DataWay) -> Result<(TcpJobLane, TcpJobRunner), LaneError> {
    let address = SocketAddr::new(core.ip(), way.port);
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, open(address, way)).await;
    let (reader, writer, secret) =
        connected.unwrap_or_else(|_| Err(LaneError::Ended(format!("no answer from {address} (TCP)"))))?;
    let table = Arc::new(Table::default());
    let seal = |key: &[u8; 32]| way.sealed.then(|| Seal::new(key));
    // As many wait in it as have places.
    let (requests, queue) = mpsc::unbounded_channel();
    let places = Arc::new(Semaphore::new(way.requests_max as usize));
    let (rdma_said, rdma) = watch::channel(Rdma::Nothing);
    let lane = TcpJobLane { requests, table: table.clone(), places, rdma };
    let writer = Writer { half: writer, seal: seal(&secret.key_to_core()), queue, out: Vec::new() };
    Ok((
        lane,
        TcpJobRunner {
            reader: Reader { half: reader, seal: seal(&secret.key_to_job()), table, rdma: rdma_said },
            writer,
        },
    ))
}

async fn open(
    address: SocketAddr,
    way: &DataWay,
) -> Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf, Secret), LaneError> {
    let failed = |error: std::io::Error| LaneError::Ended(format!("{address} (TCP): {error}"));
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    let (mut reader, mut writer) = prepared(stream).map_err(failed)?;
    let secret = Secret::new(way.secret);
    let hello = Hello { sealed: way.sealed, session: way.session, proof: secret.proof() };
    writer.write_all(&hello.encode()).await.map_err(failed)?;
    let mut answer = [0; ANSWER_BYTES];
    reader.read_exact(&mut answer).await.map_err(|_| LaneError::Refused("the core closed it".to_owned()))?;
    if !frame::is_welcome(answer) {
        return Err(LaneError::Refused("the core answered with something else than a welcome".to_owned()));
    }
    Ok((reader, writer, secret))
}

enum ToCore {
    Read(ReadRequest),
    Offer(Endpoint),
}

type Answer = Result<ReadAnswer, LaneError>;

/// A slot that the core may write to.
struct Waiting {
    request: u32,
    /// Taken while a frame for it is being read.
    slot: Option<Slot>,
    answer: oneshot::Sender<Answer>,
    /// The core counts a request until it has answered, whoever still waits for that.
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Slots {
    waiting: BTreeMap<u32, Waiting>,
    requests: u32,
    ended: Option<LaneError>,
}

#[derive(Default)]
struct Table(Mutex<Slots>);

impl Table {
    fn locked(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a slot to the lane; its number, and the request's.
    fn enter(
        &self,
        slot: Slot,
        answer: oneshot::Sender<Answer>,
        place: OwnedSemaphorePermit,
    ) -> Result<(u32, u32), LaneError> {
        let mut slots = self.locked();
        if let Some(error) = &slots.ended {
            return Err(error.clone());
        }
        slots.requests = slots.requests.wrapping_add(1);
        let request = slots.requests;
        // The lowest number that is free: as few as there ever were at once.
        let number = (0..).zip(slots.waiting.keys()).find(|(free, used)| free != *used);
        let number = number.map_or(slots.waiting.len() as u32, |(free, _)| free);
        slots.waiting.insert(number, Waiting { request, slot: Some(slot), answer, _place: place });
        Ok((number, request))
    }

    fn end(&self, error: &LaneError) {
        let waiting = {
            let mut slots = self.locked();
            slots.ended.get_or_insert_with(|| error.clone());
            std::mem::take(&mut slots.waiting)
        };
        for waiting in waiting.into_values() {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }
}

/// What the core has said of RDMA.
#[derive(Clone, Debug)]
enum Rdma {
    Nothing,
    On(Endpoint),
    Off(String),
}

/// The job's end of a lane.
pub struct TcpJobLane {
    requests: mpsc::UnboundedSender<ToCore>,
    table: Arc<Table>,
    places: Arc<Semaphore>,
    rdma: watch::Receiver<Rdma>,
}

impl TcpJobLane {
    /// Offers RDMA from `endpoint`: where the core's queue pair is, or why there is none.
    pub async fn offer_rdma(&self, endpoint: Endpoint) -> Result<Endpoint, String> {
        let mut rdma = self.rdma.clone();
        let closed = || "the data connection ended".to_owned();
        self.requests.send(ToCore::Offer(endpoint)).map_err(|_| closed())?;
        let said = tokio::time::timeout(CONNECT_TIMEOUT, rdma.wait_for(|said| !matches!(said, Rdma::Nothing))).await;
        let said = said.map_err(|_| "the core did not answer an offer of RDMA".to_owned())?.map_err(|_| closed())?;
        match said.clone() {
            Rdma::On(endpoint) => Ok(endpoint),
            Rdma::Off(why) => Err(why),
            Rdma::Nothing => Err(closed()),
        }
    }

    /// Resolves when the core's end of RDMA is over: why it is.
    pub fn rdma_ended(&self) -> impl Future<Output = String> + Send + 'static {
        let mut rdma = self.rdma.clone();
        async move {
            match rdma.wait_for(|said| matches!(said, Rdma::Off(_))).await.as_deref() {
                Ok(Rdma::Off(why)) => why.clone(),
                _ => "the data connection ended".to_owned(),
            }
        }
    }
}

impl JobLane for TcpJobLane {
    fn plane(&self) -> &'static str {
        "tcp"
    }

    fn read(&self, source: u32, what: ReadWhat, slot: Slot) -> BoxFuture<'_, Answer> {
        async move {
            let closed = || LaneError::Ended("it is closed".to_owned());
            let place = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
            let slot_bytes = slot.len() as u32;
            let (answer, answered) = oneshot::channel();
            let (slot, request) = self.table.enter(slot, answer, place)?;
            let request = ReadRequest { request, slot, slot_bytes, source, what };
            // Without a runner the table has ended, or does so at once, and answers.
            let _ = self.requests.send(ToCore::Read(request));
            answered.await.unwrap_or_else(|_| Err(closed()))
        }
        .boxed()
    }
}

impl Drop for TcpJobLane {
    fn drop(&mut self) {
        self.table.end(&LaneError::Ended("it is closed".to_owned()));
    }
}

/// Sends what is asked, and reads what the core sends straight into the slots.
pub struct TcpJobRunner {
    reader: Reader,
    writer: Writer,
}

impl TcpJobRunner {
    /// Runs until the lane ends; why it did.
    pub async fn run(self) -> LaneError {
        let Self { mut reader, mut writer } = self;
        let table = reader.table.clone();
        // Dropped at any point, this ends the lane too.
        let ended = EndsTable(table);
        let error = tokio::select! {
            biased;
            error = reader.run() => error,
            error = writer.run() => error,
        };
        ended.0.end(&error);
        error
    }
}

struct EndsTable(Arc<Table>);

impl Drop for EndsTable {
    fn drop(&mut self) {
        self.0.end(&LaneError::Ended("it is closed".to_owned()));
    }
}

struct Writer {
    half: OwnedWriteHalf,
    seal: Option<Seal>,
    queue: mpsc::UnboundedReceiver<ToCore>,
    out: Vec<u8>,
}

impl Writer {
    async fn run(&mut self) -> LaneError {
        while let Some(message) = self.queue.recv().await {
            let sent = match message {
                ToCore::Read(request) => self.send(Kind::Read, &request.encode()).await,
                ToCore::Offer(endpoint) => self.send(Kind::RdmaOffer, &endpoint.encode()).await,
            };
            if let Err(error) = sent {
                return error;
            }
        }
        LaneError::Ended("it is closed".to_owned())
    }

    async fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), LaneError> {
        let header = Header { kind, slot: 0, at: 0, length: body.len() as u32 }.encode();
        self.out.clear();
        self.out.extend_from_slice(&header);
        self.out.extend_from_slice(body);
        if let Some(seal) = &mut self.seal {
            let tag = seal.seal(&header, &mut self.out[HEADER_BYTES..])?;
            self.out.extend_from_slice(&tag);
        }
        self.half.write_all(&self.out).await.map_err(|error| ended(&error))
    }
}

struct Reader {
    half: BufReader<OwnedReadHalf>,
    seal: Option<Seal>,
    table: Arc<Table>,
    rdma: watch::Sender<Rdma>,
}

impl Reader {
    async fn run(&mut self) -> LaneError {
        loop {
            if let Err(error) = self.frame().await {
                return error;
            }
        }
    }

    async fn frame(&mut self) -> Result<(), LaneError> {
        let mut bytes = [0; HEADER_BYTES];
        self.half.read_exact(&mut bytes).await.map_err(|error| ended(&error))?;
        let header = Header::decode(&bytes, self.seal.is_some())?;
        match header.kind {
            Kind::Put => {
                let mut slot = self.take(header.slot)?;
                let from = header.at as usize;
                let Some(place) = slot.get_mut(from..from + header.length as usize) else {
                    return Err(broken("bytes beyond the end of a slot"));
                };
                self.half.read_exact(place).await.map_err(|error| ended(&error))?;
                unseal(&mut self.half, self.seal.as_mut(), &bytes, place).await?;
                if let Some(waiting) = self.table.locked().waiting.get_mut(&header.slot) {
                    waiting.slot = Some(slot);
                }
                Ok(())
            }
            Kind::Done => {
                unseal(&mut self.half, self.seal.as_mut(), &bytes, &mut []).await?;
                let (slot, answer) = self.leave(header)?;
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(Ok(ReadAnswer::Filled(slot)));
                Ok(())
            }
            Kind::Failed => {
                let mut body = [0; READ_FAILURE_BYTES_MAX];
                let body = &mut body[..header.length as usize];
                self.half.read_exact(body).await.map_err(|error| ended(&error))?;
                unseal(&mut self.half, self.seal.as_mut(), &bytes, body).await?;
                let failure = ReadFailure::decode(body).map_err(|error| broken(&error.to_string()))?;
                let (slot, answer) = self.leave(header)?;
                let _ = answer.send(Ok(ReadAnswer::Failed(slot, failure)));
                Ok(())
            }
            Kind::RdmaOn | Kind::RdmaOff => {
                let mut body = [0; REASON_BYTES_MAX];
                let body = &mut body[..header.length as usize];
                self.half.read_exact(body).await.map_err(|error| ended(&error))?;
                unseal(&mut self.half, self.seal.as_mut(), &bytes, body).await?;
                let said = if header.kind == Kind::RdmaOff {
                    Rdma::Off(String::from_utf8_lossy(body).into_owned())
                } else {
                    Rdma::On(Endpoint::decode(body).ok_or_else(|| broken("the core's queue pair is none"))?)
                };
                self.rdma.send_replace(said);
                Ok(())
            }
            Kind::Read | Kind::RdmaOffer => Err(broken("a core does not ask")),
        }
    }

    /// The buffer of a slot that waits, for one frame.
    fn take(&self, slot: u32) -> Result<Slot, LaneError> {
        let mut slots = self.table.locked();
        let waiting = slots.waiting.get_mut(&slot).ok_or_else(|| broken("bytes for a slot that waits for none"))?;
        waiting.slot.take().ok_or_else(|| broken("a slot is in use twice"))
    }

    fn leave(&self, header: Header) -> Result<(Slot, oneshot::Sender<Answer>), LaneError> {
        let mut slots = self.table.locked();
        match slots.waiting.remove(&header.slot) {
            Some(Waiting { request, slot: Some(slot), answer, .. }) if request == header.at => Ok((slot, answer)),
            _ => Err(broken("the end of a request that is not under way")),
        }
    }
}

async fn unseal(
    reader: &mut BufReader<OwnedReadHalf>,
    seal: Option<&mut Seal>,
    header: &[u8; HEADER_BYTES],
    body: &mut [u8],
) -> Result<(), LaneError> {
    let Some(seal) = seal else { return Ok(()) };
    let mut tag = [0; TAG_BYTES];
    reader.read_exact(&mut tag).await.map_err(|error| ended(&error))?;
    seal.open(header, body, tag)
}

fn broken(reason: &str) -> LaneError {
    LaneError::Protocol(reason.to_owned())
}
