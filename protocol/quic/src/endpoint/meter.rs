//! Counting what really goes over the wire, headers of IP and UDP included, and holding sends under a cap.
//!
//! The cap is kept at the socket, below retransmissions, acknowledgements and probes, so nothing can get past it. When the
//! next datagram may leave is decided by [`Pace`]; here it is waited for.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use headwater_protocol::pace::Pace;
use headwater_protocol::time::Timestamp;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep};

use super::lane::{Lane, Lanes};

/// Bytes of the headers of IPv4 and UDP.
const HEADER_BYTES_V4: u64 = 28;
/// Bytes of the headers of IPv6 and UDP.
const HEADER_BYTES_V6: u64 = 48;
/// A payload from which on one datagram fills a receive buffer, so that the kernel can't join several.
const PAYLOAD_BYTES_LARGE: u16 = 1 << 15;

/// What has gone over a socket, headers of IP and UDP included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCounts {
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
}

/// Counts the bytes of all sockets that it is given to, and caps what they send together.
pub struct WireMeter {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_datagrams: AtomicU64,
    received_datagrams: AtomicU64,
    started: Instant,
    pace: Mutex<Option<Pace>>,
    /// Bytes on the wire of the datagram that was made to wait last.
    waiting_bytes: AtomicU64,
    /// Bytes sent and received together beyond which nothing is sent.
    limit_bytes: AtomicU64,
}

/// What the cap says of a datagram.
enum Verdict {
    Now,
    At(Instant),
    /// It is larger than what may leave in a second.
    Never,
}

impl WireMeter {
    /// A meter at zero, without a cap.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_datagrams: AtomicU64::new(0),
            received_datagrams: AtomicU64::new(0),
            started: Instant::now(),
            pace: Mutex::new(None),
            waiting_bytes: AtomicU64::new(0),
            limit_bytes: AtomicU64::new(u64::MAX),
        })
    }

    /// What has gone over the wire so far.
    pub fn counts(&self) -> WireCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WireCounts {
            sent_bytes: load(&self.sent_bytes),
            received_bytes: load(&self.received_bytes),
            sent_datagrams: load(&self.sent_datagrams),
            received_datagrams: load(&self.received_datagrams),
        }
    }

    /// Caps what is sent in any second from now on, in bytes with all headers; none lifts the cap, 0 lets nothing out. What
    /// left in the last second under an earlier cap counts.
    pub fn set_cap(&self, bytes_per_s: Option<u64>) {
        let now = self.now();
        let mut pace = self.pace();
        match (&mut *pace, bytes_per_s) {
            (Some(pace), Some(cap)) if pace.bytes_per_s() == cap => {}
            (Some(pace), Some(cap)) => pace.set_bytes_per_s(now, cap),
            (_, cap) => *pace = cap.map(Pace::new),
        }
    }

    /// The cap, in bytes per second.
    pub fn cap(&self) -> Option<u64> {
        self.pace().as_ref().map(Pace::bytes_per_s)
    }

    /// Lets nothing out any more once so many bytes were sent and received together, as [`Self::counts`] has them; none lifts
    /// the limit. For QUIC what is held back is lost.
    pub fn set_limit(&self, bytes: Option<u64>) {
        self.limit_bytes.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn is_beyond_limit(&self, bytes: u64) -> bool {
        let counts = self.counts();
        counts.sent_bytes + counts.received_bytes + bytes > self.limit_bytes.load(Ordering::Relaxed)
    }

    fn pace(&self) -> MutexGuard<'_, Option<Pace>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn verdict(pace: &Pace, started: Instant, now: Timestamp, bytes: u64) -> Verdict {
        match pace.due(now, bytes) {
            None => Verdict::Never,
            Some(due) if due <= now => Verdict::Now,
            Some(due) => Verdict::At(started + due.since(Timestamp::ZERO)),
        }
    }

    /// Asks all of these for so many bytes to leave. They count under each cap if every one lets them, and else under none.
    fn admit(meters: [Option<&Self>; 2], bytes: u64) -> Verdict {
        // Always locked in the order of the call: that of the socket, then that of a peer.
        let mut paces = meters.map(|meter| meter.map(|meter| (meter, meter.pace())));
        for (meter, pace) in paces.iter_mut().flatten() {
            let Some(pace) = &**pace else { continue };
            match Self::verdict(pace, meter.started, meter.now(), bytes) {
                Verdict::Now => {}
                Verdict::At(due) => {
                    meter.waiting_bytes.store(bytes, Ordering::Relaxed);
                    return Verdict::At(due);
                }
                Verdict::Never => return Verdict::Never,
            }
        }
        for (meter, pace) in paces.iter_mut().flatten() {
            if let Some(pace) = &mut **pace {
                pace.sent(meter.now(), bytes);
                meter.waiting_bytes.store(0, Ordering::Relaxed);
            }
        }
        Verdict::Now
    }

    /// Until when the datagram that was made to wait last has to.
    fn wait_until(&self) -> Option<Instant> {
        let pace = self.pace();
        let bytes = self.waiting_bytes.load(Ordering::Relaxed);
        match Self::verdict(pace.as_ref()?, self.started, self.now(), bytes) {
            Verdict::At(until) => Some(until),
            Verdict::Now | Verdict::Never => None,
        }
    }

    fn sent(&self, bytes: u64, datagrams: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sent_datagrams.fetch_add(datagrams, Ordering::Relaxed);
    }

    fn received(&self, bytes: u64, datagrams: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.received_datagrams.fetch_add(datagrams, Ordering::Relaxed);
    }
}

