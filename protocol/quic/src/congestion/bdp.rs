//! A controller that keeps one bandwidth-delay product in flight, and a third more.
//!
//! From each acknowledgement it takes the delivery rate and the round trip. The window is the highest rate of the last
//! rounds times the shortest round trip, and about a third more: enough to find more capacity at once, too little to fill
//! the queue. A lost packet is no reason to send less than the product; what loss takes is sent on top. Only the third
//! shrinks while much is lost, because then it may be what overruns a short queue. The ideas are BBR's (Cardwell et al., "BBR:
//! Congestion-Based Congestion Control", ACM Queue 2016) with a window instead of a pacing rate as the control, because
//! that is what quinn lets a controller say.
//!
//! ```text
//!            the rate grows no more, or a queue builds
//!   Startup ------------------------------------------> Drain
//!                                                         |  one bandwidth-delay product is in flight
//!                                                         v
//!   Probe <-------------------------------------------- Cruise <--+
//!     |        every ten seconds                                  |
//!     +-----------------------------------------------------------+
//!        one round with less than a product in flight has told the shortest round trip,
//!        and whether others keep the queue full
//! ```
//!
//! Where others keep the queue full, as a TCP flow does on the same bottleneck, a window that avoids queues would starve.
//! Then CUBIC runs beside, and the larger of both windows counts, until a probe finds the queue empty again.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

use super::rate::DeliveryRate;

/// What is in flight beyond the bandwidth-delay product while cruising, as a share of it.
const EXTRA_SHARE: f64 = 0.35;
/// The same in packets, at least: acknowledgements come late and in bunches, which a small product does not cover.
const EXTRA_PACKETS_MIN: u64 = 8;
/// Loss in a round above which the extra shrinks; below, it grows back.
const EXTRA_LOSS: f64 = 0.05;
const EXTRA_SHRINK: f64 = 0.8;
const EXTRA_GROWTH: f64 = 0.05;
const EXTRA_MIN: f64 = 0.1;
/// The same in the round that measures the shortest round trip.
const PROBE_GAIN: f64 = 0.85;
/// Time between two such rounds.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// The same while others keep the queue full: each gives them room.
const PROBE_OTHERS_EVERY: Duration = Duration::from_secs(30);
/// A round that long is over, whatever was acknowledged: acknowledgements may have been lost.
const PROBE_ROUNDS: u64 = 2;
/// Startup ends when a round brings less than this times the rate of the one before, three times in a row.
const STARTUP_GROWTH: f64 = 1.25;
const STARTUP_FLAT_ROUNDS: u32 = 3;
/// Startup also ends when even the shortest round trip of a round is this times the shortest ever: a queue builds.
const STARTUP_QUEUE: f64 = 1.4;
const STARTUP_QUEUE_PACKETS: u64 = 10;
/// The queue is not ours if the shortest round trip of a probing round is this times the shortest ever ...
const OTHERS_QUEUE: f64 = 1.3;
/// ... and others have left if it is below this.
const OTHERS_GONE: f64 = 1.15;
/// What CUBIC keeps of its window at a congestion event (RFC 9438, section 4.6).
const CUBIC_BACKOFF: f64 = 0.7;
/// After this long without having been seen again, the shortest round trip is the shortest since: the path is longer now.
const SHORTEST_FOR: Duration = Duration::from_mins(1);
/// Most of the loss that is made up for: a link that loses more is given what it delivers.
const LOSS_MAX: f64 = 0.25;
/// Share of a new round in the smoothed loss.
const LOSS_SHARE: f64 = 0.2;
/// A round with a tenth lost while round trips are long has overrun the queue: the highest rate is out of date.
const OVERRUN_LOSS: f64 = 0.1;
const OVERRUN_QUEUE: f64 = 1.5;
/// Packets that may be in flight in any case.
const WINDOW_PACKETS_MIN: u64 = 4;

/// Makes [`Bdp`] controllers.
#[derive(Clone, Copy, Debug)]
pub struct BdpConfig {
    initial_window_bytes: u64,
}

impl Default for BdpConfig {
    fn default() -> Self {
        Self { initial_window_bytes: 14_720 }
    }
}

