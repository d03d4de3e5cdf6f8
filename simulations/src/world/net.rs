//! The network: datagrams between the core and its devices, each over a link of its own that delays, loses, repeats and
//! reorders them, and that can be cut in either direction.
//!
//! A link is a queue in front of a line: a datagram waits until the line is free, takes its length over the rate, and then
//! travels. What finds the queue full is lost. Losses come in bursts: each direction is in a good or a bad state (Gilbert 1960,
//! Elliott 1963). A device has an address inside, and one that the core sees; that one can change, as behind a NAT whose
//! router is restarted.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::capacity::Capacity;
use super::process::WallClock;
use super::rules::Rules;
use super::trace::Trace;
use super::watch::{LinkBytes, Watch};
use crate::random::Random;
use crate::tally::Tally;
use crate::trouble::{Past, Trouble};

/// Bytes of the headers of IPv4 and UDP, which travel too.
const HEADER_BYTES: u64 = 28;
/// The first port that a socket without one gets.
const PORT_FIRST: u16 = 40_000;
/// Datagrams that wait at a socket; more are lost, as in a kernel's buffer.
const INBOX_MAX: usize = 4096;

/// Where the core is.
pub(super) const CORE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 4733);

/// How one direction of a link is.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// What it carries over time.
    pub(super) capacity: Capacity,
    /// How long a datagram travels at least.
    pub(super) delay: Duration,
    /// And how much longer at most: what overtakes what is chance.
    pub(super) jitter: Duration,
    /// Losses in a million while the direction is good, and while it is bad.
    pub(super) loss: [u32; 2],
    /// Changes from good to bad and back, in a million datagrams.
    pub(super) turns: [u32; 2],
    /// Datagrams that come twice, in a million.
    pub(super) twice: u32,
    /// What it makes of what it carries.
    pub(super) trouble: Trouble,
    /// How long the queue in front of it may be, in time.
    pub(super) queue: Duration,
}

#[derive(Debug)]
struct Direction {
    line: Line,
    is_cut: bool,
    is_bad: bool,
    free_at: Instant,
    /// When the last of what is under way arrives.
    last_arrival: Instant,
    past: Past,
    /// Longest datagram that passes.
    longest: usize,
}

/// A device's link.
#[derive(Debug)]
struct Link {
    up: Direction,
    down: Direction,
    /// Which of its addresses the core sees.
    generation: u8,
    /// A NAT forgets the device after so much silence of it.
    nat: Option<Duration>,
    /// And then knows it by other ports, which are its own and so many more.
    nat_ports: u16,
    /// When the device last sent something.
    sent_at: Instant,
    /// When the datagram left that came out last at the core.
    last_left: Option<Instant>,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    /// When it left its machine.
    left: Instant,
    payload: Bytes,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<(SocketAddr, Bytes)>,
    waker: Option<Waker>,
    is_closed: bool,
}

struct State {
    random: Random,
    links: Vec<Link>,
    watches: Vec<Watch>,
    sockets: BTreeMap<SocketAddr, Arc<Mutex<Inbox>>>,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    sequence: u64,
    port_next: u16,
    befallen: Tally,
}

/// The network.
pub(super) struct Network {
    state: Mutex<State>,
    changed: Notify,
    trace: Arc<Trace>,
}

