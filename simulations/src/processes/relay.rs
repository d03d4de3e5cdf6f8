//! A link that fails as it is told to: a relay of UDP datagrams between devices and a core.
//!
//! Each socket of a device gets one of the relay's own towards the core, as behind a NAT. The relay can hold everything
//! after so many bytes, forget one flow, give a flow another address in the middle, let only short datagrams pass, and
//! damage, lose or repeat what it carries; and it notes when how much comes from the core. What comes while it is held is lost, as on a cut link, and QUIC sends it again
//! once the link is back. So a test can do something at an exact point of a transfer, however fast the machine is.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait_for;
use crate::random::Random;
use crate::trouble::{Past, Trouble};

/// Longest wait for a datagram before a look at whether the relay shall end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Flows that are known at once: with more, the oldest is forgotten. A race has fewer.
const FLOWS_MAX: usize = 64;

/// Bytes of the headers of IPv4 and UDP.
const HEADER_BYTES: u64 = 28;

/// What has come from the core, over all flows together.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// When the first datagram did.
    pub first: Instant,
    /// When the newest did.
    pub last: Instant,
    /// Bytes of all, with the headers of IP and UDP.
    pub bytes: u64,
    /// Flows on which anything came.
    pub flows: usize,
}

/// What the threads of a relay share.
#[derive(Debug)]
struct State {
    core: SocketAddr,
    bytes_up: AtomicU64,
    hold_after_bytes: AtomicU64,
    held: AtomicBool,
    /// Only the flow that reaches the limit stops, not the link.
    one_flow: bool,
    /// The first flow is forgotten once so many bytes have come from the core.
    forget_after_down_bytes: u64,
    forgot: AtomicBool,
    /// After so many bytes up, the flow that reaches it gets another address, once.
    rebind_after_bytes: AtomicU64,
    rebound: AtomicBool,
    ended: AtomicBool,
    up: Option<Mutex<Direction>>,
    down: Option<Mutex<Direction>>,
    flows: Mutex<Vec<Flow>>,
    came: Mutex<Option<Came>>,
}

/// A direction that does something to what it carries.
#[derive(Debug)]
struct Direction {
    trouble: Trouble,
    random: Random,
    past: Past,
}

/// The way of one socket of a device.
#[derive(Debug)]
struct Flow {
    device: SocketAddr,
    far: Arc<UdpSocket>,
    /// Nothing of it passes any more.
    dead: Arc<AtomicBool>,
    /// What came for it is not waited for any more.
    forgotten: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// A relay in front of a core. It ends with this value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay to `core` that holds once the devices have sent `hold_after_bytes`.
    pub fn start(core: SocketAddr, hold_after_bytes: u64) -> Self {
        Self::with(State { hold_after_bytes: hold_after_bytes.into(), ..State::new(core) })
    }

    /// A relay that then carries nothing more of this one socket of the device, and all of others: as a network does that
    /// has forgotten a flow.
    pub fn forgetting(core: SocketAddr, after_bytes: u64) -> Self {
        Self::with(State { hold_after_bytes: after_bytes.into(), one_flow: true, ..State::new(core) })
    }

    /// The same after so many bytes from the core, with their headers.
    pub fn forgetting_after_down(core: SocketAddr, bytes: u64) -> Self {
        Self::with(State { forget_after_down_bytes: bytes, ..State::new(core) })
    }

    /// A relay that then gives the flow another address towards the core, as a NAT that was restarted.
    pub fn rebinding(core: SocketAddr, after_bytes: u64) -> Self {
        Self::with(State { rebind_after_bytes: after_bytes.into(), ..State::new(core) })
    }

    /// A relay that does this to what it carries; which datagrams it meets is drawn from `seed`.
    pub fn troubled(core: SocketAddr, trouble: Trouble, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut direction = || Some(Mutex::new(Direction { trouble, random: random.split(), past: Past::default() }));
        Self::with(State { up: direction(), down: direction(), ..State::new(core) })
    }

    /// A relay at an address of its own, for who wants to stand in for the core's other ports too.
    pub fn at(ip: IpAddr, core: SocketAddr) -> Self {
        Self::from(bind(ip), State::new(core))
    }

    fn with(state: State) -> Self {
        Self::from(bind(state.core.ip()), state)
    }

    fn from(near: UdpSocket, state: State) -> Self {
        let near = Arc::new(near);
        let address = near.local_addr().expect("bound");
        let state = Arc::new(state);
        let thread = {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                carry(&near, || false, &state, |datagram, from| up(&state, &near, datagram, from));
            })
        };
        Self { address, state, thread: Some(thread) }
    }

    /// Where the device has to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that devices have sent so far, what was lost here included.
    pub fn bytes_up(&self) -> u64 {
        self.state.bytes_up.load(Ordering::Relaxed)
    }

    /// What has come from the core so far, what was lost here included.
    pub fn came(&self) -> Option<Came> {
        *locked(&self.state.came)
    }

    /// Whether a flow has got another address.
    pub fn is_rebound(&self) -> bool {
        self.state.rebound.load(Ordering::Relaxed)
    }

    /// Waits until the link is held.
    #[track_caller]
    pub fn wait_held(&self) {
        wait_for("the link to be held", || self.state.held.load(Ordering::Relaxed).then_some(()));
    }

    /// Lets everything pass from now on.
    pub fn release(&self) {
        self.state.hold_after_bytes.store(u64::MAX, Ordering::Relaxed);
        self.state.held.store(false, Ordering::Relaxed);
    }
}