impl BdpConfig {
    /// Bytes that the first round trip may carry; RFC 9002 recommends ten packets.
    pub fn initial_window(&mut self, bytes: u64) -> &mut Self {
        self.initial_window_bytes = bytes;
        self
    }
}

impl ControllerFactory for BdpConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bdp::new(*self, now, current_mtu))
    }
}

/// What it is doing; see the diagram.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Startup { rate: f64, flat_rounds: u32 },
    Drain,
    Cruise,
    Probe { until_round: u64, shortest: Duration },
}

/// What a round brought.
#[derive(Clone, Copy, Debug)]
struct Round {
    delivered: u64,
    lost: u64,
    shortest: Duration,
    /// Whether there was always more to send.
    full: bool,
}

impl Round {
    const EMPTY: Self = Self { delivered: 0, lost: 0, shortest: Duration::MAX, full: true };
}

/// The controller.
pub struct Bdp {
    config: BdpConfig,
    mtu: u64,
    rate: DeliveryRate,
    phase: Phase,
    window: u64,
    in_flight: u64,
    /// The shortest round trip, and when it was last seen.
    shortest: Duration,
    shortest_at: Instant,
    /// The shortest since then.
    shortest_since: Duration,
    probed_at: Instant,
    round: Round,
    /// Smoothed share of packets that are lost.
    loss: f64,
    /// How much of the extra is used.
    extra: f64,
    /// Runs where others keep the queue full.
    cubic: Option<Box<dyn Controller>>,
}

impl Bdp {
    fn new(config: BdpConfig, now: Instant, mtu: u16) -> Self {
        Self {
            config,
            mtu: u64::from(mtu),
            rate: DeliveryRate::new(now),
            phase: Phase::Startup { rate: 0.0, flat_rounds: 0 },
            window: config.initial_window_bytes,
            in_flight: 0,
            shortest: Duration::MAX,
            shortest_at: now,
            shortest_since: Duration::MAX,
            probed_at: now,
            round: Round::EMPTY,
            loss: 0.0,
            extra: 1.0,
            cubic: None,
        }
    }

    /// Bytes in flight that fill the link and no queue.
    fn product(&self, rate: f64) -> f64 {
        let shortest = if self.shortest == Duration::MAX { Duration::ZERO } else { self.shortest };
        rate * shortest.as_secs_f64()
    }

    fn set_window(&mut self) {
        // What is lost takes its place in flight until it is known to be.
        let made_up = 1.0 / (1.0 - self.loss.min(LOSS_MAX));
        let window = match self.phase {
            Phase::Startup { .. } => return,
            Phase::Drain => self.product(self.rate.highest()),
            Phase::Cruise => {
                let product = self.product(self.rate.highest());
                let extra = (product * EXTRA_SHARE).max((EXTRA_PACKETS_MIN * self.mtu) as f64);
                (product + extra * self.extra) * made_up
            }
            Phase::Probe { .. } => self.product(self.rate.latest().min(self.rate.highest())) * PROBE_GAIN * made_up,
        };
        let mut window = window as u64;
        if let (Some(cubic), Phase::Cruise) = (&self.cubic, self.phase) {
            window = window.max(cubic.window());
        }
        self.window = window.max(WINDOW_PACKETS_MIN * self.mtu);
    }