impl Network {
    /// A network without links.
    pub(super) fn new(random: Random, trace: Arc<Trace>) -> Arc<Self> {
        let state = State {
            random,
            links: Vec::new(),
            watches: Vec::new(),
            sockets: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            port_next: PORT_FIRST,
            befallen: Tally::default(),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), trace })
    }

    /// The inner address of device `index`.
    pub(super) const fn address_of(index: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 1, 0, index))
    }

    /// Gives the next device its link.
    pub(super) fn add_link(&self, up: Line, down: Line) {
        let now = Instant::now();
        let direction = |line| {
            let (past, longest) = (Past::default(), usize::MAX);
            Direction { line, is_cut: false, is_bad: false, free_at: now, last_arrival: now, past, longest }
        };
        let mut state = self.state();
        let (up, down) = (direction(up), direction(down));
        state.links.push(Link { up, down, generation: 0, nat: None, nat_ports: 0, sent_at: now, last_left: None });
        state.watches.push(Watch::new());
    }

    /// Makes the link of a device another one from now on.
    pub(super) fn set_lines(&self, device: u8, up: Line, down: Line) {
        let link = &mut self.state().links[usize::from(device)];
        link.up.line = up;
        link.down.line = down;
    }

    /// Cuts or mends the directions of a device's link.
    pub(super) fn cut(&self, device: u8, up: bool, down: bool) {
        let link = &mut self.state().links[usize::from(device)];
        link.up.is_cut = up;
        link.down.is_cut = down;
    }

    /// Lets only datagrams up to this length pass over a device's link.
    pub(super) fn let_pass_only(&self, device: u8, longest: usize) {
        let link = &mut self.state().links[usize::from(device)];
        (link.up.longest, link.down.longest) = (longest, longest);
    }

    /// From now on the core sees another address of the device; what it sends to the one before goes nowhere.
    pub(super) fn change_address(&self, device: u8) {
        let link = &mut self.state().links[usize::from(device)];
        link.generation = link.generation.wrapping_add(1);
    }

    /// Puts a NAT before a device, which forgets it after so much silence; or takes it away.
    pub(super) fn set_nat(&self, device: u8, forgets_after: Option<Duration>) {
        self.state().links[usize::from(device)].nat = forgets_after;
    }

    /// What a device's link may carry, by that clock of its.
    pub(super) fn rule(&self, device: u8, rules: Rules, clock: Arc<Mutex<WallClock>>) {
        self.state().watches[usize::from(device)].rule(rules, clock);
    }

    /// When the datagram left the device that came out last at the core.
    pub(super) fn last_up_left(&self, device: u8) -> Option<Instant> {
        self.state().links[usize::from(device)].last_left
    }

    /// What went over the link of a device.
    pub(super) fn bytes(&self, device: u8) -> LinkBytes {
        self.state().watches[usize::from(device)].bytes
    }

    /// What befell datagrams.
    pub(super) fn befallen(&self) -> Tally {
        self.state().befallen.clone()
    }

    /// How many sockets devices have opened: one for each time that they dialled.
    pub(super) fn sockets_bound(&self) -> u64 {
        u64::from(self.state().port_next - PORT_FIRST)
    }

    /// Closes all sockets of a machine: its process has died.
    pub(super) fn close(&self, machine: IpAddr) {
        let mut state = self.state();
        if machine == CORE.ip() {
            state.watches.iter_mut().for_each(Watch::core_died);
        } else if let Some(watch) = device_of(machine).and_then(|device| state.watches.get_mut(device)) {
            watch.device_died();
        }
        state.sockets.retain(|address, inbox| {
            let stays = address.ip() != machine;
            if !stays {
                let mut inbox = lock(inbox);
                inbox.is_closed = true;
                inbox.waiting.clear();
            }
            stays
        });
    }

    /// A socket at `machine`; port 0 is any.
    pub(super) fn bind(self: &Arc<Self>, machine: IpAddr, port: u16) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.state();
        let port = if port == 0 {
            state.port_next = state.port_next.wrapping_add(1).max(PORT_FIRST);
            state.port_next
        } else {
            port
        };
        let address = SocketAddr::new(machine, port);
        if state.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let inbox = Arc::<Mutex<Inbox>>::default();
        state.sockets.insert(address, Arc::clone(&inbox));
        Ok(Arc::new(WorldSocket { network: Arc::clone(self), address, inbox }))
    }

    /// Brings datagrams to their ends, for as long as the world lasts.
    pub(super) async fn carry(self: Arc<Self>) {
        loop {
            let next = self.state().under_way.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = sleep_until(next) => self.deliver(),
            }
        }
    }

    fn deliver(&self) {
        let now = Instant::now();
        let mut state = self.state();
        while let Some(entry) = state.under_way.first_entry()
            && entry.key().0 <= now
        {
            let Datagram { from, to, left, payload } = entry.remove();
            if let Some(link) = device_of(from.ip()).and_then(|device| state.links.get_mut(device)) {
                link.last_left = Some(left);
            }
            self.trace.bytes(|| format!("arrive {from} {to} {}", payload.len()));
            let Some(inbox) = state.sockets.get(&to).cloned() else { continue };
            let bytes = payload.len() as u64 + HEADER_BYTES;
            if let Some(watch) = device_of(to.ip()).and_then(|device| state.watches.get_mut(device)) {
                watch.comes(bytes);
            }
            lock(&inbox).put(from, payload);
        }
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut state = self.state();
        let state = &mut *state;
        let upwards = from.ip() != CORE.ip();
        let inner = if upwards { from.ip() } else { to.ip() };
        let IpAddr::V4(inner) = inner else { return };
        let [_, _, generation, device] = inner.octets();
        let Some(link) = state.links.get_mut(usize::from(device)) else { return };
        let bytes = payload.len() as u64 + HEADER_BYTES;
        let now = Instant::now();
        let is_forgotten = link.nat.is_some_and(|after| now.duration_since(link.sent_at) > after);
        let watch = &mut state.watches[usize::from(device)];
        let (direction, seen_from, to) = if upwards {
            if is_forgotten {
                link.nat_ports = link.nat_ports.wrapping_add(1);
                state.befallen.count("NATs that forgot a device", 1);
            }
            link.sent_at = now;
            watch.sends(bytes);
            let outer = IpAddr::V4(Ipv4Addr::new(10, 2, link.generation, device));
            (&mut link.up, SocketAddr::new(outer, from.port().wrapping_add(link.nat_ports)), to)
        } else {
            watch.is_sent(payload, bytes);
            if generation != link.generation || is_forgotten {
                return;
            }
            let inner = SocketAddr::new(Self::address_of(device), to.port().wrapping_sub(link.nat_ports));
            (&mut link.down, from, inner)
        };
        if payload.len() > direction.longest {
            return;
        }
        let arrivals = direction.pass(bytes, &mut state.random, &mut state.befallen);
        let Some(first) = arrivals.first().copied() else { return };
        let damaged = direction.past.arriving(direction.line.trouble, &mut state.random, payload);
        let arriving = damaged.into_iter().map(|payload| (first, payload.into()));
        let again = arrivals.into_iter().skip(1).map(|arrival| (arrival, Bytes::copy_from_slice(payload)));
        for (arrival, payload) in arriving.chain(again) {
            state.sequence += 1;
            state.under_way.insert((arrival, state.sequence), Datagram { from: seen_from, to, left: now, payload });
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Direction {
    /// When a datagram that is sent now arrives: once, twice, or never.
    fn pass(&mut self, bytes: u64, random: &mut Random, befallen: &mut Tally) -> Vec<Instant> {
        let now = Instant::now();
        let per_million = |random: &mut Random, times: u32| random.below(1_000_000) < u64::from(times);
        if per_million(random, self.line.turns[usize::from(self.is_bad)]) {
            self.is_bad = !self.is_bad;
        }
        let is_lost = per_million(random, self.line.loss[usize::from(self.is_bad)]);
        let jitter = |random: &mut Random, line: &Line| {
            let most = u64::try_from(line.jitter.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(random.below(most + 1))
        };
        let travels = self.line.delay + jitter(random, &self.line);
        let begins = self.free_at.max(now);
        let lost = match () {
            () if self.is_cut => Some("datagrams into cut links"),
            () if begins.duration_since(now) > self.line.queue => Some("datagrams at full queues"),
            () => None,
        };
        if let Some(lost) = lost {
            befallen.count(lost, 1);
            return Vec::new();
        }
        self.free_at = self.line.capacity.ends(begins, bytes);
        if is_lost {
            befallen.count("datagrams lost", 1);
            return Vec::new();
        }
        let mut arrivals = vec![self.free_at + travels];
        if per_million(random, self.line.twice) {
            arrivals.push(self.free_at + self.line.delay + jitter(random, &self.line));
            befallen.count("datagrams repeated", 1);
        }
        if arrivals[0] < self.last_arrival {
            befallen.count("datagrams overtaken", 1);
        }
        self.last_arrival = self.last_arrival.max(arrivals[0]);
        arrivals
    }
}

impl Inbox {
    fn put(&mut self, from: SocketAddr, payload: Bytes) {
        if self.waiting.len() < INBOX_MAX {
            self.waiting.push_back((from, payload));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The device with this address, outer or inner.
fn device_of(outer: IpAddr) -> Option<usize> {
    match outer {
        IpAddr::V4(address) if outer != CORE.ip() => Some(usize::from(address.octets()[3])),
        _ => None,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket of a machine of the world.
struct WorldSocket {
    network: Arc<Network>,
    address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

impl fmt::Debug for WorldSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorldSocket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for WorldSocket {
    fn drop(&mut self) {
        let mut state = self.network.state();
        // Its port may be another's by now.
        if state.sockets.get(&self.address).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            state.sockets.remove(&self.address);
        }
    }
}

impl AsyncUdpSocket for WorldSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if lock(&self.inbox).is_closed {
            return Ok(());
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for part in transmit.contents.chunks(segment) {
            self.network.send(self.address, transmit.destination, part);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = lock(&self.inbox);
        let mut count = 0;
        while count < bufs.len().min(meta.len())
            && let Some((from, payload)) = inbox.waiting.pop_front()
        {
            let length = payload.len().min(bufs[count].len());
            bufs[count][..length].copy_from_slice(&payload[..length]);
            meta[count] = RecvMeta { addr: from, len: length, stride: length, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
