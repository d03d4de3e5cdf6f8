//! One world: flows that share two directions of a link, and what they came to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use headwater_quic::Congestion;

use super::flow::Flow;
use super::link::{Capacity, Link, LinkShape, MS, Nanos, SECOND, Turns, carried};
use crate::random::Random;

/// IPv4 and UDP headers of a datagram.
const HEADERS_BYTES: u64 = 28;
/// Goodput counts from here on.
pub const FROM: Nanos = 5 * SECOND;
/// Bytes that even a short queue holds: four packets.
const QUEUE_BYTES_MIN: u64 = 6000;
/// How often round trips are looked at.
const LOOK_EVERY: Nanos = 100 * MS;
/// Bytes that a sender has ready beyond the ones that it is measured by: nothing.
const FOREVER: u64 = 1 << 40;

/// A link and what is sent over it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// The way up.
    pub capacity: Capacity,
    /// Round trip without a queue.
    pub rtt: Nanos,
    /// Packets lost each way, in thousandths.
    pub loss_permille: u64,
    /// When it is up.
    pub turns: Option<Turns>,
    /// Bytes to send; none: as many as go in `time`.
    pub bytes: Option<u64>,
    /// When it ends at the latest.
    pub time: Nanos,
    /// A second flow with this controller shares the link.
    pub rival: Option<Congestion>,
    /// Bytes that may wait before the bottleneck; one bandwidth-delay product without.
    pub queue_bytes: Option<u64>,
    /// What a run must come to.
    pub bar: Bar,
}

impl Scenario {
    /// The ways up and down. Acknowledgements have all the room that they need.
    pub fn shapes(&self) -> (LinkShape, LinkShape) {
        let mean = carried(&self.capacity, 0, 60 * SECOND) / 60;
        let up = LinkShape {
            capacity: self.capacity.clone(),
            delay: self.rtt / 2,
            loss_permille: self.loss_permille,
            queue_bytes: self.queue_bytes.unwrap_or(mean * self.rtt / SECOND).max(QUEUE_BYTES_MIN),
            turns: self.turns,
        };
        let down = LinkShape { capacity: Capacity::Constant(1_000_000_000), queue_bytes: 1 << 20, ..up.clone() };
        (up, down)
    }

    /// Bytes that it carries from `from` to `to`, while it is up.
    pub fn carries(&self, from: Nanos, to: Nanos) -> u64 {
        match self.turns {
            // Constant links only: what it carries while it is up.
            Some(Turns { up, down }) => {
                let time_up = |at: Nanos| at / (up + down) * up + (at % (up + down)).min(up);
                carried(&self.capacity, 0, time_up(to) - time_up(from))
            }
            None => carried(&self.capacity, from, to),
        }
    }
}

/// What a run must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// Such a share of the link, and at most so many times its round trip on average.
    Share(f64, f64),
    /// Such a share of an up time, whatever the round trip.
    UpTime(f64),
    /// Beside another flow neither less nor more than this.
    Between(f64, f64),
}

impl Bar {
    /// Whether it is reached.
    pub fn is_reached(&self, figures: &Figures) -> bool {
        match *self {
            Self::Share(share, rtt) => figures.share >= share && figures.rtt_mean <= rtt,
            Self::UpTime(share) => figures.share >= share,
            Self::Between(least, most) => (least..=most).contains(&figures.fairness),
        }
    }
}

/// What a bar may be about.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Payload that arrived after the first five seconds, as a share of what the link carries in that time.
    pub share: f64,
    /// Payload that arrived, as a share of what the link carries from the beginning.
    pub share_in_all: f64,
    /// Round trip over the shortest possible, on average after the first five seconds.
    pub rtt_mean: f64,
    /// Of what both flows got after five seconds, the share of the first; 1 without a second.
    pub fairness: f64,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What bars are about; the round trip is quinn's smoothed one.
    pub figures: Figures,
    /// The median of the round trips.
    pub rtt_median: f64,
    /// The longest.
    pub rtt_max: f64,
    /// When the last byte arrived.
    pub took: Duration,
    /// Connections that were begun.
    pub connections: u32,
    /// Whether all that was to be sent has arrived.
    pub complete: bool,
    /// A number that tells two runs apart.
    pub trace: u64,
}

/// A datagram on its way: when, order, flow, connection, whether towards the receiver, and its bytes.
type Arrival = Reverse<(Nanos, u64, usize, u32, bool, Vec<u8>)>;

