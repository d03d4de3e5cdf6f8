//! The job's end of an RDMA lane, beside the TCP lane over which it was agreed upon.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_protocol::delivery::{ReadFailure, ReadRequest, ReadWhat};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::message::{MESSAGE_BYTES, decode_failure, encode_request};
use super::verbs::{Completion, Depths, Domain, PostError, Queue, Registered, Request};
use crate::memory::Slot;
use crate::plane::{JobLane, LaneError, ReadAnswer};
use crate::tcp::TcpJobLane;

/// Tries RDMA to the core on the other end of `tcp`. It never fails: where RDMA can't be had, the lane uses TCP and says why. The runner,
/// if there is one, must be run for RDMA to work.
pub async fn connect(
    tcp: TcpJobLane,
    domain: &Arc<Domain>,
    requests_max: u32,
    packet_number: u32,
) -> (RdmaJobLane, Option<RdmaJobRunner>) {
    let (orders, ordered) = mpsc::channel(requests_max.max(1) as usize);
    let state = Arc::new(State::default());
    let agreed = agree(&tcp, domain, requests_max, packet_number).await;
    let places = Arc::new(Semaphore::new(requests_max as usize));
    let lane = RdmaJobLane { tcp, domain: Arc::clone(domain), orders, places, state: Arc::clone(&state) };
    match agreed {
        Ok(queue) => {
            let core_ended = lane.tcp.rdma_ended().boxed();
            (lane, Some(RdmaJobRunner { queue, ordered, waiting: BTreeMap::new(), state, core_ended }))
        }
        Err(why) => {
            state.end(&why);
            (lane, None)
        }
    }
}

async fn agree(tcp: &TcpJobLane, domain: &Arc<Domain>, requests_max: u32, packet_number: u32) -> Result<Queue, String> {
    // A request is one message, and what answers it is one message or notice.
    let depths = Depths { sends: requests_max, receives: requests_max, message_bytes: MESSAGE_BYTES };
    let mut queue = Queue::new(domain, depths, packet_number).map_err(|error| super::queue_failed(&error))?;
    let core = tcp.offer_rdma(queue.endpoint()).await?;
    queue.connect(&core).map_err(|error| super::chain(&error))?;
    Ok(queue)
}

#[derive(Default)]
struct State(Mutex<Option<String>>);

impl State {
    fn end(&self, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
    }

    fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The job's end of a lane that uses RDMA as long as it works, and TCP for the rest.
pub struct RdmaJobLane {
    tcp: TcpJobLane,
    domain: Arc<Domain>,
    orders: mpsc::Sender<Order>,
    places: Arc<Semaphore>,
    state: Arc<State>,
}

struct Order {
    source: u32,
    what: ReadWhat,
    slot: Registered,
    answer: oneshot::Sender<Outcome>,
}

enum Outcome {
    Answered(ReadAnswer),
    /// RDMA can't carry it, or does not any more: the slot is free.
    Unanswered(Slot, ReadWhat),
}

impl RdmaJobLane {
    /// Over RDMA if that works; else what was asked for, to be asked for over TCP.
    async fn over_rdma(&self, source: u32, what: ReadWhat, slot: Slot) -> Result<ReadAnswer, (ReadWhat, Slot)> {
        let slot = match slot.into_registered() {
            Ok(slot) => slot,
            Err(slot) => return Err((what, slot)),
        };
        let Ok(_place) = self.places.acquire().await else { return Err((what, Slot::registered(slot))) };
        let (answer, answered) = oneshot::channel();
        let len = slot.len();
        if let Err(refused) = self.orders.send(Order { source, what: what.clone(), slot, answer }).await {
            return Err((what, Slot::registered(refused.0.slot)));
        }
        match answered.await {
            Ok(Outcome::Answered(answer)) => Ok(answer),
            Ok(Outcome::Unanswered(slot, what)) => Err((what, slot)),
            // The device may still write to the slot that went with the runner, so another takes its place.
            Err(_) => Err((what, Slot::plain(len))),
        }
    }
}

impl JobLane for RdmaJobLane {
    fn plane(&self) -> &'static str {
        if self.state.why().is_some() { self.tcp.plane() } else { "rdma" }
    }

    fn why_not_rdma(&self) -> Option<String> {
        self.state.why()
    }

    fn slot(&self, len: usize) -> Slot {
        if self.state.why().is_some() {
            return Slot::plain(len);
        }
        match Registered::for_receiving(&self.domain, vec![0; len].into_boxed_slice()) {
            Ok(memory) => Slot::registered(memory),
            Err(error) => {
                // Such as a limit on locked memory; what is registered already goes on.
                self.state.end(&format!("a receive buffer of {len} bytes can't be registered: {error} (`ulimit -l`)"));
                Slot::plain(len)
            }
        }
    }

