//! A permutation of the numbers below `n` that needs no memory in `n`: each number is moved by a formula.
//!
//! It is the generalised Feistel cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002, section 5):
//! numbers below `a · b`, with `a` and `b` near the square root of `n`, are taken apart into two digits that are added to one
//! another in turns; what comes out above `n` goes through once more. As `a · b - n` is below `2 √n`, that is rare.
//!
//! Its round function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
//! OOPSLA 2014, with the constants of Stafford's variant 13). The order need not be hard to guess, only evenly mixed.

/// Rounds of the cipher. Six mix as evenly as can be told from chance; the rest is for small domains.
const ROUNDS: usize = 8;
/// Bytes of a key.
pub(super) const KEY_BYTES: usize = ROUNDS * 8;

/// What chooses one permutation among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key([u64; ROUNDS]);

impl Key {
    /// Takes bytes that look random.
    pub(super) fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut rounds = [0; ROUNDS];
        for (round, word) in rounds.iter_mut().zip(words) {
            *round = u64::from_le_bytes(*word);
        }
        Self(rounds)
    }

    /// The key of part number `part` of what this key orders.
    pub(super) fn part(&self, part: u64) -> Self {
        let tweak = mixed(part.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Self(self.0.map(|round| mixed(round ^ tweak)))
    }

    /// An evenly spread number below `bound` for each `index`.
    pub(super) fn number_below(&self, index: u64, bound: u64) -> u64 {
        below(mixed(mixed(index ^ self.0[0]).wrapping_add(self.0[1])), bound)
    }
}

/// A permutation of the numbers below a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permutation {
    len: u64,
    /// Numbers of values of the two digits: their product is at least `len`.
    high: u64,
    low: u64,
    key: Key,
}

impl Permutation {
    /// A permutation of the numbers below `len`.
    pub(super) fn new(len: u64, key: Key) -> Self {
        let root = len.isqrt();
        let low = if root * root == len { root } else { root + 1 }.max(1);
        Self { len, high: len.div_ceil(low).max(1), low, key }
    }

    /// Where number `index` goes; `index` is below the bound.
    pub(super) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.len, "an index below the bound");
        let mut at = self.encipher(index);
        while at >= self.len {
            at = self.encipher(at);
        }
        at
    }

    /// Which number goes to `at`; `at` is below the bound.
    pub(super) fn invert(&self, at: u64) -> u64 {
        debug_assert!(at < self.len, "a place below the bound");
        let mut index = self.decipher(at);
        while index >= self.len {
            index = self.decipher(index);
        }
        index
    }

    /// One pass. With an even number of rounds the digits end where they began.
    fn encipher(&self, value: u64) -> u64 {
        let (mut high, mut low) = (value / self.low, value % self.low);
        for pair in self.key.0.as_chunks::<2>().0 {
            high = added(high, below(mixed(low ^ pair[0]), self.high), self.high);
            low = added(low, below(mixed(high ^ pair[1]), self.low), self.low);
        }
        high * self.low + low
    }

    fn decipher(&self, value: u64) -> u64 {
        let (mut high, mut low) = (value / self.low, value % self.low);
        for pair in self.key.0.as_chunks::<2>().0.iter().rev() {
            low = subtracted(low, below(mixed(high ^ pair[1]), self.low), self.low);
            high = subtracted(high, below(mixed(low ^ pair[0]), self.high), self.high);
        }
        high * self.low + low
    }
}

const fn added(a: u64, b: u64, modulus: u64) -> u64 {
    let sum = a + b;
    if sum >= modulus { sum - modulus } else { sum }
}

const fn subtracted(a: u64, b: u64, modulus: u64) -> u64 {
    if a >= b { a - b } else { a + modulus - b }
}

/// Spreads 64 evenly mixed bits over the numbers below `bound`, by the multiplication of Lemire, "Fast Random Integer Generation
/// in an Interval" (2019).
fn below(bits: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(bits) * u128::from(bound)) >> 64).expect("the upper half of 128 bits")
}

const fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
