//! The device of the simulation: a [`Sender`] with the shell that the daemons give it, made of events.

use std::collections::BTreeMap;

use headwater_protocol::sync::{Load, SendAction, SendEnd, Sender};
use headwater_protocol::wire::{Encoding, ItemHeader, ItemKey, Message};

use super::facts::Fact;
use super::plan::Bug;
use super::world::{Event, World};

/// Item streams of a transfer.
const STREAMS: usize = 4;

/// What the device knows and does.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// Versions that it has published.
    pub(super) published: usize,
    /// The newest version of which it has heard that it is committed.
    pub(super) done: Option<usize>,
    sending: Option<Sending>,
    next_transfer: u32,
}

#[derive(Debug)]
struct Sending {
    transfer: u32,
    version: usize,
    machine: Sender,
    ready: BTreeMap<ItemKey, ItemHeader>,
    /// When the last item on each stream arrives.
    streams: [u64; STREAMS],
}

impl World {
    /// Offers the newest version, if the link is up, nothing is on its way, and it is not committed.
    pub(super) fn offer(&mut self) {
        let newest = self.device.published.checked_sub(1);
        let Some(version) = newest.filter(|newest| self.device.done < Some(*newest)) else { return };
        if !self.link_is_up() || self.device.sending.is_some() {
            return;
        }
        let transfer = self.device.next_transfer;
        self.device.next_transfer += 2;
        let manifest = self.versions[version].manifest.encode();
        let offer = Message::Offer { transfer, dataset: format!("{version}"), manifest, commit: vec![] };
        let machine = Sender::new(transfer, self.versions[version].manifest.totals().chunks, offer);
        self.device.sending =
            Some(Sending { transfer, version, machine, ready: BTreeMap::new(), streams: [0; STREAMS] });
        self.fact(Fact::Began);
        self.drive_sender();
    }

    /// A newer version is there: the device may withdraw the one that is on its way.
    pub(super) fn publish(&mut self) {
        self.device.published += 1;
        if self.random.once_in(2)
            && let Some(sending) = &mut self.device.sending
        {
            sending.machine.withdraw();
            self.drive_sender();
        }
        self.offer();
    }

    pub(super) fn sender_lost_link(&mut self) {
        self.device.sending = None;
    }

    pub(super) fn device_hears(&mut self, message: &Message) {
        let Some(sending) = self.device.sending.as_mut().filter(|it| message.transfer() == Some(it.transfer)) else {
            return;
        };
        if let Message::Stored { ranges, .. } = message {
            let ordinals = &self.versions[sending.version].ordinals;
            let ids = ranges
                .iter()
                .flat_map(|range| &ordinals[range.first as usize..(range.first + range.count) as usize])
                .map(|chunk| chunk.id)
                .collect();
            self.facts.push(Fact::Acknowledged(ids));
        }
        sending.machine.handle_message(message);
        self.drive_sender();
    }

    pub(super) fn loaded(&mut self, transfer: u32, load: Load) {
        let vanishes = self.vanishing > 0 && matches!(load.key, ItemKey::Chunk(_)) && self.random.once_in(20);
        let unusable = self.plan.unusable_once_in > 0 && self.random.once_in(self.plan.unusable_once_in);
        let Some(sending) = self.device.sending.as_mut().filter(|it| it.transfer == transfer) else { return };
        if vanishes {
            self.vanishing -= 1;
            sending.machine.handle_unavailable(load.key);
            return self.drive_sender();
        }
        let version = &self.versions[sending.version];
        let plain_bytes = match load.key {
            ItemKey::Page(id) => version.page(&id).expect("a page of the version").encode().len() as u32,
            ItemKey::Chunk(ordinal) => version.ordinals[ordinal as usize].length,
        };
        let rest = plain_bytes - load.from_offset;
        // A delta without sources stands for any encoding that turns out to be of no use.
        let encoding = match (load.plain, unusable) {
            (false, true) => Encoding::Delta { sources: vec![] },
            (false, false) if plain_bytes % 3 == 0 => Encoding::Zstd { from_offset: load.from_offset },
            _ => Encoding::Plain { from_offset: load.from_offset },
        };
        let payload_bytes = if matches!(encoding, Encoding::Plain { .. }) { rest } else { rest.div_ceil(2) };
        let header = ItemHeader { transfer, key: load.key, plain_bytes, payload_bytes, encoding };
        sending.machine.handle_loaded(load.key, payload_bytes);
        sending.ready.insert(load.key, header);
        self.drive_sender();
    }

    fn drive_sender(&mut self) {
        while let Some(sending) = &mut self.device.sending {
            let (transfer, version) = (sending.transfer, sending.version);
            match sending.machine.poll_action() {
                Some(SendAction::Send(message)) => self.send_to_core(message),
                Some(SendAction::Load(load)) => {
                    let delay = self.disk();
                    self.after(delay, Event::Loaded(self.epoch, transfer, load));
                }
                Some(SendAction::Finished(end)) => self.sending_ended(version, end),
                None => break,
            }
        }
        self.transmit();
    }

    fn sending_ended(&mut self, version: usize, end: SendEnd) {
        self.device.sending = None;
        match end {
            SendEnd::Committed { .. } => {
                self.fact(Fact::HeardCommit(version));
                self.device.done = self.device.done.max(Some(version));
                self.offer();
            }
            // The file came back, or a newer version is to be sent: the device offers again in a while.
            SendEnd::Incomplete(_) | SendEnd::Withdrawn => {
                let delay = self.disk();
                self.after(delay, Event::Offer(self.epoch));
            }
            SendEnd::Refused(refusal) => self.fact(Fact::Broken(format!("the core refused: {refusal}"))),
            SendEnd::Broken(violation) => self.fact(Fact::Broken(format!("the device says that {violation}"))),
        }
    }

    fn transmit(&mut self) {
        let (now, epoch) = (self.now, self.epoch);
        let times = if self.bug == Some(Bug::SendsTwice) { 2 } else { 1 };
        while let Some(sending) = &mut self.device.sending
            && let Some(key) = sending.machine.poll_transmit()
        {
            let header = sending.ready.remove(&key).expect("it was loaded");
            let stream = self.random.below(STREAMS as u64) as usize;
            let travel = 1 + self.random.below(self.plan.delay_ns);
            let rate_ns = u64::from(header.payload_bytes) * 1_000_000_000 / self.plan.rate;
            // The link is one: what is sent takes its time after what was sent before.
            self.link_free = self.link_free.max(now) + rate_ns;
            let arrival = (self.link_free + travel).max(sending.streams[stream] + 1);
            sending.streams[stream] = arrival;
            self.facts.push(Fact::Sent(u64::from(header.payload_bytes)));
            if self.bug == Some(Bug::LosesItems) && self.random.once_in(30) {
                continue;
            }
            for _ in 0..times {
                self.at(arrival, Event::Item(epoch, header.clone()));
            }
        }
    }
}
