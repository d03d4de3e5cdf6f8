//! A sender and its receiver, over one connection after another: what the agent does with its session, by the rules that ship.
//!
//! When the connection is silent, others are raced against it ([`Race`]); the first that stands takes its place, and what the
//! receiver has by then is not sent again. Before anything is sent, a connection costs what it costs the agent: a
//! handshake, and a round trip each for the greeting, the question for the newest versions, and the offer.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use headwater_protocol::sync::{ATTEMPTS_AT_ONCE_MAX, Attempts, Race, RaceStep};
use headwater_protocol::time::Timestamp;
use headwater_quic::{Congestion, TransportOptions};

use super::link::Nanos;
use super::peer::{Keys, Peer};
use crate::random::Random;

/// Streams of a transfer.
const STREAMS: usize = 4;
/// Questions that are answered when a connection stands: the greeting, and the newest versions.
const QUESTIONS_FIRST: u32 = 2;
/// One more, which the receiver answers with what it lacks.
const QUESTIONS: u32 = 3;

/// Both ends of a connection.
pub(super) struct Pair {
    /// Tells the connections of a flow apart.
    pub(super) number: u32,
    /// The end that dials and sends.
    pub(super) sender: Peer,
    /// The other.
    pub(super) receiver: Peer,
}

/// All that one device does.
pub(super) struct Flow {
    keys: Keys,
    congestion: Congestion,
    random: Random,
    /// The connection in use, if there is one, and attempts beside it; the newest last.
    pub(super) pairs: Vec<Pair>,
    used: Option<u32>,
    race: Race,
    /// Attempts while no connection is in use.
    attempts: Attempts,
    connections: u32,
    wanted: u64,
    /// Bytes that arrived over connections that are gone.
    received_before: u64,
    next_look: Nanos,
    /// Bytes that had arrived when goodput began to count.
    pub(super) at_from: u64,
}

impl Flow {
    /// One that wants so many bytes to arrive.
    pub(super) fn new(congestion: Congestion, wanted: u64, random: Random) -> Self {
        Self {
            keys: Keys::new(),
            congestion,
            random,
            pairs: Vec::new(),
            used: None,
            race: Race::new(Timestamp::ZERO, 0),
            attempts: Attempts::new(Timestamp::ZERO),
            connections: 0,
            wanted,
            received_before: 0,
            next_look: 0,
            at_from: 0,
        }
    }

    /// Bytes that have arrived.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_before + self.in_use().map_or(0, |pair| pair.receiver.received_bytes)
    }

    /// Whether all have.
    pub(super) fn is_complete(&self) -> bool {
        self.received_bytes() >= self.wanted
    }

    /// How many connections it began.
    pub(super) fn connections(&self) -> u32 {
        self.connections
    }

    /// Smoothed round trip of the connection in use.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.in_use().map(|pair| pair.sender.rtt())
    }

    /// When it wants to be called, though nothing arrives.
    pub(super) fn next_event(&mut self, base: Instant) -> Nanos {
        let timeouts = self.pairs.iter_mut().flat_map(|pair| [pair.sender.timeout(), pair.receiver.timeout()]);
        let at = |timeout: Instant| timeout.saturating_duration_since(base).as_nanos() as Nanos;
        timeouts.flatten().map(at).min().map_or(self.next_look, |at| at.min(self.next_look))
    }

    /// Does what is due at this moment, after what arrived was handled.
    pub(super) fn handle_time(&mut self, base: Instant, nanos: Nanos) {
        let now = base + Duration::from_nanos(nanos);
        for pair in &mut self.pairs {
            for peer in [&mut pair.sender, &mut pair.receiver] {
                if peer.timeout().is_some_and(|timeout| timeout <= now) {
                    peer.handle_timeout(now);
                }
            }
        }
        if self.in_use().is_some_and(|pair| pair.sender.is_closed()) {
            self.leave();
            self.attempts = Attempts::new(Timestamp::from_nanos(nanos));
        }
        self.take_first(nanos);
        self.begin_sending(now);
        if nanos >= self.next_look {
            self.next_look = nanos + Race::LOOK_EVERY.as_nanos() as Nanos;
            self.look(now, Timestamp::from_nanos(nanos));
        }
    }

    fn in_use(&self) -> Option<&Pair> {
        self.pairs.iter().find(|pair| Some(pair.number) == self.used)
    }

    fn look(&mut self, now: Instant, at: Timestamp) {
        let random = self.random.below(256) as u8;
        let used = self.used;
        let Some(pair) = self.pairs.iter_mut().find(|pair| Some(pair.number) == used) else {
            if self.attempts.poll(at, random) {
                self.dial(now);
            }
            return;
        };
        self.race.handle_look(at, true, pair.sender.heard_bytes());
        match self.race.poll(at, pair.sender.rtt(), random) {
            Some(RaceStep::Ask) => pair.sender.ping(now),
            Some(RaceStep::Dial) => self.dial(now),
            None if !self.race.is_on() => self.pairs.retain(|pair| Some(pair.number) == used),
            None => {}
        }
    }

    fn dial(&mut self, now: Instant) {
        let used = self.used;
        let is_attempt = |pair: &Pair| Some(pair.number) != used;
        if self.pairs.iter().filter(|pair| is_attempt(pair)).count() >= ATTEMPTS_AT_ONCE_MAX
            && let Some(oldest) = self.pairs.iter().position(is_attempt)
        {
            self.pairs.remove(oldest);
        }
        let network = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let receiving = TransportOptions { congestion: self.congestion, gso: false, ..TransportOptions::default() };
        let sending = TransportOptions { send_window_bytes: 8 << 20, ..receiving.clone() };
        let (seed, other) = (self.random.next(), self.random.next());
        let mut sender = Peer::dialling(&self.keys, sending.config(network), now, seed);
        sender.ask(QUESTIONS_FIRST);
        sender.drive(now);
        let receiver = Peer::listening(&self.keys, receiving.config(network), other);
        self.pairs.push(Pair { number: self.connections, sender, receiver });
        self.connections += 1;
    }

    /// The first attempt that stands takes the place of the connection in use, and all others are given up.
    fn take_first(&mut self, nanos: Nanos) {
        let used = self.used;
        let stands = |pair: &&Pair| Some(pair.number) != used && pair.sender.answered() >= QUESTIONS_FIRST;
        let Some(first) = self.pairs.iter().find(stands).map(|pair| pair.number) else { return };
        self.leave();
        self.used = Some(first);
        self.pairs.retain(|pair| pair.number == first);
        if let Some(pair) = self.pairs.first_mut() {
            pair.sender.ask(QUESTIONS);
            self.race = Race::new(Timestamp::from_nanos(nanos), pair.sender.heard_bytes());
        }
    }

    /// Keeps what arrived over the connection in use, and forgets it.
    fn leave(&mut self) {
        self.received_before = self.received_bytes();
        let used = self.used.take();
        self.pairs.retain(|pair| Some(pair.number) != used);
    }

    fn begin_sending(&mut self, now: Instant) {
        let (used, left) = (self.used, self.wanted.saturating_sub(self.received_before));
        if let Some(pair) = self.pairs.iter_mut().find(|pair| Some(pair.number) == used)
            && pair.sender.answered() >= QUESTIONS
        {
            pair.sender.send(left, STREAMS);
        }
        for pair in &mut self.pairs {
            pair.sender.drive(now);
        }
    }
}
