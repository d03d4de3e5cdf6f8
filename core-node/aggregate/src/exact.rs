//! Weighted sums that are exact on a fixed grid, so that neither their order nor their grouping shows in the result.
//!
//! Each product w·Δ of an integer weight below 2²⁹ and an `f32` is exact in `f64`. It is rounded once, half to even, to a multiple
//! of 2⁻⁶⁴, and added as an integer. For the mean over weights of sum W, the error against the exact rational mean is at most
//! 2⁻⁶⁵ (each of at most W products was off by at most half a grid step) and 2⁻⁵² of the mean's magnitude (the sum becomes an
//! `f64`, and is divided once).
//!
//! The fast path splits a product into a high part, a multiple of 2⁻²⁴, and a low part, by adding and subtracting 1.5·2⁵² (Dekker
//! 1971; the rounding is that of IEEE 754), which compilers turn into vector instructions without changing a bit. Products of 2²⁶
//! and more take a path in `i128`, with the same result.

/// Largest weight of an update, exclusive: the product with an `f32` has at most 53 bits.
pub const UPDATE_WEIGHT_MAX: u64 = 1 << 29;
/// Largest sum of weights.
pub const WEIGHT_SUM_MAX: u64 = 1 << 38;
/// Largest magnitude of an element of an update: with [`WEIGHT_SUM_MAX`] no sum can overflow.
pub const DELTA_MAX: f32 = 16_777_216.0;

/// Steps of the grid in one.
const GRID_BITS: u32 = 64;
/// Grid steps in a step of the high part.
const LOW_BITS: u32 = 40;
/// Adding this to a number below 2⁵¹ rounds it to a whole number, which then stands in the lower bits.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// High parts are below 2⁵⁰: so many of them fit an `i64`.
const ADDED_MAX: u64 = 4096;
const HIGH_MAX: f64 = (1_u64 << 50) as f64;

/// Sums of weighted elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactSums {
    high: Vec<i64>,
    low: Vec<i64>,
    added: u64,
    /// What no longer fits in the others, in grid steps; empty while there is none.
    wide: Vec<i128>,
}

impl ExactSums {
    /// Sums of `elements` elements, all zero.
    pub fn new(elements: usize) -> Self {
        let mut sums = Self::default();
        sums.reset(elements);
        sums
    }

    /// Makes all sums zero, and keeps their memory.
    pub fn reset(&mut self, elements: usize) {
        self.high.clear();
        self.high.resize(elements, 0);
        self.low.clear();
        self.low.resize(elements, 0);
        self.wide.clear();
        self.added = 0;
    }

    /// Adds `weight` times each of `deltas`, which are at most [`DELTA_MAX`] in magnitude, the weight below [`UPDATE_WEIGHT_MAX`].
    pub fn add(&mut self, deltas: &[f32], weight: u64) {
        debug_assert!(weight < UPDATE_WEIGHT_MAX, "a weight of {weight}");
        if self.added == ADDED_MAX {
            self.fold();
        }
        let scale = weight as f64 * (1_u64 << (GRID_BITS - LOW_BITS)) as f64;
        let largest =
            deltas.iter().fold(0.0_f32, |largest, delta| if delta.abs() > largest { delta.abs() } else { largest });
        if f64::from(largest) * scale < HIGH_MAX {
            self.add_fast(deltas, scale);
        } else {
            self.add_wide(deltas, weight);
        }
    }

    fn add_fast(&mut self, deltas: &[f32], scale: f64) {
        for ((delta, high), low) in deltas.iter().zip(&mut self.high).zip(&mut self.low) {
            let product = f64::from(*delta) * scale;
            let rounded = product + ROUNDER;
            let rest = (product - (rounded - ROUNDER)) * (1_u64 << LOW_BITS) as f64;
            *high = high.wrapping_add(rounded.to_bits().cast_signed());
            *low = low.wrapping_add((rest + ROUNDER).to_bits().cast_signed());
        }
        self.added += 1;
    }

    /// The same, number by number.
    fn add_wide(&mut self, deltas: &[f32], weight: u64) {
        self.widen();
        for (delta, wide) in deltas.iter().zip(&mut self.wide) {
            *wide += to_grid(f64::from(*delta) * weight as f64);
        }
    }

    fn widen(&mut self) {
        if self.wide.is_empty() {
            self.wide.resize(self.high.len(), 0);
        }
    }

    /// Moves what is in the narrow sums to the wide ones.
    fn fold(&mut self) {
        self.widen();
        for index in 0..self.high.len() {
            self.wide[index] = self.sum(index);
        }
        self.high.fill(0);
        self.low.fill(0);
        self.added = 0;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.widen();
        for (index, wide) in self.wide.iter_mut().enumerate() {
            *wide += other.sum(index);
        }
    }

    /// The sum of element `index`, in steps of 2⁻⁶⁴.
    pub fn sum(&self, index: usize) -> i128 {
        let bias = ROUNDER.to_bits().cast_signed().wrapping_mul(self.added.cast_signed());
        let high = i128::from(self.high[index].wrapping_sub(bias));
        let low = i128::from(self.low[index].wrapping_sub(bias));
        self.wide.get(index).copied().unwrap_or(0) + (high << LOW_BITS) + low
    }