    fn read(&self, source: u32, what: ReadWhat, slot: Slot) -> BoxFuture<'_, Result<ReadAnswer, LaneError>> {
        async move {
            if self.state.why().is_some() {
                return self.tcp.read(source, what, slot).await;
            }
            match self.over_rdma(source, what, slot).await {
                Ok(answer) => Ok(answer),
                Err((what, slot)) => self.tcp.read(source, what, slot).await,
            }
        }
        .boxed()
    }
}

/// Asks, and gives each slot back when the core has filled it.
pub struct RdmaJobRunner {
    queue: Queue,
    ordered: mpsc::Receiver<Order>,
    waiting: BTreeMap<u32, Waiting>,
    state: Arc<State>,
    /// Why the core's end is over, once it is.
    core_ended: BoxFuture<'static, String>,
}

struct Waiting {
    what: ReadWhat,
    answer: oneshot::Sender<Outcome>,
}

impl RdmaJobRunner {
    /// Runs until RDMA fails or the lane is dropped; why it did.
    pub async fn run(mut self) -> String {
        let why = self.serve().await;
        self.state.end(&why);
        let Self { queue, mut ordered, mut waiting, .. } = self;
        // From here on the device writes to none of the slots, and whoever waits asks again over TCP.
        for (request, memory) in queue.close() {
            if let Some(Waiting { what, answer }) = waiting.remove(&request) {
                let _ = answer.send(Outcome::Unanswered(Slot::registered(memory), what));
            }
        }
        ordered.close();
        while let Some(Order { what, slot, answer, .. }) = ordered.recv().await {
            let _ = answer.send(Outcome::Unanswered(Slot::registered(slot), what));
        }
        why
    }

    async fn serve(&mut self) -> String {
        let mut found = Vec::new();
        let mut next = 0;
        loop {
            tokio::select! {
                biased;
                why = &mut self.core_ended => return why,
                waited = self.queue.wait(&mut found) => {
                    if let Err(error) = waited {
                        return format!("the completion channel failed: {error}");
                    }
                }
                order = self.ordered.recv() => {
                    let Some(order) = order else { return "the lane is closed".to_owned() };
                    next += 1;
                    if let Err(error) = self.ask(next, order) {
                        return super::chain(&error);
                    }
                }
            }
            for completion in found.drain(..) {
                if let Err(why) = self.take(completion) {
                    return why;
                }
            }
            if self.queue.is_broken() {
                return "the queue pair is in error".to_owned();
            }
        }
    }

    fn ask(&mut self, number: u32, order: Order) -> Result<(), PostError> {
        let Order { source, what, slot, answer } = order;
        let slot_bytes = u32::try_from(slot.len()).unwrap_or(u32::MAX);
        let request = ReadRequest { request: number, slot: number, slot_bytes, source, what };
        let message = slot.remote().and_then(|remote| encode_request(&request, remote));
        let what = request.what;
        let Some(message) = message else {
            let _ = answer.send(Outcome::Unanswered(Slot::registered(slot), what));
            return Ok(());
        };
        self.waiting.insert(number, Waiting { what, answer });
        self.queue.lend(number, slot);
        self.queue.post(Request::Send(message)).map(|_| ())
    }

    fn take(&mut self, completion: Completion) -> Result<(), String> {
        match completion {
            Completion::Done { .. } => Ok(()),
            Completion::Written { immediate, memory, .. } => {
                let (Some(waiting), Some(memory)) = (self.waiting.remove(&immediate), memory) else {
                    return Err("the core filled a slot that waits for nothing".to_owned());
                };
                let _ = waiting.answer.send(Outcome::Answered(ReadAnswer::Filled(Slot::registered(memory))));
                Ok(())
            }
            Completion::Message(message) => self.failed(&message),
            Completion::Broken(why) => Err(why),
        }
    }

    fn failed(&mut self, message: &[u8]) -> Result<(), String> {
        let (request, failure): (u32, ReadFailure) = decode_failure(message).map_err(|error| error.to_string())?;
        let (Some(waiting), Some(memory)) = (self.waiting.remove(&request), self.queue.take_back(request)) else {
            return Err("the core refused a request that was not made".to_owned());
        };
        let _ = waiting.answer.send(Outcome::Answered(ReadAnswer::Failed(Slot::registered(memory), failure)));
        Ok(())
    }
}
