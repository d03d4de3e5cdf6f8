//! A reliable connection: a queue pair, its completion queue, and the channel that wakes who waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use ibverbs_sys as ffi;
use tokio::time::Instant;

use super::channel::Channel;
use super::device::Domain;
use super::memory::{Registered, RemoteMemory};
use super::requests::{Gather, Kept, Piece, Request, parts};
use crate::offer::Endpoint;

/// Work requests that go to the device with one knock at its door.
const CHAIN_MAX: usize = 32;
/// Stretches of memory that one work request names at most, where the device allows it.
const PIECES_MAX: u32 = 30;
/// Completions that are taken at once.
const POLL_MAX: usize = 32;
/// Marks the number of a receive; requests count from 0 on.
const RECEIVE: u64 = 1 << 63;
/// Packet numbers have 24 bits.
pub(super) const PACKET_NUMBER_MASK: u32 = 0x00ff_ffff;

/// How much may be under way on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depths {
    /// Work requests to the device that are not completed.
    pub sends: u32,
    /// Messages and notices of the peer for which room is kept.
    pub receives: u32,
    /// Bytes of a message at most.
    pub message_bytes: u32,
}

/// What the device, or the peer, has done.
#[derive(Debug)]
pub enum Completion {
    /// A request is over: what it named is free again. Requests complete in the order in which they were posted.
    Done {
        /// The number that [`Queue::post`] gave.
        request: u64,
    },
    /// The peer sent a message.
    Message(Vec<u8>),
    /// The peer has written, and nobody writes there any more.
    Written {
        /// What the peer told: under which number the memory was lent.
        immediate: u32,
        /// The memory, where it was lent under this number.
        memory: Option<Registered>,
        /// Bytes that the last part of the write had.
        last_bytes: u32,
    },
    /// The connection is of no use any more.
    Broken(String),
}

/// A request can't be posted.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// As much is under way as may be; take completions first.
    #[error("the send queue is full")]
    Full,
    /// Longer than [`Depths::message_bytes`].
    #[error("a message of {len} bytes is longer than the {most} that were agreed upon")]
    MessageTooLong {
        /// Its length.
        len: usize,
        /// The most there may be.
        most: u32,
    },
    /// More than the peer's memory has room for.
    #[error("{len} bytes don't fit into the {room} that the peer offers")]
    TooLarge {
        /// What was to be written.
        len: u64,
        /// What there is room for.
        room: u64,
    },
    /// Memory of another device.
    #[error("the memory is registered with another device")]
    OtherDomain,
    /// The device refuses.
    #[error("the RDMA device takes no more requests")]
    Device(#[source] io::Error),
}

/// A reliable connection to one peer. One task owns it.
pub struct Queue {
    channel: Channel,
    completions: NonNull<ffi::ibv_cq>,
    pub(super) pair: NonNull<ffi::ibv_qp>,
    pub(super) domain: Arc<Domain>,
    pub(super) depths: Depths,
    pieces_max: usize,
    pub(super) packet_number: u32,
    events: u32,
    next_request: u64,
    /// Requests that the device has: their number, how many places of the queue they take, and what they name.
    posted: VecDeque<Posted>,
    places_taken: u32,
    /// Memory of the peer's messages, a stretch for each receive.
    messages_in: Registered,
    /// Memory of our messages, a stretch for each send, taken in turns.
    messages_out: Registered,
    messages_sent: u32,
    /// Memory into which the peer may write, by the number under which it says so.
    lent: BTreeMap<u32, Registered>,
    is_broken: bool,
    pair_is_destroyed: bool,
}

struct Posted {
    request: u64,
    places: u32,
    /// Keeps what the device reads; messages lie in memory of the queue itself.
    _kept: Vec<Kept>,
}