    /// The sum of element `index`, divided by `weights`.
    pub fn mean(&self, index: usize, weights: u64) -> f64 {
        let steps = self.sum(index) as f64;
        // The power of two is exact: a sum is zero or at least one step.
        steps * (1.0 / 18_446_744_073_709_551_616.0) / weights as f64
    }
}

/// A finite number below 2⁶³ as grid steps, rounded half to even.
fn to_grid(value: f64) -> i128 {
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let (mantissa, exponent) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let shift = exponent + GRID_BITS as i32;
    let magnitude = match shift {
        0.. => i128::from(mantissa) << shift,
        -63..0 => {
            let (kept, lost) = (mantissa >> -shift, mantissa & ((1 << -shift) - 1));
            let half = 1_u64 << (-shift - 1);
            let up = lost > half || (lost == half && kept & 1 == 1);
            i128::from(kept + u64::from(up))
        }
        _ => 0,
    };
    if value.is_sign_negative() { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta() -> impl Strategy<Value = f32> {
        prop_oneof![
            -1.0_f32..1.0,
            -DELTA_MAX..DELTA_MAX,
            prop::num::f32::SUBNORMAL,
            prop::num::f32::NORMAL.prop_map(|value| value % DELTA_MAX),
            Just(0.0),
            Just(-0.0),
            Just(DELTA_MAX),
            Just(2.0_f32.powi(-65)),
            Just(3.0 * 2.0_f32.powi(-65)),
        ]
    }

    fn updates() -> impl Strategy<Value = Vec<(Vec<f32>, u64)>> {
        prop::collection::vec((prop::collection::vec(delta(), 5), 1..UPDATE_WEIGHT_MAX), 1..20)
    }

    proptest! {
        #[test]
        fn order_grouping_and_path_don_t_show(updates in updates(), split in any::<prop::sample::Index>()) {
            let mut all = ExactSums::new(5);
            let mut slow = ExactSums::new(5);
            for (deltas, weight) in &updates {
                all.add(deltas, *weight);
                slow.add_wide(deltas, *weight);
            }
            let (left, right) = updates.split_at(split.index(updates.len()));
            let (mut first, mut second) = (ExactSums::new(5), ExactSums::new(5));
            for (deltas, weight) in right.iter().rev() {
                first.add(deltas, *weight);
            }
            for (deltas, weight) in left.iter().rev() {
                second.add(deltas, *weight);
            }
            second.fold();
            first.merge(&second);
            for index in 0..5 {
                prop_assert_eq!(all.sum(index), slow.sum(index));
                prop_assert_eq!(all.sum(index), first.sum(index));
            }
        }

        /// Exact rationals on a grid of 2⁻²⁰⁰, in which every f32 of these and every product is a whole number; wide enough
        /// numbers are had from two halves of 128 bits by way of the difference to what was computed.
        #[test]
        fn the_mean_is_as_near_as_is_said(deltas in prop::collection::vec((-1000.0_f32..1000.0, 1_u64..1000), 1..30)) {
            let mut sums = ExactSums::new(1);
            let mut weights = 0;
            let mut exact: i128 = 0;
            for (delta, weight) in &deltas {
                // Multiples of 2⁻¹⁰⁰ below 2¹⁰ times 2¹⁵ fit 127 bits.
                let delta = (f64::from(*delta) * 2.0_f64.powi(40)).round() * 2.0_f64.powi(-40);
                let delta = delta as f32;
                sums.add(&[delta], *weight);
                weights += weight;
                exact += ((f64::from(delta) * 2.0_f64.powi(90)) as i128) * i128::from(*weight);
            }
            // exact / (2⁹⁰ · weights) against the mean: both times weights, on the grid of 2⁻⁹⁰.
            let mean = sums.mean(0, weights);
            let scaled = mean * weights as f64;
            let error = (scaled * 2.0_f64.powi(90)) as i128 - exact;
            let bound = 2.0_f64.powi(-65) * weights as f64 + scaled.abs() * 2.0_f64.powi(-51);
            prop_assert!((error as f64) <= bound * 2.0_f64.powi(90) && (error as f64) >= -bound * 2.0_f64.powi(90));
        }
    }

    #[test]
    fn thousands_of_the_largest_don_t_overflow() {
        let mut sums = ExactSums::new(2);
        let weight = UPDATE_WEIGHT_MAX - 1;
        for _ in 0..WEIGHT_SUM_MAX / UPDATE_WEIGHT_MAX {
            sums.add(&[DELTA_MAX, -DELTA_MAX], weight);
        }
        let mean = sums.mean(0, weight * (WEIGHT_SUM_MAX / UPDATE_WEIGHT_MAX));
        assert_eq!(mean.to_bits(), f64::from(DELTA_MAX).to_bits());
        let mut sums = ExactSums::new(1);
        for _ in 0..3 * ADDED_MAX {
            sums.add(&[0.999], 1);
        }
        assert_eq!(sums.mean(0, 3 * ADDED_MAX).to_bits(), f64::from(0.999_f32).to_bits());
    }
}
