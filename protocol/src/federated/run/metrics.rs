//! Metrics of devices, as one number each.

use std::collections::BTreeMap;

use super::super::Counted;

/// A metric over several devices.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Weighted {
    /// The mean, each device weighted by its samples.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Devices that measured it.
    pub devices: u64,
    /// Their samples.
    pub samples: u64,
}

/// The metrics of what counts, by name. Added up in the order of the members, which [`super::Run::poll_combine`] fixes, so that
/// the same members give the same bits.
pub fn weighted<'a>(members: impl IntoIterator<Item = &'a Counted>) -> BTreeMap<String, Weighted> {
    let mut sums: BTreeMap<String, Weighted> = BTreeMap::new();
    for member in members {
        for (name, value) in member.metrics.iter().filter(|(_, value)| value.is_finite()) {
            let sum = sums.entry(name.clone()).or_insert(Weighted {
                mean: 0.0,
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
                devices: 0,
                samples: 0,
            });
            sum.mean += value * member.samples as f64;
            sum.min = sum.min.min(*value);
            sum.max = sum.max.max(*value);
            sum.devices += 1;
            sum.samples += member.samples;
        }
    }
    for sum in sums.values_mut() {
        sum.mean /= sum.samples.max(1) as f64;
    }
    sums
}