impl fmt::Debug for WireMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireMeter").field("counts", &self.counts()).field("cap", &self.cap()).finish_non_exhaustive()
    }
}

/// A socket that counts, and that waits where the meter is capped.
#[derive(Debug)]
pub(super) struct MeteredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    meter: Option<Arc<WireMeter>>,
    /// The caps of single peers, where there can be any.
    lanes: Option<Arc<Lanes>>,
    payload_max: u16,
}

impl MeteredSocket {
    pub(super) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        meter: Option<Arc<WireMeter>>,
        lanes: Option<Arc<Lanes>>,
        payload_max: u16,
    ) -> Self {
        Self { inner, meter, lanes, payload_max }
    }

    fn is_capped(&self) -> bool {
        self.meter.as_ref().is_some_and(|meter| meter.cap().is_some())
            || self.lanes.as_ref().is_some_and(|lanes| lanes.any_capped())
    }
}

impl AsyncUdpSocket for MeteredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = self.inner.clone().create_io_poller();
        Box::pin(MeteredPoller { inner, meter: self.meter.clone(), lane: Lane::accepting(), sleep: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let lane = Lane::sending();
        let meters = [self.meter.as_deref(), lane.as_ref().and_then(|lane| lane.meter())];
        let payload = transmit.contents.len() as u64;
        let datagrams = transmit.segment_size.map_or(1, |segment| payload.div_ceil(segment.max(1) as u64));
        let bytes = payload + datagrams * header_bytes(transmit.destination.ip());
        if meters.into_iter().flatten().any(|meter| meter.is_beyond_limit(bytes)) {
            return Ok(());
        }
        match WireMeter::admit(meters, bytes) {
            Verdict::Now => {}
            Verdict::At(_) => return Err(io::ErrorKind::WouldBlock.into()),
            // For QUIC it is a lost packet. It finds a smaller size, or ends the connection.
            Verdict::Never => return Ok(()),
        }
        self.inner.try_send(transmit)?;
        meters.into_iter().flatten().for_each(|meter| meter.sent(bytes, datagrams));
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        if let Some(meter) = &self.meter {
            for meta in &meta[..count] {
                let datagrams = (meta.len as u64).div_ceil(meta.stride.max(1) as u64).max(1);
                meter.received(meta.len as u64 + datagrams * header_bytes(meta.addr.ip()), datagrams);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        // A capped sender gives the kernel one datagram at a time, so that none bursts above the cap.
        if self.is_capped() { 1 } else { self.inner.max_transmit_segments() }
    }

    fn max_receive_segments(&self) -> usize {
        // quinn reserves this many payloads per message. The kernel joins at most 64 KiB, which one large payload holds.
        if self.payload_max >= PAYLOAD_BYTES_LARGE { 1 } else { self.inner.max_receive_segments() }
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

struct MeteredPoller {
    inner: Pin<Box<dyn UdpPoller>>,
    meter: Option<Arc<WireMeter>>,
    lane: Option<Arc<Lane>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl MeteredPoller {
    fn wait_until(&self) -> Option<Instant> {
        let meters = [self.meter.as_deref(), self.lane.as_ref().and_then(|lane| lane.meter())];
        meters.into_iter().flatten().filter_map(WireMeter::wait_until).max()
    }
}

impl UdpPoller for MeteredPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(until) = self.wait_until() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            sleep.as_mut().reset(until);
            ready!(sleep.as_mut().poll(cx));
        }
        self.sleep = None;
        ready!(self.inner.as_mut().poll_writable(cx))?;
        Lane::sends_next(self.lane.as_ref());
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for MeteredPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeteredPoller").finish_non_exhaustive()
    }
}

fn header_bytes(peer: IpAddr) -> u64 {
    if peer.to_canonical().is_ipv4() { HEADER_BYTES_V4 } else { HEADER_BYTES_V6 }
}
