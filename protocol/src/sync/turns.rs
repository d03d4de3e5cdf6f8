//! Which class of what is sent goes first on a connection.
//!
//! The order is strict: the most urgent class that has something goes first. But no class that has something is starved: while
//! others send, it earns a share of what they send, and when it has earned [`TURN_BYTES`] it is lifted above the others until
//! it has had them. So each class has its share of every stretch that is long against a turn.

/// Classes of what is sent, without the control stream, which is above all.
pub const CLASSES: usize = 4;
/// Of so many bytes that are sent, one is each waiting class's own: 6.25 %, so that with what a turn may come late each has 5 %
/// of every minute.
const SHARE: u64 = 16;
/// What a class has earned when it is lifted.
pub const TURN_BYTES: u64 = 16 << 10;
/// Most that a class can have earned. What it could not send when it might is not made up for without end: while it is, the
/// classes after it wait, and a minute of a slow link is some 2 MB.
const EARNED_BYTES_MAX: u64 = 4 * TURN_BYTES;

/// The classes of one connection; the most urgent is 0.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// Transfers of each class.
    transfers: [u32; CLASSES],
    /// What each has earned, in parts of a byte.
    earned: [u64; CLASSES],
    lifted: [bool; CLASSES],
}

impl Turns {
    /// A transfer of a class begins.
    pub fn handle_begin(&mut self, class: usize) {
        self.transfers[class] += 1;
    }

    /// A transfer of a class has ended.
    pub fn handle_end(&mut self, class: usize) {
        self.transfers[class] = self.transfers[class].saturating_sub(1);
        if self.transfers[class] == 0 {
            self.earned[class] = 0;
            self.choose();
        }
    }

    /// Bytes of a class went out.
    pub fn handle_sent(&mut self, class: usize, bytes: u64) {
        for other in (0..CLASSES).filter(|&other| other != class && self.transfers[other] > 0) {
            self.earned[other] = (self.earned[other] + bytes).min(EARNED_BYTES_MAX * SHARE);
        }
        // Its own bytes earn it nothing, and cost what the others' bytes would have earned it.
        self.earned[class] = self.earned[class].saturating_sub(bytes * (SHARE - 1));
        self.choose();
    }

    /// The classes, the one that goes first first.
    pub fn order(&self) -> [usize; CLASSES] {
        let mut order = std::array::from_fn(|class| class);
        order.sort_by_key(|&class| (!self.lifted[class], class));
        order
    }

    /// Who is lifted stays so until it has had its turn, so that streams don't change places with every packet. Several may be:
    /// one that has nothing to send just now must be in nobody's way.
    fn choose(&mut self) {
        for (lifted, &earned) in self.lifted.iter_mut().zip(&self.earned) {
            *lifted = earned >= TURN_BYTES * SHARE || (*lifted && earned > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKET_BYTES: u64 = 1200;

    /// Sends so many packets: always of the first class in order that has something. Gives how many were of each.
    fn play(turns: &mut Turns, has: [bool; CLASSES], packets: u64) -> [u64; CLASSES] {
        let mut sent = [0; CLASSES];
        for _ in 0..packets {
            let Some(class) = turns.order().into_iter().find(|&class| has[class]) else { break };
            turns.handle_sent(class, PACKET_BYTES);
            sent[class] += 1;
        }
        sent
    }

    fn begun(has: [bool; CLASSES]) -> Turns {
        let mut turns = Turns::default();
        (0..CLASSES).filter(|&class| has[class]).for_each(|class| turns.handle_begin(class));
        turns
    }

    proptest! {
        #[test]
        fn no_class_that_has_something_is_starved(
            has in any::<[bool; CLASSES]>(),
            before in prop::collection::vec((any::<[bool; CLASSES]>(), 0u64..5000), 0..5),
        ) {
            // A minute at 256 kbit/s.
            let packets = 1600;
            let mut turns = begun([true; CLASSES]);
            for (had, packets) in before {
                play(&mut turns, had, packets);
            }
            let sent = play(&mut turns, has, packets);
            for class in (0..CLASSES).filter(|&class| has[class]) {
                prop_assert!(sent[class] * 20 >= packets, "{sent:?} of {has:?}");
            }
        }
    }

    #[test]
    fn the_most_urgent_has_all_but_the_others_shares() {
        let mut turns = begun([true, false, false, true]);
        let sent = play(&mut turns, [true, false, false, true], 100_000);
        assert_eq!(sent.iter().sum::<u64>(), 100_000);
        assert!((6_000..=6_500).contains(&sent[3]), "{sent:?}");
    }

    #[test]
    fn a_class_that_has_nothing_costs_nothing() {
        let mut turns = begun([true; CLASSES]);
        assert_eq!(play(&mut turns, [false, true, false, false], 10_000)[1], 10_000);
    }

    #[test]
    fn what_was_earned_ends_with_the_last_transfer() {
        let mut turns = begun([true, false, false, true]);
        play(&mut turns, [true, false, false, false], 10_000);
        assert_eq!(turns.order(), [3, 0, 1, 2]);
        turns.handle_end(3);
        assert_eq!(turns.order(), [0, 1, 2, 3]);
    }

    #[test]
    fn two_classes_that_had_nothing_for_long_do_not_starve_the_third() {
        let mut turns = begun([true; CLASSES]);
        for (class, packets) in [(3, 1380), (2, 3572), (3, 1181), (2, 4548)] {
            play(&mut turns, std::array::from_fn(|other| other == class), packets);
        }
        let sent = play(&mut turns, [true, true, true, false], 1600);
        assert!(sent[2] >= 80, "{sent:?}");
    }

    #[test]
    fn the_others_stay_in_order_under_the_one_that_is_lifted() {
        let mut turns = begun([true, true, true, false]);
        play(&mut turns, [true, false, false, false], 500);
        assert_eq!(turns.order(), [1, 2, 0, 3]);
        play(&mut turns, [true, false, true, false], 20);
        assert_eq!(turns.order(), [1, 2, 0, 3]);
    }
}
