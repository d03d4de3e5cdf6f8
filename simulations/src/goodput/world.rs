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
const FROM: Nanos = 5 * SECOND;
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
    pub fn is_reached(&self, measured: &Measured) -> bool {
        match *self {
            Self::Share(share, rtt) => measured.share >= share && measured.rtt_mean <= rtt,
            Self::UpTime(share) => measured.share >= share,
            Self::Between(least, most) => (least..=most).contains(&measured.fairness),
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Payload that arrived after the first five seconds, as a share of what the link carries in that time.
    pub share: f64,
    /// Payload that arrived, as a share of what the link carries from the beginning.
    pub share_in_all: f64,
    /// Smoothed round trip over the shortest possible, on average after the first five seconds.
    pub rtt_mean: f64,
    /// The same, the median.
    pub rtt_median: f64,
    /// The longest.
    pub rtt_max: f64,
    /// When the last byte arrived.
    pub took: Duration,
    /// Of what both flows got after five seconds, the share of the first; 1 without a second.
    pub fairness: f64,
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
    let mean = carried(&scenario.capacity, 0, 60 * SECOND) / 60;
    let queue_bytes = scenario.queue_bytes.unwrap_or(mean * scenario.rtt / SECOND).max(6000);
    let way_up = LinkShape {
        capacity: scenario.capacity.clone(),
        delay: scenario.rtt / 2,
        loss_permille: scenario.loss_permille,
        queue_bytes,
        turns: scenario.turns,
    };
    // Acknowledgements have all the room that they need.
    let way_down = LinkShape { capacity: Capacity::Constant(1_000_000_000), queue_bytes: 1 << 20, ..way_up.clone() };
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
        let up_time = |from: Nanos, to: Nanos| match scenario.turns {
            // Constant links only: what it carries while it is up.
            Some(turns) => {
                let up =
                    |at: Nanos| at / (turns.up + turns.down) * turns.up + (at % (turns.up + turns.down)).min(turns.up);
                carried(&scenario.capacity, 0, up(to) - up(from))
            }
            None => carried(&scenario.capacity, from, to),
        };
        let room = up_time(FROM.min(end), end).max(1) as f64;
        rtts.sort_by(f64::total_cmp);
        Measured {
            rtt_median: rtts.get(rtts.len() / 2).copied().unwrap_or(0.0),
            share: after[0] as f64 / room,
            share_in_all: self.flows[0].received_bytes() as f64 / up_time(0, end).max(1) as f64,
            rtt_mean: rtts.iter().sum::<f64>() / rtts.len().max(1) as f64,
            rtt_max: rtts.iter().copied().fold(0.0, f64::max),
            took: Duration::from_nanos(end),
            fairness: after[0] as f64 / after.iter().sum::<u64>().max(1) as f64,
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