    fn see_round_trip(&mut self, now: Instant, rtt: Duration) {
        self.round.shortest = self.round.shortest.min(rtt);
        self.shortest_since = self.shortest_since.min(rtt);
        if now.saturating_duration_since(self.shortest_at) >= SHORTEST_FOR {
            self.shortest = self.shortest_since;
        }
        if rtt <= self.shortest {
            self.shortest = rtt;
        }
        if self.shortest == self.shortest_since {
            (self.shortest_at, self.shortest_since) = (now, Duration::MAX);
        }
        if let Phase::Probe { shortest, .. } = &mut self.phase {
            *shortest = rtt.min(*shortest);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::EMPTY);
        let sent = round.delivered + round.lost;
        if sent > 0 {
            let loss = round.lost as f64 / sent as f64;
            self.loss += (loss - self.loss) * LOSS_SHARE;
            let queue = self.queue(round.shortest);
            self.extra = if loss > EXTRA_LOSS {
                (self.extra * EXTRA_SHRINK).max(EXTRA_MIN)
            } else {
                (self.extra + EXTRA_GROWTH).min(1.0)
            };
            if loss >= OVERRUN_LOSS && queue >= OVERRUN_QUEUE && self.cubic.is_none() {
                self.rate.forget();
            }
        }
        if let Phase::Startup { rate, flat_rounds } = self.phase {
            let highest = self.rate.highest();
            let (rate, flat_rounds) = match (highest >= rate * STARTUP_GROWTH, round.full) {
                (true, _) => (highest, 0),
                (false, true) => (rate, flat_rounds + 1),
                // There was not enough to send for more.
                (false, false) => (rate, flat_rounds),
            };
            // Few packets may have a late acknowledgement in common.
            let builds =
                round.delivered >= STARTUP_QUEUE_PACKETS * self.mtu && self.queue(round.shortest) >= STARTUP_QUEUE;
            self.phase = if flat_rounds >= STARTUP_FLAT_ROUNDS || builds {
                self.probed_at = now;
                Phase::Drain
            } else {
                Phase::Startup { rate, flat_rounds }
            };
        }
    }

    /// A round trip as a multiple of the shortest.
    fn queue(&self, rtt: Duration) -> f64 {
        if rtt == Duration::MAX || self.shortest.is_zero() {
            return 1.0;
        }
        rtt.as_secs_f64() / self.shortest.as_secs_f64()
    }

    fn change_phase(&mut self, now: Instant) {
        match self.phase {
            Phase::Startup { .. } => {}
            Phase::Drain => {
                if (self.in_flight as f64) <= self.product(self.rate.highest()) {
                    self.phase = Phase::Cruise;
                }
            }
            Phase::Cruise => {
                let every = if self.cubic.is_some() { PROBE_OTHERS_EVERY } else { PROBE_EVERY };
                if now.saturating_duration_since(self.probed_at) >= every {
                    let until_round = self.rate.round() + PROBE_ROUNDS;
                    self.phase = Phase::Probe { until_round, shortest: Duration::MAX };
                }
            }
            Phase::Probe { until_round, shortest } => {
                if self.rate.round() >= until_round {
                    self.end_probe(now, shortest);
                }
            }
        }
    }

    fn end_probe(&mut self, now: Instant, seen: Duration) {
        self.probed_at = now;
        self.phase = Phase::Cruise;
        if seen == Duration::MAX {
            return;
        }
        let queue = self.queue(seen);
        if queue >= OTHERS_QUEUE && self.cubic.is_none() {
            self.set_window();
            let mut config = CubicConfig::default();
            // It takes over where this is: the window that it comes to by the congestion event is the one in use.
            config.initial_window((self.window as f64 / CUBIC_BACKOFF) as u64);
            let mut cubic = Arc::new(config).build(now, u16::try_from(self.mtu).unwrap_or(u16::MAX));
            // It is not to double its window first: the link is full.
            cubic.on_congestion_event(now, now, false, self.mtu);
            self.cubic = Some(cubic);
        } else if queue < OTHERS_GONE {
            self.cubic = None;
        }
    }
}

impl Controller for Bdp {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.rate.sent(now, self.in_flight > 0);
        self.in_flight += bytes;
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.rate.acknowledged(sent, bytes);
        self.round.delivered += bytes;
        if let Phase::Startup { .. } = self.phase
            && !app_limited
        {
            self.window += bytes;
        }
        if let Some(cubic) = &mut self.cubic {
            cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.in_flight = in_flight;
        let Some(sample) = self.rate.sample(now, app_limited) else { return };
        self.see_round_trip(now, sample.rtt);
        self.round.full &= !app_limited;
        if sample.ends_round {
            self.end_round(now);
        }
        self.change_phase(now);
        self.set_window();
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.round.lost += lost_bytes;
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        if let Some(cubic) = &mut self.cubic {
            cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
        }
        self.set_window();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        if let Some(cubic) = &mut self.cubic {
            cubic.on_mtu_update(new_mtu);
        }
        self.window = self.window.max(WINDOW_PACKETS_MIN * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { rate: self.rate.clone(), cubic: self.cubic.as_ref().map(|cubic| cubic.clone_box()), ..*self })
    }

    fn initial_window(&self) -> u64 {
        self.config.initial_window_bytes
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
