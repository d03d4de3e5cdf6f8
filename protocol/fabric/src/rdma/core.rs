//! The core's end of an RDMA lane.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_protocol::delivery::{ReadFailure, ReadRequest};
use tokio::sync::{mpsc, oneshot};

use super::bounce::Bounce;
use super::message::{MESSAGE_BYTES, decode_request, encode_failure};
use super::verbs::{Completion, Depths, Domain, Piece, Queue, RegisteredRegion, RemoteMemory, Request};
use crate::memory::Region;
use crate::offer::Endpoint;
use crate::plane::{CoreLane, Delivery, Gate, LaneError};

/// Work requests that one lane has at the device.
const SENDS: u32 = 256;
/// Bytes for which one turn is asked.
const TURN_BYTES: u64 = 256 * 1024;
/// Pieces of one turn: as many as a chain of work requests holds.
const TURN_PIECES: usize = 512;
/// Orders that wait for the queue.
const ORDERS_MAX: usize = 16;

/// What a core has for RDMA: its device, and its cache as the device knows it.
#[derive(Debug)]
pub struct CoreFabric {
    domain: Arc<Domain>,
    region: Arc<RegisteredRegion>,
}

impl CoreFabric {
    /// Registers the memory of the cache with the device.
    pub fn new(domain: &Arc<Domain>, cache: &Region) -> std::io::Result<Arc<Self>> {
        let region = Arc::new(RegisteredRegion::new(domain, cache)?);
        Ok(Arc::new(Self { domain: Arc::clone(domain), region }))
    }

    /// The device.
    pub const fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }
}

/// What comes of a job's offer.
pub struct Agreed {
    /// Where the job finds this end.
    pub endpoint: Endpoint,
    /// Where answers go.
    pub lane: RdmaCoreLane,
    /// What moves them; it must be run.
    pub runner: RdmaCoreRunner,
    /// What the job asks for.
    pub requests: mpsc::Receiver<ReadRequest>,
}

/// Connects to the queue pair of a job that may have `requests_max` requests under way.
pub fn accept(
    fabric: &Arc<CoreFabric>,
    job: &Endpoint,
    requests_max: u32,
    packet_number: u32,
) -> Result<Agreed, String> {
    let depths = Depths { sends: SENDS, receives: requests_max, message_bytes: MESSAGE_BYTES };
    let mut queue = Queue::new(&fabric.domain, depths, packet_number).map_err(|error| super::queue_failed(&error))?;
    if job.message_bytes < MESSAGE_BYTES || job.receives < requests_max {
        return Err("the job keeps too little room for answers".to_owned());
    }
    queue.connect(job).map_err(|error| super::chain(&error))?;
    let endpoint = queue.endpoint();
    let slots = Arc::new(Slots::default());
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let (asked, requests) = mpsc::channel(requests_max as usize);
    let lane =
        RdmaCoreLane { fabric: Arc::clone(fabric), orders, slots: Arc::clone(&slots), bounce: Bounce::default() };
    Ok(Agreed { endpoint, lane, runner: RdmaCoreRunner { queue, ordered, slots, asked }, requests })
}

/// Where the answers to requests under way go.
#[derive(Default)]
struct Slots(Mutex<BTreeMap<u32, RemoteMemory>>);

impl Slots {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<u32, RemoteMemory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Order {
    request: Request,
    posted: oneshot::Sender<()>,
}

/// Where answers go. Once RDMA has failed they go nowhere: the job asks again over TCP.
pub struct RdmaCoreLane {
    fabric: Arc<CoreFabric>,
    orders: mpsc::Sender<Order>,
    slots: Arc<Slots>,
    bounce: Bounce,
}

impl RdmaCoreLane {
    /// Gives `request` to the device; whether it still takes any.
    async fn post(&self, request: Request) -> bool {
        let (posted, done) = oneshot::channel();
        self.orders.send(Order { request, posted }).await.is_ok() && done.await.is_ok()
    }