struct World {
    base: Instant,
    now: Nanos,
    up: Link,
    down: Link,
    flows: Vec<Flow>,
    arrivals: BinaryHeap<Arrival>,
    sequence: u64,
    trace: u64,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, congestion: Congestion, seed: u64) -> Measured {
    let mut random = Random::new(seed);
    let (way_up, way_down) = scenario.shapes();
    let base = Instant::now();
    let mut world = World {
        base,
        now: 0,
        up: Link::new(way_up, random.split()),
        down: Link::new(way_down, random.split()),
        flows: Vec::new(),
        arrivals: BinaryHeap::new(),
        sequence: 0,
        trace: 0,
    };
    let wanted = scenario.bytes.unwrap_or(FOREVER);
    for (number, controller) in std::iter::once(congestion).chain(scenario.rival).enumerate() {
        let wanted = if number == 0 { wanted } else { FOREVER };
        world.flows.push(Flow::new(controller, wanted, random.split()));
    }
    world.play(scenario)
}

impl World {
    fn play(&mut self, scenario: &Scenario) -> Measured {
        let base_rtt = scenario.rtt as f64;
        let mut rtts: Vec<f64> = Vec::new();
        let (mut next_look, mut passed_from) = (FROM, false);
        loop {
            let next = self.next_event();
            if next > scenario.time || self.flows[0].is_complete() {
                break;
            }
            if next >= FROM && !passed_from {
                passed_from = true;
                for flow in &mut self.flows {
                    flow.at_from = flow.received_bytes();
                }
            }
            while next >= next_look {
                if let Some(rtt) = self.flows[0].rtt() {
                    rtts.push(rtt.as_nanos() as f64 / base_rtt);
                }
                next_look += LOOK_EVERY;
            }
            self.now = next;
            self.step();
        }
        let end = if self.flows[0].is_complete() { self.now } else { scenario.time };
        let after: Vec<u64> = self.flows.iter().map(|flow| flow.received_bytes() - flow.at_from).collect();
        let room = scenario.carries(FROM.min(end), end).max(1) as f64;
        rtts.sort_by(f64::total_cmp);
        Measured {
            figures: Figures {
                share: after[0] as f64 / room,
                share_in_all: self.flows[0].received_bytes() as f64 / scenario.carries(0, end).max(1) as f64,
                rtt_mean: rtts.iter().sum::<f64>() / rtts.len().max(1) as f64,
                fairness: after[0] as f64 / after.iter().sum::<u64>().max(1) as f64,
            },
            rtt_median: rtts.get(rtts.len() / 2).copied().unwrap_or(0.0),
            rtt_max: rtts.iter().copied().fold(0.0, f64::max),
            took: Duration::from_nanos(end),
            connections: self.flows[0].connections(),
            complete: self.flows[0].is_complete(),
            trace: self.trace,
        }
    }

    /// When something happens next.
    fn next_event(&mut self) -> Nanos {
        let arrival = self.arrivals.peek().map_or(Nanos::MAX, |Reverse(arrival)| arrival.0);
        let base = self.base;
        self.flows.iter_mut().map(|flow| flow.next_event(base)).fold(arrival, Nanos::min).max(self.now)
    }

    fn step(&mut self) {
        let now = self.base + Duration::from_nanos(self.now);
        while self.arrivals.peek().is_some_and(|Reverse(arrival)| arrival.0 <= self.now) {
            let Some(Reverse((at, _, flow, number, to_receiver, datagram))) = self.arrivals.pop() else { break };
            self.trace = self.trace.rotate_left(5) ^ at.wrapping_mul(31).wrapping_add(datagram.len() as u64);
            // What comes for a connection that was given up goes nowhere.
            let Some(pair) = self.flows[flow].pairs.iter_mut().find(|pair| pair.number == number) else { continue };
            let peer = if to_receiver { &mut pair.receiver } else { &mut pair.sender };
            peer.handle_datagram(now, &datagram);
        }
        for flow in &mut self.flows {
            flow.handle_time(self.base, self.now);
        }
        self.collect();
    }

    /// Puts what peers want to send onto the link.
    fn collect(&mut self) {
        for (flow, pairs) in self.flows.iter_mut().map(|flow| &mut flow.pairs).enumerate() {
            for pair in pairs {
                let number = pair.number;
                for (peer, link, to_receiver) in
                    [(&mut pair.sender, &mut self.up, true), (&mut pair.receiver, &mut self.down, false)]
                {
                    for datagram in peer.outgoing.drain(..) {
                        if let Some(at) = link.send(self.now, datagram.len() as u64 + HEADERS_BYTES) {
                            self.sequence += 1;
                            self.arrivals.push(Reverse((at, self.sequence, flow, number, to_receiver, datagram)));
                        }
                    }
                }
            }
        }
    }
}