impl State {
    fn new(core: SocketAddr) -> Self {
        Self {
            core,
            bytes_up: 0.into(),
            hold_after_bytes: u64::MAX.into(),
            held: false.into(),
            one_flow: false,
            forget_after_down_bytes: u64::MAX,
            forgot: false.into(),
            rebind_after_bytes: u64::MAX.into(),
            rebound: false.into(),
            ended: false.into(),
            up: None,
            down: None,
            flows: Mutex::default(),
            came: Mutex::default(),
        }
    }

    fn passes(&self) -> bool {
        !self.held.load(Ordering::Relaxed)
    }

    /// A datagram has come from the core; it may be the first of its flow. Gives how many bytes came so far.
    fn note(&self, datagram: &[u8], is_first: bool) -> u64 {
        let now = Instant::now();
        let mut came = locked(&self.came);
        let came = came.get_or_insert(Came { first: now, last: now, bytes: 0, flows: 0 });
        came.last = now;
        came.bytes += datagram.len() as u64 + HEADER_BYTES;
        came.flows += usize::from(is_first);
        came.bytes
    }
}

/// A datagram of a device.
fn up(state: &Arc<State>, near: &Arc<UdpSocket>, datagram: &[u8], from: SocketAddr) {
    let mut flows = locked(&state.flows);
    let at = flows.iter().position(|flow| flow.device == from).unwrap_or_else(|| {
        if flows.len() == FLOWS_MAX {
            flows.remove(0).forgotten.store(true, Ordering::Relaxed);
        }
        flows.push(Flow::new(state, near, from));
        flows.len() - 1
    });
    let sent = state.bytes_up.fetch_add(datagram.len() as u64, Ordering::Relaxed);
    if sent >= state.hold_after_bytes.load(Ordering::Relaxed) {
        if !state.one_flow {
            state.held.store(true, Ordering::Relaxed);
        } else if !flows.iter().any(Flow::is_dead) {
            flows[at].dead.store(true, Ordering::Relaxed);
        }
    }
    if sent >= state.rebind_after_bytes.load(Ordering::Relaxed) && !state.rebound.swap(true, Ordering::Relaxed) {
        let old = std::mem::replace(&mut flows[at], Flow::new(state, near, from));
        old.forgotten.store(true, Ordering::Relaxed);
    }
    let flow = &flows[at];
    if !flow.is_dead() && state.passes() {
        // A core that is down is a cut link too.
        pass(state.up.as_ref(), datagram, |datagram| drop(flow.far.send(datagram)));
    }
}

impl Flow {
    fn new(state: &Arc<State>, near: &Arc<UdpSocket>, device: SocketAddr) -> Self {
        let far = Arc::new(bind(state.core.ip()));
        far.connect(state.core).expect("an address");
        let (dead, forgotten) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (state, near, far) = (Arc::clone(state), Arc::clone(near), Arc::clone(&far));
            let (dead, forgotten) = (Arc::clone(&dead), Arc::clone(&forgotten));
            std::thread::spawn(move || {
                let mut is_first = true;
                carry(
                    &far,
                    || forgotten.load(Ordering::Relaxed),
                    &state,
                    |datagram, _| {
                        let came_bytes = state.note(datagram, std::mem::take(&mut is_first));
                        if came_bytes >= state.forget_after_down_bytes && !state.forgot.swap(true, Ordering::Relaxed) {
                            dead.store(true, Ordering::Relaxed);
                        }
                        if !dead.load(Ordering::Relaxed) && state.passes() {
                            // A device that is gone needs no answer.
                            pass(state.down.as_ref(), datagram, |datagram| drop(near.send_to(datagram, device)));
                        }
                    },
                );
            })
        };
        Self { device, far, dead, forgotten, thread }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // A thread that panicked has said so. The first one makes flows, so that it goes first.
        let _ = self.thread.take().map(JoinHandle::join);
        for flow in locked(&self.state.flows).drain(..) {
            let _ = flow.thread.join();
        }
    }
}

fn pass(direction: Option<&Mutex<Direction>>, datagram: &[u8], mut send: impl FnMut(&[u8])) {
    match direction {
        None => send(datagram),
        Some(direction) => {
            let Direction { trouble, random, past } = &mut *locked(direction);
            past.arriving(*trouble, random, datagram).iter().for_each(|datagram| send(datagram));
        }
    }
}

/// A socket from which `core` can be reached.
fn bind(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout can be set");
    socket
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(socket: &UdpSocket, is_over: impl Fn() -> bool, state: &State, mut pass: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !state.ended.load(Ordering::Relaxed) && !is_over() {
        // A timeout, or word that nobody listens at the other end: either way the next datagram is waited for.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            pass(&buffer[..length], from);
        }
    }
}