    /// The pieces as the device knows them: those in the cache as they are, others by way of memory that is registered.
    fn pieces(&self, pieces: Vec<Bytes>) -> Result<Vec<Piece>, LaneError> {
        let failed =
            |error: std::io::Error| LaneError::Ended(format!("memory for an answer can't be registered: {error}"));
        let mut known = Vec::with_capacity(pieces.len());
        for bytes in pieces {
            match Piece::in_region(bytes.clone(), &self.fabric.region) {
                Some(piece) => known.push(piece),
                None => known.extend(self.bounce.copy(&self.fabric.domain, &bytes).map_err(failed)?),
            }
        }
        Ok(known)
    }
}

impl CoreLane for RdmaCoreLane {
    fn plane(&self) -> &'static str {
        "rdma"
    }

    fn deliver<'a>(&'a self, delivery: Delivery, gate: &'a dyn Gate) -> BoxFuture<'a, Result<(), LaneError>> {
        async move {
            let Some(slot) = self.slots.locked().remove(&delivery.request) else { return Ok(()) };
            let pieces = self.pieces(delivery.pieces)?;
            let mut offset = 0;
            let turns = in_turns(pieces);
            let last = turns.len() - 1;
            for (index, pieces) in turns.into_iter().enumerate() {
                let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                let to = slot.part(offset, bytes);
                let to = to.ok_or_else(|| LaneError::Protocol("an answer is longer than its slot".to_owned()))?;
                offset += bytes;
                let immediate = (index == last).then_some(delivery.request);
                let turn = gate.turn(bytes).await;
                let is_posted = self.post(Request::Write { to, pieces, immediate }).await;
                drop(turn);
                if !is_posted {
                    return Ok(());
                }
            }
            Ok(())
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
            self.slots.locked().remove(&request.request);
            let message = encode_failure(request.request, &failure);
            let turn = gate.turn(message.len() as u64).await;
            self.post(Request::Send(message)).await;
            drop(turn);
            Ok(())
        }
        .boxed()
    }
}

/// Divides pieces into what is posted in one turn each: at least one turn, so that an empty answer is one too.
fn in_turns(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut turns = vec![Vec::new()];
    let mut bytes = 0;
    for piece in pieces {
        let len = piece.len() as u64;
        let last = turns.last_mut().expect("there is one from the start");
        if !last.is_empty() && (bytes + len > TURN_BYTES || last.len() == TURN_PIECES) {
            turns.push(vec![piece]);
            bytes = len;
        } else {
            last.push(piece);
            bytes += len;
        }
    }
    turns
}

/// Owns the queue of a lane.
pub struct RdmaCoreRunner {
    queue: Queue,
    ordered: mpsc::Receiver<Order>,
    slots: Arc<Slots>,
    asked: mpsc::Sender<ReadRequest>,
}

impl RdmaCoreRunner {
    /// Runs until RDMA fails or the lane is dropped; why it did. The device lets go of everything with it.
    pub async fn run(mut self) -> String {
        let mut found = Vec::new();
        let mut held: Option<Order> = None;
        loop {
            tokio::select! {
                biased;
                waited = self.queue.wait(&mut found) => {
                    if let Err(error) = waited {
                        return format!("the completion channel failed: {error}");
                    }
                }
                order = self.ordered.recv(), if held.is_none() => {
                    let Some(order) = order else { return "the lane is closed".to_owned() };
                    held = Some(order);
                }
            }
            for completion in found.drain(..) {
                match completion {
                    Completion::Message(message) => {
                        if let Err(error) = self.ask(&message) {
                            return error.to_string();
                        }
                    }
                    Completion::Broken(why) => return why,
                    Completion::Done { .. } => {}
                    Completion::Written { .. } => return "the job wrote where nothing is to be written".to_owned(),
                }
            }
            if self.queue.is_broken() {
                return "the queue pair is in error".to_owned();
            }
            if let Some(order) = held.take() {
                if self.queue.has_room_for(&order.request) {
                    if let Err(error) = self.queue.post(order.request) {
                        return super::chain(&error);
                    }
                    // Who ordered it may have gone.
                    let _ = order.posted.send(());
                } else {
                    held = Some(order);
                }
            }
        }
    }

    fn ask(&self, message: &[u8]) -> Result<(), LaneError> {
        let (request, slot) = decode_request(message)?;
        if self.slots.locked().insert(request.request, slot).is_some() {
            return Err(LaneError::Protocol("the job gave two requests one number".to_owned()));
        }
        // There is a place for each that may be under way.
        self.asked
            .try_send(request)
            .map_err(|_| LaneError::Protocol("the job asks for more at once than it may".to_owned()))
    }
}