// SAFETY: verbs may be called from any thread, and one thread at a time has the queue.
unsafe impl Send for Queue {}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("domain", &self.domain)
            .field("posted", &self.posted.len())
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// A queue pair that is connected to nobody, whose packets begin with `packet_number` (chosen by chance, so that those of an earlier
    /// connection are not taken for its own).
    pub fn new(domain: &Arc<Domain>, depths: Depths, packet_number: u32) -> io::Result<Self> {
        let depths = Depths {
            sends: depths.sends.clamp(1, domain.limits.requests),
            receives: depths.receives.clamp(1, domain.limits.requests.min(domain.limits.completions / 2).max(1)),
            message_bytes: depths.message_bytes.max(1),
        };
        let room = |count: u32| vec![0; count as usize * depths.message_bytes as usize].into_boxed_slice();
        let messages_in = Registered::for_receiving(domain, room(depths.receives))?;
        let messages_out = Registered::for_sending(domain, room(depths.sends))?;
        let channel = Channel::new(domain)?;
        let entries = i32::try_from(depths.sends + depths.receives).map_err(io::Error::other)?;
        // SAFETY: the context is open as long as `domain`, and the channel lives longer than the queue (see `drop`).
        let completions =
            unsafe { ffi::ibv_create_cq(domain.context(), entries, std::ptr::null_mut(), channel.pointer(), 0) };
        let completions = CompletionQueue(NonNull::new(completions).ok_or_else(io::Error::last_os_error)?);
        let pieces = domain.limits.pieces.clamp(1, PIECES_MAX);
        let mut attributes = ffi::ibv_qp_init_attr {
            send_cq: completions.0.as_ptr(),
            recv_cq: completions.0.as_ptr(),
            cap: ffi::ibv_qp_cap {
                max_send_wr: depths.sends,
                max_recv_wr: depths.receives,
                max_send_sge: pieces,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: ffi::ibv_qp_type::IBV_QPT_RC,
            ..Default::default()
        };
        // SAFETY: protection domain and completion queue are alive; the attributes are ours.
        let pair = unsafe { ffi::ibv_create_qp(domain.protection(), &raw mut attributes) };
        let pair = NonNull::new(pair).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            channel,
            completions: completions.keep(),
            pair,
            domain: Arc::clone(domain),
            depths,
            pieces_max: pieces as usize,
            packet_number: packet_number & PACKET_NUMBER_MASK,
            events: 0,
            next_request: 0,
            posted: VecDeque::new(),
            places_taken: 0,
            messages_in,
            messages_out,
            messages_sent: 0,
            lent: BTreeMap::new(),
            is_broken: false,
            pair_is_destroyed: false,
        })
    }

    /// What the peer has to know.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            // SAFETY: the queue pair is alive.
            queue_pair: unsafe { self.pair.as_ref() }.qp_num,
            packet_number: self.packet_number,
            gid: self.domain.gid().0.0,
            lid: self.domain.lid,
            mtu: u16::try_from(self.domain.mtu).unwrap_or(1),
            receives: self.depths.receives,
            message_bytes: self.depths.message_bytes,
        }
    }

    /// Lends memory to the peer, who may write into it until it says `immediate`; then it comes back as [`Completion::Written`]. Memory
    /// that was lent under the same number before is lent no more, and goes when the connection does.
    pub fn lend(&mut self, immediate: u32, memory: Registered) -> Option<RemoteMemory> {
        let remote = memory.remote().filter(|_| memory.is_of(&self.domain))?;
        self.lent.insert(immediate, memory);
        Some(remote)
    }

    /// Whether a request can be posted now.
    pub fn has_room_for(&self, request: &Request) -> bool {
        self.places_taken + self.places(request) <= self.depths.sends
    }

    /// How many places of the send queue a request takes. One that takes more than [`Depths::sends`] is never taken.
    pub fn places(&self, request: &Request) -> u32 {
        match request {
            Request::Send(_) => 1,
            Request::Write { pieces, .. } => {
                let parts = parts(pieces.iter().map(Piece::gather), self.domain.message_bytes_max(), self.pieces_max);
                u32::try_from(parts.len()).unwrap_or(u32::MAX)
            }
        }
    }

    /// Ends a loan before the peer said anything, because it said that it will not write: the memory, if it was lent under this number.
    pub fn take_back(&mut self, immediate: u32) -> Option<Registered> {
        self.lent.remove(&immediate)
    }

    /// Gives a request to the device and returns its number.
    pub fn post(&mut self, request: Request) -> Result<u64, PostError> {
        match request {
            Request::Send(message) => self.post_message(&message),
            Request::Write { to, pieces, immediate } => self.post_write(to, pieces, immediate),
        }
    }

    fn post_message(&mut self, message: &[u8]) -> Result<u64, PostError> {
        let len = message.len();
        let len_u32 = u32::try_from(len).ok().filter(|len| *len <= self.depths.message_bytes);
        let len_u32 = len_u32.ok_or(PostError::MessageTooLong { len, most: self.depths.message_bytes })?;
        // Messages under way are fewer than the places of the queue, and complete in order: this stretch is free.
        let start = (self.messages_sent % self.depths.sends) as usize * self.depths.message_bytes as usize;
        if self.places_taken == self.depths.sends {
            return Err(PostError::Full);
        }
        self.messages_out[start..start + len].copy_from_slice(message);
        let address = self.messages_out.address() + start as u64;
        let gather = vec![Gather { address, len: len_u32, key: self.messages_out.local_key() }];
        self.messages_sent = self.messages_sent.wrapping_add(1);
        self.post_all(&[Work { gather, action: Action::Send }], Vec::new())
    }

    fn post_write(&mut self, to: RemoteMemory, pieces: Vec<Piece>, immediate: Option<u32>) -> Result<u64, PostError> {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        if len > to.len {
            return Err(PostError::TooLarge { len, room: to.len });
        }
        if pieces.iter().any(|piece| !piece.is_of(&self.domain)) {
            return Err(PostError::OtherDomain);
        }
        let gather = pieces.iter().map(Piece::gather);
        let parts = parts(gather, self.domain.message_bytes_max(), self.pieces_max);
        let last = parts.len() - 1;
        let works: Vec<Work> = parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| {
                let immediate = immediate.filter(|_| index == last);
                let action = Action::Write { address: to.address + part.offset, key: to.key, immediate };
                Work { gather: part.gather, action }
            })
            .collect();
        self.post_all(&works, pieces.into_iter().map(Piece::into_kept).collect())
    }

    /// Posts work of one request, in chains; the last of it is the one whose completion is told.
    fn post_all(&mut self, works: &[Work], kept: Vec<Kept>) -> Result<u64, PostError> {
        let places = u32::try_from(works.len()).unwrap_or(u32::MAX);
        if self.is_broken || places > self.depths.sends - self.places_taken {
            return Err(PostError::Full);
        }
        let request = self.next_request;
        self.next_request += 1;
        // Kept before the device knows of it: should it refuse the middle of a chain, it has the beginning.
        self.posted.push_back(Posted { request, places, _kept: kept });
        self.places_taken += places;
        let chains = works.len().div_ceil(CHAIN_MAX);
        for (index, chain) in (1..).zip(works.chunks(CHAIN_MAX)) {
            self.post_chain(chain, (index == chains).then_some(request)).map_err(|error| {
                self.is_broken = true;
                PostError::Device(error)
            })?;
        }
        Ok(request)
    }

    /// Posts work with one knock at the device's door.
    fn post_chain(&self, works: &[Work], told_as: Option<u64>) -> io::Result<()> {
        let mut gathers: Vec<ffi::ibv_sge> = Vec::with_capacity(works.iter().map(|work| work.gather.len()).sum());
        let mut requests: Vec<ffi::ibv_send_wr> = Vec::with_capacity(works.len());
        for work in works {
            let first = gathers.len();
            gathers.extend(work.gather.iter().map(|gather| ffi::ibv_sge {
                addr: gather.address,
                length: gather.len,
                lkey: gather.key,
            }));
            let mut request = ffi::ibv_send_wr {
                num_sge: i32::try_from(work.gather.len()).expect("few pieces"),
                // The room for all was reserved, so this stays where it is.
                sg_list: gathers.as_mut_ptr().wrapping_add(first),
                ..Default::default()
            };
            match work.action {
                Action::Send => request.opcode = ffi::ibv_wr_opcode::IBV_WR_SEND,
                Action::Write { address, key, immediate } => {
                    request.wr.rdma = ffi::ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr: address, rkey: key };
                    request.opcode = match immediate {
                        None => ffi::ibv_wr_opcode::IBV_WR_RDMA_WRITE,
                        Some(immediate) => {
                            request.__bindgen_anon_1.imm_data = immediate.to_be();
                            ffi::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM
                        }
                    };
                }
            }
            requests.push(request);
        }
        if let (Some(told_as), Some(last)) = (told_as, requests.last_mut()) {
            last.wr_id = told_as;
            last.send_flags = ffi::ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
        let first = requests.as_mut_ptr();
        for index in 1..requests.len() {
            requests[index - 1].next = first.wrapping_add(index);
        }
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive; the chain and its pieces are ours until the call returns, and the memory that they name is kept
        // in `posted` or belongs to the queue.
        os_result(unsafe {
            let post = (*self.domain.context()).ops.post_send.expect("every device posts");
            post(self.pair.as_ptr(), first, &raw mut refused)
        })
    }

    /// Lets the device put one more message at `index` of the memory for messages.
    pub(super) fn post_receive(&self, index: u32) -> io::Result<()> {
        let offset = u64::from(index) * u64::from(self.depths.message_bytes);
        let mut gather = ffi::ibv_sge {
            addr: self.messages_in.address() + offset,
            length: self.depths.message_bytes,
            lkey: self.messages_in.local_key(),
        };
        let mut request = ffi::ibv_recv_wr {
            wr_id: RECEIVE | u64::from(index),
            next: std::ptr::null_mut(),
            sg_list: &raw mut gather,
            num_sge: 1,
        };
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive, the request is ours until the call returns, and the memory belongs to the queue.
        os_result(unsafe {
            let post = (*self.domain.context()).ops.post_recv.expect("every device posts");
            post(self.pair.as_ptr(), &raw mut request, &raw mut refused)
        })
    }

    /// Waits until something is completed, and puts it into `found`. It may be given up at any time without loss.
    pub async fn wait(&mut self, found: &mut Vec<Completion>) -> io::Result<()> {
        let spin = Duration::from_micros(self.domain.settings().spin_us.into());
        let began = Instant::now();
        loop {
            if self.poll(found) || self.is_broken {
                return Ok(());
            }
            if began.elapsed() < spin {
                std::hint::spin_loop();
                continue;
            }
            // What completes between the look above and this is not told, so there is one more look after it.
            self.ask_for_event()?;
            if self.poll(found) || self.is_broken {
                return Ok(());
            }
            self.channel.readable().await?;
            self.events += self.channel.take_events();
        }
    }

    fn ask_for_event(&self) -> io::Result<()> {
        // SAFETY: the completion queue is alive.
        os_result(unsafe {
            let ask = (*self.domain.context()).ops.req_notify_cq.expect("every device tells");
            ask(self.completions.as_ptr(), 0)
        })
    }

    /// Takes what is completed now; whether there was anything.
    pub fn poll(&mut self, found: &mut Vec<Completion>) -> bool {
        let before = found.len();
        loop {
            let mut taken = [ffi::ibv_wc::default(); POLL_MAX];
            // SAFETY: the completion queue is alive, and there is room for as many completions as are asked for.
            let count = unsafe {
                let poll = (*self.domain.context()).ops.poll_cq.expect("every device completes");
                poll(self.completions.as_ptr(), i32::try_from(POLL_MAX).expect("few"), taken.as_mut_ptr())
            };
            let Ok(count) = usize::try_from(count) else {
                self.broken(found, "the completion queue can't be read".to_owned());
                break;
            };
            for completion in &taken[..count] {
                self.take(completion, found);
            }
            if count < POLL_MAX {
                break;
            }
        }
        found.len() > before
    }

    fn take(&mut self, completion: &ffi::ibv_wc, found: &mut Vec<Completion>) {
        if let Some((status, _)) = completion.error() {
            // SAFETY: the text is a constant of the library.
            let text = unsafe { std::ffi::CStr::from_ptr(ffi::ibv_wc_status_str(status)) };
            return self.broken(found, text.to_string_lossy().into_owned());
        }
        let number = completion.wr_id();
        if number & RECEIVE == 0 {
            // It stands for those before it: requests of one queue complete in order.
            while self.posted.front().is_some_and(|posted| posted.request <= number) {
                let posted = self.posted.pop_front().expect("there is one");
                self.places_taken -= posted.places;
                found.push(Completion::Done { request: posted.request });
            }
            return;
        }
        let index = u32::try_from(number & !RECEIVE).expect("the number of a receive");
        if let Some(immediate) = completion.imm_data() {
            let immediate = u32::from_be(immediate);
            let last_bytes = u32::try_from(completion.len()).unwrap_or(u32::MAX);
            found.push(Completion::Written { immediate, memory: self.lent.remove(&immediate), last_bytes });
        } else {
            let start = index as usize * self.depths.message_bytes as usize;
            let len = completion.len().min(self.depths.message_bytes as usize);
            // SAFETY: the device has completed this receive, and it is posted again below.
            found.push(Completion::Message(unsafe { self.messages_in.copy(start..start + len) }));
        }
        if let Err(error) = self.post_receive(index) {
            self.broken(found, error.to_string());
        }
    }

    fn broken(&mut self, found: &mut Vec<Completion>, why: String) {
        if !std::mem::replace(&mut self.is_broken, true) {
            found.push(Completion::Broken(why));
        }
    }

    /// Whether the connection is of no use any more.
    pub const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Ends the connection and gives back what was lent under each number: once the queue pair is gone, nobody writes there.
    pub fn close(mut self) -> BTreeMap<u32, Registered> {
        let lent = std::mem::take(&mut self.lent);
        if self.destroy_pair() {
            return lent;
        }
        // The device may go on to write there.
        std::mem::forget(lent);
        BTreeMap::new()
    }

    /// Whether the device has let go of everything.
    fn destroy_pair(&mut self) -> bool {
        // SAFETY: the queue pair is alive; `drop` and `close` are the only ones to come here, and it is forgotten when it is destroyed.
        !self.pair_is_destroyed && {
            self.pair_is_destroyed = unsafe { ffi::ibv_destroy_qp(self.pair.as_ptr()) } == 0;
            self.pair_is_destroyed
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.pair_is_destroyed && !self.destroy_pair() {
            // Without the end of the queue pair nobody knows when the device is done with the memory, so it stays.
            std::mem::forget((std::mem::take(&mut self.posted), std::mem::take(&mut self.lent)));
            return;
        }
        self.events += self.channel.take_events();
        // SAFETY: the queue pair, which used it, is gone, and all events of it were taken and are now acknowledged.
        unsafe {
            ffi::ibv_ack_cq_events(self.completions.as_ptr(), self.events);
            ffi::ibv_destroy_cq(self.completions.as_ptr());
        }
    }
}

/// A work request before it is one for the device.
struct Work {
    gather: Vec<Gather>,
    action: Action,
}

#[derive(Clone, Copy)]
enum Action {
    Send,
    Write { address: u64, key: u32, immediate: Option<u32> },
}

/// A completion queue that is destroyed unless somebody keeps it.
struct CompletionQueue(NonNull<ffi::ibv_cq>);

impl CompletionQueue {
    fn keep(self) -> NonNull<ffi::ibv_cq> {
        let queue = self.0;
        std::mem::forget(self);
        queue
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: it was made just now, and nothing uses it.
        unsafe { ffi::ibv_destroy_cq(self.0.as_ptr()) };
    }
}

pub(super) fn os_result(code: i32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        // Some calls give the number, others -1 and leave it to the thread.
        -1 => Err(io::Error::last_os_error()),
        error => Err(io::Error::from_raw_os_error(error.abs())),
    }
}
