//! What a bad link makes of a datagram: it loses it, flips a bit, cuts it short, brings an old one again, or brings what
//! nobody sent. The links of the [world](crate::world) and the [relay](crate::processes::Relay) between real processes do it.

use std::collections::VecDeque;

use crate::random::Random;

/// Datagrams that went by and may come again.
const REMEMBERED: usize = 512;
/// The longest of which nobody sent.
const GARBAGE_BYTES_MAX: u64 = 1500;

/// How often one direction of a link does what, each as so many of a million datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Datagrams that are lost.
    pub lost: u32,
    /// Datagrams of which a bit is flipped.
    pub flipped: u32,
    /// Datagrams that are cut short.
    pub truncated: u32,
    /// Datagrams beside which an old one comes again.
    pub replayed: u32,
    /// Datagrams beside which one comes that nobody sent.
    pub garbage: u32,
}

/// One direction of a link, as far as it remembers what it carried.
#[derive(Debug, Default)]
pub(crate) struct Past {
    remembered: VecDeque<Vec<u8>>,
}

impl Past {
    /// What arrives in place of `datagram`.
    pub(crate) fn arriving(&mut self, trouble: Trouble, random: &mut Random, datagram: &[u8]) -> Vec<Vec<u8>> {
        let Trouble { lost, flipped, truncated, replayed, garbage } = trouble;
        let mut happens = |in_a_million: u32| in_a_million > 0 && random.below(1_000_000) < u64::from(in_a_million);
        let [is_lost, is_flipped, is_cut] = [lost, flipped, truncated].map(&mut happens);
        let [brings_old, brings_garbage] = [replayed, garbage].map(&mut happens);
        let mut arriving = Vec::new();
        if !is_lost {
            let mut datagram = datagram.to_vec();
            if is_flipped && !datagram.is_empty() {
                let at = random.below(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << random.below(8);
            }
            if is_cut {
                datagram.truncate(random.below(datagram.len() as u64 + 1) as usize);
            }
            arriving.push(datagram);
        }
        if brings_old && !self.remembered.is_empty() {
            let at = random.below(self.remembered.len() as u64) as usize;
            arriving.push(self.remembered[at].clone());
        }
        if brings_garbage {
            let length = random.between(1, GARBAGE_BYTES_MAX) as usize;
            arriving.push(std::iter::repeat_with(|| random.next() as u8).take(length).collect());
        }
        if replayed > 0 {
            if self.remembered.len() == REMEMBERED {
                self.remembered.pop_front();
            }
            self.remembered.push_back(datagram.to_vec());
        }
        arriving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: u32 = 1_000_000;

    #[test]
    fn each_trouble_is_what_it_says() {
        let one = |trouble: Trouble| Past::default().arriving(trouble, &mut Random::new(1), &[7; 100]);
        assert_eq!(one(Trouble::default()), [vec![7; 100]]);
        assert!(one(Trouble { lost: ALWAYS, ..Trouble::default() }).is_empty());
        let [flipped] = &one(Trouble { flipped: ALWAYS, ..Trouble::default() })[..] else { panic!("one") };
        let bits: u32 = flipped.iter().map(|byte| (byte ^ 7).count_ones()).sum();
        assert_eq!((flipped.len(), bits), (100, 1));
        let [short] = &one(Trouble { truncated: ALWAYS, ..Trouble::default() })[..] else { panic!("one") };
        assert!(short.len() <= 100 && short.iter().all(|&byte| byte == 7));
        assert_eq!(one(Trouble { garbage: ALWAYS, ..Trouble::default() }).len(), 2);
        let (mut past, mut random) = (Past::default(), Random::new(1));
        let mut again =
            |datagram| past.arriving(Trouble { replayed: ALWAYS, ..Trouble::default() }, &mut random, datagram);
        assert_eq!(again(&[1]), [[1]], "there is no old one yet");
        assert_eq!(again(&[2]), [[2], [1]]);
    }
}
