//! Statistics that a few devices can't move at will.

/// Bytes that are sorted at once: as much as stays in a processor's nearest cache through all passes of the network.
const BLOCK_BYTES: usize = 16 << 10;
/// Columns that are sorted at once at least, so that a pass is worth its beginning.
const BLOCK_COLUMNS_MIN: usize = 16;

/// Sorts columns: `rows` are one update's elements each, and afterwards the first row has the least of each column. Numbers are
/// finite.
pub(crate) fn sort_columns(rows: &mut [f32], width: usize) {
    let count = rows.len() / width.max(1);
    let columns =
        (BLOCK_BYTES / size_of::<f32>() / count.max(1)).max(BLOCK_COLUMNS_MIN) / BLOCK_COLUMNS_MIN * BLOCK_COLUMNS_MIN;
    let mut block = vec![0.0; count * columns];
    for first in (0..width).step_by(columns) {
        let columns = columns.min(width - first);
        let block = &mut block[..count * columns];
        for (row, sorted) in rows.chunks_exact(width).zip(block.chunks_exact_mut(columns)) {
            sorted.copy_from_slice(&row[first..][..columns]);
        }
        sort_block(block, columns);
        for (row, sorted) in rows.chunks_exact_mut(width).zip(block.chunks_exact(columns)) {
            row[first..][..columns].copy_from_slice(sorted);
        }
    }
}

/// Sorts columns that lie close together. The network is Batcher's odd-even merge sort (Knuth, TAOCP 3, 5.2.2, algorithm M), whose
/// comparisons don't depend on the numbers, so that compilers make vector instructions of them.
fn sort_block(rows: &mut [f32], width: usize) {
    let count = rows.len() / width.max(1);
    let mut p = count.next_power_of_two() / 2;
    let top = p;
    while p > 0 {
        let (mut q, mut r, mut d) = (top, 0, p);
        loop {
            for low in (0..count.saturating_sub(d)).filter(|low| low & p == r) {
                exchange(rows, width, low, low + d);
            }
            if q == p {
                break;
            }
            (d, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
}

fn exchange(rows: &mut [f32], width: usize, low: usize, high: usize) {
    let (left, right) = rows.split_at_mut(high * width);
    for (left, right) in left[low * width..][..width].iter_mut().zip(&mut right[..width]) {
        let (first, second) = (*left, *right);
        let is_out_of_order = second < first;
        *left = if is_out_of_order { second } else { first };
        *right = if is_out_of_order { first } else { second };
    }
}

/// The median of each sorted column.
pub(crate) fn median(rows: &[f32], width: usize, into: &mut [f64]) {
    let count = rows.len() / width;
    let (low, high) = ((count - 1) / 2, count / 2);
    for (column, into) in into.iter_mut().enumerate() {
        *into = f64::from(rows[low * width + column]).midpoint(f64::from(rows[high * width + column]));
    }
}

/// The mean of each sorted column without the first and last `trimmed`, added up from the least.
pub(crate) fn trimmed_mean(rows: &[f32], width: usize, trimmed: usize, into: &mut [f64]) {
    let count = rows.len() / width;
    into.fill(0.0);
    for row in trimmed..count - trimmed {
        for (into, value) in into.iter_mut().zip(&rows[row * width..][..width]) {
            *into += f64::from(*value);
        }
    }
    let kept = (count - 2 * trimmed) as f64;
    for value in into {
        *value /= kept;
    }
}

/// Adds what a tile adds to the squared distances of all pairs: `sums` has them by (1,0), (2,0), (2,1), (3,0) and so on.
pub(crate) fn add_distances(rows: &[f32], width: usize, sums: &mut [f64]) {
    let count = rows.len() / width.max(1);
    let mut at = 0;
    for upper in 1..count {
        for lower in 0..upper {
            sums[at] += distance(&rows[upper * width..][..width], &rows[lower * width..][..width]);
            at += 1;
        }
    }
}

/// Sums that run beside each other; their number is part of the result's definition.
const LANES: usize = 8;

fn distance(left: &[f32], right: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let square = |left: f32, right: f32| {
        let difference = f64::from(left) - f64::from(right);
        difference * difference
    };
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] += square(left[lane], right[lane]);
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| square(*left, *right)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The sum of squares.
pub(crate) fn norm_squared(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The `keep` of `count` updates with the least sum of squared distances to their nearest `count − byzantine − 2`, sorted by
/// index; of equals the one that comes first.
pub(crate) fn krum(distances: &[f64], count: usize, byzantine: usize, keep: usize) -> Vec<usize> {
    let between = |one: usize, other: usize| {
        let (upper, lower) = (one.max(other), one.min(other));
        distances[upper * (upper - 1) / 2 + lower]
    };
    let neighbours = count.saturating_sub(byzantine + 2);
    let mut scores: Vec<_> = (0..count)
        .map(|index| {
            let mut near: Vec<_> =
                (0..count).filter(|other| *other != index).map(|other| between(index, other)).collect();
            near.sort_by(f64::total_cmp);
            (near.iter().take(neighbours).sum::<f64>(), index)
        })
        .collect();
    scores.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
    let mut kept: Vec<_> = scores.into_iter().take(keep).map(|(_, index)| index).collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn columns_are_sorted(rows in (1_usize..70, prop_oneof![1_usize..9, 60_usize..300]).prop_flat_map(|(count, width)| {
            (prop::collection::vec(-1e6_f32..1e6, count * width), Just(width))
        })) {
            let (mut sorted, width) = rows;
            let before = sorted.clone();
            sort_columns(&mut sorted, width);
            for column in 0..width {
                let mut expected: Vec<_> = before.iter().skip(column).step_by(width).copied().collect();
                expected.sort_by(f32::total_cmp);
                let found: Vec<_> = sorted.iter().skip(column).step_by(width).copied().collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn krum_likes_the_crowd() {
        let rows = [1.0_f32, 1.1, 0.9, 50.0, 1.05];
        let mut distances = vec![0.0; 10];
        add_distances(&rows, 1, &mut distances);
        assert_eq!(krum(&distances, 5, 1, 1), [4]);
        assert_eq!(krum(&distances, 5, 1, 4), [0, 1, 2, 4]);
    }

    #[test]
    fn middles_and_trimmed_means() {
        let mut rows = [4.0_f32, 1.0, 100.0, 2.0, 3.0];
        sort_columns(&mut rows, 1);
        let mut into = [0.0];
        median(&rows, 1, &mut into);
        assert_eq!(into.map(f64::to_bits), [3.0_f64.to_bits()]);
        trimmed_mean(&rows, 1, 1, &mut into);
        assert_eq!(into.map(f64::to_bits), [3.0_f64.to_bits()]);
        median(&rows[..4], 1, &mut into);
        assert_eq!(into.map(f64::to_bits), [2.5_f64.to_bits()]);
    }
}
