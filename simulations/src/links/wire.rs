//! A wire between two network namespaces: packets that come out of one TUN device go into the other as late, and as seldom, as a
//! simulated link lets them. So the kernel's TCP and the real programs meet the same links as virtual time has, at the speed of
//! this machine's processors; no kernel module is needed.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::goodput::{Link, LinkShape, Nanos};
use crate::random::Random;

/// The longest packet of either device.
const MTU: u16 = 1500;
/// Where an IPv4 header says which protocol it carries, and what it says of UDP and TCP.
const PROTOCOL_AT: usize = 9;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// A packet and when it is due.
type Due = (Instant, Vec<u8>);

/// What crossed the way up since the link was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Crossed {
    /// Bytes of UDP that arrived, headers included.
    pub udp_bytes: u64,
    /// Bytes of TCP that arrived.
    pub tcp_bytes: u64,
    /// How long each packet took that arrived, and when it set out.
    pub delays: VecDeque<(Nanos, Nanos)>,
}

/// One way.
struct Way {
    link: Link,
    began: Instant,
    crossed: Crossed,
}

impl Way {
    fn new(shape: LinkShape, seed: u64) -> Self {
        Self { link: Link::new(shape, Random::new(seed)), began: Instant::now(), crossed: Crossed::default() }
    }

    /// Takes a packet; gives when it is due, if it arrives.
    fn take(&mut self, packet: &[u8]) -> Option<Instant> {
        // IPv6 only greets its neighbours here.
        if packet.first().is_none_or(|first| first >> 4 != 4) {
            return None;
        }
        let now = self.began.elapsed().as_nanos() as Nanos;
        let at = self.link.send(now, packet.len() as u64)?;
        let protocol = packet.get(PROTOCOL_AT).copied().unwrap_or(0);
        match protocol {
            UDP => self.crossed.udp_bytes += packet.len() as u64,
            TCP => self.crossed.tcp_bytes += packet.len() as u64,
            _ => {}
        }
        self.crossed.delays.push_back((now, at - now));
        Some(self.began + Duration::from_nanos(at))
    }
}

/// Two devices with a link between them, until the process ends.
pub(super) struct Wire {
    up: Arc<Mutex<Way>>,
    down: Arc<Mutex<Way>>,
}

impl Wire {
    /// Makes devices with these names and carries packets between them; up is from the left to the right.
    pub(super) fn new(left: &str, right: &str, up: LinkShape, down: LinkShape) -> io::Result<Self> {
        let device = |name: &str| DeviceBuilder::new().name(name).layer(Layer::L3).mtu(MTU).build_sync().map(Arc::new);
        let (left, right) = (device(left)?, device(right)?);
        let wire = Self { up: Arc::new(Mutex::new(Way::new(up, 1))), down: Arc::new(Mutex::new(Way::new(down, 2))) };
        carry(&wire.up, Arc::clone(&left), Arc::clone(&right));
        carry(&wire.down, right, left);
        Ok(wire)
    }

    /// Makes it another link, whose time begins now.
    pub(super) fn shape(&self, up: LinkShape, down: LinkShape, seed: u64) {
        *lock(&self.up) = Way::new(up, seed);
        *lock(&self.down) = Way::new(down, seed ^ 1);
    }

    /// What crossed the way up since then.
    pub(super) fn crossed(&self) -> Crossed {
        lock(&self.up).crossed.clone()
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries packets one way, on two threads.
fn carry(way: &Arc<Mutex<Way>>, from: Arc<SyncDevice>, to: Arc<SyncDevice>) {
    let (due, dues): (Sender<Due>, Receiver<Due>) = channel();
    let way = Arc::clone(way);
    thread::spawn(move || {
        let mut packet = vec![0; usize::from(MTU)];
        loop {
            match from.recv(&mut packet) {
                Ok(length) => {
                    let at = lock(&way).take(&packet[..length]);
                    if at.is_some_and(|at| due.send((at, packet[..length].to_vec())).is_err()) {
                        return;
                    }
                }
                // The device is moved to its namespace and down meanwhile.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    thread::spawn(move || {
        for (at, packet) in dues {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // A device that is down takes nothing, as a cable that is pulled.
            let _ = to.send(&packet);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goodput::{Capacity, MS};

    fn packet(version: u8, protocol: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![0; length];
        (packet[0], packet[PROTOCOL_AT]) = (version << 4, protocol);
        packet
    }

    #[test]
    fn what_arrives_is_counted_by_its_protocol() {
        // 8 Mbit/s and room for two packets.
        let capacity = Capacity::Constant(8_000_000);
        let shape = LinkShape { capacity, delay: 10 * MS, loss_permille: 0, queue_bytes: 2000, turns: None };
        let mut way = Way::new(shape, 1);
        assert!(way.take(&packet(4, UDP, 1000)).is_some());
        assert!(way.take(&packet(6, UDP, 100)).is_none(), "no IPv6");
        assert!(way.take(&packet(4, TCP, 900)).is_some());
        assert!(way.take(&packet(4, UDP, 1000)).is_none(), "the queue is full");
        assert!(way.take(&[]).is_none());
        assert_eq!((way.crossed.udp_bytes, way.crossed.tcp_bytes), (1000, 900));
        assert!(way.crossed.delays.iter().all(|(_, delay)| *delay >= 10 * MS), "{:?}", way.crossed.delays);
    }
}
